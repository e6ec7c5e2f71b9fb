"""The choice of the anchors and proposals that a batch learns: some positive, some negative,
drawn evenly.

torchvision asks the GPU for the numbers of both kinds in each image, and for their places, and
waits for each answer; here one answer is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drawn:
    """The draw of one image: int64, ascending places in its labels."""

    positive_P: torch.Tensor
    negative_Q: torch.Tensor


class BalancedSampler:
    """torchvision's BalancedPositiveNegativeSampler: the same draws from torch's global generator.

    batch_size_per_image   drawn in each image, fewer where there are fewer
    positive_fraction      of them positive at most
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    def __call__(self, labels: Sequence[torch.Tensor]) -> list[Drawn]:
        """The draw of each image; labels [A] each, positive at 1 or more, negative at 0, below 0
        neither.
        """
        kinds = [torch.stack([labels_A >= 1, labels_A == 0]) for labels_A in labels]
        counts = torch.stack(
            [kinds_2A.sum(dim=1) for kinds_2A in kinds]
        ).tolist()  # waits for the GPU
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
    """The places of `some` of `count` members, int64 ascending; rank_A [A] counts the members up
    to each place.
    """
    chosen = torch.randperm(count, device=rank_A.device)[:some].sort().values
    return torch.searchsorted(rank_A, chosen + 1)
