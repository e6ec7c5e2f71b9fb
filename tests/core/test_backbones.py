"""Laws of the table of backbones: it says what torchvision's networks are."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from core.backbones import BACKBONES
from core.config import ModelConfig
from core.network.frozen_norm import FrozenBatchNorm
from core.network.pyramid import pyramid_backbone
from tests.core.activations import kept_bytes


def test_the_settings_know_the_backbones_of_the_table_and_no_others() -> None:
    assert ModelConfig.model_json_schema()["properties"]["backbone"]["enum"] == list(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_each_row_describes_the_network_of_its_name(name: str) -> None:
    row = BACKBONES[name]
    with torch.device("meta"):
        body = pyramid_backbone(name, nn.BatchNorm2d, None, stride_in_1x1=False).body
        levels = body(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(row.channels, (4, 8, 16, 32), strict=True)
    ]
    modules = list(body.modules())
    assert any(isinstance(one, models.resnet.Bottleneck) for one in modules) == row.bottleneck
    assert any(isinstance(one, nn.BatchNorm2d) for one in modules) == (row.norm == "batch")
    own = {one.eps for one in models.get_model(name).modules() if isinstance(one, nn.BatchNorm2d)}
    assert own <= {row.norm_eps}


@pytest.mark.parametrize("name", BACKBONES)
def test_each_parameter_is_in_one_stage_and_a_stage_makes_one_level(name: str) -> None:
    row = BACKBONES[name]
    with torch.device("meta"):
        body = pyramid_backbone(name, nn.BatchNorm2d, None, stride_in_1x1=False).body
    in_stages = [
        (id(value), number)
        for number, stage in enumerate(row.stages)
        for layer in stage
        for value in body.get_submodule(layer).parameters()
    ]
    assert sorted(one for one, _ in in_stages) == sorted(map(id, body.parameters()))
    stage_of = dict(in_stages)
    assert len(row.stages) == 5
    for level, layer in enumerate(row.levels):
        makes = {stage_of[id(value)] for value in body.get_submodule(layer).parameters()}
        assert makes == {3 - level}
        if row.norm == "layer":
            (own,) = {stage_of[id(value)] for value in body.level_norms[level].parameters()}
            assert own == 3 - level


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("detector", ["fpn", "fpn_v2"])
def test_coco_weights_exist_where_the_table_says_so(name: str, detector: str) -> None:
    has_coco = f"maskrcnn_{name}_{detector}" in models.list_models()
    assert BACKBONES[name].weights == (("coco", "imagenet") if has_coco else ("imagenet",))
    assert models.get_model_weights(name).IMAGENET1K_V1.url


def activations(name: str) -> int:
    """Bytes that the body keeps for the gradient of one image of 160 pixels, with all stages
    trained and batch norm frozen.
    """
    with torch.device("meta"):
        body = pyramid_backbone(name, FrozenBatchNorm, None, stride_in_1x1=False).body
    body = body.to_empty(device="cpu")
    for buffer in body.buffers():
        buffer.zero_()  # among them are indices
    return kept_bytes(body, torch.randn(1, 3, 160, 160))


def test_every_backbone_has_its_own_place_by_the_memory_that_it_was_measured_to_take() -> None:
    assert sorted(row.memory_rank for row in BACKBONES.values()) == list(range(len(BACKBONES)))
    by_rank = sorted(BACKBONES, key=lambda name: BACKBONES[name].memory_rank)
    assert sorted(BACKBONES, key=activations) == by_rank


def test_the_table_is_read_without_torch() -> None:
    source = (
        "import sys, core.backbones; dict(core.backbones.BACKBONES); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
