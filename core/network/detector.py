"""The interface between a detector and training, prediction and a trained model."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from core.config import PredictConfig
from core.sample import Target


@dataclass(frozen=True)
class RawDetections:
    """The detections of the network in one image, best score first, on the network's device.

    boxes_N4        float32 [N, 4], half-open, pixels of the image that was given
    labels_N        int64 [N], class numbers 1..C
    scores_N        float32 [N], in 0..1
    mask_probs_NMM  float32 [N, M, M], probability that a cell of a grid over the box is of the
                    instance
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    scores_N: torch.Tensor
    mask_probs_NMM: torch.Tensor


@dataclass(frozen=True)
class Traits:
    """Three facts about a network that come with its pretrained weights, beside the tensors.

    frozen_norm     whether the backbone's batch norm is FrozenBatchNorm
    norm_eps        number that the backbone's batch norm adds to the variance
    stride_in_1x1   whether a bottleneck strides in its first 1x1 convolution, not in its 3x3 one

    All three are needed to build the network again.
    """

    frozen_norm: bool
    norm_eps: float
    stride_in_1x1: bool


class Detector(nn.Module, ABC):
    """A network that learns from targets and detects instances.

    predict      settings of prediction; no parameter depends on them, so others may be assigned at
                 any time
    traits       facts from the pretrained weights that were used to build it
    room         largest number of pixels, at the size that the network sees, of images that
                 `detect` gets together; lowered where more did not fit the GPU's memory
    loss_scale   factor, a scalar, by which training multiplies the losses before it computes their
                 gradients; None for 1. Only a network that computes gradients itself reads it

    `losses` and `detect` may be called under autocast, and return float32.
    """

    def __init__(self, predict: PredictConfig, traits: Traits) -> None:
        super().__init__()
        self.predict = predict
        self.traits = traits
        self.room = sys.maxsize
        self.loss_scale: torch.Tensor | None = None

    @abstractmethod
    def losses(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """The loss terms of a batch by name, float32 scalars, in training mode.

        images    float32 [3, H, W] each, RGB in 0..1, of any sizes
        targets   one for each image; an image without instances teaches background

        Random draws come from torch's global generator.
        """

    @abstractmethod
    def detect(self, images: Sequence[torch.Tensor], scale: float = 1.0) -> list[RawDetections]:
        """The instances in each image, in evaluation mode; masks are not pasted into the image.

        images   float32 [3, H, W] each, RGB in 0..1, of any sizes
        scale    factor on the size at which the network sees each image in training
        """

    def seen_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width, in pixels, at which the network sees an image of `height` x `width`.

        scale   as in `detect`

        Images that it sees at one size can be given to `detect` together: their detections are
        those that they have alone, to rounding.
        """
        return round(height * scale), round(width * scale)

    @abstractmethod
    def freeze(self, stages: int, pyramid: bool) -> None:
        """Let only the last `stages` backbone stages train, and the pyramid only if `pyramid`.

        All other layers train.
        """

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters of backbone stages that train: those that `freeze(0, ...)` freezes."""
        trained = [value for value in self.parameters() if value.requires_grad]
        self.freeze(0, True)
        of_backbone = [value for value in trained if not value.requires_grad]
        self.requires_grad_(False)
        for value in trained:
            value.requires_grad_(True)
        return of_backbone

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, torch.Tensor] | list[RawDetections]:
        """`losses` in training mode, which needs `targets`; `detect` in evaluation mode."""
        if not self.training:
            return self.detect(images)
        assert targets is not None, "training needs targets; call eval() first to detect"
        return self.losses(images, targets)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep modules of which nothing trains in evaluation mode.

        Their batch norm never updates its running statistics, and none of their blocks is left out
        at random (stochastic depth).
        """
        super().train(mode)
        for module in self.children():
            _rest_where_frozen(module)
        return self

    def trained_state(self) -> dict[str, torch.Tensor]:
        """All tensors that training can change, by name.

        These are the parameters that train and the statistics of batch norm that is not frozen. The
        tensors are the detector's own, not copies. Together with the pretrained weights and the
        seed they determine the detector.
        """
        state: dict[str, torch.Tensor] = {}
        state |= {name: value for name, value in self.named_parameters() if value.requires_grad}
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
                state |= dict(module.named_buffers(prefix=name))
        return state


def _rest_where_frozen(module: nn.Module) -> None:
    """Set `module`, or else those of its parts, of which no parameter trains to evaluation mode."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _rest_where_frozen(child)
