"""Instances as label maps, crops and run lengths: read off, resized, made into targets, pasted,
encoded.

The whole package knows arrays only: no network, no file, no setting.

    label_maps.py  label maps to boxes, crops and training targets; pasting predictions
    rle.py         COCO's run-length encoding, from a mask in its box
"""
