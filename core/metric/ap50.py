"""COCO AP50: average precision at IoU 0.5, of masks and of boxes.

Per class, detections of all images are ranked by score, each is matched within its image to the
free ground-truth instance that it overlaps most (IoU at least 0.5), and precision, made monotone,
is averaged at 101 recall levels; the score is the mean over the classes that have ground truth. The
numbers are those of pycocotools' COCOeval (IoU 0.5, area "all") to 1e-12.

This is not the "average precision" of Cellpose and StarDist, TP / (TP + FP + FN) at one IoU without
scores, nor COCO's AP, the mean over the IoUs .50 to .95.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.errors import CheckpointError
from core.files import write_atomically
from core.labels.label_maps import Instances, find_instances
from core.sample import MAX_INSTANCES, Detections, MaskCrop, Sample

_ScalarT = TypeVar("_ScalarT", bound=np.generic)

IOU = 0.5
"""IoU from which on a detection matches an instance."""
FEW_IMAGES = 5
"""Number of images below which a class is too rare for its AP50 to say much."""
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
"""COCO's recall levels; compared exactly, since a tolerance of 1e-12 moves AP50 by 0.001."""


@dataclass(frozen=True)
class MatchTable:
    """The matches of detections with the ground truth of each image: all that AP50 needs.

    One row for each detection (D), ordered by image, then by descending score (equal scores keep
    their order):

    image_D       int32, index into image_names
    label_D       int16, class number 1..C
    score_D       float32
    rank_D        int32, 0-based place among the detections of its image and class
    hit_D         bool, matched a ground-truth instance
    ignored_D     bool, matched a crowd region: neither right nor wrong

    truths_IC     int32 [images, C], ground-truth instances of each image and class, crowd regions
                  not counted
    image_names   name of each image
    """

    image_D: NDArray[np.int32]
    label_D: NDArray[np.int16]
    score_D: NDArray[np.float32]
    rank_D: NDArray[np.int32]
    hit_D: NDArray[np.bool_]
    ignored_D: NDArray[np.bool_]
    truths_IC: NDArray[np.int32]
    image_names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write one compressed npz file, whole or not at all."""
        buffer = io.BytesIO()
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez_compressed(
            buffer, **arrays | {"image_names": np.array(self.image_names, dtype=str)}
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "MatchTable":
        """Read what `save` wrote.

        Raises CheckpointError, which names the file, if it is missing, damaged or another file.
        """
        try:
            # From memory, because np.load leaves a torn file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                arrays = {field.name: archive[field.name] for field in fields(cls)}
        except (
            OSError,
            EOFError,
            KeyError,
            ValueError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise CheckpointError(
                f"{path}: a match table must be a whole npz file, and this one cannot be read"
                f" ({error}); evaluate the epoch again"
            ) from error
        if not _is_table(arrays):
            raise CheckpointError(
                f"{path}: a match table must hold what an evaluation writes; evaluate the epoch"
                " again"
            )
        return cls(**arrays | {"image_names": tuple(arrays["image_names"].tolist())})


def _is_table(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether arrays from a file have the types, shapes and ranges of a match table."""
    rows, truths_IC, names = arrays["image_D"], arrays["truths_IC"], arrays["image_names"]
    kinds = {
        "image_D": "i4",
        "label_D": "i2",
        "score_D": "f4",
        "rank_D": "i4",
        "hit_D": "?",
        "ignored_D": "?",
    }
    return (
        rows.ndim == 1
        and all(
            arrays[name].dtype == kind and arrays[name].shape == rows.shape
            for name, kind in kinds.items()
        )
        and (truths_IC.dtype.str[1:], truths_IC.ndim, names.dtype.kind) == ("i4", 2, "U")
        and names.shape == truths_IC.shape[:1]
        and all(
            bool(np.all((least <= arrays[name]) & (arrays[name] < end)))
            for name, least, end in (
                ("image_D", 0, len(names)),
                ("label_D", 1, truths_IC.shape[1] + 1),
                ("rank_D", 0, max(1, len(rows))),
                ("truths_IC", 0, MAX_INSTANCES + 1),
            )
        )
        and bool(np.isfinite(arrays["score_D"]).all())
    )


@dataclass(frozen=True)
class Ap50:
    """The score and its parts.

    mean        mean over the classes with ground truth; nan when no class has any
    per_class   AP50 of class 1, 2, ..., in 0..1; None for a class without ground truth
    """

    mean: float
    per_class: tuple[float | None, ...]


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and an annotated instance that overlap, with their IoU, each [K].

    `detection` and `truth` are the rows of the two. For a crowd region the IoU is COCO's: the
    intersection divided by the area of the detection.
    """

    detection: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class Matched:
    """The result of matching the detections of one image.

    taken_D     int64 [D], row of the instance that the detection took; -1 for none
    ignored_D   bool [D], matched a crowd region alone: neither right nor wrong
    """

    taken_D: NDArray[np.int64]
    ignored_D: NDArray[np.bool_]

    @property
    def hit_D(self) -> NDArray[np.bool_]:  # noqa: N802  # an axis letter
        """Whether each detection took an instance, bool [D]."""
        return self.taken_D >= 0


@dataclass(frozen=True)
class ImageMatches:
    """The detections of one image, the best score first, and what they matched.

    name       name of the image
    labels_D   int64 [D], class numbers
    scores_D   float32 [D]
    by_mask    the outcome of matching masks
    by_box     the outcome of matching boxes
    labels_G   int64 [G], class numbers of the annotated instances
    crowd_G    bool [G], crowd regions
    overlaps   pairs whose masks share a pixel, of whatever classes
    truths_C   int64 [C], annotated instances of each class, crowd regions not counted
    """

    name: str
    labels_D: NDArray[np.int64]
    scores_D: NDArray[np.float32]
    by_mask: Matched
    by_box: Matched
    labels_G: NDArray[np.int64]
    crowd_G: NDArray[np.bool_]
    overlaps: Overlaps
    truths_C: NDArray[np.int64]


def match_images(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: int
) -> tuple[MatchTable, MatchTable]:
    """Match the detections of each sample with its ground truth: by masks, and again by boxes.

    `classes` is C; see `match_image`.
    """
    return match_tables(
        [
            match_image(sample, found, classes)
            for sample, found in zip(samples, detections, strict=True)
        ],
        classes,
    )


def match_image(sample: Sample, found: Detections, classes: int) -> ImageMatches:
    """Match the detections in one sample with its ground truth.

    `classes` is C; ground-truth boxes are those of the masks. Matching is greedy as in COCOeval:
    the best score chooses first, among equal scores the one that came first; among equal overlaps
    the later instance is taken; a crowd region is taken only where no instance is, and by any
    number of detections.
    """
    order = np.argsort(-found.scores_N, kind="stable")
    labels_D = found.labels_N[order]
    truth = find_instances(sample.label_maps)
    labels_G = sample.labels_N[truth.ids_N - 1]
    crowd_G = sample.crowd_N[truth.ids_N - 1]
    assert all(((numbers >= 1) & (numbers <= classes)).all() for numbers in (labels_D, labels_G))
    masks = [found.masks[row] for row in order.tolist()]
    overlaps_of_masks = mask_overlaps(masks, sample.label_maps, truth, crowd_G)
    overlaps_of_boxes = _box_overlaps(
        found.boxes_N4[order], labels_D, truth.boxes_N4, labels_G, crowd_G
    )
    return ImageMatches(
        name=sample.name,
        labels_D=labels_D,
        scores_D=found.scores_N[order],
        by_mask=_assign(overlaps_of_masks, labels_D, labels_G, crowd_G),
        by_box=_assign(overlaps_of_boxes, labels_D, labels_G, crowd_G),
        labels_G=labels_G,
        crowd_G=crowd_G,
        overlaps=overlaps_of_masks,
        truths_C=np.bincount(labels_G[~crowd_G] - 1, minlength=classes),
    )


def match_tables(images: Sequence[ImageMatches], classes: int) -> tuple[MatchTable, MatchTable]:
    """The matches of all images as two tables: that of masks, and that of boxes."""

    def table(outcomes: Sequence[Matched]) -> MatchTable:
        return MatchTable(
            image_D=np.repeat(
                np.arange(len(images), dtype=np.int32), [len(one.labels_D) for one in images]
            ),
            label_D=concatenated([one.labels_D for one in images], np.int16),
            score_D=concatenated([one.scores_D for one in images], np.float32),
            rank_D=concatenated([ranks(one.labels_D) for one in images], np.int32),
            hit_D=concatenated([outcome.hit_D for outcome in outcomes], np.bool_),
            ignored_D=concatenated([outcome.ignored_D for outcome in outcomes], np.bool_),
            truths_IC=np.array([one.truths_C for one in images], np.int32).reshape(-1, classes),
            image_names=tuple(one.name for one in images),
        )

    return table([one.by_mask for one in images]), table([one.by_box for one in images])


def ap50(table: MatchTable, max_dets: int | None) -> Ap50:
    """Compute AP50 from the `max_dets` best detections of each image and class; None for all."""
    counted_D = (
        ~table.ignored_D if max_dets is None else ~table.ignored_D & (table.rank_D < max_dets)
    )
    per_class = [
        average_precision(table.score_D[rows_D], table.hit_D[rows_D], truths) if truths else None
        for truths, rows_D in (
            (truths, counted_D & (table.label_D == label))
            for label, truths in enumerate(
                table.truths_IC.sum(axis=0, dtype=np.int64).tolist(), start=1
            )
        )
    ]
    present = [value for value in per_class if value is not None]
    return Ap50(float(np.mean(present)) if present else float("nan"), tuple(per_class))


def balanced_score(table: MatchTable) -> float | None:
    """Find the score threshold with the highest F1 over all classes and images; None without a hit.

    F1 = 2 hits / (detections + instances), the harmonic mean of precision and recall; of equal ones
    the highest threshold is taken. It is for showing pictures: AP50 itself needs no threshold.
    """
    counted_D = ~table.ignored_D
    order = np.argsort(-table.score_D[counted_D], kind="stable")
    score_D, hit_D = table.score_D[counted_D][order], table.hit_D[counted_D][order]
    if not hit_D.any():
        return None
    f1_D = 2 * np.cumsum(hit_D) / (np.arange(1, len(hit_D) + 1) + table.truths_IC.sum())
    is_last_of_its_score = np.append(score_D[1:] != score_D[:-1], True)
    return float(score_D[np.argmax(np.where(is_last_of_its_score, f1_D, -1.0))])


def average_precision(score_D: NDArray[np.float32], hit_D: NDArray[np.bool_], truths: int) -> float:
    """The average precision of one class, in 0..1.

    truths   number of its ground-truth instances, above 0

    The rows come in the order of the images, which decides between equal scores.
    """
    hits_D = np.cumsum(hit_D[np.argsort(-score_D, kind="stable")])
    precision_D = hits_D / (np.arange(1, len(hits_D) + 1) + np.spacing(1))
    envelope_D = np.maximum.accumulate(precision_D[::-1])[::-1]
    reached_at = np.searchsorted(hits_D / truths, RECALL_LEVELS, side="left")
    # A recall level that is never reached counts 0.
    return float(np.append(envelope_D, 0.0)[reached_at].mean())


def mask_overlaps(
    masks: Sequence[MaskCrop],
    label_maps: NDArray[np.uint16],
    truth: Instances,
    crowd_G: NDArray[np.bool_],
) -> Overlaps:
    """The overlaps of each mask with all instances, found by counting the labels under the mask.

    label_maps   uint16 [L, H, W], whose instances are the rows of `truth`
    crowd_G      bool, which of these are crowd regions
    """
    row_of_id = np.zeros(MAX_INSTANCES + 1, dtype=np.int64)
    row_of_id[truth.ids_N] = np.arange(len(truth))
    numbers, ids, intersections = [], [], []
    for number, mask in enumerate(masks):
        h, w = mask.pixels.shape
        for window in label_maps[:, mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w]:
            counts = np.bincount(window[mask.pixels])
            under = np.flatnonzero(counts[1:]) + 1
            numbers.append(np.full(len(under), number))
            ids.append(under)
            intersections.append(counts[under])
    detection, intersection = concatenated(numbers, np.int64), concatenated(intersections, np.int64)
    row = row_of_id[concatenated(ids, np.int64)]
    areas_D = np.array([mask.area for mask in masks], dtype=np.int64)
    union = areas_D[detection] + np.where(crowd_G[row], 0, truth.areas_N[row] - intersection)
    return Overlaps(detection, row, intersection / union)


def _box_overlaps(
    boxes_D4: NDArray[np.floating],
    labels_D: NDArray[np.int64],
    boxes_G4: NDArray[np.integer | np.floating],
    labels_G: NDArray[np.int64],
    crowd_G: NDArray[np.bool_],
) -> Overlaps:
    """The overlaps of boxes of equal class, in float64 as pycocotools computes them."""
    boxes_D4, boxes_G4 = boxes_D4.astype(np.float64), boxes_G4.astype(np.float64)
    areas_D = (boxes_D4[:, 2:] - boxes_D4[:, :2]).prod(axis=1)
    areas_G = (boxes_G4[:, 2:] - boxes_G4[:, :2]).prod(axis=1)
    pairs = []
    for label in np.unique(labels_G):
        rows_D, rows_G = np.flatnonzero(labels_D == label), np.flatnonzero(labels_G == label)
        ends_DG2 = np.minimum(boxes_D4[rows_D, None, 2:], boxes_G4[rows_G, 2:])
        sides_DG2 = ends_DG2 - np.maximum(boxes_D4[rows_D, None, :2], boxes_G4[rows_G, :2])
        d, g = np.nonzero((sides_DG2 > 0).all(axis=2))
        intersection = sides_DG2[d, g].prod(axis=1)
        d, g = rows_D[d], rows_G[g]
        union = np.where(crowd_G[g], areas_D[d], areas_D[d] + areas_G[g] - intersection)
        pairs.append((d, g, intersection / union))
    return Overlaps(
        concatenated([d for d, _, _ in pairs], np.int64),
        concatenated([g for _, g, _ in pairs], np.int64),
        concatenated([iou for _, _, iou in pairs], np.float64),
    )


def _assign(
    overlaps: Overlaps,
    labels_D: NDArray[np.int64],
    labels_G: NDArray[np.int64],
    crowd_G: NDArray[np.bool_],
) -> Matched:
    """Let each detection, best first, take the free instance of its class that it overlaps most."""
    taken_D = np.full(len(labels_D), -1, dtype=np.int64)
    in_crowd_D = np.zeros(len(labels_D), dtype=np.bool_)
    d, g, iou = overlaps.detection, overlaps.truth, overlaps.iou
    match_K = (iou >= IOU) & (labels_D[d] == labels_G[g])
    in_crowd_D[d[match_K & crowd_G[g]]] = True
    pairs = np.flatnonzero(match_K & ~crowd_G[g])
    pairs = pairs[np.lexsort((-g[pairs], -iou[pairs], d[pairs]))]
    taken: set[int] = set()
    for detection, truth in zip(d[pairs].tolist(), g[pairs].tolist(), strict=True):
        if taken_D[detection] < 0 and truth not in taken:
            taken_D[detection] = truth
            taken.add(truth)
    return Matched(taken_D, in_crowd_D & (taken_D < 0))


def ranks(labels_D: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each row among those of its label, from 0."""
    order = np.argsort(labels_D, kind="stable")
    sorted_D = labels_D[order]
    ranks_D = np.empty(len(labels_D), dtype=np.int64)
    ranks_D[order] = np.arange(len(labels_D)) - np.searchsorted(sorted_D, sorted_D, side="left")
    return ranks_D


def concatenated(parts: Sequence[NDArray[Any]], dtype: type[_ScalarT]) -> NDArray[_ScalarT]:
    """Concatenate arrays; an empty list gives an empty array."""
    return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype)
