"""The data doctor: everything about a data set at once, before a search is started on it.

    python -m core.check DIR

It prints what the data set holds, what is unusual and accepted, and every problem that keeps it from being used. It
changes nothing. Exit status 0 when the data set can be searched on, 2 when it cannot.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from core.config import DataConfig, MetricConfig, TrialConfig
from core.data import Dataset, Inspection, Problem, inspect
from core.data.split import split
from core.errors import DataError, SettingError
from core.sample import Sample

EXAMPLES = 3
"""Names shown where a note concerns many images."""
TOUCHING = np.ones((3, 3), np.int64)
"""Pixels that meet at a corner belong to one piece."""


def main(argv: Sequence[str] | None = None) -> int:
    """Check the data set named on the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m core.check", description=__doc__.partition("\n")[0])
    parser.add_argument("dir", metavar="DIR", help="a folder in the HW3 or COCO layout, or the word synthetic")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of reading, such as data.skip_bad=true",
    )
    parsed = parser.parse_args(argv)
    where = parsed.dir
    try:
        config = _data_config(parsed.set)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    inspection = inspect(where, config)
    problems = list(inspection.problems)
    if inspection.dataset is not None:
        print("\n".join(describe(inspection.dataset, where)))
        if not problems:
            problems = _split_problems(inspection.dataset, where, config)
    print("\n".join(_verdict(problems, inspection)))
    return 2 if problems else 0


def describe(dataset: Dataset, where: str) -> Iterator[str]:
    """The lines of the report: counts by class, sizes, instance areas, then what is unusual and accepted."""
    counts_IC = dataset.instance_counts()
    yield f"{where}: {_many(len(dataset.samples), 'annotated image')}, {_many(counts_IC.sum(), 'instance')}, " + (
        f"{_many(len(dataset.test_images), 'test image')}"
    )
    yield ""
    width = max(len("class"), *(len(category.name) for category in dataset.classes))
    yield f"{'class':{width}}  {'id':>5}  {'instances':>10}  {'share':>6}  {'images':>7}"
    for column, category in enumerate(dataset.classes):
        instances, images = counts_IC[:, column].sum(), np.count_nonzero(counts_IC[:, column])
        share = instances / max(1, counts_IC.sum())
        yield f"{category.name:{width}}  {category.id:>5}  {instances:>10,}  {share:>6.1%}  {images:>7,}"
    yield ""

    sizes = np.array([sample.size for sample in dataset.samples])
    yield f"image height        {_range(sizes[:, 0])} pixels"
    yield f"image width         {_range(sizes[:, 1])} pixels"
    yield f"instances an image  {_range(counts_IC.sum(axis=1))}"
    shapes = [_instance_shapes(sample) for sample in dataset.samples]
    areas, heights, widths = np.concatenate(shapes, axis=1)[:3]
    if len(areas):
        yield f"instance area       {_range(areas)} pixels"
        thin = (areas > 1) & ((heights == 1) | (widths == 1))
        yield (
            f"                    {np.count_nonzero(areas == 1):,} of one pixel, "
            f"{np.count_nonzero(thin):,} of one row or column"
        )
    notes = list(dataset.notes)
    notes += list(_notes(dataset, counts_IC, [int(np.count_nonzero(found[3] > 1)) for found in shapes]))
    if notes:
        yield ""
        yield "Unusual, and accepted:"
        yield from (f"  {note}" for note in notes)
    yield ""


def _notes(dataset: Dataset, counts_IC: NDArray[np.int64], in_pieces: list[int]) -> Iterator[str]:
    names = [sample.name for sample in dataset.samples]
    if empty := [name for name, count in zip(names, counts_IC.sum(axis=1), strict=True) if count == 0]:
        yield f"{_many(len(empty), 'image')} without instances, taken as true negatives: {_examples(empty)}"
    for column, category in enumerate(dataset.classes):
        images = np.count_nonzero(counts_IC[:, column])
        if images == 0:
            yield f"class {category.name} has no instance; the model cannot learn it, and it does not enter the score"
        elif images < 5:
            yield f"class {category.name} is in {_many(images, 'image')} only; its score will say little"
    cap = MetricConfig().max_dets
    if over := [name for name, counts in zip(names, counts_IC, strict=True) if counts.max() > cap]:
        yield (
            f"{_many(len(over), 'image')} with more than {cap} instances of a class, where COCO's AP50 counts {cap} "
            f"detections of a class an image (metric.max_dets): {_examples(over)}"
        )
    if sum(in_pieces):
        images_in_pieces = [name for name, count in zip(names, in_pieces, strict=True) if count]
        yield (
            f"{_many(sum(in_pieces), 'instance')} of several separate pieces, perhaps different cells under one id: "
            f"{_examples(images_in_pieces)}"
        )
    if layered := [sample.name for sample in dataset.samples if len(sample.label_maps) > 1]:
        yield f"{_many(len(layered), 'image')} with overlapping instances: {_examples(layered)}"
    if crowd := [sample.name for sample in dataset.samples if sample.crowd_N.any()]:
        yield (
            f"{_many(len(crowd), 'image')} with crowd regions, left out of training and ignored in the score: "
            f"{_examples(crowd)}"
        )
    by_content: dict[bytes, list[str]] = {}
    for sample in dataset.samples:
        shape = repr(sample.image.shape).encode()
        by_content.setdefault(hashlib.sha256(shape + sample.image.tobytes()).digest(), []).append(sample.name)
    if twins := [" = ".join(same) for same in by_content.values() if len(same) > 1]:
        yield (
            f"{_many(len(twins), 'image')} there more than once, which leaks from training into validation unless "
            f"data.group_pattern keeps the copies together: {_examples(twins)}"
        )


def _instance_shapes(sample: Sample) -> NDArray[np.int64]:
    """Int64 [4, N]: area, height, width in pixels and number of separate pieces of each instance, crowd left out."""
    found: list[tuple[int, int, int, int]] = []
    for label_map in sample.label_maps:
        for index, window in enumerate(ndimage.find_objects(label_map)):
            if window is None or sample.crowd_N[index]:
                continue
            inside = label_map[window] == index + 1
            pieces = ndimage.label(inside, TOUCHING)[1]
            found.append((int(np.count_nonzero(inside)), *inside.shape, pieces))
    return np.array(found, np.int64).reshape(-1, 4).T


def _data_config(assignments: Sequence[str]) -> DataConfig:
    """The data settings of `--set`. Raises SettingError."""
    settings: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.startswith("data."):
            raise SettingError(f"--set takes a data setting, data.NAME=VALUE, and is given {assignment!r:.80}")
        settings[name] = value
    return TrialConfig.from_settings(settings, "--set").data


def _split_problems(dataset: Dataset, where: str, config: DataConfig) -> list[Problem]:
    """What keeps the data set from being divided into a training and a validation part."""
    try:
        split(dataset, config)
    except DataError as error:
        return [Problem(where, str(error).removeprefix(f"{dataset.name}: "))]
    return []


def _verdict(problems: list[Problem], inspection: Inspection) -> Iterator[str]:
    if not problems:
        yield "Usable: no problems found."
        return
    yield f"{_many(len(problems), 'problem')} to mend before a search:"
    yield from (f"  {problem}" for problem in problems)
    if inspection.dataset is not None and inspection.problems:
        yield "The figures above leave out what could not be read."


def _many(count: int | np.int64, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _range(values: NDArray[np.int64]) -> str:
    return f"{values.min():,} to {values.max():,}, median {np.median(values):,.0f}"


def _examples(names: Sequence[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
