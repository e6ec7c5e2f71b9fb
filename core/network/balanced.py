"""Random choice of the anchors and proposals that a batch learns: some positive, some negative.

torchvision asks the GPU for the number of positives and of negatives in each image, and for their
places, and waits for each answer. `BalancedSampler` draws as torchvision does, to the bit, and
waits once. Its method `fixed` draws from the same distribution without waiting, because its result
has the same shape whatever is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional


@dataclass(frozen=True)
class ImageDraws:
    """The anchors or proposals drawn in one image: indices of its labels, int64, ascending."""

    positive_P: torch.Tensor
    negative_Q: torch.Tensor


@dataclass(frozen=True)
class Draws:
    """The anchors or proposals drawn in a batch, in slots of which some may be empty.

    places_S     int64 [S], the index in the labels of all images, one image after the other; any
                 index for an empty slot
    weight_S     float32 [S], 1 for a slot that holds a draw, 0 for an empty one
    positive_P   int64 [P], the slots that may hold a positive, image after image
    weight_P     float32 [P], 1 for those that do, 0 for the others
    positives    number of entries of `positive_P` in each image
    """

    places_S: torch.Tensor
    weight_S: torch.Tensor
    positive_P: torch.Tensor
    weight_P: torch.Tensor
    positives: tuple[int, ...]

    @cached_property
    def count(self) -> torch.Tensor:
        """Number of draws, or 1 where nothing was drawn; a scalar, float32."""
        return self.weight_S.sum().clamp(min=1)

    def box_loss(self, offsets_P4: torch.Tensor, wanted_P4: torch.Tensor) -> torch.Tensor:
        """Sum over the positives of the smooth L1 loss (beta 1/9) of their offsets.

        offsets_P4, wanted_P4   float32 [P, 4], the predicted and the wanted offsets in `positive_P`
        """
        # An empty slot wants its own offsets: its boxes may have no sides, so what is encoded of
        # them may be NaN, and NaN times a weight of 0 is NaN.
        wanted_P4 = torch.where(self.weight_P[:, None] > 0, wanted_P4, offsets_P4.detach())
        return functional.smooth_l1_loss(offsets_P4, wanted_P4, beta=1 / 9, reduction="sum")

    def ascending(self) -> "Draws":
        """The same draws with ascending places; all slots must be full."""
        places_S = self.places_S.sort().values
        positive_P = torch.searchsorted(places_S, self.places_S[self.positive_P])
        return Draws(places_S, self.weight_S, positive_P, self.weight_P, self.positives)


class BalancedSampler:
    """torchvision's BalancedPositiveNegativeSampler, with the same draws from its global generator.

    batch_size_per_image   number drawn in each image; fewer where the image has fewer
    positive_fraction      largest fraction of this number that is drawn from the positives
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    @property
    def most_positives(self) -> int:
        """Largest number of positives drawn in an image."""
        return int(self.batch_size_per_image * self.positive_fraction)

    def __call__(self, labels: Sequence[torch.Tensor]) -> list[ImageDraws]:
        """The draw of each image.

        labels   int64 [A] of each image: 1 or more is positive, 0 negative, and the rest is never
                 drawn
        """
        kinds = [torch.stack([labels_A >= 1, labels_A == 0]) for labels_A in labels]
        # Python waits for the GPU here.
        counts = torch.stack([kinds_2A.sum(dim=1) for kinds_2A in kinds]).tolist()
        drawn = []
        for kinds_2A, (positives, negatives) in zip(kinds, counts, strict=True):
            ranks_2A = kinds_2A.cumsum(dim=1)
            some = min(positives, self.most_positives)
            others = min(negatives, self.batch_size_per_image - some)
            drawn.append(
                ImageDraws(
                    _draw(ranks_2A[0], positives, some), _draw(ranks_2A[1], negatives, others)
                )
            )
        return drawn

    def fixed(self, labels_BA: torch.Tensor) -> Draws:
        """The draws of a batch, in a number of slots that depends on the shape of the labels alone.

        labels_BA   int64 [B, A], as in `__call__`

        Each candidate gets a random key from the global generator of its device, and those with the
        highest keys are drawn: every set of the right number of positives, and of negatives, is
        equally probable. In the slots of an image the positives come first, then the negatives.
        """
        images, candidates = labels_BA.shape
        slots = min(self.batch_size_per_image, candidates)
        most_positives = min(self.most_positives, slots)
        device = labels_BA.device
        others_2BA = torch.stack([labels_BA < 1, labels_BA != 0])  # not positive, not negative
        keys_BA = torch.rand(labels_BA.shape, device=device)
        best = keys_BA.masked_fill(others_2BA, -1.0).topk(slots, dim=2)
        full_2BS = best.values >= 0
        slot_S = torch.arange(slots, device=device)
        positives_B1 = full_2BS[0, :, :most_positives].sum(dim=1, keepdim=True)
        negative_BS = slot_S - positives_B1  # its number among the negatives, if it is one
        is_positive_BS = negative_BS < 0
        negative_BS = negative_BS.clamp(min=0)
        places_BS = torch.where(
            is_positive_BS, best.indices[0], best.indices[1].gather(1, negative_BS)
        )
        is_drawn_BS = is_positive_BS | full_2BS[1].gather(1, negative_BS)
        image_B1 = torch.arange(images, device=device)[:, None]
        return Draws(
            (places_BS + image_B1 * candidates).flatten(),
            is_drawn_BS.flatten().float(),
            (image_B1 * slots + slot_S[:most_positives]).flatten(),
            is_positive_BS[:, :most_positives].flatten().float(),
            (most_positives,) * images,
        )


def positives_first(drawn: Sequence[ImageDraws], candidates: Sequence[int]) -> Draws:
    """The draws of all images: first the positives, image after image, then the negatives.

    candidates   number of labels of each image
    """
    positives, negatives, start = [], [], 0
    for one, count in zip(drawn, candidates, strict=True):
        positives.append(one.positive_P + start)
        negatives.append(one.negative_Q + start)
        start += count
    places_S = torch.cat([*positives, *negatives])
    counts = tuple(len(positive_P) for positive_P in positives)
    positive_P = torch.arange(sum(counts), device=places_S.device)
    weight_S = torch.ones_like(places_S, dtype=torch.float32)
    return Draws(places_S, weight_S, positive_P, weight_S[: sum(counts)], counts)


def _draw(rank_A: torch.Tensor, count: int, some: int) -> torch.Tensor:
    """The indices of `some` of `count` members, drawn without replacement: int64, ascending.

    rank_A   [A], number of members up to and including each index
    """
    chosen = torch.randperm(count, device=rank_A.device)[:some].sort().values
    return torch.searchsorted(rank_A, chosen + 1)
