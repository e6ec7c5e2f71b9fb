"""Mask R-CNN: backbones, pyramid, proposals and heads, its losses in training and raw detections in evaluation.

`build.py` is the only place where settings meet layers; `weights.py` finds and names pretrained files.

    anchors.py      where proposals start from, once for each size
    balanced.py     which anchors and proposals a batch learns
    box_coding.py   boxes as offsets from other boxes
    frozen_norm.py  batch norm with frozen statistics, one operation
    mask_loss.py    the mask branch's loss and gradient, some proposals at a time
    mask_rcnn.py    Mask R-CNN over five backbones, frozen to a depth
    matching.py     which instance each anchor learns, in little memory
    pooling.py      features of boxes from the pyramid
    proposals.py    the region proposal network
    resizing.py     images and boxes at the size that the network sees
    weights.py      where pretrained weights come from
"""
