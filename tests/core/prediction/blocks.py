"""A detector that cannot err, for laws of prediction: it finds each block of one colour.

A block's red is its score times 256 and its green its class; background is black. What it finds in
a picture through a symmetry is what it finds in the picture, through the symmetry. It does not see
slivers that a border leaves of a block, for which pasted masks are too coarse.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from core.config import PredictConfig
from core.network.detector import Detector, RawDetections, Traits
from core.sample import Detections

SLIVER = 4
"""Least height and width of what is seen, in pixels."""
Block = tuple[int, int, int, int, int, int]
"""First row and column, height and width in pixels, class number, score times 256."""


class Blocks(Detector):
    """See the module.

    brighter   what this detector adds to each score
    """

    def __init__(self, predict: PredictConfig, brighter: float = 0.0) -> None:
        super().__init__(predict, Traits(False, 0.0, False))
        self.anywhere = torch.nn.Parameter(torch.zeros(1))
        self.brighter = brighter
        self.looks: list[tuple[tuple[int, ...], float]] = []
        self.eval()

    def losses(self, *_: object) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def freeze(self, *_: object) -> None:
        raise NotImplementedError

    def seen_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        return round(height * scale), round(width * scale)

    def detect(self, images: Sequence[torch.Tensor], scale: float = 1.0) -> list[RawDetections]:
        self.looks += [(tuple(image.shape[1:]), scale) for image in images]
        return [self._found((image * 255).round().byte().numpy()) for image in images]

    def _found(self, pixels: NDArray[np.uint8]) -> RawDetections:
        blocks, _ = ndimage.label(pixels[0])
        rows = []
        for y, x in ndimage.find_objects(blocks):
            red, green = (int(pixels[channel, y.start, x.start]) for channel in (0, 1))
            score = min(red / 256 + self.brighter, 1.0)
            whole = min(y.stop - y.start, x.stop - x.start) >= SLIVER
            if whole and score > self.predict.score_threshold:
                rows.append((-score, x.start, y.start, x.stop, y.stop, green))
        table = np.array(sorted(rows)[: self.predict.max_detections], np.float32).reshape(-1, 6)
        return RawDetections(
            torch.from_numpy(table[:, 1:5].copy()),
            torch.from_numpy(table[:, 5].astype(np.int64)),
            torch.from_numpy(-table[:, 0]),
            torch.ones(len(table), 28, 28),
        )


def picture(height: int, width: int, blocks: Sequence[Block]) -> NDArray[np.uint8]:
    """An image of blocks, uint8 [height, width, 3]."""
    image = np.zeros((height, width, 3), np.uint8)
    for y, x, h, w, label, score in blocks:
        image[y : y + h, x : x + w] = (score, label, 1)
    return image


def rows(found: Detections) -> list[tuple[float, ...]]:
    """Score, class and box of each detection, sorted."""
    columns = found.scores_N.tolist(), found.labels_N.tolist(), found.boxes_N4.tolist()
    return sorted((score, label, *box) for score, label, box in zip(*columns, strict=True))
