"""Notes on settings that do not suit a data set.

They name caps that leave instances out, images without instances, and names that show groups of
images.
"""

from collections.abc import Iterator

import numpy as np

from core.config import DataConfig, MetricConfig, PredictConfig
from core.data.dataset import Dataset, examples_of
from core.data.split import copies, parts
from core.prediction.tiles import tiles
from core.text import many

MOST = 0.5
"""Least fraction of images without instances from which a note asks whether they were annotated."""


def advice(
    dataset: Dataset, data: DataConfig, predict: PredictConfig, metric: MetricConfig
) -> Iterator[str]:
    """Notes on a data set and settings, one sentence each.

    predict   settings with the largest cap and the smallest tiles that are to be tried
    """
    yield from _empty(dataset)
    yield from _predicted(dataset, data, predict)
    yield from _counted(dataset, metric)
    if not data.group_pattern:
        yield from _together(dataset)


def _empty(dataset: Dataset) -> Iterator[str]:
    """A note where most images have no instance, as in a project that is still being annotated.

    If no image has any, the data set cannot be used, and another message says so.
    """
    names = [sample.name for sample in dataset.samples if sample.crowd_N.all()]
    if MOST * len(dataset.samples) <= len(names) < len(dataset.samples):
        yield (
            f"{len(names):,} of {many(len(dataset.samples), 'image')} hold no instance and train as"
            f" background: {examples_of(names)}; take out those that nobody annotated yet"
        )


def _predicted(dataset: Dataset, data: DataConfig, predict: PredictConfig) -> Iterator[str]:
    """A note on images with more instances than `predict.max_detections` allows detections."""
    counts_I = dataset.instance_counts().sum(axis=1)
    side = predict.tile or data.crop
    caps_I = predict.max_detections * np.array(
        [len(tiles(*sample.size, side)) for sample in dataset.samples]
    )
    over = np.flatnonzero(counts_I > caps_I)
    if len(over):
        lost, all_of = int((counts_I - caps_I)[over].sum()), many(int(counts_I.sum()), "instance")
        enough = _round_up(int(counts_I.max()))
        way_out = (
            f"`--set predict.max_detections={enough}` has room for all"
            if enough >= counts_I.max()
            else "smaller tiles (predict.tile) hold as many each"
        )
        yield (
            f"{many(len(over), 'image')} with more instances than are predicted in one"
            f" (predict.max_detections {predict.max_detections}{' a tile' * bool(side)}), so that"
            f" {lost:,} of {all_of} can never be found:"
            f" {examples_of([dataset.samples[index].name for index in over])}; {way_out}"
        )


def _round_up(count: int) -> int:
    """A count and a tenth, rounded up to hundreds, but at most the setting's largest value."""
    most = next(
        entry.le
        for entry in PredictConfig.model_fields["max_detections"].metadata
        if hasattr(entry, "le")
    )
    return int(min(most, -(-count * 11 // 1000) * 100))


def _counted(dataset: Dataset, metric: MetricConfig) -> Iterator[str]:
    cap = metric.max_dets
    over = [
        sample.name
        for sample, counts in zip(dataset.samples, dataset.instance_counts(), strict=True)
        if counts.max(initial=0) > cap
    ]
    if over:
        yield (
            f"{many(len(over), 'image')} with more than {cap} instances of a class, where COCO's"
            f" AP50 counts {cap} detections of a class an image (metric.max_dets):"
            f" {examples_of(over)}"
        )


def _together(dataset: Dataset) -> Iterator[str]:
    names = [sample.name for sample in dataset.samples]
    found = None if copies(names) else parts(names)
    if found is not None:
        yield (
            f"{many(sum(map(len, found.groups)), 'image')} look by their names like parts of"
            f" {many(len(found.groups), 'slide, patient or series', 'slides, patients or series')}"
            f" ({examples_of(found.groups[0])}); if they are, `--set"
            f" 'data.group_pattern={found.pattern}'` keeps those of one together, or the validation"
            " score is too good"
        )
