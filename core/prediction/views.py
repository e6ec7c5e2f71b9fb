"""The network's detections in each tile of many images: batches on the device, masks in helpers.

While the network looks at the next batch, helper threads paste the masks of the last one, and do
what the caller wants done with each image.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from core.config import PredictConfig
from core.device import is_out_of_memory
from core.helpers import Helpers
from core.labels import label_maps as masks
from core.network.detector import Detector, RawDetections
from core.prediction.tiles import Window, tiles
from core.sample import Detections, MaskCrop, Sample

AT_ONCE = {"cuda": 4}
"""Largest number of tiles of one size that the network sees at once, by type of device; one on
others."""
MOST_HELPERS = 4
"""Largest number of helper threads. They hold Python's lock for half of their time, and the thread
that asks the device waits for it."""
PIXELS_AT_ONCE = 4 * 800 * 1344
"""Largest number of pixels of these tiles together, at the size that the network sees, unless one
tile alone has more."""

Item = TypeVar("Item")
Result = TypeVar("Result")


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


@dataclass(frozen=True)
class _Look:
    """One thing for the network to look at: a tile of an image, or a mirrored tile.

    item       the caller's name for the image
    of         number of looks at this image
    window     the tile's place in the image
    mirrored   whether the tile is mirrored
    pixels     uint8 [H, W, 3]
    """

    item: Any
    of: int
    window: Window
    mirrored: bool
    pixels: NDArray[np.uint8]


def most_at_once(model: Detector) -> int:
    """The device's AT_ONCE."""
    return AT_ONCE.get(next(model.parameters()).device.type, 1)


def look_at_each(
    model: Detector,
    images: Iterable[tuple[Item, NDArray[np.uint8]]],
    config: PredictConfig,
    then: Callable[[Item, list[View]], Result],
    *,
    tile: int = 0,
    helpers: int = 0,
    at_once: int | None = None,
) -> Iterator[Result]:
    """The result of `then` for each image, in the order of the images.

    model     in evaluation mode
    images    each image, uint8 [H, W, 3] RGB, after what `then` is to know of it; they are taken
              one by one, as the network comes to them
    config    the settings with which the model predicts; with `flips` each tile is also looked at
              mirrored
    then      is called in a helper thread with the views of an image, a view for each tile
    tile      side of the tiles in pixels where `config.tile` is 0, such as `data.crop`; 0 for the
              whole image
    helpers   number of helper threads, of which MOST_HELPERS are used at most; results do not
              depend on it
    at_once   largest number of tiles of one size that the network sees at once; None for the
              device's AT_ONCE. Results depend on it by rounding

    Tiles that do not fit the GPU's memory at once are looked at in smaller batches, and the model
    remembers how large these may be. An exception of `then` is raised in the place of its result.
    """
    own = model.predict
    assert (own.score_threshold, own.nms_iou, own.max_detections) == (
        config.score_threshold,
        config.nms_iou,
        config.max_detections,
    ), "the model was built with other settings of predict"
    at_once = at_once or most_at_once(model)
    looks = _looks(images, config.tile or tile, config.flips)
    with Helpers(min(helpers, MOST_HELPERS)) as beside:
        pasted = beside.in_order(_pastings(model, _batches(looks, model, at_once)))
        yield from beside.in_order(_ends(pasted, then))


def look_at_samples(
    model: Detector,
    samples: Sequence[Sample],
    config: PredictConfig,
    then: Callable[[Sample, list[View]], Result],
    *,
    tile: int = 0,
    helpers: int = 0,
    progress: Callable[[int], object] = int,
) -> list[Result]:
    """The result of `then` for each sample, in the order of the samples; see `look_at_each`.

    The network sees samples of one size one after the other, so that they are batches.

    progress   called with the number of samples that are done
    """
    order = sorted(range(len(samples)), key=lambda one: model.seen_size(*samples[one].size))
    results: dict[int, Result] = {}
    found = look_at_each(
        model,
        ((samples[one], samples[one].image) for one in order),
        config,
        then,
        tile=tile,
        helpers=helpers,
    )
    for index, result in zip(order, found, strict=True):
        results[index] = result
        progress(len(results))
    return [results[index] for index in range(len(samples))]


def _looks(
    images: Iterable[tuple[Item, NDArray[np.uint8]]], tile: int, flips: bool
) -> Iterator[_Look]:
    for item, image in images:
        height, width = image.shape[:2]
        windows = tiles(height, width, tile)
        of = len(windows) * (2 if flips else 1)
        for window in windows:
            pixels = image[window.y0 : window.y1, window.x0 : window.x1]
            yield _Look(item, of, window, False, pixels)
            if flips:
                yield _Look(item, of, window, True, pixels[:, ::-1])


def _batches(looks: Iterable[_Look], model: Detector, at_once: int) -> Iterator[list[_Look]]:
    """Runs of looks that the network sees at one size."""
    for size, run in itertools.groupby(looks, lambda one: model.seen_size(*one.pixels.shape[:2])):
        while batch := list(itertools.islice(run, min(at_once, _most(model, size)))):
            yield batch


def _most(model: Detector, size: tuple[int, int]) -> int:
    """Largest number of pictures of this size, in pixels as the network sees them, at once."""
    return max(1, min(PIXELS_AT_ONCE, model.room) // (size[0] * size[1]))


def _pastings(
    model: Detector, batches: Iterable[list[_Look]]
) -> Iterator[Callable[[], tuple[_Look, Detections]]]:
    """A task for each look; the network looks when the task is taken."""
    for batch in batches:
        raw = _detected(model, [look.pixels for look in batch])
        for look, found in zip(batch, raw, strict=True):
            yield functools.partial(_pasted, look, found)


def _ends(
    pasted: Iterable[tuple[_Look, Detections]], then: Callable[[Any, list[View]], Result]
) -> Iterator[Callable[[], Result]]:
    """A task for each image, when all its looks are there."""
    views: list[View] = []
    looks = 0
    for look, found in pasted:
        looks += 1
        if look.mirrored:
            views[-1] = View(look.window, views[-1].direct, found)
        else:
            views.append(View(look.window, found, None))
        if looks == look.of:
            yield functools.partial(then, look.item, views)
            views, looks = [], 0


def _detected(model: Detector, pictures: Sequence[NDArray[np.uint8]]) -> list[RawDetections]:
    """The detections in pictures of one size, uint8 [H, W, 3] each, in the machine's memory.

    Where they do not fit the GPU's memory together, half as many are looked at, from now on.
    """
    device = next(model.parameters()).device
    size = model.seen_size(*pictures[0].shape[:2])
    tensors = [
        torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C")) for picture in pictures
    ]
    found: list[RawDetections] = []
    while left := tensors[len(found) :]:
        some = left[: _most(model, size)]
        try:
            found += _to_cpu(model.detect([tensor.to(device).float() / 255 for tensor in some]))
        except RuntimeError as error:
            if len(some) == 1 or not is_out_of_memory(error):
                raise
            model.room = len(some) // 2 * size[0] * size[1]
    return found


def _to_cpu(found: Sequence[RawDetections]) -> list[RawDetections]:
    """The same detections in the machine's memory: one copy, and so one wait for the device."""
    columns = [
        torch.cat(
            [
                one.boxes_N4,
                one.scores_N[:, None],
                one.labels_N[:, None].float(),  # exact: class numbers are small
                one.mask_probs_NMM.flatten(1),
            ],
            dim=1,
        )
        for one in found
    ]
    split = torch.split(torch.cat(columns).cpu(), [len(one.scores_N) for one in found])
    return [
        RawDetections(
            boxes_N4=together[:, :4].clone(),
            labels_N=together[:, 5].long(),
            scores_N=together[:, 4].clone(),
            mask_probs_NMM=together[:, 6:].reshape(one.mask_probs_NMM.shape),
        )
        for one, together in zip(found, split, strict=True)
    ]


def _pasted(look: _Look, raw: RawDetections) -> tuple[_Look, Detections]:
    """The detections of a look, in pixels of its tile."""
    height, width = look.pixels.shape[:2]
    found = Detections(
        boxes_N4=raw.boxes_N4.numpy(),
        labels_N=raw.labels_N.numpy(),
        scores_N=raw.scores_N.numpy(),
        masks=tuple(masks.paste(raw.mask_probs_NMM, raw.boxes_N4, height, width)),
    )
    return look, _mirror(found, width) if look.mirrored else found


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
