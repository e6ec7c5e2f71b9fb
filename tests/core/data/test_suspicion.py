"""Laws of what looks wrong in annotations that can be read: what is suspected, what is not, and
the way out.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from core.config import DataConfig
from core.data import inspect_data, load_data
from core.data.dataset import Category, Dataset, assemble
from core.data.suspicion import SLIVER, components, shapes_of, split_components, suspicions
from core.data.synthetic import make_cells
from core.errors import DataError
from core.sample import Sample

SIDE = 96
Labels = NDArray[np.uint16]


def cells(seed: int, count: int = 12) -> Labels:
    """Round cells that do not touch, on a grid with some disorder; uint16 [SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number in range(1, count + 1):
        row, column = divmod(number - 1, 4)
        y, x = 12 + 24 * row + rng.uniform(-3, 3), 12 + 24 * column + rng.uniform(-3, 3)
        labels[np.hypot(rows - y, columns - x) < rng.uniform(5, 8)] = number
    return labels


def sample_of(
    name: str,
    *label_maps: Labels,
    classes: list[int] | None = None,
    crowd: list[bool] | None = None,
) -> Sample:
    count = max(int(label_map.max()) for label_map in label_maps)
    image = np.random.default_rng(list(name.encode())).integers(
        0, 256, (*label_maps[0].shape, 3), np.uint8
    )
    return Sample(
        name,
        image,
        np.stack(label_maps),
        np.array(classes or [1] * count, np.int64),
        np.array(crowd or [False] * count, np.bool_),
    )


def data_of(*samples: Sample) -> Dataset:
    return assemble("cells", [Category(1, "nucleus"), Category(2, "other")], samples)


def five(build: Callable[[int], Sample]) -> Dataset:
    return data_of(*(build(seed) for seed in range(5)))


def suspected(dataset: Dataset, **settings: object) -> list[str]:
    problems, _ = suspicions(dataset, DataConfig.model_validate(settings), "somewhere")
    assert all(problem.suspicious and problem.place == "somewhere" for problem in problems)
    assert all("data.allow_suspicious=true" in problem.message for problem in problems)
    return [problem.message for problem in problems]


def noted(dataset: Dataset) -> list[str]:
    return suspicions(dataset, DataConfig(), "somewhere")[1]


def write_hw3(folder: Path, save: Callable[[Path, Labels], object]) -> str:
    for seed in range(5):
        place = folder / "train" / f"slide{seed}"
        place.mkdir(parents=True)
        labels = cells(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), np.uint8)
        tifffile.imwrite(place / "image.tif", pixels, photometric="rgb")
        save(place, labels)
    return str(folder)


label_maps = arrays.arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, 3),
    fill=st.just(0),
)


@given(label_maps)
@settings(deadline=None, max_examples=300)
def test_components_are_those_that_scipy_finds_instance_by_instance(label_map: Labels) -> None:
    pieces, owners = components(label_map)
    number = 0
    for instance in np.unique(label_map[label_map > 0]):
        expected, count = ndimage.label(label_map == instance, np.ones((3, 3)))
        assert owners[number : number + count].tolist() == [instance] * count
        inside = np.where(label_map == instance, pieces, 0)
        pairs = {
            (a, b)
            for a, b in zip(expected.ravel().tolist(), inside.ravel().tolist(), strict=True)
            if a or b
        }
        assert len(pairs) == count
        assert {b for _, b in pairs} == set(range(number + 1, number + count + 1))
        number += count
    assert len(owners) == number
    assert not pieces[label_map == 0].any()


@given(label_maps)
@settings(deadline=None, max_examples=100)
def test_shapes_are_measured_as_scipy_measures_them(label_map: Labels) -> None:
    ids = np.unique(label_map[label_map > 0])
    compact = np.searchsorted(ids, label_map).astype(np.uint16) + (label_map > 0)
    if not len(ids):
        return
    found = shapes_of(sample_of("a", np.where(label_map > 0, compact, 0).astype(np.uint16)))
    for row, instance in enumerate(ids):
        mask = label_map == instance
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        beside = ndimage.binary_dilation((label_map > 0) & ~mask)
        assert found.areas_N[row] == mask.sum()
        assert found.boxes_N4[row].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert found.pieces_N[row] == count
        assert found.largest_N[row] == np.bincount(labelled.ravel())[1:].max()
        assert found.touching_N[row] == np.count_nonzero(mask & beside)
        pieces = [labelled == number for number in range(1, count + 1)]
        assert found.slivers_N[row] == sum(
            np.count_nonzero(one & beside) >= SLIVER * one.sum() for one in pieces
        )


def test_cells_that_are_well_annotated_raise_no_suspicion() -> None:
    assert suspicions(make_cells(), DataConfig(), "x") == ([], [])
    assert suspicions(five(lambda seed: sample_of(f"a{seed}", cells(seed))), DataConfig(), "x") == (
        [],
        [],
    )


def test_a_few_large_cells_raise_no_suspicion() -> None:
    def large(seed: int) -> Sample:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        labels = (np.hypot(rows - 50, columns - 44 - seed) < 40).astype(
            np.uint16
        )  # half of the image
        labels[:20, :20] = 2
        return sample_of(f"a{seed}", labels)

    assert suspicions(five(large), DataConfig(), "x") == ([], [])


def test_cells_that_fill_the_image_side_by_side_raise_no_suspicion() -> None:
    def tissue(seed: int) -> Sample:
        centres = np.random.default_rng(seed).uniform(0, SIDE, (40, 2))
        rows, columns = np.mgrid[:SIDE, :SIDE]
        nearest = np.argmin(
            np.hypot(rows[..., None] - centres[:, 0], columns[..., None] - centres[:, 1]), axis=2
        )
        return sample_of(f"a{seed}", (nearest + 1).astype(np.uint16))

    assert suspicions(five(tissue), DataConfig(), "x") == ([], [])


def test_a_nucleus_of_three_lobes_and_a_pair_of_organs_raise_no_suspicion() -> None:
    def lobed(seed: int) -> Sample:
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for column in range(3):
            labels[40:46, 40 + 8 * column : 46 + 8 * column] = 1
        labels[10:30, 5:20], labels[10:30, 75:90] = 2, 2
        return sample_of(f"a{seed}", labels, classes=[1, 2])

    assert suspicions(five(lobed), DataConfig(), "x") == ([], [])


def test_masks_of_one_value_are_called_semantic_and_split_into_cells_when_asked(
    tmp_path: Path,
) -> None:
    where = write_hw3(
        tmp_path,
        lambda place, labels: tifffile.imwrite(
            place / "class1.tif", (labels > 0).astype(np.uint8) * 255
        ),
    )
    with pytest.raises(
        DataError, match=r"semantic masks.*data\.split_components=true.*data\.allow_suspicious=true"
    ):
        load_data(where)
    split = load_data(where, DataConfig(split_components=True))
    assert split.instance_counts().sum() == sum(cells(seed).max() for seed in range(5))
    assert any("data.split_components: 5 instances became 60" in note for note in split.notes)
    as_it_is = load_data(where, DataConfig(allow_suspicious=True))
    assert as_it_is.instance_counts().sum() == 5
    assert any(
        "data.allow_suspicious: 5 of 5 instances of class1" in note for note in as_it_is.notes
    )
    assert as_it_is.fingerprint != split.fingerprint


def test_ids_that_wrapped_at_256_are_suspected() -> None:
    def wrapped(seed: int) -> Sample:
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for number in range(24 * 24):
            y, x = divmod(number, 24)
            labels[4 * y : 4 * y + 3, 4 * x : 4 * x + 3] = number % 150 + 1
        return sample_of(f"a{seed}", labels)

    assert "several pieces" in suspected(five(wrapped))[0]


def test_splitting_keeps_classes_crowds_and_pixels() -> None:
    first, second = np.zeros((8, 12), np.uint16), np.zeros((8, 12), np.uint16)
    first[0, 0], first[7, 11], first[3, 3] = 1, 1, 2
    second[3:5, 3], second[0, 6], second[7, 6] = 3, 4, 4
    sample = sample_of("a", first, second, classes=[2, 1, 1, 1], crowd=[False, False, False, True])
    (split,) = split_components(data_of(sample)).samples
    assert split.labels_N.tolist() == [2, 2, 1, 1, 1]
    assert split.crowd_N.tolist() == [False, False, False, False, True]
    np.testing.assert_array_equal(split.label_maps > 0, sample.label_maps > 0)
    assert sorted(np.unique(split.label_maps).tolist()) == [0, 1, 2, 3, 4, 5]
    assert split.label_maps[1, 0, 6] == split.label_maps[1, 7, 6] == 5


@pytest.mark.parametrize("kind", ["smoothed", "jpeg", "binary, smoothed"])
def test_ids_that_were_interpolated_or_compressed_with_loss_are_suspected(
    tmp_path: Path, kind: str
) -> None:
    def save(place: Path, labels: Labels) -> None:
        ids = ((labels > 0) * 255 if kind == "binary, smoothed" else labels * 10).astype(np.uint8)
        if kind == "jpeg":
            Image.fromarray(ids).save(place / "ids.jpg", quality=90)
            ids = np.asarray(Image.open(place / "ids.jpg"))
            (place / "ids.jpg").unlink()
        else:
            small = Image.fromarray(ids).resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR)
            ids = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        tifffile.imwrite(place / "class1.tif", ids)

    where = write_hw3(tmp_path, save)
    problems = inspect_data(where).problems
    assert len(problems) == 1
    assert "are slivers along the borders of others" in problems[0].message
    assert "in 5 images (slide0, slide1, slide2 and 2 more)" in problems[0].message
    assert "nearest neighbour" in problems[0].message


def test_ids_that_were_interpolated_where_every_id_is_taken_are_suspected() -> None:
    def smoothed(seed: int) -> Sample:
        rows, columns = np.mgrid[:240, :240]
        order = np.random.default_rng(seed).permutation(225) + 1
        ids = np.where(
            np.hypot(rows % 16 - 8, columns % 16 - 8) < 7, order[rows // 16 * 15 + columns // 16], 0
        )
        small = Image.fromarray(ids.astype(np.uint8)).resize((192, 192), Image.Resampling.BILINEAR)
        values = np.asarray(small.resize((240, 240), Image.Resampling.BILINEAR))
        return sample_of(
            f"a{seed}",
            np.unique(values, return_inverse=True)[1].reshape(240, 240).astype(np.uint16),
        )

    assert (
        "or have tiny pieces there, as where ids were resized with smoothing"
        in suspected(five(smoothed))[0]
    )


def test_few_ids_that_were_interpolated_are_not_called_semantic() -> None:
    def smoothed(seed: int) -> Sample:
        small = Image.fromarray(cells(seed, count=6).astype(np.uint8)).resize(
            (48, 48), Image.Resampling.BILINEAR
        )
        return sample_of(
            f"a{seed}",
            np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.uint16),
        )

    (message,) = suspected(five(smoothed))
    assert "as where ids were resized with smoothing" in message
    assert "split_components" not in message


@pytest.mark.parametrize("kind", ["grey", "one bit", "palette"])
def test_binary_masks_of_any_kind_of_png_are_called_semantic(tmp_path: Path, kind: str) -> None:
    def save(place: Path, labels: Labels) -> None:
        picture = Image.fromarray((labels > 0).astype(np.uint8) * 255)
        picture.convert({"grey": "L", "one bit": "1", "palette": "P"}[kind]).save(
            place / "class1.png"
        )

    (problem,) = inspect_data(write_hw3(tmp_path, save)).problems
    assert "(semantic masks)" in problem.message


@pytest.mark.parametrize(
    ("inverted", "told"), [(False, "(semantic masks)"), (True, "reaches all its borders")]
)
def test_a_mask_of_one_bit_whose_white_is_0_is_read_as_stored_and_suspected_either_way(
    tmp_path: Path, inverted: bool, told: str
) -> None:
    def save(place: Path, labels: Labels) -> None:
        tifffile.imwrite(place / "class1.tif", (labels > 0) != inverted, photometric="miniswhite")

    (problem,) = inspect_data(write_hw3(tmp_path, save)).problems
    assert told in problem.message


def test_ids_resized_by_nearest_neighbour_are_not(tmp_path: Path) -> None:
    def save(place: Path, labels: Labels) -> None:
        small = Image.fromarray(labels.astype(np.uint8)).resize(
            (SIDE // 2, SIDE // 2), Image.Resampling.NEAREST
        )
        resized = small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        tifffile.imwrite(place / "class1.tif", np.asarray(resized))

    assert load_data(write_hw3(tmp_path, save)).instance_counts().sum() == 60


def test_the_same_instances_in_two_classes_are_suspected(tmp_path: Path) -> None:
    def save(place: Path, labels: Labels) -> None:
        for number in (1, 2):
            tifffile.imwrite(place / f"class{number}.tif", labels.astype(np.float64))

    (problem,) = inspect_data(write_hw3(tmp_path, save)).problems
    assert (
        "60 instances in 5 images (slide0, slide1, slide2 and 2 more) are annotated twice, 60 in two"
        " classes" in str(problem)
    )


def test_an_annotation_given_twice_is_found_though_a_pixel_differs() -> None:
    def twice(seed: int) -> Sample:
        one = cells(seed)
        other = np.where(one > 0, one + 12, 0).astype(np.uint16)
        row, column = np.argwhere(other == 13)[0]
        other[row, column] = 0
        return sample_of(f"a{seed}", one, other)

    (message,) = suspected(five(twice))
    assert "60 instances in 5 images" in message
    assert "60 in one" in message


def test_one_instance_given_twice_among_many_is_a_note() -> None:
    def once(seed: int) -> Sample:
        one = cells(seed)
        other = np.where(one == 1, 13, 0).astype(np.uint16)
        return sample_of(f"a{seed}", *([one, other] if seed == 0 else [one]))

    dataset = five(once)
    assert suspected(dataset) == []
    (note,) = noted(dataset)
    assert note.startswith("1 instance in 1 image (a0) is annotated twice, 1 in one")


def test_instances_that_overlap_and_differ_are_no_twins() -> None:
    def overlapping(seed: int) -> Sample:
        one = cells(seed)
        shifted = np.roll(one, 4, axis=1)
        return sample_of(f"a{seed}", one, np.where(shifted > 0, shifted + 12, 0).astype(np.uint16))

    assert suspicions(five(overlapping), DataConfig(), "x") == ([], [])


def test_a_background_that_is_numbered_like_a_cell_is_suspected() -> None:
    def numbered(seed: int) -> Sample:
        return sample_of(f"a{seed}", cells(seed) + np.uint16(1))

    (message,) = suspected(five(numbered))
    assert message.startswith(
        "5 images (a0, a1, a2 and 2 more) have an instance that covers most of the image or"
    )


def test_one_image_with_such_an_instance_is_a_note() -> None:
    dataset = data_of(
        *(sample_of(f"a{seed}", cells(seed) + np.uint16(seed == 0)) for seed in range(15))
    )
    assert suspected(dataset) == []
    assert noted(dataset)[0].startswith(
        "1 image (a0) has an instance that covers most of the image"
    )


def test_boxes_that_were_exported_as_outlines_are_noted_and_cells_are_not() -> None:
    def boxes(seed: int) -> Sample:
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for number in range(12):
            row, column = divmod(number, 4)
            labels[24 * row + 2 : 24 * row + 9 + seed, 24 * column + 3 : 24 * column + 18] = (
                number + 1
            )
        return sample_of(f"a{seed}", labels)

    assert suspected(five(boxes)) == []
    (note,) = noted(five(boxes))
    assert note.startswith("60 of 60 instances are rectangles, like the boxes of a detection")
    assert noted(data_of(boxes(0), sample_of("b", cells(0)))) == []
    tiny = five(
        lambda seed: sample_of(
            f"a{seed}", np.kron(np.arange(1, 17).reshape(4, 4), np.eye(2)).astype(np.uint16)
        )
    )
    assert noted(tiny) == []


def test_crowd_regions_that_are_most_annotations_are_counted_by_annotation() -> None:
    def crowded(seed: int) -> Sample:
        return sample_of(f"a{seed}", cells(seed), crowd=[False] + [True] * 11)

    (message,) = suspected(five(crowded))
    assert message.startswith("55 of 60 annotations are crowd regions (iscrowd 1)")
    assert "set it to 0 where an annotation is one instance" in message
    few = five(lambda seed: sample_of(f"a{seed}", cells(seed), crowd=[True] + [False] * 11))
    assert suspicions(few, DataConfig(), "x") == ([], [])


def test_versions_of_one_picture_are_suspected_until_a_pattern_keeps_them_together() -> None:
    names = [
        f"pic{number}_jpg.rf.{'abcdef0123456789' * 2}{copy}.jpg"
        for number in range(3)
        for copy in range(2)
    ]
    dataset = data_of(*(sample_of(name, cells(seed)) for seed, name in enumerate(names)))
    (message,) = suspected(dataset)
    assert message.startswith("6 images are versions of 3 pictures by their names (pic0_jpg.rf.")
    pattern = message.split("data.group_pattern=")[1].split("'")[0]
    assert suspected(dataset, group_pattern=pattern) == []
    assert len(suspected(dataset, group_pattern="^(.*)$")) == 1


def test_suspicions_of_a_crowded_data_set_take_time_in_proportion_to_its_pixels() -> None:
    def crowded(seed: int) -> Sample:
        labels = np.zeros((512, 512), np.uint16)
        rows, columns = np.mgrid[:512, :512]
        inside = np.hypot(rows % 19 - 9, columns % 19 - 9) < 8
        labels[inside] = (rows // 19 * 27 + columns // 19 + 1)[inside]
        return sample_of(f"a{seed}", labels)

    dataset = data_of(crowded(0), crowded(1))
    assert dataset.instance_counts().sum() > 1400
    started = time.process_time()
    assert suspicions(dataset, DataConfig(), "x") == ([], [])
    assert time.process_time() - started < 4  # 0.06 s measured; 200 such images are 6 s


def test_what_was_allowed_is_noted_and_travels_with_the_data(tmp_path: Path) -> None:
    where = write_hw3(
        tmp_path,
        lambda place, labels: tifffile.imwrite(place / "class1.tif", labels + np.uint16(1)),
    )
    assert len(inspect_data(where).problems) == 1
    allowed = inspect_data(where, DataConfig(allow_suspicious=True))
    assert allowed.problems == ()
    assert allowed.dataset is not None
    assert any(note.startswith("data.allow_suspicious: 5 images") for note in allowed.dataset.notes)
    assert replace(allowed.dataset, notes=()).fingerprint == allowed.dataset.fingerprint
