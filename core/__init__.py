"""One trial: images in, Mask R-CNN trained, AP50 out. Knows nothing of searches."""
