"""Laws of the measurement of a data set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.data import measure as measuring
from core.data.dataset import assemble
from core.data.measure import SIDES, Measurement, measure, most_in_window
from core.data.synthetic import make_cells

DATA = make_cells(images=5, side=64)

boxes = st.lists(
    st.tuples(st.integers(0, 36), st.integers(0, 26), st.integers(1, 14), st.integers(1, 14)),
    max_size=12,
)


def in_windows(boxes_N4: NDArray[np.int64], side: int) -> int:
    """The most boxes that a window of `side` pixels at any place of a 50 x 40 image meets."""
    x0, y0, x1, y1 = boxes_N4.T
    return max(
        int(((x0 < x + side) & (x1 > x) & (y0 < y + side) & (y1 > y)).sum())
        for x in range(50)
        for y in range(40)
    )


@given(boxes, st.sampled_from([8, 16, 32, 64]))
def test_no_window_holds_more_and_some_window_longer_by_a_quarter_holds_as_many(
    drawn: list[tuple[int, int, int, int]], side: int
) -> None:
    boxes_N4 = np.array([(x, y, x + w, y + h) for x, y, w, h in drawn], np.int64).reshape(-1, 4)
    found = most_in_window(boxes_N4, (40, 50), side)
    assert in_windows(boxes_N4, side) <= found <= in_windows(boxes_N4, side + side // 4)


def test_cells_are_the_boxes_of_instances_and_no_crowd_region_is_one() -> None:
    found = measure(DATA)
    assert found.images == tuple(sample.size for sample in DATA.samples)
    expected = []
    for sample in DATA.samples:
        for number in range(1, len(sample.labels_N) + 1):
            rows, columns = np.nonzero((sample.label_maps == number).any(axis=0))
            if len(rows):
                sides = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
                expected.append((*sample.size, *sides))
    assert sorted(found.cells) == sorted(expected)
    assert found.crowded == DATA.instance_counts().sum(axis=1).max()
    crowd = [replace(one, crowd_N=np.ones_like(one.crowd_N)) for one in DATA.samples]
    nothing = measure(assemble("crowd", DATA.classes, crowd))
    assert (nothing.cells, nothing.crowded, set(nothing.windows)) == ((), 0, {0})


def test_a_measurement_passes_through_json_unchanged() -> None:
    found = measure(DATA)
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_is_kept_of_a_large_data_set_is_bounded_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = measure(DATA)
    monkeypatch.setattr(measuring, "MOST_INSTANCES", 7)
    monkeypatch.setattr(measuring, "MOST_IMAGE_SIZES", 2)
    some = measure(DATA)
    assert some == measure(DATA)
    assert (len(some.cells), len(some.images)) == (7, 2)
    assert set(some.cells) <= set(whole.cells)
    assert (some.crowded, some.windows) == (whole.crowded, whole.windows)


@given(st.integers(0, 10_000))
def test_a_larger_window_is_as_crowded_at_least(side: int) -> None:
    data = Measurement(((9000, 9000),), (), 99, tuple(range(len(SIDES))))
    assert data.crowded_in(side) <= data.crowded_in(0) == 99
    assert side == 0 or data.crowded_in(side) <= data.crowded_in(side + 50)
