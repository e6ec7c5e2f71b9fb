"""Laws of the table of backbones: it says what torchvision's networks are."""

import pytest
import torch
from torch import nn
from torchvision import models

from core.backbones import BACKBONES
from core.config import ModelConfig
from core.network.pyramid import pyramid_backbone


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
    blocks = {type(block) for stage in row.levels for block in body.get_submodule(stage)}
    assert blocks == {models.resnet.Bottleneck if row.bottleneck else models.resnet.BasicBlock}
    with_parameters = {
        child for child, module in body.named_children() if list(module.parameters())
    }
    assert sorted(child for stage in row.stages for child in stage) == sorted(with_parameters)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("detector", ["fpn", "fpn_v2"])
def test_coco_weights_exist_where_the_table_says_so(name: str, detector: str) -> None:
    has_coco = f"maskrcnn_{name}_{detector}" in models.list_models()
    assert BACKBONES[name].weights == (("coco", "imagenet") if has_coco else ("imagenet",))
    assert models.get_model_weights(name).IMAGENET1K_V1.url


def test_every_backbone_has_its_own_place_by_memory() -> None:
    assert sorted(row.memory_rank for row in BACKBONES.values()) == list(range(len(BACKBONES)))
