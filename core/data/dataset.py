"""The data set in memory that every reader delivers: decoded arrays, classes, a fingerprint."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.errors import DataError
from core.sample import MAX_INSTANCES, Sample
from core.text import listed, many, shown

EXAMPLES = 3
"""Number of names that a sentence shows as examples."""
SLIPS = 10
"""Number of bad annotations and images that `data.skip_bad` allows in a data set of any size."""
VALUE = re.compile(r"""'[^']*'|"[^"]*"|\[[^\[\]]*\]|\S+\.(?:tiff?|png|jpe?g|bmp)\b|-?\d[\d.,]*""")
"""Values in a message: quoted text, lists, names of image files, numbers."""

ArrayT = TypeVar("ArrayT", bound=NDArray[np.generic])


@dataclass(frozen=True)
class Category:
    """A class as its data set calls it.

    id     the data set's own number (COCO's category id, HW3's K of classK.tif); class numbers run
           from 1 to C in ascending id, so class number c is `Dataset.classes[c - 1]`
    name   name of the class
    """

    id: int
    name: str


CELL = Category(1, "cell")
"""The class of all instances in a format that has no classes."""


@dataclass(frozen=True)
class TestImage:
    """An image to predict on, listed and not decoded; `core.data.images.read_test_image` reads it.

    path             absolute path; empty if there is no file
    file_name, id    as the listing has them; a submission names the image by its id
    height, width    pixels
    pixels           uint8 [H, W, 3], RGB, where there is no file
    """

    __test__: ClassVar[bool] = (
        False  # the name begins like a test's, and pytest would try to collect it
    )

    path: str
    file_name: str
    id: int
    height: int
    width: int
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Dataset:
    """All annotated images of a data set, in the order of their names, and its test images.

    Plain dataclasses over contiguous read-only arrays, so that Ray's object store shares them
    between processes without a copy. The fingerprint covers classes, names, pixels, labels and the
    data set's own split, not the test images, the notes and the folder.

    notes        sentences for the user, each with a count: parts that were skipped, and unusual
                 ones that were accepted
    validation   names of the images that validate in the data set's own split; empty where it has
                 none
    intensity    the range by which images were brought to 8 bits, as `data.intensity` has it; None
                 where they had 8 bits
    """

    name: str
    classes: tuple[Category, ...]
    samples: tuple[Sample, ...]
    test_images: tuple[TestImage, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    intensity: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all annotated images."""
        return sum(
            array.nbytes
            for sample in self.samples
            for array in (sample.image, sample.label_maps, sample.labels_N, sample.crowd_N)
        )

    def instance_counts(self) -> NDArray[np.int64]:
        """Count the instances of each class in each image, int64 [images, C], without crowds."""
        counts = np.zeros((len(self.samples), len(self.classes)), np.int64)
        for row, sample in enumerate(self.samples):
            labels = sample.labels_N[~sample.crowd_N]
            counts[row] = np.bincount(labels, minlength=len(self.classes) + 1)[1:]
        return counts


@dataclass(frozen=True)
class Problem:
    """Something that keeps a data set from being used.

    place       file, and where it helps the part of it
    message     rule, value received, way out; begins in lower case, to be read after "place: "
    skippable   whether it concerns one annotation or one image alone, which `data.skip_bad` leaves
                out
    suspicious  whether the data could be used, and looks wrong: `data.allow_suspicious` makes a
                note of it
    """

    place: str
    message: str
    skippable: bool = False
    suspicious: bool = False

    def __str__(self) -> str:
        return shown(f"{self.place}: {self.message}")

    @property
    def cause(self) -> str:
        """The message with `#` in place of each value: problems of one cause differ in values."""
        return VALUE.sub("#", self.message)

    @classmethod
    def of(cls, error: DataError, place: object, skippable: bool = False) -> "Problem":
        """Make a problem of an error; `place`, where its sentence begins with it, is cut off."""
        return cls(str(place), str(error).removeprefix(f"{place}: "), skippable)


@dataclass(frozen=True)
class Inspection:
    """The result of reading a data folder.

    dataset    the images that could be read; None if none could. It may be trained on only if there
               are no problems
    problems   everything that was found wrong
    """

    dataset: Dataset | None
    problems: tuple[Problem, ...]

    @property
    def single(self) -> tuple[Problem, ...]:
        """The problems of single annotations and images, which `data.skip_bad` leaves out.

        Empty where these are more than SLIPS and more than the good images and the good instances:
        then the whole data set is in doubt.
        """
        if self.dataset is None:
            return ()
        bad = tuple(problem for problem in self.problems if problem.skippable)
        good = max(
            len(self.dataset.samples), sum(len(sample.labels_N) for sample in self.dataset.samples)
        )
        return bad if len(bad) <= max(good, SLIPS) else ()


def by_cause(problems: Iterable[Problem]) -> list[str]:
    """Write a sentence for each cause: its first problem, the number of its problems, examples.

    Causes come in the order of their first problems.
    """
    causes: dict[str, list[Problem]] = {}
    for problem in problems:
        causes.setdefault(problem.cause, []).append(problem)
    return [_one_sentence(alike) for alike in causes.values()]


def _one_sentence(alike: Sequence[Problem]) -> str:
    """The first of problems of one cause, their number, and the places of some others."""
    first, *others = alike
    if not others:
        return str(first)
    # The places in one file begin with the same path, which the sentence has shown already.
    beginning = first.place[: max(first.place.rfind(end) for end in ("/", ", ")) + 1].rstrip()
    examples = [
        shown(problem.place.removeprefix(beginning).strip()) for problem in others[: EXAMPLES - 1]
    ]
    also = listed([*examples, *_and_more(len(others))])
    return f"{first} ({len(alike):,} of this kind: also {also})"


def _and_more(others: int) -> list[str]:
    more = others - (EXAMPLES - 1)
    return [f"{more:,} more"] if more > 0 else []


def examples_of(names: Sequence[str]) -> str:
    """The first EXAMPLES names in words, and how many more there are."""
    more = len(names) - EXAMPLES
    return ", ".join(shown(name) for name in names[:EXAMPLES]) + (
        f" and {more:,} more" if more > 0 else ""
    )


def first_problem_of(problems: Sequence[Problem]) -> str:
    """The first of one or more problems in words, and how many more there are."""
    more = len(problems) - 1
    return str(problems[0]) + (f" (and {many(more, 'more problem')})" if more else "")


def assemble(
    name: str,
    classes: Sequence[Category],
    samples: Iterable[Sample],
    test_images: Sequence[TestImage] = (),
    validation: Sequence[str] = (),
) -> Dataset:
    """Make a data set: samples sorted by name, arrays contiguous and read-only, fingerprinted.

    validation   names of the images that validate in the data set's own split, if it has one
    """
    ordered = tuple(
        Sample(
            name=sample.name,
            image=_frozen(sample.image),
            label_maps=_frozen(sample.label_maps),
            labels_N=_frozen(sample.labels_N),
            crowd_N=_frozen(sample.crowd_N),
        )
        for sample in sorted(samples, key=lambda sample: sample.name)
    )
    return Dataset(
        name,
        tuple(classes),
        ordered,
        tuple(test_images),
        fingerprint(classes, ordered, validation),
        validation=tuple(sorted(validation)),
    )


def fingerprint(
    classes: Sequence[Category], samples: Sequence[Sample], validation: Sequence[str] = ()
) -> str:
    """SHA-256, in hexadecimal, over classes, names, pixels and labels in the order of the names.

    Where the data set has a split of its own, the names of its validation images count as well.

    It is the same for the same content on every machine: byte order and text encoding are fixed,
    and folders do not count.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([[category.id, category.name] for category in classes]).encode())
    for sample in sorted(samples, key=lambda sample: sample.name):
        digest.update(
            json.dumps([sample.name, sample.image.shape, sample.label_maps.shape]).encode()
        )
        digest.update(np.ascontiguousarray(sample.image).data)
        digest.update(np.ascontiguousarray(sample.label_maps, "<u2").data)
        digest.update(np.ascontiguousarray(sample.labels_N, "<i8").data)
        digest.update(np.ascontiguousarray(sample.crowd_N).data)
    if validation:
        digest.update(json.dumps(sorted(validation)).encode())
    return digest.hexdigest()


def of_one_class(
    name: str, image: NDArray[np.uint8], label_maps: Sequence[NDArray[np.uint16]], count: int
) -> Sample:
    """Make a sample whose instances are all of class 1.

    image        uint8 [H, W, 3]
    label_maps   one or more, uint16 [H, W], which hold the instances 1 to `count`
    """
    return Sample(
        name,
        image,
        np.stack(label_maps),
        np.ones(count, np.int64),
        np.zeros(count, np.bool_),
    )


def renumber(ids_HW: NDArray[np.generic], first: int) -> tuple[NDArray[np.uint16], int]:
    """Replace the ids of a mask, in ascending order, by `first`, `first + 1`, ...; 0 stays 0.

    Returns the label map, uint16 [H, W], and the number of its instances. Raises DataError, without
    a place, if a number would exceed MAX_INSTANCES.
    """
    inside = ids_HW != 0
    ids, index = np.unique(ids_HW[inside], return_inverse=True)
    if first + len(ids) - 1 > MAX_INSTANCES:
        raise DataError(
            f"an image can hold {MAX_INSTANCES:,} instances, and this one holds more; cut it into"
            " tiles"
        )
    labels_HW = np.zeros(ids_HW.shape, np.uint16)
    labels_HW[inside] = index + first
    return labels_HW, len(ids)


def place_labels(
    label_maps: list[NDArray[np.uint16]],
    labels_hw: NDArray[np.uint16],
    y0: int = 0,
    x0: int = 0,
    most: int = MAX_INSTANCES,
) -> bool:
    """Write labels into the first map in which all their pixels are free, or else into a new map.

    Returns False, and writes nothing, if a new map would make more than `most` maps.

    label_maps   at least one uint16 [H, W]; changed in place, and longer afterwards when a map was
                 added
    labels_hw    uint16 [h, w], the label of every pixel in a window that begins at row y0 and
                 column x0; 0 is nothing. All go into the same map, so no instance is divided.
    """
    height, width = labels_hw.shape
    window = (slice(y0, y0 + height), slice(x0, x0 + width))
    covered = labels_hw != 0
    for label_map in label_maps:
        if not np.any(label_map[window][covered]):
            break
    else:
        if len(label_maps) >= most:
            return False
        label_map = np.zeros_like(label_maps[0])
        label_maps.append(label_map)
    label_map[window][covered] = labels_hw[covered]
    return True


def _frozen(array: ArrayT) -> ArrayT:
    # A copy, so that a caller's own array stays writable. Arrays are read-only from the start,
    # because Ray hands them out read-only.
    frozen = array.copy(order="C")
    frozen.flags.writeable = False
    return frozen
