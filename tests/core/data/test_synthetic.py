"""Laws of the synthetic data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from core.data import load_data
from core.data.dataset import Dataset
from core.data.synthetic import CLASSES, MOST_HIDDEN, make_cells, write_hw3
from core.errors import DataError

GOLDEN = "37fade8a2836cf477ba00e73b5d74d1efdc6f663fe67e6f01aac7551f9f12203"
DATA = make_cells()


def test_the_pixels_are_the_same_on_every_machine() -> None:
    # Changes only on purpose: measured numbers elsewhere rest on these very pixels.
    assert make_cells(images=4, side=64, seed=7).fingerprint == GOLDEN


def test_the_word_synthetic_loads_it() -> None:
    assert load_data("synthetic").fingerprint == DATA.fingerprint


def test_a_field_does_not_depend_on_how_many_are_drawn_and_depends_on_the_seed() -> None:
    few = make_cells(images=2)
    for one, other in zip(few.samples, DATA.samples, strict=False):
        assert one.name == other.name
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label_maps, other.label_maps)
    assert make_cells(images=2, seed=1).fingerprint != few.fingerprint


def test_by_default_there_are_24_fields_of_96_to_128_pixels_with_about_ten_cells_of_four_classes() -> (
    None
):
    assert len(DATA.samples) == 24
    assert all(96 <= length <= 128 for sample in DATA.samples for length in sample.size)
    counts = DATA.instance_counts()
    assert counts.sum(axis=1).min() >= 7
    assert counts.sum(axis=1).max() <= 14
    assert counts.sum(axis=0).min() >= 20
    assert counts.sum(axis=0).max() < 5 * counts.sum(axis=0).min()


def test_instances_are_numbered_from_one_and_each_is_one_visible_piece() -> None:
    for sample in make_cells(images=9, side=96, seed=2).samples:
        assert set(np.unique(sample.label_maps)) - {0} == set(range(1, len(sample.labels_N) + 1))
        for number in range(1, len(sample.labels_N) + 1):
            pixels = sample.label_maps[0] == number
            assert ndimage.label(pixels)[1] == 1
            assert np.count_nonzero(pixels) >= (1 - MOST_HIDDEN) * 14


def test_some_cells_touch() -> None:
    touching = 0
    for sample in DATA.samples:
        label_map = sample.label_maps[0]
        for one, other in ((label_map[:, 1:], label_map[:, :-1]), (label_map[1:], label_map[:-1])):
            touching += np.any((one != other) & (one > 0) & (other > 0))
    assert touching >= 10


def measures(data: Dataset) -> dict[str, list[np.ndarray]]:
    """Area, length over width and mean colour, a list a class."""
    found: dict[str, list[list[float]]] = {
        "area": [[], [], [], []],
        "length": [[], [], [], []],
        "light": [[], [], [], []],
    }
    for sample in data.samples:
        for number, label in enumerate(sample.labels_N, start=1):
            pixels = sample.label_maps[0] == number
            spread = np.linalg.eigvalsh(np.cov(np.argwhere(pixels).T))
            found["area"][label - 1].append(np.count_nonzero(pixels))
            found["length"][label - 1].append(float(np.sqrt(spread[1] / spread[0])))
            found["light"][label - 1].append(float(sample.image[pixels].mean()))
    return {key: [np.array(values) for values in lists] for key, lists in found.items()}


def test_classes_differ_in_size_shape_and_colour_but_overlap() -> None:
    found = measures(DATA)
    area, length, light = (
        [np.median(values) for values in found[key]] for key in ("area", "length", "light")
    )
    assert area[0] > 1.5 * area[1]
    assert length[2] > 1.6 * max(length[0], length[1], length[3])
    assert light[0] > light[1] + 20
    assert found["area"][0].min() < found["area"][1].max()
    assert found["light"][0].min() < found["light"][1].max()


def test_nuclei_are_darker_and_bluer_than_the_tissue_around_them() -> None:
    for sample in DATA.samples:
        inside = sample.label_maps[0] > 0
        nuclei, tissue = sample.image[inside].mean(axis=0), sample.image[~inside].mean(axis=0)
        assert nuclei.mean() < tissue.mean() - 40
        assert nuclei[2] > nuclei[0]
        assert tissue[0] > tissue[1] + 5


def test_what_hw3_cannot_hold_is_refused(tmp_path: Path) -> None:
    sample = DATA.samples[0]
    crowd = replace(sample, crowd_N=np.ones(len(sample.labels_N), np.bool_))
    with pytest.raises(DataError, match="no crowd regions"):
        write_hw3(replace(DATA, samples=(crowd,)), tmp_path)
    maps = np.zeros((2, *sample.size), np.uint16)
    maps[0, :5, :5], maps[1, 4:9, :5] = 1, 2
    labels = np.array([1, 1])
    overlap = replace(sample, label_maps=maps, labels_N=labels, crowd_N=np.zeros(2, np.bool_))
    with pytest.raises(DataError, match=f"instances of {CLASSES[0].name} overlap"):
        write_hw3(replace(DATA, samples=(overlap,)), tmp_path)
    write_hw3(
        replace(DATA, samples=(replace(overlap, labels_N=np.array([1, 2])),)), tmp_path / "good"
    )
    np.testing.assert_array_equal(load_data(str(tmp_path / "good")).samples[0].label_maps, maps)
