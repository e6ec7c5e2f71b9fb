"""The table of backbones: what settings, weights, the packing of a GPU and the network must know
of each.

It imports no torch, because settings are read before anything is trained. To add a ResNet of
torchvision, add a row and its name to `BACKBONES`; a network of another kind brings its own `body`.
Another package names its row in an entry point of the group `cell_tune.backbones`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.extensions import Parts


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table.

    channels     channels of each level, from the finest
    memory_rank  place by the memory that training takes: 0 for resnet18, 4 for resnet101; may lie
                 between two of ours
    weights      the values of `model.weights` that name a file of torchvision's, that of `auto`
                 first
    bottleneck   whether it is torchvision's ResNet of bottleneck blocks, whose stride may be in the
                 first 1x1 convolution
    body         makes its layers from a function that makes a layer of normalisation for a number
                 of channels. It returns a module whose output is the list of the levels' features,
                 [B, channels, height, width], at strides of 4, 8, 16 and 32 pixels, drawn from
                 torch's global generator. None for torchvision's ResNet of the row's name
    levels       the children of torchvision's ResNet whose output the pyramid takes
    stages       what `model.trainable_layers` counts, from the last: the children that train
                 together
    """

    channels: tuple[int, int, int, int]
    memory_rank: float
    weights: tuple[str, ...] = ()
    bottleneck: bool = False
    body: Callable[[Callable[..., Any]], Any] | None = None
    levels: tuple[str, str, str, str] = ("layer1", "layer2", "layer3", "layer4")
    stages: tuple[tuple[str, ...], ...] = (
        ("layer4",),
        ("layer3",),
        ("layer2",),
        ("layer1",),
        ("conv1", "bn1"),
    )

    def has(self, weights: str) -> bool:
        """Whether torchvision has the file that `model.weights` names: auto, coco or imagenet."""
        return weights in self.weights or (weights == "auto" and bool(self.weights))


_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)

RESNET18 = Backbone(channels=_BASIC, memory_rank=0, weights=("imagenet",))
RESNET34 = Backbone(channels=_BASIC, memory_rank=1, weights=("imagenet",))
RESNET50 = Backbone(
    channels=_BOTTLENECK, memory_rank=2, weights=("coco", "imagenet"), bottleneck=True
)
RESNET101 = Backbone(channels=_BOTTLENECK, memory_rank=4, weights=("imagenet",), bottleneck=True)
RESNEXT50 = Backbone(channels=_BOTTLENECK, memory_rank=3, weights=("imagenet",), bottleneck=True)

BACKBONES: Parts[Backbone] = Parts(
    "backbone",
    "cell_tune.backbones",
    {
        "resnet18": "core.backbones:RESNET18",
        "resnet34": "core.backbones:RESNET34",
        "resnet50": "core.backbones:RESNET50",
        "resnet101": "core.backbones:RESNET101",
        "resnext50_32x4d": "core.backbones:RESNEXT50",
    },
)
"""Every backbone. The name of one of ours is that of torchvision's builder and of its weights."""


def names_with(trait: Callable[[Backbone], bool]) -> str:
    """The backbones that have a trait, listed for a message."""
    return ", ".join(name for name, row in BACKBONES.items() if trait(row))
