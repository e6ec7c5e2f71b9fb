import contextlib
import io
import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.errors import CheckpointError
from core.labels.label_maps import find_instances
from core.metric.ap50 import MatchTable, ap50, balanced_score, match_images
from core.sample import Detections, MaskCrop, Sample
from tests.core.scenes import CLASSES, random_detections, random_sample, random_scene


def coco_ap50(
    samples: list[Sample], detections: list[Detections], iou_type: str, max_dets: int
) -> tuple[float, list[float | None]]:
    """The full official evaluation, all IoUs and areas, and its numbers at IoU 0.5, area all."""
    annotations, results = [], []
    for image, (sample, found) in enumerate(zip(samples, detections, strict=True), start=1):
        instances = find_instances(sample.label_maps)
        for number, (x0, y0, x1, y1), area in zip(
            instances.ids_N, instances.boxes_N4, instances.areas_N, strict=True
        ):
            mask = (sample.label_maps == number).any(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(sample.labels_N[number - 1]),
                    "segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": float(area),
                    "iscrowd": int(sample.crowd_N[number - 1]),
                }
            )
        for row, crop in enumerate(found.masks):
            mask = np.zeros(sample.size, dtype=np.uint8, order="F")
            h, w = crop.pixels.shape
            mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
            x0, y0, x1, y1 = found.boxes_N4[row].tolist()
            where = (
                {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if iou_type == "bbox"
                else {"segmentation": coco_mask.encode(mask)}
            )
            results.append(
                {
                    "image_id": image,
                    "category_id": int(found.labels_N[row]),
                    "score": float(found.scores_N[row]),
                    **where,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": image, "height": sample.size[0], "width": sample.size[1]}
                for image, sample in enumerate(samples, start=1)
            ],
            "annotations": annotations,
            "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)],
        }
        truth.createIndex()
        found_coco = COCO()
        found_coco.dataset = {**truth.dataset, "annotations": []}
        found_coco.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else found_coco, iou_type)
        evaluation.params.maxDets = [1, 10, max_dets] if max_dets > 10 else [max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision_RC = evaluation.eval["precision"][0, :, :, 0, -1]
    per_class = [
        None if (column == -1).any() else float(column.mean()) for column in precision_RC.T
    ]
    counted = precision_RC[precision_RC > -1]
    return float(counted.mean()) if counted.size else math.nan, per_class


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 7, 11, 100, None]))
def test_ap50_of_masks_and_boxes_equals_the_full_official_evaluation(seed, max_dets):
    samples, detections = random_scene(seed)
    for iou_type, table in zip(
        ("segm", "bbox"), match_images(samples, detections, CLASSES), strict=True
    ):
        mean, per_class = coco_ap50(samples, detections, iou_type, max_dets or 10_000)
        score = ap50(table, max_dets)
        assert score.mean == pytest.approx(mean, abs=1e-12, nan_ok=True)
        assert [value is None for value in score.per_class] == [
            value is None for value in per_class
        ]
        for ours, theirs in zip(score.per_class, per_class, strict=True):
            assert ours is None or ours == pytest.approx(theirs, abs=1e-12)


def test_ap50_equals_the_official_evaluation_where_more_than_100_detections_of_a_class_are_cut_off():
    rng = np.random.default_rng(5)
    samples = [random_sample(rng, str(index), [1, 2], 25) for index in range(3)]
    detections = [random_detections(rng, sample, [1, 2], 330) for sample in samples]
    masks_table, boxes_table = match_images(samples, detections, CLASSES)
    assert masks_table.rank_D.max() > 100
    for iou_type, table in (("segm", masks_table), ("bbox", boxes_table)):
        capped, uncapped = ap50(table, 100).mean, ap50(table, None).mean
        assert capped != uncapped, "the cap must bite, or this test says nothing"
        assert capped == pytest.approx(coco_ap50(samples, detections, iou_type, 100)[0], abs=1e-12)
        assert uncapped == pytest.approx(
            coco_ap50(samples, detections, iou_type, 10_000)[0], abs=1e-12
        )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_match_table_has_one_row_a_detection_by_image_then_descending_score(seed):
    samples, detections = random_scene(seed)
    for table in match_images(samples, detections, CLASSES):
        assert len(table.score_D) == sum(len(found) for found in detections)
        keys = list(zip(table.image_D.tolist(), (-table.score_D).tolist(), strict=True))
        assert keys == sorted(keys)
        assert not (table.hit_D & table.ignored_D).any()
        seen: dict[tuple[int, int], int] = {}
        for image, label, rank in zip(table.image_D, table.label_D, table.rank_D, strict=True):
            assert rank == seen.get((image, label), 0)
            seen[image, label] = rank + 1
        for index, sample in enumerate(samples):
            truths = np.bincount(sample.labels_N[~sample.crowd_N], minlength=CLASSES + 1)[1:]
            assert table.truths_IC[index].tolist() == truths.tolist()
            for label in range(1, CLASSES + 1):
                rows = (table.image_D == index) & (table.label_D == label)
                assert table.hit_D[rows].sum() <= truths[label - 1]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_perfect_detections_score_one_for_every_class_that_exists(seed):
    samples, _ = random_scene(seed)
    perfect = []
    for sample in samples:
        truth = find_instances(sample.label_maps)
        kept = np.flatnonzero(~sample.crowd_N)
        masks = tuple(
            MaskCrop(0, 0, sample.label_maps[truth.maps_N[row]] == truth.ids_N[row])
            for row in kept.tolist()
        )
        ones = np.ones(len(kept), np.float32)
        perfect.append(
            Detections(truth.boxes_N4[kept].astype(np.float32), sample.labels_N[kept], ones, masks)
        )
    for table in match_images(samples, perfect, CLASSES):
        scores = [value for value in ap50(table, None).per_class if value is not None]
        assert scores == pytest.approx([1.0] * int(table.truths_IC.any(axis=0).sum()), abs=1e-12)


def simple(
    label_maps: np.ndarray,
    labels: list[int],
    masks: list[np.ndarray],
    found_labels: list[int],
    crowd=None,
):
    """Match one image with detections of falling score, whose masks are given whole."""
    sample = Sample(
        "image",
        np.zeros((*label_maps.shape[1:], 3), np.uint8),
        label_maps,
        np.array(labels, dtype=np.int64),
        np.zeros(len(labels), bool) if crowd is None else np.array(crowd),
    )
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in map(np.nonzero, masks)]
    found = Detections(
        np.array(boxes, np.float32),
        np.array(found_labels),
        np.linspace(0.9, 0.5, len(masks), dtype=np.float32),
        tuple(MaskCrop(0, 0, mask) for mask in masks),
    )
    return match_images([sample], [found], CLASSES)


def test_an_overlap_of_exactly_one_half_is_a_match_and_less_is_not():
    label_maps = np.zeros((1, 4, 12), np.uint16)
    label_maps[0, 0, :4] = 1
    half, less = np.zeros((4, 12), bool), np.zeros((4, 12), bool)
    half[0, :8] = True
    less[0, :9] = True
    for table in simple(label_maps, [1], [half], [1]):
        assert table.hit_D.tolist() == [True]
    for table in simple(label_maps, [1], [less], [1]):
        assert table.hit_D.tolist() == [False]


def test_the_same_cell_found_twice_is_one_hit_and_one_false_alarm():
    label_maps = np.zeros((1, 8, 8), np.uint16)
    label_maps[0, 2:6, 2:6] = 1
    cell = label_maps[0] == 1
    for table in simple(label_maps, [2], [cell, cell], [2, 2]):
        assert table.hit_D.tolist() == [True, False]
        assert table.ignored_D.tolist() == [False, False]
        assert ap50(table, None).mean == pytest.approx(1, abs=1e-12)


def test_a_cell_of_the_wrong_class_is_no_hit():
    label_maps = np.zeros((1, 8, 8), np.uint16)
    label_maps[0, 2:6, 2:6] = 1
    for table in simple(label_maps, [2], [label_maps[0] == 1], [3]):
        assert not table.hit_D.any()
        assert ap50(table, 100).per_class == (None, 0.0, None, None)


def test_detections_in_a_crowd_region_count_neither_for_nor_against():
    label_maps = np.zeros((1, 20, 20), np.uint16)
    label_maps[0, :, :12] = 1
    label_maps[0, 4:8, 14:18] = 2
    inside, also_inside, cell = (np.zeros((20, 20), bool) for _ in range(3))
    inside[2:5, 2:5] = also_inside[10:14, 1:4] = cell[4:8, 14:18] = True
    for table in simple(
        label_maps, [1, 1], [inside, also_inside, cell], [1, 1, 1], crowd=[True, False]
    ):
        assert table.ignored_D.tolist() == [True, True, False]
        assert table.hit_D.tolist() == [False, False, True]
        assert table.truths_IC.tolist() == [[1, 0, 0, 0]]
        assert ap50(table, None).mean == pytest.approx(1, abs=1e-12)


def test_without_any_ground_truth_there_is_no_score():
    label_maps = np.zeros((1, 8, 8), np.uint16)
    cell = np.eye(8, dtype=bool)
    for table in simple(label_maps, [], [cell], [1]):
        score = ap50(table, 100)
        assert math.isnan(score.mean)
        assert score.per_class == (None,) * CLASSES


def test_matching_writes_into_none_of_its_inputs():
    samples, detections = random_scene(12)
    for sample in samples:
        for array in (sample.image, sample.label_maps, sample.labels_N, sample.crowd_N):
            array.setflags(write=False)
    for found in detections:
        for array in (
            found.boxes_N4,
            found.labels_N,
            found.scores_N,
            *(crop.pixels for crop in found.masks),
        ):
            array.setflags(write=False)
    tables = match_images(samples, detections, CLASSES)
    assert len(tables[0].score_D) > 10


def test_a_match_table_is_read_as_it_was_written_dtypes_included(tmp_path):
    samples, detections = random_scene(12)
    empty = match_images([], [], CLASSES)[0]
    for number, table in enumerate((*match_images(samples, detections, CLASSES), empty)):
        path = tmp_path / f"epoch-{number:04}.npz"
        table.save(path)
        again = MatchTable.load(path)
        assert again.image_names == table.image_names
        for field in fields(MatchTable)[:-1]:
            written, read = getattr(table, field.name), getattr(again, field.name)
            assert read.dtype == written.dtype
            assert np.array_equal(read, written)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}, "no partial file is left"


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_torn_match_table_is_an_error_that_names_the_file(tmp_path, part):
    path = tmp_path / "epoch-0003.npz"
    match_images(*random_scene(12), CLASSES)[0].save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match=r"epoch-0003\.npz"):
        MatchTable.load(path)


def test_a_damaged_match_table_is_an_error_that_names_the_file_or_is_read_unharmed(tmp_path):
    path = tmp_path / "epoch-0003.npz"
    table = match_images(*random_scene(12), CLASSES)[0]
    table.save(path)
    data = bytearray(path.read_bytes())
    errors = []
    for place in range(0, len(data), 7):
        damaged = data.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            again = MatchTable.load(path)
        except CheckpointError as error:
            errors.append(str(error))
        else:  # a date or the like was hit
            assert all(
                np.array_equal(getattr(again, name), getattr(table, name)) for name in vars(table)
            )
    assert len(errors) > len(data) / 7 / 2
    assert all(str(path) in error for error in errors)


def test_a_missing_match_table_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.npz"):
        MatchTable.load(tmp_path / "nowhere.npz")


rows = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.7, 0.9]), st.booleans(), st.booleans()), max_size=12
)


@given(rows, st.integers(0, 5))
def test_the_balanced_score_is_the_highest_of_those_with_the_best_f1(
    detections: list[tuple[float, bool, bool]], missed: int
) -> None:
    scores, hits, ignored = (
        (np.array(column) for column in zip(*detections, strict=True)) if detections else ([],) * 3
    )
    hits = np.array(hits, np.bool_) & ~np.array(ignored, np.bool_)
    truths = int(hits.sum()) + missed
    count = len(detections)
    table = MatchTable(
        image_D=np.zeros(count, np.int32),
        label_D=np.ones(count, np.int16),
        score_D=np.array(scores, np.float32),
        rank_D=np.arange(count, dtype=np.int32),
        hit_D=hits,
        ignored_D=np.array(ignored, np.bool_),
        truths_IC=np.array([[truths]], np.int32),
        image_names=("a",),
    )
    best, expected = 0.0, None
    for threshold in sorted({float(score) for score in table.score_D}, reverse=True):
        shown = (table.score_D >= threshold) & ~table.ignored_D
        f1 = 2 * int((table.hit_D & shown).sum()) / max(int(shown.sum()) + truths, 1)
        if f1 > best:
            best, expected = f1, threshold
    assert balanced_score(table) == expected
