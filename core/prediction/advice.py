"""Notes on settings that do not suit a data set.

They name anchors that fit few instances, caps that leave instances out, images without instances,
images that hold most of a class, and names and looks that show groups of images.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.config import TrialConfig
from core.data.dataset import Dataset, examples_of
from core.data.looks import Looks, by_content
from core.data.measure import Measurement
from core.data.split import Grouping, copies_by_name, group_names, parts_by_name, stems_by_name
from core.errors import DataError
from core.fitting import SIZES, Circumstances, fitted_share, recommended, seen_cell
from core.prediction.views import tiles_of
from core.text import many, shown
from core.values import as_percent, as_settings

MANY_EMPTY = 0.5
"""A note asks whether images were annotated where at least this fraction has no instance."""
MOST_OF_A_CLASS = 0.5
"""A note names the image that holds more than this fraction of the instances of a class."""
WORTH_SAYING = 0.05
"""A note names better sizes and anchors if some anchor then fits this much more of the instances,
as a fraction of all of them."""


def advice(
    dataset: Dataset,
    data: Measurement,
    configs: Sequence[TrialConfig],
    looks: Looks | None = None,
) -> Iterator[str]:
    """Notes on a data set and the configurations that are to be tried, one sentence each.

    data      the measurement of the data set
    configs   one at least, in which nothing that is read off the data is `auto`; each note is about
              the configuration that suits best
    looks     the looks of the images, where they were taken already
    """
    yield from _empty(dataset)
    yield from _fitted(data, configs)
    yield from _predicted(dataset, data, configs)
    yield from _proposed(data, configs)
    yield from _counted(dataset, max(config.metric.max_dets for config in configs))
    pattern = configs[0].data.group_pattern
    yield from _dominated(dataset, pattern)
    yield from belonging(dataset, looks or Looks(dataset), pattern)


def belonging(dataset: Dataset, looks: Looks, pattern: str) -> Iterator[str]:
    """Notes on images that belong together and are kept together by nothing.

    pattern   `data.group_pattern`
    """
    yield from _copied(dataset, looks, pattern)
    if not pattern:
        yield from _together(dataset, looks)


def _fitted(data: Measurement, configs: Sequence[TrialConfig]) -> Iterator[str]:
    """A note on sizes and anchors with which clearly fewer instances fit than is possible."""
    now, config = max(
        ((fitted_share(data, one), one) for one in configs), key=lambda found: found[0]
    )
    better, _ = recommended(data, config)
    then, settings = fitted_share(data, better), better.settings()
    changed = {name: settings[name] for name in sizes_to_fit(data, config)}
    if not changed:
        return
    yield (
        f"some anchor fits {as_percent(now)} of the instances (IoU 0.5 or more), and the network"
        f" sees the median cell at {round(seen_cell(data, config))} pixels; with"
        f" `{' '.join(f'--set {name}=auto' for name in changed)}` some anchor fits"
        f" {as_percent(then)} ({as_settings(changed)})"
    )


def sizes_to_fit(data: Measurement, config: TrialConfig) -> list[str]:
    """The settings of SIZES that should be `auto`: with them clearly more instances fit.

    Empty where the settings given fit nearly as well.
    """
    better, _ = recommended(data, config)
    if fitted_share(data, better) < fitted_share(data, config) + WORTH_SAYING:
        return []
    then, now = better.settings(), config.settings()
    return [name for name in SIZES if then[name] != now[name]]


def caps_to_raise(data: Measurement, config: TrialConfig) -> list[str]:
    """The caps that leave no room for the instances of the most crowded image, crop or tile."""
    tile = config.predict.tile or config.data.crop
    caps = {
        "model.proposals_train": (config.model.proposals_train, config.data.crop),
        "model.proposals_test": (config.model.proposals_test, tile),
        "predict.max_detections": (config.predict.max_detections, tile),
    }
    return [name for name, (cap, side) in caps.items() if data.crowded_in(side) > cap]


def _empty(dataset: Dataset) -> Iterator[str]:
    """A note where half of the images or more have no instance, as while they are being annotated.

    If no image has any, the data set cannot be used, and another message says so.
    """
    names = [sample.name for sample in dataset.samples if sample.crowd_N.all()]
    if MANY_EMPTY * len(dataset.samples) <= len(names) < len(dataset.samples):
        yield (
            f"{len(names):,} of {many(len(dataset.samples), 'image')} hold no instance and train as"
            f" background: {examples_of(names)}; take out those that nobody annotated yet"
        )


def _predicted(
    dataset: Dataset, data: Measurement, configs: Sequence[TrialConfig]
) -> Iterator[str]:
    """A note on images with more instances than `predict.max_detections` allows detections."""
    counts_I = dataset.instance_counts().sum(axis=1)
    sizes = [sample.size for sample in dataset.samples]

    def caps(config: TrialConfig) -> NDArray[np.int64]:
        tile = config.data.crop
        pieces = [len(tiles_of(config.predict, size, tile)) for size in sizes]
        return config.predict.max_detections * np.array(pieces)

    def lost(config: TrialConfig) -> int:
        return int(np.maximum(counts_I - caps(config), 0).sum())

    config = min(configs, key=lost)
    over = np.flatnonzero(counts_I > caps(config))
    if len(over):
        enough = Circumstances(data=data).chosen("predict.max_detections", config).value
        roomy = config.changed({"predict.max_detections": enough})
        way_out = (
            f"`--set predict.max_detections=auto` has room for all ({enough})"
            if not lost(roomy)
            else "make the tiles smaller (predict.tile): each has this cap for itself"
        )
        a_tile = " a tile" * bool(config.predict.tile or config.data.crop)
        yield (
            f"{many(len(over), 'image')} {'holds' if len(over) == 1 else 'hold'} more instances"
            " than are predicted in one (predict.max_detections"
            f" {config.predict.max_detections}{a_tile}), so that"
            f" {lost(config):,} of {many(int(counts_I.sum()), 'instance')} can never be found:"
            f" {examples_of([dataset.samples[index].name for index in over])}; {way_out}"
        )


def _proposed(data: Measurement, configs: Sequence[TrialConfig]) -> Iterator[str]:
    """Notes on caps of proposals below the instances of the most crowded image, crop or tile."""
    for name in ("model.proposals_train", "model.proposals_test"):
        in_training = name == "model.proposals_train"

        def missing(config: TrialConfig, name: str = name, trains: bool = in_training) -> int:
            side = config.data.crop if trains else config.predict.tile or config.data.crop
            return data.crowded_in(side) - int(config.settings()[name])

        config = min(configs, key=missing)
        if missing(config) > 0:
            cap = int(config.settings()[name])
            found = Circumstances(data=data).chosen(name, config)
            yield (
                f"{name} {cap} are fewer than the instances: {found.why}; `--set {name}=auto` has"
                f" room for them ({found.value})"
            )


def _counted(dataset: Dataset, cap: int) -> Iterator[str]:
    """A note on images with more instances of a class than detections count in AP50."""
    over = [
        sample.name
        for sample, counts in zip(dataset.samples, dataset.instance_counts(), strict=True)
        if counts.max(initial=0) > cap
    ]
    if over:
        yield (
            f"{many(len(over), 'image')} {'holds' if len(over) == 1 else 'hold'} more than"
            f" {many(cap, 'instance')} of a class, and of the detections of a class in an image"
            f" COCO's AP50 counts the best {cap} (metric.max_dets): {examples_of(over)}"
        )


def _dominated(dataset: Dataset, pattern: str) -> Iterator[str]:
    """A note on each class of which one image, or group of images, holds most of the instances."""
    names = [sample.name for sample in dataset.samples]
    try:
        units = group_names(names, pattern, dataset.name)
    except DataError:
        return  # the split reports that itself
    place = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    counts_UC = np.zeros((len(place), len(dataset.classes)), np.int64)
    np.add.at(counts_UC, [place[unit] for unit in units], dataset.instance_counts())
    for category, counts_U in zip(dataset.classes, counts_UC.T, strict=True):
        total, unit = int(counts_U.sum()), int(np.argmax(counts_U))
        if np.count_nonzero(counts_U) > 1 and counts_U[unit] > MOST_OF_A_CLASS * total:
            yield (
                f"{counts_U[unit]:,} of {many(total, 'instance')} of {shown(category.name)} are in"
                f" one {'group' if pattern else 'image'} ({shown(list(place)[unit])}): if it"
                " trains, few are left to validate, and if it validates, it alone makes the AP50 of"
                " the class; annotate more instances of the class elsewhere, or mistrust that AP50"
            )


def _copied(dataset: Dataset, looks: Looks, pattern: str) -> Iterator[str]:
    """Notes on images that are there more than once, and on images of nearly the same place."""
    contents = by_content(dataset)
    twins = [same for same in contents if len(same) > 1]
    if twins:
        yield (
            f"{many(len(twins), 'image')} {'is' if len(twins) == 1 else 'are'} there more than"
            " once, which leaks from training into"
            " validation unless data.group_pattern keeps the copies together:"
            f" {examples_of([' = '.join(same) for same in twins])}"
        )
    # No list of all pairs of equal images: of n blank ones there are n^2 / 2.
    content_of = {name: number for number, same in enumerate(contents) for name in same}
    pairs = [pair for pair in looks.near_copies() if content_of[pair[0]] != content_of[pair[1]]]
    try:
        pairs = [pair for pair in pairs if len(set(group_names(pair, pattern, ""))) > 1]
    except DataError:
        return  # the split reports that itself
    if pairs:
        yield (
            f"{many(len(pairs), 'pair')} of images show nearly the same place"
            f" ({examples_of([' = '.join(pair) for pair in pairs])}): where one trains and the"
            " other validates, the score is too good; keep one of each, or name them so that"
            " data.group_pattern keeps them together"
        )


def _together(dataset: Dataset, looks: Looks) -> Iterator[str]:
    """A note on images that seem to be parts of one slide, patient or series."""
    names = [sample.name for sample in dataset.samples]
    if copies_by_name(names):
        return
    found, signs = parts_by_name(names), "by their names"
    if found is None:
        found = next((one for one in stems_by_name(names) if _share_colours(looks, one)), None)
        signs = "by the beginnings of their names and by their colours"
    if found is not None:
        yield (
            f"{many(sum(map(len, found.groups)), 'image')} seem {signs} to be parts of"
            f" {many(len(found.groups), 'slide, patient or series', 'slides, patients or series')}"
            f" ({examples_of(found.groups[0])}); if they are, `--set"
            f" 'data.group_pattern={found.pattern}'` keeps the images of each together; otherwise"
            " the validation score is too good"
        )
    elif looks.neighbours_share_colours():
        yield (
            "images that follow each other by name are closer in colour than others, as images of"
            " one slide or patient are; if they belong together, name them so that"
            " data.group_pattern can tell which do; otherwise the validation score is too good and"
            " its interval too narrow"
        )


def _share_colours(looks: Looks, grouping: Grouping) -> bool:
    return looks.share_colours(lambda name: group_names([name], grouping.pattern, "")[0])
