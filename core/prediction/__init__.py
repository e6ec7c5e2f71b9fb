"""From a trained network to detections, models as folders, submissions and pictures.

advice.py          notes on settings that do not suit a data set: caps, groups
batch.py           the predictions of many images, written as each is done
cells.py           detections as cells: each pixel has one owner
choice.py          settings of prediction, tried on a trained model
detect.py          the detections in an image, merged from those in its views
learned.py         whether to believe a model, and from which score on, as metrics.json says
merge.py           the detections of several looks at a tile, as one list
outputs.py         the files of a prediction: label images, table, polygons, pictures, COCO results
overlay.py         pictures of instances
submission.py      COCO results, checked, and the zip of a submission
symmetries.py      the eight symmetries of a square
tiles.py           overlapping tiles, and instances that several of them show
trained_model.py   a trained model as a folder
views.py           the networks' detections in each view, in batches, while helpers paste masks
"""
