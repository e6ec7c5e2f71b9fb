"""Small random scenes with all that makes matching hard: overlaps, copies, crowds, equal scores,
empty images.
"""

import numpy as np

from core.sample import Detections, MaskCrop, Sample

CLASSES = 4


def random_sample(
    rng: np.random.Generator, name: str, classes: list[int], instances: int
) -> Sample:
    """Rectangles in up to three label maps, so that instances overlap; some are copies of
    another, some are crowds.
    """
    height, width = rng.integers(20, 50, size=2)
    label_maps = np.zeros((3, height, width), dtype=np.uint16)
    for number in range(1, instances + 1):
        y, x = rng.integers(0, height - 2), rng.integers(0, width - 2)
        h, w = rng.integers(1, 14, size=2)
        window = label_maps[rng.integers(3), y : y + h, x : x + w]
        window[window == 0] = number
        if rng.random() < 0.2:  # the same shape twice: equal overlaps
            source = (label_maps == rng.integers(1, number + 1)).any(axis=0)
            target = label_maps[rng.integers(3)]
            if not target[source].any() and not (label_maps == number).any():
                target[source] = number
    present = np.unique(label_maps)[1:]
    compact = np.zeros(instances + 1, dtype=np.uint16)
    compact[present] = np.arange(1, len(present) + 1)
    return Sample(
        name=name,
        image=np.zeros((height, width, 3), dtype=np.uint8),
        label_maps=compact[label_maps],
        labels_N=rng.choice(classes, size=len(present)).astype(np.int64),
        crowd_N=rng.random(len(present)) < 0.15,
    )


def random_detections(
    rng: np.random.Generator, sample: Sample, classes: list[int], count: int
) -> Detections:
    """Shifted and grown instances, exact ones, halves and noise; many equal scores; boxes near
    their masks.
    """
    height, width = sample.size
    boxes, labels, masks = [], [], []
    for _ in range(count):
        mask = np.zeros((height, width), dtype=bool)
        label = int(rng.choice(classes))
        if len(sample.labels_N) and rng.random() < 0.8:
            number = rng.integers(len(sample.labels_N))
            mask = np.roll(
                (sample.label_maps == number + 1).any(axis=0),
                rng.integers(-1, 2, size=2),
                axis=(0, 1),
            )
            if rng.random() < 0.3:
                mask[:, rng.integers(width) :] = False
            if rng.random() < 0.8 and sample.labels_N[number] in classes:
                label = int(sample.labels_N[number])
        if not mask.any():
            y, x = rng.integers(0, height - 1), rng.integers(0, width - 1)
            mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        margin = rng.integers(0, 2)  # the window need not be the tightest
        top, left = max(y0 - margin, 0), max(x0 - margin, 0)
        masks.append(MaskCrop(int(top), int(left), mask[top : y1 + margin, left : x1 + margin]))
        outward = rng.choice([0.0, 0.7], size=4) * np.clip(
            rng.normal(size=4), -0.6, 3
        )  # the box stays a box
        boxes.append(np.array([x0, y0, x1, y1]) + outward * [-1, -1, 1, 1])
        labels.append(label)
    scores = np.where(
        rng.random(count) < 0.5, rng.integers(1, 5, count) / 5, rng.random(count)
    ).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes_N4=np.array(boxes, dtype=np.float32).reshape(-1, 4)[order],
        labels_N=np.array(labels, dtype=np.int64)[order],
        scores_N=scores[order],
        masks=tuple(masks[row] for row in order),
    )


def random_scene(seed: int) -> tuple[list[Sample], list[Detections]]:
    """Up to six images; empty ones, ones without detections, classes without truth and classes
    never detected.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(CLASSES) + 1
    in_truth, in_detections = (
        drawn[: rng.integers(1, 5)].tolist(),
        drawn[rng.integers(0, 3) :].tolist(),
    )
    samples, detections = [], []
    for index in range(rng.integers(1, 7)):
        sample = random_sample(rng, f"image{index}", in_truth, int(rng.choice([0, 1, 8, 20])))
        samples.append(sample)
        detections.append(
            random_detections(rng, sample, in_detections, int(rng.choice([0, 1, 10, 40])))
        )
    return samples, detections


def assert_same_detections(one: Detections, other: Detections) -> None:
    """They are equal to the bit, in one order."""
    assert np.array_equal(one.boxes_N4, other.boxes_N4)
    assert np.array_equal(one.labels_N, other.labels_N)
    assert np.array_equal(one.scores_N, other.scores_N)
    for a, b in zip(one.masks, other.masks, strict=True):
        assert (a.y0, a.x0) == (b.y0, b.x0)
        assert np.array_equal(a.pixels, b.pixels)
