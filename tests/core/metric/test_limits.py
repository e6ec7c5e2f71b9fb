"""Laws of what limited a class: everything has one kind, and mending an error does what it says."""

import json
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.labels.label_maps import find_instances
from core.metric.ap50 import ap50, average_precision, match_image, match_images
from core.metric.limits import (
    DETECTION_KINDS,
    INSTANCE_KINDS,
    MENDS,
    ClassLimits,
    class_limits,
)
from core.sample import Detections, MaskCrop, Sample
from tests.core.scenes import CLASSES, random_scene

CAPS = st.sampled_from([1, 2, 7, 100])


def limits_of(
    samples: list[Sample], detections: list[Detections], max_dets: int
) -> tuple[ClassLimits, ...]:
    matched = [
        match_image(sample, found, CLASSES)
        for sample, found in zip(samples, detections, strict=True)
    ]
    return class_limits(matched, CLASSES, max_dets)


@dataclass
class Naive:
    """One detection or one instance of the naive implementation."""

    label: int
    mask: NDArray[np.bool_]
    score: float = 0.0
    kind: str = ""
    takes: "Naive | None" = None


def overlap(one: Naive, other: Naive, crowd: bool = False) -> float:
    shared = (one.mask & other.mask).sum()
    return float(shared / (one.mask.sum() if crowd else (one.mask | other.mask).sum()))


def naive_image(
    sample: Sample, found: Detections, max_dets: int
) -> tuple[list[Naive], list[Naive]]:
    """The detections that count and the instances of one image, with their kinds, by full masks."""
    truths, crowds = [], []
    for number in find_instances(sample.label_maps).ids_N.tolist():
        one = Naive(int(sample.labels_N[number - 1]), (sample.label_maps == number).any(axis=0))
        (crowds if sample.crowd_N[number - 1] else truths).append(one)
    counted: list[Naive] = []
    seen: Counter[int] = Counter()
    for row in np.argsort(-found.scores_N, kind="stable").tolist():
        crop, label = found.masks[row], int(found.labels_N[row])
        mask = np.zeros(sample.size, bool)
        h, w = crop.pixels.shape
        mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
        one = Naive(label, mask, float(found.scores_N[row]))
        seen[label] += 1
        if seen[label] > max_dets:
            continue
        taken = [other.takes for other in counted]
        best = 0.5
        for truth in truths:
            is_free = not any(truth is other for other in taken)
            if truth.label == label and is_free and overlap(one, truth) >= best:
                best, one.takes = overlap(one, truth), truth
        in_crowd = any(
            crowd.label == label and overlap(one, crowd, crowd=True) >= 0.5 for crowd in crowds
        )
        if one.takes is not None or not in_crowd:
            counted.append(one)
    for one in counted:
        own = max((overlap(one, t) for t in truths if t.label == one.label), default=0)
        other = max((overlap(one, t) for t in truths if t.label != one.label), default=0)
        one.kind = (
            "right" if one.takes is not None
            else "duplicate" if own >= 0.5
            else "of_another_class" if other >= 0.5
            else "badly_outlined" if own >= 0.1
            else "background"
        )  # fmt: skip
    for truth in truths:
        own = max((overlap(d, truth) for d in counted if d.label == truth.label), default=0)
        other = max((overlap(d, truth) for d in counted if d.label != truth.label), default=0)
        truth.kind = (
            "found" if any(one.takes is truth for one in counted)
            else "called_another_class" if other >= 0.5
            else "badly_outlined" if own >= 0.1
            else "not_found"
        )  # fmt: skip
    return counted, truths


def naive(
    samples: list[Sample], detections: list[Detections], max_dets: int
) -> tuple[ClassLimits, ...]:
    """The limits of each class by loops over every detection and every instance."""
    images = [naive_image(*pair, max_dets) for pair in zip(samples, detections, strict=True)]
    return tuple(naive_class(images, label) for label in range(1, CLASSES + 1))


def naive_class(images: list[tuple[list[Naive], list[Naive]]], label: int) -> ClassLimits:
    mine = [one for counted, _ in images for one in counted if one.label == label]
    truths = [one for _, there in images for one in there if one.label == label]
    called, callers, outlines = [0] * CLASSES, [], []
    for counted, there in images:
        for truth in there:
            if truth.label != label:
                continue
            others = [d for d in counted if d.label != label and overlap(d, truth) >= 0.5]
            if truth.kind == "called_another_class":
                callers.append(max(others, key=lambda one: one.score))
                called[callers[-1].label - 1] += 1
            if truth.kind != "found":
                near = [
                    one for one in counted
                    if one.label == label and one.kind == "badly_outlined"
                    and nearest(one, there) is truth
                ]  # fmt: skip
                outlines += [max(near, key=lambda one: one.score)] if near else []

    def score(gone: str, added: list[Naive], there: int) -> float | None:
        kept = [one for one in mine if one.kind != gone]
        scores = np.array([one.score for one in [*kept, *added]], np.float32)
        hits = np.array([one.kind == "right" for one in kept] + [True] * len(added), bool)
        return average_precision(scores, hits, there) if there else None

    kinds = Counter(one.kind for one in truths)
    return ClassLimits(
        {kind: kinds[kind] for kind in INSTANCE_KINDS},
        tuple(called),
        {kind: sum(one.kind == kind for one in mine) for kind in DETECTION_KINDS},
        {
            "called_another_class": score("of_another_class", callers, len(truths)),
            "badly_outlined": score("badly_outlined", outlines, len(truths)),
            "not_found": score("", [], len(truths) - kinds["not_found"]),
            "duplicate": score("duplicate", [], len(truths)),
            "background": score("background", [], len(truths)),
        },
    )


def nearest(one: Naive, truths: list[Naive]) -> Naive:
    """The instance of its class that a detection overlaps most; of equals the first."""
    return max((t for t in truths if t.label == one.label), key=lambda truth: overlap(one, truth))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), CAPS)
def test_they_are_those_of_a_naive_implementation_on_full_masks(seed: int, max_dets: int) -> None:
    samples, detections = random_scene(seed)
    expected, found = naive(samples, detections, max_dets), limits_of(samples, detections, max_dets)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.instances, ours.called) == (theirs.instances, theirs.called)
        assert ours.detections == theirs.detections
        assert ours.mended == pytest.approx(theirs.mended, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), CAPS)
def test_every_instance_and_every_detection_that_counts_is_of_one_kind(
    seed: int, max_dets: int
) -> None:
    samples, detections = random_scene(seed)
    table = match_images(samples, detections, CLASSES)[0]
    counted_D = ~table.ignored_D & (table.rank_D < max_dets)
    scores = ap50(table, max_dets).per_class
    for label, one in enumerate(limits_of(samples, detections, max_dets), start=1):
        mine_D = counted_D & (table.label_D == label)
        assert tuple(one.instances) == INSTANCE_KINDS
        assert tuple(one.detections) == DETECTION_KINDS
        assert sum(one.instances.values()) == table.truths_IC[:, label - 1].sum()
        assert sum(one.detections.values()) == mine_D.sum()
        assert one.instances["found"] == one.detections["right"] == table.hit_D[mine_D].sum()
        assert sum(one.called) == one.instances["called_another_class"]
        assert one.called[label - 1] == 0
        assert tuple(one.mended) == MENDS
        score = scores[label - 1]
        for mend in MENDS if score is not None else ():
            value = one.mended[mend]
            assert value is None or value >= score - 1e-12, f"{mend} mended makes it worse"
        assert ClassLimits.from_json(json.loads(json.dumps(one.to_json()))) == one


def cells(seed: int) -> tuple[list[Sample], list[Detections]]:
    """Cells that do not touch, and detections of them with distinct scores: right ones, copies,
    shifted ones, ones of another class, and noise.
    """
    rng = np.random.default_rng(seed)
    samples, detections = [], []
    for index in range(2):
        label_maps, labels = np.zeros((1, 60, 60), np.uint16), rng.integers(1, CLASSES + 1, 25)
        masks, called = [], []
        for number, label in enumerate(labels.tolist(), start=1):
            y, x = 12 * ((number - 1) // 5), 12 * ((number - 1) % 5)
            label_maps[0, y : y + 8, x : x + 8] = number
            for _ in range(rng.integers(0, 3)):
                mask = np.zeros((60, 60), bool)
                dy, dx = rng.integers(0, 4, 2)
                mask[y + dy : y + dy + 8, x + dx : x + dx + 8] = True
                masks.append(mask)
                called.append(label if rng.random() < 0.6 else int(rng.integers(1, CLASSES + 1)))
        scores = rng.permutation(np.linspace(0.1, 0.9, len(masks))).astype(np.float32)
        order = np.argsort(-scores)
        samples.append(
            Sample(str(index), np.zeros((60, 60, 3), np.uint8), label_maps, labels, labels < 0)
        )
        detections.append(
            Detections(
                np.zeros((len(masks), 4), np.float32),
                np.array(called, np.int64)[order],
                scores[order] + np.float32(index / 100),
                tuple(MaskCrop(0, 0, masks[row]) for row in order),
            )
        )
    return samples, detections


MANY = 10_000


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mend", MENDS)
def test_a_class_has_the_ap50_that_it_would_have_if_an_error_were_really_mended(
    seed: int, mend: str
) -> None:
    samples, detections = cells(seed)
    limits = limits_of(samples, detections, MANY)
    for label, one in enumerate(limits, start=1):
        mended = [
            really_mended(*pair, label, mend) for pair in zip(samples, detections, strict=True)
        ]
        table = match_images([pair[0] for pair in mended], [pair[1] for pair in mended], CLASSES)[0]
        assert one.mended[mend] == pytest.approx(ap50(table, None).per_class[label - 1], abs=1e-12)


def really_mended(
    sample: Sample, found: Detections, label: int, mend: str
) -> tuple[Sample, Detections]:
    """The image and its detections with one kind of error of a class corrected in them."""
    counted, truths = naive_image(sample, found, MANY)
    mine = [one for one in counted if one.label == label]
    if mend == "not_found":
        lost = [n for n, t in enumerate(truths, 1) if (t.label, t.kind) == (label, mend)]
        maps = np.where(np.isin(sample.label_maps, lost), 0, sample.label_maps).astype(np.uint16)
        return replace(sample, label_maps=maps), found
    if mend in ("duplicate", "background"):
        mine = [one for one in mine if one.kind != mend]
    if mend == "called_another_class":
        mine = [one for one in mine if one.kind != "of_another_class"]
        for truth in truths:
            if (truth.label, truth.kind) == (label, mend):
                others = [one for one in counted if overlap(one, truth) >= 0.5]
                caller = max(others, key=lambda one: one.score)
                mine.append(Naive(label, truth.mask, caller.score))
    if mend == "badly_outlined":
        outlines = [one for one in mine if one.kind == mend]
        mine = [one for one in mine if one.kind != mend]
        for truth in truths:
            near = [one for one in outlines if nearest(one, truths) is truth]
            if truth.label == label and truth.kind != "found" and near:
                mine.append(Naive(label, truth.mask, max(one.score for one in near)))
    mine.sort(key=lambda one: -one.score)
    return sample, Detections(
        np.zeros((len(mine), 4), np.float32),
        np.full(len(mine), label),
        np.array([one.score for one in mine], np.float32),
        tuple(MaskCrop(0, 0, one.mask) for one in mine),
    )


def test_the_scenes_of_cells_have_every_kind() -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        for one in limits_of(*cells(seed), MANY):
            seen.update({f"instance {kind}": count for kind, count in one.instances.items()})
            seen.update({f"detection {kind}": count for kind, count in one.detections.items()})
    assert len(seen) == len(INSTANCE_KINDS) + len(DETECTION_KINDS)
    assert min(seen.values()) > 5


def test_a_cell_that_is_called_another_class_counts_for_both_classes() -> None:
    label_maps = np.zeros((1, 8, 20), np.uint16)
    label_maps[0, :6, :6], label_maps[0, :6, 10:16] = 1, 2
    labels = np.array([1, 1])
    sample = Sample(
        "image", np.zeros((8, 20, 3), np.uint8), label_maps, labels, np.zeros(2, np.bool_)
    )
    found = Detections(
        np.zeros((3, 4), np.float32), np.array([2, 3, 2]), np.array([0.9, 0.8, 0.7], np.float32),
        tuple(MaskCrop(0, 0, label_maps[0] == number) for number in (1, 1, 2)),
    )  # fmt: skip
    first, second, third, fourth = limits_of([sample], [found], 100)
    assert first.instances == dict(zip(INSTANCE_KINDS, (0, 2, 0, 0), strict=True))
    assert first.called == (0, 2, 0, 0)
    assert first.mended["called_another_class"] == pytest.approx(1, abs=1e-12)
    assert second.detections == dict(zip(DETECTION_KINDS, (0, 0, 2, 0, 0), strict=True))
    assert third.detections["of_another_class"] == 1
    assert set(second.mended.values()) == {None}
    assert set(fourth.instances.values()) == set(fourth.detections.values()) == {0}
    assert not any(math.isnan(value) for value in first.mended.values() if value is not None)
