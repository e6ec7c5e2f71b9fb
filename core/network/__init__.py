"""Mask R-CNN: losses in training, raw detections in evaluation.

`build_detector` makes a `Detector` from settings, and `restore_detector` makes one from a saved
state. Training and prediction know only the interface in `detector.py`. Modules receive finished
parts: `detectors.py` is the only place where settings meet layers. torchvision gives leaf layers,
public operators and the names of parameters.

anchors.py       boxes from which proposals start, computed once for each image size
balanced.py      the anchors and proposals that a batch learns
box_coding.py    boxes as offsets from other boxes
build.py         a detector built from settings and pretrained weights, or restored
detector.py      the interface between a detector and training, prediction and a trained model
detectors.py     the detectors of the table, made of layers as settings say
download.py      large files from the web, whole and with their checksum
frozen_norm.py   batch norm with frozen statistics, in one operation
mask_loss.py     the mask branch's loss and gradient, some proposals at a time
mask_rcnn.py     Mask R-CNN from finished parts
matching.py      the instance that each anchor and each proposal learns
pooling.py       features of boxes, pooled from the pyramid
proposals.py     the region proposal network
pyramid.py       a backbone's stages and the feature pyramid over them
resizing.py      images and targets at the size that the network sees
roi_heads.py     classes, boxes and masks of proposals
suppression.py   non-maximum suppression in tensor operations alone
truths.py        the instances that a batch of images teaches
weights.py       sources of pretrained weights
"""
