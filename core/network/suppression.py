"""Non-maximum suppression in tensor operations alone, for many sets of boxes at once.

torchvision's goes through the boxes of a set one after the other, and waits for the GPU, because
Python must know how many boxes it keeps. Here a set is a row of a tensor, and the result is a mask.
"""

import contextlib

import torch

from core.network.matching import areas_of, entries_at_once, overlap

ROUNDS = 32
"""Number of times, even, that the mask is computed from the one before. Proposals in images of
cells needed up to 16 in the first steps of a training (results/LOG.md)."""
BOXES_A_PIECE = 2048
"""Largest number of boxes of a row that are compared with each other at once: in float16 the result
takes 8 MB."""


def suppress_in_rows(
    boxes_OT4: torch.Tensor, fits_OT: torch.Tensor, iou: float, rounds: int = ROUNDS
) -> torch.Tensor:
    """The boxes of each row that non-maximum suppression keeps, bool [O, T].

    boxes_OT4   float32, the best first in each row
    fits_OT     bool; a box that does not fit is not kept and suppresses none
    iou         a box is suppressed by a better one of its row that is kept, if their IoU is above
                this
    rounds      number of times that the mask is computed anew, even

    A box is kept if and only if no better box that is kept overlaps it. Starting from a mask that
    keeps all boxes, each round computes the mask anew from the one before by this rule. A chain is
    a sequence of boxes, each of which overlaps the one before it and is worse. After n rounds the
    first n boxes of every chain are right, so the result is torchvision's where no chain is longer
    than `rounds`. Otherwise it has all boxes that torchvision keeps, and may have others far down
    such a chain: a mask with too many boxes is followed by one with too few and that by one with
    too many, so after an even number of rounds none is missing.

    Rows of more than BOXES_A_PIECE boxes are done in pieces, the best boxes first. A chain then
    counts only within its piece, but a box that is kept wrongly may suppress boxes of later pieces.
    """
    kind = boxes_OT4.device.type
    with (
        torch.autocast(kind, enabled=False)  # it would copy the overlaps in every round
        if torch.amp.is_autocast_available(kind)
        else contextlib.nullcontext()
    ):
        return _kept_in_rows(boxes_OT4, fits_OT, iou, rounds)


def _kept_in_rows(
    boxes_OT4: torch.Tensor, fits_OT: torch.Tensor, iou: float, rounds: int
) -> torch.Tensor:
    """`suppress_in_rows`, outside of autocast."""
    # A box of zeros overlaps none.
    pieces = torch.split(torch.where(fits_OT[..., None], boxes_OT4, 0.0), BOXES_A_PIECE, dim=1)
    kept: list[torch.Tensor] = []
    for boxes_OK4, fits_OK in zip(pieces, torch.split(fits_OT, BOXES_A_PIECE, dim=1), strict=True):
        free_OK1 = fits_OK[..., None].to(torch.float16)
        for better_OK4, kept_OK1 in zip(pieces, kept, strict=False):
            free_OK1 = _not_covered(free_OK1, _overlaps(boxes_OK4, better_OK4, iou), kept_OK1)
        overlaps_OKK = _overlaps(boxes_OK4, boxes_OK4, iou).tril_(-1)  # with better ones
        kept_OK1 = free_OK1
        for _ in range(rounds):
            kept_OK1 = _not_covered(free_OK1, overlaps_OKK, kept_OK1)
        kept.append(kept_OK1)
    return torch.cat(kept, dim=1)[..., 0] > 0


def _not_covered(
    free_OK1: torch.Tensor, overlaps_OKT: torch.Tensor, kept_OT1: torch.Tensor
) -> torch.Tensor:
    """1 for each free box that overlaps no kept one, else 0; all arguments are 0 or 1.

    The number of kept boxes that it overlaps is subtracted. float16 holds it exactly, up to
    BOXES_A_PIECE, and GPUs without bfloat16 multiply matrices of it.
    """
    return torch.baddbmm(free_OK1, overlaps_OKT, kept_OT1, alpha=-1).clamp_(min=0)


def _overlaps(boxes_OK4: torch.Tensor, others_OT4: torch.Tensor, iou: float) -> torch.Tensor:
    """1 where the IoU is above `iou`, else 0: float16 [O, K, T]; some rows are done at a time."""
    rows, width, height = len(boxes_OK4), boxes_OK4.shape[1], others_OT4.shape[1]
    step = max(1, entries_at_once(boxes_OK4.device) // max(width * height, 1))
    areas_OK, other_areas_OT = areas_of(boxes_OK4), areas_of(others_OT4)
    found = [
        overlap(boxes_OK4[some], areas_OK[some], others_OT4[some], other_areas_OT[some])
        .gt(iou)
        .to(torch.float16)
        for some in (slice(start, start + step) for start in range(0, rows, step))
    ]
    return found[0] if len(found) == 1 else torch.cat(found)
