"""Instances as label maps, crops, training targets, run lengths and outlines, and the ways between.

The whole package knows arrays only: no network, no file, no setting.

    label_maps.py  label maps to boxes, crops and training targets; pasting predictions
    outlines.py    masks to polygons along the edges of their pixels
    rle.py         COCO's run-length encoding, from a mask in its box
"""
