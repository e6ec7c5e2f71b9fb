"""Training images and their label maps, changed together.

The table of augmentations is `core/augmentations.py`; each file of one imports albumentations only
when an image is to be changed, because the settings are made of these files.

affine.py           shift, scale and rotate
blur_or_noise.py    Gaussian blur or Gaussian noise
color_jitter.py     brightness, contrast, hue, saturation and value
elastic.py          smooth displacement of every pixel
horizontal_flip.py  left and right exchanged
library.py          albumentations, its transforms as changes
pipeline.py         the augmentations that are on, random crops, and shrinking to the network's size
"""
