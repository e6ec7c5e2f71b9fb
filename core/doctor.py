"""The data doctor: everything about a data set at once, before a search is started on it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import DataConfig, TrialConfig
from core.data import Dataset, Inspection, Problem, inspect_data
from core.data.dataset import by_cause, examples_of
from core.data.measure import Measurement, measure
from core.data.split import split
from core.data.suspicion import shapes_of
from core.errors import DataError
from core.fitting import Circumstances, fitted_share, recommended
from core.metric.ap50 import FEW_IMAGES
from core.prediction.advice import advice
from core.text import many, shown
from core.values import as_percent, as_setting

MOST_LISTED_CLASSES = 40
"""Largest number of classes in the table."""
MOST_LISTED_CAUSES = 40
"""Largest number of causes of problems that are listed."""


@dataclass(frozen=True)
class Diagnosis:
    """The report of the doctor.

    lines    what the data set holds, what is unusual and accepted, and every problem
    usable   whether the data set can be searched on
    """

    lines: tuple[str, ...]
    usable: bool


def diagnose(where: str, config: TrialConfig) -> Diagnosis:
    """Examine a data set as a search with these settings would read, split and score it."""
    inspection = inspect_data(where, config.data)
    problems = list(inspection.problems)
    lines: list[str] = []
    if inspection.dataset is not None:
        suspected = any(problem.suspicious for problem in problems)
        nothing_read = bool(problems) and not inspection.dataset.instance_counts().any()
        signs = not suspected and not nothing_read
        lines += _content(inspection.dataset, where, config, signs)
        if not problems:
            problems = _split_problems(inspection.dataset, where, config.data)
    lines += _verdict(problems, inspection)
    return Diagnosis(tuple(lines), not problems)


def _content(dataset: Dataset, where: str, config: TrialConfig, signs: bool) -> Iterator[str]:
    """Counts by class, sizes and instance areas, then what is unusual and accepted.

    config   the settings against which the data set is held
    signs    whether to note classes without instances, pieces, overlaps and crowd regions; a
             problem that causes them makes such notes superfluous
    """
    counts_IC = dataset.instance_counts()
    yield (
        f"{where}: {many(len(dataset.samples), 'annotated image')}, "
        + f"{many(int(counts_IC.sum()), 'instance')},"
        f" {many(len(dataset.test_images), 'test image')}"
    )
    yield ""
    yield from _class_table(dataset, counts_IC)
    yield ""

    sizes = np.array([sample.size for sample in dataset.samples])
    yield f"image height        {_range_in_words(sizes[:, 0])} pixels"
    yield f"image width         {_range_in_words(sizes[:, 1])} pixels"
    yield f"instances per image {_range_in_words(counts_IC.sum(axis=1))}"
    shapes = [shapes_of(sample) for sample in dataset.samples]
    areas = np.concatenate([one.areas_N for one in shapes])
    if len(areas):
        x0, y0, x1, y1 = np.concatenate([one.boxes_N4 for one in shapes]).T
        yield f"instance area       {_range_in_words(areas)} pixels"
        thin = (areas > 1) & ((y1 - y0 == 1) | (x1 - x0 == 1))
        yield (
            f"                    {np.count_nonzero(areas == 1):,} of one pixel, "
            f"{np.count_nonzero(thin):,} of one row or column"
        )
    notes = list(dataset.notes)
    notes += _notes(dataset, counts_IC)
    notes += (
        _signs(dataset, counts_IC, [int(np.count_nonzero(one.pieces_N > 1)) for one in shapes])
        if signs
        else ()
    )
    data = measure(dataset)
    config = config.resolved(Circumstances(data=data))
    yield from _recommended(data, config)
    notes += advice(dataset, data, [config])
    notes += config.model.advice
    if notes:
        yield ""
        yield "Unusual, and accepted:"
        yield from (f"  {note}" for note in notes)
    yield ""


def _recommended(data: Measurement, config: TrialConfig) -> Iterator[str]:
    """Each setting that can be read off the data with value and reason, then what they bring."""
    if not data.cells:
        return
    better, found = recommended(data, config)
    yield ""
    yield "Recommended; `--set NAME=auto` takes the value:"
    for name, chosen in found.items():
        yield f"  {name} {as_setting(chosen.value)}: {chosen.why}"
    then, now = as_percent(fitted_share(data, better)), as_percent(fitted_share(data, config))
    yield (
        f"Instances that some anchor fits (IoU 0.5 or more): {then} with these values, {now} with"
        " the settings given"
    )


def _class_table(dataset: Dataset, counts_IC: NDArray[np.int64]) -> Iterator[str]:
    """One line for each class; of many, the MOST_LISTED_CLASSES with the most instances."""
    totals_C, images_C = counts_IC.sum(axis=0), np.count_nonzero(counts_IC, axis=0)
    columns = np.sort(np.argsort(-totals_C, kind="stable")[:MOST_LISTED_CLASSES]).tolist()
    names = {column: shown(dataset.classes[column].name) for column in columns}
    width = max(len("class"), *(len(name) for name in names.values())) if names else len("class")
    yield f"{'class':{width}}  {'id':>5}  {'instances':>10}  {'share':>6}  {'images':>7}"
    for column in columns:
        share = totals_C[column] / max(1, counts_IC.sum())
        yield (
            f"{names[column]:{width}}  {dataset.classes[column].id:>5}  {totals_C[column]:>10,} "
            f" {as_percent(share, 1):>6}  {images_C[column]:>7,}"
        )
    if (more := len(dataset.classes) - len(columns)) > 0:
        rest = int(totals_C.sum() - totals_C[columns].sum())
        yield f"and {many(more, 'class')} more, with {many(rest, 'instance')} in all"


def _notes(dataset: Dataset, counts_IC: NDArray[np.int64]) -> Iterator[str]:
    """A note on images without instances, if there are any."""
    names = [sample.name for sample in dataset.samples]
    empty = [name for name, count in zip(names, counts_IC.sum(axis=1), strict=True) if count == 0]
    if 0 < len(empty) < len(names) / 2:  # `advice` tells of more than that
        yield (
            f"{many(len(empty), 'image')} without instances, taken as true negatives:"
            f" {examples_of(empty)}"
        )


def _signs(dataset: Dataset, counts_IC: NDArray[np.int64], in_pieces: list[int]) -> Iterator[str]:
    """Notes on signs of wrong annotations, which correct annotations may show too."""
    yield from _class_notes(dataset, counts_IC)
    names = [sample.name for sample in dataset.samples]
    if sum(in_pieces):
        images_in_pieces = [name for name, count in zip(names, in_pieces, strict=True) if count]
        yield (
            f"{many(sum(in_pieces), 'instance')} of several separate pieces, perhaps different"
            f" cells under one id: {examples_of(images_in_pieces)}"
        )
    if layered := [sample.name for sample in dataset.samples if len(sample.label_maps) > 1]:
        yield f"{many(len(layered), 'image')} with overlapping instances: {examples_of(layered)}"
    if crowd := [sample.name for sample in dataset.samples if sample.crowd_N.any()]:
        regions = sum(int(sample.crowd_N.sum()) for sample in dataset.samples)
        yield (
            f"{many(regions, 'crowd region')} in {many(len(crowd), 'image')}, left out of training"
            f" and ignored in the score: {examples_of(crowd)}"
        )


def _class_notes(dataset: Dataset, counts_IC: NDArray[np.int64]) -> Iterator[str]:
    """Notes on classes with too few instances to learn or to score, one sentence for each cause."""
    alike: dict[int, list[str]] = {}
    for category, images in zip(
        dataset.classes, np.count_nonzero(counts_IC, axis=0).tolist(), strict=True
    ):
        if images < FEW_IMAGES:
            alike.setdefault(images, []).append(category.name)
    for images, classes in sorted(alike.items()):
        one = len(classes) == 1
        which = (
            f"class {shown(classes[0])}"
            if one
            else f"{many(len(classes), 'class')} ({examples_of(classes)})"
        )
        if images == 0:
            yield (
                f"{which} {'has' if one else 'have'} no instance; the model cannot learn"
                f" {'it' if one else 'them'}, and {'it does' if one else 'they do'} not enter the"
                " score"
            )
        else:
            yield (
                f"{which} {'is' if one else 'are'} in {many(images, 'image')}"
                f" {'only' if one else 'each only'}; {'its score' if one else 'their scores'} will"
                " say little"
            )


def _split_problems(dataset: Dataset, where: str, config: DataConfig) -> list[Problem]:
    """The problems that prevent a division into a training and a validation part."""
    try:
        split(dataset, config)
    except DataError as error:
        return [Problem(where, str(error).removeprefix(f"{dataset.name}: "))]
    return []


def _verdict(problems: list[Problem], inspection: Inspection) -> Iterator[str]:
    """Whether the data set is usable; if not, its problems by cause, and what would skip them."""
    if not problems:
        yield "Usable: no problems found."
        return
    causes = by_cause(problems)
    kinds = f" of {many(len(causes), 'kind')}" if len(causes) < len(problems) else ""
    yield f"{many(len(problems), 'problem')}{kinds} to mend before a search:"
    yield from (f"  {cause}" for cause in causes[:MOST_LISTED_CAUSES])
    if (more := len(causes) - MOST_LISTED_CAUSES) > 0:
        yield f"  and problems of {many(more, 'other kind')}"
    if inspection.single:
        yield (
            "`--set data.skip_bad=true` leaves out and counts what concerns one annotation or one"
            f" image alone ({len(inspection.single):,} of {many(len(problems), 'problem')})."
        )
    if inspection.dataset is not None and not all(
        problem.suspicious for problem in inspection.problems
    ):
        yield "The numbers above leave out what could not be read."


def _range_in_words(values: NDArray[np.int64]) -> str:
    return f"{values.min():,} to {values.max():,}, median {round(np.median(values)):,}"
