"""Mask R-CNN: backbones, pyramid, proposals and heads, its losses in training and raw detections
in evaluation.

`build_detector` makes a `Detector` of settings, `restore_detector` one of what was saved; training
and prediction know no more of it than `detector.py` says. Modules receive finished parts:
`detectors.py` is the only place where settings meet layers. torchvision gives leaf layers, public
operators and the names of parameters.

    anchors.py      where proposals start from, once for each size
    balanced.py     which anchors and proposals a batch learns
    box_coding.py   boxes as offsets from other boxes
    build.py        a detector begun from weights and frozen, or restored
    detector.py     what training, prediction and a trained model need of a detector
    detectors.py    the detectors of the table: settings meet layers
    frozen_norm.py  batch norm with frozen statistics, one operation
    mask_loss.py    the mask branch's loss and gradient, some proposals at a time
    mask_rcnn.py    Mask R-CNN from finished parts
    matching.py     which instance each anchor and each proposal learns, in little memory
    pooling.py      features of boxes from the pyramid
    proposals.py    the region proposal network
    pyramid.py      a backbone's stages and the feature pyramid over them
    resizing.py     images and targets at the size that the network sees
    roi_heads.py    classes, boxes and masks of proposals
    weights.py      where pretrained weights come from
"""
