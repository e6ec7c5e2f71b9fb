"""The data at a glance: images, instances, classes, sizes, and the split of the best trial."""

from collections.abc import Iterator

import numpy as np

from core.config import TrialConfig
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import DataError
from core.labels.label_maps import find_instances
from core.text import many
from tune.report.evidence import Evidence
from tune.tables import Cell, Column, Kind, Table


def data_table(data: Dataset | None, evidence: Evidence) -> Iterator[Table]:
    """Yield the table of the data, a row for each class and one for all; nothing without data.

    Nothing either for another data set than the one that was searched on, and before a trial has
    settings, since these decide the split.
    """
    if data is None or data.fingerprint != evidence.description["data"]["fingerprint"]:
        return
    record = evidence.best.record if evidence.best is not None else None
    if record is None:
        record = next((one.record for one in evidence.trials if one.record.settings), None)
    if record is None:
        return
    try:
        parts = split(data, TrialConfig.from_settings(record.settings).data)
    except DataError:  # a failed trial may have been asked for a split that cannot be made
        return
    counts_IC = data.instance_counts()
    trains, validates = list(parts.train), list(parts.validation)
    sides = _sides_of_classes(data)
    rows: list[tuple[Cell, ...]] = []
    for name, counts_I, side in zip(
        [*(one.name for one in data.classes), "all"],
        [*counts_IC.T, counts_IC.sum(axis=1)],
        [*sides, np.concatenate(sides)],
        strict=True,
    ):
        rows.append((
            name, int(counts_I.sum()), int((counts_I > 0).sum()),
            int(counts_I[trains].sum()), int((counts_I[trains] > 0).sum()),
            int(counts_I[validates].sum()), int((counts_I[validates] > 0).sum()),
            round(float(np.median(side)), 1) if len(side) else None,
        ))  # fmt: skip
    columns = (
        Column("class", "Class"), Column("instances", "Instances", Kind.COUNT),
        Column("images", "in images", Kind.COUNT),
        Column("training_instances", "Training instances", Kind.COUNT),
        Column("training_images", "in training images", Kind.COUNT),
        Column("validation_instances", "Validation instances", Kind.COUNT),
        Column("validation_images", "in validation images", Kind.COUNT),
        Column("side", "Median size (pixels)", Kind.NUMBER),
    )  # fmt: skip
    caption = (
        f"{many(len(data.samples), 'annotated image')}, {_sizes(data)};"
        f" {len(trains)} train and {len(validates)} validate in trial {record.id}."
        " The size of an instance is the square root of its box's area. An image may hold several"
        " classes, so the numbers of images do not add up. Repeats on other splits validate on"
        " other images. Crowd regions are not counted. Counts have no uncertainty."
    )
    yield Table("data", "Images and instances", caption, columns, tuple(rows))


def _sides_of_classes(data: Dataset) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """For each class the square roots of its instances' box areas, in pixels, without crowds."""
    sides: list[list[float]] = [[] for _ in data.classes]
    for sample in data.samples:
        found = find_instances(sample.label_maps)
        lengths_N2 = found.boxes_N4[:, 2:] - found.boxes_N4[:, :2]
        for number, side in zip(
            found.ids_N.tolist(), np.sqrt(lengths_N2.prod(axis=1)).tolist(), strict=True
        ):
            if not sample.crowd_N[number - 1]:
                sides[int(sample.labels_N[number - 1]) - 1].append(side)
    return [np.array(of_class, np.float64) for of_class in sides]


def _sizes(data: Dataset) -> str:
    """The sizes of the images in words, width before height."""
    heights, widths = zip(*(sample.size for sample in data.samples), strict=True)

    def span(lengths: tuple[int, ...]) -> str:
        low, high = min(lengths), max(lengths)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    return f"{span(widths)} pixels wide and {span(heights)} high"
