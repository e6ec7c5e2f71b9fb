"""From a trained network to detections: views and tiles merged, a model as a folder, submissions, pictures.

advice.py         what a data set asks of the settings: caps, groups
choice.py         settings of prediction, tried on a trained model
detect.py         detections of an image, flips and tiles merged
overlay.py        pictures of instances
submission.py     COCO results, checked, and the zip that is handed in
tiles.py          overlapping tiles, and instances that several of them show
trained_model.py  a trained model as a folder
"""
