import errno
import tracemalloc
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from core.data import Category, synthetic
from core.labels import label_maps as masks
from core.prediction import overlay
from core.sample import Detections, MaskCrop, Sample

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = tuple(Category(10 * number, f"kind {number}") for number in range(1, 5))
NOTHING = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), ()
)


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 200, (height, width, 3), dtype=np.uint8)


def detections(rows: list[tuple[float, int, MaskCrop]]) -> Detections:
    """Detections from (score, label, mask), best first."""
    rows = sorted(rows, key=lambda row: -row[0])
    boxes = [[m.x0, m.y0, m.x0 + m.pixels.shape[1], m.y0 + m.pixels.shape[0]] for _, _, m in rows]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in rows], np.int64),
        np.array([score for score, _, _ in rows], np.float32),
        tuple(mask for _, _, mask in rows),
    )


def block(y0: int, x0: int, h: int, w: int) -> MaskCrop:
    return MaskCrop(y0, x0, np.ones((h, w), np.bool_))


def sample(
    image: np.ndarray, blocks: list[tuple[int, MaskCrop]], crowd: tuple[int, ...] = ()
) -> Sample:
    """An annotated image of (label, mask), each instance in a label map of its own; `crowd`
    counts from 0.
    """
    label_maps = np.zeros((max(len(blocks), 1), *image.shape[:2]), np.uint16)
    for index, (_, mask) in enumerate(blocks):
        h, w = mask.pixels.shape
        label_maps[index, mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w][mask.pixels] = index + 1
    labels = np.array([label for label, _ in blocks], np.int64)
    return Sample("sample", image, label_maps, labels, np.isin(np.arange(len(blocks)), crowd))


def random_masks(
    rng: np.random.Generator, height: int, width: int, count: int
) -> Iterator[MaskCrop]:
    """Windows anywhere in the image, ragged, some of one pixel, some empty inside, some without
    any side.
    """
    for _ in range(count):
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        h, w = int(rng.integers(0, height - y0 + 1)), int(rng.integers(0, width - x0 + 1))
        yield MaskCrop(y0, x0, rng.random((h, w)) < rng.choice([0.0, 0.5, 1.0]))


def covered(mask_list: list[MaskCrop], height: int, width: int) -> np.ndarray:
    union = np.zeros((height, width), np.bool_)
    for mask in mask_list:
        h, w = mask.pixels.shape
        union[mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w] |= mask.pixels
    return union


def resized(image: np.ndarray, max_side: int) -> np.ndarray:
    height, width = overlay.panel_size(*image.shape[:2], max_side)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def cut(picture: np.ndarray, base: np.ndarray, count: int) -> list[np.ndarray]:
    """The `count` panels of a picture: the first is found by its pixels, the others follow at
    equal distances.
    """
    height, width = base.shape[:2]
    corners = [
        (y, x)
        for y in range(min(120, picture.shape[0] - height + 1))
        for x in range(min(60, picture.shape[1] - width + 1))
        if (picture[y, x : x + width] == base[0]).all()
        and (picture[y : y + height, x : x + width] == base).all()
    ]
    assert len(corners) == 1, "the first panel is the image itself"
    y, x = corners[0]
    stride, rest = divmod(picture.shape[1] - x, count)
    assert rest == 0
    return [picture[y : y + height, x + k * stride : x + k * stride + width] for k in range(count)]


def cielab(rgb: np.ndarray) -> np.ndarray:
    """OpenCV's CIELAB of uint8 [..., 3]: another measure of likeness than the one that the
    palette is made with.
    """
    flat = (rgb.reshape(1, -1, 3) / 255).astype(np.float32)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(rgb.shape)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every text that is drawn, with the box it takes in the picture."""
    texts = []
    draw_text = ImageDraw.ImageDraw.text

    def record(pen, xy, text, fill=None, font=None, anchor=None):
        texts.append((text, pen.textbbox(xy, text, font, anchor)))
        draw_text(pen, xy, text, fill, font, anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 90), st.integers(1, 90), st.integers(20, 300), st.booleans())
@example(
    seed=772565117, height=4, width=75, max_side=29, annotated=False
)  # a pixel beside the one that shows it
def test_pixels_outside_every_instance_are_those_of_the_resized_image(
    seed, height, width, max_side, annotated
):
    rng = np.random.default_rng(seed)
    image = noise(rng, height, width)
    truths = list(random_masks(rng, height, width, 4)) if annotated else []
    guesses = list(random_masks(rng, height, width, 5))
    truth = (
        sample(image, [(int(rng.integers(1, 5)), mask) for mask in truths], crowd=(1,))
        if annotated
        else None
    )
    found = detections(
        [(float(rng.uniform(0.5, 1)), int(rng.integers(1, 5)), mask) for mask in guesses]
    )
    base = resized(image, max_side)
    panels = cut(overlay.draw_overlay(image, found, CLASSES, truth, max_side), base, 2 + annotated)
    h, w = base.shape[:2]
    for panel, painted in zip(
        panels, ([[], truths, guesses] if annotated else [[], guesses]), strict=True
    ):
        union = covered(painted, height, width)
        touched = np.array(  # a screen pixel is outside if all that it shows of the image is
            [
                [
                    union[
                        i * height // h : -(-(i + 1) * height // h),
                        j * width // w : -(-(j + 1) * width // w),
                    ].any()
                    for j in range(w)
                ]
                for i in range(h)
            ]
        )
        assert np.array_equal(panel[~touched], base[~touched])
        assert (panel != base).any() == union.any()


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 70), st.integers(1, 70), st.sampled_from([100, 400]))
def test_an_enlarged_mask_has_its_own_pixels_and_an_outline_one_screen_pixel_thin(
    seed, height, width, max_side
):
    rng = np.random.default_rng(seed)
    image = noise(rng, height, width)
    (mask,) = random_masks(rng, height, width, 1)
    base = resized(image, max_side)
    h, w = base.shape[:2]
    assert h % height == w % width == 0
    panel = cut(
        overlay.draw_overlay(image, detections([(0.9, 3, mask)]), CLASSES, max_side=max_side),
        base,
        2,
    )[1]
    inside = covered([mask], height, width).repeat(h // height, axis=0).repeat(w // width, axis=1)
    border = np.pad(inside, 1)
    border = inside & ~(border[:-2, 1:-1] & border[2:, 1:-1] & border[1:-1, :-2] & border[1:-1, 2:])
    colour = overlay.palette(4)[2, 0]
    assert (panel[border] == colour).all()
    assert np.array_equal(panel[~inside], base[~inside])
    fill = inside & ~border
    grey = np.asarray(Image.fromarray(base).convert("L"))[fill].astype(int)[:, None]
    assert np.abs(panel[fill] - (grey + colour) / 2).max(initial=0) <= 1, (
        "translucent: light and dark tissue differ"
    )


def test_every_mask_is_seen_however_much_the_image_shrinks():
    image = np.full((2000, 1500, 3), 255, np.uint8)
    places = [(y, x) for y in range(7, 2000, 199) for x in range(5, 1500, 187)]
    found = detections([(0.9, 4, block(y, x, 1, 1)) for y, x in places])
    base = resized(image, 300)
    panel = overlay.draw_overlay(image, found, CLASSES, max_side=300)
    shades = overlay.palette(4)[3]
    is_shade = (panel[:, :, None, :] == shades).all(axis=-1).any(axis=-1)
    is_shade[-40:] = False  # the legend has these colours too
    assert base.shape[:2] == (300, 225)
    assert np.count_nonzero(is_shade) == len(places)


@pytest.mark.parametrize("better", [1, 2, 3, 4])
@pytest.mark.parametrize("worse", [1, 2, 3, 4])
def test_the_best_detection_lies_on_top_and_the_one_beneath_keeps_its_outline(better, worse):
    image = np.full((480, 480, 3), 120, np.uint8)
    alone = detections([(0.9, better, block(100, 100, 200, 200))])
    both = detections(
        [(0.6, worse, block(150, 150, 10, 10)), (0.9, better, block(100, 100, 200, 200))]
    )
    wanted, panel = (
        cut(overlay.draw_overlay(image, found, CLASSES), image, 2)[1] for found in (alone, both)
    )
    difference = np.argwhere((panel != wanted).any(axis=-1))
    border = [(y, x) for y in range(150, 160) for x in range(150, 160) if {y, x} & {150, 159}]
    if worse != better:
        assert difference.tolist() == [list(place) for place in border]
    assert (panel[150, 150] == overlay.palette(4)[worse - 1]).all(axis=-1).any()


def test_small_annotations_lie_on_top_of_large_ones():
    image = np.full((480, 480, 3), 120, np.uint8)
    small, large = block(160, 160, 40, 40), block(40, 40, 400, 400)
    alone = cut(
        overlay.draw_overlay(image, NOTHING, CLASSES, sample(image, [(1, small)])), image, 3
    )[1]
    for blocks in ([(1, small), (2, large)], [(2, large), (1, small)]):
        panel = cut(overlay.draw_overlay(image, NOTHING, CLASSES, sample(image, blocks)), image, 3)[
            1
        ]
        assert np.array_equal(panel[160:200, 160:200], alone[160:200, 160:200])
        assert (panel[40, 40] == overlay.palette(4)[1]).all(axis=-1).any()


@pytest.mark.parametrize("count", [1, 2, 4, 7, 12, 30, 90])
def test_every_class_has_a_colour_of_its_own_and_no_shade_looks_like_another_class(count):
    shades = overlay.palette(count)
    assert shades.shape == (count, overlay.SHADES, 3)
    assert len(np.unique(shades.reshape(-1, 3), axis=0)) == count * overlay.SHADES
    for measure in (
        (overlay._to_lab, cielab) if count <= 12 else (overlay._to_lab,)
    ):  # in a crowd the two disagree
        labs = measure(shades)
        distances = np.linalg.norm(labs[:, :, None] - labs[None, None, :, 0], axis=-1)
        assert (distances.argmin(axis=-1) == np.arange(count)[:, None]).all()


def test_shades_keep_the_hue_of_their_class():
    for lab in overlay._to_lab(overlay.palette(12)):
        angles = np.arctan2(lab[:, 2], lab[:, 1])
        assert np.abs(np.angle(np.exp(1j * (angles - angles[0])))).max() < np.radians(4)


def test_a_class_keeps_its_colour_when_classes_are_added():
    colours = overlay.palette(40)[:, 0]
    for count in range(40):
        assert np.array_equal(overlay.palette(count)[:, 0], colours[:count])


def test_the_first_seven_classes_are_told_apart_without_red_or_green_cones():
    """Machado, Oliveira and Fernandes 2009: what is left of linear RGB to a protanope and to a
    deuteranope.
    """
    encoded = overlay.palette(7)[:, 0] / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    for matrix in (
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        encoded_seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        labs = cielab(np.rint(encoded_seen * 255).astype(np.uint8))
        distances = np.linalg.norm(labs[:, None] - labs[None], axis=-1)[~np.eye(7, dtype=bool)]
        assert distances.min() > 10, "a difference of 2 is just noticeable"


@pytest.mark.parametrize("label", [1, 2, 3, 4])
def test_touching_instances_of_one_class_differ_clearly_in_shade(label):
    side, across = 24, 20
    image = np.full((side * across, side * across, 3), 230, np.uint8)
    places = [(y, x) for y in range(0, side * across, side) for x in range(0, side * across, side)]
    rng = np.random.default_rng(0)
    found = detections(
        [(float(rng.uniform(0.5, 1)), label, block(y, x, side, side)) for y, x in places]
    )
    panel = cut(overlay.draw_overlay(image, found, CLASSES), image, 2)[1]
    corners = panel[::side, ::side]
    assert (corners[:, :, None] == overlay.palette(4)[label - 1]).all(axis=-1).any(axis=-1).all()
    labs = cielab(corners)
    beside = np.concatenate([np.diff(labs, axis=axis).reshape(-1, 3) for axis in (0, 1)])
    differences = np.linalg.norm(beside, axis=1)
    assert np.mean(differences > 3) > 0.97
    assert np.median(differences) > 6


def test_few_instances_of_a_class_all_differ_in_shade():
    image = np.full((480, 480, 3), 230, np.uint8)
    found = detections([(0.9, 2, block(80 * k, 60 * k, 20, 20)) for k in range(overlay.SHADES)])
    panel = cut(overlay.draw_overlay(image, found, CLASSES), image, 2)[1]
    corners = [tuple(panel[80 * k, 60 * k].tolist()) for k in range(overlay.SHADES)]
    assert len(set(corners)) == overlay.SHADES


def test_titles_count_what_is_drawn_and_say_above_which_score(written):
    image = np.zeros((100, 100, 3), np.uint8)
    found = detections(
        [(0.9, 1, block(0, 0, 9, 9)), (0.5, 1, block(20, 20, 9, 9)), (0.49, 1, block(40, 40, 9, 9))]
        + [
            (0.8, 1, MaskCrop(5, 5, np.zeros(shape, np.bool_)))
            for shape in ((0, 4), (4, 0), (3, 3))
        ]
    )
    truth = sample(
        image,
        [(1, block(0, 0, 9, 9)), (2, block(50, 50, 9, 9)), (3, block(70, 70, 9, 9))],
        crowd=(2,),
    )

    def titles(*arguments, **named) -> list[str]:
        written.clear()
        overlay.draw_overlay(image, *arguments, **named)
        return [
            text for text, _ in written if text.split(":")[0] in ("image", "annotated", "predicted")
        ]

    assert titles(found, CLASSES) == ["image", "predicted: 2 of score 0.5 or more"]
    assert titles(found, CLASSES, truth, min_score=0.05) == [
        "image",
        "annotated: 2",
        "predicted: 3 of score 0.05 or more",
    ]
    assert (
        titles(found, CLASSES, min_score=0.95)[1]
        == "predicted: none of score 0.95 or more (the best has 0.9)"
    )
    assert titles(NOTHING, CLASSES, sample(image, [])) == [
        "image",
        "annotated: none",
        "predicted: none",
    ]


def test_the_legend_names_the_classes_that_are_drawn_and_no_other(written):
    image = np.zeros((100, 100, 3), np.uint8)
    found = detections([(0.9, 4, block(0, 0, 9, 9)), (0.3, 2, block(20, 20, 9, 9))])
    overlay.draw_overlay(
        image,
        found,
        CLASSES,
        sample(image, [(3, block(0, 0, 9, 9)), (1, block(50, 50, 9, 9))], crowd=(1,)),
    )
    legend = [text for text, _ in written][3:]
    assert legend == ["crowd region, not counted", "kind 3", "kind 4"]


def test_crowd_regions_are_grey():
    image = noise(np.random.default_rng(0), 480, 480)
    crowd = sample(image, [(3, block(20, 30, 100, 100))], crowd=(0,))
    panel = cut(overlay.draw_overlay(image, NOTHING, CLASSES, crowd), image, 3)[1]
    inside = panel[20:120, 30:130].astype(int)
    assert (np.ptp(inside, axis=-1) == 0).all()
    assert (panel[20, 30:130] == 128).all()


NAMES = [
    "short",
    "Лимфоцит",
    "細胞",
    "خلية",
    "",
    "two\nlines\tand\x00more",
    "\ud800",
    "🔬",
    "long words " * 60,
    "x" * 20_000,
    *(f"class number {number}" for number in range(30)),
]


@pytest.mark.parametrize("shape", [(33, 35), (300, 20), (20, 300), (480, 640), (1, 1)])
def test_no_text_leaves_the_picture_or_covers_another_whatever_the_names(written, shape):
    image = np.zeros((*shape, 3), np.uint8)
    classes = [Category(number, name) for number, name in enumerate(NAMES, start=1)]
    found = detections([(0.9, label, block(0, 0, 1, 1)) for label in range(1, len(NAMES) + 1)])
    picture = overlay.draw_overlay(
        image, found, classes, sample(image, [(1, block(0, 0, 1, 1))]), max_side=640
    )
    height, width = picture.shape[:2]
    boxes = np.array([box for _, box in written])
    assert len(written) >= 3 + len(NAMES)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert (boxes[:, 2] > boxes[:, 0]).all(), "every class has something to read"
    middle = boxes[:, None], boxes[None]
    apart = (middle[0][..., 2:] <= middle[1][..., :2]).any(axis=-1)
    assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()


def test_names_that_no_font_can_write_are_told_apart_by_their_ids(written, monkeypatch):
    monkeypatch.setattr(overlay, "FALLBACK_FONTS", ("no such font.ttf",))
    overlay._font.cache_clear()
    image = np.zeros((100, 100, 3), np.uint8)
    classes = (Category(7, "細胞"), Category(9, "細菌"), Category(11, "cell"), Category(12, " "))
    overlay.draw_overlay(
        image, detections([(0.9, label, block(0, 0, 9, 9)) for label in (1, 2, 3, 4)]), classes
    )
    overlay._font.cache_clear()
    assert [text for text, _ in written][2:] == ["細胞 (id 7)", "細菌 (id 9)", "cell", "(id 12)"]


def test_a_name_too_long_for_the_legend_keeps_its_beginning_and_its_end(written):
    image = np.zeros((100, 100, 3), np.uint8)
    classes = (Category(1, "T" + "h" * 500 + "one"), Category(2, "T" + "h" * 500 + "two"))
    overlay.draw_overlay(
        image, detections([(0.9, label, block(0, 0, 9, 9)) for label in (1, 2)]), classes
    )
    first, second = (text for text, _ in written[2:])
    assert first.startswith("Thh")
    assert first.endswith("hone")
    assert second.endswith("htwo")


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000))
def test_panels_stay_within_the_longest_side_and_enlarge_by_whole_factors(height, width, max_side):
    h, w = overlay.panel_size(height, width, max_side)
    assert 1 <= h <= max_side
    assert 1 <= w <= max_side
    if max(height, width) <= max_side:
        assert h // height == w // width
        assert h % height == w % width == 0
        assert max(h, w) >= min(overlay.ENLARGE_TO, max_side // 2 + 1)
    else:
        assert max(h, w) == max_side
        assert abs(h - height * max_side / max(height, width)) <= 1
        assert abs(w - width * max_side / max(height, width)) <= 1


def test_a_picture_is_a_little_larger_than_its_panels():
    dataset = synthetic.make_cells(images=1, side=128)
    picture = overlay.draw_overlay(
        dataset.samples[0].image, NOTHING, dataset.classes, dataset.samples[0], max_side=700
    )
    h, w = overlay.panel_size(*dataset.samples[0].size, 700)
    assert 3 * w < picture.shape[1] < 3 * w + 100
    assert h < picture.shape[0] < h + 150
    assert picture.dtype == np.uint8


def test_read_only_arrays_are_drawn_unchanged_and_the_same_twice():
    dataset = synthetic.make_cells(images=1, side=128)
    truth = dataset.samples[0]
    assert not truth.image.flags.writeable
    instances = masks.find_instances(truth.label_maps)
    crops = [masks.crop_mask(truth.label_maps, instances, index) for index in range(len(instances))]
    found = detections(
        [(0.9 - 0.01 * k, int(truth.labels_N[k]), crop) for k, crop in enumerate(crops)]
    )
    for array in (found.boxes_N4, found.labels_N, found.scores_N, *(crop.pixels for crop in crops)):
        array.setflags(write=False)
    before = truth.image.copy(), truth.label_maps.copy()
    first = overlay.draw_overlay(truth.image, found, dataset.classes, truth)
    overlay.palette.cache_clear()
    overlay._font.cache_clear()
    assert np.array_equal(first, overlay.draw_overlay(truth.image, found, dataset.classes, truth))
    assert np.array_equal(truth.image, before[0])
    assert np.array_equal(truth.label_maps, before[1])
    annotated, predicted = cut(first, resized(truth.image, 1000), 3)[1:]
    assert (annotated != resized(truth.image, 1000)).any()
    assert (predicted != resized(truth.image, 1000)).any()


def test_memory_grows_with_boxes_and_panels_never_with_instances_times_pixels():
    rng = np.random.default_rng(0)
    image = np.zeros((2500, 2000, 3), np.uint8)
    rows = [
        (float(rng.uniform(0.5, 1)), int(rng.integers(1, 5)), block(int(y), int(x), 22, 22))
        for y, x in rng.integers(0, 1970, (1500, 2))
    ]
    found = detections(rows)
    tracemalloc.start()
    picture = overlay.draw_overlay(image, found, CLASSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.shape[0] > 1000
    assert peak < 40e6, "1,500 masks of a whole panel are 1.2 GB"


def test_a_written_png_holds_the_picture_and_replaces_the_old_one(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "overlay.png"
    for height, width in ((70, 50), (20, 90)):
        picture = noise(rng, height, width)
        overlay.write_png(path, picture)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert np.array_equal(np.asarray(image), picture)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_picture_whole(tmp_path, monkeypatch):
    path = tmp_path / "overlay.png"
    overlay.write_png(path, np.zeros((9, 9, 3), np.uint8))
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("core.files.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        overlay.write_png(path, np.ones((9, 9, 3), np.uint8))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
