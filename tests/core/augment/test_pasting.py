"""Laws of instances pasted into a training image. The oracle holds one full mask an instance."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.augment.pasting import VISIBLE, Pasting
from core.data import synthetic
from core.labels.label_maps import find_instances, target_of
from core.sample import MAX_INSTANCES, Sample
from tests.core.scenes import random_sample

SEEDS = st.integers(0, 2**63 - 1)
TISSUE = synthetic.make_cells(images=6, side=96).samples


def scenes(seed: int, images: int = 4) -> list[Sample]:
    """Coloured images of overlapping rectangles, some of them crowd regions, all read-only."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(images):
        one = random_sample(rng, f"image{index}", [1, 2, 4], int(rng.choice([0, 1, 8, 20])))
        one = replace(one, image=rng.integers(0, 256, one.image.shape).astype(np.uint8))
        for array in (one.image, one.label_maps, one.labels_N, one.crowd_N):
            array.setflags(write=False)
        made.append(one)
    return made


def mask_of(sample: Sample, number: int) -> NDArray[np.bool_]:
    return np.asarray((sample.label_maps == number).any(axis=0))


def moved(pasting: Pasting, sample: Sample, seed: int) -> list[tuple[NDArray, NDArray, int]]:
    """The full mask of each pasted instance, the donor's image moved with it, and its class."""
    full = []
    for paste in pasting.draw(sample, seed):
        donor, found = pasting.training[paste.donor], pasting.found[paste.donor]
        number = int(found.ids_N[paste.row])
        ys, xs = np.nonzero(mask_of(donor, number))
        to = ys - ys.min() + paste.y0, xs - xs.min() + paste.x0
        mask, image = np.zeros(sample.size, bool), np.zeros_like(sample.image)
        mask[to], image[to] = True, donor.image[ys, xs]
        full.append((mask, image, int(donor.labels_N[number - 1])))
    return full


def pasting_of(training: list[Sample], **strengths: float) -> Pasting:
    return Pasting(training, **{"p": 1.0, "most": 6, "rarity": 0.5, "blend": 0.0} | strengths)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 40))
def test_pasting_into_label_maps_equals_pasting_mask_by_mask(seed: int, most: int) -> None:
    training = scenes(seed % 50)
    sample = training[seed % 4]
    pasting = pasting_of(training, most=most)
    masks = [mask_of(sample, number + 1) for number in range(len(sample.labels_N))]
    image, before = sample.image.copy(), [int(mask.sum()) for mask in masks]
    labels = sample.labels_N.tolist()
    for mask, colours, label in moved(pasting, sample, seed):
        masks = [other & ~mask for other in masks] + [mask]
        before.append(int(mask.sum()))
        image[mask] = colours[mask]
        labels.append(label)
    wanted = [
        mask if mask.sum() >= VISIBLE * area else np.zeros_like(mask)
        for mask, area in zip(masks, before, strict=True)
    ]
    made = pasting(sample, seed)
    assert np.array_equal(made.image, image)
    assert made.labels_N.tolist() == labels
    assert made.crowd_N.tolist() == [
        *sample.crowd_N,
        *[False] * (len(labels) - len(sample.crowd_N)),
    ]
    assert (made.name, made.label_maps.dtype) == (sample.name, np.uint16)
    for number, mask in enumerate(wanted, start=1):
        assert np.array_equal(mask_of(made, number), mask)
    target = target_of(made.label_maps, made.labels_N, made.crowd_N)
    there = [
        number
        for number, mask in enumerate(wanted, start=1)
        if mask.any() and not made.crowd_N[number - 1]
    ]
    assert target.ids_N.tolist() == there


def test_an_instance_that_keeps_a_few_pixels_is_removed_and_one_that_keeps_more_is_not() -> None:
    image = np.zeros((12, 20, 3), np.uint8)
    label_maps = np.zeros((1, 12, 20), np.uint16)
    label_maps[0, 1:11, 5:15] = 1
    one = np.array([1])
    donor = Sample("donor", image + 9, label_maps, one, np.array([False]))
    outcomes = set()
    for width in range(10, 21):  # the pasted one covers 10 columns of these
        below = np.zeros((1, 10, width), np.uint16)
        below[:] = 1
        sample = Sample("below", image[:10, :width], below, one, np.array([False]))
        made = pasting_of([donor, sample], most=1)(sample, 5)
        left = int((made.label_maps == 1).sum())
        outcomes.add(left)
        assert left == (10 * (width - 10) if (width - 10) / width >= VISIBLE else 0)
    assert 0 in outcomes
    assert len(outcomes) > 5


def test_a_rim_fades_into_the_image_and_the_inside_and_the_outside_do_not() -> None:
    width = 3.0
    sharp, soft = pasting_of(list(TISSUE), most=1), pasting_of(list(TISSUE), most=1, blend=width)
    faded = 0
    for seed in range(20):
        ((mask, _, _),) = moved(sharp, TISSUE[0], seed)
        hard, mild = sharp(TISSUE[0], seed), soft(TISSUE[0], seed)
        assert np.array_equal(hard.label_maps, mild.label_maps)
        assert np.array_equal(mild.image[~mask], TISSUE[0].image[~mask])
        depths = np.full(mask.shape, np.inf)
        ys, xs = np.nonzero(~np.pad(mask, 1))
        for y, x in np.argwhere(mask):
            depths[y, x] = np.hypot(ys - 1 - y, xs - 1 - x).min()
        weights = np.minimum(depths / (width + 1), 1)[mask][:, None]
        wanted = weights * hard.image[mask] + (1 - weights) * TISSUE[0].image[mask]
        assert np.abs(mild.image[mask] - wanted).max() <= 0.51
        faded += int((mild.image != hard.image).any())
    assert faded > 15


@pytest.mark.parametrize("rarity", [0.0, 0.5, 1.0])
def test_a_class_is_drawn_in_proportion_to_a_power_of_its_number_in_the_other_images(
    rarity: float,
) -> None:
    pasting = pasting_of(list(TISSUE), most=1, rarity=rarity)
    drawn = Counter(label for seed in range(3000) for label in labels_of(pasting, TISSUE[2], seed))
    counts = Counter(
        int(sample.labels_N[number - 1])
        for sample in TISSUE
        if sample is not TISSUE[2]
        for number in range(1, len(sample.labels_N) + 1)
        if not touches_the_border(sample, number)
    )
    weights = {label: count ** (1 - rarity) for label, count in counts.items()}
    assert len(weights) == 4
    for label, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[label] / drawn.total() == pytest.approx(share, abs=0.035)  # SD 0.009


def touches_the_border(sample: Sample, number: int) -> bool:
    mask = mask_of(sample, number)
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def labels_of(pasting: Pasting, sample: Sample, seed: int) -> list[int]:
    return [
        int(donor.labels_N[pasting.found[paste.donor].ids_N[paste.row] - 1])
        for paste in pasting.draw(sample, seed)
        for donor in [pasting.training[paste.donor]]
    ]


def test_each_number_of_instances_up_to_the_most_is_as_likely() -> None:
    pasting = pasting_of(list(TISSUE), most=4)
    numbers = Counter(len(pasting.draw(TISSUE[0], seed)) for seed in range(1000))
    assert sorted(numbers) == [1, 2, 3, 4]
    assert all(abs(count - 250) < 70 for count in numbers.values()), numbers  # SD 14


def test_the_probability_is_that_of_any_pasting() -> None:
    pasting = pasting_of(list(TISSUE), p=0.3)
    pasted = sum(pasting(TISSUE[0], seed) is not TISSUE[0] for seed in range(600))
    assert abs(pasted - 180) < 56  # SD 11


def test_no_image_is_its_own_donor_and_no_crowd_region_or_cut_instance_is_pasted() -> None:
    pasted = 0
    for seed in range(60):
        training = scenes(seed)
        pasting = pasting_of(training, most=30)
        for own, sample in enumerate(training):
            for paste in pasting.draw(sample, seed):
                donor = training[paste.donor]
                number = int(pasting.found[paste.donor].ids_N[paste.row])
                assert paste.donor != own
                assert not donor.crowd_N[number - 1]
                assert not touches_the_border(donor, number)
                pasted += 1
    assert pasted > 500


def test_an_image_that_is_alone_stays_as_it_is() -> None:
    assert pasting_of([TISSUE[0]])(TISSUE[0], 1) is TISSUE[0]
    empty = replace(
        TISSUE[1], label_maps=np.zeros_like(TISSUE[1].label_maps), labels_N=np.zeros(0, np.int64),
        crowd_N=np.zeros(0, bool),
    )  # fmt: skip
    assert pasting_of([TISSUE[0], empty])(TISSUE[0], 1) is TISSUE[0]
    assert len(find_instances(pasting_of([TISSUE[0], empty])(empty, 1).label_maps))


def test_an_instance_that_is_larger_than_the_image_is_left_out() -> None:
    crop = replace(
        TISSUE[0], image=TISSUE[0].image[:16, :16], label_maps=TISSUE[0].label_maps[:, :16, :16]
    )
    sizes = set()
    pasting = pasting_of(list(TISSUE), most=20)
    for seed in range(30):
        for paste in pasting.draw(crop, seed):
            x0, y0, x1, y1 = pasting.found[paste.donor].boxes_N4[paste.row]
            assert paste.y0 + y1 - y0 <= 16
            assert paste.x0 + x1 - x0 <= 16
            sizes.add((x1 - x0, y1 - y0))
        pasting(crop, seed)
    assert sizes


def test_no_more_instances_are_pasted_than_a_label_map_can_count() -> None:
    full = replace(
        TISSUE[0],
        labels_N=np.ones(MAX_INSTANCES - 2, np.int64),
        crowd_N=np.zeros(MAX_INSTANCES - 2, bool),
    )
    pasting = pasting_of([full, *TISSUE[1:]], most=50)
    assert max(len(pasting.draw(full, seed)) for seed in range(5)) == 2
    assert int(pasting(full, 1).label_maps.max()) <= MAX_INSTANCES


def test_pasting_follows_from_its_seed() -> None:
    pasting = pasting_of(list(TISSUE))
    made = [pasting(TISSUE[0], seed).image.tobytes() for seed in range(10)]
    assert made == [pasting_of(list(TISSUE))(TISSUE[0], seed).image.tobytes() for seed in range(10)]
    assert len(set(made)) == 10
