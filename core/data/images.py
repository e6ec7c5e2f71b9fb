"""Image files to arrays: headers are checked before decoding, damage is reported in a sentence.

TIFF, PNG, JPEG and BMP files, and NumPy's arrays, which can only be masks, are told apart by their
first bytes, not by their names. Pictures are turned by their EXIF orientation, as every viewer and
annotation tool shows them, unless the listed size shows that the annotations were drawn on the
stored pixels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import AUTO
from core.data import arrays, pictures, tiffs
from core.data.dataset import Problem, TestImage, examples_of
from core.data.intensity import to_8_bits
from core.data.stored import MAX_PIXELS, Stored, turned, turned_size
from core.errors import DataError
from core.files import reason_of
from core.sample import Size
from core.text import many

__all__ = [
    "MAX_PIXELS",
    "find_file",
    "read_ids",
    "read_listed",
    "read_rgb",
    "read_size",
    "read_test_image",
]

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
"""Suffixes of image files, in small or capital letters."""


def read_rgb(path: Path, listed: Size | None = None) -> NDArray[Any]:
    """Read an image as RGB, [H, W, 3], from a TIFF, PNG, JPEG or BMP file.

    It is uint8 where a channel has up to 8 bits; 1, 2 and 4 bits are spread over 0 to 255. Whole
    numbers of more bits and floats stay as they are stored; `core.data.intensity` brings them to 8
    bits. Grey is repeated, colours of a palette are looked up. Alpha is dropped, not blended, and
    where colours were multiplied by it they are divided by it. EXIF's orientation is obeyed.

    listed   the size that the image's annotations were drawn on, where it is known: an image that
             has this size as it is stored, and another one as EXIF turns it, is not turned

    Raises DataError, one sentence that begins with the path, for a file that does not exist, is
    damaged or cut off, has more than MAX_PIXELS pixels, or holds several images, depths or times,
    and for another kind of image, which it names.
    """
    with _opened(path) as stored:
        stored.check_picture()
        return turned(stored.picture(), _orientation_as_listed(stored, listed))


def read_size(path: Path, listed: Size | None = None) -> Size:
    """The size of the image that `read_rgb` returns, from the header alone.

    Raises DataError where the header shows that `read_rgb` would.
    """
    with _opened(path) as stored:
        stored.check_picture()
        return turned_size(stored.size, _orientation_as_listed(stored, listed))


def is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits a channel. Raises DataError for a file that is none."""
    with _opened(path) as stored:
        return stored.deep


def of_8_bits(images: Sequence[TestImage]) -> list[str]:
    """The names of listed images whose files have up to 8 bits a channel.

    A file that can be read no more is left out: reading it says so.
    """
    names = []
    for image in images:
        with contextlib.suppress(DataError):
            if image.path and not is_deep(Path(image.path)):
                names.append(image.file_name)
    return names


def turned_in_doubt(path: Path, listed: Size | None = None) -> bool:
    """Whether EXIF turns or mirrors an image, and no size tells if its annotations were turned.

    This is so where turning leaves the size as it is, or `listed`, the size that the annotations
    were drawn on, is unknown. Raises DataError for a file that is no image.
    """
    with _opened(path) as stored:
        orientation = _orientation_as_listed(stored, listed)
        return orientation in range(2, 9) and (
            listed is None or turned_size(stored.size, orientation) == stored.size
        )


def about_turned(names: Sequence[str]) -> list[str]:
    """Write one note that names images for which `turned_in_doubt` is true; empty without names."""
    if not names:
        return []
    one = len(names) == 1
    return [
        f"{many(len(names), 'image')} {'is' if one else 'are'} turned as EXIF says, and no size"
        f" tells whether the annotations were drawn so, as most tools do: {examples_of(names)};"
        f" look at {'it' if one else 'them'}, and where they were not, remove the orientation from"
        " the EXIF data"
    ]


def read_test_image(image: TestImage, intensity: str = AUTO) -> NDArray[np.uint8]:
    """Read the pixels of a listed image, RGB, uint8 [H, W, 3].

    intensity   the range by which the model's training images were brought to 8 bits, as
                `data.intensity` has it; auto where they had 8 bits

    Raises DataError as `read_rgb` does, where the size is not the listed one, and for more than 8
    bits where no range is known.
    """
    size = (image.height, image.width)
    pixels = read_rgb(Path(image.path), size) if image.pixels is None else image.pixels
    height, width = pixels.shape[:2]
    if (height, width) != size:
        raise DataError(
            f"{image.path or image.file_name}: the image is listed with {image.height} x"
            f" {image.width} pixels (height x width), and has {height} x {width}"
        )
    try:
        return to_8_bits(pixels, intensity)
    except DataError as error:
        raise DataError(f"{image.path or image.file_name}: {error}") from None


def read_ids(path: Path, size: Size) -> NDArray[Any]:
    """Read the instance ids of a mask, [H, W] in the file's own dtype: bool, integer or float.

    They are the values as stored, whatever a viewer makes of them: a palette's indices, not its
    colours. EXIF's orientation is obeyed as for an image.

    Raises DataError, one sentence that begins with the path: for all that `read_rgb` refuses; for
    another size than `size`, more than one channel, and JPEG; for an
    id that is negative, fractional, infinite or NaN.
    """
    with _opened(path) as stored:
        stored.check_ids()
        orientation = _orientation_as_listed(stored, size)
        height, width = turned_size(stored.size, orientation)
        if (height, width) != size:
            raise DataError(
                f"a mask must have the size of its image, {size[0]} x {size[1]} (height x width), "
                f"and has {height} x {width}"
            )
        ids_HW = turned(stored.ids(), orientation)
        if ids_HW.dtype.kind in "if":
            _check_whole(ids_HW)
        return ids_HW


def mask_size(path: Path) -> Size:
    """The size of a mask, from its header.

    Raises DataError where the header shows that `read_ids` would, whatever its size.
    """
    with _opened(path) as stored:
        stored.check_ids()
        return turned_size(stored.size, stored.orientation)


def _check_whole(ids_HW: NDArray[Any]) -> None:
    """Raise DataError for an id that is negative, fractional, infinite or NaN."""
    good = ids_HW >= 0
    if ids_HW.dtype.kind == "f":
        good &= np.isfinite(ids_HW) & (ids_HW == np.floor(ids_HW))
    if not np.all(good):
        row, column = np.argwhere(~good)[0]
        raise DataError(
            f"instance ids must be whole numbers from 0 up, and the pixel in row {row}, column"
            f" {column} (counted from 0) holds {ids_HW[row, column]}"
            f" ({many(int((~good).sum()), 'such pixel')}); export the ids again, with 0 where no"
            " instance is"
        )


def _orientation_as_listed(stored: Stored, listed: Size | None) -> int:
    """EXIF's orientation; 1, as stored, where only the stored size is that of the annotations."""
    if listed == stored.size != turned_size(stored.size, stored.orientation):
        return 1
    return stored.orientation


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Stored]:
    """Open the image in a file.

    Whatever is raised inside becomes a DataError that begins with the path.
    """
    try:
        with _open(path, _file_kind(path)) as stored:
            yield stored
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    # On damaged bytes decoders raise almost anything: struct.error, IndexError, their own errors.
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path}: the file cannot be read: {reason_of(error)}") from error
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{path}: the file is damaged or cut off; copy it again from its source ({cause})"
        ) from error


def _open(path: Path, kind: str) -> contextlib.AbstractContextManager[Stored]:
    """Open a file of a known format."""
    if kind == "TIFF":
        return tiffs.open_tiff(path)
    return arrays.open_array(path) if kind == "NPY" else pictures.open_picture(path, kind)


def _file_kind(path: Path) -> str:
    """The format of a file by its first bytes: TIFF, PNG, JPEG, BMP or NPY."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise DataError("the file is empty; copy it again from its source")
    if head.startswith(tiffs.TIFF_SIGNATURES):
        return "TIFF"
    if head.startswith(arrays.ARRAY_SIGNATURE):
        return "NPY"
    for kind, signature in pictures.PICTURE_SIGNATURES.items():
        if head.startswith(signature):
            return kind
    raise DataError(
        f"an image must be a TIFF, PNG, JPEG or BMP file, and this one begins with {head!r}"
    )


def find_file(file_name: str, folders: Sequence[Path]) -> Path:
    r"""Find a file in the first folder that holds it.

    A name that was written on Windows, `train\picture.png`, is found as `train/picture.png`. Links
    are followed, since images may lie elsewhere.

    Raises DataError, without a place, for a name that leads out of a folder, and for a file that no
    folder holds.
    """
    for name in (PurePosixPath(file_name), PureWindowsPath(file_name)):
        if not name.parts or name.anchor or ".." in name.parts or "\0" in file_name:
            raise DataError(
                f"a file name must stay inside the data folder, and is {file_name!r}; write it"
                " relative to that folder"
            )
    for folder in folders:
        for name_here in dict.fromkeys((file_name, file_name.replace("\\", "/"))):
            if (folder / name_here).is_file():
                return folder / name_here
    raise DataError(
        f"the file {file_name!r} is not there; looked in {', '.join(map(str, folders))}"
    )


def whole_number(value: Any) -> int | None:
    """The whole number that a JSON value holds, also as `"7"` or `7.0`; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_listed(
    entries: Sequence[Any], folders: Sequence[Path], listing: str
) -> tuple[list[TestImage], list[Problem]]:
    """Check listed images, without decoding them; returns the good ones and the others' problems.

    Checked are fields, ids and names, which must be unique, files, headers and sizes.

    entries   objects with "file_name", "id", "height" and "width", as JSON has them, so perhaps of
              other types; a height or width that is missing, null or 0 is the image's own
    folders   where files are looked for
    listing   path of the listing, with which the problems' places begin
    """
    images: list[TestImage] = []
    problems: list[Problem] = []
    seen: set[str | int] = set()
    for position, entry in enumerate(entries):
        try:
            image = _listed_image(entry, folders)
            if image.id in seen or image.file_name in seen:
                raise DataError(
                    f"ids and file names must be unique, and {image.file_name} (id {image.id})"
                    " repeats one"
                )
        except DataError as error:
            problems.append(Problem(f"{listing}, image {position} (counted from 0)", str(error)))
        else:
            seen |= {image.id, image.file_name}
            images.append(image)
    return images, problems


def _listed_image(entry: Any, folders: Sequence[Path]) -> TestImage:
    """Check one entry of a listing by itself; raises DataError."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise DataError(
            'an image must be listed as {"file_name": ..., "id": ..., "height": ..., "width": ...}'
        )
    file_name = entry["file_name"]
    number = whole_number(entry.get("id"))
    if number is None or number < 0:
        raise DataError(
            f"the id of {file_name} must be a whole number from 0 up, and is {entry.get('id')!r}"
        )
    sides = [_side(entry.get(key), key, file_name) for key in ("height", "width")]
    path = find_file(file_name, folders)
    listed = None if None in sides else (sides[0] or 0, sides[1] or 0)
    size = read_size(path, listed)
    if any(side not in (None, real) for side, real in zip(sides, size, strict=True)):
        raise DataError(
            f"{file_name} is listed with {sides[0]} x {sides[1]} pixels (height x width), and has"
            f" {size[0]} x {size[1]}"
        )
    return TestImage(str(path.absolute()), file_name, number, *size)


def _side(value: Any, key: str, file_name: str) -> int | None:
    """A listed height or width in pixels; None if it is unknown, which tools write as null or 0."""
    if value is None:
        return None
    side = whole_number(value)
    if side is None or side < 0:
        raise DataError(
            f"the {key} of {file_name} must be a whole number from 1 up, and is {value!r}"
        )
    return side or None
