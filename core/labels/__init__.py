"""Instances as label maps, crops, training targets and run lengths, and the ways between them.

The whole package knows arrays only: no network, no file, no setting.

    label_maps.py  label maps to boxes, crops and training targets; pasting predictions
    rle.py         COCO's run-length encoding, from a mask in its box
"""
