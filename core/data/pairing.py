"""Files of annotations: paired with their images by name, or the one file of an export."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.data.dataset import Problem, examples_of
from core.data.images import IMAGE_SUFFIXES
from core.errors import DataError
from core.text import listed, many

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vsi", ".qptiff")
"""Suffixes of whole slides, which are not read."""
_DEPTHS = ("*", "*/*", "*/*/*")
"""Patterns of the places in which files are looked for: a folder, its folders, and theirs."""


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


def only_file(folder: Path, found: Sequence[Path], what: str, order: str) -> Path | None:
    """The one file of an export, None if there is none.

    what    words for such a file, in the singular
    order   what to do where there are several, in the imperative

    Raises DataError, which names them, if there are several.
    """
    if len(found) > 1:
        names = listed([path.relative_to(folder).as_posix() for path in found])
        raise DataError(f"{folder}: {what} is read, and there are {names}; {order}")
    return found[0] if found else None


def sees_file(find: Callable[[Path], Path | None]) -> Callable[[str], bool]:
    """Make the `sees` of a format's reader from a function that finds the file of an export.

    Where `find` raises DataError, as `only_file` does, the folder counts as seen: reading it says
    what is wrong.
    """

    def sees(where: str) -> bool:
        try:
            return find(Path(where)) is not None
        except DataError:
            return True

    return sees


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The image files of a folder and whole slides, by their names without suffix."""
    found: dict[str, list[Path]] = {}
    for path in files_with_suffix(folder, *IMAGE_SUFFIXES, *SLIDES):
        found.setdefault(path.stem, []).append(path)
    return found


def pairs_of(
    files: Sequence[Path], images: Mapping[str, Sequence[Path]], folder: Path
) -> tuple[list[tuple[Path, Path]], list[Problem]]:
    """Pair each file with its image: files and images, and the problems of files without one.

    No image is taken twice: of several files that fit one image, the one beside it is its own, and
    the others become problems; without such a file, all of them do.

    images   of `images_by_stem`
    folder   of the data set
    """
    problems: list[Problem] = []
    files_of: dict[Path, list[Path]] = {}
    for file in files:
        try:
            files_of.setdefault(image_of(file, images, folder), []).append(file)
        except DataError as error:
            problems.append(Problem.of(error, file, skippable=True))
    pairs = []
    for image, fitting in files_of.items():
        beside = [file for file in fitting if file.parent == image.parent]
        own = next((found[0] for found in (fitting, beside) if len(found) == 1), None)
        pairs += [(own, image)] if own is not None else []
        for file in fitting:
            if file != own:
                other = own or next(one for one in fitting if one != file)
                message = (
                    "a file must have an image of its own, and"
                    f" {image.relative_to(folder)} has {other.relative_to(folder)} as well; remove"
                    " one of the two, or put its own image beside each"
                )
                problems.append(Problem(str(file), message, skippable=True))
    return pairs, problems


def about_images_without(
    suffix: str, images: Mapping[str, Sequence[Path]], pairs: Sequence[tuple[Path, Path]]
) -> list[str]:
    """Write one note that names the images without a file of annotations; empty without images.

    A whole slide counts where no picture has its name.

    images   of `images_by_stem`
    pairs    of `pairs_of`
    """
    paired = {image for _, image in pairs}
    without = sorted(
        path.name
        for paths in images.values()
        for path in paths
        if path not in paired
        and (
            path.suffix.lower() not in SLIDES or all(one.suffix.lower() in SLIDES for one in paths)
        )
    )
    if not without:
        return []
    return [
        f"{many(len(without), 'image')} without a {suffix} file, left out: {examples_of(without)}"
    ]


def image_of(file: Path, images: Mapping[str, Sequence[Path]], folder: Path) -> Path:
    """The image of NAME.suffix or NAME.tif.suffix: the one beside it, or else the only one.

    Raises DataError, which begins with the file, where there is none, or more than one.
    """
    stem = file.name.removesuffix(file.suffix)
    found = list(images.get(stem, ())) or [
        path for path in images.get(Path(stem).stem, ()) if path.name == stem
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
