"""Pictures of instances: the image, its annotations, its predictions and a legend.

An instance has the colour of its class, in one of SHADES shades, which differs from those of its
neighbours of that class as far as the shades suffice. Fills are translucent and outlines one screen
pixel wide, so that the tissue stays visible. Instances are painted one by one, each inside its own
window: the work is proportional to the area of boxes and panels.
"""

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.data.dataset import Category
from core.files import write_atomically
from core.labels import label_maps as masks
from core.sample import Detections, MaskCrop, Sample, Size
from core.values import as_number

ENLARGE_TO = 480
"""Screen pixels. An image whose longer side is shorter than this is enlarged by the smallest whole
factor that brings that side to it, within `max_side`."""

HUES = np.array(
    [
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (86, 180, 233),  # sky blue
        (213, 94, 0),  # vermillion
        (204, 121, 167),  # reddish purple
        (0, 114, 178),  # blue
        (230, 159, 0),  # orange
    ],
    np.uint8,
)
"""The seven colours of M. Okabe and K. Ito, "Color Universal Design" (2008,
jfly.uni-koeln.de/color), which people with any kind of colour vision tell apart. Those that stand
out most from pink and purple tissue come first."""

SHADE_STEPS = (0.0, 1.0, -1.0, 0.5, -0.5)
"""Steps of the shades, as fractions of a colour's reach towards white (up to 1) or black (down to
-1)."""
SHADES = len(SHADE_STEPS)
REACH = 0.42
"""Reach of the shades, as a fraction of the distance to the nearest other class's colour. Below one
half, no shade is nearer to another class's colour than to its own."""
PALEST = 0.25
"""Largest reach of the shades, as a fraction of the way to white or black: a shade keeps three
quarters of its colour."""

CROWD = np.full((1, SHADES, 3), 128, np.uint8)
"""Colours of crowd regions, which have class number 0 here: one grey in all shades."""
FILL_OPACITY = 128
"""Opacity of a fill, in parts of 256. The tissue beneath it is turned grey, because yellow over
purple nuclei would look grey and not yellow."""
NEIGHBOURHOOD = 12
"""Screen pixels around an instance's window within which others count as its neighbours."""

WHITE = (255, 255, 255)
INK = (40, 40, 40)
ALARM = (176, 42, 0)
"""Colour of a warning: a dark vermillion, which has a contrast of 7 to 1 on white."""
NARROWEST_COLUMN = 200
"""Screen pixels. The column of a panel is at least this wide, so that a title fits above it."""
FALLBACK_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "arial.ttf",
)
"""Fonts that are tried, where the machine has them, for names with characters that Pillow's own
font lacks."""


@dataclass(frozen=True)
class _Instance:
    """An instance to draw: its mask, and its class number, which is 0 for a crowd region."""

    mask: MaskCrop
    label: int


@dataclass(frozen=True)
class _Panel:
    """A picture, uint8 [h, w, 3], and the title above it."""

    title: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Entry:
    """A line of the legend.

    colours   from left to right, uint8 [k, 3]
    text      name of the class
    font      font that has the characters of the text, if there is one
    """

    colours: NDArray[np.uint8]
    text: str
    font: ImageFont.FreeTypeFont


def draw_overlay(
    image: NDArray[np.uint8],
    predicted: Detections,
    classes: Sequence[Category],
    truth: Sample | None = None,
    max_side: int = 1000,
    min_score: float = 0.5,
    warning: str = "",
) -> NDArray[np.uint8]:
    """An image, its annotations if it has any, and its predictions side by side.

    image       uint8 [H, W, 3]
    predicted   detections; those that score `min_score` or more are drawn, the best on top, and
                counted in the title
    classes     class number c is classes[c - 1]; the legend names those that are drawn
    truth       the same image, annotated; crowd regions are grey and not counted
    max_side    longest side of a panel in screen pixels; larger images shrink, small ones grow by a
                whole factor
    warning     a sentence on what is wrong with the model, which stands above the panels

    The picture is uint8 [h, w, 3]. Each mask is painted as at least one pixel, however much the
    image shrinks. No argument is changed. The same arguments give the same picture, except that
    names which Pillow's own font cannot write depend on the fonts of the machine.
    """
    size = panel_size(image.shape[0], image.shape[1], max_side)
    colours = np.concatenate([CROWD, palette(len(classes))])
    base = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    panels = [_Panel("image", base)]
    drawn: list[_Instance] = []
    if truth is not None:
        assert truth.size == image.shape[:2], "the ground truth is of another image"
        instances = _annotated(truth)
        drawn += instances
        count = sum(instance.label > 0 for instance in instances)
        title = f"annotated: {count:,}" if count else "annotated: none"
        panels.append(_Panel(title, _paint(base, image.shape[:2], instances, colours)))
    instances = _found(predicted, min_score)
    drawn += instances
    title = _title_of_predictions(predicted, len(instances), min_score)
    panels.append(_Panel(title, _paint(base, image.shape[:2], instances, colours)))
    labels = sorted({instance.label for instance in drawn})
    return _compose(panels, labels, classes, colours, warning)


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [h, w, 3], as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def draw_outlines(
    truth: Sample,
    size: Size,
    classes: int,
    window: tuple[int, int, int, int] | None = None,
    thick: bool = False,
) -> NDArray[np.uint8]:
    """A part of an image with the outlines of its annotations, uint8 [h, w, 3], without a legend.

    size      height and width of the picture in screen pixels
    classes   number of classes
    window    the part, half-open x0 y0 x1 y1 in pixels of the image; None for all of it
    thick     whether an outline is two screen pixels wide instead of one, both of its instance

    An outline has the colour of its class and is one screen pixel wide; crowd regions are grey. An
    instance that lies between the sampled pixels of a shrunk image is not seen. The time is that of
    a few passes over the picture, however many instances there are.
    """
    x0, y0, x1, y1 = window or (0, 0, truth.size[1], truth.size[0])
    part = Image.fromarray(np.ascontiguousarray(truth.image[y0:y1, x0:x1]))
    shrunk = size[0] < y1 - y0
    how = Image.Resampling.BOX if shrunk else Image.Resampling.BILINEAR
    pixels = np.array(part.resize(size[::-1], how))
    colours = np.concatenate([CROWD, palette(classes)])[:, 0]
    label_of = np.concatenate([[0], np.where(truth.crowd_N, 0, truth.labels_N)])
    rows, columns = _sampled(y1 - y0, size[0]) + y0, _sampled(x1 - x0, size[1]) + x0
    for label_map in truth.label_maps:
        shown_HW = np.pad(label_map[rows][:, columns], 1)
        outline_HW = _beside(shown_HW)
        if thick:
            outline_HW |= _beside(np.where(np.pad(outline_HW, 1), 0, shown_HW))
        inner_HW = shown_HW[1:-1, 1:-1]
        outline_HW &= inner_HW > 0
        pixels[outline_HW] = colours[label_of[inner_HW[outline_HW]]]
    return pixels


def _beside(map_HW: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether a pixel's number differs from that of one of its four neighbours.

    The pixels at the map's edge are left out: bool [H - 2, W - 2].
    """
    inner_HW = map_HW[1:-1, 1:-1]
    differs_HW = np.zeros(inner_HW.shape, np.bool_)
    for beside_HW in (map_HW[:-2, 1:-1], map_HW[2:, 1:-1], map_HW[1:-1, :-2], map_HW[1:-1, 2:]):
        differs_HW |= beside_HW != inner_HW
    return differs_HW


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 [h, w, 3], as a PNG file, whole or not at all."""
    write_atomically(path, png(picture))


def panel_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Height and width of an image in screen pixels, the longer of them at most `max_side`."""
    side = max(height, width)
    if side > max_side:
        return max(1, round(height * max_side / side)), max(1, round(width * max_side / side))
    factor = max(1, min(max_side // side, -(-ENLARGE_TO // side)))
    return height * factor, width * factor


@lru_cache(maxsize=8)
def palette(count: int) -> NDArray[np.uint8]:
    """The colours of `count` classes: uint8 [count, SHADES, 3], read-only.

    Shade 0 is the class's own colour. The first seven classes have the colours of `HUES`; each
    further one has the colour that is farthest from all before it, so that a class keeps its colour
    when others are added. After about 2,500 classes colours repeat. Every shade is nearer to the
    colour of its class than to that of any other.
    """
    labs = _class_colours(count)
    shades = np.zeros((count, SHADES, 3), np.uint8)
    for index, lab in enumerate(labs):
        others = np.linalg.norm(np.delete(labs, index, axis=0) - lab, axis=1)
        reach = REACH * float(others.min(initial=np.inf))
        for shade, step in enumerate(SHADE_STEPS):
            to_end = np.array([float(step > 0), 0.0, 0.0]) - lab
            fraction = min(PALEST, reach / float(np.linalg.norm(to_end)))
            shades[index, shade] = _to_rgb(lab + to_end * fraction * abs(step))
    shades.setflags(write=False)
    return shades


def _class_colours(count: int) -> NDArray[np.float64]:
    """The colours of classes in Oklab, float64 [count, 3]."""
    chosen = _to_lab(HUES)[:count]
    grid = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = _to_lab(
        np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    )
    chroma = np.linalg.norm(candidates[:, 1:], axis=1)
    candidates = candidates[(candidates[:, 0] > 0.5) & (candidates[:, 0] < 0.93) & (chroma > 0.1)]
    distances = np.full(len(candidates), np.inf)
    for lab in chosen:
        distances = np.minimum(distances, np.linalg.norm(candidates - lab, axis=1))
    colours = list(chosen)
    while len(colours) < count:
        colours.append(candidates[np.argmax(distances)])
        distances = np.minimum(distances, np.linalg.norm(candidates - colours[-1], axis=1))
    return np.array(colours).reshape(-1, 3)


# Oklab (B. Ottosson 2020, "A perceptual color space for image processing") is a colour space in
# which distances are about as large as they look.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB, uint8 [..., 3], in Oklab, float64 [..., 3]."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab


def _to_rgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Oklab, float64 [..., 3], in sRGB, uint8 [..., 3]; channels outside sRGB are clipped."""
    linear = np.clip((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return rgb


def _annotated(truth: Sample) -> list[_Instance]:
    """The annotated instances in painting order: crowd regions first, then large before small."""
    found = masks.find_instances(truth.label_maps)
    is_crowd = truth.crowd_N[found.ids_N - 1]
    labels = np.where(is_crowd, 0, truth.labels_N[found.ids_N - 1])
    order = np.lexsort((-found.areas_N, ~is_crowd))
    return [
        _Instance(masks.crop_mask(truth.label_maps, found, index), int(labels[index]))
        for index in order.tolist()
    ]


def _found(predicted: Detections, min_score: float) -> list[_Instance]:
    """The detections of `min_score` or more in painting order: the best last.

    Among equal scores the first detection is painted last. Those with an empty mask are left out.
    """
    order = np.argsort(-predicted.scores_N, kind="stable")[::-1]
    return [
        _Instance(predicted.masks[index], int(predicted.labels_N[index]))
        for index in order.tolist()
        if predicted.scores_N[index] >= min_score and predicted.masks[index].pixels.any()
    ]


def _title_of_predictions(predicted: Detections, count: int, min_score: float) -> str:
    if len(predicted) == 0:
        return "predicted: none"
    if count:
        return f"predicted: {count:,} of score {as_number(min_score, 2)} or more"
    return (
        f"predicted: none of score {as_number(min_score, 2)} or more (the best has"
        f" {as_number(predicted.scores_N.max(), 2)})"
    )


def _paint(
    base: NDArray[np.uint8],
    size: tuple[int, ...],
    instances: Iterable[_Instance],
    colours: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """A copy of `base`, uint8 [h, w, 3], with instances painted on it in their order.

    size      height and width, in pixels, of the image that `base` shows
    colours   uint8 [1 + C, SHADES, 3], crowd regions first

    Where instances overlap, the fill of the last one is seen, and the outlines of all.
    """
    rows, columns = _sampled(size[0], base.shape[0]), _sampled(size[1], base.shape[1])
    fills = np.zeros(base.shape[:2], np.int32)  # 0, or 1 + label * SHADES + shade
    outlines = np.zeros_like(fills)
    uses = np.zeros(colours.shape[:2], np.int64)
    for instance in instances:
        y0, x0, inside = _on_screen(instance.mask, size, rows, columns)
        y1, x1 = y0 + inside.shape[0], x0 + inside.shape[1]
        top, left = max(y0 - NEIGHBOURHOOD, 0), max(x0 - NEIGHBOURHOOD, 0)
        around = fills[top : y1 + NEIGHBOURHOOD, left : x1 + NEIGHBOURHOOD]
        first = 1 + instance.label * SHADES
        nearby = np.bincount(around.ravel(), minlength=first + SHADES)[first : first + SHADES]
        shade = _pick_shade(nearby, uses[instance.label])
        uses[instance.label, shade] += 1
        fills[y0:y1, x0:x1][inside] = first + shade
        outlines[y0:y1, x0:x1][_outline(inside)] = first + shade

    pixels = base.copy()
    table = colours.reshape(-1, 3)
    is_filled, is_outline = fills > 0, outlines > 0
    grey = np.asarray(Image.fromarray(base).convert("L"))[is_filled][:, None].astype(np.uint16)
    pixels[is_filled] = (
        grey * (256 - FILL_OPACITY) + table[fills[is_filled] - 1].astype(np.uint16) * FILL_OPACITY
    ) >> 8
    pixels[is_outline] = table[outlines[is_outline] - 1]
    return pixels


def _sampled(length: int, screen: int) -> NDArray[np.int64]:
    """The image's pixel under the middle of each screen pixel, along one axis: int64 [screen]."""
    return (2 * np.arange(screen, dtype=np.int64) + 1) * length // (2 * screen)


def _on_screen(
    mask: MaskCrop, size: tuple[int, ...], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[int, int, NDArray[np.bool_]]:
    """A mask on the screen, in its tightest window: first row, first column, pixels bool [h, w].

    size            height and width in pixels of the image that holds the mask
    rows, columns   the image's row and column under each row and column of the screen

    The nearest pixel is sampled. A mask that lies between the sampled pixels becomes the one screen
    pixel that shows the middle of its first pixel.
    """
    h, w = mask.pixels.shape
    y0, y1 = np.searchsorted(rows, (mask.y0, mask.y0 + h)).tolist()
    x0, x1 = np.searchsorted(columns, (mask.x0, mask.x0 + w)).tolist()
    inside = mask.pixels[rows[y0:y1] - mask.y0][:, columns[x0:x1] - mask.x0]
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(ys):
        return y0 + int(ys[0]), x0 + int(xs[0]), inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    y, x = (np.argwhere(mask.pixels)[0] + (mask.y0, mask.x0)).tolist()
    shown = (2 * y + 1) * len(rows) // (2 * size[0]), (2 * x + 1) * len(columns) // (2 * size[1])
    return *shown, np.ones((1, 1), np.bool_)


def _pick_shade(nearby: NDArray[np.int64], uses: NDArray[np.int64]) -> int:
    """The index of the shade seen least nearby.

    Among equals it is the one farthest from those seen, then the least used.

    nearby   int64 [SHADES], pixels of each shade of this class around the instance
    uses     int64 [SHADES], instances of this class that have it already
    """
    seen = [SHADE_STEPS[shade] for shade in np.flatnonzero(nearby)]

    def rank(shade: int) -> tuple[int, float, int]:
        gap = min((abs(SHADE_STEPS[shade] - step) for step in seen), default=0.0)
        return int(nearby[shade]), -gap, int(uses[shade])

    return min(range(SHADES), key=rank)


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask, bool [h, w], that share a side with a pixel outside it.

    Everything beyond the window is outside.
    """
    padded = np.pad(inside, 1)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~surrounded


def _compose(
    panels: Sequence[_Panel],
    labels: Sequence[int],
    classes: Sequence[Category],
    colours: NDArray[np.uint8],
    warning: str,
) -> NDArray[np.uint8]:
    """Panels side by side on white, titles above them, the legend beneath: uint8 [h, w, 3].

    The warning stands above all.
    """
    h, w = panels[0].pixels.shape[:2]
    column = max(w, NARROWEST_COLUMN)
    font_size = min(max(column * len(panels) // 75, 15), 30)
    font = _font("", font_size)
    gap, line = font_size * 3 // 4, font_size * 4 // 3
    width = column * len(panels) + gap * (len(panels) + 1)
    titles = [_wrapped(panel.title, font, column) for panel in panels]
    warnings = _wrapped(warning, font, width - 2 * gap) if warning else []
    head = len(warnings) * line + (gap // 2 if warnings else 0)
    top = head + gap + line * max(len(lines) for lines in titles) + gap // 3
    entries = [_entry(label, classes, colours, font_size, width - 2 * gap) for label in labels]
    rows = _rows(entries, font_size, width - 2 * gap)
    picture = Image.new(
        "RGB", (width, top + h + gap + len(rows) * line + (gap if rows else 0)), WHITE
    )
    pen = ImageDraw.Draw(picture)
    for number, text in enumerate(warnings):
        pen.text((gap, gap + (number + 1) * line - line // 4), text, ALARM, font, anchor="ls")
    for index, (panel, lines) in enumerate(zip(panels, titles, strict=True)):
        x = gap + index * (column + gap)
        picture.paste(Image.fromarray(panel.pixels), (x, top))
        for number, text in enumerate(reversed(lines)):  # the last line stands on the panel
            pen.text((x, top - gap // 3 - number * line - line // 4), text, INK, font, anchor="ls")
    for number, row in enumerate(rows):
        y = top + h + gap + number * line
        for offset, entry in row:
            _draw_entry(pen, entry, gap + offset, y, font_size)
    return np.array(picture)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels where possible, broken between words."""
    characters = len(text)
    while True:
        lines = textwrap.wrap(text, characters, break_long_words=False)
        if characters == 1 or all(font.getlength(line) <= width for line in lines):
            return lines
        characters -= 1


def _swatch(font_size: int) -> int:
    """Width, in pixels, of the colours before a name."""
    return font_size * 3 // 2


def _entry(
    label: int, classes: Sequence[Category], colours: NDArray[np.uint8], size: int, width: int
) -> _Entry:
    by_lightness = colours[label, np.argsort(SHADE_STEPS)[::2]]
    if label == 0:
        return _Entry(by_lightness, "crowd region, not counted", _font("", size))
    category = classes[label - 1]
    # Line breaks and control characters become spaces; the rest is drawn as it is.
    name = " ".join("".join(c if c.isprintable() else " " for c in category.name).split())
    font = _font(name, size)
    if not name or not _can_write(font, name):
        name = f"{name} (id {category.id})".strip()  # glyphs of missing characters look alike
    return _Entry(by_lightness, _shortened(name, font, width - _swatch(size) - size // 2), font)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, with its middle left out if it is wider than `width` pixels.

    The middle goes because names often differ at their end.
    """
    kept = len(text)
    shortened = text
    while font.getlength(shortened) > width and kept > 1:
        kept -= max(1, kept // 50)  # so that a very long name is not measured too often
        shortened = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shortened


def _rows(entries: Iterable[_Entry], font_size: int, width: int) -> list[list[tuple[int, _Entry]]]:
    """The legend's rows: entries with their offsets in pixels, no row wider than `width`."""
    rows: list[list[tuple[int, _Entry]]] = []
    offset = width
    for entry in entries:
        length = (
            _swatch(font_size) + font_size // 2 + int(np.ceil(entry.font.getlength(entry.text)))
        )
        if not rows or offset + length > width:
            rows.append([])
            offset = 0
        rows[-1].append((offset, entry))
        offset += length + font_size * 3 // 2
    return rows


def _draw_entry(pen: ImageDraw.ImageDraw, entry: _Entry, x: int, y: int, font_size: int) -> None:
    """Draw an entry of the legend with its upper left corner at (x, y)."""
    wide, top = _swatch(font_size), y + font_size // 6
    count = len(entry.colours)
    for index, colour in enumerate(entry.colours.tolist()):
        left, right = x + wide * index // count, x + wide * (index + 1) // count
        pen.rectangle((left, top, right - 1, top + font_size - 1), fill=tuple(colour))
    pen.text((x + wide + font_size // 2, y + font_size), entry.text, INK, entry.font, anchor="ls")


@lru_cache(maxsize=64)
def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the characters of `text`: Pillow's own, or else one of the machine's.

    If none has them all, it is Pillow's own.
    """
    fonts = _fonts(size)
    own = next(fonts)
    if _can_write(own, text):
        return own
    return next((font for font in fonts if _can_write(font, text)), own)


def _fonts(size: int) -> Iterator[ImageFont.FreeTypeFont]:
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont), "Pillow without FreeType"
    yield own
    for name in FALLBACK_FONTS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:
            continue


def _can_write(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether the font has all characters of `text`.

    A character that it lacks looks like one that no font has.
    """
    lacking = bytes(font.getmask("\U0010fffe"))
    return all(
        bytes(font.getmask(character)) != lacking
        for character in set(text)
        if not character.isspace()
    )
