"""Laws of a data set in memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.data.dataset import Category, assemble, fingerprint, place_labels, renumber
from core.data.synthetic import make_cells
from core.errors import DataError
from core.sample import Sample

DATA = make_cells(images=3, side=48)


def with_changed(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] ^= 1
    return changed


@pytest.mark.parametrize("field", ["image", "label_maps", "labels_N", "crowd_N"])
def test_the_fingerprint_covers_every_array(field: str) -> None:
    first, *others = DATA.samples
    changed = replace(first, **{field: with_changed(getattr(first, field))})
    assert fingerprint(DATA.classes, [changed, *others]) != DATA.fingerprint


def test_the_fingerprint_covers_classes_names_and_the_set_of_images() -> None:
    first, *others = DATA.samples
    prints = {
        DATA.fingerprint,
        fingerprint(DATA.classes, [replace(first, name="another"), *others]),
        fingerprint(DATA.classes, others),
        fingerprint((*DATA.classes[:3], Category(4, "another")), DATA.samples),
        fingerprint((*DATA.classes[:3], Category(5, "class4")), DATA.samples),
    }
    assert len(prints) == 5


def test_samples_come_in_the_order_of_their_names_whatever_the_order_they_were_read_in() -> None:
    again = assemble("again", DATA.classes, DATA.samples[::-1])
    assert [sample.name for sample in again.samples] == sorted(
        sample.name for sample in DATA.samples
    )
    assert again.fingerprint == DATA.fingerprint == fingerprint(DATA.classes, DATA.samples[::-1])


def test_arrays_are_contiguous_and_read_only_and_those_of_the_caller_stay_writable() -> None:
    image = np.zeros((3, 6, 8), np.uint8).transpose(2, 1, 0)
    labels = np.ones(1, np.int64)
    maps = np.ones((1, 8, 6), np.uint16)
    sample = assemble(
        "one", DATA.classes, [Sample("a", image, maps, labels, np.zeros(1, np.bool_))]
    ).samples[0]
    for array in (sample.image, sample.label_maps, sample.labels_N, sample.crowd_N):
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    assert image.flags.writeable
    assert labels.flags.writeable


def test_crowd_regions_are_not_counted_as_instances() -> None:
    maps = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    labels = np.array([1, 1, 2, 4, 4, 4, 4, 4, 4, 4, 4])
    crowd = np.zeros(11, np.bool_)
    crowd[[0, 2]] = True
    sample = Sample("a", np.zeros((3, 4, 3), np.uint8), maps, labels, crowd)
    assert assemble("one", DATA.classes, [sample]).instance_counts().tolist() == [[1, 0, 0, 8]]


@given(
    ids=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0.0, 1.0, 4.0, 1e15, 7.0]),
    ),
    first=st.integers(1, 60_000),
)
def test_renumbering_keeps_the_division_into_instances_and_their_order(
    ids: np.ndarray, first: int
) -> None:
    labels, count = renumber(ids, first)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(first, first + count))
    pairs = sorted(set(zip(ids.ravel().tolist(), labels.ravel().tolist(), strict=True)))
    assert [value for value, _ in pairs] == np.unique(ids).tolist()
    assert all(low[1] < high[1] for low, high in itertools.pairwise(pairs))
    assert all((value == 0) == (label == 0) for value, label in pairs)


def test_renumbering_refuses_what_sixteen_bits_cannot_count() -> None:
    ids = np.array([[3, 9]])
    assert renumber(ids, 65_534)[0].tolist() == [[65_534, 65_535]]
    with pytest.raises(DataError, match="65,535 instances"):
        renumber(ids, 65_535)


@given(
    windows=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 5),
            hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 4))).filter(np.any),
        ),
        max_size=12,
    )
)
def test_placed_instances_are_whole_in_the_first_map_where_they_fit(
    windows: list[tuple[int, int, np.ndarray]],
) -> None:
    maps = [np.zeros((9, 9), np.uint16)]
    placed: list[np.ndarray] = []
    homes: list[int] = []
    for number, (y0, x0, mask) in enumerate(windows, start=1):
        place_labels(maps, mask * np.uint16(number), y0, x0)
        full = np.zeros((9, 9), np.bool_)
        full[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
        taken = {home for home, other in zip(homes, placed, strict=True) if np.any(other & full)}
        homes.append(next(home for home in range(len(windows) + 1) if home not in taken))
        placed.append(full)
    stack = np.stack(maps)
    assert len(maps) == 1 + max(homes, default=0)
    for number, (home, full) in enumerate(zip(homes, placed, strict=True), start=1):
        np.testing.assert_array_equal(stack[home] == number, full)
        assert np.count_nonzero(stack == number) == np.count_nonzero(full)
