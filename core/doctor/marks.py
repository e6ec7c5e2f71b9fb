"""Instances that look wrong, one by one: where each is, what is wrong, and what would mend it.

`core.data.suspicion` says in a sentence what is wrong with a data set. This module says it of each
instance, so that a person can look at it and `core.doctor.repairs` can mend it. A single mark is
often right, as two pieces of one cell that another covers in the middle; a person decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.data.dataset import Dataset
from core.data.suspicion import (
    SPECK,
    TWIN,
    Shapes,
    are_interpolated,
    are_scattered,
    background_of,
    shapes_of,
    slivers_of,
    twins_of,
)
from core.sample import Sample
from core.values import as_number, as_percent

FEW_PIXELS = 4
"""Largest number of pixels of an instance that may be a slip of the brush..."""
FAR_FEWER = 10
"""... where the median instance has at least this many times as many."""


@dataclass(frozen=True)
class FaultKind:
    """A kind of what looks wrong with an instance.

    sign     what is seen, to be read after "2 instances:"
    remedy   what to do, a sentence without its full stop
    """

    sign: str
    remedy: str


KINDS: Mapping[str, FaultKind] = {
    "background": FaultKind(
        "background that is numbered like a cell",
        "make it 0 in the mask, or remove the annotation",
    ),
    "made up": FaultKind(
        "slivers along the borders of others, as where ids were resized with smoothing",
        "export the masks again without loss; `--fix` gives such pixels to the nearest instance"
        " or background, where that is safe",
    ),
    "twin in another class": FaultKind(
        "the same instance in two classes",
        "keep it in the class that is right",
    ),
    "twin": FaultKind(
        f"annotated twice (an IoU of {as_number(TWIN)} or more)",
        "keep one of each; `--fix` keeps the first",
    ),
    "pieces": FaultKind(
        "several separate pieces under one number",
        "give each cell a number of its own; `--set data.split_components=true` makes every piece"
        " an instance",
    ),
    "stray pixels": FaultKind(
        "stray pixels apart from the instance (each piece under"
        f" {as_percent(SPECK)} of the largest one)",
        "erase them; `--fix` does",
    ),
    "few pixels": FaultKind(
        f"{FEW_PIXELS} pixels or fewer away from the image's border, like a slip of the brush",
        "erase it; `--fix` does",
    ),
}
"""The kinds by name, the gravest first."""


@dataclass(frozen=True)
class Marks:
    """Instances of one image that look wrong in one way.

    kind    name of the kind, of KINDS
    image   index of the image in `Dataset.samples`
    ids_K   int64, the instances' numbers in the label maps, at least one
    boxes_K4  int64, their boxes, half-open x0 y0 x1 y1 in pixels
    """

    kind: str
    image: int
    ids_K: NDArray[np.int64]
    boxes_K4: NDArray[np.int64]


def marks_of(dataset: Dataset, shapes: Sequence[Shapes] | None = None) -> list[Marks]:
    """Every instance that looks wrong, by kind, the gravest first, then by image.

    shapes   `shapes_of` each image, where they were measured already
    """
    shapes = shapes or [shapes_of(sample) for sample in dataset.samples]
    usual = median_area(shapes)
    found = [
        Marks(kind, index, one.ids_N[rows], one.boxes_N4[rows])
        for index, (sample, one) in enumerate(zip(dataset.samples, shapes, strict=True))
        for kind, rows in _of_image(sample, one, usual)
        if len(rows)
    ]
    order = list(KINDS)
    return sorted(found, key=lambda marks: (order.index(marks.kind), marks.image))


def median_area(shapes: Sequence[Shapes]) -> float:
    """The median of the instances' areas in pixels; 0 without instances."""
    areas = np.concatenate([one.areas_N for one in shapes]) if shapes else np.zeros(0)
    return float(np.median(areas)) if len(areas) else 0.0


def _of_image(
    sample: Sample, shapes: Shapes, usual: float
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """The kinds of one image, each with the rows of its instances in `shapes`."""
    background_N = background_of(sample, shapes)
    yield "background", np.flatnonzero(background_N)
    smooth = are_interpolated(shapes)
    made_up_N = slivers_of(shapes) & smooth & ~background_N
    yield "made up", np.flatnonzero(made_up_N)
    row_of = {int(number): row for row, number in enumerate(shapes.ids_N)}
    pairs = twins_of(sample, shapes).tolist()
    for kind, alike in (("twin in another class", False), ("twin", True)):
        rows = [
            row_of[one]
            for one, other in pairs
            if (sample.labels_N[one - 1] == sample.labels_N[other - 1]) == alike
        ]
        yield kind, np.array(rows, np.int64)
    if smooth:
        return  # its pieces and tiny instances have the same cause
    yield "pieces", np.flatnonzero((shapes.large_N > 1) & ~background_N)
    # In a semantic mask the small pieces are cells.
    strays_N = (shapes.strays_N > 0) & ~background_N & ~are_scattered(sample, shapes)
    yield "stray pixels", np.flatnonzero(strays_N)
    if usual >= FAR_FEWER * FEW_PIXELS:
        height, width = sample.size
        inside_N = (shapes.boxes_N4[:, :2] > 0).all(axis=1) & (
            shapes.boxes_N4[:, 2:] < [width, height]
        ).all(axis=1)  # at the border it may be what is left of a whole one
        yield "few pixels", np.flatnonzero((shapes.areas_N <= FEW_PIXELS) & inside_N)
