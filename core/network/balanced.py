"""Random choice of the anchors and proposals that a batch learns: some positive, some negative.

torchvision asks the GPU for the number of positives and of negatives in each image, and for their
places, and waits for each answer. Here the GPU is waited for once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drawn:
    """The anchors or proposals drawn in one image: their places in its labels, int64, ascending."""

    positive_P: torch.Tensor
    negative_Q: torch.Tensor


class BalancedSampler:
    """torchvision's BalancedPositiveNegativeSampler, with the same draws from its global generator.

    batch_size_per_image   number drawn in each image; fewer where the image has fewer
    positive_fraction      largest fraction of this number that is positive
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    def __call__(self, labels: Sequence[torch.Tensor]) -> list[Drawn]:
        """The draw of each image.

        labels   [A] of each image: positive at 1 or more, negative at 0, never drawn below 0
        """
        kinds = [torch.stack([labels_A >= 1, labels_A == 0]) for labels_A in labels]
        # This waits for the GPU.
        counts = torch.stack([kinds_2A.sum(dim=1) for kinds_2A in kinds]).tolist()
        drawn = []
        for kinds_2A, (positives, negatives) in zip(kinds, counts, strict=True):
            ranks_2A = kinds_2A.cumsum(dim=1)
            some = min(positives, int(self.batch_size_per_image * self.positive_fraction))
            others = min(negatives, self.batch_size_per_image - some)
            drawn.append(
                Drawn(_draw(ranks_2A[0], positives, some), _draw(ranks_2A[1], negatives, others))
            )
        return drawn


def _draw(rank_A: torch.Tensor, count: int, some: int) -> torch.Tensor:
    """The places of `some` of `count` members, drawn evenly: int64, ascending.

    rank_A   [A], number of members up to and including each place
    """
    chosen = torch.randperm(count, device=rank_A.device)[:some].sort().values
    return torch.searchsorted(rank_A, chosen + 1)
