"""Laws of merging: the order of looks is nothing, agreement changes nothing, and formulas hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from core.config import PredictConfig
from core.prediction.merge import SIGMA, merge_looks
from core.sample import Detections, MaskCrop
from tests.core.scenes import assert_same_detections

WAYS = ["nms", "soft_nms", "weighted"]
seeds = st.integers(0, 2**32 - 1)
ways = st.sampled_from(WAYS)


def looks_of(seed: int, count: int = 3, most: int = 12) -> list[Detections]:
    """Looks at a few cells, each of which some see, a little displaced and with other scores."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 40, (int(rng.integers(1, most)), 2))
    labels = rng.integers(1, 3, len(cells))
    looks = []
    for _ in range(count):
        rows = []
        for (y, x), label in zip(cells, labels, strict=True):
            if rng.random() < 0.7:
                y0, x0 = int(y + rng.integers(0, 3)), int(x + rng.integers(0, 3))
                h, w = (int(side) for side in rng.integers(6, 12, 2))
                rows.append((rng.random(), int(label), y0, x0, h, w))
        looks.append(detections(rows, rng))
    return looks


def detections(
    rows: Sequence[tuple[float, int, int, int, int, int]], rng: np.random.Generator | None = None
) -> Detections:
    """Detections from score, class, first row and column, height and width."""
    rows = sorted(rows, reverse=True)
    crops = []
    for _, _, y0, x0, h, w in rows:
        pixels = np.ones((h, w), np.bool_) if rng is None else rng.random((h, w)) < 0.8
        pixels[0, 0] = True
        crops.append(MaskCrop(y0, x0, pixels))
    return Detections(
        np.array([[x, y, x + w, y + h] for _, _, y, x, h, w in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[0] for row in rows], np.float32),
        tuple(crops),
    )


def config(**settings: Any) -> PredictConfig:
    return PredictConfig(**{"score_threshold": 0.0, "max_detections": 400} | settings)


@settings(deadline=None)
@given(seeds, ways, st.sampled_from([0.0, 0.6, 1.0]), st.permutations(range(4)))
def test_the_order_of_the_looks_changes_no_bit(
    seed: int, way: str, agreement: float, order: list[int]
) -> None:
    looks, how = looks_of(seed, count=4), config(merge=way, agreement=agreement)
    merged = merge_looks(looks, how)
    assert_same_detections(merged, merge_looks([looks[number] for number in order], how))
    assert (np.diff(merged.scores_N) <= 0).all()
    assert (merged.scores_N > 0).all()
    assert all(crop.area > 0 for crop in merged.masks)


@settings(deadline=None)
@given(seeds, st.sampled_from(["nms", "weighted"]), st.sampled_from([0.0, 1.0]), st.integers(2, 24))
def test_looks_that_see_the_same_are_as_one(
    seed: int, way: str, agreement: float, count: int
) -> None:
    (look,) = looks_of(seed, count=1)
    alone = merge_looks([look], config())  # what a network suppressed
    assert_same_detections(
        merge_looks([alone] * count, config(merge=way, agreement=agreement)), alone
    )


@settings(deadline=None)
@given(seeds, ways)
def test_classes_are_merged_each_by_itself(seed: int, way: str) -> None:
    looks, how = looks_of(seed), config(merge=way, agreement=0.5)
    merged = merge_looks(looks, how)
    for label in (1, 2):
        only = [pick(look, look.labels_N == label) for look in looks]
        assert_same_detections(pick(merged, merged.labels_N == label), merge_looks(only, how))


def pick(found: Detections, chosen: Any) -> Detections:
    (rows,) = np.nonzero(chosen)
    return Detections(
        found.boxes_N4[rows],
        found.labels_N[rows],
        found.scores_N[rows],
        tuple(found.masks[row] for row in rows),
    )


@settings(deadline=None)
@given(seeds, st.sampled_from(["nms", "weighted"]))
def test_no_two_boxes_of_a_class_overlap_more_than_allowed(seed: int, way: str) -> None:
    merged = merge_looks(looks_of(seed), config(merge=way, nms_iou=0.3))
    overlap = box_iou(*(torch.from_numpy(merged.boxes_N4),) * 2).numpy()
    same = merged.labels_N[:, None] == merged.labels_N
    assert (overlap[same & ~np.eye(len(merged), dtype=np.bool_)] <= 0.3 + 1e-6).all()


A, B = (0.8, 1, 10, 10, 10, 10), (0.4, 1, 10, 12, 10, 10)
"""Two views of one cell, 2 pixels apart: IoU 8 / 12."""
IOU = 8 / 12


def test_weighted_fusion_is_the_mean_by_scores() -> None:
    merged = merge_looks([detections([A]), detections([B])], config(merge="weighted"))
    x0 = (0.8 * 10 + 0.4 * 12) / 1.2
    assert merged.boxes_N4 == pytest.approx(np.array([[x0, 10, x0 + 10, 20]]))
    assert merged.scores_N == pytest.approx([0.6])
    (crop,) = merged.masks
    full = np.zeros((30, 30), np.bool_)
    full[crop.y0 : crop.y0 + crop.pixels.shape[0], crop.x0 : crop.x0 + crop.pixels.shape[1]] = (
        crop.pixels
    )
    (_, columns) = np.nonzero(full)
    assert {*columns} == {*range(10, 20)}, "the mask with two thirds of the votes"


def test_a_pixel_is_in_a_fused_mask_if_half_of_the_scores_say_so() -> None:
    third = (0.5, 1, 10, 11, 10, 10)
    looks = [detections([row]) for row in ((0.5, *A[1:]), (0.5, *B[1:]), third)]
    (crop,) = merge_looks(looks, config(merge="weighted")).masks
    assert crop.pixels.any(axis=0).tolist() == [False, *[True] * 10, False]
    assert (crop.y0, crop.x0, crop.pixels.shape) == (10, 10, (10, 12))


def test_soft_suppression_is_gaussian_and_keeps_all_boxes() -> None:
    merged = merge_looks([detections([A]), detections([B])], config(merge="soft_nms"))
    assert merged.scores_N == pytest.approx([0.8, 0.4 * np.exp(-(IOU**2) / SIGMA)])
    few = config(merge="soft_nms", score_threshold=0.3)
    assert len(merge_looks([detections([A]), detections([B])], few)) == 1


@pytest.mark.parametrize(
    ("agreement", "seen", "score"),
    [(0.0, 1, 0.8), (1.0, 1, 0.2), (0.5, 1, 0.5), (1.0, 2, 0.4), (1.0, 4, 0.8)],
)
@pytest.mark.parametrize("way", ["nms", "weighted"])
def test_a_score_is_scaled_by_the_fraction_of_looks_that_agree(
    agreement: float, seen: int, score: float, way: str
) -> None:
    looks = [detections([A])] * seen + [detections([(0.9, 1, 30, 30, 9, 9)])] * (4 - seen)
    merged = merge_looks(looks, config(merge=way, agreement=agreement))
    (ours,) = np.flatnonzero(merged.boxes_N4[:, 0] == 10)
    assert merged.scores_N[ours] == pytest.approx(score)
    strict = config(merge=way, agreement=agreement, score_threshold=score)
    assert not (merge_looks(looks, strict).boxes_N4[:, 0] == 10).any()


def test_the_best_stay_under_the_cap_and_a_look_that_reached_it_is_told() -> None:
    many = detections([(0.1 + number / 20, 1, 0, 20 * number, 9, 9) for number in range(6)])
    for way in WAYS:
        merged = merge_looks([many, many], config(merge=way, max_detections=4, nms_iou=0.4))
        assert (len(merged), merged.full_tiles) == (4, 1)
        assert merged.scores_N.max() == many.scores_N.max()
        assert merge_looks([many, many], config(merge=way, max_detections=40)).full_tiles == 0
        full = replace(many, full_tiles=1)
        assert merge_looks([many, full], config(merge=way, max_detections=40)).full_tiles == 1


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_weighted_fusion_is_the_papers_algorithm_one_box_at_a_time(seed: int) -> None:
    looks = [pick(look, look.labels_N == 1) for look in looks_of(seed)]
    boxes = [
        (float(score), box.astype(float))
        for look in looks
        for score, box in zip(look.scores_N, look.boxes_N4, strict=True)
    ]
    clusters: list[list[tuple[float, Any]]] = []
    for score, box in sorted(boxes, key=lambda one: (-one[0], tuple(one[1]))):
        fused = [mean_of(cluster) for cluster in clusters]
        overlaps = [iou_of(box, one) for one in fused]
        if overlaps and max(overlaps) > 0.5:
            clusters[overlaps.index(max(overlaps))].append((score, box))
        else:
            clusters.append([(score, box)])
    expected = sorted(
        (float(np.mean([score for score, _ in cluster])), *mean_of(cluster)) for cluster in clusters
    )
    merged = merge_looks(looks, config(merge="weighted"))
    found = sorted(zip(merged.scores_N.tolist(), merged.boxes_N4.tolist(), strict=True))
    if len(found) == len(expected):  # else means that overlap were suppressed in the end
        for (score, box), (wanted, *sides) in zip(found, expected, strict=True):
            assert score == pytest.approx(wanted, abs=1e-6)
            assert box == pytest.approx(sides, abs=1e-4)
    assert len(found) <= len(expected)


def mean_of(cluster: list[tuple[float, Any]]) -> Any:
    return sum(score * box for score, box in cluster) / sum(score for score, _ in cluster)


def iou_of(one: Any, other: Any) -> float:
    w, h = (min(one[2 + i], other[2 + i]) - max(one[i], other[i]) for i in (0, 1))
    inner = max(w, 0.0) * max(h, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(inner / (sum(areas) - inner))
