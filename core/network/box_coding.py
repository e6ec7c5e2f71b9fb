"""Boxes as offsets from other boxes, and back: torchvision's numbers in half its operations.

torchvision copies its weights and the constant 0.5 to the GPU at each call, and waits for the copy.
"""

import math
from dataclasses import dataclass

import torch

MOST_GROWTH = math.log(1000 / 16)
"""Largest logarithm of the factor by which a side may grow, so that no box becomes infinite."""


@dataclass(frozen=True)
class OffsetCoder:
    """torchvision's BoxCoder, with the same rounding.

    centre_weight   factor on the offset of a centre, which is measured in sides of the original box
    size_weight     factor on the logarithm of the ratio of sides
    """

    centre_weight: float
    size_weight: float

    def encode(self, wanted_P4: torch.Tensor, boxes_P4: torch.Tensor) -> torch.Tensor:
        """The offsets from each box to the wanted box of the same row, float32 [P, 4]."""
        corners_P2, sides_P2 = _corners_and_sides(boxes_P4)
        wanted_corners_P2, wanted_sides_P2 = _corners_and_sides(wanted_P4)
        centres_P2 = corners_P2 + 0.5 * sides_P2
        wanted_centres_P2 = wanted_corners_P2 + 0.5 * wanted_sides_P2
        moves_P2 = self.centre_weight * (wanted_centres_P2 - centres_P2) / sides_P2
        growth_P2 = self.size_weight * torch.log(wanted_sides_P2 / sides_P2)
        return torch.cat((moves_P2, growth_P2), dim=1)

    def decode(self, offsets: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """The boxes at `offsets` from `boxes`, float32 [..., 4]; the two arguments broadcast."""
        corners, sides = _corners_and_sides(boxes)
        centres = offsets[..., :2] / self.centre_weight * sides + (corners + 0.5 * sides)
        growth = (offsets[..., 2:] / self.size_weight).clamp(max=MOST_GROWTH)
        half_sides = 0.5 * (torch.exp(growth) * sides)
        return torch.cat((centres - half_sides, centres + half_sides), dim=-1)


def _corners_and_sides(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First corner and sides (x, y) of each box, float32 [..., 2] each."""
    return boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
