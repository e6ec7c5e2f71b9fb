"""Laws of the changes that are our own: turns, scale and stains."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from core.augment.changes import STAINS, Rescaled, Restained, Turned

SEEDS = st.integers(0, 2**63 - 1)


def columns(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """An image whose red is the column and whose green is the row, and two label maps of which one
    holds an instance for each column, and the other one for each row.
    """
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    return image, np.stack([x + 1, width + y + 1]).astype(np.uint16)


def test_a_turn_is_by_one_two_or_three_quarters_equally_often() -> None:
    image, label_maps = columns(5, 4)
    counts = [0, 0, 0]
    for seed in range(600):
        turned, turned_maps = Turned(1.0)(image, label_maps, seed)
        (quarters,) = [k for k in (1, 2, 3) if np.array_equal(turned, np.rot90(image, k))]
        for one, other in zip(turned_maps, label_maps, strict=True):
            assert np.array_equal(one, np.rot90(other, quarters))
        counts[quarters - 1] += 1
    assert all(abs(count - 200) < 60 for count in counts), counts  # SD 12


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 90), st.integers(1, 90), st.floats(0.1, 1), st.floats(1, 10))
def test_a_change_of_scale_takes_one_window_to_another_and_labels_with_it(
    seed: int, height: int, width: int, low: float, high: float
) -> None:
    image, label_maps = columns(height, width)
    changed, changed_maps = Rescaled(1.0, low, high)(image, label_maps, seed)
    assert (changed.shape, changed_maps.shape) == (image.shape, label_maps.shape)
    inside = changed_maps[0] > 0
    assert np.array_equal(inside, changed_maps[1] > 0)
    rows, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert inside.sum() == len(rows) * len(across)  # a rectangle
    column = changed_maps[0, rows[0], across].astype(int) - 1
    row = changed_maps[1, rows, across[0]].astype(int) - width - 1
    assert (changed_maps[0][inside].reshape(len(rows), -1) == column + 1).all()
    for found, side, shown in ((column, width, len(across)), (row, height, len(rows))):
        assert (np.diff(found) >= 0).all()
        source = 1 + found[-1] - found[0]
        # The image grows and fills the canvas, or all of it is in the canvas.
        assert shown == side or source >= side - side / shown
    # Colours, that of the column among them, are those of the labels to within a pixel.
    off = changed[rows[0] : rows[-1] + 1, across[0] : across[-1] + 1, 0] - (column + 0.0)
    assert abs(off).max() <= max(1, math.ceil(width / len(across)))


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.9), (1.1, 3.0)])
def test_labels_are_not_shifted_against_the_image(low: float, high: float) -> None:
    image, label_maps = columns(50, 60)
    means = []
    for seed in range(100):
        # Four grey levels a column: OpenCV's rounding is then small beside a pixel.
        changed, changed_maps = Rescaled(1.0, low, high)(4 * image, label_maps, seed)
        inside = changed_maps[0] > 0
        means.append(np.mean(changed[..., 0][inside] / 4 - (changed_maps[0][inside] - 1.0)))
    assert abs(np.mean(means)) < 0.1, np.mean(means)


def test_factors_have_a_uniform_logarithm() -> None:
    image, label_maps = columns(250, 250)
    logs = []
    for seed in range(300):
        _, changed_maps = Rescaled(1.0, 0.2, 5.0)(image, label_maps, seed)
        across = np.flatnonzero(changed_maps[0].any(axis=0))
        shown = changed_maps[0, changed_maps[0].any(axis=1)][0, across].astype(int)
        logs.append(math.log(len(across) / (1 + shown[-1] - shown[0])) / math.log(5))
    assert stats.kstest(logs, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_a_factor_of_one_changes_nothing() -> None:
    image, label_maps = columns(30, 40)
    same, same_maps = Rescaled(1.0, 1.0, 1.0)(image, label_maps, 3)
    assert np.array_equal(same, image)
    assert np.array_equal(same_maps, label_maps)


def every_colour(seed: int) -> NDArray[np.uint8]:
    colours = np.random.default_rng(seed).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    colours[0, 0], colours[0, 1] = 0, 255
    return colours


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_stains_that_do_not_change_leave_the_image_as_it_is(seed: int) -> None:
    image = every_colour(seed % 100)
    changed, _ = Restained(1.0, 0.0, 0.0)(image, np.zeros((1, 40, 30), np.uint16), seed)
    assert np.array_equal(changed, image)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_amount_of_each_stain_is_multiplied_and_shifted_by_itself(
    seed: int, alpha: float, beta: float
) -> None:
    """The formula of the paper, pixel by pixel, with the draws in their order."""
    image = every_colour(seed % 100)
    changed, _ = Restained(1.0, alpha, beta)(image, np.zeros((1, 40, 30), np.uint16), seed)
    rng = np.random.default_rng(seed)
    rng.random()
    factors, shifts = rng.uniform(1 - alpha, 1 + alpha, 3), rng.uniform(-beta, beta, 3)
    for before, after in zip(image.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
        density = -np.log10((before + 1.0) / 256)
        amounts = np.linalg.solve(STAINS.T, density)
        wanted = 256 * 10 ** -((factors * amounts + shifts) @ STAINS) - 1
        assert np.abs(np.clip(wanted, 0, 255) - after).max() <= 0.51


def test_more_haematoxylin_makes_a_nucleus_darker_and_leaves_its_hue() -> None:
    """A pixel that holds this stain alone moves along the stain's own line of densities."""
    light = np.rint(256 * 10 ** -(0.6 * STAINS[0]) - 1).astype(np.uint8)
    image = np.broadcast_to(light, (1, 1, 3)).copy()
    for seed in range(20):
        changed, _ = Restained(1.0, 0.5, 0.0)(image, np.zeros((1, 1, 1), np.uint16), seed)
        ratio = np.log10((changed[0, 0] + 1) / 256) / np.log10((light + 1) / 256)
        assert np.ptp(ratio) < 0.05
        assert 0.5 - 0.05 < ratio.mean() < 1.5 + 0.05
