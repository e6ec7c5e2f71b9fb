"""Laws of cells: each pixel has one owner, and what is measured agrees with closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.prediction import cells as cells_module
from core.prediction.cells import cells_of, extent_of
from core.sample import Detections, MaskCrop

SEEDS = st.integers(0, 2**32 - 1)
HEIGHT, WIDTH = 23, 31


def some_detections(seed: int, count: int) -> Detections:
    """Random masks that overlap much, with scores of which some are equal."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        y0, x0 = int(rng.integers(0, HEIGHT)), int(rng.integers(0, WIDTH))
        h, w = int(rng.integers(1, HEIGHT - y0 + 1)), int(rng.integers(1, WIDTH - x0 + 1))
        pixels = rng.random((h, w)) < 0.7
        pixels[0, 0] = True
        masks.append(MaskCrop(y0, x0, pixels))
    scores = np.sort(rng.integers(1, 10, count).astype(np.float32) / 10)[::-1].copy()
    boxes = np.zeros((count, 4), np.float32)
    return Detections(boxes, rng.integers(1, 4, count), scores, tuple(masks))


def whole(mask: MaskCrop) -> np.ndarray:
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    h, w = mask.pixels.shape
    full[mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w] = mask.pixels
    return full


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, count=st.integers(0, 12), least=st.sampled_from([0.0, 0.3, 0.55, 1.0]))
def test_a_pixel_belongs_to_the_best_detection_that_covers_it(
    seed: int, count: int, least: float
) -> None:
    found = some_detections(seed, count)
    cells = cells_of(found, HEIGHT, WIDTH, least)
    counted = [index for index in range(count) if found.scores_N[index] >= least]
    owner = np.full((HEIGHT, WIDTH), -1)
    for index in reversed(counted):  # painted over one another, the best last
        owner[whole(found.masks[index])] = index
    owners = [index for index in counted if (owner == index).any()]
    assert [cell.number for cell in cells.found] == list(range(1, len(owners) + 1))
    assert cells.covered == len(counted) - len(owners)
    assert cells.label_image.dtype == np.uint16
    for cell, index in zip(cells.found, owners, strict=True):
        assert np.array_equal(cells.label_image == cell.number, owner == index)
        assert np.array_equal(whole(cell.mask), owner == index)
        assert (cell.label, cell.score) == (found.labels_N[index], found.scores_N[index])
    assert np.array_equal(cells.label_image == 0, owner == -1)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_the_measures_of_a_cell_are_those_of_its_pixels(seed: int) -> None:
    (mask,) = some_detections(seed, 1).masks
    extent = extent_of(mask)
    ys, xs = np.nonzero(whole(mask))
    assert extent.area == len(ys)
    assert (extent.centroid_x, extent.centroid_y) == pytest.approx(
        (xs.mean() + 0.5, ys.mean() + 0.5)
    )
    assert (extent.x0, extent.y0, extent.x1, extent.y1) == (
        xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    )  # fmt: skip


def test_a_rectangle_and_a_disc_have_the_measures_of_their_closed_forms() -> None:
    rectangle = extent_of(MaskCrop(4, 10, np.ones((6, 20), np.bool_)))
    assert (rectangle.area, rectangle.centroid_x, rectangle.centroid_y) == (120, 20, 7)
    assert (rectangle.x0, rectangle.y0, rectangle.x1, rectangle.y1) == (10, 4, 30, 10)
    assert rectangle.equivalent_diameter == pytest.approx(math.sqrt(4 * 120 / math.pi))
    y, x = np.mgrid[:201, :201]
    disc = extent_of(MaskCrop(0, 0, (x - 100) ** 2 + (y - 100) ** 2 <= 80.5**2))
    assert disc.area == pytest.approx(math.pi * 80.5**2, rel=2e-3)
    assert disc.equivalent_diameter == pytest.approx(161, rel=1e-3)
    assert (disc.centroid_x, disc.centroid_y) == pytest.approx((100.5, 100.5))


def test_more_detections_than_16_bits_count_get_32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, "MAX_INSTANCES", 2)
    found = some_detections(0, 3)
    assert cells_of(found, HEIGHT, WIDTH, 0.0).label_image.dtype == np.uint32
    assert cells_of(found, HEIGHT, WIDTH, 2.0).label_image.dtype == np.uint16
