from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_iou

from core.config import ModelConfig, PredictConfig
from core.labels import label_maps as masks
from core.network.build import build_detector
from core.network.detector import Detector
from core.prediction.detect import about_full_tiles, combine, predict, suppress
from core.prediction.tiles import Window, merge_tiles, tiles
from core.prediction.views import View, look_at_each
from core.sample import Detections, MaskCrop


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


seeds = st.integers(0, 2**32 - 1)


def canvas(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.bool_)
    h, w = crop.pixels.shape
    full[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return full


def assert_equal(one: Detections, other: Detections) -> None:
    assert np.array_equal(one.boxes_N4, other.boxes_N4)
    assert np.array_equal(one.labels_N, other.labels_N)
    assert np.array_equal(one.scores_N, other.scores_N)
    for a, b in zip(one.masks, other.masks, strict=True):
        assert (a.y0, a.x0) == (b.y0, b.x0)
        assert np.array_equal(a.pixels, b.pixels)


@settings(deadline=None)
@given(seeds, st.integers(0, 40), st.sampled_from([0.2, 0.5, 0.9]), st.integers(1, 50))
def test_suppression_is_that_of_torchvision_by_class(
    seed: int, count: int, iou: float, most: int
) -> None:
    rng = np.random.default_rng(seed)
    boxes_N4 = rng.integers(0, 20, (count, 4)).astype(np.float32)
    boxes_N4[:, 2:] += boxes_N4[:, :2] + 1
    scores_N = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    crops = tuple(MaskCrop(index, 0, np.ones((1, 1), np.bool_)) for index in range(count))
    given_ = Detections(boxes_N4, rng.integers(1, 4, count), scores_N, crops)
    kept = suppress(given_, iou, most)
    expected = batched_nms(*map(torch.from_numpy, (boxes_N4, scores_N, given_.labels_N)), iou)[
        :most
    ].tolist()
    assert [crop.y0 for crop in kept.masks] == expected
    assert_equal(suppress(kept, iou, most), kept)


def build(**predict_settings: Any) -> tuple[Detector, PredictConfig]:
    config = ModelConfig(
        backbone="resnet18",
        weights="none",
        image_min_side=64,
        image_max_side=96,
        proposals_test=16,
    )
    predict_config = PredictConfig(
        **{"score_threshold": 0.1, "max_detections": 8} | predict_settings
    )
    torch.manual_seed(0)
    return build_detector(config, 4, None, predict_config).eval(), predict_config


def an_image(height: int, width: int) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image.flags.writeable = False  # as it comes out of Ray's object store
    return image


def check(found: Detections, height: int, width: int, config: PredictConfig) -> None:
    """What every prediction promises."""
    assert len(found) > 0
    assert (found.boxes_N4.dtype, found.labels_N.dtype, found.scores_N.dtype) == (
        np.float32,
        np.int64,
        np.float32,
    )
    assert (np.diff(found.scores_N) <= 0).all()
    assert (found.scores_N > config.score_threshold).all()
    assert (found.boxes_N4 >= 0).all()
    assert (
        found.boxes_N4 <= np.array([width, height, width, height]) + 1e-4
    ).all()  # rounded when resized
    for crop in found.masks:
        assert crop.area > 0
        assert 0 <= crop.y0 <= crop.y0 + crop.pixels.shape[0] <= height
        assert 0 <= crop.x0 <= crop.x0 + crop.pixels.shape[1] <= width
    same = found.labels_N[:, None] == found.labels_N
    iou = box_iou(*(torch.from_numpy(found.boxes_N4),) * 2).numpy()
    assert (iou[same & ~np.eye(len(found), dtype=np.bool_)] <= config.nms_iou + 1e-5).all()


def test_a_prediction_is_the_networks_with_its_masks_pasted() -> None:
    model, config = build()
    image = an_image(70, 100)
    found = predict(model, image, config)
    check(found, 70, 100, config)
    assert len(found) <= config.max_detections
    raw = model.detect([torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255])[0]
    crops = masks.paste(raw.mask_probs_NMM, raw.boxes_N4, 70, 100)
    filled = np.array([crop.area > 0 for crop in crops])
    expected = Detections(
        raw.boxes_N4.numpy()[filled],
        raw.labels_N.numpy()[filled],
        raw.scores_N.numpy()[filled],
        tuple(crop for crop in crops if crop.area),
    )
    assert_equal(found, expected)


@pytest.mark.parametrize("flips", [False, True])
def test_a_tile_that_holds_the_image_changes_no_bit(flips: bool) -> None:
    model, config = build(flips=flips)
    image = an_image(60, 80)
    assert_equal(predict(model, image, config, tile=80), predict(model, image, config))


def test_with_flips_the_mirrored_image_has_the_mirrored_detections() -> None:
    model, config = build(flips=True)
    image = an_image(64, 91)
    found, mirrored = predict(model, image, config), predict(model, image[:, ::-1], config)
    check(found, 64, 91, config)
    assert np.array_equal(found.scores_N, mirrored.scores_N)
    assert np.array_equal(found.labels_N, mirrored.labels_N)
    for box, other, crop, other_crop in zip(
        found.boxes_N4, mirrored.boxes_N4, found.masks, mirrored.masks, strict=True
    ):
        assert box == pytest.approx([91 - other[2], other[1], 91 - other[0], other[3]], abs=1e-4)
        assert np.array_equal(canvas(crop, 64, 91), canvas(other_crop, 64, 91)[:, ::-1])
    without = predict(model, image, config.model_copy(update={"flips": False}))
    assert not np.array_equal(found.scores_N, without.scores_N)


@pytest.mark.parametrize("flips", [False, True])
def test_tiles_are_predicted_alone_and_merged(flips: bool) -> None:
    model, config = build(flips=flips, tile=64)
    image = an_image(64, 112)
    found = predict(model, image, config)
    check(found, 64, 112, config)
    alone = config.model_copy(update={"tile": 0})
    windows, pieces = tiles(64, 112, 64), []
    assert len(windows) == 2
    for window in windows:
        piece = predict(model, image[window.y0 : window.y1, window.x0 : window.x1], alone)
        crops = tuple(MaskCrop(c.y0 + window.y0, c.x0 + window.x0, c.pixels) for c in piece.masks)
        corner = np.array([window.x0, window.y0] * 2, np.float32)
        pieces.append(Detections(piece.boxes_N4 + corner, piece.labels_N, piece.scores_N, crops))
    assert_equal(found, suppress(merge_tiles(windows, pieces, 64, 112), config.nms_iou))


@pytest.mark.parametrize("flips", [False, True])
def test_the_cap_is_that_of_a_tile_and_an_image_says_in_how_many_it_was_reached(
    flips: bool,
) -> None:
    model, config = build(flips=flips, tile=64, max_detections=3)
    image = an_image(64, 256)
    found = predict(model, image, config)
    windows = tiles(64, 256, 64)
    alone = config.model_copy(update={"tile": 0})
    of_tile = [predict(model, image[one.y0 : one.y1, one.x0 : one.x1], alone) for one in windows]
    assert [len(one) for one in of_tile] == [3] * len(windows)
    assert [one.full_tiles for one in of_tile] == [1] * len(windows)
    assert found.full_tiles == len(windows)
    assert len(found) > 3
    model, config = build(flips=flips, tile=64, max_detections=1000)
    assert predict(model, image, config).full_tiles == 0


def test_a_detection_without_a_mask_took_a_place_under_the_cap_all_the_same() -> None:
    one = MaskCrop(0, 0, np.ones((1, 1), np.bool_))
    boxes_N4 = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], np.float32)
    crops = (one, MaskCrop(0, 0, np.zeros((0, 0), np.bool_)), one)
    seen = Detections(boxes_N4, np.array([1, 1, 1]), np.array([0.9, 0.8, 0.1], np.float32), crops)
    for most, full in ((1, 1), (2, 1), (3, 0)):
        config = PredictConfig(score_threshold=0.5, max_detections=most)
        found = combine([View(Window(0, 0, 6, 6), seen, None)], config, 6, 6)
        assert (len(found), found.full_tiles) == (1, full)


def test_a_cap_that_was_reached_is_one_sentence_with_the_way_out() -> None:
    assert about_full_tiles([0, 0], 400, "--max-detections") is None
    assert (
        about_full_tiles([1, 0, 1], 400, "--max-detections")
        == "In 2 of 3 images as many instances were found as predict.max_detections keeps of a tile"
        " (400), so more may be there; to keep them raise --max-detections"
    )
    told = about_full_tiles([5], 10_000, "--max-detections")
    assert told is not None
    assert told.startswith("In 1 of 1 image, 5 tiles of them,")
    assert told.endswith("to keep them make the tiles smaller (predict.tile)")


def test_tiles_have_the_side_of_a_crop_unless_a_setting_names_another() -> None:
    model, config = build()
    image = an_image(64, 112)
    assert_equal(
        predict(model, image, config, tile=64),
        predict(model, image, config.model_copy(update={"tile": 64}), tile=90),
    )


def test_an_image_in_which_nothing_is_found_has_no_detections() -> None:
    model, config = build(score_threshold=0.999, flips=True)
    assert len(predict(model, an_image(60, 130), config, tile=64)) == 0


def test_a_model_that_was_built_with_other_settings_is_refused() -> None:
    model, config = build()
    with pytest.raises(AssertionError, match="other settings of predict"):
        predict(model, an_image(64, 64), config.model_copy(update={"score_threshold": 0.3}))


@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize(
    "stricter",
    [
        {"score_threshold": 0.3},
        {"max_detections": 3},
        {"flips": False},
        {"score_threshold": 0.21, "max_detections": 5},
    ],
)
def test_a_stricter_setting_gives_what_it_would_have_given_from_the_start(
    tile: int, stricter: dict[str, Any]
) -> None:
    loose, config = build(flips=True, tile=tile, max_detections=16)
    image = an_image(64, 112)
    strict, strict_config = build(**{"flips": True, "tile": tile, "max_detections": 16} | stricter)
    expected = predict(strict, image, strict_config)
    (views,) = look_at_each(loose, [(None, image)], config, lambda _, views: views)
    found = combine(views, strict_config, 64, 112)
    assert not np.array_equal(expected.scores_N, predict(loose, image, config).scores_N)
    assert np.array_equal(found.boxes_N4, expected.boxes_N4)
    assert np.array_equal(found.labels_N, expected.labels_N)
    assert np.array_equal(found.scores_N, expected.scores_N)
    assert found.full_tiles == expected.full_tiles
    for one, other in zip(
        found.masks, expected.masks, strict=True
    ):  # the network's batches differ, so its rounding
        assert np.count_nonzero(canvas(one, 64, 112) ^ canvas(other, 64, 112)) <= 2
