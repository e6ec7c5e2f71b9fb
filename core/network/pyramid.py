"""The features of an image: a backbone's stages, and the feature pyramid over them.

Names of parameters are torchvision's: `body.conv1`, `body.layer1.0.conv1`, `fpn.inner_blocks.0.0`.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchvision import models
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from core.backbones import BACKBONES, Backbone

CHANNELS = 256
"""Number of channels of every level of the pyramid."""

Norm = Callable[..., nn.Module]
"""A function that makes a layer of normalisation for a given number of channels."""

LEVEL_EPS = 1e-6
"""Number that the layer norm of a level adds to the variance."""


class Stages(nn.Module):
    """The layers of one of torchvision's classifiers up to its last level, by their names there.

    Blocks with layer norm inside (ConvNeXt, Swin) return sums that nothing normalises. Each of
    their levels gets a layer norm of its own, as in the detectors of these networks' authors; the
    next stage is given the sum without it.

    classifier   the whole network
    row          its row of the table
    """

    def __init__(self, classifier: nn.Module, row: Backbone) -> None:
        super().__init__()
        trunk, _, last = row.levels[-1].rpartition(".")
        layers = dict(classifier.get_submodule(trunk).named_children())
        kept = list(layers)[: list(layers).index(last) + 1]
        place = nn.Module() if trunk else self
        for name in kept:
            place.add_module(name, layers[name])
        if trunk:
            self.add_module(trunk, place)
        self.paths = [f"{trunk}.{name}" if trunk else name for name in kept]
        self.levels = row.levels
        self.axes = row.axes
        self.level_norms: nn.ModuleList | None = None
        if row.norm == "layer":
            norms = [nn.LayerNorm(channels, LEVEL_EPS) for channels in row.channels]
            self.level_norms = nn.ModuleList(norms)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The output of each level, [B, F, H, W], from the finest."""
        found = []
        for path in self.paths:
            x = self.get_submodule(path)(x)
            if path in self.levels:
                found.append(x)
        if self.level_norms is None:
            return found
        if self.axes == "BFHW":
            found = [level.permute(0, 2, 3, 1) for level in found]
        return [
            norm(level).permute(0, 3, 1, 2)
            for norm, level in zip(self.level_norms, found, strict=True)
        ]


class PyramidBackbone(nn.Module):
    """A body that makes the features of each level, and the pyramid that joins them."""

    def __init__(self, body: nn.Module, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The pyramid's levels, float32 [B, 256, H, W], at strides of 4, 8, 16, 32 and 64 pixels.

        images   [B, 3, H, W]; they are brought to the memory format of the weights

        The levels are float32 under autocast too: anchors and boxes take their dtype, and bfloat16
        has no odd numbers above 256.
        """
        if next(self.body.parameters()).is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        features = {str(number): level for number, level in enumerate(self.body(images))}
        return [level.float() for level in self.fpn(features).values()]


def pyramid_backbone(
    name: str, body_norm: Norm, pyramid_norm: Norm | None, stride_in_1x1: bool
) -> PyramidBackbone:
    """A backbone of the table under a feature pyramid, initialised by torch's global generator.

    body_norm       makes the backbone's layers of batch norm
    pyramid_norm    makes the pyramid's layers of normalisation; None for a pyramid without
    stride_in_1x1   whether a bottleneck strides in the 1x1 convolution before its 3x3 one, as in
                    Keras
    """
    row = BACKBONES[name]
    body = row.body(body_norm) if row.body else _torchvisions(name, row, body_norm, stride_in_1x1)
    fpn = FeaturePyramidNetwork(list(row.channels), CHANNELS, LastLevelMaxPool(), pyramid_norm)
    return PyramidBackbone(body, fpn)


def _torchvisions(name: str, row: Backbone, norm: Norm, stride_in_1x1: bool) -> Stages:
    """The stages of torchvision's network of this name, with the given layers of batch norm."""
    options = {"norm_layer": norm} if row.norm == "batch" else {}
    body = Stages(models.get_model(name, weights=None, **options), row)
    if stride_in_1x1:
        for stage in row.levels[1:]:  # the first has no stride
            for layer, stride in (("conv1", 2), ("conv2", 1)):
                convolution = body.get_submodule(f"{stage}.0.{layer}")
                assert isinstance(convolution, nn.Conv2d)
                convolution.stride = (stride, stride)
    return body
