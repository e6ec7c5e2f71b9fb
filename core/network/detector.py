"""The detector as training, prediction and a trained model know it, whatever is inside."""

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
    scores_N        float32 [N]
    mask_probs_N28  float32 [N, 28, 28], probability of the mask inside its box
    """

    boxes_N4: torch.Tensor
    labels_N: torch.Tensor
    scores_N: torch.Tensor
    mask_probs_N28: torch.Tensor


@dataclass(frozen=True)
class Traits:
    """Facts that a network has from its first weights beside their numbers; to build it again
    takes all three.

    frozen_norm    whether the backbone's batch norm is FrozenBatchNorm
    norm_eps       what frozen batch norm adds to the variance
    stride_in_1x1  whether a bottleneck strides in its first 1x1 convolution
    """

    frozen_norm: bool
    norm_eps: float
    stride_in_1x1: bool


class Detector(nn.Module, ABC):
    """A network that learns from targets and detects instances.

    predict   settings of prediction, which nothing learned depends on: another may be assigned at
              any time
    traits    how it was built

    `losses` and `detect` work under autocast: they return float32.
    """

    def __init__(self, predict: PredictConfig, traits: Traits) -> None:
        super().__init__()
        self.predict = predict
        self.traits = traits

    @abstractmethod
    def losses(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """The loss terms of a batch, scalars, in training mode; draws from torch's global
        generator.

        images    float32 [3, H, W] each, RGB in 0..1, of any sizes
        targets   one for each image; without instances the image teaches background
        """

    @abstractmethod
    def detect(self, images: Sequence[torch.Tensor]) -> list[RawDetections]:
        """The instances in each image, float32 [3, H, W], RGB in 0..1, in evaluation mode.

        Masks are not pasted.
        """

    @abstractmethod
    def freeze(self, stages: int, pyramid: bool) -> None:
        """Let of the backbone only the last `stages` stages train, and the pyramid where
        `pyramid` is True.
        """

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, torch.Tensor] | list[RawDetections]:
        """The result of `losses` in training mode, which needs targets, and of `detect` in
        evaluation mode.
        """
        if not self.training:
            return self.detect(images)
        assert targets is not None, "training needs targets; call eval() first to detect"
        return self.losses(images, targets)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch norm of frozen layers stays in evaluation mode, so its statistics
        never move.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def trained_state(self) -> dict[str, torch.Tensor]:
        """All that training can change, by name: parameters that train, statistics of batch norm
        that is not frozen.

        The tensors are the detector's own, not copies. Together with the pretrained weights and the
        seed they are the detector.
        """
        state: dict[str, torch.Tensor] = {}
        state |= {name: value for name, value in self.named_parameters() if value.requires_grad}
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
                state |= dict(module.named_buffers(prefix=name))
        return state
