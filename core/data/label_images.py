"""One label image per image: Cellpose, Omnipose, StarDist, and whoever names files like them.

    DIR/NAME.tif, DIR/NAME_masks.tif                  beside each other (Cellpose, Omnipose); also
        NAME_cp_masks, NAME_mask, NAME_label(s),      NAME_img.tif for the image, and any suffix of
        NAME_masks.npy                                an image
    DIR/images/NAME.tif, DIR/masks/NAME.tif           in folders of their own (StarDist); also
                                                      imgs/, and labels/, and the names above
    DIR/train/...                                     either of the two, and then
    DIR/val/...                                       those that validate in the own split (valid)
    DIR/test/...                                      images to predict on

In a label image 0 is background, and every other value is one instance. All instances are of one
class, `cell`, since a label image has no classes. Every picture and array in these folders is read,
or named in a problem: an image without a mask as well, because nobody can tell an image that was
not annotated from one without cells. Files that Cellpose writes beside its masks are counted in a
note.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.data.dataset import (
    CELL,
    Dataset,
    Inspection,
    Problem,
    TestImage,
    assemble,
    examples_of,
    of_one_class,
    renumber,
)
from core.data.images import (
    IMAGE_SUFFIXES,
    about_turned,
    mask_size,
    read_ids,
    read_listed,
    read_rgb,
    turned_in_doubt,
)
from core.data.pairing import files_with_suffix
from core.data.readers import Reader
from core.errors import DataError
from core.sample import Sample
from core.text import listed, many

_TRAIN, _TEST, _VALIDATION = ("train", "training"), ("test",), ("val", "valid", "validation")
_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "label")
"""Names of folders, of which the first that are there count."""
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
MASK_NAME = re.compile(r"(.+?)(_img)?_(cp_masks?|masks?|labels?)", re.IGNORECASE | re.ASCII)
"""The name of a mask beside its image, without its suffix."""
SEG = re.compile(r"(.+?)(_img)?_seg\.npy", re.IGNORECASE | re.ASCII)
"""The file in which Cellpose's window keeps all it knows of an image."""
BY_PRODUCTS = re.compile(
    r"(flows?|cp_flows?|cp_output|cp_outlines|cp_probs?|outlines?|dP|styles|rois)(_\w+)?"
    r"\.(tiff?|png|jpe?g|npy|txt|zip)",
    re.IGNORECASE | re.ASCII,
)
"""Files that Cellpose and Omnipose write beside their masks, and that are not read: their names
after that of the image and `_`."""
ARRAYS = (".npz", ".mat", ".h5", ".hdf5", ".zip", ".roi", ".gif", ".webp", ".jp2", ".xml", ".json")
"""Suffixes of further files that may hold annotations; in a folder of pairs they are a problem."""

_NO_MASK = (
    "the image has no mask beside it; add NAME_masks.png, with nothing but 0 if there is no cell,"
    " or move the image out of the folder"
)


@dataclass
class Pairs:
    """Images and label images of one part of a data set, by the name of the image.

    images   files that are an image; there must be one for each name
    masks    files that are a label image; there must be one for each name
    segs     files of Cellpose's window
    strays   files that may be meant to be read and are not
    others   names of files that are left out: by-products
    """

    images: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    segs: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    strays: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of images that have a mask."""
        return sorted(name for name in self.images if name in self.masks or name in self.segs)


def look_into(folder: Path) -> Pairs:
    """Sort the files of a part by their purpose, in `images/` and `masks/` or else beside."""
    images, masks = (
        next((folder / name for name in names if (folder / name).is_dir()), None)
        for names in (_IMAGES, _MASKS)
    )
    if images is not None and masks is not None:
        apart, known = Pairs(), _names_in(images) | _names_in(masks)
        _sort(images, apart, apart.images, known)
        _sort(masks, apart, apart.masks, known)
        if apart.names:
            return apart
    beside = Pairs()
    _sort(folder, beside, beside.images, _names_in(folder))
    return beside


def _names_in(folder: Path) -> set[str]:
    """The names of images for which a folder may hold a file: an image, a mask, one of Cellpose."""
    names = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        match = SEG.fullmatch(path.name) or MASK_NAME.fullmatch(path.stem)
        if path.suffix.lower() in MASK_SUFFIXES:
            names.add(_name(match[1] if match else path.stem))
    return names


def _is_by_product(file: str, known: Collection[str]) -> bool:
    """Whether a file is a by-product of one of these images: an image may be called a_flow_1."""
    return any(
        BY_PRODUCTS.fullmatch(file, at.end()) and _name(file[: at.start()]) in known
        for at in re.finditer("_", file)
    )


def _sort(
    folder: Path, found: Pairs, unmarked: dict[str, list[Path]], known: Collection[str]
) -> None:
    """Add the files directly in a folder to what was found.

    unmarked   where a picture goes whose name does not say that it is a mask
    known      names of images, whose by-products are left out
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        suffix = path.suffix.lower()
        if path.name.startswith(".") or path.is_dir():
            continue
        if _is_by_product(path.name, known):
            found.others.append(path.name)
        elif match := SEG.fullmatch(path.name):
            found.segs[_name(match[1])].append(path)
        elif suffix in MASK_SUFFIXES and (match := MASK_NAME.fullmatch(path.stem)):
            found.masks[_name(match[1])].append(path)
        elif suffix in IMAGE_SUFFIXES or (suffix == ".npy" and unmarked is found.masks):
            unmarked[_name(path.stem)].append(path)
        elif suffix in ARRAYS or suffix == ".npy":
            found.strays.append(path)


def _name(stem: str) -> str:
    """The name of an image, which files of it share.

    macOS may decompose its Unicode characters, which must not change the fingerprint or a group.
    """
    return unicodedata.normalize("NFC", re.sub(r"_img$", "", stem, flags=re.IGNORECASE))


def find_part(folder: Path) -> Path | None:
    """Find the folder of the annotated images: `folder/train`, else `folder`, else None."""
    for candidate in (*(folder / name for name in _TRAIN), folder):
        if candidate.is_dir() and look_into(candidate).names:
            return candidate
    return None


def not_images(folder: Path) -> frozenset[Path]:
    """The picture files directly in a folder that are no images, but lie beside them.

    These are masks whose images are there, and what Cellpose writes beside its masks.
    """
    beside = Pairs()
    _sort(folder, beside, beside.images, _names_in(folder))
    if not beside.names:
        return frozenset()
    masks = [path for name in beside.names for path in beside.masks.get(name, [])]
    return frozenset([*masks, *(folder / name for name in beside.others)])


def read_label_images(folder: Path) -> Inspection:
    """Read every image of a folder with its label image, in up to 8 threads.

    Problems are collected, not raised.
    """
    part = find_part(folder)
    if part is None:
        return Inspection(None, (Problem(str(folder), "no image has a label image beside it"),))
    parts = [look_into(place) for place in (part, *_validation_folders(folder, part))]
    problems = [problem for found in parts for problem in _unpaired(found)]
    pairs: dict[str, Pairs] = {}
    for found in parts:
        for name in found.names:
            if not len(found.images[name]) == len(_masks_of(found, name)) == 1:
                continue
            if name in pairs:
                message = f"names of images must differ, and {part} has one too; rename it"
                problems.append(Problem(str(found.images[name][0]), message))
            else:
                pairs[name] = found
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda name: _read_pair(name, pairs[name]), pairs))
    samples = [result for result in results if isinstance(result, Sample)]
    problems += [result for result in results if isinstance(result, Problem)]
    elsewhere = _elsewhere(part, parts)
    problems += _masks_elsewhere(part, elsewhere)
    test_images, test_problems = _test_images(folder, part)
    problems += test_problems
    dataset: Dataset | None = None
    if samples:
        validating = [one.name for one in samples if pairs[one.name] is not parts[0]]
        dataset = assemble(folder.resolve().name, (CELL,), samples, test_images, validating)
        dataset = replace(dataset, notes=tuple(_notes(folder, part, pairs, elsewhere)))
    return Inspection(dataset, tuple(problems))


def _validation_folders(folder: Path, part: Path) -> list[Path]:
    """The folder of images that validate in the data set's own split, beside `train`, if any."""
    if part == folder:
        return []
    places = [folder / name for name in _VALIDATION if (folder / name).is_dir()]
    return [place for place in places if look_into(place).names][:1]


def _masks_of(found: Pairs, name: str) -> list[Path]:
    """The files that may be the label image: pictures and arrays, else Cellpose's own file."""
    return found.masks.get(name) or found.segs.get(name, [])


def _read_pair(name: str, found: Pairs) -> Sample | Problem:
    (image_path,), (mask_path,) = found.images[name], _masks_of(found, name)
    try:
        size = mask_size(mask_path)
    except DataError as error:
        return Problem.of(error, mask_path, skippable=True)
    try:
        image = read_rgb(image_path, size)
    except DataError as error:
        return Problem.of(error, image_path, skippable=True)
    try:
        labels_HW, count = renumber(read_ids(mask_path, image.shape[:2]), first=1)
    except DataError as error:
        return Problem.of(error, mask_path, skippable=True)
    return of_one_class(name, image, [labels_HW], count)


def _unpaired(found: Pairs) -> Iterator[Problem]:
    """Yield a problem for each file that has no partner, or too many."""
    for name in sorted(found.images.keys() | found.masks.keys() | found.segs.keys()):
        images, masks = found.images.get(name, []), _masks_of(found, name)
        if not images:
            yield Problem(
                str(masks[0]),
                f"the mask has no image; add {name}.tif (or .png, .jpg, .bmp), or move the mask out"
                " of the folder",
            )
        elif len(images) > 1 or len(masks) > 1:
            files = listed([path.name for path in (*images, *masks)])
            yield Problem(
                str(images[0].parent),
                f"an image must have one file and one mask, and {name} has {files}; remove the"
                " others",
            )
        elif not masks:
            yield Problem(str(images[0]), _NO_MASK, skippable=True)
    for path in found.strays:
        yield Problem(
            str(path),
            "the file is not read: a mask must be a label image as TIFF, PNG, BMP or .npy, named"
            " NAME_masks beside its image; save it so, or move the file out of the folder",
        )


def _test_images(folder: Path, part: Path) -> tuple[list[TestImage], list[Problem]]:
    """The images to predict on, in `folder/test`, with ids from 1; none if that is not there."""
    test = next((folder / name for name in _TEST if (folder / name).is_dir()), None)
    if test is None or test == part:
        return [], []
    images = look_into(test).images
    paths = [path for name in sorted(images) for path in images[name]]
    entries = [
        {"file_name": path.relative_to(test).as_posix(), "id": number}
        for number, path in enumerate(paths, start=1)
    ]
    return read_listed(entries, [test], str(test))


def _notes(
    folder: Path, part: Path, pairs: Mapping[str, Pairs], elsewhere: Sequence[str]
) -> Iterator[str]:
    """Yield notes on files that are not read, and on images that EXIF turns."""
    if part != folder and (beside := look_into(folder).names):
        yield (
            f"{many(len(beside), 'annotated image')} directly in {folder} not read, because"
            f" {part} is; move them there: {examples_of(beside)}"
        )
    for name in _TEST:
        if (folder / name).is_dir() and (annotated := look_into(folder / name).names):
            yield (
                f"{many(len(annotated), 'mask')} in {folder / name} not read: its images are only"
                " predicted on"
            )
    yield from _validation_notes(folder, part)
    parts = list({id(found): found for found in pairs.values()}.values())
    if pictures := [name for name in elsewhere if not MASK_NAME.fullmatch(Path(name).stem)]:
        yield (
            f"{many(len(pictures), 'picture')} elsewhere in {part} not read:"
            f" {examples_of(pictures)}"
        )
    if segs := [name for name, of in pairs.items() if name in of.masks and name in of.segs]:
        yield (
            f"{many(len(segs), 'file')} NAME_seg.npy not read, because the label image NAME_masks"
            f" is there too: {examples_of(segs)}"
        )
    if others := [name for found in parts for name in found.others]:
        yield (
            f"{many(len(others), 'file')} that Cellpose writes beside its masks not read:"
            f" {examples_of(others)}"
        )
    yield from about_turned([name for name, of in pairs.items() if _is_turned_in_doubt(of, name)])


def _validation_notes(folder: Path, part: Path) -> Iterator[str]:
    """Yield a note on each folder of validation images beside `train` that is not read."""
    read = _validation_folders(folder, part)
    for place in (folder / name for name in _VALIDATION if part != folder):
        found = look_into(place)
        if place not in read and (there := sorted({*found.images, *found.masks, *found.segs})):
            why = f"{read[0]} is" if found.names and read else "no image there has a mask"
            yield f"{many(len(there), 'image')} in {place} not read, because {why}"


def _masks_elsewhere(part: Path, elsewhere: Sequence[str]) -> Iterator[Problem]:
    """One problem for all masks, by their names, where no image or mask was read."""
    masks = [name for name in elsewhere if MASK_NAME.fullmatch(Path(name).stem)]
    if masks:
        more = f" ({len(masks):,} of this kind)" if len(masks) > 1 else ""
        yield Problem(
            str(part / masks[0]),
            "the mask is not read, since it lies apart from the images that are; put it and its"
            f" image beside these, or move it out of {part}{more}",
        )


def _elsewhere(part: Path, parts: Sequence[Pairs]) -> list[str]:
    """Pictures of a part, and of folders below it, that lie where no image or mask was read.

    Folders of test and validation images, and hidden ones, are left out.
    """
    read = {
        path.parent
        for found in parts
        for paths in (*found.images.values(), *found.masks.values())
        for path in paths
    }
    return [
        path.relative_to(part).as_posix()
        for path in files_with_suffix(part, *IMAGE_SUFFIXES)
        if path.parent not in read
        and (
            path.parent == part
            or path.relative_to(part).parts[0].lower() not in (*_TRAIN, *_TEST, *_VALIDATION)
        )
    ]


def _is_turned_in_doubt(found: Pairs, name: str) -> bool:
    """Whether nothing tells if the mask was drawn on the stored image or as EXIF turns it."""
    try:
        return turned_in_doubt(found.images[name][0], mask_size(_masks_of(found, name)[0]))
    except DataError:  # reported where the image is read
        return False


READER = Reader(
    sees=lambda where: find_part(Path(where)) is not None,
    read=lambda where: read_label_images(Path(where)),
)
