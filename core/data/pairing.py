"""Files of annotations and their images, paired by name: for formats of one file for each image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.data.images import IMAGE_SUFFIXES
from core.errors import DataError

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vsi", ".qptiff")
"""Suffixes of whole slides, which are not read."""
_DEPTHS = ("*", "*/*", "*/*/*")
"""Where files are looked for: in a folder, in its folders and in theirs."""


def files_with_suffix(folder: Path, *suffixes: str) -> list[Path]:
    """List the files with these suffixes, in small or capital letters, without hidden ones."""
    return [
        path
        for depth in _DEPTHS
        for path in sorted(folder.glob(depth))
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The image files of a folder and whole slides, by their names without suffix."""
    found: dict[str, list[Path]] = {}
    for path in files_with_suffix(folder, *IMAGE_SUFFIXES, *SLIDES):
        found.setdefault(path.stem, []).append(path)
    return found


def image_of(file: Path, images: dict[str, list[Path]], folder: Path) -> Path:
    """The image of NAME.suffix or NAME.tif.suffix: the one beside it, or else the only one.

    Raises DataError, which begins with the file, where there is none, or more than one.
    """
    stem = file.name.removesuffix(file.suffix)
    found = images.get(stem, []) or [
        path for path in images.get(Path(stem).stem, []) if path.name == stem
    ]
    found = [path for path in found if path.parent == file.parent] or found
    slides = [path for path in found if path.suffix.lower() in SLIDES]
    found = [path for path in found if path not in slides]
    if slides and not found:
        raise DataError(
            f"{file}: its image {slides[0].name} is a whole slide, which is not read; export the"
            " annotated region as TIFF, and its outlines with the region as origin"
        )
    if len(found) != 1:
        there = (
            f"there are {', '.join(str(path.relative_to(folder)) for path in found)}"
            if found
            else "there is none"
        )
        raise DataError(
            f"{file}: one image {stem} ({', '.join(IMAGE_SUFFIXES)}) must lie beside it or in"
            f" another folder of the data set, and {there}"
        )
    return found[0]


def names_of(images: Sequence[Path], folder: Path) -> dict[Path, str]:
    """The name of each image in the data set: its file's, or its path where several share one."""
    same = Counter(image.name for image in images)
    return {
        image: image.name if same[image.name] == 1 else image.relative_to(folder).as_posix()
        for image in images
    }
