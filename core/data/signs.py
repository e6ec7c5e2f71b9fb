"""Signs of exports that no reader reads: what was seen in a folder, and what to do with it.

To have another export recognised, add a line to `SIGNS`.
"""

import difflib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.text import listed, shown

MOST_FOLDERS, MOST_FILES = 1000, 100_000
"""Largest numbers of folders and of files that are looked at, to describe a folder."""
KINDS_SHOWN, SIGNS_SHOWN = 5, 2
"""Largest numbers of kinds of files, and of signs, that a sentence names."""
LEAST_LIKENESS = 0.75
"""Least likeness of two names (difflib's ratio, 1 for equal ones) that may be a slip of the
keyboard."""
_PICTURE = r"[^/]+\.(tiff?|png|jpe?g|bmp)"


@dataclass(frozen=True)
class Sign:
    """A sign of an export: the names of its files, and what follows from them.

    files    regular expressions, in small or capital letters; a folder shows the sign if each of
             them is the whole path of some file below it, relative to it, written with `/`
    what     what such files are, in words that follow "looks like"
    advice   what the user can do, an order
    """

    files: tuple[str, ...]
    what: str
    advice: str


SIGNS: tuple[Sign, ...] = (
    Sign(
        (rf"(.*/)?(images?|imgs?)/{_PICTURE}", rf"(.*/)?(masks?|labels?)/{_PICTURE}"),
        "images and masks in folders of their own, whose names do not pair",
        "give each mask the name of its image, images/NAME.png and masks/NAME.png, and name the"
        " folder that holds the two folders",
    ),
    Sign(
        (r"(.*/)?[^/]+_(cp_)?(masks?|labels?)\.(tiff?|png|jpe?g|bmp|npy)",),
        "masks whose images are not beside them",
        "put the image NAME.png beside its mask NAME_masks.png, and name their folder",
    ),
    Sign(
        (r"(valid|test)/_annotations\.coco\.json",),
        "a part of a Roboflow export without its training images",
        "name the folder that holds train/ beside it",
    ),
    Sign(
        (r"(.*/)?labels/(.*/)?[^/]+\.txt",),
        "labels of YOLO without the file that names their classes",
        "put data.yaml beside images/ and labels/, with the classes as names: [NAME, ...]",
    ),
    Sign(
        (rf"(.*/)?SegmentationObject/{_PICTURE}",),
        "a Pascal VOC export",
        "export as COCO 1.0 instead (CVAT offers it), and name the folder that holds its JSON file",
    ),
    Sign(
        (r"(.*/)?[^/]+\.xml",),
        "XML of neither ImageScope nor CVAT; Pascal VOC, for one, has boxes only",
        "export outlines, as COCO or CVAT for images",
    ),
    Sign(
        (r"(.*/)?[^/]+\.mat",),
        "MATLAB files, as CoNSeP and other HoVer-Net data sets have them",
        "save the instance map of each (`inst_map`) as masks/NAME.tif with its image as"
        " images/NAME.png, or one mask per class in the HW3 layout",
    ),
    Sign(
        (r"(.*/)?[^/]+\.(roi|rois\.zip)|(.*/)?[^/]*roi[^/]*\.zip",),
        "outlines of ImageJ",
        "turn the outlines of each image into a label image in Fiji (plugin LOCI, ROI Map, or BIOP,"
        " ROIs to Label Image), and save it as NAME_masks.tif beside NAME.tif",
    ),
    Sign(
        (r"(.*/)?[^/]+\.(svs|ndpi|mrxs|scn|vsi|qptiff)",),
        "whole slides",
        "cut the annotated regions into images of some 1,000 pixels with their masks (QuPath:"
        " export tiles with labels)",
    ),
    Sign(
        (r"(.*/)?[^/]+\.(czi|nd2|lif|oib|oif|lsm|dv|ims|stk)",),
        "files of a microscope",
        "save each annotated plane as TIFF in Fiji (Bio-Formats), all with the same display range",
    ),
    Sign(
        (r"(.*/)?[^/]+\.(npz|h5|hdf5|zarr|zattrs|zgroup|zarray)",),
        "arrays of several images in one file",
        "save each image as images/NAME.tif and its label image as masks/NAME.tif",
    ),
    Sign(
        (r"[^/]+\.(zip|tar|tar\.gz|tgz|7z|rar)",),
        "an archive",
        "unpack it, and name the folder that comes out",
    ),
)  # fmt: skip
"""Every sign, the surest first: those of a whole layout before those of single files."""


def seen_in(folder: Path) -> tuple[str, ...]:
    """Describe what a folder that no reader reads holds.

    Returns one text for the kinds of its files, then one for each sign, as many as SIGNS_SHOWN,
    each to be read after "; ". Raises OSError for a folder that cannot be read.
    """
    paths = _paths(folder)
    return (_kinds_of_files(paths), *itertools.islice(_signs(paths), SIGNS_SHOWN))


def folder_meant(folder: Path) -> Path | None:
    """The folder whose name is nearest to that of one that does not exist; None if none is near."""
    try:
        if folder.exists() or not folder.parent.is_dir():
            return None
        there = itertools.islice(folder.parent.iterdir(), MOST_FOLDERS)
        names = sorted(path.name for path in there if path.is_dir())
    except OSError:
        return None
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=LEAST_LIKENESS)
    return folder.parent / near[0] if near else None


def _paths(folder: Path) -> list[str]:
    """Paths of the files below a folder, relative to it, without hidden ones, by name."""
    found: list[str] = []
    for place, folders, names in itertools.islice(os.walk(folder), MOST_FOLDERS):
        folders.sort()
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in sorted(names) if not name.startswith(".")]
        if len(found) >= MOST_FILES:
            break
    return found


def _signs(paths: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each sign that the paths show, with the first file of each pattern."""
    for sign in SIGNS:
        patterns = [re.compile(pattern, re.IGNORECASE | re.ASCII) for pattern in sign.files]
        files = [next(filter(pattern.fullmatch, paths), None) for pattern in patterns]
        there = [shown(path) for path in files if path is not None]
        if len(there) == len(patterns):
            looks = "looks like" if len(there) == 1 else "look like"
            yield f"{listed(there)} {looks} {sign.what}: {sign.advice}"


def _kinds_of_files(paths: Sequence[str]) -> str:
    """Count files by their suffix, in words."""
    kinds = Counter(Path(path).suffix.lower() or "without a suffix" for path in paths)
    if not kinds:
        return "it holds no files"
    common = [f"{count:,} {shown(kind)}" for kind, count in kinds.most_common(KINDS_SHOWN)]
    others = kinds.total() - sum(count for _, count in kinds.most_common(KINDS_SHOWN))
    return f"seen: {listed(common + [f'{others:,} of other kinds'] * (others > 0))}"
