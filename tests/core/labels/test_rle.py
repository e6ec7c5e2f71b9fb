"""Laws of the run-length encoding, with pycocotools on the full mask as the oracle."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from core.errors import DataError
from core.labels.rle import decode_runs, encode
from core.sample import MaskCrop


def full_mask(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8, order="F")
    h, w = crop.pixels.shape
    mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return mask


def by_pycocotools(mask: np.ndarray) -> dict[str, object]:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def runs_pixel_by_pixel(mask: np.ndarray) -> list[int]:
    lengths, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


@st.composite
def crops(draw: st.DrawFn) -> tuple[MaskCrop, int, int]:
    """A window anywhere in an image of up to 70 x 70 pixels; often as high or as wide, empty, or
    of one line.
    """
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    h = draw(st.sampled_from([0, 1, height]) | st.integers(0, height))
    w = draw(st.sampled_from([0, 1, width]) | st.integers(0, width))
    y0 = draw(st.sampled_from([0, height - h]) | st.integers(0, height - h))
    x0 = draw(st.sampled_from([0, width - w]) | st.integers(0, width - w))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "full", "empty", "disc", "ring", "pixel"]))
    y, x = np.ogrid[:h, :w]
    radius = np.hypot((y - (h - 1) / 2) / max(h, 1), (x - (w - 1) / 2) / max(w, 1))
    pixels = {
        "noise": rng.random((h, w)) < rng.random(),
        "full": np.ones((h, w), np.bool_),
        "empty": np.zeros((h, w), np.bool_),
        "disc": radius <= 0.5,
        "ring": (radius <= 0.5) & (radius > 0.2),
        "pixel": np.arange(h * w).reshape(h, w) == rng.integers(max(h * w, 1)),
    }[kind]
    return MaskCrop(y0, x0, pixels), height, width


ONE = np.ones((1, 1), np.bool_)


@given(crops())
@example((MaskCrop(0, 0, ONE), 1, 1))
@example((MaskCrop(0, 0, ~ONE), 1, 1))
@example((MaskCrop(1, 1, np.empty((0, 0), np.bool_)), 1, 1))
@example((MaskCrop(0, 0, ONE), 5, 7))
@example((MaskCrop(4, 6, ONE), 5, 7))
@example((MaskCrop(0, 2, np.ones((5, 3), np.bool_)), 5, 7))  # runs that go on from column to column
@example((MaskCrop(0, 0, np.ones((1, 7), np.bool_)), 1, 7))  # ... in an image of one row
@example((MaskCrop(0, 0, np.ones((5, 7), np.bool_)), 5, 7))
@settings(deadline=None, max_examples=500)
def test_an_encoded_crop_is_byte_for_byte_what_pycocotools_makes_of_the_full_mask(
    drawn: tuple[MaskCrop, int, int],
) -> None:
    crop, height, width = drawn
    assert encode(crop, height, width) == by_pycocotools(full_mask(crop, height, width))


@given(crops())
@settings(deadline=None, max_examples=200)
def test_the_runs_of_an_encoding_add_up_to_the_image_and_rebuild_the_mask(
    drawn: tuple[MaskCrop, int, int],
) -> None:
    crop, height, width = drawn
    lengths = decode_runs(encode(crop, height, width)["counts"])
    assert sum(lengths) == height * width
    rebuilt = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(width, height).T
    np.testing.assert_array_equal(rebuilt, full_mask(crop, height, width))


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_compressed_runs_are_read_as_pycocotools_writes_them(mask: np.ndarray) -> None:
    assert decode_runs(str(by_pycocotools(mask)["counts"])) == runs_pixel_by_pixel(mask)


def test_a_mirrored_view_is_encoded_like_its_copy() -> None:
    pixels = np.random.default_rng(3).random((9, 14)) < 0.4
    mirrored = pixels[:, ::-1]  # what the flip at test time keeps
    assert encode(MaskCrop(2, 5, mirrored), 20, 30) == encode(
        MaskCrop(2, 5, mirrored.copy()), 20, 30
    )


def test_an_encoding_is_plain_json() -> None:
    encoded = encode(MaskCrop(2, 5, np.ones((3, 4), np.bool_)), 20, 30)
    assert json.loads(json.dumps(encoded)) == encoded


def test_a_small_mask_in_a_large_image_takes_the_memory_of_its_window() -> None:
    height, width = 2500, 2000
    crop = MaskCrop(1200, 900, np.random.default_rng(0).random((40, 30)) < 0.5)
    encode(crop, height, width)  # what is allocated once is not counted
    tracemalloc.start()
    try:
        encoded = encode(crop, height, width)
        peak = tracemalloc.get_traced_memory()[1]
        full = full_mask(crop, height, width)
        peak_of_full = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert encoded == by_pycocotools(full)
    assert peak < 100_000
    assert peak_of_full > height * width, "an array must be seen, or this test says nothing"


def test_the_longest_runs_of_an_encoding_can_be_read() -> None:
    # Runs of 32 bits, the most that pycocotools holds, with the largest differences up and down.
    lengths = [0, 1, 2**32 - 1, 2**32 - 1, 0, 0, 2**32 - 1]
    encoded = coco_mask.frPyObjects({"size": [2**16, 2**16], "counts": lengths}, 2**16, 2**16)
    assert decode_runs(encoded["counts"].decode()) == lengths


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ("zz", "holds 'z'"),
        ("5 5", "holds ' '"),
        ("5é", "holds 'é'"),
        ("5T", "ends inside a number"),
        ("o" * 1_000_000 + "0", "holds a number of over 7 characters"),
    ],
)
def test_text_that_pycocotools_would_not_write_is_refused(counts: str, told: str) -> None:
    with pytest.raises(
        DataError, match=f"^counts must be text as pycocotools writes it, and {told}$"
    ):
        decode_runs(counts)
