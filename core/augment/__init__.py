"""Training images and their label maps, changed together.

The table of augmentations is `core/augmentations.py`. Settings are made of the files that define
augmentations, so these import the code that changes images only when an image is to be changed.

affine.py           shift, scale and rotate
blur_or_noise.py    Gaussian blur or Gaussian noise
changes.py          changes of our own: turns, scale on a canvas of the same size, stains
color_jitter.py     brightness, contrast, hue, saturation and value
copy_paste.py       instances of other training images pasted, rarer classes more often
elastic.py          smooth displacement of every pixel
horizontal_flip.py  left and right exchanged
library.py          albumentations, its transforms as changes
pasting.py          instances drawn from training images, and pasted with their pixels
pipeline.py         the augmentations that are on, random crops, and shrinking to the network's size
quarter_turns.py    turns by 90, 180 and 270 degrees
scale_jitter.py     a random window enlarged, or the image shrunk on a canvas of its size
stain_jitter.py     more or less of haematoxylin, eosin and DAB
vertical_flip.py    top and bottom exchanged
"""
