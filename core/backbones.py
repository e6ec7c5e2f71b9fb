"""The table of backbones: all that settings, weights, packing and network must know of each.

It imports no torch, because settings are read before anything is trained. To add a network of
torchvision's, add a row and its name to `BACKBONES`; a network of another kind brings its own
`body`. Another package names its row in an entry point of the group `cell_tune.backbones`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from core.extensions import Parts
from core.values import as_number


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table.

    channels     channels of each level, from the finest
    memory_rank  rank by the memory that training takes, all stages trained (results/LOG.md): 0 for
                 resnet18, the largest for swin_s; may lie between two of ours
    weights      the values of `model.weights` that name a file of torchvision's, that of `auto`
                 first
    advice       what a user of this backbone should know, a sentence without its full stop; the
                 doctor and a search say it where the backbone is used
    stages       what `model.trainable_layers` counts, from the last: the layers, by their paths in
                 the body, that train together
    body         makes its layers, given a function that makes a normalisation layer for a number of
                 channels; weights are drawn from torch's global generator. It returns a module
                 whose output is the list of the levels' features, [B, channels, height, width], at
                 strides of 4, 8, 16 and 32 pixels. None for the network of torchvision's that has
                 the row's name, of which the fields below say what is taken
    levels       the layers, by their paths, whose output the pyramid takes
    head         prefixes of the names, in torchvision's file, of the layers after the last level
    bottleneck   whether it is a ResNet of bottleneck blocks, whose stride may be in the first 1x1
                 convolution
    norm         batch: batch norm, which a detector may freeze; layer: layer norm inside the
                 blocks. The output of such a stage is not normalised, so each level gets a layer
                 norm of its own, one of `level_norms`
    norm_eps     number that its batch norm adds to the variance
    axes         order of the axes of what its layers return, in the letters of `core.sample`
    new_in_fp16  whether new weights of all stages can be trained in fp16
    """

    channels: tuple[int, int, int, int]
    memory_rank: float
    weights: tuple[str, ...] = ()
    advice: str = ""
    stages: tuple[tuple[str, ...], ...] = (
        ("layer4",),
        ("layer3",),
        ("layer2",),
        ("layer1",),
        ("conv1", "bn1"),
    )
    body: Callable[[Callable[..., Any]], Any] | None = None
    levels: tuple[str, str, str, str] = ("layer1", "layer2", "layer3", "layer4")
    head: tuple[str, ...] = ("fc.",)
    bottleneck: bool = False
    norm: Literal["batch", "layer"] = "batch"
    norm_eps: float = 1e-5
    axes: Literal["BFHW", "BHWF"] = "BFHW"
    new_in_fp16: bool = True

    def has(self, weights: str) -> bool:
        """Whether torchvision has a file for auto, coco or imagenet, a value of `model.weights`."""
        return weights in self.weights or (weights == "auto" and bool(self.weights))


_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)

RESNET18 = Backbone(channels=_BASIC, memory_rank=0, weights=("imagenet",))
RESNET34 = Backbone(channels=_BASIC, memory_rank=1, weights=("imagenet",))
RESNET50 = Backbone(
    channels=_BOTTLENECK, memory_rank=3, weights=("coco", "imagenet"), bottleneck=True
)
RESNET101 = Backbone(channels=_BOTTLENECK, memory_rank=5, weights=("imagenet",), bottleneck=True)
RESNEXT50 = Backbone(channels=_BOTTLENECK, memory_rank=4, weights=("imagenet",), bottleneck=True)

MOBILENET_V3_LARGE = Backbone(
    channels=(24, 40, 112, 960),
    memory_rank=2,
    weights=("imagenet",),
    levels=("features.3", "features.6", "features.12", "features.16"),
    stages=(
        ("features.13", "features.14", "features.15", "features.16"),
        ("features.7", "features.8", "features.9", "features.10", "features.11", "features.12"),
        ("features.4", "features.5", "features.6"),
        ("features.2", "features.3"),
        ("features.0", "features.1"),
    ),
    head=("classifier.",),
    norm_eps=1e-3,
)

# Patches of 4 x 4 pixels, then four stages of blocks. A layer between two stages halves the sides
# and belongs to the later stage.
_IN_PATCHES = partial(
    Backbone,
    channels=(96, 192, 384, 768),
    weights=("imagenet",),
    levels=("features.1", "features.3", "features.5", "features.7"),
    stages=(
        ("features.6", "features.7", "level_norms.3"),
        ("features.4", "features.5", "level_norms.2"),
        ("features.2", "features.3", "level_norms.1"),
        ("features.1", "level_norms.0"),
        ("features.0",),
    ),
    norm="layer",
)
# Its new biases are zeros, so a padded pixel is zeros in all channels until the first block, and
# nearly so after it. Layer norm multiplies the gradient of such a pixel by 1,000, 1 / sqrt(eps), in
# the stem and between stages: 5e4 were found behind the stem's, where fp16 ends at 7e4.
_CONVNEXT = partial(_IN_PATCHES, head=("classifier.",), new_in_fp16=False)
_SWIN = partial(_IN_PATCHES, head=("norm.", "head."), axes="BHWF")


def _advice(authors: str, times: float) -> str:
    """The advice on a backbone: its authors' recipe, and its memory in `times` resnet50's."""
    return (
        f"{authors} fine-tuned it with AdamW, a learning rate of 1e-4 for batches of 16, a weight"
        " decay of 0.05 and a warm-up; with all stages trained, its activations take"
        f" {as_number(times)} times the memory of resnet50's"
    )


_CONVNEXT_PAPER, _SWIN_PAPER = "Liu et al. (ConvNeXt, 2022)", "Liu et al. (Swin, 2021)"

CONVNEXT_TINY = _CONVNEXT(memory_rank=6, advice=_advice(_CONVNEXT_PAPER, 2.6))
CONVNEXT_SMALL = _CONVNEXT(memory_rank=8, advice=_advice(_CONVNEXT_PAPER, 4.2))
SWIN_T = _SWIN(memory_rank=7, advice=_advice(_SWIN_PAPER, 2.7))
SWIN_S = _SWIN(memory_rank=9, advice=_advice(_SWIN_PAPER, 4.4))

BACKBONES: Parts[Backbone] = Parts(
    "backbone",
    "cell_tune.backbones",
    {
        "resnet18": "core.backbones:RESNET18",
        "resnet34": "core.backbones:RESNET34",
        "resnet50": "core.backbones:RESNET50",
        "resnet101": "core.backbones:RESNET101",
        "resnext50_32x4d": "core.backbones:RESNEXT50",
        "mobilenet_v3_large": "core.backbones:MOBILENET_V3_LARGE",
        "convnext_tiny": "core.backbones:CONVNEXT_TINY",
        "convnext_small": "core.backbones:CONVNEXT_SMALL",
        "swin_t": "core.backbones:SWIN_T",
        "swin_s": "core.backbones:SWIN_S",
    },
)
"""Every backbone. The name of one of ours is that of torchvision's builder and of its weights."""


def names_with(trait: Callable[[Backbone], bool]) -> str:
    """The backbones that have a trait, listed for a message."""
    return ", ".join(name for name, row in BACKBONES.items() if trait(row))
