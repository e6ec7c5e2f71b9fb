"""The detections of a model in an image of any size, merged from those in its views.

Tiles, symmetries and scales are predicted by themselves (`core.prediction.views`), then merged: the
looks at each tile (`core.prediction.merge`), and then the tiles (`core.prediction.tiles`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from core.config import MOST_DETECTIONS, PredictConfig
from core.metric.ap50 import ranks
from core.network.detector import Detector
from core.prediction.merge import merge_looks, suppress_overlapping, take
from core.prediction.tiles import Window, merge_tiles
from core.prediction.views import Seen, look_at_each, tiles_of, views_of
from core.sample import Detections, MaskCrop
from core.text import many


def predict(
    models: Sequence[Detector],
    image: NDArray[np.uint8],
    config: PredictConfig,
    tile: int = 0,
    helpers: int = 0,
) -> Detections:
    """The detections of models that predict together, in evaluation mode, in an image.

    image     uint8 [H, W, 3], RGB
    config    the settings with which the models predict
    tile      side of the tiles in pixels where `config.tile` is 0, such as `data.crop`; 0 for the
              whole image
    helpers   number of threads that paste masks while the network looks at the next tiles

    An image no larger than a tile is one tile. Each tile keeps its best `config.max_detections`
    detections, and `full_tiles` of the result counts the tiles that reached this cap. Only crops of
    masks are kept.
    """

    def end(_: None, seen: Seen) -> Detections:
        return combine(seen, config)

    (found,) = look_at_each(models, [(None, image)], [config], end, tile=tile, helpers=helpers)
    return found


def combine(seen: Seen, config: PredictConfig) -> Detections:
    """The detections in an image, from all that was seen of it.

    `config` may be stricter than the settings with which the network looked: a higher
    `score_threshold`, a lower `max_detections`, fewer views. The network need not run again:
    suppression goes from the best score down, so a detection that is dropped here had suppressed
    none that stays. Only `config.class_caps` limits the number of detections of an image with
    several tiles.
    """
    return _capped_by_class(_whole(seen, config), config)


def _whole(seen: Seen, config: PredictConfig) -> Detections:
    """The detections in an image before the caps of its classes."""
    windows = tiles_of(config, seen.size, seen.tile)
    found = [_in_window(seen, window, config) for window in windows]
    if len(windows) == 1:
        return found[0]
    merged = merge_tiles(windows, found, *seen.size)
    if config.merge != "soft_nms":  # soft suppression lets boxes overlap
        merged = suppress_overlapping(merged, config.nms_iou)
    return replace(merged, full_tiles=sum(one.full_tiles for one in found))


def about_full_tiles(found: Sequence[int], most: int, setting: str) -> str | None:
    """A sentence on the images in which the cap was reached, with the way out; None if in none.

    found     `Detections.full_tiles` of each image
    most      `predict.max_detections`
    setting   name of the setting that raises the cap, as the user would write it:
              `--max-detections`
    """
    images = sum(tiles > 0 for tiles in found)
    if not images:
        return None
    where = f"In {images:,} of {many(len(found), 'image')}"
    if sum(found) > images:
        where += f", {many(sum(found), 'tile')} of them,"
    way_out = (
        f"raise {setting}" if most < MOST_DETECTIONS else "make the tiles smaller (predict.tile)"
    )
    return (
        f"{where} as many instances were found as predict.max_detections keeps of a tile"
        f" ({most:,}), so more may be there; to keep them {way_out}"
    )


def _capped_by_class(found: Detections, config: PredictConfig) -> Detections:
    """The best detections of each class, as many as `config.class_caps` allows."""
    labels, numbers_N = np.unique(found.labels_N, return_inverse=True)
    caps = np.array([config.cap_of(label) or len(found) for label in labels.tolist()], np.int64)
    kept_N = ranks(found.labels_N) < caps[numbers_N]
    if kept_N.all():
        return found
    return replace(take(found, np.flatnonzero(kept_N)), full_tiles=found.full_tiles)


def _in_window(seen: Seen, window: Window, config: PredictConfig) -> Detections:
    """The detections in a tile, in pixels of the image."""
    views = views_of(config, window, seen.members)
    looks = [_allowed(seen.found[view], config) for view in views]
    # A single look is merged already: the network has suppressed its boxes.
    is_merged = len(looks) == 1 and config.merge != "soft_nms"
    found = looks[0] if is_merged else merge_looks(looks, config)
    corner = np.array([window.x0, window.y0] * 2, np.float32)
    crops = tuple(
        MaskCrop(crop.y0 + window.y0, crop.x0 + window.x0, crop.pixels) for crop in found.masks
    )
    return replace(found, boxes_N4=found.boxes_N4 + corner, masks=crops)


def _allowed(found: Detections, config: PredictConfig) -> Detections:
    """The detections that the settings allow and whose mask is not empty."""
    (indices,) = np.nonzero(found.scores_N > config.score_threshold)
    indices = indices[: config.max_detections]
    allowed = take(found, indices[[found.masks[index].area > 0 for index in indices]])
    return replace(allowed, full_tiles=int(len(indices) == config.max_detections))
