import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from core.labels import label_maps as masks

SEEDS = st.integers(0, 2**32 - 1)
CPU = torch.device("cpu")
DEVICES = [CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])


def random_label_maps(
    rng: np.random.Generator, height: int, width: int, instances: int, maps: int = 1
) -> np.ndarray:
    """Ellipses and rectangles of 1 px up to the whole image, many cut by the border; later ones
    hide earlier ones.
    """
    label_maps = np.zeros((maps, height, width), dtype=np.uint16)
    y, x = np.mgrid[:height, :width]
    for number in rng.permutation(instances) + 1:
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.choice(
            [0.6, 4.0, 12.0, max(height, width)], p=[0.2, 0.4, 0.35, 0.05]
        ) * rng.uniform(0.5, 1.5, 2)
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        if rng.random() < 0.5:
            inside = (abs(y - cy) <= ry) & (abs(x - cx) <= rx)
        label_maps[rng.integers(maps), inside] = number
    for number in np.unique(label_maps):  # keep each instance in one map
        holders = np.flatnonzero((label_maps == number).any(axis=(1, 2)))
        for index in holders[1:]:
            label_maps[index][label_maps[index] == number] = 0
    return label_maps


def full_masks(label_maps: np.ndarray) -> dict[int, np.ndarray]:
    """Every instance's mask by its number: the stack that core/labels/label_maps.py never makes."""
    return {
        int(number): (label_maps == number).any(axis=0)
        for number in np.unique(label_maps)
        if number
    }


def box_of(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.integers(0, 12), st.integers(1, 3))
def test_every_instance_is_found_once_with_its_map_area_and_tightest_box(
    seed, height, width, instances, maps
):
    label_maps = random_label_maps(np.random.default_rng(seed), height, width, instances, maps)
    label_maps.setflags(write=False)
    truth = full_masks(label_maps)
    found = masks.find_instances(label_maps)
    assert found.ids_N.tolist() == sorted(truth)
    for index, number in enumerate(found.ids_N):
        mask = truth[number]
        assert found.areas_N[index] == mask.sum()
        assert found.boxes_N4[index].tolist() == box_of(mask)
        assert (label_maps[found.maps_N[index]] == number).any()
        x0, y0, x1, y1 = box_of(mask)
        crop = masks.crop_mask(label_maps, found, index)
        assert (crop.y0, crop.x0) == (y0, x0)
        assert np.array_equal(crop.pixels, mask[y0:y1, x0:x1])


def test_instances_are_of_int64_also_when_there_is_none():
    for label_maps in (np.zeros((1, 5, 5), np.uint16), np.ones((1, 5, 5), np.uint16)):
        found = masks.find_instances(label_maps)
        assert {
            array.dtype for array in (found.ids_N, found.maps_N, found.boxes_N4, found.areas_N)
        } == {np.dtype(np.int64)}
        assert found.boxes_N4.shape == (len(found), 4)


def test_an_instance_in_two_pieces_is_one_instance_whose_box_holds_both():
    label_maps = np.zeros((1, 8, 8), np.uint16)
    label_maps[0, 1, 1] = label_maps[0, 6, 5] = 7
    found = masks.find_instances(label_maps)
    assert found.ids_N.tolist() == [7]
    assert found.boxes_N4.tolist() == [[1, 1, 6, 7]]
    assert found.areas_N.tolist() == [2]


def test_the_highest_instance_number_is_found_and_reaches_the_target():
    label_maps = np.zeros((1, 4, 4), np.uint16)
    label_maps[0, 2, 3] = 65535
    target = masks.target_of(label_maps, np.full(65535, 2), np.zeros(65535, bool))
    assert target.ids_N.tolist() == [-1]  # the bits of 65535
    assert target.label_maps_LHW.unique().tolist() == [-1, 0]
    assert target.boxes_N4.tolist() == [[3, 2, 4, 3]]


def test_a_target_has_neither_crowd_regions_nor_vanished_instances_and_keeps_the_numbers():
    label_maps = np.zeros((2, 10, 10), np.uint16)
    label_maps[0, 0:3, 0:4] = 1
    label_maps[0, 5:6, 5:6] = 3
    label_maps[1, 4:9, 4:9] = 4
    labels_N, crowd_N = np.array([2, 1, 3, 1]), np.array([False, False, False, True])
    target = masks.target_of(label_maps, labels_N, crowd_N)
    assert target.ids_N.tolist() == [1, 3]  # 2 has no pixel, 4 is a crowd
    assert target.labels_N.tolist() == [2, 3]
    assert target.maps_N.tolist() == [0, 0]
    assert target.boxes_N4.tolist() == [[0, 0, 4, 3], [5, 5, 6, 6]]
    assert [
        tensor.dtype for tensor in (target.boxes_N4, target.labels_N, target.ids_N, target.maps_N)
    ] == [
        torch.float32,
        torch.int64,
        torch.int16,
        torch.int64,
    ]
    assert target.sides_N2 is not None
    assert target.sides_N2.tolist() == [[3, 4], [1, 1]]
    assert target.label_maps_LHW.dtype == torch.int16
    assert np.array_equal(target.label_maps_LHW.numpy().view(np.uint16), label_maps)


def test_an_image_without_instances_makes_an_empty_target():
    target = masks.target_of(
        np.zeros((1, 6, 7), np.uint16), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    assert target.boxes_N4.shape == (0, 4)
    assert target.labels_N.shape == target.ids_N.shape == target.maps_N.shape == (0,)


@settings(deadline=None, max_examples=80)
@given(
    SEEDS,
    st.integers(2, 70),
    st.integers(2, 70),
    st.integers(1, 2),
    st.integers(4, 90),
    st.integers(4, 140),
)
def test_resized_label_maps_hold_the_pixels_that_torchvision_gives_each_mask(
    seed, height, width, maps, low, high
):
    label_maps = random_label_maps(np.random.default_rng(seed), height, width, 6, maps)
    truth = full_masks(label_maps)
    transform = GeneralizedRCNNTransform(
        low, max(low, high), [0.0] * 3, [1.0] * 3, size_divisible=1
    )
    boxes = torch.tensor([box_of(mask) for mask in truth.values()], dtype=torch.float32).reshape(
        -1, 4
    )
    stack = torch.from_numpy(
        np.array(list(truth.values()), dtype=np.uint8).reshape(-1, height, width)
    )
    try:
        images, targets = transform(
            [torch.zeros(3, height, width)], [{"boxes": boxes, "masks": stack}]
        )
    except RuntimeError:  # torchvision refuses sides that shrink to nothing
        return
    new_height, new_width = images.image_sizes[0]
    resized = masks.resize_label_maps(label_maps, new_height, new_width)
    assert resized.dtype == np.uint16
    assert resized.flags.c_contiguous
    assert resized.shape == (maps, new_height, new_width)
    for number, mask in zip(truth, targets[0]["masks"], strict=True):
        assert np.array_equal((resized == number).any(axis=0), mask.numpy().astype(bool))
    assert torch.equal(
        targets[0]["boxes"], resize_boxes(boxes, (height, width), (new_height, new_width))
    )


def proposals_around(
    rng: np.random.Generator, boxes: np.ndarray, height: int, width: int, count: int
) -> np.ndarray:
    """Proposals of all kinds: near an instance, far beyond it, elsewhere, tiny, exact, touching
    the image's border.
    """
    chosen = boxes[rng.integers(len(boxes), size=count)]
    spread = rng.choice([0.0, 0.3, 3.0, 40.0], size=(count, 1))
    proposals = chosen + rng.normal(0, 1, (count, 4)) * spread
    proposals[rng.random(count) < 0.1] = [0, 0, width, height]
    tiny = rng.random(count) < 0.1
    proposals[tiny, 2:] = proposals[tiny, :2] + rng.uniform(0, 1, (tiny.sum(), 2))
    if rng.random() < 0.8:  # as the network's are; the equality holds for others too
        proposals = np.clip(proposals, 0, [width, height, width, height])
    return np.concatenate(
        [
            np.minimum(proposals[:, :2], proposals[:, 2:]),
            np.maximum(proposals[:, :2], proposals[:, 2:]),
        ],
        axis=1,
    ).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(deadline=None, max_examples=40)
@given(
    SEEDS, st.integers(3, 200), st.integers(3, 200), st.integers(1, 3), st.sampled_from([7, 28, 56])
)
def test_mask_targets_equal_those_of_torchvision_on_full_masks(
    device, seed, height, width, maps, size
):
    rng = np.random.default_rng(seed)
    label_maps = random_label_maps(rng, height, width, 12, maps)
    label_maps[0, -1, -1] = 13  # one instance at least, in a corner
    truth = full_masks(label_maps)
    found = masks.find_instances(label_maps)
    proposals = proposals_around(rng, found.boxes_N4, height, width, 40)
    matched = rng.integers(len(found), size=40)
    stack = torch.from_numpy(np.array([truth[number] for number in found.ids_N])).to(device)
    proposals_P4 = torch.from_numpy(proposals).to(device)
    wanted = project_masks_on_boxes(stack, proposals_P4, torch.from_numpy(matched).to(device), size)
    got = masks.mask_targets(
        torch.from_numpy(label_maps.astype(np.int32)).to(device),
        torch.from_numpy(found.ids_N[matched]).to(device),
        torch.from_numpy(found.maps_N[matched]).to(device),
        proposals_P4,
        size,
    )
    assert got.dtype == torch.float32
    assert got.shape == (40, size, size)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_mask_targets_are_as_exact_in_a_large_image_as_torchvision_in_float64():
    """The rounding of torchvision grows with the coordinate, to 1.2e-4 at 1333 px; that of a
    window does not.
    """
    rng = np.random.default_rng(1)
    label_maps = random_label_maps(rng, 800, 1333, 12)
    found = masks.find_instances(label_maps)
    matched = rng.integers(len(found), size=50)
    proposals_P4 = torch.from_numpy(proposals_around(rng, found.boxes_N4, 800, 1333, 50))
    got = masks.mask_targets(
        torch.from_numpy(label_maps.astype(np.int32)),
        torch.from_numpy(found.ids_N[matched]),
        torch.from_numpy(found.maps_N[matched]),
        proposals_P4,
    )
    stack = torch.from_numpy(
        np.array([(label_maps == number).any(axis=0) for number in found.ids_N])
    )
    wanted = project_masks_on_boxes(stack, proposals_P4.double(), torch.from_numpy(matched), 28)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_mask_targets_repeat_the_last_pixel_at_the_border_of_the_image(side):
    label_map = np.zeros((1, 40, 60), np.uint16)
    label_map[
        0,
        {"top": slice(0, 9), "bottom": slice(31, 40)}.get(side, slice(10, 20)),
        {"left": slice(0, 9), "right": slice(51, 60)}.get(side, slice(10, 20)),
    ] = 1
    found = masks.find_instances(label_map)
    one = torch.tensor([0])
    proposals = torch.from_numpy(found.boxes_N4).float()
    got = masks.mask_targets(torch.from_numpy(label_map.astype(np.int32)), one + 1, one, proposals)
    wanted = project_masks_on_boxes(torch.from_numpy(label_map == 1), proposals, one, 28)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    edge = {"left": got[0, :, 0], "top": got[0, 0], "right": got[0, :, -1], "bottom": got[0, -1]}[
        side
    ]
    assert edge[5:20].min() == 1, "without repeating, the outermost row or column would fade"


def test_mask_targets_do_not_depend_on_how_the_windows_are_divided(monkeypatch):
    rng = np.random.default_rng(3)
    label_maps = random_label_maps(rng, 120, 150, 20, 2)
    found = masks.find_instances(label_maps)
    matched = rng.integers(len(found), size=60)
    proposals = proposals_around(rng, found.boxes_N4, 120, 150, 60)
    arguments = (
        torch.from_numpy(label_maps.astype(np.int32)),
        torch.from_numpy(found.ids_N[matched]),
        torch.from_numpy(found.maps_N[matched]),
        torch.from_numpy(proposals),
    )
    at_once = masks.mask_targets(*arguments)
    for pixels in (1, 500, 20_000):
        monkeypatch.setattr(masks, "WINDOW_PIXELS", pixels)
        torch.testing.assert_close(masks.mask_targets(*arguments), at_once, rtol=0, atol=5e-5)


@pytest.mark.parametrize("pixels", [1, 3000, 2**24])
def test_windows_of_one_given_size_hold_every_proposal_that_is_no_larger(monkeypatch, pixels):
    rng = np.random.default_rng(4)
    label_maps = random_label_maps(rng, 120, 150, 20, 2)
    found = masks.find_instances(label_maps)
    matched = rng.integers(len(found), size=60)
    proposals = proposals_around(rng, found.boxes_N4, 120, 150, 60)
    sides = np.maximum(proposals[:, 2:] - proposals[:, :2], 1)
    arguments = (
        torch.from_numpy(label_maps.astype(np.int32)),
        torch.from_numpy(found.ids_N[matched]),
        torch.from_numpy(found.maps_N[matched]),
        torch.from_numpy(proposals),
    )
    wanted = masks.mask_targets(*arguments)
    monkeypatch.setattr(masks, "PIXELS_ON_A_GPU", pixels)
    for side in (10, 40, 200):
        held = torch.from_numpy((sides <= side).all(axis=1))
        got = masks.mask_targets(*arguments, largest=(side, side))
        torch.testing.assert_close(got[held], wanted[held], rtol=0, atol=5e-5)
        assert got.isfinite().all()


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(3, 90), st.integers(3, 90), st.integers(3, 160), st.integers(3, 160))
def test_targets_of_maps_that_are_read_at_another_size_are_those_of_resized_maps_bit_for_bit(
    seed, height, width, new_height, new_width
):
    rng = np.random.default_rng(seed)
    label_maps = random_label_maps(rng, height, width, 9, 2)
    label_maps[0, -1, -1] = 10
    resized = masks.resize_label_maps(label_maps, new_height, new_width)
    found = masks.find_instances(label_maps)
    scale = np.array([new_width / width, new_height / height] * 2)
    proposals = proposals_around(rng, found.boxes_N4 * scale, new_height, new_width, 30)
    matched = rng.integers(len(found), size=30)
    arguments = (
        torch.from_numpy(found.ids_N[matched].astype(np.uint16).view(np.int16)),
        torch.from_numpy(found.maps_N[matched]),
        torch.from_numpy(proposals),
    )
    seen = new_height, new_width
    for largest in (None, (25, 40)):
        got = masks.mask_targets(
            torch.from_numpy(label_maps.view(np.int16)), *arguments, seen=seen, largest=largest
        )
        wanted = masks.mask_targets(
            torch.from_numpy(resized.view(np.int16)), *arguments, largest=largest
        )
        assert torch.equal(got, wanted)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(3, 120), st.integers(3, 120), st.sampled_from([1, 15_000, 2**24]))
def test_targets_from_whole_masks_equal_those_of_windows_and_other_proposals_get_zeros(
    seed, height, width, pixels
):
    rng = np.random.default_rng(seed)
    label_maps = random_label_maps(rng, height, width, 9, 2)
    label_maps[0, -1, -1] = 65535
    found = masks.find_instances(label_maps)
    matched = rng.integers(len(found), size=30)
    proposals_P4 = torch.from_numpy(proposals_around(rng, found.boxes_N4, height, width, 30))
    maps = torch.from_numpy(label_maps.view(np.int16))
    ids_N = torch.from_numpy(found.ids_N.astype(np.uint16).view(np.int16))
    maps_N = torch.from_numpy(found.maps_N)
    some_K = torch.from_numpy(rng.permutation(len(found))[: rng.integers(len(found) + 1)])
    instance_N = torch.full((len(found),), -1)
    instance_N[some_K] = torch.arange(len(some_K))
    wanted = masks.mask_targets(maps, ids_N[matched], maps_N[matched], proposals_P4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(masks, "PIXELS_ON_A_GPU", pixels)
        got = masks.whole_mask_targets(
            maps, ids_N[some_K], maps_N[some_K], instance_N[matched], proposals_P4
        )
    theirs = instance_N[matched] >= 0
    torch.testing.assert_close(got[theirs], wanted[theirs], rtol=0, atol=5e-5)
    assert not got[~theirs].any()


sides = st.lists(st.tuples(st.integers(1, 800), st.integers(1, 1300)), max_size=40)


@settings(deadline=None, max_examples=200)
@given(sides, st.integers(1, 256), st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, 0.37]))
def test_windows_hold_all_instances_but_the_longest_and_fewer_pixels_than_those_of_the_largest(
    sides, proposals, ratio, scale
):
    size = 800, 1344
    sides_N2 = scale * np.array(sides, np.float64).reshape(-1, 2)
    (height, width), count = masks.window_sizes(sides_N2, size, proposals, ratio)
    order = np.argsort(-sides_N2.max(axis=1, initial=1), kind="stable")
    large, rest = sides_N2[order[:count]], sides_N2[order[count:]]
    assert (ratio * rest <= [height, width]).all()
    if count and len(rest):
        assert large.max(axis=1).min() >= rest.max() + masks.LONGER

    def pixels(largest, whole):
        window = min(largest[0] + 3, size[0]) * min(largest[1] + 3, size[1])
        return proposals * window + whole * size[0] * size[1]

    of_the_largest = [int(ratio * side) + 1 for side in sides_N2.max(axis=0, initial=1)]
    assert pixels((height, width), count) <= pixels(of_the_largest, 0)
    if pixels(of_the_largest, 0) <= masks.PIXELS_ON_A_GPU:
        assert count == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(2, 900), st.integers(2, 900)), max_size=60))
def test_windows_are_gathered_in_pieces_of_bounded_size_and_each_once(sides):
    ascending = sorted((list(pair) for pair in sides), key=np.prod)
    next_one = 0
    for start, stop, w, h in masks._chunks(ascending):
        assert start == next_one < stop
        next_one = stop
        assert all(width <= w and height <= h for width, height in ascending[start:stop])
        assert stop - start == 1 or (stop - start) * w * h <= masks.WINDOW_PIXELS
    assert next_one == len(sides)


def test_no_proposals_make_no_mask_targets():
    none = torch.zeros(0, dtype=torch.int64)
    targets = masks.mask_targets(
        torch.zeros(1, 9, 9, dtype=torch.int32), none, none, torch.zeros(0, 4)
    )
    assert targets.shape == (0, 28, 28)


def pasted(crops: list, height: int, width: int) -> np.ndarray:
    stack = np.zeros((len(crops), height, width), dtype=bool)
    for mask, crop in zip(stack, crops, strict=True):
        h, w = crop.pixels.shape
        assert 0 <= crop.y0 <= crop.y0 + h <= height or crop.pixels.size == 0
        assert 0 <= crop.x0 <= crop.x0 + w <= width or crop.pixels.size == 0
        mask[crop.y0 : crop.y0 + h, crop.x0 : crop.x0 + w] = crop.pixels
    return stack


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 90), st.integers(1, 90), st.sampled_from([0.5, 0.3]))
def test_pasted_masks_are_pixel_identical_to_those_of_torchvision(seed, height, width, threshold):
    rng = np.random.default_rng(seed)
    size = np.array([width, height])
    first = rng.uniform(-0.3, 1, (30, 2)) * size
    boxes = np.concatenate(
        [first, first + rng.choice([-0.01, 0.0, 0.02, 0.3, 1.0], (30, 2)) * size], axis=1
    )
    boxes = boxes[
        (boxes[:, 2:] > 0.1).all(axis=1) & (boxes[:, :2] < size - 1).all(axis=1)
    ]  # meet the image
    boxes_N4 = torch.from_numpy(boxes.astype(np.float32))
    smooth = torch.nn.functional.interpolate(
        torch.rand(len(boxes), 1, 5, 5), size=(28, 28), mode="bicubic"
    )[:, 0]
    probs = torch.where(
        torch.rand(len(boxes), 1, 1) < 0.5, smooth, torch.rand(len(boxes), 28, 28)
    ).clamp(0, 1)
    wanted = paste_masks_in_image(probs[:, None], boxes_N4, (height, width))[:, 0] > threshold
    got = masks.paste_masks(probs, boxes_N4, height, width, threshold)
    assert np.array_equal(pasted(got, height, width), wanted.numpy())


@pytest.mark.parametrize(
    "box", [[-30, 5, -10, 15], [5, -30, 15, -10], [70, 5, 90, 15], [5, 70, 15, 90]]
)
def test_a_box_outside_the_image_gives_an_empty_mask(box):
    crops = masks.paste_masks(
        torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), 50, 60
    )
    assert [crop.area for crop in crops] == [0]


def test_a_pasted_window_is_no_larger_than_its_box_grown_by_the_padding():
    crops = masks.paste_masks(
        torch.ones(1, 28, 28), torch.tensor([[100.0, 200, 128, 256]]), 2000, 2000
    )
    assert crops[0].pixels.shape == (61, 31)  # 30 / 28 of the box, both ends counted
