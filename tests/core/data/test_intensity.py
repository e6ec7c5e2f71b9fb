"""Laws of images of more than 8 bits: one range for all, kept, and the same in prediction."""

import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.config import DataConfig, TrialConfig
from core.data import inspect_data, list_images, load_data
from core.data.images import is_deep, read_rgb, read_size, read_test_image
from core.data.intensity import measured_range, to_8_bits
from core.errors import DataError, SettingError
from core.training.trial import Trial
from core.values import as_number
from tests.core.data.exports.export import SCENE

DEEP: list[NDArray[np.uint16]] = [
    sample.image.astype(np.uint16) * 11 + 300 for sample in SCENE.samples
]
"""The images of SCENE as a camera of 12 bits might have them, RGB."""


def save(folder: Path, images: list[NDArray[Any]]) -> Path:
    """Write images as TIFF with the label images of SCENE."""
    folder.mkdir(exist_ok=True)
    for sample, image in zip(SCENE.samples, images, strict=True):
        photometric = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(folder / f"{sample.name}.tif", image, photometric=photometric)
        tifffile.imwrite(folder / f"{sample.name}_masks.tif", sample.label_maps[0])
    return folder


def saved_png(path: Path, pixels: NDArray[np.uint16]) -> Path:
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels.squeeze())))
    return path


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_tiff_of_more_bits_keeps_its_values(tmp_path: Path, kind: type, colours: int) -> None:
    pixels = (DEEP[0][:, :, 0] if colours == 1 else DEEP[0]).astype(kind)
    photometric = "minisblack" if colours == 1 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric)
    image = read_rgb(tmp_path / "a.tif")
    assert image.dtype == kind
    expected = np.repeat(pixels[:, :, None], 3, axis=2) if colours == 1 else pixels
    np.testing.assert_array_equal(image, expected)
    assert is_deep(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_16_bits_keeps_its_values_and_drops_its_alpha(
    tmp_path: Path, channels: int
) -> None:
    alpha = np.full_like(DEEP[0][:, :, :1], 65535)
    grey, colours = DEEP[0][:, :, :1], DEEP[0]
    pixels = {
        1: grey,
        2: np.dstack([grey, alpha]),
        3: colours,
        4: np.dstack([colours, alpha]),
    }[channels]
    path = saved_png(tmp_path / "a.png", pixels)
    expected = colours if channels > 2 else np.repeat(grey, 3, axis=2)
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert read_size(path) == expected.shape[:2]


def test_the_measured_range_leaves_a_thousandth_of_the_pixels_at_either_end(
    tmp_path: Path,
) -> None:
    data = load_data(str(save(tmp_path, DEEP)))
    assert data.intensity is not None
    low, high = map(float, data.intensity.split(","))
    values = np.concatenate([image.ravel() for image in DEEP])
    assert np.mean(values < low) <= 0.002 >= np.mean(values > high)
    for sample, deep in zip(data.samples, DEEP, strict=True):
        expected = np.clip((deep.astype(float) - low) / (high - low), 0, 1) * 255
        assert np.abs(sample.image - expected).max() <= 0.51
    (note,) = data.notes
    assert re.match(
        rf"data\.intensity {data.intensity}: 4 images of uint16 brought to 8 bits", note
    )


def test_each_image_has_the_same_weight_whatever_its_size() -> None:
    small, large = np.zeros((10, 10, 3)), np.ones((400, 400, 3))
    few = np.full((400, 400, 3), 5.0)
    few[:1] = 9.0
    assert measured_range([small, large]) == "0,1"
    assert measured_range([small, few]) == "0,9"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(0, 2**16))
def test_brightness_keeps_its_order(low: float, width: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).uniform(low - width, low + 2 * width, (4, 4, 3))
    config = DataConfig(intensity=f"{low},{low + width}")
    seen = to_8_bits(pixels, config.intensity).ravel().astype(int)
    assert (np.diff(seen[np.argsort(pixels.ravel())]) >= 0).all()


def test_a_range_that_is_asked_for_is_used_and_images_of_8_bits_stay_as_they_are(
    tmp_path: Path,
) -> None:
    asked = DataConfig(intensity=[300, 3105])  # type: ignore[arg-type]  # as a space file may have it
    data = load_data(str(save(tmp_path / "deep", DEEP)), asked)
    assert data.intensity == "300,3105"
    for sample, drawn in zip(data.samples, SCENE.samples, strict=True):
        np.testing.assert_array_equal(sample.image, drawn.image)
    flat = load_data(str(save(tmp_path / "flat", [one.image for one in SCENE.samples])), asked)
    assert flat.intensity is None
    assert flat.fingerprint == load_data(str(tmp_path / "flat")).fingerprint


@pytest.mark.parametrize("text", ["0", "5,1", "1,1", "a,b", "0,inf", "0,1,2", "true"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"data\.intensity.*auto, or the values that become"):
        TrialConfig.from_settings({"data.intensity": text})


def test_what_no_range_fits_is_refused(tmp_path: Path) -> None:
    def told(name: str, images: list[NDArray[Any]]) -> str:
        (problem,) = inspect_data(str(save(tmp_path / name, images))).problems
        return str(problem)

    broken = [image.astype(np.float32) for image in DEEP]
    broken[2][3, 3, 0] = np.nan
    assert "holds values that are infinite or no numbers" in told("broken", broken)
    assert "all pixels of all images have the value 7" in told(
        "equal", [np.full_like(image, 7) for image in DEEP]
    )


@pytest.mark.usefixtures("narrow")
def test_a_model_keeps_the_range_and_sees_new_images_by_it(tmp_path: Path) -> None:
    folder = save(tmp_path / "deep", DEEP)
    data = load_data(str(folder))
    settings = {
        "model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64,
        "model.image_max_side": 64, "data.validation_fraction": 0.5,
    }  # fmt: skip
    trial = Trial(TrialConfig.from_settings(settings), data)
    kept = trial.config
    assert kept.data.intensity == data.intensity
    (image, *_) = list_images(str(folder))
    np.testing.assert_array_equal(
        read_test_image(image, kept.data.intensity), data.samples[0].image
    )
    with pytest.raises(DataError, match="holds uint16, and the model was trained on images of 8"):
        read_test_image(image)
    with pytest.raises(SettingError, match=r"data\.intensity is 0,1, and the data set was read"):
        Trial(TrialConfig.from_settings({**settings, "data.intensity": "0,1"}), data)


@pytest.mark.parametrize(("low", "width"), [(1e6, 1), (-3e4, 0.2), (5, 1e-4), (0, 1e-9)])
def test_a_narrow_range_far_from_0_is_measured_to_half_a_grey_level(
    low: float, width: float
) -> None:
    image = np.linspace(low, low + width, 3000).reshape(10, 100, 3)
    found = measured_range([image])
    assert DataConfig(intensity=found).intensity == found
    begin, end = map(float, found.split(","))
    assert end - begin == pytest.approx(0.998 * width, rel=0.004)
    seen = to_8_bits(image, found)
    assert (seen.min(), seen.max()) == (0, 255)


def test_a_range_too_narrow_to_write_down_is_refused() -> None:
    image = np.linspace(1e6, 1e6 + 1e-6, 3000).reshape(10, 100, 3)
    with pytest.raises(DataError, match="too near each other to tell apart"):
        measured_range([image])


FLOATS = [image / np.float32(65535) for image in DEEP]
FLAT = [sample.image for sample in SCENE.samples]


@pytest.mark.parametrize(
    ("images", "odd", "told"),
    [
        ([DEEP[0], *FLAT[1:]], 0, "stored as uint16, with values from {0:} to {1:}, and 3 of 4"
         " images in 8 bits; save all in one way"),
        ([*DEEP[:3], FLAT[3]], 3, "stored as uint8, with values from {0:} to {1:}, and 3 of 4"
         " images in more than 8 bits; save all in one way"),
        ([FLOATS[0], *DEEP[1:]], 0, "stored as float32, with values from {0:} to {1:}, and 3 of 4"
         " images in more than 8 bits; save all in one way"),
    ],
)  # fmt: skip
def test_an_image_stored_otherwise_than_most_is_named_with_what_was_seen_and_the_others_stay(
    tmp_path: Path, images: list[NDArray[Any]], odd: int, told: str
) -> None:
    folder = save(tmp_path, images)
    found = inspect_data(str(folder))
    (problem,) = found.problems
    assert problem.place == f"{folder}, image {SCENE.samples[odd].name}"
    ends = (as_number(end, 6) for end in (images[odd].min(), images[odd].max()))
    assert problem.message == f"the image is {told.format(*ends)}"
    assert found.dataset is not None
    left = load_data(str(folder), DataConfig(skip_bad=True))
    assert [one.name for one in left.samples] == [one.name for one in found.dataset.samples]
    assert len(left.samples) == 3
    assert (left.intensity is None) == (images[1].dtype == np.uint8)


def test_test_images_of_8_bits_beside_deeper_ones_are_noted(tmp_path: Path) -> None:
    save(tmp_path / "train", DEEP)
    save(tmp_path / "test", [DEEP[0], *(sample.image for sample in SCENE.samples[1:])])
    for mask in (tmp_path / "test").glob("*_masks.tif"):
        mask.unlink()
    note = load_data(str(tmp_path)).notes[-1]
    assert note.startswith("3 test images have 8 bits a channel, and the annotated images have")
