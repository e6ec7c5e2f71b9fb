"""Boxes as offsets from other boxes, and back: torchvision's numbers in half its operations.

torchvision brings its weights and a half to the GPU at each call, and waits for it.
"""

import math
from dataclasses import dataclass

import torch

MOST_GROWTH = math.log(1000 / 16)
"""Largest logarithm by which a side may grow, so that no box becomes infinite."""


@dataclass(frozen=True)
class OffsetCoder:
    """torchvision's coder, the same roundings.

    centre_weight   factor on the moves of a centre, in sides of the box it is moved from
    size_weight     factor on the logarithms of the sides' growth
    """

    centre_weight: float
    size_weight: float

    def encode(self, wanted_P4: torch.Tensor, boxes_P4: torch.Tensor) -> torch.Tensor:
        """Float32 [P, 4]: what brings each of `boxes_P4` to the box of the same row in
        `wanted_P4`.
        """
        corners_P2, sides_P2 = _corners_and_sides(boxes_P4)
        wanted_corners_P2, wanted_sides_P2 = _corners_and_sides(wanted_P4)
        centres_P2 = corners_P2 + 0.5 * sides_P2
        wanted_centres_P2 = wanted_corners_P2 + 0.5 * wanted_sides_P2
        moves_P2 = self.centre_weight * (wanted_centres_P2 - centres_P2) / sides_P2
        growth_P2 = self.size_weight * torch.log(wanted_sides_P2 / sides_P2)
        return torch.cat((moves_P2, growth_P2), dim=1)

    def decode(self, offsets: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Float32 [..., 4]: the boxes that `offsets` reach from `boxes`; both [..., 4],
        broadcast.
        """
        corners, sides = _corners_and_sides(boxes)
        centres = offsets[..., :2] / self.centre_weight * sides + (corners + 0.5 * sides)
        growth = (offsets[..., 2:] / self.size_weight).clamp(max=MOST_GROWTH)
        half_sides = 0.5 * (torch.exp(growth) * sides)
        return torch.cat((centres - half_sides, centres + half_sides), dim=-1)


def _corners_and_sides(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First corner and sides (x, y) of each box, float32 [..., 2] each."""
    return boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
