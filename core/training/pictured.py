"""The picture that a trial keeps: one validation image with what its best epoch predicts there."""

import io
from collections.abc import Sequence

from PIL import Image

from core.data.dataset import Category
from core.metric.ap50 import MatchTable, balanced_score
from core.prediction import overlay
from core.sample import Detections, Sample

LARGEST_PIXELS = 4_000_000
"""Number of pixels above which an image is not pictured: drawing it would delay an epoch."""
PICTURED_SIDE = 420
"""Longest side of each of the three panels, in screen pixels."""
_QUALITY = 88


def pictured_image(samples: Sequence[Sample]) -> int | None:
    """The place of the image with the median number of instances; None if all are too large.

    All trials on one split picture the same image, so that their pictures compare.
    """
    small = [
        place
        for place, sample in enumerate(samples)
        if sample.size[0] * sample.size[1] <= LARGEST_PIXELS
    ]
    ranked = sorted(small, key=lambda place: (len(samples[place].labels_N), place))
    return ranked[len(ranked) // 2] if ranked else None


def picture(
    sample: Sample, found: Detections, classes: Sequence[Category], table: MatchTable
) -> bytes:
    """A JPEG of an image as it is, as annotated, and as predicted.

    table   the matches of the validation images, which choose the score from which detections are
            drawn: the one of the highest F1
    """
    score = balanced_score(table)
    drawn = overlay.draw_overlay(
        sample.image, found, classes, sample, PICTURED_SIDE, 0.5 if score is None else score
    )
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, format="JPEG", quality=_QUALITY)
    return stream.getvalue()
