import random

import albumentations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr
from scipy import ndimage
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from core.augment import pipeline as augment
from core.augment.library import FILL_COLOUR, Transformed
from core.augmentations import AUGMENTATIONS, Augmentation
from core.config import AugmentConfig
from core.data import synthetic
from core.labels.label_maps import find_instances, resize_label_maps, target_of
from core.randomness import Purpose, generator
from core.sample import Sample

CHANGING = {name: part for name, part in AUGMENTATIONS.items() if part().changes()}
GEOMETRIC = tuple(name for name, part in CHANGING.items() if part.geometric)
IMAGE_ONLY = tuple(name for name, part in CHANGING.items() if not part.geometric)
SWITCHES = GEOMETRIC + IMAGE_ONLY
FIRST = tuple(dict.fromkeys(name for name, _ in augment.FIRST_SEEDS))
SEEDS = st.integers(0, 2**32 - 1)


def always(*switches: str) -> AugmentConfig:
    """These switches on, and each of them in every call."""
    on = dict.fromkeys(switches, True)
    return AugmentConfig(**on, **{f"{name}_p": 1.0 for name in SWITCHES})


def scene(seed: int = 0, height: int = 96, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A smooth coloured image and two label maps of round cells, all read-only as the object
    store hands them out.
    """
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (height, width, 3)), (4, 4, 0))
    image = (255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    label_maps = np.zeros((2, height, width), np.uint16)
    y, x = np.mgrid[:height, :width]
    for number in range(1, 25):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 14)
        cell = label_maps[number % 2]
        cell[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (cell == 0)] = number
    image.setflags(write=False)
    label_maps.setflags(write=False)
    return image, label_maps


def call(
    config: AugmentConfig, seed: int = 0, image_seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    augmenter = augment.build_augmenter(config)
    assert augmenter is not None
    return augmenter(*scene(image_seed), np.random.default_rng(seed))


def transforms(augmenter: augment.Augmenter) -> list[albumentations.BasicTransform]:
    """The transforms of albumentations that it goes through."""
    return [
        change.transform for _, _, _, change in augmenter.changes if isinstance(change, Transformed)
    ]


def test_nothing_switched_on_is_no_augmentation():
    assert augment.build_augmenter(AugmentConfig()) is None


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_whose_probability_is_zero_changes_nothing(switch):
    config = AugmentConfig(**{switch: True, f"{switch}_p": 0.0})
    image, label_maps = scene()
    changed_image, changed_maps = call(config)
    assert np.array_equal(changed_image, image)
    assert np.array_equal(changed_maps, label_maps)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_image_and_keeps_types_and_but_for_quarter_turns_shapes(switch):
    image, label_maps = scene()
    (height, width, _), shapes = image.shape, set()
    for seed in range(10):
        changed_image, changed_maps = call(always(switch), seed)
        assert not np.array_equal(changed_image, image)
        assert (changed_image.dtype, changed_maps.dtype) == (np.uint8, np.uint16)
        assert changed_maps.shape == (len(label_maps), *changed_image.shape[:2])
        assert changed_image.flags["C_CONTIGUOUS"]
        assert changed_maps.flags["C_CONTIGUOUS"]
        shapes.add(changed_image.shape)
    turned = {(width, height, 3)} if switch == "quarter_turns" else set()
    assert shapes == {(height, width, 3), *turned}


@pytest.mark.parametrize("switch", GEOMETRIC)
def test_geometric_switches_move_the_labels(switch):
    assert not np.array_equal(call(always(switch))[1], scene()[1])


@pytest.mark.parametrize("switch", IMAGE_ONLY)
@pytest.mark.parametrize("seed", range(5))
def test_image_only_switches_leave_the_labels_untouched(switch, seed):
    assert np.array_equal(call(always(switch), seed)[1], scene()[1])


def test_a_flip_mirrors_image_and_labels():
    image, label_maps = scene()
    flipped_image, flipped_maps = call(always("horizontal_flip"))
    assert np.array_equal(flipped_image, image[:, ::-1])
    assert np.array_equal(flipped_maps, label_maps[:, :, ::-1])
    flipped_image, flipped_maps = call(always("vertical_flip"))
    assert np.array_equal(flipped_image, image[::-1])
    assert np.array_equal(flipped_maps, label_maps[:, ::-1])


def test_flips_and_quarter_turns_together_make_the_eight_views_equally_often():
    image = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
    label_maps = np.arange(12, dtype=np.uint16).reshape(1, 4, 3)
    views = [
        np.ascontiguousarray(np.rot90(one, quarters))
        for one in (image, image[:, ::-1])
        for quarters in range(4)
    ]
    config = AugmentConfig(horizontal_flip=True, vertical_flip=True, quarter_turns=True)
    augmenter = augment.build_augmenter(config)
    counts = dict.fromkeys((view.tobytes() + bytes(view.shape) for view in views), 0)
    assert len(counts) == 8
    for seed in range(1600):
        changed, changed_maps = augmenter(image, label_maps, np.random.default_rng(seed))
        counts[changed.tobytes() + bytes(changed.shape)] += 1
        assert np.array_equal(changed_maps[0], changed[..., 0] // 3)
    assert all(abs(count - 200) < 60 for count in counts.values()), counts  # SD 13


@pytest.mark.parametrize("switches", [*((switch,) for switch in SWITCHES), SWITCHES], ids="+".join)
@settings(deadline=None, max_examples=8)
@given(seed=SEEDS)
def test_augmenting_label_maps_equals_augmenting_mask_by_mask(switches, seed):
    image, label_maps = scene(seed % 7)
    augmenter = augment.build_augmenter(always(*switches))
    numbers = np.unique(label_maps)[1:]
    stack = np.array([(label_maps == number).any(axis=0) for number in numbers]).astype(np.uint16)
    image_a, changed_maps = augmenter(image, label_maps, np.random.default_rng(seed))
    image_b, changed_stack = augmenter(image, stack, np.random.default_rng(seed))
    assert np.array_equal(image_a, image_b)
    assert changed_stack.any()
    for number, mask in zip(numbers, changed_stack, strict=True):
        assert np.array_equal((changed_maps == number).any(axis=0), mask.astype(bool))


def test_label_maps_agree_with_albumentations_own_pipeline_of_binary_masks():
    image, label_maps = scene()
    label_map = label_maps[0]
    numbers = np.unique(label_map)[1:]
    config = always("affine", "elastic")
    augmenter = augment.build_augmenter(config)
    steps = transforms(augmenter)
    pipeline = albumentations.Compose(steps)
    for step, seed in zip(
        steps, np.random.default_rng(4).integers(2**63, size=6)[3:5].tolist(), strict=True
    ):
        step.set_random_state(np.random.default_rng(seed), random.Random(seed))
    wanted = pipeline(
        image=image, masks=[(label_map == number).astype(np.uint8) for number in numbers]
    )
    got_image, got_maps = augmenter(image, label_map[None], np.random.default_rng(4))
    assert np.array_equal(got_image, wanted["image"])
    for number, mask in zip(numbers, wanted["masks"], strict=True):
        assert np.array_equal(got_maps[0] == number, mask.astype(bool))


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sets(st.sampled_from(SWITCHES), min_size=1))
def test_boxes_still_enclose_their_masks_after_augmentation_and_vanished_instances_are_absent(
    seed, switches
):
    _, changed_maps = call(always(*switches), seed)
    labels_N = np.arange(1, 25)  # a class of its own for each, so that none can be mixed up
    target = target_of(changed_maps, labels_N, np.zeros(24, bool))
    present = np.unique(changed_maps)[1:]
    assert target.ids_N.tolist() == present.tolist()
    assert torch.equal(target.labels_N, target.ids_N.long())
    assert set(present) <= set(np.unique(scene()[1]))
    for number, index, (x0, y0, x1, y1) in zip(
        target.ids_N, target.maps_N, target.boxes_N4.int(), strict=True
    ):
        mask = changed_maps[index] == number.item()
        outside = mask.copy()
        outside[y0:y1, x0:x1] = False
        assert mask.any()
        assert not outside.any()
        assert x1 > x0
        assert y1 > y0


def test_instances_that_are_moved_out_of_the_image_vanish_and_some_are():
    config = always("affine").model_copy(update={"shift": 0.5})
    before = set(np.unique(scene()[1])) - {0}
    after = [set(find_instances(call(config, seed)[1]).ids_N) for seed in range(5)]
    assert all(left <= before for left in after)
    assert any(left < before for left in after)


@pytest.mark.parametrize("switch", ["affine", "elastic", "scale_jitter"])
def test_what_comes_in_from_outside_is_neutral_in_colour_and_belongs_to_no_instance(switch):
    image, label_maps = np.zeros((80, 80, 3), np.uint8), np.ones((1, 80, 80), np.uint16)
    strengths = {"shift": 0.3, "elastic_alpha": 300.0, "scale_jitter_high": 1.0}
    config = always(switch).model_copy(update=strengths)
    for seed in range(5):
        changed_image, changed_maps = augment.build_augmenter(config)(
            image, label_maps, np.random.default_rng(seed)
        )
        outside = changed_maps[0] == 0
        assert outside.any()
        deep = ndimage.binary_erosion(outside, iterations=2)  # linear interpolation mixes the edge
        assert (changed_image[deep] == FILL_COLOUR).all()


def test_two_calls_with_equally_seeded_generators_are_bit_identical_whatever_the_global_state():
    config = always(*SWITCHES)
    augmenter = augment.build_augmenter(config)
    first = augmenter(*scene(), np.random.default_rng([1, 3, 0, 7]))
    for disturbance in range(3):
        random.seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        torch.manual_seed(disturbance)
        augmenter(*scene(disturbance), np.random.default_rng(disturbance))
        for other in (augmenter, augment.build_augmenter(config)):
            again = other(*scene(), np.random.default_rng([1, 3, 0, 7]))
            assert np.array_equal(again[0], first[0])
            assert np.array_equal(again[1], first[1])


def test_generators_of_other_seeds_give_other_images():
    images = {call(always(*SWITCHES), seed)[0].tobytes() for seed in range(10)}
    assert len(images) == 10


def test_the_coins_of_the_switches_are_independent():
    """One seed for all members, as albumentations' Compose does it, would toss them all alike."""
    image, label_maps = np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint16)
    image[:, 0] = label_maps[0, :, 0] = 9
    config = AugmentConfig(
        horizontal_flip=True, affine=True, rotate=0, scale=0, shift=0.5, affine_p=0.5
    )
    augmenter = augment.build_augmenter(config)
    flip, affine = transforms(augmenter)
    tosses = []
    for seed in range(400):
        augmenter(image, label_maps, np.random.default_rng(seed))
        tosses.append((bool(flip.params), bool(affine.params)))
    shares = [
        tosses.count(pair) / 400
        for pair in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert all(0.17 < share < 0.33 for share in shares), shares  # 0.25, SD 0.022


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_nothing_of_what_the_others_draw(switch):
    """So a pair of variants that differ in one switch sees the same flips, shifts and colours."""
    every = augment.build_augmenter(always(*SWITCHES))
    others = augment.build_augmenter(always(*(name for name in SWITCHES if name != switch)))
    every(*scene(), np.random.default_rng(3))
    others(*scene(), np.random.default_rng(3))
    drawn = {type(one): one.params for one in transforms(every) if hasattr(one, "params")}
    for two in transforms(others):
        for key in ("matrix", "map_x", "hue_shift"):
            if key in getattr(two, "params", {}):
                assert np.array_equal(drawn[type(two)][key], two.params[key])


class Recorder(Augmentation):
    """An augmentation of two changes that keeps the seeds it was given and changes nothing."""

    geometric = True
    _seeds: list[int] = PrivateAttr(default_factory=list)

    def changes(self):
        def change(image, label_maps, seed):
            self._seeds.append(seed)
            return image, label_maps

        return [change, change]


def seeds_of(*names: str) -> dict[str, list[int]]:
    """The seeds that augmentations of these names get for one image."""
    recorders = {name: Recorder() for name in names}
    augment.Augmenter(recorders)(*scene(), generator(3, Purpose.AUGMENT, 1, 7))
    return {name: recorder._seeds for name, recorder in recorders.items()}


def test_every_seed_is_the_one_that_the_first_version_drew() -> None:
    # Changes only on purpose: a study that has begun repeats its images bit for bit.
    seeds = seeds_of(*AUGMENTATIONS)
    assert seeds["horizontal_flip"][0] == 3481853248300239552
    assert seeds["color_jitter"] == [7487109092121763580, 7062779515406181673]
    assert seeds["affine"][0] == 8110485130237376034
    assert seeds["elastic"][0] == 7602509579272101635
    assert seeds["blur_or_noise"][0] == 6786197286031943266


def test_every_draw_is_the_one_that_the_first_version_made() -> None:
    augmenter = augment.build_augmenter(always(*FIRST))
    image, label_maps = np.zeros((40, 48, 3), np.uint8), np.zeros((1, 40, 48), np.uint16)
    augmenter(image, label_maps, generator(3, Purpose.AUGMENT, 1, 7))
    _, jitter, hue, affine, elastic, blur_or_noise = transforms(augmenter)
    assert jitter.params["alpha"] == pytest.approx(0.932153055109028)
    assert hue.params["hue_shift"] == pytest.approx(5.850865047023163)
    assert affine.params["rotate"] == pytest.approx(3.055656093971649)
    assert affine.params["scale"]["x"] == pytest.approx(0.9723200509504165)
    assert elastic.params["map_x"][0, 0] == pytest.approx(0.0335864275693893, rel=1e-4)
    blur, noise = blur_or_noise.transforms
    assert blur.params["kernel"].ravel()[0] == pytest.approx(0.0010398461845948, rel=1e-4)
    assert not noise.params


def test_an_augmentation_that_is_added_changes_no_draw_of_the_others() -> None:
    before = seeds_of(*SWITCHES, "zoom")
    after = seeds_of("blur", *reversed(SWITCHES), "added", "zoom")
    assert {name: after[name] for name in before} == before
    drawn = [seed for seeds in after.values() for seed in seeds]
    assert len(set(drawn)) == len(drawn) == 2 * len(after)


class Borrower(Augmentation):
    """An augmentation that needs other images, keeps its seeds and changes nothing."""

    geometric = False
    _seeds: list[int] = PrivateAttr(default_factory=list)
    _training: list[Sample] = PrivateAttr(default_factory=list)

    def mixes(self, training):
        self._training += training

        def mix(sample, seed):
            self._seeds.append(seed)
            return sample

        return [mix, mix]


def test_an_augmentation_that_needs_other_images_draws_by_its_name_and_is_given_them() -> None:
    samples = synthetic.make_cells(images=3, side=32).samples

    def borrowed(*names: str) -> dict[str, list[int]]:
        borrowers = {name: Borrower() for name in names}
        mixer = augment.Mixer(borrowers, samples[:2])
        assert mixer(samples[0], generator(3, Purpose.MIX, 1, 7)) is samples[0]
        assert all(one._training == list(samples[:2]) for one in borrowers.values())
        return {name: borrower._seeds for name, borrower in borrowers.items()}

    before, after = borrowed("quilt", "copy_paste"), borrowed("copy_paste", "added", "quilt")
    assert {name: after[name] for name in before} == before
    drawn = [seed for seeds in after.values() for seed in seeds]
    assert len(set(drawn)) == len(drawn) == 6


def test_what_is_off_needs_no_other_images() -> None:
    samples = synthetic.make_cells(images=2, side=32).samples
    assert augment.build_mixer(always(*SWITCHES), samples) is None
    assert augment.build_mixer(always("copy_paste"), samples) is not None
    assert augment.build_augmenter(always("copy_paste")) is None


def test_only_a_geometric_augmentation_moves_labels() -> None:
    class Mover(Augmentation):
        geometric = False

        def changes(self):
            return [lambda image, label_maps, _: (image + 1, label_maps + 1)]

    image, label_maps = scene()
    changed, kept = augment.Augmenter({"mover": Mover()})(
        image, label_maps, np.random.default_rng(0)
    )
    assert np.array_equal(changed, image + 1)
    assert kept is label_maps


def displacements(alpha: float, sigma: float, side: int, seed: int) -> np.ndarray:
    """Measure how far each pixel's content has come from, in x, on an image whose value is the
    column.
    """
    config = always("elastic").model_copy(update={"elastic_alpha": alpha, "elastic_sigma": sigma})
    (step,) = transforms(augment.build_augmenter(config))
    step.set_random_state(np.random.default_rng(seed), random.Random(seed))
    step(image=np.zeros((side, side, 3), np.uint8))
    return step.params["map_x"] - np.arange(side)


@pytest.mark.parametrize(("alpha", "sigma"), [(60.0, 6.0), (120.0, 6.0), (60.0, 3.0)])
@pytest.mark.parametrize("side", [200, 400])
def test_elastic_displacements_have_the_standard_deviation_that_the_setting_promises(
    alpha, sigma, side
):
    margin = int(
        4 * sigma
    )  # the field repeats its edge when it is smoothed, which makes it rougher there
    measured = displacements(alpha, sigma, side, 1)[margin:-margin, margin:-margin].std()
    assert measured == pytest.approx(0.16 * alpha / sigma, rel=0.1)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 150))
def test_a_random_crop_is_the_same_window_of_image_and_labels(seed, side):
    _, label_maps = scene()
    columns = np.broadcast_to(np.arange(120, dtype=np.uint8), (96, 120))
    rows = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None], (96, 120))
    cut, cut_maps = augment.random_crop(
        np.stack([rows, columns, rows], axis=-1), label_maps, side, np.random.default_rng(seed)
    )
    height, width = min(side, 96), min(side, 120)
    assert cut.shape == (height, width, 3)
    y0, x0 = int(cut[0, 0, 0]), int(cut[0, 0, 1])
    assert np.array_equal(cut_maps, label_maps[:, y0 : y0 + height, x0 : x0 + width])


def test_random_crops_reach_every_place():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    label_maps = np.zeros((1, 2, 3), np.uint16)
    generators = map(np.random.default_rng, range(60))
    assert {
        int(augment.random_crop(image, label_maps, 1, rng)[0][0, 0, 0]) for rng in generators
    } == set(range(6))


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(20, 130), st.integers(20, 130), st.integers(10, 90), st.integers(10, 140))
def test_shrinking_gives_the_size_and_the_pixels_of_torchvisions_transform_and_never_enlarges(
    seed, height, width, low, high
):
    image, label_maps = scene(seed % 5, height, width)
    high = max(low, high)
    small, small_maps = augment.shrink(image, label_maps, low, high)
    transform = GeneralizedRCNNTransform(low, high, [0.0] * 3, [1.0] * 3, size_divisible=1)
    images, _ = transform([torch.from_numpy(image.copy()).permute(2, 0, 1).float()])
    new_height, new_width = images.image_sizes[0]
    if new_height >= height and new_width >= width:
        assert small is image
        assert small_maps is label_maps
        return
    assert small.shape == (new_height, new_width, 3)
    assert small.dtype == np.uint8
    assert small_maps.dtype == np.uint16
    difference = small.astype(np.float32) - images.tensors[0].permute(1, 2, 0).numpy()
    assert abs(difference).max() <= 1
    wanted = resize_label_maps(label_maps, new_height, new_width)
    assert np.array_equal(small_maps, wanted)
