from collections.abc import Sequence
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
from core.prediction.detect import about_full_tiles, combine, predict
from core.prediction.merge import suppress_overlapping
from core.prediction.symmetries import SYMMETRIES, Symmetry
from core.prediction.tiles import Window, merge_tiles, tiles
from core.prediction.views import Seen, View, look_at_each, loosest
from core.sample import Detections, MaskCrop
from tests.core.prediction.blocks import Block, Blocks, picture, rows
from tests.core.scenes import assert_same_detections

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


seeds = st.integers(0, 2**32 - 1)


def canvas(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.bool_)
    h, w = crop.pixels.shape
    full[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return full


@settings(deadline=None)
@given(seeds, st.integers(0, 40), st.sampled_from([0.2, 0.5, 0.9]))
def test_suppression_is_that_of_torchvision_by_class(seed: int, count: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes_N4 = rng.integers(0, 20, (count, 4)).astype(np.float32)
    boxes_N4[:, 2:] += boxes_N4[:, :2] + 1
    scores_N = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    crops = tuple(MaskCrop(index, 0, np.ones((1, 1), np.bool_)) for index in range(count))
    given_ = Detections(boxes_N4, rng.integers(1, 4, count), scores_N, crops)
    kept = suppress_overlapping(given_, iou)
    expected = batched_nms(*map(torch.from_numpy, (boxes_N4, scores_N, given_.labels_N)), iou)
    assert [crop.y0 for crop in kept.masks] == expected.tolist()
    assert_same_detections(suppress_overlapping(kept, iou), kept)


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
    found = predict([model], image, config)
    check(found, 70, 100, config)
    assert len(found) <= config.max_detections
    raw = model.detect([torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255])[0]
    crops = masks.paste_masks(raw.mask_probs_NMM, raw.boxes_N4, 70, 100)
    filled = np.array([crop.area > 0 for crop in crops])
    expected = Detections(
        raw.boxes_N4.numpy()[filled],
        raw.labels_N.numpy()[filled],
        raw.scores_N.numpy()[filled],
        tuple(crop for crop in crops if crop.area),
    )
    assert_same_detections(found, expected)


@pytest.mark.parametrize("flips", [False, True])
def test_a_tile_that_holds_the_image_changes_no_bit(flips: bool) -> None:
    model, config = build(flips=flips)
    image = an_image(60, 80)
    assert_same_detections(
        predict([model], image, config, tile=80), predict([model], image, config)
    )


def test_with_flips_the_mirrored_image_has_the_mirrored_detections() -> None:
    model, config = build(flips=True)
    image = an_image(64, 91)
    found, mirrored = predict([model], image, config), predict([model], image[:, ::-1], config)
    check(found, 64, 91, config)
    assert np.array_equal(found.scores_N, mirrored.scores_N)
    assert np.array_equal(found.labels_N, mirrored.labels_N)
    for box, other, crop, other_crop in zip(
        found.boxes_N4, mirrored.boxes_N4, found.masks, mirrored.masks, strict=True
    ):
        assert box == pytest.approx([91 - other[2], other[1], 91 - other[0], other[3]], abs=1e-4)
        assert np.array_equal(canvas(crop, 64, 91), canvas(other_crop, 64, 91)[:, ::-1])
    without = predict([model], image, config.model_copy(update={"flips": False}))
    assert not np.array_equal(found.scores_N, without.scores_N)


@pytest.mark.parametrize("flips", [False, True])
def test_tiles_are_predicted_alone_and_merged(flips: bool) -> None:
    model, config = build(flips=flips, tile=64)
    image = an_image(64, 112)
    found = predict([model], image, config)
    check(found, 64, 112, config)
    alone = config.model_copy(update={"tile": 0})
    windows, pieces = tiles(64, 112, 64), []
    assert len(windows) == 2
    for window in windows:
        piece = predict([model], image[window.y0 : window.y1, window.x0 : window.x1], alone)
        crops = tuple(MaskCrop(c.y0 + window.y0, c.x0 + window.x0, c.pixels) for c in piece.masks)
        corner = np.array([window.x0, window.y0] * 2, np.float32)
        pieces.append(Detections(piece.boxes_N4 + corner, piece.labels_N, piece.scores_N, crops))
    assert_same_detections(
        found, suppress_overlapping(merge_tiles(windows, pieces, 64, 112), config.nms_iou)
    )


@pytest.mark.parametrize("flips", [False, True])
def test_the_cap_is_that_of_a_tile_and_an_image_says_in_how_many_it_was_reached(
    flips: bool,
) -> None:
    model, config = build(flips=flips, tile=64, max_detections=3)
    image = an_image(64, 256)
    found = predict([model], image, config)
    windows = tiles(64, 256, 64)
    alone = config.model_copy(update={"tile": 0})
    of_tile = [predict([model], image[one.y0 : one.y1, one.x0 : one.x1], alone) for one in windows]
    assert [len(one) for one in of_tile] == [3] * len(windows)
    assert [one.full_tiles for one in of_tile] == [1] * len(windows)
    assert found.full_tiles == len(windows)
    assert len(found) > 3
    model, config = build(flips=flips, tile=64, max_detections=1000)
    assert predict([model], image, config).full_tiles == 0


def test_a_detection_without_a_mask_took_a_place_under_the_cap_all_the_same() -> None:
    one = MaskCrop(0, 0, np.ones((1, 1), np.bool_))
    boxes_N4 = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], np.float32)
    crops = (one, MaskCrop(0, 0, np.zeros((0, 0), np.bool_)), one)
    seen = Detections(boxes_N4, np.array([1, 1, 1]), np.array([0.9, 0.8, 0.1], np.float32), crops)
    for most, full in ((1, 1), (2, 1), (3, 0)):
        config = PredictConfig(score_threshold=0.5, max_detections=most)
        looks = {View(Window(0, 0, 6, 6)): seen}
        found = combine(Seen((6, 6), 0, 1, looks), config)
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
    assert_same_detections(
        predict([model], image, config, tile=64),
        predict([model], image, config.model_copy(update={"tile": 64}), tile=90),
    )


def test_an_image_in_which_nothing_is_found_has_no_detections() -> None:
    model, config = build(score_threshold=0.999, flips=True)
    assert len(predict([model], an_image(60, 130), config, tile=64)) == 0


def test_a_model_that_was_built_with_other_settings_is_refused() -> None:
    model, config = build()
    with pytest.raises(AssertionError, match="other settings of predict"):
        predict([model], an_image(64, 64), config.model_copy(update={"score_threshold": 0.3}))


@pytest.mark.parametrize(
    ("tile", "stricter"),
    [
        (0, {"score_threshold": 0.3}),
        (64, {"max_detections": 3}),
        (64, {"flips": False}),
        (0, {"score_threshold": 0.21, "max_detections": 5}),
        (0, {"views": "all", "max_detections": 7}),
        (0, {"scales": "0.75,1.25", "merge": "weighted", "agreement": 0.5}),
        (64, {"overlap": 0.6, "merge": "soft_nms"}),
    ],
)
def test_a_stricter_setting_gives_what_it_would_have_given_from_the_start(
    tile: int, stricter: dict[str, Any]
) -> None:
    loose, config = build(flips=True, tile=tile, max_detections=16)
    image = an_image(64, 112)
    strict, strict_config = build(**{"flips": True, "tile": tile, "max_detections": 16} | stricter)
    expected = predict([strict], image, strict_config)
    both = [config, strict_config]
    (seen,) = look_at_each([loose], [(None, image)], both, lambda _, seen: seen)
    found = combine(seen, strict_config)
    assert not np.array_equal(expected.scores_N, predict([loose], image, config).scores_N)
    assert np.array_equal(found.boxes_N4, expected.boxes_N4)
    assert np.array_equal(found.labels_N, expected.labels_N)
    assert np.array_equal(found.scores_N, expected.scores_N)
    assert found.full_tiles == expected.full_tiles
    for one, other in zip(
        found.masks, expected.masks, strict=True
    ):  # the network's batches differ, so its rounding
        assert np.count_nonzero(canvas(one, 64, 112) ^ canvas(other, 64, 112)) <= 2


# Views: a detector that cannot err is the oracle


blocks_apart = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 4), st.integers(5, 16), st.integers(5, 16),
        st.integers(1, 3), st.integers(20, 255),
    ),
    max_size=12,
    unique_by=lambda one: one[:2],
)  # fmt: skip
"""Blocks in cells of a grid of 24 pixels: row, column, height, width, class and score."""


def in_their_cells(given_: Sequence[tuple[int, ...]], pitch: int = 24) -> list[Block]:
    return [(4 + pitch * y, 4 + pitch * x, h, w, c, s) for y, x, h, w, c, s in given_]


def what_is_there(blocks: Sequence[Block]) -> list[tuple[float, ...]]:
    return sorted((s / 256, c, x, y, x + w, y + h) for y, x, h, w, c, s in blocks)


@settings(deadline=None, max_examples=30)
@given(blocks_apart, st.sampled_from(["mirror", "flips", "all"]), st.sampled_from(["1", "0.5,1,2"]),
       st.sampled_from(["nms", "weighted"]), st.sampled_from([0.0, 1.0]))  # fmt: skip
def test_what_a_symmetric_detector_sees_in_many_views_is_what_it_sees_in_one(
    given_: list[tuple[int, ...]], views: str, scales: str, way: str, agreement: float
) -> None:
    blocks = in_their_cells(given_)
    config = PredictConfig.model_validate(
        {"views": views, "scales": scales, "merge": way, "agreement": agreement}
    )
    image = picture(100, 124, blocks)
    assert rows(predict([Blocks(config)], image, config)) == what_is_there(blocks)


@settings(deadline=None, max_examples=30)
@given(blocks_apart, st.sampled_from(SYMMETRIES["all"]),
       st.sampled_from(["nms", "soft_nms", "weighted"]), st.sampled_from([0, 64]))  # fmt: skip
def test_all_views_of_a_picture_through_a_symmetry_have_its_detections_through_it(
    given_: list[tuple[int, ...]], symmetry: Symmetry, way: str, tile: int
) -> None:
    image = picture(100, 124, in_their_cells(given_))
    config = PredictConfig.model_validate({"views": "all", "merge": way, "tile": tile})
    model = Blocks(config)
    there = predict([model], image, config)
    seen = symmetry.of(image)
    back = symmetry.undo(predict([model], seen, config), *seen.shape[:2])
    assert rows(back) == rows(there)
    for one, other in zip(by_row(back), by_row(there), strict=True):
        # torchvision rounds the sides of a pasted mask down, in every frame.
        assert np.count_nonzero(canvas(one, 100, 124) ^ canvas(other, 100, 124)) <= 80


def by_row(found: Detections) -> list[MaskCrop]:
    keys = list(zip(found.scores_N.tolist(), found.boxes_N4.tolist(), strict=True))
    return [found.masks[row] for row in sorted(range(len(found)), key=lambda row: keys[row])]


@settings(deadline=None, max_examples=20)
@given(st.lists(blocks_apart, min_size=6, max_size=6), st.sampled_from(["none", "all"]),
       st.sampled_from(["nms", "soft_nms", "weighted"]), st.sampled_from([0.0, 0.25]))  # fmt: skip
def test_a_mosaic_has_the_detections_of_its_tiles_where_no_cell_crosses(
    of_tiles: list[list[tuple[int, ...]]], views: str, way: str, overlap: float
) -> None:
    """Two rows of three tiles of 128 pixels; with an overlap other tiles cut the cells too."""
    config = PredictConfig.model_validate(
        {"views": views, "merge": way, "tile": 128, "overlap": overlap}
    )
    model, expected, all_of_them = Blocks(config), [], []
    for number, given_ in enumerate(of_tiles):
        y, x = 128 * (number // 3), 128 * (number % 3)
        blocks = in_their_cells(given_)
        expected += [
            (score, label, x0 + x, y0 + y, x1 + x, y1 + y)
            for score, label, x0, y0, x1, y1 in rows(
                predict([model], picture(128, 128, blocks), config)
            )
        ]
        all_of_them += [(y + one[0], x + one[1], *one[2:]) for one in blocks]
    found = predict([model], picture(256, 384, all_of_them), config)
    if overlap == 0 or way != "soft_nms":  # whose leftovers may be cut, and become pieces
        assert rows(found) == sorted(expected)
    assert {*what_is_there(all_of_them)} <= {*rows(found)}


def test_all_cells_of_a_large_mosaic_come_back_or_its_full_tiles_are_named() -> None:
    cells: list[Block] = [
        (6 + 31 * y, 6 + 31 * x, 23, 23, 1 + (x + y) % 4, 100 + (7 * x + 3 * y) % 150)
        for y in range(66)
        for x in range(66)
    ]
    image = picture(2058, 2058, cells)
    config = PredictConfig(tile=512, max_detections=400)
    found = predict([Blocks(config)], image, config)
    assert len(found) == len(cells) == 4356
    assert rows(found) == what_is_there(cells)
    assert found.full_tiles == 0
    few = PredictConfig(tile=512, max_detections=200)
    cut = predict([Blocks(few)], image, few)
    assert len(cut) < 4356
    assert cut.full_tiles == len(tiles(2058, 2058, 512))
    assert about_full_tiles([cut.full_tiles], 200, "it") is not None


@settings(deadline=None, max_examples=30)
@given(blocks_apart, st.sampled_from(["0", "1", "2,0", "0,1,3"]), st.sampled_from(["none", "all"]),
       st.sampled_from([0, 64]))  # fmt: skip
def test_an_image_keeps_the_best_detections_of_each_class_up_to_its_cap(
    given_: list[tuple[int, ...]], caps: str, views: str, tile: int
) -> None:
    blocks = [(y, x, h, w, c, 20 + number) for number, (y, x, h, w, c, _) in enumerate(given_)]
    image = picture(100, 124, in_their_cells(blocks))
    free = PredictConfig.model_validate({"views": views, "tile": tile})
    capped = free.model_copy(update={"class_caps": caps})
    everything = rows(predict([Blocks(free)], image, free))
    expected = []
    for label in (1, 2, 3):
        of_class = [row for row in everything if row[1] == label]
        expected += of_class[-capped.cap_of(label) :]  # the best come last; a cap of 0 keeps all
    assert rows(predict([Blocks(capped)], image, capped)) == sorted(expected)


def test_every_view_is_looked_at_once_whatever_how_many_settings_want_it() -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"flips": True}, {"views": "all"}, {"scales": "1,1.5"}, {"tile": 40},
        {"tile": 40, "overlap": 0.5}, {"merge": "weighted", "views": "flips"},
        {"score_threshold": 0.3}, {"max_detections": 1000, "agreement": 0.5, "views": "all"},
    ]  # fmt: skip
    configs = [PredictConfig.model_validate(kind) for kind in kinds]
    model = Blocks(loosest(configs))
    image = picture(60, 90, [(8, 8, 9, 9, 1, 200)])
    (seen,) = look_at_each([model], [(None, image)], configs, lambda _, seen: seen)
    pieces = {window for overlap in (0.25, 0.5) for window in tiles(60, 90, 40, overlap)}
    assert len(model.looks) == len(seen.found) == 8 + 1 + len(pieces)
    for kind, config in zip(kinds, configs, strict=True):
        alone = Blocks(config)
        assert rows(predict([alone], image, config)) == rows(combine(seen, config))
        windows = len(tiles(60, 90, config.tile, config.overlap))
        looks = {"none": 1, "flips": 4, "all": 8}[config.views] * (1 + config.flips)
        assert len(alone.looks) == windows * looks * len(config.factors), kind
    assert {scale for _, scale in model.looks} == {1.0, 1.5}


def test_networks_that_predict_together_are_views_of_one_image() -> None:
    config = PredictConfig(agreement=1.0)
    blocks = [(8, 8, 9, 9, 1, 100), (8, 40, 9, 9, 1, 60)]
    image = picture(60, 90, blocks)
    sure, unsure = Blocks(config, brighter=0.25), Blocks(config)
    both = rows(predict([sure, unsure], image, config))
    assert (
        both == rows(predict([unsure, sure], image, config)) == rows(predict([sure], image, config))
    )
    blind = Blocks(config, brighter=-0.3)  # sees only the brighter of the two
    half = predict([unsure, blind], image, config)
    assert half.scores_N.tolist() == pytest.approx([100 / 256, 60 / 256 / 2])


def test_a_scale_is_a_factor_on_the_size_that_the_network_sees() -> None:
    model, config = build(scales="0.5,1,1.5")
    image = an_image(64, 80)
    seen: list[tuple[int, ...]] = []
    hook = model.backbone.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape[2:]))
    )
    check(predict([model], image, config), 64, 80, config)
    hook.remove()
    assert seen == [(32, 64), (64, 96), (96, 128)]
    assert seen == [model.seen_size(64, 80, scale) for scale in config.factors]
    alone = PredictConfig(score_threshold=0.1, max_detections=8, scales="1.5")
    larger, _ = build()
    larger.transform.min_side, larger.transform.max_side = 96, 144
    assert_same_detections(
        predict([model], image, alone), predict([larger], image, config_of(alone))
    )


def config_of(config: PredictConfig) -> PredictConfig:
    return config.model_copy(update={"scales": "1"})
