"""Images to predict on: those of a listing, or all that lie directly in a folder."""

import os
from pathlib import Path

from core.data import coco, hw3, label_images, mask_folders, synthetic
from core.data.dataset import Problem, TestImage, first_problem_of
from core.data.images import IMAGE_SUFFIXES, read_listed, read_size
from core.data.json_files import read_annotations
from core.errors import DataError
from core.files import reason_of


def list_images(where: str) -> tuple[TestImage, ...]:
    """List the images to predict on, at least one; headers are checked, no pixels are decoded.

    where   a data folder with a test listing in the HW3 or COCO layout, or the listing itself: its
            images, with its ids; any other folder: the image files directly in it, in the order of
            their names, ids from 1, without masks that lie beside them, or if there are none those
            in NAME/images/; one image file; or the word `synthetic`

    Raises DataError, one sentence: for a listed image that is missing or of another size, a file
    that is damaged or that `read_rgb` would refuse, and a folder in which there is nothing to
    predict on.
    """
    images, problems = look_through(where)
    if problems:
        raise DataError(first_problem_of(problems))
    return images


def look_through(where: str) -> tuple[tuple[TestImage, ...], tuple[Problem, ...]]:
    """List images as `list_images` does, and the problems of those that cannot be predicted on.

    There is at least one image or problem. Raises DataError for what concerns several images.
    """
    if where == "synthetic":
        return synthetic.make_cells(test=synthetic.TEST_IMAGES).test_images, ()
    path = Path(where)
    try:
        if not path.exists():
            raise DataError(
                f"{where}: there is no such folder; name a folder of images, or the JSON file that"
                " lists them"
            )
        listing = find_listing(path)
        return _files(path) if listing is None else _images_of_listing(listing)
    except OSError as error:
        raise DataError(
            f"{error.filename}: the folder cannot be read: {reason_of(error)}"
        ) from None


def find_listing(path: Path) -> Path | None:
    """Find the listing of a data folder, or take `path` itself if it is a JSON file.

    None for an image file and for a folder without a listing. Raises DataError for a folder that
    holds several listings, and for another kind of file.
    """
    if path.is_file():
        if not _is_image_file(path) and path.suffix != ".json":
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise DataError(
                f"{path}: an image must be a {kinds} file, a listing a .json file, and this is"
                " neither"
            )
        return None if _is_image_file(path) else path
    found = coco.annotation_file(path, "test")
    listings = [
        listing
        for listing in (path / hw3.LISTING, found)
        if listing is not None and listing.is_file()
    ]
    if len(listings) > 1:
        raise DataError(
            f"{path}: both {listings[0]} and {listings[1]} list images; name the one that is meant"
        )
    return listings[0] if listings else None


def _is_image_file(path: Path) -> bool:
    """Whether a file that is not hidden has the suffix of an image; broken links count, too."""
    hidden = path.name.startswith(".")  # macOS puts ._NAME.tif beside NAME.tif on foreign disks
    leads_nowhere = path.is_symlink() and not path.exists()  # reported as a problem, not ignored
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and (path.is_file() or leads_nowhere) and not hidden
    )


def _images_of_listing(listing: Path) -> tuple[tuple[TestImage, ...], tuple[Problem, ...]]:
    """Read the images of a listing, which is an object in COCO and a list in HW3."""
    document = read_annotations(listing)
    folder = listing.parent
    if isinstance(document, list):
        there = [folder / name for name in hw3.TEST_FOLDERS if (folder / name).is_dir()]
        entries, folders = document, there or [folder / hw3.TEST_FOLDERS[0]]
    elif isinstance(document, dict) and isinstance(document.get("images"), list):
        data = folder.parent if folder.name == "annotations" else folder
        part = next((part for part in ("test", "val", "train") if part in listing.stem), "test")
        entries, folders = document["images"], coco.image_folders(data, listing, part)
    else:
        raise DataError(
            f"{listing}: a listing must be an object with a list of images (COCO), or a list of"
            " images (HW3), and this is neither; name the folder of the images instead"
        )
    images, problems = read_listed(entries, list(dict.fromkeys([*folders, folder])), str(listing))
    if not images and not problems:
        raise DataError(f"{listing}: there must be at least one image, and none is listed")
    return tuple(images), tuple(problems)


def _files(path: Path) -> tuple[tuple[TestImage, ...], tuple[Problem, ...]]:
    """List one image file, or those of a folder, with ids from 1."""
    files = [path] if path.is_file() else _images_in(path)
    if not files:
        raise DataError(
            f"{path}: no image file ({', '.join(IMAGE_SUFFIXES)}) lies directly in this folder;"
            f" {_way_out(path)}"
        )
    images: list[TestImage] = []
    problems: list[Problem] = []
    for number, file in enumerate(files, start=1):
        if any(
            "\ud800" <= character <= "\udfff" for character in file.name
        ):  # surrogates stand for bytes that are not UTF-8
            name = os.fsencode(file.name)
            problems.append(
                Problem(str(path), f"a file name must be UTF-8, and is {name!r}; rename the file")
            )
            continue
        try:
            inside = file.name if path in (file, file.parent) else file.relative_to(path).as_posix()
            images.append(TestImage(str(file.absolute()), inside, number, *read_size(file)))
        except DataError as error:
            problems.append(Problem.of(error, file))
    return tuple(images), tuple(problems)


def _images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder that are no masks, else those of DSB 2018's layout."""
    beside = label_images.not_images(folder)
    files = sorted(
        entry for entry in folder.iterdir() if _is_image_file(entry) and entry not in beside
    )
    return files or mask_folders.single_images(folder)


def _way_out(folder: Path) -> str:
    """The user's way out for a folder without image files, as an order."""
    for place in ("test/images", "stage1_test", "images"):
        if (folder / place).is_dir():
            return f"name {folder / place}"
    for name in hw3.TEST_FOLDERS:
        if (folder / name).is_dir():
            return f"name {folder / name}, or add {hw3.LISTING} with the images' ids"
    if (images := hw3.images_folder(folder)) is not None:
        return (
            f"it holds annotated images, {images}/NAME/{hw3.IMAGE}, and no {hw3.LISTING}; "
            "copy the images to predict on into one folder"
        )
    return "name the folder that holds the images, or the JSON file that lists them"
