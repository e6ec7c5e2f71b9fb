"""The doctor's page: what a data set holds and what is wrong with it, shown on its images.

It is one file that needs no other, no script and no network. Its pictures have a budget of bytes,
so that 200 images give a page of less than 5 MB; of more images a sample is shown, and the page
says so.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.dataset import Dataset
from core.data.looks import Looks, by_content
from core.data.split import group_names, split
from core.doctor.diagnosis import Diagnosis
from core.doctor.figures import crowds, sizes
from core.doctor.marks import KINDS, Marks, marks_of
from core.doctor.pictures import SmallPicture, part_around, picture_of
from core.errors import BadRequest, DataError
from core.files import encoded, write_atomically
from core.html import filled
from core.prediction.advice import belonging
from core.prediction.overlay import palette
from core.sample import Sample
from core.text import listed, many, shown
from core.values import as_percent

PAGE_FILE = "index.html"
WRITTEN_BY = '<meta name="generator" content="core.check">'
"""The line by which a page is known as one that may be written over."""
SHEET_BYTES, CARD_BYTES, PAIR_BYTES = 2_200_000, 20_000, 12_000
"""Largest number of bytes of all pictures of the contact sheet together, of one that shows a mark,
and of one of a pair. In a page they take a third more."""
MOST_OF_A_PICTURE = 24_000
"""Largest number of bytes of a picture of the contact sheet."""
MOST_SHOWN, MOST_CARDS, MOST_PAIRS = 200, 40, 12
"""Largest numbers of images in the contact sheet, of pictures of marks, and of pairs."""
MOST_CLASSES_SHOWN = 40
"""Largest number of classes in the table and the legend."""
MOST_PLACES = 4
"""Number of instances whose places are written out beside a picture."""


@dataclass(frozen=True)
class Captioned:
    """A picture, what it shows for those who cannot see it, and the lines beneath it."""

    picture: SmallPicture
    alt: str
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ClassRow:
    """A class in the table, which is the legend as well; `colour` is that of its outlines."""

    name: str
    colour: str
    instances: int
    share: str
    width: str
    images: int
    parts: tuple[int, int] | None


@dataclass(frozen=True)
class Pair:
    """Two images that show the same place, and what that means."""

    pictures: tuple[Captioned, Captioned]
    words: str


def write_page(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write the page of a diagnosis into a folder, which is made; returns the path of the page.

    Raises BadRequest for a folder inside the data set, or with a page that is not the doctor's, and
    OSError.
    """
    refuse_folder(folder, diagnosis.where)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE_FILE, encoded(page_of(diagnosis)))
    return folder / PAGE_FILE


def refuse_folder(folder: Path, where: str) -> None:
    """Raise BadRequest for a folder into which the page of a data set must not be written."""
    data = Path(where).resolve()
    if data.is_dir() and folder.resolve().is_relative_to(data):
        raise BadRequest(
            f"{folder}: the page must lie outside the data set {where}, which stays as it is; name"
            " another folder with --out, or write none with --no-page"
        )
    page = folder / PAGE_FILE
    if page.exists() and WRITTEN_BY not in page.read_text("utf-8", errors="replace")[:4000]:
        raise BadRequest(
            f"{page}: the file is not one of the doctor's pages, and is not written over; name"
            " another folder with --out, or write no page with --no-page"
        )


def page_of(diagnosis: Diagnosis) -> str:
    """The page as HTML; every text from files is escaped."""
    dataset, data = diagnosis.inspection.dataset, diagnosis.data
    together: tuple[str, ...] = ()
    content: dict[str, object] = {}
    if dataset is not None and data is not None and diagnosis.looks is not None:
        pattern = diagnosis.config.data.group_pattern
        together = tuple(belonging(dataset, diagnosis.looks, pattern))
        parts = _parts(dataset, diagnosis)
        marks = marks_of(dataset, diagnosis.shapes)
        cell = float(np.median(_sides(diagnosis))) if len(_sides(diagnosis)) else 0.0
        counts_IC = dataset.instance_counts()
        sheet, left_out = _sheet(dataset, marks, parts, cell)
        pairs, more_pairs = _pairs(dataset, diagnosis.looks, parts, pattern, cell)
        content = {
            "classes": _classes(dataset, counts_IC, parts),
            "more_classes": max(len(dataset.classes) - MOST_CLASSES_SHOWN, 0),
            "split": parts is not None,
            "crowd": any(sample.crowd_N.any() for sample in dataset.samples),
            "cards": _cards(dataset, marks, cell),
            "kinds": _kinds(marks),
            "sheet": sheet,
            "left_out": left_out,
            "pairs": pairs,
            "more_pairs": more_pairs,
            "figures": {
                name: figure
                for name, figure in (
                    ("sizes", sizes(data, diagnosis.config)),
                    (
                        "crowds",
                        crowds(
                            counts_IC.sum(axis=1),
                            int(counts_IC.max(initial=0)),
                            diagnosis.config,
                        ),
                    ),
                )
                if figure is not None
            },
        }
    return filled(
        Path(__file__).with_name("page.html.jinja"),
        written_by=WRITTEN_BY,
        where=shown(diagnosis.where),
        usable=diagnosis.usable,
        summary=shown(diagnosis.lines[0]) if dataset is not None else "",
        headline=diagnosis.headline,
        causes=diagnosis.causes,
        ways_out=diagnosis.ways_out,
        notes=[shown(note) for note in diagnosis.notes if note not in together],
        together=[shown(note) for note in together],
        recommended=diagnosis.recommended,
        following=shown(diagnosis.following),
        **{"classes": (), "cards": (), "kinds": (), "sheet": (), "pairs": (), "figures": {}}
        | {"left_out": 0, "more_pairs": 0, "more_classes": 0, "split": False, "crowd": False}
        | content,
    )


def _sides(diagnosis: Diagnosis) -> NDArray[np.float64]:
    """The side of each instance in pixels, the square root of its box's area: float64 [K]."""
    boxes_K4 = np.concatenate([one.boxes_N4 for one in diagnosis.shapes])
    sides_K: NDArray[np.float64] = np.sqrt((boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1))
    return sides_K


def _parts(dataset: Dataset, diagnosis: Diagnosis) -> NDArray[np.bool_] | None:
    """Whether each image validates with the settings given; None where there is no split."""
    try:
        found = split(dataset, diagnosis.config.data)
    except DataError:  # among the problems already
        return None
    validates_I: NDArray[np.bool_] = np.zeros(len(dataset.samples), np.bool_)
    validates_I[list(found.validation)] = True
    return validates_I


def _classes(
    dataset: Dataset, counts_IC: NDArray[np.int64], parts: NDArray[np.bool_] | None
) -> list[ClassRow]:
    """The classes with the most instances, in the order of their ids."""
    totals_C, images_C = counts_IC.sum(axis=0), np.count_nonzero(counts_IC, axis=0)
    colours = palette(len(dataset.classes))[:, 0]
    columns = np.sort(np.argsort(-totals_C, kind="stable")[:MOST_CLASSES_SHOWN]).tolist()
    most, total = max(int(totals_C.max(initial=0)), 1), max(int(totals_C.sum()), 1)
    return [
        ClassRow(
            shown(dataset.classes[column].name),
            "#" + bytes(colours[column].tolist()).hex(),
            int(totals_C[column]),
            as_percent(totals_C[column] / total, 1),
            as_percent(totals_C[column] / most, 1),
            int(images_C[column]),
            (
                (int(counts_IC[~parts, column].sum()), int(counts_IC[parts, column].sum()))
                if parts is not None
                else None
            ),
        )
        for column in columns
    ]


def _kinds(marks: Sequence[Marks]) -> list[tuple[str, str, str]]:
    """Each kind that occurs: how many instances and images, the sign, the remedy."""
    found = []
    for name, kind in KINDS.items():
        of_kind = [one for one in marks if one.kind == name]
        if of_kind:
            instances = sum(len(one.ids_K) for one in of_kind)
            count = f"{many(instances, 'instance')} in {many(len(of_kind), 'image')}"
            found.append((count, kind.sign, kind.remedy))
    return found


def _cards(dataset: Dataset, marks: Sequence[Marks], cell: float) -> list[Captioned]:
    """Pictures of what looks wrong: of each kind in turn an image, until there are enough."""
    by_kind = [[one for one in marks if one.kind == name] for name in KINDS]
    chosen = [
        of_kind[turn]
        for turn in range(max(map(len, by_kind), default=0))
        for of_kind in by_kind
        if turn < len(of_kind)
    ][:MOST_CARDS]
    order = list(KINDS)
    return [
        _card(dataset, one, cell)
        for one in sorted(chosen, key=lambda one: (order.index(one.kind), one.image))
    ]


def _card(dataset: Dataset, marks: Marks, cell: float) -> Captioned:
    sample = dataset.samples[marks.image]
    areas_K = (marks.boxes_K4[:, 2:] - marks.boxes_K4[:, :2]).prod(axis=1)
    first = int(areas_K.argmax())
    x0, y0, x1, y1 = marks.boxes_K4[first].tolist()
    window = part_around(sample, (x0, y0, x1, y1), cell)
    order = [first, *(row for row in range(len(areas_K)) if row != first)]
    places = [_place(dataset, sample, marks, row) for row in order[:MOST_PLACES]]
    more = len(order) - len(places)
    # Made-up ids are pieces all over the image, whose boxes would hide it.
    boxes = marks.boxes_K4[order[:MOST_PLACES]].tolist() if marks.kind != "made up" else []
    framed = [(left, top, right, bottom) for left, top, right, bottom in boxes]
    kind = KINDS[marks.kind]
    count = many(len(order), "instance")
    return Captioned(
        picture_of(
            sample,
            len(dataset.classes),
            cell,
            CARD_BYTES,
            window,
            framed,
        ),
        f"{shown(sample.name)} around {places[0]}, with the outlines of its annotations",
        shown(sample.name),
        (
            f"{count}: {kind.sign}",
            f"{'In the frame' if framed else 'One of them'}: {places[0]}."
            + (f" Also {listed(places[1:] + [f'{more:,} more'] * bool(more))}." * (len(order) > 1)),
            f"{kind.remedy[0].upper()}{kind.remedy[1:]}.",
        ),
    )


def _place(dataset: Dataset, sample: Sample, marks: Marks, row: int) -> str:
    """An instance in words: its class, and where its box lies in the image."""
    x0, y0, x1, y1 = marks.boxes_K4[row].tolist()
    category = dataset.classes[int(sample.labels_N[int(marks.ids_K[row]) - 1]) - 1]
    return f"{shown(category.name)} at x {x0}, y {y0} ({x1 - x0} x {y1 - y0} pixels)"


def _sheet(
    dataset: Dataset, marks: Sequence[Marks], parts: NDArray[np.bool_] | None, cell: float
) -> tuple[list[Captioned], int]:
    """The contact sheet, images with marks first; and the number of images that it leaves out."""
    marked: dict[int, int] = {}
    for one in marks:
        marked[one.image] = marked.get(one.image, 0) + len(one.ids_K)
    first = list(dict.fromkeys(one.image for one in marks))
    others = [index for index in range(len(dataset.samples)) if index not in marked]
    room = max(MOST_SHOWN - len(first), 0)
    if len(others) > room:
        spread = np.linspace(0, len(others) - 1, room).astype(int).tolist() if room else []
        others = [others[index] for index in spread]
    chosen = (first + others)[:MOST_SHOWN]
    most = min(MOST_OF_A_PICTURE, SHEET_BYTES // max(len(chosen), 1))
    return [
        _captioned(dataset, index, parts, cell, most, marked.get(index, 0)) for index in chosen
    ], len(dataset.samples) - len(chosen)


def _captioned(
    dataset: Dataset,
    index: int,
    parts: NDArray[np.bool_] | None,
    cell: float,
    most_bytes: int,
    marked: int = 0,
) -> Captioned:
    """An image with its outlines, its numbers, and its part in the split."""
    sample = dataset.samples[index]
    picture = picture_of(sample, len(dataset.classes), cell, most_bytes)
    labels_N = sample.labels_N[~sample.crowd_N]
    counts_C = np.bincount(labels_N, minlength=len(dataset.classes) + 1)[1:]
    largest = np.argsort(-counts_C, kind="stable")[:3]
    held = [
        f"{int(counts_C[column]):,} {shown(dataset.classes[column].name)}"
        for column in largest.tolist()
        if counts_C[column]
    ]
    height, width = sample.size
    lines = [f"{many(len(labels_N), 'instance')}, {height} x {width} pixels"]
    if parts is not None:
        lines[0] += ", validates" if parts[index] else ", trains"
    if not picture.whole:
        x0, y0, x1, y1 = picture.window
        lines.append(f"Shown are rows {y0} to {y1} and columns {x0} to {x1}.")
    if marked:
        lines.append(f"{many(marked, 'instance')} to look at")
    what = f": {listed(held)}" if held else ""
    return Captioned(
        picture,
        f"{shown(sample.name)} with the outlines of {many(len(labels_N), 'instance')}{what}",
        shown(sample.name),
        tuple(lines),
    )


def _pairs(
    dataset: Dataset,
    looks: Looks,
    parts: NDArray[np.bool_] | None,
    pattern: str,
    cell: float,
) -> tuple[list[Pair], int]:
    """Images that show the same place, those that leak first; and the number of further pairs."""
    index_of = {sample.name: index for index, sample in enumerate(dataset.samples)}
    contents = by_content(dataset)
    content_of = {name: number for number, same in enumerate(contents) for name in same}
    found = [
        (True, index_of[one], index_of[other])
        for same in contents
        for one, other in itertools.pairwise(same)
    ]
    found += [
        (False, index_of[one], index_of[other])
        for one, other in looks.near_copies()
        if content_of[one] != content_of[other]
    ]

    def leaks(one: int, other: int) -> bool:
        return parts is not None and bool(parts[one] != parts[other])

    found.sort(key=lambda pair: (not leaks(*pair[1:]), not pair[0], pair[1:]))
    pairs = [
        Pair(
            (
                _captioned(dataset, one, parts, cell, PAIR_BYTES),
                _captioned(dataset, other, parts, cell, PAIR_BYTES),
            ),
            " ".join(_of_pair(dataset, (one, other), equal, leaks(one, other), pattern)),
        )
        for equal, one, other in found[:MOST_PAIRS]
    ]
    return pairs, len(found) - len(pairs)


def _of_pair(
    dataset: Dataset, pair: tuple[int, int], equal: bool, leaks: bool, pattern: str
) -> Iterator[str]:
    """Sentences on what two images have in common, what that means, and what to do."""
    yield "The pixels are the same." if equal else "They show nearly the same place."
    try:
        groups = set(group_names([dataset.samples[one].name for one in pair], pattern, ""))
    except DataError:
        groups = set()
    if leaks:
        yield "One trains and the other validates: the score is too good. Keep one of the two, or"
        yield "name them so that data.group_pattern keeps them together."
    elif len(groups) == 1:
        yield "The group pattern keeps them together."
    else:
        yield "This split has both in one part; another one may not. Keep one of the two, or name"
        yield "them so that data.group_pattern keeps them together."
