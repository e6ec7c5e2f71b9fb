"""Laws of the settings that are read off data; the oracle is the network's own anchors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from core.config import AUTO, AUTO_SETTINGS, MOST_DETECTIONS, SETTINGS, TrialConfig, Value
from core.data.measure import SIDES, Measurement, measure
from core.data.synthetic import make_cells
from core.fitting import (
    ANCHOR_SCALES,
    CROPS_PAY,
    ENLARGED,
    FITTING_RULES,
    GOOD_CELL,
    LEAST_CELL,
    MOST_SEEN_PIXELS,
    PLACES_PER_AXIS,
    READ_OFF_DATA,
    SIDE_STEP,
    Circumstances,
    fitted_share,
    recommended,
    seen_cell,
)
from core.network.anchors import ANCHOR_RATIOS, ANCHOR_SIDES, STRIDES, Anchors
from core.network.resizing import MULTIPLE, network_size

CONSEP = Measurement.from_json(json.loads((Path(__file__).parent / "consep.json").read_text()))
"""CoNSeP's 108 training crops of 500 pixels, 16,187 instances."""


def data_of(
    image: tuple[int, int], cells: list[tuple[int, int]], images: int = 1, crowded: int = 0
) -> Measurement:
    return Measurement(
        (image,) * images,
        tuple((*image, *cell) for cell in cells),
        crowded,
        (crowded,) * len(SIDES),
    )


def config_of(**changed: Value) -> TrialConfig:
    return TrialConfig.from_settings({name.replace("__", "."): v for name, v in changed.items()})


def on_tissue(side: int, cell: float, images: int = 20) -> Measurement:
    """Images of `side` pixels with round cells whose sizes scatter as nuclei do."""
    rng = np.random.default_rng(0)
    sides = np.maximum(1, np.round(cell * np.exp(0.3 * rng.normal(size=(500, 1))))).astype(int)
    sides = np.maximum(1, np.round(sides * np.exp(0.15 * rng.normal(size=(500, 2))))).astype(int)
    return data_of((side, side), [(h, w) for h, w in sides.tolist()], images, 300)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(3, 90),
    st.integers(3, 90),
    st.sampled_from([side for side in ANCHOR_SCALES if side < 2]),
)
def test_the_share_is_that_of_the_places_at_which_the_networks_anchors_fit(
    height: int, width: int, scale: float
) -> None:
    """Brute force: the box at each place of a grid's period, and all anchors of an image."""
    levels = [torch.zeros(1, 1, 384 // stride, 384 // stride) for stride in STRIDES]
    anchors = Anchors([side * scale for side in ANCHOR_SIDES], ANCHOR_RATIOS)((384, 384), levels)
    starts = [128 + place * STRIDES[-1] / PLACES_PER_AXIS for place in range(PLACES_PER_AXIS)]
    boxes = torch.tensor(
        [(x, y, x + width, y + height) for y in starts for x in starts], dtype=torch.float64
    )
    best = box_iou(boxes, anchors.double()).max(dim=1).values
    assume(bool(((best - 0.5).abs() > 1e-9).all()))
    config = config_of(model__image_min_side=384, model__anchor_scale=scale)
    found = fitted_share(data_of((384, 384), [(height, width)]), config)
    assert found == pytest.approx(float((best >= 0.5).double().mean()), abs=1e-12)


def test_a_cell_of_an_anchors_size_fits_anywhere_and_one_of_a_quarter_nowhere() -> None:
    config = config_of(model__image_min_side=640, model__image_max_side=640)
    assert fitted_share(data_of((640, 640), [(64, 64), (45, 90)]), config) == 1
    assert fitted_share(data_of((640, 640), [(8, 8)]), config) == 0
    assert fitted_share(data_of((640, 640), []), config) == 0


@given(
    st.lists(st.tuples(st.integers(2, 80), st.integers(2, 80)), min_size=1, max_size=5),
    st.integers(2, 4),
    st.sampled_from([0, 64, 128]),
)
def test_images_and_crops_of_twice_the_size_are_seen_alike(
    cells: list[tuple[int, int]], times: int, crop: int
) -> None:
    one = data_of((256, 192), cells)
    other = data_of((256 * times, 192 * times), [(h * times, w * times) for h, w in cells])
    small = config_of(data__crop=crop, model__image_min_side=384, model__image_max_side=512)
    large = small.changed({"data.crop": crop * times})
    assert fitted_share(one, small) == pytest.approx(fitted_share(other, large))
    assert seen_cell(one, small) == pytest.approx(seen_cell(other, large))


def test_of_the_scales_of_anchors_the_chosen_one_fits_as_many_as_any() -> None:
    chosen, _ = recommended(CONSEP, TrialConfig())
    shares = {
        scale: fitted_share(CONSEP, chosen.changed({"model.anchor_scale": scale}))
        for scale in ANCHOR_SCALES
    }
    assert shares[chosen.model.anchor_scale] >= max(shares.values()) - 0.01


def test_on_consep_cells_are_enlarged_to_800_to_1000_pixels_with_anchors_halved() -> None:
    """As measured on its tissue: 800 to 1,000 pixels and anchors x 0.5 score best."""
    chosen, why = recommended(CONSEP, TrialConfig())
    assert chosen.data.crop == 0
    assert 800 <= chosen.model.image_min_side <= 1024
    assert chosen.model.anchor_scale == 0.5
    assert fitted_share(CONSEP, chosen) > 0.9 > fitted_share(CONSEP, TrialConfig())
    assert CONSEP.crowded < chosen.predict.max_detections < 3 * CONSEP.crowded
    assert set(why) == READ_OFF_DATA


def test_on_large_images_of_small_cells_crops_are_seen_enlarged() -> None:
    data = on_tissue(2000, 23)
    assert fitted_share(data, TrialConfig()) == pytest.approx(0, abs=0.01)
    chosen, _ = recommended(data, TrialConfig())
    assert 512 <= chosen.data.crop <= 1024
    assert LEAST_CELL <= seen_cell(data, chosen) <= 60
    assert fitted_share(data, chosen) > 0.9


def test_on_large_images_of_large_cells_whole_images_shrink() -> None:
    data = on_tissue(2000, 120)
    chosen, _ = recommended(data, TrialConfig())
    assert chosen.data.crop == 0
    assert chosen.model.image_min_side < 1000
    assert fitted_share(data, chosen) > 0.9


def test_on_the_synthetic_cells_small_images_stay_small() -> None:
    data = measure(make_cells())
    chosen, _ = recommended(data, TrialConfig())
    assert chosen.data.crop == 0
    assert 128 <= chosen.model.image_min_side <= 400
    assert fitted_share(data, chosen) > 0.9


measurements = st.builds(
    lambda image, cells, crowded: data_of(image, cells, 3, crowded),
    st.tuples(st.integers(20, 4000), st.integers(20, 4000)),
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=6),
    st.integers(0, 20_000),
)
given_settings = st.fixed_dictionaries(
    {},
    optional={
        "data.crop": st.sampled_from([0, 64, 512, AUTO]),
        "model.image_min_side": st.sampled_from([32, 256, 800, AUTO]),
        "model.image_max_side": st.sampled_from([800, 1333, AUTO]),
        "model.anchor_scale": st.sampled_from([0.05, 1.0, AUTO]),
        "model.proposals_train": st.sampled_from([100, AUTO]),
        "model.proposals_test": st.sampled_from([100, AUTO]),
        "predict.max_detections": st.sampled_from([100, AUTO]),
        "predict.tile": st.sampled_from([0, 512]),
        "optim.precision": st.sampled_from(["fp32", AUTO]),
    },
)


@settings(deadline=None)
@given(measurements, given_settings)
def test_resolved_settings_are_never_auto_and_what_was_given_stays(
    data: Measurement, asked: dict[str, Value]
) -> None:
    config = TrialConfig.from_settings(asked).resolved(Circumstances("fp32", data))
    assert config.open == ()
    assert AUTO not in [value for name, value in config.settings().items() if name in AUTO_SETTINGS]
    assert {**config.settings(), **asked} == {
        **config.settings(), **{name: v for name, v in asked.items() if v != AUTO},
        **{name: AUTO for name, v in asked.items() if v == AUTO},
    }  # fmt: skip
    # What is resolved again is resolved to the same: nothing else was open.
    assert config.resolved(Circumstances("bf16", data)) == config


@settings(deadline=None)
@given(measurements)
def test_no_image_is_enlarged_beyond_what_pays_and_caps_hold_the_crowd(data: Measurement) -> None:
    config, _ = recommended(data, TrialConfig())
    model = config.model
    assert model.image_min_side <= model.image_max_side
    cuts = [tuple(min(side, config.data.crop or side) for side in size) for size in data.images]
    seen = [network_size(*cut, model.image_min_side, model.image_max_side) for cut in cuts]
    if data.cells and model.image_min_side > MULTIPLE:
        assert np.percentile([math.prod(size) for size in seen], 95) <= MOST_SEEN_PIXELS
        smaller = config.changed({"model.image_min_side": model.image_min_side - SIDE_STEP})
        own = np.median([math.sqrt(height * width) for _, _, height, width in data.cells])
        assert seen_cell(data, smaller) < max(LEAST_CELL, min(GOOD_CELL, ENLARGED * own))
    for cap in (model.proposals_train, model.proposals_test, config.predict.max_detections):
        assert cap >= min(data.crowded if data.cells else 0, MOST_DETECTIONS)


def test_what_is_not_known_stays_open() -> None:
    config = TrialConfig.from_settings(dict.fromkeys(READ_OFF_DATA, AUTO))
    assert config.open == AUTO_SETTINGS
    assert set(config.resolved(Circumstances("fp32")).open) == READ_OFF_DATA
    assert config.resolved(Circumstances(None, CONSEP)).open == ("optim.precision",)


def test_circumstances_pass_through_json_unchanged() -> None:
    found = Circumstances("bf16", CONSEP)
    assert Circumstances.from_json(json.loads(json.dumps(found.to_json())), "bf16") == found
    assert Circumstances.from_json({}, None) == Circumstances()


def test_rules_that_studies_began_with_never_change() -> None:
    """Studies that began with them go on with them."""
    asked = TrialConfig.from_settings(dict.fromkeys(READ_OFF_DATA, AUTO))

    def resolved(data: Measurement, rules: int) -> list[Value]:
        settings = asked.resolved(Circumstances("fp32", data, rules)).settings()
        return [settings[name] for name in FITTING_RULES[rules]]

    large = Measurement(
        ((2000, 1500),),
        tuple((2000, 1500, side, side + 3) for side in range(10, 40)),
        3000,
        (400,) * len(SIDES),
    )
    for rules in (1, 2):
        assert resolved(CONSEP, rules) == [0, 1000, 1000, 0.5, 2500, 2500, 1000]
        assert resolved(large, rules) == [832, 1024, 1024, 0.5, 2000, 1600, 600]


def test_images_that_show_cells_nearly_large_enough_stay_whole() -> None:
    """CoNSeP's cells of 17 pixels are 27 long at a side of 800; crops of 448 would add 3 pixels."""
    asked = TrialConfig.from_settings({"data.crop": AUTO})
    assert asked.resolved(Circumstances("fp32", CONSEP, 1)).data.crop == 448
    assert asked.resolved(Circumstances("fp32", CONSEP)).data.crop == 0


@pytest.mark.parametrize("side", [600, 1000, 1500, 1600, 2000, 4000])
@pytest.mark.parametrize("cell", [10, 17, 23, 40])
def test_crops_show_cells_half_as_long_again_as_whole_images_would(side: int, cell: int) -> None:
    data = data_of((side, side), [(cell, cell)])
    for asked in (TrialConfig(), config_of(model__image_min_side=512)):
        config = asked.changed({"data.crop": AUTO}).resolved(Circumstances("fp32", data))
        whole = seen_cell(data, config.changed({"data.crop": 0}))
        if config.data.crop:
            assert seen_cell(data, config) >= max(LEAST_CELL, CROPS_PAY * whole)
        else:
            assert whole >= LEAST_CELL / CROPS_PAY


def test_data_without_an_instance_leave_the_defaults() -> None:
    config, _ = recommended(data_of((500, 500), []), TrialConfig())
    assert {name: config.settings()[name] for name in READ_OFF_DATA} == {
        name: SETTINGS[name] for name in READ_OFF_DATA
    }


@pytest.mark.parametrize(
    ("low", "high", "found"), [(AUTO, 600, (600, 600)), (2000, AUTO, (2000, 2000))]
)
def test_without_an_instance_a_side_that_is_given_bounds_the_other(
    low: Value, high: Value, found: tuple[int, int]
) -> None:
    asked = {"model.image_min_side": low, "model.image_max_side": high}
    model = TrialConfig.from_settings(asked).resolved(Circumstances(data=data_of((9, 9), []))).model
    assert (model.image_min_side, model.image_max_side) == found


def test_where_no_anchor_fits_with_any_scale_the_scale_stays_1() -> None:
    """Fibres overlap no anchor by half, so that all scales were equally good, the largest too."""
    chosen, why = recommended(data_of((500, 500), [(3, 60), (60, 3), (4, 70)]), TrialConfig())
    assert chosen.model.anchor_scale == 1
    assert why["model.anchor_scale"].why == "some anchor fits 0% of the instances at most"


def test_crops_are_no_larger_than_a_crop_may_be() -> None:
    chosen, _ = recommended(data_of((14000, 14000), [(270, 270)]), TrialConfig())
    assert chosen.data.crop == 8192
