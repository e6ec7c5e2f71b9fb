"""Laws of the submission, with pycocotools as its reader and judge."""

import contextlib
import copy
import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.data.dataset import Category, TestImage
from core.data.synthetic import make_cells
from core.errors import SubmissionError
from core.labels.label_maps import crop_mask as cut_out
from core.labels.label_maps import find_instances
from core.metric.ap50 import ap50, match_images
from core.prediction.submission import CocoResult, check_results, results_of, write_zip
from core.sample import Detections, MaskCrop, Sample

CLASSES = (
    Category(3, "epithelium"),
    Category(12, "lymphocyte"),
    Category(40, "fibroblast"),
    Category(77, "other"),
)
SAMPLES = make_cells(images=5, side=72).samples
IDS = (4, 9, 10, 23, 61)
LISTING = tuple(
    TestImage(
        f"/data/{SAMPLES[index].name}.tif",
        f"{SAMPLES[index].name}.tif",
        IDS[index],
        *SAMPLES[index].size,
    )
    for index in (3, 0, 4, 2, 1)  # a listing need not be in the order of its ids
)
MAX_DETECTIONS = 60

Results = dict[int, list[CocoResult]]

decodes = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools on NumPy 2


def detections_in(sample: Sample, seed: int) -> Detections:
    """Shifted, halved and exact instances, some twice, some of a wrong class; equal scores; a
    few boxes without width.

    Windows are wider than their masks and clipped at the image's border, as those that are pasted.
    """
    rng = np.random.default_rng(seed)
    height, width = sample.size
    truth = find_instances(sample.label_maps)
    boxes, labels, masks = [], [], []
    for row in rng.choice(len(truth), size=2 * len(truth)).tolist():
        full = paste(cut_out(sample.label_maps, truth, row), height, width)
        full = np.roll(full, rng.integers(-2, 3, size=2), axis=(0, 1)).astype(bool)
        if rng.random() < 0.3:
            full[:, : int(np.flatnonzero(full.any(axis=0)).mean())] = False
        y, x = np.nonzero(full)
        y0, y1, x0, x1 = max(y.min() - 2, 0), y.max() + 3, max(x.min() - 2, 0), x.max() + 3
        masks.append(MaskCrop(int(y0), int(x0), full[y0:y1, x0:x1]))
        box = np.array([x0, y0, x1, y1]) + rng.random(4) * [-0.5, -0.5, 0.5, 0.5]
        if rng.random() < 0.1:
            box[2] = box[0]
        boxes.append(box)
        right = int(sample.labels_N[truth.ids_N[row] - 1])
        labels.append(right if rng.random() < 0.85 else int(rng.integers(1, 5)))
    count = len(masks)
    drawn = np.where(
        rng.random(count) < 0.5, rng.integers(1, 11, count) / 10, 1 - rng.random(count)
    )
    scores = np.sort(drawn.astype(np.float32))[::-1]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        scores.copy(),
        tuple(masks),
    )


def paste(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8, order="F")
    h, w = crop.pixels.shape
    mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return mask


FOUND = [detections_in(sample, seed) for seed, sample in enumerate(SAMPLES)]


def results() -> Results:
    return {
        image_id: results_of(found, image_id, *sample.size, CLASSES)
        for image_id, sample, found in zip(IDS, SAMPLES, FOUND, strict=True)
    }


def written(path: Path, of: Results) -> list[dict[str, Any]]:
    """What the zip holds, after it was written."""
    write_zip(path, of, LISTING, CLASSES, lambda _: MAX_DETECTIONS)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["test-results.json"]
        content: list[dict[str, Any]] = json.loads(archive.read("test-results.json"))
    return content


def ground_truth() -> COCO:
    annotations: list[dict[str, Any]] = []
    for image_id, sample in zip(IDS, SAMPLES, strict=True):
        truth = find_instances(sample.label_maps)
        for row, number in enumerate(truth.ids_N.tolist()):
            mask = paste(cut_out(sample.label_maps, truth, row), *sample.size)
            x0, y0, x1, y1 = truth.boxes_N4[row].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES[sample.labels_N[number - 1] - 1].id,
                    "segmentation": coco_mask.encode(mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(truth.areas_N[row]),
                    "iscrowd": 0,
                }
            )
    truth_coco = COCO()
    truth_coco.dataset = {
        "info": {},
        "images": [
            {"id": image.id, "height": image.height, "width": image.width} for image in LISTING
        ],
        "annotations": annotations,
        "categories": [{"id": category.id, "name": category.name} for category in CLASSES],
    }
    truth_coco.createIndex()
    return truth_coco


@pytest.mark.parametrize("max_dets", [2, 100])
def test_the_official_evaluation_of_the_written_file_equals_our_own_ap50(
    tmp_path: Path, max_dets: int
) -> None:
    handed_in = tmp_path / "test-results.json"
    handed_in.write_text(json.dumps(written(tmp_path / "submission.zip", results())))
    scores = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = ground_truth()
        for iou_type in ("segm", "bbox"):
            evaluation = COCOeval(truth, truth.loadRes(str(handed_in)), iou_type)
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [max_dets]
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"]
            scores[iou_type] = float(precision[precision > -1].mean())
    of_masks, of_boxes = (
        ap50(table, max_dets).mean for table in match_images(SAMPLES, FOUND, len(CLASSES))
    )
    assert 0.1 < of_masks < 0.9, "a score at the end of its range would say nothing"
    assert scores["segm"] == pytest.approx(of_masks, abs=1e-12)
    assert scores["bbox"] == pytest.approx(of_boxes, abs=1e-12)


@decodes
def test_every_mask_decodes_to_the_pasted_crop_at_the_listed_size(tmp_path: Path) -> None:
    entries = written(tmp_path / "submission.zip", results())
    sample_of, found_of = dict(zip(IDS, SAMPLES, strict=True)), dict(zip(IDS, FOUND, strict=True))
    expected = [
        (image.id, paste(crop, *sample_of[image.id].size))
        for image in LISTING
        for crop in found_of[image.id].masks
    ]
    for entry, (image_id, mask) in zip(entries, expected, strict=True):
        assert entry["image_id"] == image_id
        assert entry["segmentation"]["size"] == list(mask.shape)
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), mask)


def test_a_result_has_exactly_the_fields_of_the_format_and_loses_no_digit(tmp_path: Path) -> None:
    entries = written(tmp_path / "submission.zip", results())
    assert {tuple(sorted(entry)) for entry in entries} == {
        ("bbox", "category_id", "image_id", "score", "segmentation")
    }
    assert {tuple(sorted(entry["segmentation"])) for entry in entries} == {("counts", "size")}
    found_of = dict(zip(IDS, FOUND, strict=True))
    for image in LISTING:
        found = found_of[image.id]
        of_image = [entry for entry in entries if entry["image_id"] == image.id]
        bbox_N4 = np.array([entry["bbox"] for entry in of_image])
        boxes_N4 = found.boxes_N4.astype(np.float64)
        np.testing.assert_array_equal(
            bbox_N4, np.hstack([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]])
        )
        np.testing.assert_array_equal(
            [entry["score"] for entry in of_image], found.scores_N.astype(np.float64)
        )
        assert [entry["category_id"] for entry in of_image] == [
            CLASSES[label - 1].id for label in found.labels_N
        ]


def test_images_come_as_listed_and_the_best_score_first(tmp_path: Path) -> None:
    shuffled = {image_id: of_image[::-1] for image_id, of_image in reversed(results().items())}
    entries = written(tmp_path / "submission.zip", shuffled)
    places = [[image.id for image in LISTING].index(entry["image_id"]) for entry in entries]
    keys = [(place, -entry["score"]) for place, entry in zip(places, entries, strict=True)]
    assert keys == sorted(keys)


def test_the_same_results_give_the_same_bytes_whenever_they_are_written(tmp_path: Path) -> None:
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    written(one, results())
    written(other, dict(reversed(results().items())))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        (member,) = archive.infolist()
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert member.compress_size < member.file_size / 2


def test_an_image_in_which_nothing_was_found_is_handed_in_without_a_result(tmp_path: Path) -> None:
    without = {**results(), IDS[0]: []}
    assert {entry["image_id"] for entry in written(tmp_path / "submission.zip", without)} == set(
        IDS[1:]
    )
    assert written(tmp_path / "submission.zip", {image_id: [] for image_id in IDS}) == []


def changed(*where: int | str, to: Any) -> Callable[[Results], Results]:
    """Change one value in the second result of the image whose id is 9."""

    def change(of: Results) -> Results:
        node: Any = of[9][1]
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = to
        return of

    return change


SIZE = list(SAMPLES[1].size)
PIXELS = math.prod(SIZE)


def counts_of(lengths: list[int]) -> str:
    text: bytes = coco_mask.frPyObjects({"size": SIZE, "counts": lengths}, *SIZE)["counts"]
    return text.decode()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda of: {key: of[key] for key in of if key != 9},
            "FILE: every listed image must be predicted",
        ),
        (
            lambda of: {**of, 5: []},
            "image id 5: only listed images may be handed in, and this id is none of the 5",
        ),
        (
            lambda of: {**of, 9: of[9] * 20},
            "FILE: an image may have at most 60 results, and this one has ",
        ),
        (
            lambda of: {**of, 9: of[10]},
            "FILE, result 0 (counted from 0): image_id must be that of the image, and is 1",
        ),
        (changed("image_id", to=4), "RESULT: image_id must be that of the image, and is 4"),
        (
            changed("category_id", to=1),
            "RESULT: category_id must be the id of a category of the data set (3, 12, 40",
        ),
        (changed("score", to=0.0), "RESULT: a score must be over 0 and at most 1, and is 0.0"),
        (
            changed("score", to=1.0000001),
            "RESULT: a score must be over 0 and at most 1, and is 1.0000001",
        ),
        (changed("score", to=math.nan), "RESULT: a score must be over 0 and at most 1, and is nan"),
        (changed("score", to=math.inf), "RESULT: a score must be over 0 and at most 1, and is inf"),
        (
            changed("bbox", 3, to=-0.5),
            "RESULT: bbox must be [x, y, width, height], finite, width and height 0 or more",
        ),
        (changed("bbox", 0, to=math.nan), "RESULT: bbox must be [x, y, width, height], finite"),
        (changed("bbox", to=[1.0, 2.0, 3.0]), "and is [1.0, 2.0, 3.0]"),
        (
            changed("segmentation", "size", to=SIZE[::-1]),
            f"must have the listed size, {SIZE} (height, width), and has",
        ),
        (
            changed("segmentation", "counts", to="zz"),
            "RESULT: counts must be text as pycocotools writes it, and holds",
        ),
        (
            changed("segmentation", "counts", to=""),
            f"add up to the image's {PIXELS:,} pixels, and add up to 0",
        ),
        (
            changed("segmentation", "counts", to=counts_of([0, PIXELS - 1])),
            f"and add up to {PIXELS - 1:,}",
        ),
        (
            changed("segmentation", "counts", to=counts_of([0, PIXELS + 1])),
            f"and add up to {PIXELS + 1:,}",
        ),
        # Runs of -5 and PIXELS + 5: the sum is right, the runs are not.
        (
            changed("segmentation", "counts", to="K" + counts_of([PIXELS + 5])),
            "the runs of a mask must be 0 or more",
        ),
        (
            changed("segmentation", "counts", to=counts_of([PIXELS])),
            "RESULT: a mask must cover at least one pixel",
        ),
        (
            changed("segmentation", "counts", to=counts_of([5, 0, PIXELS - 5])),
            "cover at least one pixel, and covers n",
        ),
    ],
)
def test_what_may_not_be_handed_in_is_refused_by_name_and_leaves_the_old_file_as_it_was(
    tmp_path: Path, change: Callable[[Results], Results], told: str
) -> None:
    path = tmp_path / "submission.zip"
    written(path, results())
    before = path.read_bytes()
    file = f"{SAMPLES[1].name}.tif (image id 9)"
    told = told.replace("FILE", file).replace("RESULT", f"{file}, result 1 (counted from 0)")
    broken = change(copy.deepcopy(results()))
    with pytest.raises(SubmissionError, match=re.escape(told)) as refused:
        check_results(broken, LISTING, CLASSES, lambda _: MAX_DETECTIONS)
    assert str(refused.value).startswith((file, "image id 5"))
    assert "; " in str(refused.value), "a way out follows the rule and the value"
    with pytest.raises(SubmissionError, match=re.escape(told)):
        write_zip(path, broken, LISTING, CLASSES, lambda _: MAX_DETECTIONS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_submission_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError):
        write_zip(tmp_path / "submission.zip", {}, LISTING, CLASSES, lambda _: MAX_DETECTIONS)
    assert list(tmp_path.iterdir()) == []


def test_as_many_results_as_the_cap_allows_and_a_score_of_one_are_handed_in() -> None:
    allowed = results()
    allowed[9][0]["score"] = 1.0
    cap = max(len(of_image) for of_image in allowed.values())
    check_results(allowed, LISTING, CLASSES, lambda _: cap)
    with pytest.raises(SubmissionError, match=f"at most {cap - 1} results, and this one has {cap}"):
        check_results(allowed, LISTING, CLASSES, lambda _: cap - 1)
