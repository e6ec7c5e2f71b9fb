"""Images crowded with cells of about equal size, for benchmarks: fast to draw, and as many as
asked for.
"""

import numpy as np
from numpy.typing import NDArray

from core.sample import Sample

CLASSES = 4


def image_of_cells(instances: int, height: int, width: int, seed: int = 0) -> Sample:
    """An image of bright discs on a jittered grid, classes 1 to 4; none hides another, some
    touch the border.
    """
    rng = np.random.default_rng([seed, instances, height, width])
    columns = max(1, round((instances * width / height) ** 0.5))
    rows = -(-instances // columns)
    pitch = min(height / rows, width / columns)
    radius = min(0.42 * pitch, 14.0)
    places = np.sort(rng.permutation(rows * columns)[:instances])
    label_map = np.zeros((height, width), np.uint16)
    image = rng.integers(0, 90, (height, width, 3), np.uint8)
    y, x = np.mgrid[: int(2 * radius) + 2, : int(2 * radius) + 2]
    for number, place in enumerate(places.tolist(), start=1):
        cy = (place // columns + 0.5) * height / rows + rng.uniform(-0.06, 0.06) * pitch
        cx = (place % columns + 0.5) * width / columns + rng.uniform(-0.06, 0.06) * pitch
        top, left = int(cy - radius), int(cx - radius)
        disc = (y + top - cy) ** 2 + (x + left - cx) ** 2 <= radius**2
        window: NDArray[np.uint16] = label_map[
            max(top, 0) : top + len(disc), max(left, 0) : left + len(disc)
        ]
        disc = disc[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        window[disc] = number
        pixels = image[max(top, 0) : top + len(y), max(left, 0) : left + len(y)]
        pixels[disc] = pixels[disc] + rng.integers(60, 150)
    labels_N = rng.integers(1, CLASSES + 1, instances)
    return Sample(f"cells {seed}", image, label_map[None], labels_N, np.zeros(instances, np.bool_))
