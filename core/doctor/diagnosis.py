"""The data doctor: everything about a data set at once, before a search is started on it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.config import AUTO, DataConfig, TrialConfig
from core.data import Dataset, Inspection, Problem, inspect_data
from core.data.dataset import by_cause, examples_of
from core.data.looks import Looks
from core.data.measure import Measurement, measure
from core.data.signs import folder_meant
from core.data.split import split
from core.data.suspicion import IN_PIECES, Shapes, shapes_of
from core.doctor.repairs import Mended, in_the_way, mended
from core.errors import DataError
from core.fitting import Circumstances, fitted_share, recommended
from core.metric.ap50 import FEW_IMAGES
from core.prediction.advice import advice, caps_to_raise, sizes_to_fit
from core.programs import program_here
from core.text import many, shown
from core.values import as_percent, as_setting

MOST_LISTED_CLASSES = 40
"""Largest number of classes in the table."""
MOST_LISTED_CAUSES = 40
"""Largest number of causes of problems that are listed."""


@dataclass(frozen=True)
class Diagnosis:
    """The report of the doctor.

    where        the data set as the user named it
    inspection   the result of reading it
    config       the settings against which it was held, without `auto`
    data         its measurement; None if nothing could be read
    shapes       the shapes of the instances of each image that could be read
    looks        the looks of these images; None if nothing could be read
    problems     all that keeps it from being searched on
    notes        what is unusual and accepted
    recommended  settings that suit the data, with the reasons
    headline     whether it can be searched on, or how many problems there are
    causes       the problems by cause
    mend         the data set with all repairs that need no judgement; None if nothing could be read
    ways_out     what would skip the problems
    following    the next command to type
    lines        all of it in words
    """

    where: str
    inspection: Inspection
    config: TrialConfig
    data: Measurement | None
    shapes: tuple[Shapes, ...]
    looks: Looks | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    recommended: tuple[str, ...]
    headline: str
    causes: tuple[str, ...]
    mend: Mended | None
    ways_out: tuple[str, ...]
    following: str
    lines: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether the data set can be searched on."""
        return not self.problems


def diagnose(where: str, config: TrialConfig, given: Sequence[str] = ()) -> Diagnosis:
    """Examine a data set as a search with these settings would read, split and score it.

    given   the settings of `--set` as they were written, for the next command
    """
    return examined(inspect_data(where, config.data), where, config, given)


def examined(
    inspection: Inspection, where: str, config: TrialConfig, given: Sequence[str] = ()
) -> Diagnosis:
    """Examine a data set that was read already, as `diagnose` does."""
    problems = list(inspection.problems)
    dataset = inspection.dataset
    data: Measurement | None = None
    looks: Looks | None = None
    shapes: tuple[Shapes, ...] = ()
    notes: tuple[str, ...] = ()
    recommended: tuple[str, ...] = ()
    lines: list[str] = []
    if dataset is not None:
        suspected = any(problem.suspicious for problem in problems)
        nothing_read = bool(problems) and not dataset.instance_counts().any()
        if not problems:
            problems = _split_problems(dataset, where, config.data)
        shapes = tuple(shapes_of(sample) for sample in dataset.samples)
        data, looks = measure(dataset), Looks(dataset)
        config = config.resolved(Circumstances(data=data))
        notes = tuple(_notes_on_data(dataset, shapes, not suspected and not nothing_read))
        notes += (*advice(dataset, data, [config], looks), *config.model.advice)
        recommended = tuple(_recommended(data, config))
        lines += _content(dataset, where, shapes)
        lines += _listed("Recommended; `--set NAME=auto` takes the value:", recommended)
        lines += _fitted(data, config)
        lines += _listed("Worth a look; a search starts all the same:", notes)
        lines += [""]
    headline, causes = _headline(problems), tuple(_causes(problems))
    ways_out = tuple(_ways_out(problems, inspection))
    mend = mended(inspection, where)
    suited = [f"{name}=auto" for name in _unsuited(data, config)] if data is not None else []
    if any(IN_PIECES in problem.message for problem in problems):
        # Sizes and slips can be judged once the cells are known.
        given, suited, mend = [*given, "data.split_components=true"], [], None
    following = _following(where, [*given, *suited], inspection, not problems, mend)
    lines += [headline, *(f"  {cause}" for cause in causes), *ways_out]
    if mend is not None:
        lines += _listed(
            "Can be repaired, and every repair is listed; `--fix FOLDER` writes a repaired copy:",
            mend.lines,
        )
    return Diagnosis(
        where, inspection, config, data, shapes, looks, tuple(problems), notes, recommended,
        headline, causes, mend, ways_out, following, tuple(lines),
    )  # fmt: skip


def _listed(heading: str, items: Sequence[str]) -> list[str]:
    """Lines of a list with its heading; none without items."""
    return ["", heading, *(f"  {item}" for item in items)] if items else []


def _content(dataset: Dataset, where: str, shapes: Sequence[Shapes]) -> Iterator[str]:
    """Counts by class, sizes and instance areas."""
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
    areas = np.concatenate([one.areas_N for one in shapes])
    if len(areas):
        x0, y0, x1, y1 = np.concatenate([one.boxes_N4 for one in shapes]).T
        yield f"instance area       {_range_in_words(areas)} pixels"
        thin = (areas > 1) & ((y1 - y0 == 1) | (x1 - x0 == 1))
        yield (
            f"                    {np.count_nonzero(areas == 1):,} of one pixel, "
            f"{np.count_nonzero(thin):,} of one row or column"
        )


def _notes_on_data(dataset: Dataset, shapes: Sequence[Shapes], signs: bool) -> Iterator[str]:
    """Notes on what is unusual and accepted, without those on settings that do not suit.

    signs    whether to note classes without instances, pieces, overlaps and crowd regions; a
             problem that causes them makes such notes superfluous
    """
    counts_IC = dataset.instance_counts()
    yield from dataset.notes
    yield from _notes(dataset, counts_IC)
    if signs:
        in_pieces = [int(np.count_nonzero(one.pieces_N > 1)) for one in shapes]
        yield from _signs(dataset, counts_IC, in_pieces)


def _recommended(data: Measurement, config: TrialConfig) -> Iterator[str]:
    """Each setting that can be read off the data, with value and reason."""
    if not data.cells:
        return
    for name, chosen in recommended(data, config)[1].items():
        yield f"{name} {as_setting(chosen.value)}: {chosen.why}"


def _fitted(data: Measurement, config: TrialConfig) -> Iterator[str]:
    """The share of instances that an anchor fits, with the recommended values and as given."""
    if not data.cells:
        return
    better, _ = recommended(data, config)
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
            f"{many(len(empty), 'image')} without instances, taken as images in which there is"
            f" none: {examples_of(empty)}"
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


def _headline(problems: Sequence[Problem]) -> str:
    """Whether the data set is usable, or how many problems keep it from being used."""
    if not problems:
        return "Usable: no problems found."
    causes = by_cause(problems)
    kinds = f" of {many(len(causes), 'kind')}" if len(causes) < len(problems) else ""
    return f"{many(len(problems), 'problem')}{kinds} to mend before a search:"


def _causes(problems: Sequence[Problem]) -> Iterator[str]:
    """The problems by cause, MOST_LISTED_CAUSES at most."""
    causes = by_cause(problems)
    yield from causes[:MOST_LISTED_CAUSES]
    if (more := len(causes) - MOST_LISTED_CAUSES) > 0:
        yield f"and problems of {many(more, 'other kind')}"


def _ways_out(problems: Sequence[Problem], inspection: Inspection) -> Iterator[str]:
    """Sentences on what would skip the problems, and on what they mean for the numbers."""
    if problems and inspection.single:
        yield (
            "`--set data.skip_bad=true` leaves out and counts what concerns one annotation or one"
            f" image alone ({len(inspection.single):,} of {many(len(problems), 'problem')})."
        )
    if (
        problems
        and inspection.dataset is not None
        and not all(problem.suspicious for problem in inspection.problems)
    ):
        yield "The numbers above leave out what could not be read."


def _unsuited(data: Measurement, config: TrialConfig) -> list[str]:
    """The settings with which a search on these data would lose instances without need."""
    sizes = sizes_to_fit(data, config)
    if sizes:  # caps depend on the tiles that these make
        better = config.changed(dict.fromkeys(sizes, AUTO)).resolved(Circumstances(data=data))
        return [*sizes, *caps_to_raise(data, better)]
    return caps_to_raise(data, config)


def _following(
    where: str,
    given: Sequence[str],
    inspection: Inspection,
    usable: bool,
    mend: Mended | None,
) -> str:
    """The next command to type.

    given   the settings of `--set`, and those that suit the data better
    """
    settings = [word for one in given for word in ("--set", one)]
    if usable:
        words = ["tune.search", "--space", "search_spaces/ablation.yaml", "--data", where]
        return _typed([*words, *settings, "--dry-run"])
    if inspection.dataset is None and (meant := folder_meant(Path(where))) is not None:
        where = str(meant)
    check = ["core.check", where]
    if mend is not None and mend.repairs and not in_the_way(inspection):
        # Beside the data set, also where that is named `.` or `..`.
        named = where.rstrip("/") if Path(where).name not in ("", "..") else Path(where).resolve()
        return _typed([*check, *settings, "--fix", f"{named}-repaired"])
    if inspection.single and len(inspection.single) == len(inspection.problems):
        settings += ["--set", "data.skip_bad=true"]
    return _typed([*check, *settings])


def _typed(words: Sequence[str]) -> str:
    """The command that runs a module of this project with its options."""
    return f"{program_here('python')} -m {shlex.join(words)}"


def _range_in_words(values: NDArray[np.int64]) -> str:
    return f"{values.min():,} to {values.max():,}, median {round(np.median(values)):,}"
