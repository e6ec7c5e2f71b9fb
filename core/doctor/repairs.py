"""Repairs of a data set that need no judgement, and the repaired copy.

Every repair is counted, and written with its image and place into `repairs.json` of the copy. What
only a person can decide stays as it is, and the diagnosis of the copy names it: which of two
classes is right, or whether two pieces are one cell.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from core.config import TrialConfig
from core.data.coco_masks import COVERS
from core.data.conversion import converted_names, refuse_target, write_coco
from core.data.dataset import Dataset, Inspection, Problem, assemble
from core.data.images import IMAGE_SUFFIXES, turned_in_doubt
from core.data.split import group_names
from core.data.suspicion import (
    SLIVER,
    SPECK,
    Shapes,
    are_interpolated,
    are_specks,
    at_border,
    components,
    shapes_of,
    touches_another,
)
from core.doctor.marks import FAR_FEWER, FEW_PIXELS, Marks, marks_of
from core.errors import BadRequest, DataError
from core.files import replaced, write_json_atomically
from core.sample import Sample
from core.text import many
from core.values import as_number, as_percent

LIST = "repairs.json"
"""The file of the copy that lists every repair."""
FARTHEST = 5.0
"""Largest distance, in pixels, from a pixel whose id smoothing made up to one that is certain. The
smoothing of an enlargement by two reaches about that far; where the distance is larger, masks were
damaged in another way, and are left."""
LEAST_CERTAIN = 0.15
"""Least fraction of a mended instance's pixels that are certain; with less in any instance, the
masks of the image are left. A disc of 11 pixels across that was halved and doubled in size with
smoothing keeps a quarter."""
EMPTY = (COVERS, "an annotation must have an outline, and this one has only a bbox")
"""The beginnings of messages on annotations without a pixel."""

DONE_IN_COPY = ("data.split_components", "data.skip_bad")
"""Settings of reading that have had their effect when a copy is written."""

REPAIRS: Mapping[str, str] = {
    "turned": "image files that EXIF turns, written upright as they are annotated, without EXIF",
    "empty": "annotations without an outline, or with one that covers no pixel, left out",
    "made up": (
        "made-up ids along the borders of others, as smoothing makes them, given to the nearest"
        f" instance or background (within {as_number(FARTHEST)} pixels)"
    ),
    "twin": "instances annotated twice in one class, of which the first is kept",
    "stray pixels": (
        f"instances cleared of stray pixels (separate pieces under {as_percent(SPECK)} of the"
        " largest one, away from the image's border)"
    ),
    "few pixels": (
        f"instances of {FEW_PIXELS} pixels or fewer away from the image's border, erased (the"
        f" median instance has at least {FAR_FEWER * FEW_PIXELS})"
    ),
}
"""The repairs by name, in the order in which they are made, each to be read after a number."""


@dataclass(frozen=True)
class Repair:
    """One repair.

    repair    name of the repair, of REPAIRS
    image     name of the image as the data set has it; empty where the place says it
    place     the annotation's class and its box in the image, or its place in its file
    pixels    number of pixels that changed
    """

    repair: str
    image: str
    place: str
    pixels: int


@dataclass(frozen=True)
class Mended:
    """A data set that was mended, in memory.

    dataset   the mended data set
    repairs   what was done, in order
    """

    dataset: Dataset
    repairs: tuple[Repair, ...]

    @property
    def lines(self) -> list[str]:
        """Each repair in words, with its number and the number of its images."""
        return [
            _counted(name, [one for one in self.repairs if one.repair == name])
            for name in REPAIRS
            if any(one.repair == name for one in self.repairs)
        ]


def mended(inspection: Inspection, where: str) -> Mended | None:
    """Mend what was read of a data set; None where nothing could be read.

    where   the data set as the user named it
    """
    if inspection.dataset is None:
        return None
    repairs = [Repair("turned", "", str(path), 0) for path in _turned_files(Path(where))]
    repairs += [
        Repair("empty", "", problem.place, 0) for problem in inspection.problems if _empty(problem)
    ]
    dataset = inspection.dataset
    # A repair can bring another one in reach: without its twins, a data set has another median.
    while True:
        dataset, found = _mend_once(dataset)
        repairs += found
        if not found:
            return Mended(dataset, tuple(repairs))


def in_the_way(inspection: Inspection) -> list[Problem]:
    """The problems for which something would be missing from a copy, other than empty outlines."""
    return [
        problem for problem in inspection.problems if not problem.suspicious and not _empty(problem)
    ]


def refuse_copy(where: str, copy: Path) -> None:
    """Raise BadRequest for a place at which no copy of a data set may be written."""
    if copy.exists() and not (copy.is_dir() and not any(copy.iterdir())):
        raise BadRequest(
            f"{copy}: the copy must be a new or an empty folder, and this one is neither; name"
            " another one"
        )
    refuse_target(copy)
    data = Path(where).resolve()
    if data.is_dir() and copy.resolve().is_relative_to(data):
        raise BadRequest(
            f"{copy}: the copy must lie outside the data set {where}, which stays as it is; name"
            " another folder"
        )
    if not copy.absolute().parent.is_dir():
        raise BadRequest(
            f"{copy}: the folder {copy.absolute().parent} must exist, and does not; make it first"
        )


def write_copy(mend: Mended, where: str, copy: Path) -> None:
    """Write a mended data set in the COCO layout, whole or not at all. Raises OSError."""
    with replaced(copy) as folder:
        write_coco(mend.dataset, folder)
        content = {
            "copy_of": where,
            "meaning": {
                name: words
                for name, words in REPAIRS.items()
                if any(one.repair == name for one in mend.repairs)
            },
            "notes": list(mend.dataset.notes),
            "repairs": [asdict(one) for one in mend.repairs],
        }
        write_json_atomically(folder / LIST, content)


def _turned_files(folder: Path) -> Iterator[Path]:
    """The image files in a folder and below it that EXIF turns or mirrors."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            with contextlib.suppress(DataError):  # its reader has reported it, or does not read it
                if turned_in_doubt(path):
                    yield path


def _empty(problem: Problem) -> bool:
    """Whether the problem is an annotation that covers no pixel."""
    return problem.skippable and problem.message.startswith(EMPTY)


def _counted(name: str, repairs: Sequence[Repair]) -> str:
    images = len({one.image for one in repairs if one.image})
    where = f", in {many(images, 'image')}" if images else ""
    return f"{len(repairs):,} {REPAIRS[name]}{where}"


def _mend_once(dataset: Dataset) -> tuple[Dataset, list[Repair]]:
    """Make every repair that is seen now, and return what they were."""
    shapes = [shapes_of(sample) for sample in dataset.samples]
    marks: dict[int, dict[str, Marks]] = {}
    for one in marks_of(dataset, shapes):
        marks.setdefault(one.image, {})[one.kind] = one
    repairs: list[Repair] = []
    samples = list(dataset.samples)
    for index, found in sorted(marks.items()):
        mender = _Mender(dataset, samples[index], shapes[index])
        if "made up" in found:
            mender.snap()
        else:
            for kind in ("twin", "few pixels"):
                if kind in found:
                    mender.erase(kind, found[kind].ids_K)
            if "stray pixels" in found:
                mender.clear(found["stray pixels"].ids_K)
        if mender.repairs:
            repairs += mender.repairs
            samples[index] = mender.sample()
    if not repairs:
        return dataset, []
    changed = assemble(
        dataset.name, dataset.classes, samples, dataset.test_images, dataset.validation
    )
    return replace(changed, notes=dataset.notes, intensity=dataset.intensity), repairs


class _Mender:
    """The label maps of one image while they are mended."""

    def __init__(self, dataset: Dataset, sample: Sample, shapes: Shapes) -> None:
        self._sample = sample
        self._maps = np.array(sample.label_maps)
        self._classes = dataset.classes
        self._box_of = dict(zip(shapes.ids_N.tolist(), shapes.boxes_N4.tolist(), strict=True))
        self.repairs: list[Repair] = []

    def sample(self) -> Sample:
        """The mended image: instances without a pixel are gone, the others numbered from 1."""
        kept = np.unique(self._maps)
        kept = kept[kept > 0].astype(np.int64)
        number_of = np.zeros(len(self._sample.labels_N) + 1, np.uint16)
        number_of[kept] = np.arange(1, len(kept) + 1)
        maps = number_of[self._maps]
        used = [one for one in maps if one.any()]
        return replace(
            self._sample,
            label_maps=np.stack(used) if used else maps[:1],
            labels_N=self._sample.labels_N[kept - 1],
            crowd_N=self._sample.crowd_N[kept - 1],
        )

    def erase(self, kind: str, ids_K: NDArray[np.int64]) -> None:
        """Erase whole instances."""
        for number in ids_K.tolist():
            inside = self._maps == number
            if inside.any():  # a twin may have few pixels as well
                self._note(kind, number, int(np.count_nonzero(inside)))
                self._maps[inside] = 0

    def clear(self, ids_K: NDArray[np.int64]) -> None:
        """Erase the pieces of instances that are specks beside their largest piece."""
        for label_map in self._maps:
            pieces_HW, owner_K = components(np.where(np.isin(label_map, ids_K), label_map, 0))
            sizes_K = np.bincount(pieces_HW.ravel(), minlength=len(owner_K) + 1)[1:]
            speck_K = are_specks(sizes_K, owner_K) & ~at_border(pieces_HW, len(owner_K))
            for number in np.unique(owner_K[speck_K]).tolist():
                self._note(
                    "stray pixels", number, int(sizes_K[speck_K & (owner_K == number)].sum())
                )
            label_map[np.concatenate([[False], speck_K])[pieces_HW]] = 0

    def snap(self) -> None:
        """Give pixels with made-up ids to the nearest certain instance or background, if safe.

        Background is certain, and so is a piece of which most pixels touch no other instance. Half
        of the way between two levels a smoothed mask has their mean, so the border comes to lie
        where it was before the smoothing, to within a pixel.
        """
        before = self._maps.copy()
        for label_map in self._maps:
            pieces_HW, owner_K = components(label_map)
            flat = pieces_HW.ravel()
            sizes_K = np.bincount(flat, minlength=len(owner_K) + 1)[1:]
            touching_K = np.bincount(flat, touches_another(label_map).ravel(), len(owner_K) + 1)[1:]
            is_crowd_K = self._sample.crowd_N[owner_K - 1]
            made_up_K = (touching_K >= SLIVER * sizes_K) & ~is_crowd_K
            made_up_HW = np.concatenate([[False], made_up_K])[pieces_HW]
            if not made_up_HW.any():
                continue
            away_HW, (rows_HW, columns_HW) = ndimage.distance_transform_edt(
                made_up_HW, return_indices=True
            )
            snapped = label_map[rows_HW, columns_HW]
            if away_HW.max() > FARTHEST or not _is_sure(label_map, made_up_HW, snapped):
                self._maps = before
                return
            label_map[:] = snapped
        trial = replace(self._sample, label_maps=self._maps)
        if are_interpolated(shapes_of(trial)):
            self._maps = before
            return
        changed = self._maps != before
        for number in np.unique(before[changed]).tolist():
            self._note("made up", number, int(np.count_nonzero(changed & (before == number))))

    def _note(self, repair: str, number: int, pixels: int) -> None:
        x0, y0, x1, y1 = self._box_of.get(number, (0, 0, 0, 0))
        name = self._classes[int(self._sample.labels_N[number - 1]) - 1].name
        place = f"{name} at x {x0}, y {y0} ({x1 - x0} x {y1 - y0} pixels)"
        self.repairs.append(Repair(repair, self._sample.name, place, pixels))


def _is_sure(
    label_map: NDArray[np.uint16], made_up_HW: NDArray[np.bool_], snapped: NDArray[np.uint16]
) -> bool:
    """Whether no instance vanishes, or grows out of a few pixels, where made-up ids are replaced.

    label_map, snapped   uint16 [H, W], before and after
    made_up_HW           bool, the pixels that may differ
    """
    blobs_HW, count = ndimage.label(label_map > 0)
    with_certain = np.unique(blobs_HW[~made_up_HW & (label_map > 0)])
    if len(with_certain) < count:
        return False
    certain_N = np.bincount(label_map[~made_up_HW], minlength=int(label_map.max()) + 1)[1:]
    after_N = np.bincount(snapped.ravel(), minlength=len(certain_N) + 1)[1:]
    return bool((certain_N >= LEAST_CERTAIN * after_N).all())


def is_for_copy(name: str, settings: TrialConfig) -> bool:
    """Whether a setting that was given for a data set is to be given for its copy as well.

    settings   those with which the copy is checked, of `settings_for_copy`
    """
    pattern_went = name == "data.group_pattern" and not settings.data.group_pattern
    return name not in DONE_IN_COPY and not pattern_went


def settings_for_copy(config: TrialConfig, mend: Mended) -> tuple[TrialConfig, list[str]]:
    """The settings with which a copy is checked, and what is to be said of those that changed.

    Images of the copy end in `.png`, so that a group pattern may find no groups, or others.
    """
    changes: dict[str, bool | str] = dict.fromkeys(DONE_IN_COPY, False)
    said: list[str] = []
    pattern = config.data.group_pattern
    file_of = converted_names([one.name for one in mend.dataset.samples])
    try:
        before, after = (group_names(names, pattern, "") for names in (file_of, file_of.values()))
        kept = len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))
    except DataError:
        kept = False
    if not kept:
        changes["data.group_pattern"] = ""
        said.append(
            "Images of the copy end in .png, where data.group_pattern does not find the same"
            " groups: change it, as from `_\\d+$` to `_\\d+\\.png$`."
        )
    return config.changed(changes), said
