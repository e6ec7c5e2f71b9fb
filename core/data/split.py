"""The split into training and validation images: hold-out or k folds, stratified, groups whole.

A split is a random draw that is changed as little as needed: groups are dealt out at random, then
exchanged, one improving exchange at a time, until every class's share is near its target or no
exchange helps. Splits of different seeds therefore differ almost as much as random ones, so that
repeats over seeds measure the variance of splits, and no class is missing without need.

A data set that brings a split of its own, as Roboflow's exports do, is split by it under seed 0 and
without folds. Every other seed, and folds, draw from all its images as from any data set's.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.config import DataConfig
from core.data.dataset import Dataset
from core.errors import DataError
from core.randomness import Purpose, generator
from core.text import have, many

OWN_SEED = 0
"""The `data.split_seed`, its default, that stands for a data set's own split."""
NEAR = 0.25
"""Relative difference between the share of a class that a part holds and its target, up to which
the class counts as evenly split."""
CANDIDATES = 256
"""Largest number of groups among which exchanges are tried in one round."""
LEAST_GAIN = 1e-6
"""Least decrease of the cost for which an exchange is made: above the rounding error of the largest
costs, so that exchanges come to an end."""
NO_IMAGE, NO_INSTANCE, NO_CLASS, UNEVEN_IMAGES = 1e8, 1e6, 1e4, 100.0
"""Cost of a part without images, without instances, and without a class; and factor on the squared
relative difference of its number of images from the target. An uneven class costs its squared
relative distance from the range that NEAR allows."""


COPY_PATTERNS = (
    (r"\.rf\.[0-9A-Za-z]{8,}", r"^(.+?)(?:\.rf\.|$)"),
    (
        r"(?i)[_-](?:aug|augmented|[hv]?flip|fliplr|flipud|flipped|mirrored|rot|rotated)\d*(?:[_.-]|$)",
        r"(?i)^(.+?)(?:[_-](?:aug|augmented|[hv]?flip|fliplr|flipud|flipped|mirrored|rot|rotated)\d*(?:[_-].*)?)?(?:\.\w+)?$",
    ),
)
"""Names of augmented copies, Roboflow's and those that people write: for each a pattern that finds
such names, and one whose first group is the name of the original."""
PART_PATTERNS = (
    (r"^(.+)SEP\d+SEP\d+END", False),
    (r"^(.+)SEP[xyrc]\d+SEP?[xyrc]\d+END", False),
    (r"^(.+)SEP[A-Za-z]*(\d+)END", True),
    (r"^(.+?) ?\((\d+)\)END", True),
)
"""Patterns of names of parts of an image, whose first group names the whole; and whether the second
group is a running number, which shows a part only where the numbers of each whole begin anew."""
SEPARATORS, ENDS = ("_", "-", "[_-]"), (r"$", r"\.\w+$", r"(?:\.\w+)?$")
"""Expressions that replace SEP and END in these patterns, the simplest first."""
LEAST_GROUPS, LARGEST_GROUP, IN_GROUPS = 5, 0.25, 0.8
"""Names count as names of parts if they make at least LEAST_GROUPS groups, none with more than the
fraction LARGEST_GROUP of the images, and at least the fraction IN_GROUPS of the images share their
group with another."""
LEAST_STEMS, MOST_OF_A_STEM = 3, 0.5
"""Least number of shared beginnings of names, and largest fraction of the images with one of them,
for which the doctor asks whether images with one beginning belong together."""
SIZES_OF_FEW = range(4, 10)
"""Numbers of parts into which a picture may have been cut where there are fewer than LEAST_GROUPS
pictures."""


@dataclass(frozen=True)
class Grouping:
    """Images that belong together by their names.

    pattern   for `data.group_pattern`; it finds a group in every name
    groups    the names of each group of two or more, in the order of the names
    """

    pattern: str
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Split:
    """The images that train and those that validate, as ascending indices into `Dataset.samples`.

    Every image is in one of the two.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]


def split(dataset: Dataset, config: DataConfig) -> Split:
    """Divide the images; the result depends on the data set and on these settings alone.

    Raises DataError for a name that `data.group_pattern` does not match, for too few groups, for a
    group that the data set's own split divides, and for a training or validation part, of the
    hold-out or of any fold, that would hold no instance.
    """
    group_of_image = _groups(dataset, config.group_pattern)
    groups = int(group_of_image.max(initial=-1)) + 1
    parts = config.folds or 2
    if groups < parts:
        what = f"data.folds {config.folds}" if config.folds else "a hold-out"
        kind = "groups of images (data.group_pattern)" if config.group_pattern else "images"
        raise DataError(
            f"{dataset.name}: {what} needs at least {parts} {kind}, and there"
            f" {'is' if groups == 1 else 'are'} {groups}"
        )

    counts = np.concatenate(
        [np.ones((len(dataset.samples), 1), np.int64), dataset.instance_counts()], axis=1
    )
    own = bool(dataset.validation) and not config.folds and config.split_seed == OWN_SEED
    part_of_image = (
        _own_parts(dataset, group_of_image) if own else _drawn(counts, group_of_image, config)
    )
    has_instance: NDArray[np.bool_] = np.any(counts[:, 1:] > 0, axis=1)
    for part in range(parts if config.folds else 1):
        for name, inside in (
            ("validation", part_of_image == part),
            ("training", part_of_image != part),
        ):
            if not has_instance[inside].any():
                where = f"fold {part} of {parts}" if config.folds else "the hold-out"
                where = "the data set's own split" if own else where
                order = (
                    f"set data.split_seed to another number than {OWN_SEED} to have one drawn"
                    if own
                    else "use fewer folds or groups"
                )
                having = int(has_instance.sum())
                raise DataError(
                    f"{dataset.name}: the {name} part must hold an instance, and that of {where}"
                    f" holds none in {many(int(inside.sum()), 'image')}; of"
                    f" {many(len(has_instance), 'image')} {having} {have(having)} any: annotate"
                    f" more, or {order}"
                )
    validates = part_of_image == config.fold
    return Split(
        train=tuple(np.flatnonzero(~validates).tolist()),
        validation=tuple(np.flatnonzero(validates).tolist()),
    )


def _drawn(
    counts: NDArray[np.int64], group_of_image: NDArray[np.int64], config: DataConfig
) -> NDArray[np.int64]:
    """Draw the part of each image, int64 [images]: its fold; or 0, held out, or 1, training.

    counts           int64 [images, E]
    group_of_image   int64 [images]
    """
    groups, parts = int(group_of_image.max()) + 1, config.folds or 2
    sizes_UE = np.zeros((groups, counts.shape[1]), np.int64)
    np.add.at(sizes_UE, group_of_image, counts)
    if config.folds:
        targets_V, validates_V = np.full(parts, 1 / parts), np.full(parts, True)
    else:
        images = len(counts)
        held_out = min(max(1, int(config.validation_fraction * images + 0.5)), images - 1)
        targets_V, validates_V = (
            np.array([held_out / images, 1 - held_out / images]),
            np.array([True, False]),
        )
    part_of_group = _deal(
        sizes_UE, targets_V, validates_V, generator(config.split_seed, Purpose.SPLIT)
    )
    return part_of_group[group_of_image]


def _own_parts(dataset: Dataset, group_of_image: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of each image in the data set's own split, int64 [images]: 0 validates, 1 trains.

    group_of_image   int64 [images]

    Raises DataError for a group that it divides.
    """
    validating = set(dataset.validation)
    parts = np.array([sample.name not in validating for sample in dataset.samples], np.int64)
    first_of_group: dict[int, int] = {}
    for image, group in enumerate(group_of_image.tolist()):
        other = first_of_group.setdefault(group, image)
        if parts[image] != parts[other]:
            names = [dataset.samples[number].name for number in (other, image)]
            raise DataError(
                f"{dataset.name}: data.group_pattern puts {names[0]!r} and {names[1]!r} into one"
                " group, and the data set's own split has one in training and the other in"
                f" validation; set data.split_seed to another number than {OWN_SEED} to have a"
                " split drawn, or move one of the two images"
            )
    return parts


def group_names(names: Iterable[str], pattern: str, place: str) -> list[str]:
    """The group of each image, which `data.group_pattern` finds in its name, or else its own name.

    Raises DataError, which begins with `place`, for a name in which the pattern finds none.
    """
    if not pattern:
        return list(names)
    groups = []
    for name in names:
        match = re.search(pattern, name)
        if match is None or match[1] is None:
            raise DataError(
                f"{place}: data.group_pattern must find a group in every image's name, "
                f"and {pattern!r} finds none in {name!r}"
            )
        groups.append(match[1])
    return groups


def copies_by_name(names: Sequence[str]) -> Grouping | None:
    """Group images that are augmented copies of one picture by their names; None if no two are."""
    for sign, pattern in COPY_PATTERNS:
        if any(re.search(sign, name) for name in names):
            grouping = _grouping(names, pattern)
            if grouping.groups:
                return grouping
    return None


def parts_by_name(names: Sequence[str]) -> Grouping | None:
    """Group images that are parts of one slide, patient or series by their names.

    None where the names seem only to number the images.
    """
    for shape, numbered in PART_PATTERNS:
        for separator, end in itertools.product(SEPARATORS, ENDS):
            pattern = shape.replace("SEP", separator).replace("END", end)
            if all(re.search(pattern, name) for name in names):
                grouping = _grouping(names, pattern)
                many_wholes = _are_parts(grouping, len(names)) and (
                    not numbered or _count_from_the_start(grouping)
                )
                if many_wholes or (numbered and _are_parts_of_few(grouping, len(names))):
                    return grouping
    return None


def stems_by_name(names: Sequence[str]) -> Iterator[Grouping]:
    """Yield groupings by the beginnings of names, as in slide3_12 and slide3_57, likeliest first.

    Names alone do not tell whether such images belong together.
    """
    for shape, _ in PART_PATTERNS:
        for separator, end in itertools.product(SEPARATORS, ENDS):
            pattern = shape.replace("SEP", separator).replace("END", end)
            if all(re.search(pattern, name) for name in names):
                grouping = _grouping(names, pattern)
                sizes = [len(group) for group in grouping.groups]
                if (
                    len(sizes) >= LEAST_STEMS
                    and sum(sizes) >= IN_GROUPS * len(names)
                    and max(sizes) <= MOST_OF_A_STEM * len(names)
                ):
                    yield grouping


def _are_parts_of_few(grouping: Grouping, images: int) -> bool:
    """Whether the images are all parts of two to four wholes, SIZES_OF_FEW parts of each.

    The parts of every whole must be numbered 1, 2, 3, ..., or those of every whole 0, 1, 2, ...
    Larger numbers more likely count images of a kind: benign_1 to benign_30.
    """
    numbers = [_numbers(group, grouping.pattern) for group in grouping.groups]
    size = len(numbers[0]) if numbers else 0
    return (
        2 <= len(numbers) < LEAST_GROUPS
        and len(numbers) * size == images
        and size in SIZES_OF_FEW
        and any(all(one == list(range(a, a + size)) for one in numbers) for a in (0, 1))
    )


def _numbers(group: Sequence[str], pattern: str) -> list[int]:
    """The numbers of a group's images, in ascending order."""
    return sorted(int(match[2]) for name in group if (match := re.search(pattern, name)))


def _are_parts(grouping: Grouping, images: int) -> bool:
    """Whether the groups are many and small enough, and hold enough of the images, to be parts."""
    sizes = [len(group) for group in grouping.groups]
    return (
        len(sizes) >= LEAST_GROUPS
        and sum(sizes) >= IN_GROUPS * images
        and max(sizes) <= LARGEST_GROUP * images
    )


def _grouping(names: Sequence[str], pattern: str) -> Grouping:
    """Group names by a pattern that finds a group in each; groups of one are left out."""
    members: dict[str, list[str]] = {}
    for group, name in zip(group_names(names, pattern, "names"), names, strict=True):
        members.setdefault(group, []).append(name)
    return Grouping(pattern, tuple(tuple(group) for group in members.values() if len(group) > 1))


def _count_from_the_start(grouping: Grouping) -> bool:
    """Whether most groups are numbered 0, 1, 2, ... or 1, 2, 3, ..., with few gaps."""
    well = 0
    for group in grouping.groups:
        found = _numbers(group, grouping.pattern)
        well += found[0] in (0, 1) and found[-1] <= 2 * len(found)
    return well >= IN_GROUPS * len(grouping.groups)


def _groups(dataset: Dataset, pattern: str) -> NDArray[np.int64]:
    """The number of each image's group, int64 [images], from 0 in the order of the images."""
    if not pattern:
        return np.arange(len(dataset.samples))
    names = group_names([sample.name for sample in dataset.samples], pattern, dataset.name)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _deal(
    sizes_UE: NDArray[np.int64],
    targets_V: NDArray[np.float64],
    validates_V: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal groups out to parts at random, then improve the parts; returns int64 [U], their parts.

    sizes_UE      what each group holds: images in column 0, instances of class c in column c
    targets_V     the fraction of the images that each part should hold; they add up to 1
    validates_V   whether the part is the validation part of a training on all others
    """
    groups, parts = len(sizes_UE), len(targets_V)
    totals_E = sizes_UE.sum(axis=0)
    part_of_group = np.zeros(groups, np.int64)
    missing_V = targets_V * totals_E[0]
    for group in rng.permutation(groups):
        part = int(np.argmax(missing_V))
        part_of_group[group] = part
        missing_V[part] -= sizes_UE[group, 0]
    held_VE = np.zeros((parts, len(totals_E)), np.int64)
    np.add.at(held_VE, part_of_group, sizes_UE)

    def cost(held_KE: NDArray[np.int64], part_K: NDArray[np.int64]) -> NDArray[np.float64]:
        return _cost(held_KE, totals_E, targets_V[part_K], validates_V[part_K])

    # Where every image is its own group, the parts already have the right numbers of images, and a
    # move to another part would change them.
    may_move = bool(sizes_UE[:, 0].max() > 1)
    rounds = -(-groups // CANDIDATES)  # so many in a row without a gain have tried every group
    order, tried = rng.permutation(groups), 0
    while tried < rounds:
        chosen, order = np.sort(order[:CANDIDATES]), np.roll(order, -CANDIDATES)
        out_K, in_K, to_K = _changes(chosen, part_of_group, parts, may_move)
        from_K = part_of_group[out_K]
        moved_KE = sizes_UE[out_K] - np.where(in_K[:, None] >= 0, sizes_UE[in_K], 0)
        gain_K = cost(held_VE[to_K], to_K) + cost(held_VE[from_K], from_K)
        gain_K -= cost(held_VE[to_K] + moved_KE, to_K) + cost(held_VE[from_K] - moved_KE, from_K)
        better = np.flatnonzero(gain_K > max(LEAST_GAIN, 0.5 * gain_K.max(initial=0)))
        if not len(better):
            tried += 1
            continue
        tried = 0
        best = int(rng.choice(better))
        held_VE[to_K[best]] += moved_KE[best]
        held_VE[from_K[best]] -= moved_KE[best]
        part_of_group[out_K[best]] = to_K[best]
        if in_K[best] >= 0:
            part_of_group[in_K[best]] = from_K[best]
    return part_of_group


def _changes(
    chosen: NDArray[np.int64], part_of_group: NDArray[np.int64], parts: int, may_move: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List exchanges of the chosen groups, and moves to another part where they may move.

    Returns three int64 [K]: the group that leaves its part, the group that it changes places with
    (-1 for a move), and the part that it goes to.
    """
    out_K, in_K = (axis.ravel() for axis in np.meshgrid(chosen, chosen, indexing="ij"))
    is_swap = (out_K < in_K) & (part_of_group[out_K] != part_of_group[in_K])
    out_K, in_K = out_K[is_swap], in_K[is_swap]
    to_K = part_of_group[in_K]
    if not may_move:
        return out_K, in_K, to_K
    alone, part = (axis.ravel() for axis in np.meshgrid(chosen, np.arange(parts), indexing="ij"))
    is_move = part_of_group[alone] != part
    alone, part = alone[is_move], part[is_move]
    return np.append(out_K, alone), np.append(in_K, np.full(len(alone), -1)), np.append(to_K, part)


def _cost(
    held_KE: NDArray[np.int64],
    totals_E: NDArray[np.int64],
    targets_K: NDArray[np.float64],
    validates_K: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The cost of each part, float64 [K], for what it lacks and for uneven shares.

    held_KE      what each part holds, in the columns of `sizes_UE` in `_deal`
    totals_E     what all parts hold together
    targets_K    the fraction of everything that each part should hold
    validates_K  whether the part is a validation part, which may lack no class
    """
    held_K = held_KE[:, 1:].sum(axis=1)
    cost_K: NDArray[np.float64] = NO_IMAGE * (held_KE[:, 0] == 0)
    cost_K += NO_INSTANCE * (validates_K & ((held_K == 0) | (held_K == totals_E[1:].sum())))
    for column, total in enumerate(totals_E.tolist()):
        if total == 0:
            continue
        held = held_KE[:, column]
        off_K = np.abs(held / total / targets_K - 1)
        if column:
            off_K = np.maximum(off_K - NEAR, 0.0)
        cost_K += (1.0 if column else UNEVEN_IMAGES) * off_K * off_K
        # A class that only one group holds belongs in training: if that group validates, the
        # network cannot learn the class.
        cost_K += NO_CLASS * (validates_K & (held == 0)) + 2 * NO_CLASS * (
            validates_K & (held == total)
        )
    return cost_K
