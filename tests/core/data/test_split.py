"""Laws of hold-outs and folds."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.config import DataConfig
from core.data.dataset import Category, Dataset, assemble
from core.data.split import NEAR, Split, copies_by_name, group_names, parts_by_name, split
from core.data.synthetic import make_cells
from core.errors import DataError
from core.sample import Sample

GROUPS = r"^(patient\d+)_"


def data_of(counts_IC: Sequence[Sequence[int]], groups: Sequence[int] | None = None) -> Dataset:
    """A data set with so many instances of each class in each image; images of tiny size, since
    no pixel matters.
    """
    samples = []
    for index, counts in enumerate(counts_IC):
        labels = np.repeat(np.arange(1, len(counts) + 1), counts)
        maps = np.zeros((1, 1, max(1, len(labels))), np.uint16)
        maps[0, 0, : len(labels)] = np.arange(1, len(labels) + 1)
        group = groups[index] if groups is not None else index
        name = f"patient{group:03d}_{index:03d}"
        image = np.zeros((*maps.shape[1:], 3), np.uint8)
        samples.append(Sample(name, image, maps, labels, np.zeros(len(labels), np.bool_)))
    return assemble(
        "cells",
        [Category(number + 1, f"class{number + 1}") for number in range(len(counts_IC[0]))],
        samples,
    )


def group_of(dataset: Dataset, index: int) -> str:
    match = re.search(GROUPS, dataset.samples[index].name)
    assert match is not None
    return match[1]


@st.composite
def grouped_data(draw: st.DrawFn) -> Dataset:
    images = draw(st.integers(4, 40))
    classes = draw(st.integers(1, 4))
    row = st.lists(st.sampled_from([0, 0, 1, 3, 20]), min_size=classes, max_size=classes)
    counts = draw(st.lists(row, min_size=images, max_size=images))
    groups = draw(st.lists(st.integers(0, images // 2), min_size=images, max_size=images))
    return data_of(counts, groups)


configs = st.builds(
    DataConfig,
    validation_fraction=st.sampled_from([0.1, 0.2, 0.5, 0.8]),
    split_seed=st.integers(0, 5),
    group_pattern=st.sampled_from(["", GROUPS]),
)


def split_or_none(dataset: Dataset, config: DataConfig) -> Split | None:
    try:
        return split(dataset, config)
    except DataError:
        return None


@given(grouped_data(), configs)
@settings(max_examples=100, deadline=None)
def test_a_hold_out_divides_the_images_and_splits_no_group_and_both_parts_have_instances(
    dataset: Dataset, config: DataConfig
) -> None:
    parts = split_or_none(dataset, config)
    assume(parts is not None)
    assert parts is not None
    assert sorted(parts.train + parts.validation) == list(range(len(dataset.samples)))
    assert list(parts.train) == sorted(parts.train)
    assert list(parts.validation) == sorted(parts.validation)
    counts = dataset.instance_counts()
    assert counts[list(parts.train)].sum() > 0
    assert counts[list(parts.validation)].sum() > 0
    if config.group_pattern:
        train, validation = (
            {group_of(dataset, index) for index in part} for part in (parts.train, parts.validation)
        )
        assert not train & validation
    else:
        wanted = int(config.validation_fraction * len(dataset.samples) + 0.5)
        assert len(parts.validation) == min(max(1, wanted), len(dataset.samples) - 1)


@given(grouped_data(), st.integers(2, 6), st.integers(0, 3), st.sampled_from(["", GROUPS]))
@settings(max_examples=60, deadline=None)
def test_every_image_validates_in_exactly_one_fold_and_trains_in_the_others(
    dataset: Dataset, folds: int, seed: int, pattern: str
) -> None:
    parts = [
        split_or_none(
            dataset, DataConfig(folds=folds, fold=fold, split_seed=seed, group_pattern=pattern)
        )
        for fold in range(folds)
    ]
    assert len({part is None for part in parts}) == 1, "refused in one fold and not in another"
    assume(parts[0] is not None)
    everything = list(range(len(dataset.samples)))
    found = [part for part in parts if part is not None]
    assert sorted(index for part in found for index in part.validation) == everything
    assert all(sorted(part.train + part.validation) == everything for part in found)
    if pattern:
        homes = [{group_of(dataset, index) for index in part.validation} for part in found]
        assert sum(map(len, homes)) == len(set().union(*homes))
    else:
        sizes = [len(part.validation) for part in found]
        assert max(sizes) - min(sizes) <= 1


@given(grouped_data(), configs)
@settings(max_examples=30, deadline=None)
def test_a_split_depends_on_its_settings_and_the_data_alone(
    dataset: Dataset, config: DataConfig
) -> None:
    again = assemble("again", dataset.classes, dataset.samples[::-1])
    np.random.default_rng().random(3)
    assert split_or_none(dataset, config) == split_or_none(again, config)


@given(st.integers(20, 80), st.integers(2, 4), st.integers(0, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_a_rare_class_of_two_images_is_in_both_parts(
    images: int, rare: int, seed: int, data: st.DataObject
) -> None:
    counts = [[5, *[0] * rare] for _ in range(images)]
    homes = data.draw(st.permutations(range(images)))
    for column in range(rare):
        for index in homes[2 * column : 2 * column + 2]:
            counts[index][column + 1] = 3
    parts = split(data_of(counts), DataConfig(split_seed=seed))
    for part in (parts.train, parts.validation):
        assert np.all(np.array(counts)[list(part)].sum(axis=0) > 0)


def test_a_class_of_one_image_trains() -> None:
    counts = [[4, 0] for _ in range(20)]
    counts[7][1] = 9
    dataset = data_of(counts)
    assert all(7 in split(dataset, DataConfig(split_seed=seed)).train for seed in range(20))


@pytest.mark.parametrize(
    "config", [DataConfig(), DataConfig(folds=5), DataConfig(validation_fraction=0.35)]
)
def test_every_class_has_nearly_its_share_in_every_part(config: DataConfig) -> None:
    rng = np.random.default_rng(3)
    # Counts of 209 images as in small collections: two common classes, two rare ones, large
    # differences.
    counts = np.stack([rng.poisson(rng.gamma(0.6, mean, 209)) for mean in (60, 72, 6, 6)], axis=1)
    dataset = data_of(counts.tolist())
    target = 0.2 if config.folds else config.validation_fraction
    for seed in range(8):
        validation = split(dataset, config.model_copy(update={"split_seed": seed})).validation
        shares = counts[list(validation)].sum(axis=0) / counts.sum(axis=0)
        assert np.all(np.abs(shares / target - 1) <= NEAR + 0.03), shares


def test_splits_of_different_seeds_share_no_more_images_than_random_ones() -> None:
    rng = np.random.default_rng(4)
    counts = np.stack([rng.poisson(rng.gamma(0.6, mean, 100)) for mean in (60, 72, 6, 6)], axis=1)
    dataset = data_of(counts.tolist())
    held_out = [set(split(dataset, DataConfig(split_seed=seed)).validation) for seed in range(12)]
    shared = [len(one & other) for index, one in enumerate(held_out) for other in held_out[:index]]
    assert np.mean(shared) < 6.0  # 4 of 20 for independent draws


def test_groups_of_uneven_size_come_near_the_fraction() -> None:
    sizes = [30, 12, 9, 8, 8, 7, 6, 5, 5, 4, 3, 3]
    groups = np.repeat(np.arange(len(sizes)), sizes).tolist()
    dataset = data_of([[2, 3]] * sum(sizes), groups)
    for seed in range(10):
        validation = split(dataset, DataConfig(group_pattern=GROUPS, split_seed=seed)).validation
        assert abs(len(validation) / sum(sizes) - 0.2) <= 0.02


def test_a_large_data_set_is_split_in_little_time_and_evenly() -> None:
    rng = np.random.default_rng(5)
    counts = rng.poisson(rng.gamma(0.5, 3, (1500, 3)))
    counts[:, 2] = 0
    counts[[17, 930], 2] = 1
    dataset = data_of(counts.tolist())
    parts = split(dataset, DataConfig())
    assert len(parts.validation) == 300
    for part in (parts.train, parts.validation):
        assert np.all(dataset.instance_counts()[list(part)].sum(axis=0) > 0)


def test_synthetic_slides_are_kept_together() -> None:
    dataset = make_cells(images=12, side=48)
    parts = split(dataset, DataConfig(group_pattern=r"(slide\d+)_", validation_fraction=0.25))
    assert len({dataset.samples[index].name[:7] for index in parts.validation}) == 1
    assert len(parts.validation) == 3


@pytest.mark.parametrize(
    ("counts", "groups", "config", "told"),
    [
        ([[1]], None, DataConfig(), "a hold-out needs at least 2 images, and there is 1"),
        (
            [[1]] * 4,
            None,
            DataConfig(folds=5),
            "data.folds 5 needs at least 5 images, and there are 4",
        ),
        (
            [[1]] * 6,
            [1] * 6,
            DataConfig(group_pattern=GROUPS),
            "2 groups of images (data.group_pattern)",
        ),
        ([[1]] * 6, None, DataConfig(group_pattern=r"slide(\d)"), "finds none in 'patient000_000'"),
        (
            [[1]] * 6,
            None,
            DataConfig(group_pattern=r"patient|(x)"),
            "finds none in 'patient000_000'",
        ),
        (
            [[0]] * 6,
            None,
            DataConfig(),
            (
                "the validation part must hold an instance, and that of the hold-out holds none in"
                " 1 image; of 6 images 0 have any"
            ),
        ),
        ([[1], [0], [0]], None, DataConfig(), "must hold an instance"),
        ([[1], [1], [0]], None, DataConfig(folds=3), "of 3 images 2 have any"),
    ],
)
def test_what_cannot_be_split_is_refused(
    counts: list[list[int]], groups: list[int] | None, config: DataConfig, told: str
) -> None:
    with pytest.raises(DataError, match=f"^cells: .*{re.escape(told)}"):
        split(data_of(counts, groups), config)


def test_the_only_two_images_with_instances_go_to_different_parts() -> None:
    counts = [[0]] * 20
    counts[3] = counts[11] = [4]
    for seed in range(10):
        parts = split(data_of(counts), DataConfig(split_seed=seed))
        assert len({3, 11} & set(parts.validation)) == 1


ROBOFLOW = [f"slide{k}_png.rf.{v}{'0123456789abcdef' * 2}.jpg" for k in range(6) for v in range(3)]
BY_HAND = [
    f"cell{k:02d}{change}.png" for k in range(6) for change in ("", "_flip", "_rot90", "_aug_3")
]
CROPS = [f"train_{k}_{y}_{x}" for k in range(1, 28) for y in (0, 500) for x in (0, 500)]
PATCHES = [f"train_{k}_{number:03d}.png" for k in range(1, 28) for number in range(16)]
NUMBERED = [f"{k}_{number}.tif" for k in range(30) for number in (1, 2, 3, 4)]
FIELDS = [f"patient{k:02d}-img{number}" for k in range(8) for number in range(3)]
QUARTERS = [f"slide {name}_{part}.tif" for name in "abc" for part in (1, 2, 3, 4)]
WINDOWS = [f"biopsy {k} ({number}).jpg" for k in range(6) for number in (1, 2)]


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (ROBOFLOW, ROBOFLOW[:3]), (BY_HAND, BY_HAND[:4]), ([*ROBOFLOW, "alone.png"], ROBOFLOW[:3]),
    ],
)  # fmt: skip
def test_copies_are_known_by_their_names(names: list[str], first: list[str]) -> None:
    found = copies_by_name(names)
    assert found is not None
    assert list(found.groups[0]) == first
    assert len(found.groups) == 6
    assert len(
        set(group_names(names, DataConfig(group_pattern=found.pattern).group_pattern, "here"))
    ) == len({name.split(".rf.")[0] for name in names} if names is not BY_HAND else found.groups)


@pytest.mark.parametrize(
    ("names", "first", "pattern"),
    [
        (CROPS, CROPS[:4], r"^(.+)_\d+_\d+$"),
        (PATCHES, PATCHES[:16], r"^(.+)_[A-Za-z]*(\d+)\.\w+$"),
        (NUMBERED, NUMBERED[:4], r"^(.+)_[A-Za-z]*(\d+)\.\w+$"),
        (FIELDS, FIELDS[:3], r"^(.+)-[A-Za-z]*(\d+)$"),
        (WINDOWS, WINDOWS[:2], r"^(.+?) ?\((\d+)\)\.\w+$"),
        (QUARTERS, QUARTERS[:4], r"^(.+)_[A-Za-z]*(\d+)\.\w+$"),
    ],
)
def test_parts_of_one_slide_are_known_by_their_names(
    names: list[str], first: list[str], pattern: str
) -> None:
    assert copies_by_name(names) is None
    found = parts_by_name(names)
    assert found is not None
    assert list(found.groups[0]) == first
    assert found.pattern == pattern
    assert len(
        set(group_names(names, DataConfig(group_pattern=pattern).group_pattern, "here"))
    ) == len(found.groups)


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{number:03d}.png" for number in range(1, 201)],
        [f"{number}.tif" for number in range(200)],
        [f"train_{number}" for number in range(80)] + [f"val_{number}" for number in range(20)],
        [
            f"IMG_2024{month:02d}{day:02d}_14{day:02d}{month:02d}.jpg"
            for month in range(1, 13)
            for day in range(1, 9)
        ],
        [f"{number:08x}-{number * 7919 % 65536:04x}.png" for number in range(100)],
        [f"cell_{number * 7919 % 1000}_{number * 104729 % 1000}.png" for number in range(100)],
        [f"image ({number}).png" for number in range(1, 50)],
        ["rotor_1.png", "rotor_2.png", "flipper_1.png", "flipper_2.png"],
        [f"{kind}_{number}.png" for kind in ("benign", "malignant") for number in range(1, 31)],
        [f"{kind}_{number}.png" for kind in "abc" for number in range(ord(kind) - 92)],
        [f"slide{number}_png.rf.{number:032x}.jpg" for number in range(50)],
        ["a", "b"],
        [],
    ],
)
def test_names_that_only_number_their_images_are_no_groups(names: list[str]) -> None:
    assert copies_by_name(names) is None
    assert parts_by_name(names) is None
