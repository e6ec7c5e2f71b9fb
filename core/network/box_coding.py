"""Boxes as offsets from other boxes, and back: torchvision's numbers in half its operations.

torchvision brings its weights and a half to the GPU at each call, and waits for it.
"""

import torch
from torchvision.models.detection._utils import BoxCoder


class OffsetCoder(BoxCoder):  # type: ignore[misc]
    """torchvision's coder, the same roundings."""

    def encode_single(self, reference_boxes: torch.Tensor, proposals: torch.Tensor) -> torch.Tensor:
        """Float32 [P, 4]: what moves each of `proposals` [P, 4] to the box of the same row in `reference_boxes`."""
        corners_P2, sides_P2 = _corners_and_sides(proposals)
        wanted_corners_P2, wanted_sides_P2 = _corners_and_sides(reference_boxes)
        centres_P2 = corners_P2 + 0.5 * sides_P2
        wanted_centres_P2 = wanted_corners_P2 + 0.5 * wanted_sides_P2
        weight_x, weight_y, weight_w, weight_h = self.weights
        assert weight_x == weight_y
        assert weight_w == weight_h
        moves_P2 = weight_x * (wanted_centres_P2 - centres_P2) / sides_P2
        return torch.cat((moves_P2, weight_w * torch.log(wanted_sides_P2 / sides_P2)), dim=1)

    def decode_single(self, rel_codes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Float32 [P, 4 C]: what is reached from `boxes` [P, 4] by each of their C offsets, `rel_codes` [P, 4 C]."""
        corners_P2, sides_P2 = _corners_and_sides(boxes.to(rel_codes.dtype))
        centres_P12 = (corners_P2 + 0.5 * sides_P2)[:, None]
        sides_P12 = sides_P2[:, None]
        weight_x, _, weight_w, _ = self.weights
        codes_PC4 = rel_codes.reshape(len(rel_codes), rel_codes.shape[1] // 4, 4)
        moves_PC2, growth_PC2 = codes_PC4[..., :2] / weight_x, codes_PC4[..., 2:] / weight_w
        centres_PC2 = moves_PC2 * sides_P12 + centres_P12
        half_PC2 = 0.5 * (torch.exp(growth_PC2.clamp(max=self.bbox_xform_clip)) * sides_P12)
        return torch.cat((centres_PC2 - half_PC2, centres_PC2 + half_PC2), dim=2).flatten(1)


def _corners_and_sides(boxes_P4: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First corner and sides (x, y) of each box, float32 [P, 2] each."""
    return boxes_P4[:, :2], boxes_P4[:, 2:] - boxes_P4[:, :2]
