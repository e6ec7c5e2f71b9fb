"""Training images and their label maps, changed together.

pipeline.py  images and label maps changed together
"""
