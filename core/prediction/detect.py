"""The detections of a model in an image of any size, merged from those in its tiles.

Mirrored views and overlapping tiles are predicted by themselves (`core.prediction.views`), then
merged once.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from core.config import MOST_DETECTIONS, PredictConfig
from core.network.detector import Detector
from core.prediction.tiles import merge_tiles
from core.prediction.views import View, look_at_each
from core.sample import Detections, MaskCrop
from core.text import many


def predict(
    model: Detector,
    image: NDArray[np.uint8],
    config: PredictConfig,
    tile: int = 0,
    helpers: int = 0,
) -> Detections:
    """The detections of a model, which is in evaluation mode, in an image.

    image     uint8 [H, W, 3], RGB
    config    the settings with which the model predicts
    tile      side of the tiles in pixels where `config.tile` is 0, such as `data.crop`; 0 for the
              whole image
    helpers   number of threads that paste masks while the network looks at the next tiles

    An image no larger than a tile is one tile. Each tile keeps its best `config.max_detections`
    detections, and `full_tiles` of the result counts the tiles that reached this cap. Only crops of
    masks are kept.
    """
    height, width = image.shape[:2]

    def end(_: None, views: Sequence[View]) -> Detections:
        return combine(views, config, height, width)

    (found,) = look_at_each(model, [(None, image)], config, end, tile=tile, helpers=helpers)
    return found


def combine(views: Sequence[View], config: PredictConfig, height: int, width: int) -> Detections:
    """The detections in an image, from those in its tiles.

    height, width   of the image in pixels

    `config` may be stricter than the one with which the network looked: a higher
    `score_threshold`, a lower `max_detections`, no `flips`. The network need not run again:
    suppression goes from the best score down, so a detection that is dropped here had not
    suppressed any other.
    """
    found = [_in_window(view, config) for view in views]
    if len(views) == 1:
        return found[0]
    merged = merge_tiles([view.window for view in views], found, height, width)
    return replace(
        suppress(merged, config.nms_iou), full_tiles=sum(one.full_tiles for one in found)
    )


def suppress(detections: Detections, iou: float, most: int | None = None) -> Detections:
    """Non-maximum suppression of boxes, each class by itself.

    most   number of detections that are kept after it, the best ones; None for all
    """
    boxes_N4, scores_N = (
        torch.from_numpy(detections.boxes_N4),
        torch.from_numpy(detections.scores_N),
    )
    kept = [np.empty(0, np.int64)]
    for label in np.unique(detections.labels_N):
        (members,) = np.nonzero(detections.labels_N == label)
        chosen = torch.from_numpy(members)
        kept.append(members[nms(boxes_N4[chosen], scores_N[chosen], iou).numpy()])
    return _take(detections, np.sort(np.concatenate(kept))[:most])


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


def _in_window(view: View, config: PredictConfig) -> Detections:
    """The detections in a tile, in pixels of the image."""
    found = _allowed(view.direct, config)
    is_full = found.full_tiles
    if config.flips:
        assert view.mirrored is not None, "nobody looked at the mirrored image"
        mirrored = _allowed(view.mirrored, config)
        found = suppress(_join(found, mirrored), config.nms_iou, config.max_detections)
        is_full = max(is_full, mirrored.full_tiles, int(len(found) == config.max_detections))
    window = view.window
    corner = np.array([window.x0, window.y0] * 2, np.float32)
    crops = tuple(
        MaskCrop(crop.y0 + window.y0, crop.x0 + window.x0, crop.pixels) for crop in found.masks
    )
    return Detections(found.boxes_N4 + corner, found.labels_N, found.scores_N, crops, is_full)


def _allowed(found: Detections, config: PredictConfig) -> Detections:
    """The detections that the settings allow and whose mask is not empty."""
    (indices,) = np.nonzero(found.scores_N > config.score_threshold)
    indices = indices[: config.max_detections]
    allowed = _take(found, indices[[found.masks[index].area > 0 for index in indices]])
    return replace(allowed, full_tiles=int(len(indices) == config.max_detections))


def _take(detections: Detections, indices: NDArray[np.int64]) -> Detections:
    return Detections(
        detections.boxes_N4[indices],
        detections.labels_N[indices],
        detections.scores_N[indices],
        tuple(detections.masks[index] for index in indices),
    )


def _join(one: Detections, other: Detections) -> Detections:
    """The detections of both, best score first."""
    scores_N = np.concatenate([one.scores_N, other.scores_N])
    joined = Detections(
        np.concatenate([one.boxes_N4, other.boxes_N4]),
        np.concatenate([one.labels_N, other.labels_N]),
        scores_N,
        one.masks + other.masks,
    )
    return _take(joined, np.argsort(-scores_N, kind="stable"))
