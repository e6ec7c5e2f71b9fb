"""The detections of networks in each view of many images: batches on the device, masks in helpers.

A view is a tile, seen through a symmetry, at a scale, by one of the networks that predict together.
While the network looks at the next batch, helper threads paste the masks of the last one, and call
the caller's function for each image.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from core.prediction.symmetries import UNCHANGED, Symmetry, symmetries
from core.prediction.tiles import Window, tiles
from core.sample import Detections, Sample

AT_ONCE = {"cuda": 4}
"""Largest number of tiles of one size that the network sees at once, by type of device; one on
others."""
MOST_HELPERS = 4
"""Largest number of helper threads. They hold Python's global lock for half of their time, and the
thread that drives the network waits for it."""
PIXELS_AT_ONCE = 4 * 800 * 1344
"""Largest number of pixels of a batch of tiles, at the size that the network sees, unless one tile
alone has more."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class View:
    """One way to look at a part of an image.

    window     the tile's place in the image
    symmetry   the symmetry through which the tile is seen
    scale      factor on the size at which the network sees it
    member     number of the network, where several predict together
    """

    window: Window
    symmetry: Symmetry = UNCHANGED
    scale: float = 1.0
    member: int = 0


@dataclass(frozen=True)
class Seen:
    """All that was seen of an image.

    size      height and width of the image in pixels
    tile      side of the tiles in pixels where `predict.tile` is 0; 0 for the whole image
    members   number of networks that looked
    found     the detections of each view, in pixels of its window, empty masks included
    """

    size: tuple[int, int]
    tile: int
    members: int
    found: Mapping[View, Detections]


def tiles_of(config: PredictConfig, size: tuple[int, int], tile: int) -> list[Window]:
    """The tiles that settings divide an image into; `size` and `tile` as in `Seen`."""
    return tiles(*size, config.tile or tile, config.overlap)


def views_of(config: PredictConfig, window: Window, members: int) -> list[View]:
    """The views of a tile that settings want, by each of `members` networks."""
    return [
        View(window, symmetry, scale, member)
        for member in range(members)
        for scale in config.factors
        for symmetry in symmetries(config)
    ]


def wanted_views(
    configs: Sequence[PredictConfig], size: tuple[int, int], tile: int, members: int = 1
) -> list[View]:
    """The views of an image that any of `configs` wants, each once; arguments as in `Seen`."""
    return list(
        dict.fromkeys(
            view
            for config in configs
            for window in tiles_of(config, size, tile)
            for view in views_of(config, window, members)
        )
    )


@dataclass(frozen=True)
class _Look:
    """One picture for a network to look at.

    item     the value that the caller gave with the image
    size     height and width of the image in pixels
    of       number of looks at this image
    view     the view
    pixels   uint8 [H, W, 3], the picture that the network is given
    seen     height and width in pixels at which the network sees it
    """

    item: Any
    size: tuple[int, int]
    of: int
    view: View
    pixels: NDArray[np.uint8]
    seen: tuple[int, int]

    @property
    def together(self) -> tuple[int, float, tuple[int, int]]:
        """The look's network, scale and size; looks for which these are equal can be a batch."""
        return self.view.member, self.view.scale, self.seen


def most_at_once(model: Detector) -> int:
    """The largest number of tiles that a model sees at once, by its device (AT_ONCE)."""
    return AT_ONCE.get(next(model.parameters()).device.type, 1)


def loosest(configs: Sequence[PredictConfig]) -> PredictConfig:
    """The settings with which a network has to look to serve all of `configs`.

    They have the lowest threshold and the highest cap; detections for each of `configs` can be
    taken from those. All have one `nms_iou`, because the network suppresses boxes itself.
    """
    assert len({config.nms_iou for config in configs}) == 1, "the network suppresses at one IoU"
    return configs[0].model_copy(
        update={
            "score_threshold": min(config.score_threshold for config in configs),
            "max_detections": max(config.max_detections for config in configs),
        }
    )


def look_at_each(
    models: Sequence[Detector],
    images: Iterable[tuple[_Item, NDArray[np.uint8]]],
    configs: Sequence[PredictConfig],
    then: Callable[[_Item, Seen], _Result],
    *,
    tile: int = 0,
    helpers: int = 0,
    at_once: int | None = None,
) -> Iterator[_Result]:
    """The result of `then` for each image, in the order of the images.

    models    in evaluation mode, all on one device, with the `loosest` of `configs`
    images    pairs of a value for `then` and an image, uint8 [H, W, 3], RGB; they are taken one by
              one, as the network comes to them
    configs   the settings with which the models may predict: each view that any of them wants is
              looked at once
    then      called with the image's value and all that was seen of the image, in a helper thread
              if there are any
    tile      side of the tiles in pixels where `predict.tile` is 0, such as `data.crop`; 0 for the
              whole image
    helpers   number of helper threads, of which MOST_HELPERS are used at most; results do not
              depend on it
    at_once   largest number of tiles of one size that the network sees at once; None for the
              device's AT_ONCE. Results depend on it by rounding

    Only the looks at one image, and those of a batch, are held at once. Tiles that do not fit the
    GPU's memory at once are looked at in smaller batches, and the model keeps their size. An
    exception of `then` is raised in the place of its result.
    """
    wanted = loosest(configs)
    for model in models:
        own = model.predict
        assert (own.score_threshold, own.nms_iou, own.max_detections) == (
            wanted.score_threshold,
            wanted.nms_iou,
            wanted.max_detections,
        ), "the model was built with other settings of predict"
    at_once = at_once or most_at_once(models[0])
    looks = _looks(images, models, configs, tile)

    def end(looks: Sequence[_Look], found: Sequence[Detections]) -> _Result:
        seen = {look.view: one for look, one in zip(looks, found, strict=True)}
        return then(looks[0].item, Seen(looks[0].size, tile, len(models), seen))

    with Helpers(min(helpers, MOST_HELPERS)) as beside:
        pasted = beside.in_order(_pastings(models, _batches(looks, models, at_once)))
        yield from beside.in_order(_ends(pasted, end))


def look_at_samples(
    models: Sequence[Detector],
    samples: Sequence[Sample],
    configs: Sequence[PredictConfig],
    then: Callable[[Sample, Seen], _Result],
    *,
    tile: int = 0,
    helpers: int = 0,
    progress: Callable[[int], object] = int,
) -> list[_Result]:
    """The result of `then` for each sample, in the order of the samples; see `look_at_each`.

    The network sees samples of one size one after the other, so that they make batches.

    progress   called after each sample with the number of samples that are done
    """
    order = sorted(range(len(samples)), key=lambda one: models[0].seen_size(*samples[one].size))
    results: dict[int, _Result] = {}
    found = look_at_each(
        models,
        ((samples[one], samples[one].image) for one in order),
        configs,
        then,
        tile=tile,
        helpers=helpers,
    )
    for index, result in zip(order, found, strict=True):
        results[index] = result
        progress(len(results))
    return [results[index] for index in range(len(samples))]


def _looks(
    images: Iterable[tuple[_Item, NDArray[np.uint8]]],
    models: Sequence[Detector],
    configs: Sequence[PredictConfig],
    tile: int,
) -> Iterator[_Look]:
    """The looks at all images; those at one image that can be a batch follow each other."""
    for item, image in images:
        size = image.shape[0], image.shape[1]
        views = wanted_views(configs, size, tile, len(models))
        looks = []
        for view in views:
            window = view.window
            pixels = view.symmetry.of(image[window.y0 : window.y1, window.x0 : window.x1])
            height, width = pixels.shape[:2]
            seen = models[view.member].seen_size(height, width, view.scale)
            looks.append(_Look(item, size, len(views), view, pixels, seen))
        # Those that the network can see together come one after the other.
        yield from sorted(looks, key=lambda look: look.together)


def _batches(
    looks: Iterable[_Look], models: Sequence[Detector], at_once: int
) -> Iterator[list[_Look]]:
    """The looks in batches, each seen by one network at one scale and size."""
    for (member, _, size), run in itertools.groupby(looks, lambda look: look.together):
        while batch := list(itertools.islice(run, min(at_once, _most(models[member], size)))):
            yield batch


def _most(model: Detector, size: tuple[int, int]) -> int:
    """Largest number of pictures of this size, in pixels as the network sees them, at once."""
    return max(1, min(PIXELS_AT_ONCE, model.room) // (size[0] * size[1]))


def _pastings(
    models: Sequence[Detector], batches: Iterable[list[_Look]]
) -> Iterator[Callable[[], tuple[_Look, Detections]]]:
    """A task for each look, which pastes its masks; the network looks when a task is taken."""
    for batch in batches:
        view = batch[0].view
        pictures = [look.pixels for look in batch]
        raw = _detected(models[view.member], pictures, view.scale, batch[0].seen)
        for look, found in zip(batch, raw, strict=True):
            yield functools.partial(_pasted, look, found)


def _ends(
    pasted: Iterable[tuple[_Look, Detections]],
    end: Callable[[Sequence[_Look], Sequence[Detections]], _Result],
) -> Iterator[Callable[[], _Result]]:
    """A task for each image, given once all its looks are there."""
    looks: list[_Look] = []
    views: list[Detections] = []
    for look, found in pasted:
        looks.append(look)
        views.append(found)
        if len(looks) == look.of:
            yield functools.partial(end, looks, views)
            looks, views = [], []


def _detected(
    model: Detector,
    pictures: Sequence[NDArray[np.uint8]],
    scale: float,
    size: tuple[int, int],
) -> list[RawDetections]:
    """The detections in pictures of one size, uint8 [H, W, 3] each, in main memory.

    scale   factor on the size at which the network sees them
    size    height and width, in pixels, at which it sees each of them

    Where they do not fit the GPU's memory together, half as many are looked at together from then
    on.
    """
    device = next(model.parameters()).device
    tensors = [
        torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C")) for picture in pictures
    ]
    found: list[RawDetections] = []
    while left := tensors[len(found) :]:
        some = left[: _most(model, size)]
        try:
            found += _to_cpu(model.detect([one.to(device).float() / 255 for one in some], scale))
        except RuntimeError as error:
            if len(some) == 1 or not is_out_of_memory(error):
                raise
            model.room = len(some) // 2 * size[0] * size[1]
    return found


def _to_cpu(found: Sequence[RawDetections]) -> list[RawDetections]:
    """The same detections in main memory, by one copy and so one wait for the device."""
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
    """The look, and its detections in pixels of its tile, with masks pasted."""
    height, width = look.pixels.shape[:2]
    found = Detections(
        boxes_N4=raw.boxes_N4.numpy(),
        labels_N=raw.labels_N.numpy(),
        scores_N=raw.scores_N.numpy(),
        masks=tuple(masks.paste_masks(raw.mask_probs_NMM, raw.boxes_N4, height, width)),
    )
    return look, look.view.symmetry.undo(found, height, width)
