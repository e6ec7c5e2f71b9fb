"""The detections of a model in an image of any size.

Mirrored views and overlapping tiles are predicted by themselves, then merged once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from core.config import MOST_DETECTIONS, PredictConfig
from core.labels import label_maps as masks
from core.network.detector import Detector
from core.prediction.tiles import Window, merge_tiles, tiles
from core.sample import Detections, MaskCrop
from core.text import many


@dataclass(frozen=True)
class View:
    """The network's detections in one tile, in pixels of the tile, empty masks included.

    window     the tile's place in the image
    direct     the detections in the tile as it is
    mirrored   the detections in the mirrored tile, mirrored back; None without `flips`
    """

    window: Window
    direct: Detections
    mirrored: Detections | None


def predict(
    model: Detector, image: NDArray[np.uint8], config: PredictConfig, tile: int = 0
) -> Detections:
    """The detections of a model, which is in evaluation mode, in an image.

    image    uint8 [H, W, 3], RGB
    config   the settings with which the model predicts
    tile     side of the tiles in pixels where `config.tile` is 0, such as `data.crop`; 0 for the
             whole image

    An image no larger than a tile is one tile. Each tile keeps its best `config.max_detections`
    detections, and `full_tiles` of the result counts the tiles that reached this cap. Only crops of
    masks are kept, and one tile at a time is on the device.
    """
    return combine(look(model, image, config, tile), config, *image.shape[:2])


def look(
    model: Detector, image: NDArray[np.uint8], config: PredictConfig, tile: int = 0
) -> list[View]:
    """The first half of `predict`: the network's detections in each tile of an image.

    With `config.flips` each tile is also looked at mirrored.
    """
    own = model.predict
    assert (own.score_threshold, own.nms_iou, own.max_detections) == (
        config.score_threshold,
        config.nms_iou,
        config.max_detections,
    ), "the model was built with other settings of predict"
    height, width = image.shape[:2]
    views = []
    for window in tiles(height, width, config.tile or tile):
        pixels = image[window.y0 : window.y1, window.x0 : window.x1]
        mirrored = (
            _mirror(_detect(model, pixels[:, ::-1]), pixels.shape[1]) if config.flips else None
        )
        views.append(View(window, _detect(model, pixels), mirrored))
    return views


def combine(views: Sequence[View], config: PredictConfig, height: int, width: int) -> Detections:
    """The second half of `predict`: the detections in an image, from those in its tiles.

    height, width   of the image in pixels

    `config` may be stricter than the one that `look` had: a higher `score_threshold`, a lower
    `max_detections`, no `flips`. The network need not run again: suppression goes from the best
    score down, so a detection that is dropped here had not suppressed any other.
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


def _detect(model: Detector, view: NDArray[np.uint8]) -> Detections:
    """All detections in an image, uint8 [H, W, 3]."""
    pixels = torch.from_numpy(np.array(view.transpose(2, 0, 1), order="C"))
    device = next(model.parameters()).device
    raw = model.detect([pixels.to(device).float() / 255])[0]
    return Detections(
        boxes_N4=raw.boxes_N4.cpu().numpy(),
        labels_N=raw.labels_N.cpu().numpy(),
        scores_N=raw.scores_N.cpu().numpy(),
        masks=tuple(masks.paste(raw.mask_probs_N28, raw.boxes_N4, *view.shape[:2])),
    )


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


def _mirror(detections: Detections, width: int) -> Detections:
    """The detections in a mirrored image, in pixels of the image before it was mirrored.

    width   of the image in pixels
    """
    boxes_N4 = detections.boxes_N4[:, [2, 1, 0, 3]].copy()
    boxes_N4[:, [0, 2]] = width - boxes_N4[:, [0, 2]]
    crops = tuple(
        MaskCrop(crop.y0, width - crop.x0 - crop.pixels.shape[1], crop.pixels[:, ::-1])
        for crop in detections.masks
    )
    return Detections(boxes_N4, detections.labels_N, detections.scores_N, crops)
