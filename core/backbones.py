"""The table of backbones: what settings, weights, the packing of a GPU and the network must know
of each.

It imports no torch, because settings are read before anything is trained. To add a ResNet of
torchvision, add its name to `Name` and a row to `BACKBONES`; a network of another kind needs a body
in `core/network/pyramid.py` as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Name = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d"]
"""The values of `model.backbone`: the keys of the table, where a type checker can read them."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table; its key is the name of torchvision's builder and of its ImageNet
    weights.

    channels     channels of each level, from the finest
    bottleneck   whether its blocks are bottlenecks, whose stride may be in the first 1x1
                 convolution
    memory_rank  place by the memory that training takes, 0 for the least
    coco         whether torchvision has a Mask R-CNN with it that was trained on COCO
    levels       the children whose output the pyramid takes, at strides of 4, 8, 16 and 32 pixels
    stages       what `model.trainable_layers` counts, from the last: the children that train
                 together
    """

    channels: tuple[int, int, int, int]
    bottleneck: bool
    memory_rank: int
    coco: bool = False
    levels: tuple[str, str, str, str] = ("layer1", "layer2", "layer3", "layer4")
    stages: tuple[tuple[str, ...], ...] = (
        ("layer4",),
        ("layer3",),
        ("layer2",),
        ("layer1",),
        ("conv1", "bn1"),
    )


_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)

BACKBONES: Mapping[str, Backbone] = {
    "resnet18": Backbone(channels=_BASIC, bottleneck=False, memory_rank=0),
    "resnet34": Backbone(channels=_BASIC, bottleneck=False, memory_rank=1),
    "resnet50": Backbone(channels=_BOTTLENECK, bottleneck=True, memory_rank=2, coco=True),
    "resnet101": Backbone(channels=_BOTTLENECK, bottleneck=True, memory_rank=4),
    "resnext50_32x4d": Backbone(channels=_BOTTLENECK, bottleneck=True, memory_rank=3),
}

WITH_BOTTLENECKS = tuple(name for name, row in BACKBONES.items() if row.bottleneck)
WITH_COCO = tuple(name for name, row in BACKBONES.items() if row.coco)
