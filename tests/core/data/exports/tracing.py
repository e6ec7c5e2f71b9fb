"""The outlines of a mask along the edges of its pixels, which pycocotools fills to the same mask."""

import warnings

import numpy as np
from pycocotools import mask as coco_mask

Ring = list[list[int]]
"""A closed outline, [[x, y], ...] in pixels, without its first point at the end again."""


def areas_of(mask: np.ndarray) -> list[list[Ring]]:
    """Each piece of a mask, bool [H, W], as its outer ring and then its holes.

    Pixels that meet at a corner alone are different pieces.
    """
    rings = _rings(mask)
    height, width = mask.shape
    outer = [ring for ring in rings if _signed_area(ring) > 0]
    fillings = [filled(flat(ring), height, width) for ring in outer]
    areas = [[ring] for ring in outer]
    for hole in rings:
        if _signed_area(hole) < 0:
            inside = filled(flat(hole), height, width)
            around = [number for number, one in enumerate(fillings) if not (inside & ~one).any()]
            areas[min(around, key=lambda number: fillings[number].sum())].append(hole)
    return areas


def flat(ring: Ring) -> list[int]:
    """A ring as COCO writes it: x, y, x, y, ..."""
    return [value for point in ring for value in point]


def _rings(mask: np.ndarray) -> list[Ring]:
    """Follow the edges between pixels inside and outside, with the inside on the right."""
    padded = np.pad(mask, 1).astype(int)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def edge(start: tuple[int, int], end: tuple[int, int]) -> None:
        after.setdefault(start, []).append(end)

    for y, x in np.argwhere(mask).tolist():
        if not padded[y, x + 1]:
            edge((x, y), (x + 1, y))
        if not padded[y + 1, x + 2]:
            edge((x + 1, y), (x + 1, y + 1))
        if not padded[y + 2, x + 1]:
            edge((x + 1, y + 1), (x, y + 1))
        if not padded[y + 1, x]:
            edge((x, y + 1), (x, y))
    rings = []
    while after:
        first = at = next(iter(after))
        ring, heading = [], (0, 0)
        while not ring or at != first:
            ends = after[at]
            # Where two pixels meet at a corner alone, the ring turns right and stays with its own.
            right = (at[0] - heading[1], at[1] + heading[0])
            end = right if right in ends else ends[0]
            ends.remove(end)
            if not ends:
                del after[at]
            heading = (end[0] - at[0], end[1] - at[1])
            ring.append(list(at))
            at = end
        rings.append(ring)
    return rings


def _signed_area(ring: Ring) -> float:
    x, y = np.array(ring).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def filled(outline: list[float], height: int, width: int) -> np.ndarray:
    """A polygon, x, y, x, y, ..., as pycocotools fills it, bool [H, W]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools on NumPy 2
        encoded = coco_mask.frPyObjects([[float(value) for value in outline]], height, width)
        return coco_mask.decode(encoded)[:, :, 0].astype(bool)
