"""Masks to polygons along the edges of their pixels: filled again, they are the mask exactly.

A corner of a polygon is a corner of a pixel: the mask of one pixel at row y and column x is the
square from (x, y) to (x + 1, y + 1). Contours of libraries run through the middles of pixels, or
between them at half a pixel, and lose or gain a seam all around the mask.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Ring = list[tuple[int, int]]
"""The corners of a closed line as (x, y); the first is not repeated at the end."""

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""The four directions of an edge as (x, y): right, down, left, up. One turn to the right is +1."""


def polygons_of(mask: NDArray[np.bool_]) -> list[list[Ring]]:
    """The outlines of a mask, bool [h, w]: one polygon for each piece of it, by the rows.

    Pixels that share a side are of one piece; those that share a corner alone are not. A polygon is
    its outer ring, then a ring for each hole. No ring visits a corner twice or has three corners on
    one line, so the polygons are valid in the sense of OGC's Simple Features, and no two share
    more than corners. With x to the right and y down, outer rings run clockwise as seen, which is
    the direction that RFC 7946 (GeoJSON) wants of them; holes run the other way.
    """
    pieces, _ = ndimage.label(mask)
    polygons: dict[int, list[Ring]] = {}
    for (x, y), ring in _rings(mask):
        of_piece = polygons.setdefault(int(pieces[y, x]), [])
        of_piece.insert(0 if _is_outer(ring) else len(of_piece), ring)
    return [polygons[piece] for piece in sorted(polygons)]


def _rings(mask: NDArray[np.bool_]) -> list[tuple[tuple[int, int], Ring]]:
    """All rings of a mask, each with a pixel, as (x, y), of the piece that it belongs to."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    # Every edge has the mask on its right. It is named by its first corner and its direction.
    before, here, after = slice(0, -2), slice(1, -1), slice(2, None)
    shifts = ((before, here), (here, after), (after, here), (here, before))
    begins = ((0, 0), (1, 0), (1, 1), (0, 1))
    edges: dict[tuple[int, int], set[int]] = {}
    starts: list[tuple[int, int, int]] = []
    for direction, (shift, (dx, dy)) in enumerate(zip(shifts, begins, strict=True)):
        for y, x in np.argwhere(inner & ~padded[shift]).tolist():
            edges.setdefault((x + dx, y + dy), set()).add(direction)
            if direction == 0:  # every ring has an edge to the right
                starts.append((x, y, direction))
    rings: list[tuple[tuple[int, int], Ring]] = []
    for x, y, direction in starts:
        if direction in edges[x, y]:
            rings += [((x, y), ring) for ring in _walk(edges, (x, y), direction)]
    return rings


def _walk(
    edges: dict[tuple[int, int], set[int]], corner: tuple[int, int], direction: int
) -> list[Ring]:
    """Follow the edges from a corner until it closes, taking them away; returns the rings.

    Where two pixels of the mask share this corner alone, the line turns right and stays with its
    own pixel. There it may come by a second time: what lies between is cut off as a ring.
    """
    rings: list[Ring] = []
    path: Ring = []
    directions: list[int] = []
    visited: dict[tuple[int, int], int] = {}
    while True:
        leaving = edges[corner]
        if path or rings:
            right = (direction + 1) % 4
            if right in leaving:
                direction = right
            elif path:
                (direction,) = leaving
            else:
                return rings
        leaving.remove(direction)
        visited[corner] = len(path)
        path.append(corner)
        directions.append(direction)
        corner = (corner[0] + STEPS[direction][0], corner[1] + STEPS[direction][1])
        first = visited.get(corner)
        if first is not None:
            rings.append(_corners(path[first:], directions[first:]))
            for passed in path[first:]:
                del visited[passed]
            del path[first:], directions[first:]


def _corners(path: Ring, directions: list[int]) -> Ring:
    """The corners of a closed path at which it turns."""
    return [
        corner
        for corner, before, after in zip(
            path, directions[-1:] + directions[:-1], directions, strict=True
        )
        if before != after
    ]


def _is_outer(ring: Ring) -> bool:
    """Whether a ring has its inside on its right, which the sign of its area shows."""
    following = ring[1:] + ring[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, following, strict=True)) > 0
