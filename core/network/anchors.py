"""The boxes from which proposals start, computed once for each image size."""

from collections.abc import Sequence

import torch

ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Side of a square anchor at each level of the pyramid, in pixels of the resized image, before it
is multiplied by `model.anchor_scale`."""
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
"""Height divided by width of the anchors in each cell of a level."""
STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the resized image between the cells of each level."""
SIZES_KEPT = 8
"""Number of batch sizes whose anchors are kept. Each takes 4 MB at 800 x 1333 pixels."""


class Anchors:
    """The same anchors as torchvision's, which computes them for every batch in 52 operations.

    sides    side of a square anchor in pixels, one for each level of the pyramid
    ratios   height divided by width of the anchors in each cell of a level
    """

    def __init__(self, sides: Sequence[float], ratios: Sequence[float]) -> None:
        self.sides = tuple(sides)
        roots_Z = torch.tensor(ratios).sqrt()
        self.of_cell = [_around_zero(1 / roots_Z * side, roots_Z * side) for side in sides]
        self._kept: dict[tuple[object, ...], torch.Tensor] = {}
        self._cells: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}

    def __call__(self, image_size: Sequence[int], levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The anchors of a batch, [A, 4]: x0 y0 x1 y1 in pixels of the batch, level after level.

        image_size   height and width of the batch in pixels, padding included
        levels       [B, F, H, W] of each level; the anchors have their dtype and device

        The tensor is shared between calls, so the caller must not write to it.
        """
        dtype, device = levels[0].dtype, levels[0].device
        grids = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        key = *image_size, grids, dtype, device
        anchors_A4 = self._kept.pop(key, None)
        if anchors_A4 is None:
            with torch.inference_mode(False):  # a batch that trains may use them later
                anchors_A4 = torch.cat(
                    [
                        _on_grid(of_cell_Z4, grid, image_size)
                        for of_cell_Z4, grid in zip(self._there(device, dtype), grids, strict=True)
                    ]
                )
        self._kept[key] = anchors_A4  # at the end: the size that was used last
        if len(self._kept) > SIZES_KEPT:
            del self._kept[next(iter(self._kept))]
        return anchors_A4

    def _there(self, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        """The anchors of one grid cell of each level on a device, copied there only once."""
        place = device, dtype
        if place not in self._cells:
            self._cells[place] = [of_cell_Z4.to(*place) for of_cell_Z4 in self.of_cell]
        return self._cells[place]


def _around_zero(widths_Z: torch.Tensor, heights_Z: torch.Tensor) -> torch.Tensor:
    """Boxes, float32 [Z, 4], centred on the image's upper left corner, with whole coordinates."""
    return (torch.stack([-widths_Z, -heights_Z, widths_Z, heights_Z], dim=1) / 2).round()


def _on_grid(
    of_cell_Z4: torch.Tensor, grid: tuple[int, int], image_size: Sequence[int]
) -> torch.Tensor:
    """The anchors of one cell at every cell of a grid, [A, 4]: by row, column, then anchor."""
    down, across = (
        torch.arange(cells, device=of_cell_Z4.device) * (pixels // cells)
        for cells, pixels in zip(grid, image_size, strict=True)
    )
    y_HW, x_HW = torch.meshgrid(down, across, indexing="ij")
    corners_HW14 = torch.stack([x_HW, y_HW, x_HW, y_HW], dim=2)[:, :, None]
    return (corners_HW14 + of_cell_Z4).reshape(-1, 4)
