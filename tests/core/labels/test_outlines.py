"""Laws of outlines, with an even-odd filling and matplotlib's test of points as independent judges."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Line
from numpy.typing import NDArray
from scipy import ndimage

from core.labels.outlines import Ring, polygons_of

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def mask_of(text: str) -> NDArray[np.bool_]:
    return np.array([[sign == "#" for sign in row] for row in text.split()])


DIAGONAL = mask_of("#. .#")
CLOSED_BY_A_CORNER = mask_of("### #.# ##.")
HOLES_THAT_TOUCH = mask_of("#### #.## ##.# ####")
CHESS = np.indices((6, 7)).sum(axis=0) % 2 == 0


def filled(rings: list[Ring], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels whose middle is inside: an odd number of edges lies to the left of it."""
    crossed = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            if x0 == x1:
                crossed[min(y0, y1) : max(y0, y1), x0] += 1
    return np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1


def area(ring: Ring) -> float:
    return sum(
        x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True)
    ) / 2  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(mask=MASKS)
@example(mask=DIAGONAL)
@example(mask=CLOSED_BY_A_CORNER)
@example(mask=HOLES_THAT_TOUCH)
@example(mask=~HOLES_THAT_TOUCH)
@example(mask=CHESS)
@example(mask=np.zeros((3, 4), np.bool_))
@example(mask=np.ones((1, 1), np.bool_))
def test_polygons_filled_again_are_the_mask_piece_by_piece(mask: NDArray[np.bool_]) -> None:
    polygons = polygons_of(mask)
    pieces, count = ndimage.label(mask)
    assert len(polygons) == count
    for number, (outer, *holes) in enumerate(polygons, start=1):
        assert np.array_equal(filled([outer, *holes], mask.shape), pieces == number)
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)
        assert area(outer) + sum(map(area, holes)) == np.count_nonzero(pieces == number)


@settings(deadline=None, max_examples=200)
@given(mask=MASKS)
@example(mask=CLOSED_BY_A_CORNER)
@example(mask=HOLES_THAT_TOUCH)
@example(mask=CHESS)
def test_rings_are_simple_and_hold_corners_alone(mask: NDArray[np.bool_]) -> None:
    for polygon in polygons_of(mask):
        for ring in polygon:
            assert len(set(ring)) == len(ring) >= 4
            for (x0, y0), (x1, y1), (x2, y2) in zip(
                ring, ring[1:] + ring[:1], ring[2:] + ring[:2], strict=True
            ):
                assert (x0 == x1) != (y0 == y1), "edges run along the pixels"
                assert (x0 == x1) != (x1 == x2), "and turn at each corner"
                assert (y0 == y1) != (y1 == y2)


@settings(deadline=None, max_examples=60)
@given(mask=MASKS)
@example(mask=HOLES_THAT_TOUCH)
def test_matplotlib_finds_the_same_pixels_inside(mask: NDArray[np.bool_]) -> None:
    ys, xs = np.indices(mask.shape)
    middles = np.stack([xs.ravel() + 0.5, ys.ravel() + 0.5], axis=1)
    inside = np.zeros(mask.size, np.bool_)
    for outer, *holes in polygons_of(mask):
        of_piece = Line([*outer, outer[0]], closed=True).contains_points(middles)
        for hole in holes:
            of_piece &= ~Line([*hole, hole[0]], closed=True).contains_points(middles)
        assert not (inside & of_piece).any()
        inside |= of_piece
    assert np.array_equal(inside.reshape(mask.shape), mask)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (mask_of("#"), [[[(0, 0), (1, 0), (1, 1), (0, 1)]]]),
        (DIAGONAL, [[[(0, 0), (1, 0), (1, 1), (0, 1)]], [[(1, 1), (2, 1), (2, 2), (1, 2)]]]),
        (
            mask_of("### #.# ###"),
            [[[(0, 0), (3, 0), (3, 3), (0, 3)], [(2, 1), (1, 1), (1, 2), (2, 2)]]],
        ),
        (  # what a corner closes off is a hole, and the outer ring stays simple
            CLOSED_BY_A_CORNER,
            [
                [
                    [(0, 0), (3, 0), (3, 2), (2, 2), (2, 3), (0, 3)],
                    [(2, 2), (2, 1), (1, 1), (1, 2)],
                ]
            ],
        ),
    ],
)
def test_small_masks_have_the_outlines_that_a_person_would_draw(
    mask: NDArray[np.bool_], expected: list[list[Ring]]
) -> None:
    def from_smallest(ring: Ring) -> Ring:
        first = ring.index(min(ring))
        return ring[first:] + ring[:first]

    found = [[from_smallest(ring) for ring in polygon] for polygon in polygons_of(mask)]
    assert found == [[from_smallest(ring) for ring in polygon] for polygon in expected]
