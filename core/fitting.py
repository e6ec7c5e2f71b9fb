"""Settings read off a data set: sizes of images and crops, anchor scale, caps of detections.

Everything here is a pure function of a measurement of the data (`core.data.measure`) and of other
settings, so that a study which keeps the measurement resolves `auto` alike wherever it goes on. It
is a module of its own, above data and networks, because it joins what each of them knows: boxes,
and the anchors and image sizes of the network.
"""

import bisect
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import AUTO, MOST_DETECTIONS, SETTINGS, Precision, TrialConfig, Value
from core.data.dataset import Dataset
from core.data.measure import Measurement, measure
from core.network.anchors import ANCHOR_RATIOS, ANCHOR_SIDES, STRIDES, Anchors
from core.network.resizing import MULTIPLE, network_size
from core.sample import Size
from core.text import many
from core.values import as_percent

FITS = 0.5
"""Least IoU of an instance's box with an anchor that fits it."""
PLACES_PER_AXIS = 7
"""Number of places along an axis at which a box is laid over the grid of anchors. It is odd, so
that they are spread evenly over the cells of every level."""

LEAST_CELL, GOOD_CELL = 30, 40
"""Least side, in pixels of the image that the network sees, that the median cell should have, and
the side that it should have where that needs neither crops nor images enlarged by more than
ENLARGED. The side of a cell is the square root of its box's area."""
CROPS_PAY = 1.5
"""Least factor by which crops must show the median cell larger than whole images would. A crop
shows a part of an image, and its tiles in prediction overlap: an image that is one and a half times
as long as its tiles is predicted in four tiles in place of one."""
ENLARGED = 2.0
"""Largest factor by which images are enlarged to bring the median cell beyond LEAST_CELL."""
MOST_SEEN_PIXELS = 1024 * 1024
"""Largest number of pixels that the network should see of nearly all images or crops, about as many
as torchvision's 800 x 1333: a bound of memory and time, since no GPU is known here."""
NEARLY_ALL = 95
"""Percentage of the images that counts as nearly all."""
SIDE_STEP, CROP_STEP = 8, 64
"""Sides of images and of crops are multiples of these, in pixels."""
ANCHOR_SCALES = (0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Anchor scales among which one is chosen: each is about sqrt(2) times the one before."""
AS_GOOD = 0.01
"""Largest difference between the shares of fitted instances of two scales that are equally good. Of
scales as good as the best the largest is chosen, since large instances have no other anchors."""
DETECTIONS_A_CELL, PROPOSALS_A_CELL = 1.5, 4
"""Detections and proposals for each instance of the most crowded image or tile: false ones take
places, too."""
LEAST_DETECTIONS = 100
"""Least cap of detections: torchvision's default. The least caps of proposals are the defaults of
their settings, which are torchvision's, too."""


@dataclass(frozen=True)
class Chosen:
    """A value that was read off the data for a setting, and the reason, in words that follow it."""

    value: Value
    why: str


Rule = Callable[[Measurement, TrialConfig], Chosen]
"""A function of the data and of a configuration in which all settings that the value depends on are
resolved, or will be resolved by the same rules."""


def fitted_share(data: Measurement, config: TrialConfig) -> float:
    """The share of instances that some anchor fits, in 0..1; 0 where there are none.

    config   with resolved crop, sides and anchor scale

    An instance counts with the share of its places on the grid of anchors at which some anchor has
    an IoU of FITS or more with it, because training moves it from place to place. Cells that a crop
    cuts count as whole, and anchors beyond the image's border count too.
    """
    return _shares(data, *_sides(config), (config.model.anchor_scale,))[0]


def seen_cell(data: Measurement, config: TrialConfig) -> float:
    """The side of the median cell in pixels of the image that the network sees; 0 without cells.

    config   with resolved crop and sides
    """
    return _seen_cell(data, *_sides(config))


def seen_sides(data: Measurement, config: TrialConfig) -> NDArray[np.float64]:
    """The side of each cell in pixels of the image that the network sees: float64 [K].

    It is the square root of the area of the cell's box, to be held against the anchors' sides.

    config   with resolved crop and sides
    """
    sides_K: NDArray[np.float64] = np.sqrt(_cells_as_seen(data, *_sides(config)).prod(axis=1))
    return sides_K


def anchor_sides(config: TrialConfig) -> list[float]:
    """The sides of the anchors in pixels of the image that the network sees, ascending.

    config   with a resolved anchor scale
    """
    return sorted(side * config.model.anchor_scale for side in ANCHOR_SIDES)


def _sides(config: TrialConfig) -> tuple[int, int, int]:
    """The crop, and the limits of the shorter and the longer side, in pixels."""
    model = config.model
    return config.data.crop, model.image_min_side, model.image_max_side


def share_of_places(
    sides_K2: NDArray[np.float64], anchors: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The share of places at which some anchor fits each box, an IoU of FITS or more: float64 [K].

    sides_K2   height and width of each box, in pixels of the resized image
    anchors    x0 y0 x1 y1 of the anchors of one grid cell, centred at 0, [Z, 4] for each level
    """
    starts_J = np.arange(PLACES_PER_AXIS, dtype=np.float64) * (STRIDES[-1] / PLACES_PER_AXIS)
    fits_JJK = np.zeros((PLACES_PER_AXIS, PLACES_PER_AXIS, len(sides_K2)), np.bool_)
    for of_cell_Z4, stride in zip(anchors, STRIDES, strict=True):
        for x0, y0, x1, y1 in of_cell_Z4.tolist():
            down_JK = _overlap(starts_J, sides_K2[:, 0], y0, y1, stride)
            across_JK = _overlap(starts_J, sides_K2[:, 1], x0, x1, stride)
            both_JJK = down_JK[:, None] * across_JK
            areas_K = sides_K2.prod(axis=1) + (y1 - y0) * (x1 - x0)
            fits_JJK |= both_JJK >= FITS * (areas_K - both_JJK)
    share_K: NDArray[np.float64] = fits_JJK.mean(axis=(0, 1))
    return share_K


def _overlap(
    starts_J: NDArray[np.float64],
    sides_K: NDArray[np.float64],
    low: float,
    high: float,
    stride: int,
) -> NDArray[np.float64]:
    """The length, [J, K], along one axis, that boxes share with the nearest anchor of one kind.

    A box begins at one of `starts_J`; the anchor extends from `low` to `high` around a multiple of
    `stride`. All lengths are in pixels of the resized image.
    """
    ends_JK = starts_J[:, None] + sides_K
    middles_JK = (starts_J[:, None] + ends_JK - low - high) / 2
    nearest_JK = stride * np.round(middles_JK / stride)
    last_JK = np.minimum(ends_JK, nearest_JK + high)
    overlap_JK: NDArray[np.float64] = last_JK - np.maximum(starts_J[:, None], nearest_JK + low)
    return overlap_JK.clip(min=0)


def anchors_of_cell(scale: float) -> list[NDArray[np.float64]]:
    """The network's anchors of one grid cell, centred at 0, [Z, 4] for each level."""
    anchors = Anchors([side * scale for side in ANCHOR_SIDES], ANCHOR_RATIOS)
    return [level.double().numpy() for level in anchors.of_cell]


@functools.lru_cache(maxsize=256)
def _shares(
    data: Measurement, crop: int, min_side: int, max_side: int, scales: tuple[float, ...]
) -> tuple[float, ...]:
    """The share of instances that some anchor fits, in 0..1, for each anchor scale."""
    seen_K2 = _cells_as_seen(data, crop, min_side, max_side)
    if not len(seen_K2):
        return (0.0,) * len(scales)
    sides_K2, count_K = np.unique(seen_K2, axis=0, return_counts=True)
    return tuple(
        float(np.average(share_of_places(sides_K2, anchors_of_cell(scale)), weights=count_K))
        for scale in scales
    )


def _cells_as_seen(
    data: Measurement, crop: int, min_side: int, max_side: int
) -> NDArray[np.float64]:
    """Height and width of each cell in pixels of the image that the network sees, [K, 2]."""
    _, cells_K4 = data.arrays()
    sizes, numbers = np.unique(cells_K4[:, :2], axis=0, return_inverse=True)
    factors = []
    for height, width in sizes.tolist():
        cut = _crop_size((height, width), crop)
        seen = network_size(*cut, min_side, max_side)
        factors.append((seen[0] / cut[0], seen[1] / cut[1]))
    factors_K2: NDArray[np.float64] = np.array(factors).reshape(-1, 2)[numbers.ravel()]
    return cells_K4[:, 2:] * factors_K2


def _crop_size(size: Size, crop: int) -> Size:
    """Height and width of what is cut out of an image of `size`: all of it without a crop."""
    return min(size[0], crop or size[0]), min(size[1], crop or size[1])


def _median_cell(sides_K2: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """The median of the cells' sides, each the square root of its box's area; 0 without cells."""
    return float(np.median(np.sqrt(sides_K2.prod(axis=1)))) if len(sides_K2) else 0.0


@functools.lru_cache(maxsize=256)
def _own_cell(data: Measurement) -> float:
    """The side of the median cell in its image, in pixels."""
    return _median_cell(data.arrays()[1][:, 2:])


@functools.lru_cache(maxsize=4096)
def _seen_cell(data: Measurement, crop: int, min_side: int, max_side: int) -> float:
    return _median_cell(_cells_as_seen(data, crop, min_side, max_side))


_NO_LIMIT = 8192
"""The largest side that a setting may have."""


@functools.lru_cache(maxsize=256)
def _shorter_side(data: Measurement, crop: int, max_side: int, cell: float) -> int:
    """The smallest length of images' shorter side at which the median cell has `cell` pixels.

    If images would then have more than MOST_SEEN_PIXELS, the largest length at which they do not.

    max_side   the limit of the longer side in pixels
    """
    cuts = [_crop_size(size, crop) for size in data.images]

    def pixels(side: int) -> int:
        seen = [network_size(*cut, side, max_side) for cut in cuts]
        return int(np.percentile([height * width for height, width in seen], NEARLY_ALL))

    sides = range(MULTIPLE, max_side + 1, SIDE_STEP)
    affordable = bisect.bisect_right(sides, MOST_SEEN_PIXELS, key=pixels)
    large = bisect.bisect_left(sides, cell, key=lambda side: _seen_cell(data, crop, side, max_side))
    return sides[max(min(large, affordable - 1), 0)]


def _limit(config: TrialConfig) -> int:
    """The limit of the longer side in pixels, as far as it is known yet."""
    limit = config.model.image_max_side
    return limit if isinstance(limit, int) else _NO_LIMIT


def _crop_below(enough: float, data: Measurement, config: TrialConfig) -> Chosen:
    """Choose whole images if they show the median cell in `enough` pixels, or else crops.

    Crops show it in LEAST_CELL pixels.
    """
    own = _own_cell(data)
    side, limit = config.model.image_min_side, _limit(config)
    whole = side if isinstance(side, int) else _shorter_side(data, 0, limit, LEAST_CELL)
    seen = _seen_cell(data, 0, whole, limit)
    if seen >= enough:
        return Chosen(
            0, f"whole images show the median cell of {round(own)} pixels in {round(seen)} pixels"
        )
    longest = min(side if isinstance(side, int) else math.isqrt(MOST_SEEN_PIXELS), limit)
    found = int(longest * own / LEAST_CELL) // CROP_STEP * CROP_STEP
    found = min(max(found, CROP_STEP), _NO_LIMIT)
    return Chosen(
        found,
        f"whole images would show the median cell of {round(own)} pixels in {round(seen)} pixels,"
        f" and crops can show it in {round(longest / found * own)}",
    )


def _image_min_side(data: Measurement, config: TrialConfig) -> Chosen:
    """Choose the side at which the median cell has GOOD_CELL pixels, as far as ENLARGED allows.

    It has at least LEAST_CELL, whatever ENLARGED says, and fewer where MOST_SEEN_PIXELS is reached.
    """
    own, limit = _own_cell(data), _limit(config)
    goal = max(min(GOOD_CELL, ENLARGED * own), LEAST_CELL)
    side = _shorter_side(data, config.data.crop, limit, goal)
    seen = _seen_cell(data, config.data.crop, side, limit)
    return Chosen(
        side,
        f"the median cell of {round(own)} pixels is then {round(seen)} pixels long where the"
        " network sees it",
    )


def _image_max_side(data: Measurement, config: TrialConfig) -> Chosen:
    """Choose a limit of the longer side that lets nearly all images reach the shorter side."""
    cuts = [_crop_size(size, config.data.crop) for size in data.images]
    longer = np.percentile([max(cut) / min(cut) for cut in cuts], NEARLY_ALL)
    least = config.model.image_min_side
    side = min(math.ceil(least * longer / SIDE_STEP) * SIDE_STEP, _NO_LIMIT)
    what = "crops" if config.data.crop else "images"
    side = max(side, least)
    return Chosen(side, f"{NEARLY_ALL}% of the {what} are then at most {side} pixels long")


def _anchor_scale(data: Measurement, config: TrialConfig) -> Chosen:
    """Choose the largest of ANCHOR_SCALES whose share of fitted instances is as good as the best.

    It is 1 where that share is at most AS_GOOD at every scale, as for fibres.
    """
    shares = _shares(data, *_sides(config), ANCHOR_SCALES)
    if max(shares) <= AS_GOOD:
        return Chosen(1.0, f"some anchor fits {as_percent(max(shares))} of the instances at most")
    best = max(
        scale
        for scale, one in zip(ANCHOR_SCALES, shares, strict=True)
        if one >= max(shares) - AS_GOOD
    )
    here, plain = shares[ANCHOR_SCALES.index(best)], shares[ANCHOR_SCALES.index(1.0)]
    than = "" if best == 1.0 else f", and {as_percent(plain)} at 1"
    return Chosen(best, f"some anchor then fits {as_percent(here)} of the instances{than}")


def _cap(least: int, factor: float, cells: int) -> int:
    """A cap of `factor` places for each cell, at least `least`, rounded up to hundreds."""
    return min(max(least, math.ceil(factor * cells / 100) * 100), MOST_DETECTIONS)


def _crowded(data: Measurement, side: int) -> tuple[int, str]:
    """The largest number of instances in an image or in a tile, and that number in words.

    side   of the tile in pixels; 0 for whole images
    """
    cells = data.crowded_in(side)
    where = f"a tile of {side} pixels" if side and cells < data.crowded else "an image"
    return cells, f"{where} holds up to {many(cells, 'instance')}"


def _proposals_train(data: Measurement, config: TrialConfig) -> Chosen:
    """PROPOSALS_A_CELL for each instance of the most crowded image or crop."""
    cells, words = _crowded(data, config.data.crop)
    return Chosen(_cap(int(SETTINGS["model.proposals_train"]), PROPOSALS_A_CELL, cells), words)


def _proposals_test(data: Measurement, config: TrialConfig) -> Chosen:
    """PROPOSALS_A_CELL for each instance of the most crowded image or tile."""
    cells, words = _crowded(data, config.predict.tile or config.data.crop)
    return Chosen(_cap(int(SETTINGS["model.proposals_test"]), PROPOSALS_A_CELL, cells), words)


def _max_detections(data: Measurement, config: TrialConfig) -> Chosen:
    """DETECTIONS_A_CELL for each instance of the most crowded image or tile."""
    cells, words = _crowded(data, config.predict.tile or config.data.crop)
    return Chosen(_cap(LEAST_DETECTIONS, DETECTIONS_A_CELL, cells), words)


def _without_cells(name: str, config: TrialConfig) -> Value:
    """The value for data without cells: the default, or the nearest that the other side allows."""
    if name == "model.image_min_side":
        return min(int(SETTINGS[name]), _limit(config))
    if name == "model.image_max_side":
        return max(int(SETTINGS[name]), config.model.image_min_side)
    return SETTINGS[name]


_FIRST_RULES: Mapping[str, Rule] = {
    "data.crop": functools.partial(_crop_below, LEAST_CELL),
    "model.image_min_side": _image_min_side,
    "model.image_max_side": _image_max_side,
    "model.anchor_scale": _anchor_scale,
    "model.proposals_train": _proposals_train,
    "model.proposals_test": _proposals_test,
    "predict.max_detections": _max_detections,
}

FITTING_RULES: Mapping[int, Mapping[str, Rule]] = {
    1: _FIRST_RULES,
    2: {**_FIRST_RULES, "data.crop": functools.partial(_crop_below, LEAST_CELL / CROPS_PAY)},
}
"""The rules by which settings are read off data, by version. A version that studies began with is
never changed, or they would go on with other settings: a change is another version."""
NEWEST_RULES = max(FITTING_RULES)
"""The version of the rules for a study that begins now."""


@dataclass(frozen=True)
class Circumstances:
    """The facts on which the values that `auto` stands for depend.

    precision   the precision that `optim.precision: auto` stands for; None if it is not known,
                which leaves that setting open
    data        the measurement of the data set; None if it is not known, which leaves the settings
                open that are read off it
    rules       version of the rules by which settings are read off the data

    Called with the name of a setting and a configuration it is a resolver: see
    `TrialConfig.resolved`.
    """

    precision: Precision | None = None
    data: Measurement | None = None
    rules: int = field(default_factory=lambda: NEWEST_RULES)

    def __call__(self, name: str, config: TrialConfig) -> Value | None:
        """The value of a setting that is `auto`; None where it is not known."""
        if name == "optim.precision":
            return self.precision
        return None if self.data is None else self.chosen(name, config).value

    def chosen(self, name: str, config: TrialConfig) -> Chosen:
        """The value of a setting that is read off the data, and why; `data` must be known."""
        assert self.data is not None
        if not self.data.cells:
            return Chosen(_without_cells(name, config), "there is no instance to measure")
        return FITTING_RULES[self.rules][name](self.data, config)

    def explained(self, config: TrialConfig) -> Iterator[tuple[str, Chosen]]:
        """Yield each setting that is `auto` and read off the data, with its value and why."""
        for name in config.open if self.data else ():
            if name in FITTING_RULES[self.rules]:
                found = self.chosen(name, config)
                config = config.changed({name: found.value})
                yield name, found

    def to_json(self) -> dict[str, Any]:
        """The data and the rules as JSON types; empty without a measurement."""
        return {} if self.data is None else {"rules": self.rules, "data": self.data.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], precision: Precision | None) -> "Circumstances":
        """The circumstances from which `to_json` made `content`."""
        if not content:
            return cls(precision)
        return cls(precision, Measurement.from_json(content["data"]), int(content["rules"]))


READ_OFF_DATA = frozenset(FITTING_RULES[NEWEST_RULES])
"""The settings whose `auto` is read off the data."""
SIZES = ("data.crop", "model.image_min_side", "model.image_max_side", "model.anchor_scale")
"""The settings that decide which instances an anchor fits."""


def circumstances_of(
    config: TrialConfig, dataset: Dataset, precision: Precision | None
) -> Circumstances:
    """The facts for a configuration; the data set is measured only where a setting needs it."""
    wants = READ_OFF_DATA & set(config.open)
    return Circumstances(precision, measure(dataset) if wants else None)


def recommended(data: Measurement, config: TrialConfig) -> tuple[TrialConfig, dict[str, Chosen]]:
    """A configuration in which every setting of READ_OFF_DATA has the value that the data suggest.

    Returns these values, too, by their settings, each with the reason.
    """
    found = Circumstances(data=data)
    asked = config.changed(dict.fromkeys(READ_OFF_DATA, AUTO))
    return asked.resolved(found), dict(found.explained(asked))
