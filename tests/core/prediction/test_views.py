"""Laws of looking at many images: batches and helpers change no detection, and keep the order."""

import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.config import ModelConfig, PredictConfig
from core.network.build import build_detector
from core.network.detector import Detector
from core.prediction import views
from core.prediction.detect import combine
from core.prediction.tiles import tiles
from core.prediction.views import Seen, look_at_each, look_at_samples
from core.sample import Detections, Sample
from tests.core.narrow import narrowed


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="resnet18",
        weights="none",
        image_min_side=64,
        image_max_side=128,
        proposals_test=16,
    )
    with narrowed():
        return build_detector(config, 4, None, CONFIG).eval()


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
CONFIG = PredictConfig(score_threshold=0.1, max_detections=4)
SIZES = [(64, 64), (64, 91), (64, 90), (60, 60), (91, 64)]


def an_image(number: int, height: int, width: int) -> NDArray[np.uint8]:
    image = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    image.flags.writeable = False  # as it comes out of Ray's object store
    return image


IMAGES = [an_image(number, *size) for number, size in enumerate(SIZES)]


def detections(model: Detector, config: PredictConfig, **how: Any) -> list[Detections]:
    def end(number: int, seen: Seen) -> tuple[int, Detections]:
        assert seen.size == SIZES[number]
        return number, combine(seen, config)

    numbered = list(look_at_each([model], enumerate(IMAGES), [config], end, **how))
    assert [number for number, _ in numbered] == list(range(len(IMAGES)))
    return [found for _, found in numbered]


def full(found: Detections, height: int, width: int) -> NDArray[np.bool_]:
    masks = np.zeros((len(found), height, width), np.bool_)
    for mask, crop in zip(masks, found.masks, strict=True):
        h, w = crop.pixels.shape
        mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return masks


KINDS = [{}, {"flips": True}, {"tile": 64, "flips": True}, {"views": "flips", "scales": "0.75,1"}]


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_batches_have_the_detections_of_one_at_a_time_to_rounding(
    model: Detector, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update=kind)
    alone = detections(model, config)
    sizes = spy(model, monkeypatch)
    together = detections(model, config, at_once=3)
    assert max(sizes) > 1
    for one, other, size in zip(together, alone, SIZES, strict=True):
        assert one.full_tiles == other.full_tiles
        # Two of nearly one score may change places.
        same_NN = np.abs(one.scores_N[:, None] - other.scores_N) < 1e-5
        same_NN &= one.labels_N[:, None] == other.labels_N
        same_NN &= (np.abs(one.boxes_N4[:, None] - other.boxes_N4) < 1e-2).all(axis=2)
        assert len(one) == len(other) > 0
        assert (same_NN.sum(axis=1) == 1).all()
        differ = full(one, *size) ^ full(other, *size)[same_NN.argmax(axis=1)]
        assert np.count_nonzero(differ) <= 1e-4 * differ.size


@pytest.mark.parametrize(("kind", "at_once"), [({}, 1), ({"tile": 64, "flips": True}, 3)])
def test_helpers_change_no_bit(model: Detector, kind: dict[str, Any], at_once: int) -> None:
    config = CONFIG.model_copy(update=kind)
    alone = detections(model, config, at_once=at_once)
    for helpers in (1, 3):
        for one, other, size in zip(
            detections(model, config, at_once=at_once, helpers=helpers), alone, SIZES, strict=True
        ):
            assert np.array_equal(one.boxes_N4, other.boxes_N4)
            assert np.array_equal(one.labels_N, other.labels_N)
            assert np.array_equal(one.scores_N, other.scores_N)
            assert np.array_equal(full(one, *size), full(other, *size))


def spy(
    model: Detector,
    monkeypatch: pytest.MonkeyPatch,
    most: int = 99,
    error: Exception = OUT_OF_MEMORY,
    failed: list[int] | None = None,
) -> list[int]:
    """The number of images of each call that did not exceed a memory of `most` images.

    failed   gets that of each call that did, and raised `error`
    """
    calls: list[int] = []
    detect = type(model).detect.__get__(model)
    monkeypatch.setattr(model, "room", sys.maxsize)

    def watched(images: Sequence[torch.Tensor], scale: float = 1.0) -> Any:
        if len(images) > most:
            if failed is not None:
                failed.append(len(images))
            raise error
        calls.append(len(images))
        return detect(images, scale)

    monkeypatch.setattr(model, "detect", watched)
    return calls


def test_a_batch_holds_images_of_one_size_for_the_network_and_no_more_pixels_than_allowed(
    model: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [model.seen_size(*size) for size in SIZES]
    assert seen == [(64, 64), (64, 96), (64, 96), (64, 64), (96, 64)]
    calls = spy(model, monkeypatch)
    detections(model, CONFIG, at_once=8)
    assert calls == [1, 2, 1, 1]
    calls.clear()
    tiled = CONFIG.model_copy(update={"tile": 60})
    detections(model, tiled, at_once=8)
    count = sum(len(tiles(*size, 60)) for size in SIZES)
    assert calls == [8] * (count // 8) + [count % 8] * bool(count % 8)
    calls.clear()
    monkeypatch.setattr(views, "PIXELS_AT_ONCE", 64 * 96)
    detections(model, CONFIG, at_once=8)
    assert calls == [1] * len(SIZES)


def test_on_a_cpu_the_network_looks_at_one_image_at_a_time(
    model: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spy(model, monkeypatch)
    detections(model, CONFIG)
    assert calls == [1] * len(SIZES)


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_batch_that_does_not_fit_the_memory_is_looked_at_in_smaller_ones_which_the_model_remembers(
    model: Detector, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    config = CONFIG.model_copy(update={"tile": 60})
    expected = detections(model, config, at_once=1)
    failed: list[int] = []
    calls = spy(model, monkeypatch, most, failed=failed)
    for _ in range(3):  # as of three epochs
        for one, other in zip(detections(model, config, at_once=8), expected, strict=True):
            assert one.scores_N == pytest.approx(other.scores_N, abs=1e-5)
    assert failed == [number for number in (8, 4, 2) if number > most]
    assert max(calls) == 8 // 2 ** len(failed)
    pictures = sum(len(tiles(*size, 60)) for size in SIZES)
    assert sum(calls) == 3 * pictures
    assert len(calls) <= 3 * -(-pictures // max(calls)) + len(failed)


def test_larger_pictures_are_as_many_at_once_as_have_the_pixels_that_fitted(
    model: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spy(model, monkeypatch)
    model.room = 2 * 64 * 96
    detections(model, CONFIG.model_copy(update={"tile": 30}), at_once=8)  # seen at 64 x 64
    assert max(calls) == 3
    calls.clear()
    model.room = 1
    detections(model, CONFIG, at_once=8)
    assert calls == [1] * len(SIZES)


@pytest.mark.parametrize(
    ("error", "halved"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("4 is not 5"), False),
    ],
)
def test_only_missing_memory_makes_batches_smaller(
    model: Detector, monkeypatch: pytest.MonkeyPatch, error: Exception, halved: bool
) -> None:
    calls = spy(model, monkeypatch, 2, error)
    config = CONFIG.model_copy(update={"tile": 60})
    with nullcontext() if halved else pytest.raises(type(error), match=str(error)):
        detections(model, config, at_once=8)
    assert bool(calls) is halved


def test_a_picture_that_does_not_fit_alone_raises_what_the_gpu_said(
    model: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"tile": 60})
    spy(model, monkeypatch, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        detections(model, config, at_once=8)


@pytest.mark.parametrize("helpers", [0, 2])
def test_what_is_raised_for_an_image_reaches_the_caller_as_it_is(
    model: Detector, helpers: int
) -> None:
    error = OSError(28, "No space left on device", "picture.png")

    def end(number: int, _: Seen) -> int:
        if number == 2:
            raise error
        return number

    got = []
    with pytest.raises(OSError, match="No space left") as raised:  # noqa: PT012
        for number in look_at_each([model], enumerate(IMAGES), [CONFIG], end, helpers=helpers):
            got.append(number)
    assert raised.value is error
    assert got == [0, 1]
    assert not [one for one in threading.enumerate() if one.name.startswith("helper")]


def test_samples_of_one_size_are_batches_and_the_results_are_in_the_order_of_the_samples(
    model: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [
        Sample(
            f"image {number}",
            image,
            np.zeros((1, *image.shape[:2]), np.uint16),
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
        )
        for number, image in enumerate(IMAGES)
    ]
    monkeypatch.setattr(views, "AT_ONCE", {"cpu": 8})
    calls = spy(model, monkeypatch)
    seen: list[int] = []
    names = look_at_samples(
        [model], samples, [CONFIG], lambda sample, _: sample.name, helpers=2, progress=seen.append
    )
    assert names == [sample.name for sample in samples]
    assert seen == list(range(1, len(samples) + 1))
    assert sorted(calls) == [1, 2, 2]
