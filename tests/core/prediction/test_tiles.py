from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core.prediction.tiles import Window, merge_tiles, tiles
from core.sample import Detections, MaskCrop
from tests.core.scenes import assert_same_detections

seeds = st.integers(0, 2**32 - 1)


def canvas(crop: MaskCrop, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.bool_)
    h, w = crop.pixels.shape
    full[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return full


def detections(rows: list[tuple[np.ndarray, int, float]]) -> Detections:
    """Detections from full masks [H, W] with class and score; boxes are tight."""
    rows = sorted((row for row in rows if row[0].any()), key=lambda row: -row[2])
    boxes, crops = [], []
    for full, _, _ in rows:
        y, x = ndimage.find_objects(full.astype(np.int8))[0]
        boxes.append((x.start, y.start, x.stop, y.stop))
        crops.append(MaskCrop(y.start, x.start, full[y, x]))
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in rows], np.int64),
        np.array([score for _, _, score in rows], np.float32),
        tuple(crops),
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 1000))
def test_what_is_no_larger_than_a_quarter_of_a_tile_is_whole_in_one(
    height: int, width: int, side: int
) -> None:
    windows = tiles(height, width, side)
    for length, spans in (
        (height, {(window.y0, window.y1) for window in windows}),
        (width, {(window.x0, window.x1) for window in windows}),
    ):
        ordered = sorted(spans)
        assert ordered[0][0] == 0
        assert ordered[-1][1] == length
        assert all(stop - start == min(side, length) for start, stop in ordered)
        shared = [before[1] - after[0] for before, after in pairwise(ordered)]
        assert all(side // 4 <= overlap < side for overlap in shared)
    rows, columns = {window.y0 for window in windows}, {window.x0 for window in windows}
    assert len(windows) == len(rows) * len(columns)


@given(st.integers(1, 500), st.integers(1, 500))
def test_an_image_no_larger_than_a_tile_is_one_tile(height: int, width: int) -> None:
    whole = [Window(0, 0, height, width)]
    assert (
        tiles(height, width, 0)
        == tiles(height, width, 500)
        == tiles(height, width, max(height, width))
        == whole
    )


def disjoint_scene(
    rng: np.random.Generator, height: int, width: int, largest: int
) -> list[tuple[np.ndarray, int]]:
    """Full masks of rectangles and ellipses that share no pixel, from tiny to `largest` pixels,
    each with a class.
    """
    free = np.ones((height, width), np.bool_)
    rows, columns = np.mgrid[:height, :width]
    instances = []
    for _ in range(30):
        h, w = rng.integers(3, largest + 1, 2)
        y, x = rng.integers(-2, height), rng.integers(-2, width)
        if rng.random() < 0.5:
            full = (rows >= y) & (rows < y + h) & (columns >= x) & (columns < x + w)
        else:
            full = ((rows - y - h / 2 + 0.5) / (h / 2)) ** 2 + (
                (columns - x - w / 2 + 0.5) / (w / 2)
            ) ** 2 <= 1
        if full.any() and (free | ~full).all():
            free &= ~full
            instances.append((full, int(rng.integers(1, 3))))
    return instances


def seen_in(window: Window, full: np.ndarray) -> np.ndarray:
    visible = np.zeros_like(full)
    part = slice(window.y0, window.y1), slice(window.x0, window.x1)
    visible[part] = full[part]
    return visible


@settings(deadline=None, max_examples=60)
@given(
    seeds,
    st.integers(60, 150),
    st.integers(60, 150),
    st.sampled_from([32, 40, 64]),
    st.sampled_from([8, 30, 100]),
)
def test_every_instance_is_found_once_and_whole_whatever_tiles_cut_it(
    seed: int, height: int, width: int, side: int, largest: int
) -> None:
    rng = np.random.default_rng(seed)
    instances = disjoint_scene(rng, height, width, largest)
    windows = tiles(height, width, side)
    found = [
        detections([(seen_in(window, full), c, rng.random()) for full, c in instances])
        for window in windows
    ]
    merged = merge_tiles(windows, found, height, width)
    assert (np.diff(merged.scores_N) <= 0).all()
    got = {
        (canvas(c, height, width).tobytes(), int(k))
        for c, k in zip(merged.masks, merged.labels_N, strict=True)
    }
    assert len(got) == len(merged)
    assert got == {(full.tobytes(), label) for full, label in instances}
    assert_same_detections(
        replace(merged, scores_N=np.zeros(len(merged))),
        replace(
            detections(
                [
                    (canvas(crop, height, width), int(label), float(score))
                    for crop, label, score in zip(
                        merged.masks, merged.labels_N, merged.scores_N, strict=True
                    )
                ]
            ),
            scores_N=np.zeros(len(merged)),
        ),
    )


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from([32, 48]))
def test_imperfect_masks_are_merged_too(seed: int, side: int) -> None:
    """Each tile may see an instance one pixel too small, and does not see slivers under eight
    pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = 110, 90
    instances = [
        (full, label)
        for full, label in disjoint_scene(rng, height, width, side)
        if thickness(full) >= 12
    ]
    assume(instances)
    windows = tiles(height, width, side)
    found = []
    for window in windows:
        rows = []
        for full, label in instances:
            visible = seen_in(window, full)
            if thickness(visible) >= 8:
                visible = ndimage.binary_erosion(visible) if rng.random() < 0.5 else visible
                rows.append((visible, label, rng.random()))
        found.append(detections(rows))
    merged = merge_tiles(windows, found, height, width)
    assert len(merged) == len(instances)
    for full, label in instances:
        overlaps = [
            (canvas(crop, height, width) & full).sum() / (canvas(crop, height, width) | full).sum()
            for crop, found_label in zip(merged.masks, merged.labels_N, strict=True)
            if found_label == label
        ]
        assert max(overlaps) > 0.4


def thickness(full: np.ndarray) -> int:
    return int(min(full.any(axis=0).sum(), full.any(axis=1).sum()))


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_order_of_the_tiles_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = disjoint_scene(rng, 90, 120, 50)
    windows = tiles(90, 120, 48)
    found = [
        detections([(seen_in(window, full), c, rng.random()) for full, c in instances])
        for window in windows
    ]
    order = rng.permutation(len(windows))
    assert_same_detections(
        merge_tiles(windows, found, 90, 120),
        merge_tiles([windows[k] for k in order], [found[k] for k in order], 90, 120),
    )


def test_an_instance_seen_whole_keeps_its_own_score_and_a_pieced_one_the_best_of_its_pieces() -> (
    None
):
    windows = tiles(64, 112, 64)
    assert windows == [Window(0, 0, 64, 64), Window(0, 48, 64, 112)]
    small, large = np.zeros((2, 64, 112), np.bool_)
    small[5:12, 52:66] = True  # cut by the first tile, whole in the second
    large[20:60, 30:90] = True  # cut by both
    found = [
        detections([(seen_in(windows[0], small), 1, 0.9), (seen_in(windows[0], large), 1, 0.3)]),
        detections([(small, 1, 0.6), (seen_in(windows[1], large), 1, 0.8)]),
    ]
    assert_same_detections(
        merge_tiles(windows, found, 64, 112), detections([(large, 1, 0.8), (small, 1, 0.6)])
    )


def test_classes_are_not_merged() -> None:
    windows = tiles(64, 112, 64)
    full = np.zeros((64, 112), np.bool_)
    full[10:20, 50:60] = True
    found = [detections([(full, 1, 0.9)]), detections([(full, 2, 0.8)])]
    assert merge_tiles(windows, found, 64, 112).labels_N.tolist() == [1, 2]


def test_tiles_without_a_detection_merge_to_none() -> None:
    merged = merge_tiles(tiles(64, 112, 64), [detections([])] * 2, 64, 112)
    assert merged.boxes_N4.shape == (0, 4)
    assert len(merged) == len(merged.masks) == 0
