"""Laws of looks: tiles of one slide are known by their colours, copies of a place by its pattern,
and nothing is found where there is nothing.
"""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import Category, Dataset, assemble
from core.data.looks import Looks
from core.data.synthetic import make_cells
from core.sample import Sample

Pixels = NDArray[np.uint8]


def tile(slide: int, number: int, stain_sd: float = 0.15) -> Pixels:
    """Coarse tissue that differs from tile to tile, in the stain of its slide."""
    stain = 1 + np.random.default_rng([1, slide]).normal(0, stain_sd, 3)
    rng = np.random.default_rng([2, slide, number])
    coarse = Image.fromarray(rng.integers(40, 220, (8, 8), np.uint8)).resize((96, 96))
    amount = 1 - np.asarray(coarse, dtype=np.float64)[..., None] / 255
    tissue = 255 * 10 ** (-amount * np.array([0.5, 0.8, 0.3]) * stain)
    return np.clip(tissue + rng.normal(0, 4, tissue.shape), 0, 255).astype(np.uint8)


def data_of(images: dict[str, Pixels]) -> Dataset:
    samples = []
    for name, image in images.items():
        maps = np.zeros((1, *image.shape[:2]), np.uint16)
        maps[0, :4, :4] = 1
        one, crowd = np.ones(1, np.int64), np.zeros(1, np.bool_)
        samples.append(Sample(name, image, maps, one, crowd))
    return assemble("tissue", (Category(1, "nucleus"),), samples)


def slides(name: Callable[[int, int], str], stain_sd: float = 0.15) -> Dataset:
    """Eight slides of six tiles each."""
    return data_of(
        {
            name(slide, number): tile(slide, number, stain_sd)
            for slide in range(8)
            for number in range(6)
        }
    )


def of_slide(name: str) -> str:
    return name.split("_")[0]


def test_tiles_of_one_slide_share_its_stain() -> None:
    assert Looks(slides(lambda slide, number: f"s{slide}_{number}")).share_colours(of_slide)


@pytest.mark.parametrize("stain_sd", [0.0, 0.15])
def test_groups_that_are_no_slides_share_no_stain(stain_sd: float) -> None:
    looks = Looks(slides(lambda slide, number: f"s{slide}_{number}", stain_sd))
    assert not looks.share_colours(lambda name: name.split("_")[1])
    if not stain_sd:
        assert not looks.share_colours(of_slide)


def test_tiles_that_are_numbered_slide_by_slide_are_alike_in_that_order_alone() -> None:
    assert Looks(slides(lambda slide, number: f"{6 * slide + number}")).neighbours_share_colours()
    mixed = Looks(slides(lambda slide, number: f"{8 * number + slide}"))
    assert not mixed.neighbours_share_colours()


def test_the_order_of_names_is_that_of_their_numbers() -> None:
    names = ["a2", "a10", "a1", "b", "3"]
    looks = Looks(data_of({name: tile(0, place) for place, name in enumerate(names)}))
    assert looks.names == ["3", "a1", "a2", "a10", "b"]


def saved_again(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "change",
    [
        saved_again,
        lambda image: image[:, ::-1],
        lambda image: np.rot90(image).copy(),
        lambda image: np.rot90(image[::-1], 3).copy(),
        lambda image: np.asarray(Image.fromarray(image).resize((64, 64))),
        lambda image: (image * 0.8).astype(np.uint8),
    ],
    ids=["jpeg", "mirrored", "turned", "turned and mirrored", "resized", "darker"],
)
def test_a_copy_of_an_image_is_known_whatever_was_done_to_it(
    change: Callable[[Pixels], Pixels],
) -> None:
    images = {f"a{number}": tile(number % 3, number) for number in range(15)}
    images["copy"] = np.ascontiguousarray(change(images["a4"]))
    assert Looks(data_of(images)).near_copies() == [("a4", "copy")]


def test_images_that_show_nothing_are_no_copies() -> None:
    noise = np.random.default_rng(0)
    images = {
        f"a{number}": (20 + noise.integers(0, 4, (64, 64, 3))).astype(np.uint8)
        for number in range(15)
    }
    looks = Looks(data_of(images))
    assert looks.near_copies() == []
    assert not looks.neighbours_share_colours()


def test_what_all_images_have_in_common_makes_no_copies() -> None:
    """The shade of the microscope, darker at the borders, is in all of them."""
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    shade = (1 - 0.4 * (rows**2 + columns**2))[..., None]
    images = {f"a{number}": (tile(0, number) * shade).astype(np.uint8) for number in range(20)}
    assert Looks(data_of(images)).near_copies() == []


def test_synthetic_images_are_no_copies_and_share_the_stain_of_their_slides() -> None:
    looks = Looks(make_cells(images=24, side=64))
    assert looks.near_copies() == []
    assert looks.share_colours(of_slide)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_tell_nothing_and_are_no_error(count: int) -> None:
    looks = Looks(data_of({f"a_{number}": tile(0, number) for number in range(count)}))
    assert not looks.neighbours_share_colours()
    assert not looks.share_colours(lambda name: name)
    assert looks.near_copies() == []
