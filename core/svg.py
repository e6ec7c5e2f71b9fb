"""Figures as SVG text, drawn by matplotlib and coloured by the page's theme.

Each has a description for blind readers. A figure is drawn twice, wide and narrow, because text
that is shrunk to the width of a phone cannot be read. Inside a page its colours are CSS variables,
so that it follows the page from light to dark; a file of its own has the colours of the light
theme. Text stays text, no two figures share an id, and drawing the same figure again gives the same
text.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.style
from matplotlib.figure import Figure as Canvas

WIDE, NARROW = 720.0, 344.0
"""Widths of the two drawings in SVG units, which are CSS pixels where the page is wide enough. The
font size is 12 units."""

COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181b"),
    "ink": ("#1c2024", "#e7e9eb"),
    "muted": ("#5b636b", "#a5adb5"),
    "backdrop": ("#b3bac1", "#545d66"),
    "faint": ("#e3e6e9", "#2b3137"),
    "blue": ("#08408f", "#86dcff"),
    "vermillion": ("#e0400a", "#b06a1e"),
    "green": ("#00916e", "#2fbf4f"),
    "orchid": ("#c873cf", "#d78fce"),
    "ochre": ("#5d3a00", "#f2e64a"),
    "violet": ("#8a2be2", "#7269ff"),
}
"""Each colour in the light and the dark theme, by the name of its CSS variable without `--`. The
last six tell series apart: their hues are near those of M. Okabe and K. Ito, and a search moved
their lightness apart until people with any kind of colour vision can tell any two apart. The
contrast of each with the background is at least 3 to 1."""

SERIES = ("blue", "vermillion", "green", "orchid", "ochre", "violet")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None), (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 3)), (0, (9, 3)),
)  # fmt: skip
"""Matplotlib's dash patterns by series, in the order of SERIES and MARKERS: series differ without
colours too."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cell-tune",
    "font.family": "sans-serif",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "legend.frameon": False,
    "lines.markersize": 6.0,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
    "path.simplify": False,
    **dict.fromkeys(
        (
            "font.size",
            "axes.titlesize",
            "axes.labelsize",
            "legend.fontsize",
            "legend.title_fontsize",
        ),
        12.0,
    ),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 12.0),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), COLOURS["ink"][0]),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), COLOURS["ink"][0]),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), COLOURS["muted"][0]),
    "grid.color": COLOURS["faint"][0],
}


@dataclass(frozen=True)
class Drawing:
    """A figure that is to be drawn.

    section   section of the page in which it stands: `pictures` (above the answer), `comparison`,
              `history`, `factors`, `settings`, `training`, `confirmation`, `classes`, `data`,
              `stopped`, `cost` or `failures`; with any other name it stands in the last section,
              `Others`
    caption   what the figure shows, and how sure it is, in plain sentences
    height    returns the height of the wide (True) or the narrow drawing, in SVG units as `WIDE`
    draw      draws on an empty canvas; its second argument says whether the drawing is the wide one
    """

    section: str
    title: str
    caption: str
    height: Callable[[bool], float]
    draw: Callable[[Canvas, bool], None]


@dataclass(frozen=True)
class DrawnFigure:
    """A figure that is drawn. `section`, `title` and `caption` are those of its `Drawing`.

    wide      an `svg` element for a wide page, in the colours of the page
    narrow    an `svg` element for a phone, in the colours of the page
    alone     the text of an SVG file, in the colours of the light theme
    """

    section: str
    title: str
    caption: str
    wide: str
    narrow: str
    alone: str


def colour(name: str) -> str:
    """A colour as `#rrggbb`, that of the light theme; `draw_figure` makes it a CSS variable."""
    return COLOURS[name][0]


def draw_figure(name: str, drawing: Drawing) -> DrawnFigure:
    """Draw a figure in both widths. `name` must be unique, since ids of elements begin with it."""
    title, caption = drawing.title, drawing.caption
    wide, narrow = (
        _svg(width, drawing.height(width == WIDE), drawing.draw) for width in (WIDE, NARROW)
    )
    return DrawnFigure(
        drawing.section,
        title,
        caption,
        _finished(wide, f"{name}-wide", title, caption, themed=True),
        _finished(narrow, f"{name}-narrow", title, caption, themed=True),
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + _finished(wide, name, title, caption, themed=False)
        + "\n",
    )


def plain(text: str, longest: int = 30) -> str:
    """A text on one line of at most `longest` characters, without unprintable ones.

    The middle of a longer text is left out, since names often differ at their end.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[len(text) - end :]}"


def _svg(width: float, height: float, draw: Callable[[Canvas, bool], None]) -> str:
    """The SVG that matplotlib writes, as text; its settings are changed in this call only."""
    stream = io.StringIO()
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser draws the text; matplotlib only measures it, and may lack its characters.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        canvas = Canvas(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        draw(canvas, width == WIDE)
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_URL = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_FONT = re.compile(r"font(?:-family)?:\s*[^;]*")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_DROPPED = (f"{_SVG}metadata", f"{_SVG}style")
_MEASURES = ("d", "x", "y", "transform", "width", "height", "points")


def _finished(svg: str, prefix: str, title: str, description: str, themed: bool) -> str:
    """Matplotlib's SVG file turned into an element that can stand beside others in one page.

    prefix   begin of all ids, which no other element of the page has
    themed   whether colours become CSS variables of the page
    """
    root = ET.fromstring(svg)
    used: dict[str, str] = {}
    for element in root.iter():
        for attribute, value in element.attrib.items():
            for name in _references(attribute, value):
                used.setdefault(name, f"{prefix}-{len(used)}")
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = dict(_attributes(element.attrib, used, themed))
    view = root.attrib["viewBox"]
    named = {"title": f"{prefix}-title", "desc": f"{prefix}-desc"}
    root.attrib = {
        "xmlns": _SVG[1:-1],
        "viewBox": view,
        "role": "img",
        "aria-labelledby": " ".join(named.values()),
        "style": (
            "stroke-linejoin: round; stroke-linecap: butt"
            + ("" if themed else "; font-family: sans-serif")
        ),
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        said = ET.Element(tag, {"id": named[tag]})
        said.text = plain(text, len(text))  # XML has no place for control characters
        root.insert(place, said)
    return ET.tostring(root, encoding="unicode")


def _attributes(
    found: Mapping[str, str], used: Mapping[str, str], themed: bool
) -> list[tuple[str, str]]:
    """The attributes of an element: ids made unique, numbers cut to two decimals, fonts removed."""
    kept: list[tuple[str, str]] = []
    for name, value in found.items():
        if name == "id":
            if value in used:
                kept.append((name, used[value]))
            continue
        for old in _references(name, value):
            value = value.replace(f"#{old}", f"#{used[old]}")
        if name in _MEASURES:
            value = _NUMBER.sub(
                lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value
            )
        elif name == "style":
            value = _FONT.sub(_only_its_size, value)
            value = "; ".join(part.strip() for part in value.split(";") if part.strip())
            value = (
                _HEX.sub(lambda match: _NAMES.get(match[0], match[0]), value) if themed else value
            )
        kept.append(("href" if name == _HREF else name, " ".join(value.split())))
    return kept


def _references(name: str, value: str) -> list[str]:
    """The ids that an attribute refers to; a `#c44a00` in a style is a colour and no id."""
    return [value[1:]] if name == _HREF else _URL.findall(value)


def _only_its_size(match: re.Match[str]) -> str:
    """The font of a text reduced to its size: the family is the page's."""
    size = _FONT_SIZE.search(match[0])
    return f"font-size: {size[1]}px" if size else ""


_HEX = re.compile(r"#[0-9a-f]{6}")
_NAMES = {light: f"var(--{name}, {light})" for name, (light, _) in COLOURS.items()}
