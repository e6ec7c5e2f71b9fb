"""Our detectors with a fraction of their channels, for laws that hold at any width.

The recipes and parts are those of `core.network`, and only the numbers of channels differ: a step
takes a tenth of the time, and a checkpoint a hundredth of the bytes. Tests that need torchvision's
widths or weights do not use this.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from core.backbones import BACKBONES
from core.network import build, detectors, pyramid

CHANNELS, GROUPS, VECTOR = 32, 2, 32
"""Channels of the pyramid and the heads, groups of them in group norm, and the length of a box's
vector."""
OF_LEVELS = (8, 12, 16, 24)
"""Channels of each level of `Stack`."""


class Stack(nn.Module):
    """A backbone of one convolution a stage, with the stages' names of torchvision's ResNets."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm(8)
        for number, (before, after) in enumerate(pairwise((8, *OF_LEVELS)), start=1):
            convolution = nn.Conv2d(before, after, 3, 2, 1, bias=False)
            self.add_module(f"layer{number}", nn.Sequential(convolution, norm(after), nn.ReLU()))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The output of each stage, at strides of 4, 8, 16 and 32 pixels."""
        x = functional.relu(self.bn1(self.conv1(x)))
        levels = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            levels.append(x)
        return levels


@contextmanager
def narrowed(body: bool = True, channels: int = CHANNELS, vector: int = VECTOR) -> Iterator[None]:
    """Build every detector with narrow pyramid and heads, and with `Stack` as resnet18.

    body       False leaves resnet18 as it is; the other backbones stay as they are in any case
    channels   channels of the pyramid and the heads
    vector     length of a box's vector
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "CHANNELS", channels)
        patch.setattr(detectors, "CHANNELS", channels)
        patch.setattr(detectors, "CONVOLUTIONS", [channels] * 4)
        patch.setattr(detectors, "BOX_VECTOR", vector)
        patch.setattr(detectors, "GROUPS", GROUPS)
        if body:
            row = replace(BACKBONES["resnet18"], channels=OF_LEVELS, body=Stack)
            for module in (build, detectors, pyramid):
                patch.setattr(module, "BACKBONES", {**BACKBONES, "resnet18": row})
        yield
