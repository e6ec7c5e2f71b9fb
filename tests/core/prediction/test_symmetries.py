"""Laws of the eight symmetries of a square."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.config import PredictConfig
from core.prediction.symmetries import SYMMETRIES, Symmetry, symmetries
from core.sample import Detections, MaskCrop

PICTURE = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)


def test_each_way_to_look_holds_the_one_before_and_there_are_one_two_four_and_eight() -> None:
    kinds = [SYMMETRIES[name] for name in ("none", "mirror", "flips", "all")]
    assert [len(kind) for kind in kinds] == [1, 2, 4, 8]
    for fewer, more in pairwise(kinds):
        assert more[: len(fewer)] == fewer
    assert kinds[0] == (Symmetry(),)
    assert np.array_equal(Symmetry().of(PICTURE), PICTURE)


def test_the_eight_pictures_are_all_that_turns_and_a_mirror_make() -> None:
    seen = {one.of(PICTURE).tobytes() for one in SYMMETRIES["all"]}
    turned = [np.rot90(PICTURE, turns) for turns in range(4)]
    mirrored = [one[:, ::-1] for one in turned]
    assert seen == {one.tobytes() for one in (*turned, *mirrored)}
    assert len(seen) == 8


@given(st.sampled_from(SYMMETRIES["all"]), st.integers(0, 2**32 - 1))
def test_what_is_seen_through_a_symmetry_is_brought_back(symmetry: Symmetry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(4, 20, 2))
    y0, x0 = int(rng.integers(height - 2)), int(rng.integers(width - 2))
    y1, x1 = int(rng.integers(y0 + 1, height + 1)), int(rng.integers(x0 + 1, width + 1))
    full = np.zeros((height, width), np.bool_)
    full[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.5
    full[[y0, y1 - 1], [x0, x1 - 1]] = True
    painted = symmetry.of(np.repeat(full[:, :, None], 3, axis=2).astype(np.uint8))[:, :, 0] > 0
    back = symmetry.undo(tight(painted), *painted.shape)
    expected = tight(full)
    assert np.array_equal(back.boxes_N4, expected.boxes_N4)
    assert (back.masks[0].y0, back.masks[0].x0) == (expected.masks[0].y0, expected.masks[0].x0)
    assert np.array_equal(back.masks[0].pixels, expected.masks[0].pixels)


def tight(full: NDArray[np.bool_]) -> Detections:
    (rows,), (columns,) = np.nonzero(full.any(axis=1)), np.nonzero(full.any(axis=0))
    y0, x0, y1, x1 = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return Detections(
        np.array([[x0, y0, x1, y1]], np.float32),
        np.array([1]),
        np.array([0.5], np.float32),
        (MaskCrop(int(y0), int(x0), full[y0:y1, x0:x1]),),
    )


@pytest.mark.parametrize("views", list(SYMMETRIES))
def test_the_older_setting_adds_the_mirror_where_it_is_missing(views: str) -> None:
    wanted = symmetries(PredictConfig.model_validate({"views": views, "flips": True}))
    assert wanted == SYMMETRIES["mirror" if views == "none" else views]
    assert symmetries(PredictConfig.model_validate({"views": views})) == SYMMETRIES[views]
