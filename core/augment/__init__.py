"""Training images and their label maps, changed together.

pipeline.py  the augmentations, random crops, and shrinking to the network's size
"""
