"""COCO AP50 of masks, the match tables of all statistics, class limits, COCO's twelve numbers.

ap50.py          COCO AP50 and the per-image match table
coco_summary.py  COCO's twelve numbers, after a trial's last epoch
reweighted.py    AP50 of another sample of the images, and how far each image pulls it
limits.py        what limited each class: kinds of its instances and of its detections
"""
