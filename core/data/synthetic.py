"""Stained tissue drawn from a seed: four kinds of nuclei among things that look like nuclei.

    class1   large, pale, oval, with a dark rim and nucleoli        (epithelium)
    class2   small, round, dense and dark                           (lymphocytes)
    class3   long, thin, tapered, slightly bent                     (fibroblasts)
    class4   three lobes in a red halo that is not part of it       (granulocytes)

Stain and ground differ from slide to slide, some nuclei are pale or out of focus, some touch or
hide a part of another, some are cut by the border; red blood cells, pigment and smudges are not
annotated. Every pixel is the same on every machine, because only uniform draws and element-wise +,
-, *, /, square roots and comparisons are used, which IEEE 754 rounds in one way: no sine,
exponential, matrix product or floating-point sum over an axis.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from core.data.dataset import Category, Dataset, Inspection, TestImage, assemble
from core.data.readers import Reader
from core.errors import DataError
from core.randomness import Purpose, generator
from core.sample import Sample

CLASSES = tuple(Category(number, f"class{number}") for number in (1, 2, 3, 4))
SHARES = (0.38, 0.30, 0.19, 0.13)
"""Fraction of the nuclei that are of each class."""
FIELDS_PER_SLIDE = 3
PIXELS_PER_CELL = 1250
"""Pixels of a field per nucleus: 8 to 12 nuclei on 112 x 112 pixels."""
MOST_HIDDEN = 0.2
"""Largest fraction of a nucleus that others may hide."""

TEST_IMAGES = 6
"""Number of test images of the data set `synthetic`: two more slides."""

Field = NDArray[np.float64]
SLIDE, FIELD = 0, 1
"""The first part of the address of a draw: what all fields of a slide share, or one field's own."""


@dataclass(frozen=True)
class _Nucleus:
    """One nucleus before it is drawn.

    label    class number, 1 to 4
    y, x     centre in pixels, perhaps outside the image
    radii    long and short one in pixels
    across   unit vector along the long axis, x before y
    wobble   coefficients of the waves of the outline, relative to the radius: cosine and sine of
             two periods, then of three
    bend     how far the long axis is bent, relative to the short radius
    lobes    depth of three lobes, relative to the radius; 0 for none
    """

    label: int
    y: float
    x: float
    radii: tuple[float, float]
    across: tuple[float, float]
    wobble: tuple[float, float, float, float]
    bend: float
    lobes: float


def make_cells(images: int = 24, side: int = 128, seed: int = 0, test: int = 0) -> Dataset:
    """Draw a data set of `images` annotated fields of view, then `test` test images.

    Three fields make a slide; names are such as `slide01_field2`. Heights and widths lie between
    three quarters of `side` and `side`, in pixels. Field k is the same in every data set of one
    seed and side, however many there are; the test images are the fields that follow the annotated
    ones, without labels, ids from 1.
    """
    samples = [_draw_field(index, side, seed) for index in range(images + test)]
    test_images = [
        TestImage("", f"{sample.name}.png", number, *sample.size, sample.image)
        for number, sample in enumerate(samples[images:], start=1)
    ]
    return assemble("synthetic", CLASSES, samples[:images], test_images)


def write_hw3(dataset: Dataset, folder: Path, test: Sequence[Sample] = ()) -> None:
    """Write a data set in the HW3 layout: RGBA LZW images and float64 masks.

    `test` becomes the test images and their listing, ids from 1, without masks. Reading the folder
    again gives the same data set if its classes are HW3's and its instances are numbered class by
    class, as those of `make_cells` are.

    Raises DataError for what one mask per class cannot hold: crowd regions, and overlapping
    instances of one class.
    """
    for sample in dataset.samples:
        place = folder / "train" / sample.name
        if sample.crowd_N.any():
            raise DataError(
                f"{place}: the HW3 layout has no crowd regions, and the image has"
                f" {sample.crowd_N.sum()}"
            )
        place.mkdir(parents=True, exist_ok=True)
        _write_image(place / "image.tif", sample.image)
        label_of = np.concatenate([[0], sample.labels_N])
        for label, category in enumerate(dataset.classes, start=1):
            maps = np.where(label_of[sample.label_maps] == label, sample.label_maps, 0)
            if np.any(np.count_nonzero(maps, axis=0) > 1):
                raise DataError(
                    f"{place}: the HW3 layout has one mask per class, and instances of"
                    f" {category.name} overlap"
                )
            if maps.any():
                tifffile.imwrite(
                    place / f"class{category.id}.tif", maps.max(axis=0).astype(np.float64)
                )
    if not test:
        return
    (folder / "test_release").mkdir(parents=True, exist_ok=True)
    listing = []
    for number, sample in enumerate(test, start=1):
        _write_image(folder / "test_release" / f"{sample.name}.tif", sample.image)
        height, width = sample.size
        listing.append(
            {"file_name": f"{sample.name}.tif", "id": number, "height": height, "width": width}
        )
    (folder / "test_image_name_to_ids.json").write_text(json.dumps(listing, indent=4))


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image as an opaque RGBA TIFF file with LZW compression."""
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    tifffile.imwrite(
        path,
        np.concatenate([image, opaque], axis=2),
        photometric="rgb",
        extrasamples=["unassalpha"],
        compression="lzw",
        predictor=True,
    )


def _draw_field(index: int, side: int, seed: int) -> Sample:
    """Draw field `index`, whose slide decides stain and tint."""
    slide, field = divmod(index, FIELDS_PER_SLIDE)
    stain = generator(seed, Purpose.SYNTHETIC, SLIDE, slide)
    rng = generator(seed, Purpose.SYNTHETIC, FIELD, index)
    height, width = (int(length) for length in rng.integers(side * 3 // 4, side + 1, 2))

    strength = 0.8 + 0.35 * stain.random()  # of the blue stain
    tint = (stain.random(3) - 0.5) * (16, 24, 16)
    canvas = _ground(rng, height, width) + tint
    _draw_distractors(canvas, rng)
    label_map = np.zeros((height, width), np.uint16)
    nuclei = _place_nuclei(label_map, rng)
    for nucleus in nuclei:
        _draw_nucleus(canvas, nucleus, rng, strength)
    _draw_pigment(canvas, rng)
    if rng.random() < 0.3:
        canvas = _blur(canvas)
    # The mean of three uniform draws is close to the noise of a camera.
    canvas += (rng.random((3, height, width, 1)) - 0.5).cumsum(axis=0)[-1] * 9
    canvas += (rng.random((height, width, 3)) - 0.5) * 5
    image = np.floor(np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)

    # Numbered class by class, as the HW3 reader numbers.
    labels = np.array([nucleus.label for nucleus in nuclei], np.int64)
    order = np.argsort(labels, kind="stable")
    number_of = np.zeros(len(labels) + 1, np.uint16)
    number_of[order + 1] = np.arange(1, len(labels) + 1)
    name = f"slide{slide + 1:02d}_field{field + 1}"
    return Sample(
        name, image, number_of[label_map][None], labels[order], np.zeros(len(labels), np.bool_)
    )


def _ground(rng: np.random.Generator, height: int, width: int) -> Field:
    """Draw connective tissue with fibres and pale gaps, float64 [H, W, 3]."""
    y, x = _grid(height, width)
    cosine, sine = _direction(rng)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    fibres = _noise(rng, across / 3.5, along / 26)
    clouds = _noise(rng, y / 17, x / 17)
    grain = _noise(rng, y / 2.5, x / 2.5)
    density = 0.4 * clouds + 0.42 * fibres + 0.18 * grain
    colour = _mix(
        np.array([243.0, 220.0, 232.0]), np.array([205.0, 138.0, 180.0]), density[..., None]
    )
    gaps = _smooth_step((_noise(rng, y / 30, x / 30) - 0.68) / 0.1)
    return _mix(colour, np.array([244.0, 240.0, 244.0]), 0.9 * gaps[..., None])


def _draw_distractors(canvas: Field, rng: np.random.Generator) -> None:
    """Draw smudges of stain and red blood cells, which are not annotated."""
    height, width = canvas.shape[:2]
    y, x = _grid(height, width)
    for _ in range(int(rng.integers(1, 4))):
        squared = _squared(y, x, rng.random() * height, rng.random() * width)
        radius = 6 + 6 * rng.random()
        veil = _smooth_step(1.2 - squared / (radius * radius)) * (0.2 + 0.25 * rng.random())
        canvas[:] = _mix(canvas, np.array([150.0, 112.0, 172.0]), veil[..., None])
    for _ in range(int(rng.integers(0, 5))):
        squared = _squared(y, x, rng.random() * height, rng.random() * width)
        radius = 3.4 + 1.6 * rng.random()
        disc = _smooth_step((radius - np.sqrt(squared)) / 1.2 + 0.5)
        hollow = 0.35 * _smooth_step(1 - squared / (radius * radius) * 2)
        canvas[:] = _mix(
            canvas, np.array([218.0, 104.0, 110.0]), (disc * (0.85 - hollow))[..., None]
        )


def _draw_pigment(canvas: Field, rng: np.random.Generator) -> None:
    """Draw small brown and dark grains over tissue and nuclei."""
    height, width = canvas.shape[:2]
    y, x = _grid(height, width)
    for _ in range(int(rng.integers(2, 8))):
        squared = _squared(y, x, rng.random() * height, rng.random() * width)
        grain = _smooth_step((0.7 + 1.3 * rng.random() - np.sqrt(squared)) + 0.5)
        colour = _mix(np.array([120.0, 84.0, 60.0]), np.array([70.0, 46.0, 100.0]), rng.random(1))
        canvas[:] = _mix(canvas, colour, 0.85 * grain[..., None])


def _place_nuclei(label_map: NDArray[np.uint16], rng: np.random.Generator) -> list[_Nucleus]:
    """Place nuclei in a map until it is full enough; number k of the list is label k + 1 there."""
    height, width = label_map.shape
    wanted = max(1, int(height * width / PIXELS_PER_CELL * (0.88 + 0.28 * rng.random()) + 0.5))
    nuclei: list[_Nucleus] = []
    areas: list[int] = []  # before anything was hidden
    for _ in range(60 * wanted):
        if len(nuclei) == wanted:
            break
        beside = nuclei[int(rng.integers(len(nuclei)))] if nuclei and rng.random() < 0.4 else None
        nucleus = _random_nucleus(rng, height, width, beside)
        inside = _squared_radius(nucleus, *_grid(height, width)) <= 1
        under = np.unique(label_map[ndimage.binary_dilation(inside)])
        if np.count_nonzero(inside) < 14 or (beside is None and under.any()):
            continue
        tried = np.where(inside, np.uint16(len(nuclei) + 1), label_map)
        if all(_still_seen(tried == label, areas[label - 1]) for label in under[under > 0]):
            label_map[:] = tried
            nuclei.append(nucleus)
            areas.append(int(np.count_nonzero(inside)))
    return nuclei


def _still_seen(visible: NDArray[np.bool_], area: int) -> bool:
    """Whether what others leave visible of a nucleus is one piece and most of its `area`."""
    return bool(
        np.count_nonzero(visible) >= (1 - MOST_HIDDEN) * area and ndimage.label(visible)[1] == 1
    )


def _random_nucleus(
    rng: np.random.Generator, height: int, width: int, beside: _Nucleus | None
) -> _Nucleus:
    """Draw the shape of a nucleus of any class, anywhere or next to another one.

    Classes overlap in size and in roundness.
    """
    label = 1 + int(np.searchsorted(np.cumsum(SHARES[:-1]), rng.random(), side="right"))
    low, high, thinnest, roundest, roughness = {
        1: (6.0, 9.5, 0.66, 0.98, 0.10),
        2: (3.6, 5.4, 0.82, 1.0, 0.06),
        3: (8.5, 13.0, 0.24, 0.36, 0.05),
        4: (5.2, 7.4, 0.85, 1.0, 0.08),
    }[label]
    long = low + (high - low) * rng.random()
    short = long * (thinnest + (roundest - thinnest) * rng.random())
    wobble = (rng.random(4) - 0.5) * 2 * roughness
    bend = (rng.random() - 0.5) * (1.1 if label == 3 else 0.15)
    lobes = 0.12 + 0.16 * rng.random() if label == 4 else 0.0
    across = _direction(rng)
    if beside is None:
        y, x = rng.random() * (height + 4) - 2, rng.random() * (width + 4) - 2
    else:
        down, right = _direction(rng)
        distance = (beside.radii[1] + short) * (0.85 + 0.35 * rng.random())
        y, x = beside.y + down * distance, beside.x + right * distance
    shape = (float(wobble[0]), float(wobble[1]), float(wobble[2]), float(wobble[3]))
    return _Nucleus(label, float(y), float(x), (long, short), across, shape, bend, lobes)


def _squared_radius(nucleus: _Nucleus, y: Field, x: Field) -> Field:
    """Squared ratio of each pixel's distance from the centre to the outline's, float64 [H, W].

    It is at most 1 inside the nucleus.
    """
    cosine, sine = nucleus.across
    down, right = y - nucleus.y, x - nucleus.x
    along = (right * cosine + down * sine) / nucleus.radii[0]
    aside = (down * cosine - right * sine) / nucleus.radii[1] + nucleus.bend * (along * along - 0.3)
    if nucleus.label == 3:
        aside = aside * (1 + 0.8 * along * along)  # tapered
    radius = np.sqrt(along * along + aside * aside) + 1e-9
    c1, s1 = along / radius, aside / radius
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    c3, s3 = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
    w0, w1, w2, w3 = nucleus.wobble
    outline = 1 - 0.3 * nucleus.lobes + w0 * c2 + w1 * s2 + (w2 + nucleus.lobes) * c3 + w3 * s3
    fraction = radius / outline
    return fraction * fraction


def _draw_nucleus(
    canvas: Field, nucleus: _Nucleus, rng: np.random.Generator, strength: float
) -> None:
    y, x = _grid(*canvas.shape[:2])
    q = _squared_radius(nucleus, y, x)
    pale = np.array([166.0, 134.0, 190.0])
    dark = {
        1: np.array([98.0, 68.0, 146.0]),
        2: np.array([66.0, 40.0, 108.0]),
        3: np.array([108.0, 62.0, 132.0]),
        4: np.array([78.0, 42.0, 112.0]),
    }[nucleus.label] + (rng.random(3) - 0.5) * (26, 22, 26)
    is_blurred = rng.random() < 0.2
    softness = 3.5 if is_blurred else 1.0 + 0.8 * rng.random()
    opacity = min(1.0, strength * (0.66 + 0.4 * rng.random()) * (0.8 if is_blurred else 1.0))
    chromatin = _noise(rng, y / 1.9, x / 1.9)
    if nucleus.label == 1:
        density = 0.25 + 0.35 * chromatin + 0.5 * _smooth_step((q - 0.5) / 0.5)
        for _ in range(int(rng.integers(1, 3))):
            spot = [nucleus.y, nucleus.x] + (rng.random(2) - 0.5) * nucleus.radii[1]
            density = density + 0.7 * _smooth_step(1.3 - _squared(y, x, spot[0], spot[1]) / 1.6)
    elif nucleus.label == 4:
        density = 0.7 + 0.4 * chromatin
        reach = nucleus.radii[0] * (1.25 + 0.35 * rng.random())
        halo = _smooth_step(1.6 - 1.3 * _squared(y, x, nucleus.y, nucleus.x) / (reach * reach)) * (
            0.3 + 0.4 * rng.random()
        )
        canvas[:] = _mix(canvas, np.array([222.0, 122.0, 152.0]), halo[..., None])
    else:
        density = (0.75 if nucleus.label == 2 else 0.55) + 0.45 * chromatin
    colour = _mix(pale, dark, np.minimum(density, 1.0)[..., None])
    cover = _smooth_step((1 - np.sqrt(q)) * nucleus.radii[1] / softness + 0.5) * opacity
    canvas[:] = _mix(canvas, colour, cover[..., None])


def _blur(canvas: Field) -> Field:
    """Average over 3 x 3 neighbours; edges are repeated."""
    height, width = canvas.shape[:2]
    padded = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = np.zeros_like(canvas)
    for down in range(3):
        for right in range(3):
            total += padded[down : down + height, right : right + width]
    return total / 9


def _grid(height: int, width: int) -> tuple[Field, Field]:
    return np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None, :]


def _squared(y: Field, x: Field, y0: float, x0: float) -> Field:
    return (y - y0) * (y - y0) + (x - x0) * (x - x0)


def _mix(below: Field, above: Field, cover: Field) -> Field:
    return below + (above - below) * cover


def _smooth_step(value: Field) -> Field:
    """A smooth step: 0 below 0, 1 above 1."""
    clipped = np.clip(value, 0.0, 1.0)
    return clipped * clipped * (3 - 2 * clipped)


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a unit vector of any direction without sine or cosine, from a point in the unit disc."""
    while True:
        a, b = (2 * value - 1 for value in rng.random(2).tolist())
        if 0.01 < a * a + b * b <= 1:
            length = float(np.sqrt(a * a + b * b))
            return a / length, b / length


def _noise(rng: np.random.Generator, v: Field, u: Field) -> Field:
    """Draw smooth noise in 0..1: random at whole coordinates v and u, interpolated in between."""
    v, u = np.broadcast_arrays(v, u)
    v0, u0 = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
    top, left = int(v0.min()), int(u0.min())
    values = rng.random((int(v0.max()) - top + 2, int(u0.max()) - left + 2))
    down, right = _smooth_step(v - v0), _smooth_step(u - u0)
    v0, u0 = v0 - top, u0 - left
    upper = _mix(values[v0, u0], values[v0, u0 + 1], right)
    lower = _mix(values[v0 + 1, u0], values[v0 + 1, u0 + 1], right)
    return _mix(upper, lower, down)


READER = Reader(
    sees=lambda where: where == "synthetic",
    read=lambda _: Inspection(make_cells(test=TEST_IMAGES), ()),
)
