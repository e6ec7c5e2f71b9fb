"""Near copies of images: how often each way of comparing finds them, and claims them wrongly.

    python -m benchmarks.near_copies DIR

DIR is a data set whose images show different places, as CoNSeP's crops do. Each image is changed in
each of several ways. A change is found if a way of comparing calls the image and its changed copy
the same place; every two images that it calls so are a wrong claim. The ways are that of the doctor
(correlation of small copies, in all eight positions), a difference hash of 64 bits by OpenCV, in
one position and in eight, and, where `imagehash` is installed, its perceptual and its difference
hash.
"""

import argparse
import importlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data import load_data
from core.data.dataset import assemble
from core.data.looks import Looks
from core.sample import Sample

Pixels = NDArray[np.uint8]
BITS = 10
"""Largest number of differing bits, of 64, at which two hashes count as alike: what users of such
hashes mostly take."""


def _jpeg(image: Pixels) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=30)
    return np.asarray(Image.open(stream))


def _moved(pixels: int) -> Callable[[Pixels], Pixels]:
    """The image without its first rows and columns, as if the crop had begun further in."""
    return lambda image: image[pixels:, pixels:]


def _halved(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    small = (width // 2, height // 2)
    return np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BOX))


CHANGES: Mapping[str, Callable[[Pixels], Pixels]] = {
    "JPEG, quality 30": _jpeg,
    "half the size": _halved,
    "a fifth darker": lambda image: (image * 0.8).astype(np.uint8),
    "red weakened by a fifth": lambda image: (image * [0.8, 1, 1]).astype(np.uint8),
    "blurred, sigma 2": lambda image: cv2.GaussianBlur(image, (0, 0), 2).astype(np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "begun 5 pixels further in": _moved(5),
    "begun 10 pixels further in": _moved(10),
    "begun 25 pixels further in": _moved(25),
    "begun 50 pixels further in": _moved(50),
}

Compare = Callable[[Sequence[Pixels]], NDArray[np.bool_]]
"""A way of comparing: it returns for every two images whether it calls them the same place, as bool
[N, N].
"""


def _by_looks(images: Sequence[Pixels]) -> NDArray[np.bool_]:
    empty = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    samples = [
        Sample(f"{number:05d}", image, np.zeros((1, *image.shape[:2]), np.uint16), *empty)
        for number, image in enumerate(images)
    ]
    same = np.zeros((len(images), len(images)), np.bool_)
    for one, other in Looks(assemble("x", [], samples)).near_copies():
        same[int(one), int(other)] = same[int(other), int(one)] = True
    return same


def _difference_hash(image: Pixels) -> NDArray[np.bool_]:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _eight(image: Pixels) -> list[Pixels]:
    return [np.rot90(one, turns) for one in (image, image[:, ::-1]) for turns in range(4)]


def _by_bits(
    hash_of: Callable[[Pixels], NDArray[np.bool_]], positions: Callable[[Pixels], list[Pixels]]
) -> Compare:
    def compare(images: Sequence[Pixels]) -> NDArray[np.bool_]:
        own = np.array([hash_of(image) for image in images])
        turned = np.array([[hash_of(one) for one in positions(image)] for image in images])
        differ = (own[:, None, None, :] != turned[None]).sum(axis=3).min(axis=2)
        alike: NDArray[np.bool_] = differ <= BITS
        return alike

    return compare


def _ways() -> dict[str, Compare]:
    ways: dict[str, Compare] = {
        "correlation of small copies": _by_looks,
        "difference hash": _by_bits(_difference_hash, lambda image: [image]),
        "difference hash, eight positions": _by_bits(_difference_hash, _eight),
    }
    try:
        library: Any = importlib.import_module("imagehash")
    except ImportError:
        return ways
    for name in ("phash", "dhash"):
        one: Any = getattr(library, name)

        def hash_of(image: Pixels, one: Any = one) -> NDArray[np.bool_]:
            bits: NDArray[np.bool_] = one(Image.fromarray(np.ascontiguousarray(image))).hash.ravel()
            return bits

        ways[f"imagehash {name}"] = _by_bits(hash_of, lambda image: [image])
        ways[f"imagehash {name}, eight positions"] = _by_bits(hash_of, _eight)
    return ways


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what each way of comparing finds and claims wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dir", metavar="DIR")
    images = [sample.image for sample in load_data(parser.parse_args(arguments).dir).samples]
    pairs = len(list(itertools.combinations(images, 2)))
    for name, compare in _ways().items():
        wrong = int(np.triu(compare(images), 1).sum())
        print(f"{name}: {wrong} of {pairs:,} pairs claimed wrongly")
        for change, of in CHANGES.items():
            same = compare([*images, *(of(image) for image in images)])
            found = int(np.diagonal(same, len(images)).sum())
            print(f"    {change}: {found} of {len(images)} found")


if __name__ == "__main__":
    main()
