"""Annotations that can be read but look wrong, for a person to check before a search.

Each suspicion is one sentence about the whole data set, whatever its format, with counts, examples
and the way out. The data set cannot be used until it is corrected, or `data.allow_suspicious` says
that a person has looked at it. Signs in only a few instances are notes, and it can be used.
The thresholds were set on CoNSeP and the synthetic data set, which raise none, and on copies of
CoNSeP damaged in each of these ways, which do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse, spatial

from core.config import DataConfig
from core.data.dataset import Dataset, Problem, assemble, examples_of
from core.data.split import copies_by_name, group_names
from core.errors import DataError
from core.sample import MAX_INSTANCES, Sample
from core.text import have, listed, many, shown
from core.values import as_number

ANYWAY = "`--set data.allow_suspicious=true` uses the annotations as they are"
IN_PIECES = "`--set data.split_components=true` makes each piece an instance"
"""The way out of semantic masks, in the message on them."""
CALLED_MOST = 0.5
"""Least fraction that is called most."""
SPECK = 0.02
"""A piece smaller than this fraction of the largest one of its instance is a speck: a slip of the
brush."""
SCATTERED = 0.25
"""The pieces of an instance are scattered if its box covers at least this fraction of the image."""
SPARSE = 10
"""The pieces of an instance are scattered, too, if its box has at least this many times its area,
or if it has at least this many pieces that are no specks."""
SLIVER = 0.8
"""A piece is a sliver along another instance if at least this fraction of its pixels touch that."""
SLIVERS = (10, 0.3)
"""An image with at least this number of slivers, in at least this fraction of its instances, is
suspicious."""
CRUMBS = (4, 0.1)
"""An instance has crumbs if it has at least this number of pieces, and all but the largest have on
average at most this fraction of the largest one's pixels."""
TWIN = 0.9
"""Two instances with this overlap (IoU) are one that is annotated twice."""
TWINS = (3, 0.05)
"""Least number of twins, and least fraction of all instances, that are a problem and no slip."""
NEIGHBOURS = 8
"""Number of nearest instances, by the centres of their boxes, among which a twin is looked for."""
COVERING = 0.9
"""An instance that covers at least this fraction of its image is suspicious."""
BORDERING, BESIDE_BORDERING = 0.25, 3
"""An instance that reaches all four borders is suspicious if it covers CALLED_MOST of its image, or
at least this fraction of an image with at least this number of other instances."""
SIDE_OF_A_BOX, BOXES = 6, (10, 0.9)
"""Least side of a rectangle that counts, in pixels; and the least number of rectangles, and the
least fraction of all instances, that are no accident."""
OFTEN = (2, 0.1)
"""Least number of images, and least fraction of all images, in which background that is numbered
like a cell is a problem and no accident."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of the instances of one image, without crowd regions. Rows are instances.

    ids_N        int64, the values in the label maps
    areas_N      int64, pixels
    boxes_N4     int64, half-open x0 y0 x1 y1, pixels
    pieces_N     int64, connected pieces; pixels that meet at a corner belong to one piece
    large_N      int64, pieces that are no specks
    largest_N    int64, pixels of the largest piece
    touching_N   int64, pixels that have one of another instance of the same map next to them, above
                 or below
    slivers_N    int64, pieces that are slivers: most of their pixels touch another instance
    strays_N     int64, pieces that are specks, without those at the image's border, where a piece
                 may be what the border left of an instance
    """

    ids_N: NDArray[np.int64]
    areas_N: NDArray[np.int64]
    boxes_N4: NDArray[np.int64]
    pieces_N: NDArray[np.int64]
    large_N: NDArray[np.int64]
    largest_N: NDArray[np.int64]
    touching_N: NDArray[np.int64]
    slivers_N: NDArray[np.int64]
    strays_N: NDArray[np.int64]


def shapes_of(sample: Sample) -> Shapes:
    """Measure the instances of an image, in time linear in its pixels, however many there are."""
    tables = [_of_map(label_map) for label_map in sample.label_maps]
    table = np.concatenate(tables)
    keep = ~sample.crowd_N[table[:, 0] - 1]
    ids, areas, x0, y0, x1, y1, *rest = table[keep].T
    return Shapes(ids, areas, np.stack([x0, y0, x1, y1], axis=1), *rest)


def _of_map(label_map: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Measure the instances of one map: int64 [N, 12], the fields of `Shapes` as columns."""
    pieces_HW, owner_K = components(label_map)
    sizes_K = np.bincount(pieces_HW.ravel(), minlength=len(owner_K) + 1)[1:]
    count = int(label_map.max()) + 1
    areas = np.bincount(owner_K, sizes_K, minlength=count).astype(np.int64)
    largest = np.zeros(count, np.int64)
    np.maximum.at(largest, owner_K, sizes_K)
    pieces = np.bincount(owner_K, minlength=count)
    speck_K = are_specks(sizes_K, owner_K)
    large = np.bincount(owner_K, ~speck_K, minlength=count).astype(np.int64)
    stray_K = speck_K & ~at_border(pieces_HW, len(owner_K))
    strays = np.bincount(owner_K, stray_K, minlength=count).astype(np.int64)
    touching_K = np.bincount(
        pieces_HW.ravel(), touches_another(label_map).ravel(), len(owner_K) + 1
    )[1:]
    touching = np.bincount(owner_K, touching_K, minlength=count).astype(np.int64)
    slivers = np.bincount(owner_K, touching_K >= SLIVER * sizes_K, minlength=count).astype(np.int64)
    rows = []
    for number, window in enumerate(ndimage.find_objects(label_map), start=1):
        if window is not None:
            y, x = window
            rows.append((number, x.start, y.start, x.stop, y.stop))
    boxes = np.array(rows, np.int64).reshape(-1, 5)
    ids = boxes[:, 0]
    columns = [
        areas[ids],
        *boxes[:, 1:].T,
        pieces[ids],
        large[ids],
        largest[ids],
        touching[ids],
        slivers[ids],
        strays[ids],
    ]
    return np.stack([ids, *columns], axis=1)


def are_specks(sizes_K: NDArray[np.int64], owner_K: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each piece is a speck beside the largest one of its instance: bool [K].

    sizes_K, owner_K   int64, the pixels of each piece, and the instance that it belongs to
    """
    largest = np.zeros(int(owner_K.max(initial=0)) + 1, np.int64)
    np.maximum.at(largest, owner_K, sizes_K)
    is_speck: NDArray[np.bool_] = sizes_K < SPECK * largest[owner_K]
    return is_speck


def at_border(pieces_HW: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Whether each of `count` pieces, numbered from 1 in [H, W], touches the border: bool [K]."""
    edges = (pieces_HW[0], pieces_HW[-1], pieces_HW[:, 0], pieces_HW[:, -1])
    touches: NDArray[np.bool_] = np.zeros(count + 1, np.bool_)
    touches[np.concatenate(edges)] = True
    return touches[1:]


def touches_another(label_map: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Mark the pixels with one of another instance next to them, above or below: bool [H, W]."""
    touches: NDArray[np.bool_] = np.zeros(label_map.shape, np.bool_)
    for axis in (0, 1):
        here, there = np.swapaxes(label_map, 0, axis), np.swapaxes(touches, 0, axis)
        meets = (here[1:] != here[:-1]) & (here[1:] != 0) & (here[:-1] != 0)
        there[1:] |= meets
        there[:-1] |= meets
    return touches


def components(label_map: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the connected pieces of all instances of a map at once.

    label_map   uint16 [H, W]

    Returns the pieces, int64 [H, W], from 1 in the order of their instances, 0 for background, and
    the instance of each piece, int64 [K]. Pixels that meet at a corner are connected.
    """
    height, width = label_map.shape
    # Runs of equal pixels along each row are the nodes of a graph; runs of one instance that touch
    # in successive rows are joined.
    starts = np.ones((height, width), np.bool_)
    starts[:, 1:] = label_map[:, 1:] != label_map[:, :-1]
    run_HW = (np.cumsum(starts.ravel()) - 1).reshape(height, width)
    owner_R = label_map[starts].astype(np.int64)
    inside = label_map != 0
    above, below = label_map[:-1], label_map[1:]
    pairs = []
    straight = (above == below) & inside[1:]
    first = straight.copy()
    first[:, 1:] &= (
        ~straight[:, :-1] | starts[:-1, 1:] | starts[1:, 1:]
    )  # one edge is enough for two runs
    pairs.append((run_HW[:-1][first], run_HW[1:][first]))
    for up, down in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        corner = (above[:, up] == below[:, down]) & inside[:-1, up]
        pairs.append((run_HW[:-1, up][corner], run_HW[1:, down][corner]))
    ones, others = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = sparse.coo_array(
        (np.ones(len(ones), np.int8), (ones, others)), shape=(len(owner_R), len(owner_R))
    )
    _, piece_R = sparse.csgraph.connected_components(graph, directed=False)
    covered = owner_R != 0
    pieces, index = np.unique(piece_R[covered], return_index=True)
    owners = owner_R[covered][index]
    order = np.lexsort((index, owners))
    number_of = np.zeros(piece_R.max(initial=0) + 1, np.int64)
    number_of[pieces[order]] = np.arange(1, len(pieces) + 1)
    return np.where(covered, number_of[piece_R], 0)[run_HW], owners[order]


def split_components(dataset: Dataset) -> Dataset:
    """Make an instance of every connected piece; crowd regions stay as they are.

    Raises DataError for an image that would hold more than MAX_INSTANCES.
    """
    samples = [_split_components(sample, dataset.name) for sample in dataset.samples]
    split = assemble(
        dataset.name, dataset.classes, samples, dataset.test_images, dataset.validation
    )
    before, after = int(dataset.instance_counts().sum()), int(split.instance_counts().sum())
    note = (
        f"data.split_components: {many(before, 'instance')} became {after:,}, each a connected"
        " piece"
    )
    return replace(split, notes=(*dataset.notes, note), intensity=dataset.intensity)


def _split_components(sample: Sample, name: str) -> Sample:
    label_maps: list[NDArray[np.uint16]] = []
    labels: list[NDArray[np.int64]] = []
    crowd: list[NDArray[np.bool_]] = []
    for label_map in sample.label_maps:
        is_crowd = np.concatenate([[False], sample.crowd_N])
        pieces_HW, owner_K = components(np.where(is_crowd[label_map], 0, label_map))
        crowds = np.unique(label_map[is_crowd[label_map]]).astype(np.int64)
        for number, crowd_id in enumerate(crowds, start=len(owner_K) + 1):
            pieces_HW[label_map == crowd_id] = number
        owners = np.concatenate([owner_K, crowds])
        first = sum(len(of_map) for of_map in labels)
        if first + len(owners) > MAX_INSTANCES:
            raise DataError(
                f"{name}: an image can hold {MAX_INSTANCES:,} instances, and {sample.name!r} has"
                " more connected pieces; cut it into tiles"
            )
        label_maps.append(np.where(pieces_HW > 0, pieces_HW + first, 0).astype(np.uint16))
        labels.append(sample.labels_N[owners - 1])
        crowd.append(sample.crowd_N[owners - 1])
    return replace(
        sample,
        label_maps=np.stack(label_maps),
        labels_N=np.concatenate(labels),
        crowd_N=np.concatenate(crowd),
    )


def suspicions(
    dataset: Dataset, config: DataConfig, where: str, misplaced: bool = False
) -> tuple[list[Problem], list[str]]:
    """List problems of annotations that look wrong, one for each cause, and notes on lesser signs.

    where       the data set as the user named it, the place of the problems
    misplaced   whether masks are known to be misplaced; then it is not reported that they are
                scattered as well
    """
    shapes = [shapes_of(sample) for sample in dataset.samples]
    smooth = _interpolated(dataset, shapes)
    scattered = [] if smooth or misplaced else list(_scattered(dataset, shapes))
    twins, note = _twins(dataset, shapes)
    background, background_note = ([], []) if scattered else _background(dataset, shapes)
    found = [*smooth, *scattered, *twins, *background, *_crowds(dataset), *_copies(dataset, config)]
    notes = [*note, *background_note, *_rectangles(shapes)]
    return [Problem(where, message, suspicious=True) for message in found], notes


def _interpolated(dataset: Dataset, shapes: Sequence[Shapes]) -> list[str]:
    """Suspicion of ids that smoothing or lossy compression made up, between those of neighbours."""
    images = [index for index, one in enumerate(shapes) if are_interpolated(one)]
    if not images:
        return []
    instances = sum(len(shapes[index].ids_N) for index in images)
    slivers = sum(int(np.count_nonzero(slivers_of(shapes[index]))) for index in images)
    return [
        f"{slivers:,} of {many(instances, 'instance')} in"
        f" {many(len(images), 'image')} ({_names(dataset, images)}) are slivers along the borders"
        " of others, or have tiny pieces there, as where ids were resized with smoothing or saved"
        " as JPEG; export the masks again without loss, and resize them by nearest neighbour, or,"
        f" if they are cells, {ANYWAY}"
    ]


def slivers_of(shapes: Shapes) -> NDArray[np.bool_]:
    """Whether each instance is a sliver along others, has slivers there, or has crumbs: bool [N].

    Such instances are no sign of anything where they are few: see `are_interpolated`.
    """
    is_sliver: NDArray[np.bool_] = (
        (shapes.touching_N >= SLIVER * shapes.areas_N)
        | (shapes.slivers_N > 1)
        | _has_crumbs(shapes)
    )
    return is_sliver


def are_interpolated(shapes: Shapes) -> bool:
    """Whether smoothing or lossy compression seems to have made up ids of an image."""
    least, fraction = SLIVERS
    count = int(np.count_nonzero(slivers_of(shapes)))
    # Where few ids are in use, few are made up, and each has slivers along many cells: so slivers
    # are counted besides instances.
    return bool(
        max(count, shapes.slivers_N.sum()) >= least and count >= fraction * len(shapes.ids_N)
    )


def _has_crumbs(shapes: Shapes) -> NDArray[np.bool_]:
    """Whether each instance is one large piece and several tiny ones, bool [N].

    Where all ids are in use, an id that smoothing makes up is that of a cell somewhere else.
    """
    pieces, crumbs = CRUMBS
    others = shapes.areas_N - shapes.largest_N
    is_crumbled: NDArray[np.bool_] = (shapes.pieces_N >= pieces) & (
        others <= crumbs * shapes.largest_N * (shapes.pieces_N - 1)
    )
    return is_crumbled


def _scattered(dataset: Dataset, shapes: Sequence[Shapes]) -> Iterator[str]:
    """Yield a suspicion for each class whose masks show the class and not its instances.

    Most instances of such a class are several pieces each, all over the image.
    """
    for label, category in enumerate(dataset.classes, start=1):
        instances, pieces, images = 0, [], []
        for index, (sample, one) in enumerate(zip(dataset.samples, shapes, strict=True)):
            of_class = sample.labels_N[one.ids_N - 1] == label
            wide = of_class & are_scattered(sample, one)
            instances += int(np.count_nonzero(of_class))
            pieces += one.large_N[wide].tolist()
            images += [index] * bool(wide.any())
        # Paired organs lie apart as well, but are two pieces.
        if (
            len(images) >= 2
            and len(pieces) >= CALLED_MOST * instances
            and sum(pieces) >= 2.5 * len(pieces)
        ):
            yield (
                f"{len(pieces):,} of {many(instances, 'instance')} of {shown(category.name)} are"
                f" several pieces, {sum(pieces):,} in all, scattered over"
                f" {many(len(images), 'image')} ({_names(dataset, images)}): masks that show where"
                f" a class is and not which pixels are one instance (semantic masks); {IN_PIECES}"
                f" (those that touch stay one), or, if they are right, {ANYWAY}"
            )


def are_scattered(sample: Sample, shapes: Shapes) -> NDArray[np.bool_]:
    """Whether the pieces of each instance lie far apart, as cells of a semantic mask do: bool [N].

    shapes   `shapes_of` the sample
    """
    height, width = sample.size
    x0, y0, x1, y1 = shapes.boxes_N4.T
    box_areas = (x1 - x0) * (y1 - y0)
    spread = (box_areas >= SCATTERED * height * width) | (box_areas >= SPARSE * shapes.areas_N)
    scattered: NDArray[np.bool_] = (shapes.large_N >= 2) & (spread | (shapes.large_N >= SPARSE))
    return scattered


def _twins(dataset: Dataset, shapes: Sequence[Shapes]) -> tuple[list[str], list[str]]:
    """Instances that were annotated twice: a problem where they are many, a note where few."""
    in_two_classes, in_one, images = 0, 0, []
    for index, (sample, one) in enumerate(zip(dataset.samples, shapes, strict=True)):
        pairs = twins_of(sample, one)
        differ = int(
            np.count_nonzero(sample.labels_N[pairs[:, 0] - 1] != sample.labels_N[pairs[:, 1] - 1])
        )
        in_two_classes += differ
        in_one += len(pairs) - differ
        images += [index] * bool(len(pairs))
    twins = in_two_classes + in_one
    if not twins:
        return [], []
    kinds = [f"{in_two_classes:,} in two classes"] * bool(in_two_classes) + [
        f"{in_one:,} in one"
    ] * bool(in_one)
    sentence = (
        f"{many(twins, 'instance')} in {many(len(images), 'image')} ({_names(dataset, images)})"
        f" {'is' if twins == 1 else 'are'} annotated twice, {listed(kinds)} (an IoU of"
        f" {as_number(TWIN)} or more)"
    )
    least, fraction = TWINS
    if twins >= least and twins >= fraction * sum(len(one.ids_N) for one in shapes):
        return [f"{sentence}; keep one of each, or {ANYWAY}"], []
    return [], [sentence]


def twins_of(sample: Sample, shapes: Shapes) -> NDArray[np.int64]:
    """Find instances that have a twin with a smaller id: int64 [K, 2], ids of both."""
    ids = shapes.ids_N
    if len(sample.label_maps) < 2 or len(ids) < 2:  # instances of one map share no pixel
        return np.zeros((0, 2), np.int64)
    map_of = np.zeros(len(sample.labels_N) + 1, np.int64)
    for index, label_map in enumerate(sample.label_maps):
        map_of[np.unique(label_map)] = index
    x0, y0, x1, y1 = shapes.boxes_N4.T
    centres = np.stack([x0 + x1, y0 + y1], axis=1) / 2
    reach = 0.1 * np.hypot(x1 - x0, y1 - y0) + 1
    tree = spatial.cKDTree(centres)
    near = tree.query(
        centres, k=min(NEIGHBOURS, len(ids)), distance_upper_bound=float(reach.max())
    )[1]
    found = []
    for row, candidates in enumerate(near.reshape(len(ids), -1).tolist()):
        for other in candidates:
            if other >= len(ids) or ids[other] >= ids[row]:
                continue
            areas = sorted((int(shapes.areas_N[row]), int(shapes.areas_N[other])))
            if areas[0] < TWIN * areas[1] or map_of[ids[row]] == map_of[ids[other]]:
                continue
            window = (slice(int(y0[row]), int(y1[row])), slice(int(x0[row]), int(x1[row])))
            common = np.count_nonzero(
                (sample.label_maps[map_of[ids[row]]][window] == ids[row])
                & (sample.label_maps[map_of[ids[other]]][window] == ids[other])
            )
            if common >= TWIN * (sum(areas) - common):
                found.append((ids[row], ids[other]))
                break
    return np.array(found, np.int64).reshape(-1, 2)


def _background(dataset: Dataset, shapes: Sequence[Shapes]) -> tuple[list[str], list[str]]:
    """Instances that are probably background: a problem in many images, a note in few."""
    images = [
        index
        for index, (sample, one) in enumerate(zip(dataset.samples, shapes, strict=True))
        if background_of(sample, one).any()
    ]
    if not images:
        return [], []
    sentence = (
        f"{many(len(images), 'image')} ({_names(dataset, images)}) {have(len(images))} an instance"
        " that covers most of the image or reaches all its borders, as background that was numbered"
        " like a cell"
    )
    least, fraction_of_images = OFTEN
    if len(images) >= least and len(images) >= fraction_of_images * len(shapes):
        return [
            f"{sentence}; make it 0 in the masks or remove it, or, if it is a cell, {ANYWAY}"
        ], []
    return [], [sentence]


def background_of(sample: Sample, shapes: Shapes) -> NDArray[np.bool_]:
    """Whether each instance is probably background that was numbered like a cell: bool [N]."""
    height, width = sample.size
    fraction_N = shapes.areas_N / (height * width)
    reaches_all_N = (shapes.boxes_N4 == [0, 0, width, height]).all(axis=1) & (
        shapes.largest_N >= 0.8 * shapes.areas_N
    )
    is_background: NDArray[np.bool_] = (fraction_N >= COVERING) | (
        reaches_all_N
        & (
            (fraction_N >= CALLED_MOST)
            | ((fraction_N >= BORDERING) & (len(shapes.ids_N) > BESIDE_BORDERING))
        )
    )
    return is_background


def _crowds(dataset: Dataset) -> list[str]:
    """Suspicion of crowd regions that are most annotations: some tools write every mask as one."""
    crowds = sum(int(sample.crowd_N.sum()) for sample in dataset.samples)
    annotations = sum(len(sample.crowd_N) for sample in dataset.samples)
    if not crowds or crowds < CALLED_MOST * annotations:
        return []
    return [
        f"{crowds:,} of {many(annotations, 'annotation')} are crowd regions (iscrowd 1), which are"
        " neither trained on nor scored; CVAT, for one, writes iscrowd 1 for all masks that are"
        " drawn with a brush: set it to 0 where an annotation is one instance, or, if they are"
        f" crowds, {ANYWAY}"
    ]


def _copies(dataset: Dataset, config: DataConfig) -> list[str]:
    """Suspicion of versions of one picture that a split could put into both parts."""
    found = copies_by_name([sample.name for sample in dataset.samples])
    if found is None:
        return []
    if config.group_pattern:
        names = [name for group in found.groups for name in group]
        try:
            given = dict(
                zip(names, group_names(names, config.group_pattern, dataset.name), strict=True)
            )
        except DataError:
            return []  # the split reports that itself
        if all(len({given[name] for name in group}) == 1 for group in found.groups):
            return []
    return [
        f"{many(sum(map(len, found.groups)), 'image')} are versions of"
        f" {many(len(found.groups), 'picture')} by their names ({examples_of(found.groups[0])}),"
        " and would be both training and validation images;"
        f" `--set 'data.group_pattern={found.pattern}'` keeps them together, or, if they are not,"
        f" {ANYWAY}"
    ]


def _rectangles(shapes: Sequence[Shapes]) -> list[str]:
    """A note on masks that fill their boxes, as where a detection data set's boxes are outlines."""
    if not shapes:
        return []
    x0, y0, x1, y1 = np.concatenate([one.boxes_N4 for one in shapes]).T
    areas = np.concatenate([one.areas_N for one in shapes])
    full = (areas == (x1 - x0) * (y1 - y0)) & (np.minimum(x1 - x0, y1 - y0) >= SIDE_OF_A_BOX)
    count, least = int(np.count_nonzero(full)), BOXES[0]
    if count < least or count < BOXES[1] * len(areas):
        return []
    return [
        f"{count:,} of {many(len(areas), 'instance')} are rectangles, like the boxes of a detection"
        " data set that were exported as outlines; if cells are not rectangles, export their"
        " outlines or draw them: Mask R-CNN learns what it is shown"
    ]


def _names(dataset: Dataset, indices: Sequence[int]) -> str:
    return examples_of([dataset.samples[index].name for index in indices])
