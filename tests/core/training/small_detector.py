"""A detector of a few parameters, whose loss is the mean over images of a function of each."""

from collections.abc import Sequence

import torch
from torch import nn

from core.config import PredictConfig
from core.network.detector import Detector, RawDetections, Traits
from core.sample import Target


class SmallDetector(Detector):
    """Two convolutions, the first of which is the backbone, with batch norm between them.

    Batch norm joins the images of a batch, unless it is frozen: with `freeze(0, ...)` the loss of a
    batch is the mean of its images' losses.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(PredictConfig(), Traits(False, 1e-5, False))
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.pyramid = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.GroupNorm(1, 2))
        self.table_of_bias = nn.Parameter(torch.ones(2, 2))

    def losses(
        self, images: Sequence[torch.Tensor], targets: Sequence[Target]
    ) -> dict[str, torch.Tensor]:
        """Two terms, of which one knows the number of instances."""
        features = self.backbone(torch.stack(list(images)))
        found = self.head(self.pyramid(features)) + self.table_of_bias.sum()
        wanted = torch.tensor([len(one.labels_N) for one in targets])[:, None, None, None]
        return {"first": found.abs().mean(), "second": (found - wanted).square().mean()}

    def detect(self, images: Sequence[torch.Tensor]) -> list[RawDetections]:
        """Nothing."""
        raise NotImplementedError

    def freeze(self, stages: int, pyramid: bool) -> None:
        """One stage, all of the backbone."""
        self.backbone.requires_grad_(stages > 0)
        self.pyramid.requires_grad_(pyramid)
