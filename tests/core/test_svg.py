"""Laws of how figures are drawn: one look in every page, told apart by everybody, and the same
text every time.
"""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from core.svg import (
    COLOURS,
    DASHES,
    MARKERS,
    NARROW,
    SERIES,
    WIDE,
    Drawing,
    DrawnFigure,
    colour,
    draw_figure,
    plain,
)

THEMES = {"light": 0, "dark": 1}

# Linear RGB as people see it who lack one kind of cone: G. M. Machado, M. M. Oliveira, L. A. F.
# Fernandes, "A physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15
# (2009), severity 1.
VISION = {
    "all cones": np.eye(3),
    "no red cones": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "no green cones": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ]),
    "no blue cones": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ]),
}  # fmt: skip


def linear(colour: str) -> NDArray[np.float64]:
    encoded = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    result: NDArray[np.float64] = np.where(
        encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    )
    return result


def contrast(one: str, other: str) -> float:
    """Of the Web Content Accessibility Guidelines 2, from 1 to 21."""
    dark, light = sorted(float(linear(shade) @ [0.2126, 0.7152, 0.0722]) for shade in (one, other))
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """B.

    Ottosson's space, in which distances are about as large as they look; black to white is 1.
    """
    cones = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ])  # fmt: skip
    to_lab = np.array([
        [0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ])  # fmt: skip
    result: NDArray[np.float64] = to_lab @ np.cbrt(cones @ np.clip(rgb, 0, 1))
    return result


@pytest.mark.parametrize("theme", THEMES)
def test_series_stand_out_from_the_ground_and_text_can_be_read_in_both_themes(theme: str) -> None:
    of = {name: shades[THEMES[theme]] for name, shades in COLOURS.items()}
    assert all(contrast(of[name], of["paper"]) >= 3 for name in SERIES)
    assert all(contrast(of[name], of["paper"]) >= 4.5 for name in ("ink", "muted", "blue"))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", THEMES)
def test_any_two_series_are_told_apart_with_any_kind_of_colour_vision(
    theme: str, vision: str
) -> None:
    seen = [oklab(VISION[vision] @ linear(COLOURS[name][THEMES[theme]])) for name in SERIES]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 0.1


def test_series_differ_in_more_than_their_colour() -> None:
    assert (
        len(set(MARKERS))
        == len(set(DASHES))
        == len(set(SERIES))
        == len(MARKERS)
        == len(DASHES)
        == len(SERIES)
    )


HOSTILE = "<script>alert('x')</script> $\\alpha$ & 漢"


def drawing(canvas: Canvas, wide: bool) -> None:
    axes = canvas.subplots()
    for place, shade in enumerate(SERIES):
        axes.plot(
            [1, 2],
            [place, place + 1],
            color=colour(shade),
            marker=MARKERS[place],
            linestyle=DASHES[place],
            label=shade,
        )
    axes.fill_between([1, 2], [0, 0], [1, 1], color=colour("blue"), alpha=0.2)
    axes.set_xlabel("wide" if wide else "narrow")
    axes.set_title(HOSTILE)
    canvas.legend(loc="outside right upper")


def make(name: str = "one") -> DrawnFigure:
    height = lambda wide: 300 if wide else 400  # noqa: E731
    return draw_figure(
        name, Drawing("training", "A title <b>", "A caption & more.", height, drawing)
    )


@pytest.fixture(scope="module")
def made() -> DrawnFigure:
    return make()


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_the_same_figure_is_the_same_text(made: DrawnFigure) -> None:
    assert make() == made


def test_drawing_changes_no_setting_of_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    make()
    assert dict(matplotlib.rcParams) == before


def test_no_two_figures_share_an_id_and_every_reference_leads_somewhere(made: DrawnFigure) -> None:
    every: list[str] = []
    for svg in (made.wide, made.narrow, make("two").wide, make("two").narrow):
        ids = [element.attrib["id"] for element in parsed(svg).iter() if "id" in element.attrib]
        named = [*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)]
        assert named
        assert set(named) <= set(ids)
        every += ids
    assert len(set(every)) == len(every)


def test_in_a_page_every_colour_follows_the_theme_and_a_file_needs_no_page(
    made: DrawnFigure,
) -> None:
    for svg in (made.wide, made.narrow):
        colours = re.findall(r"(?:var\(--[a-z]+, )?#[0-9a-f]{6}\b", svg)
        assert colours
        assert all(shade.startswith("var(--") for shade in colours)
        assert not re.search(r"\b(?:fill|stroke): (?!var|none|url)", svg)
    assert "var(" not in made.alone
    assert set(re.findall(r"#[0-9a-f]{6}\b", made.alone)) <= {
        light for light, _ in COLOURS.values()
    }


def test_a_figure_scales_is_named_and_keeps_its_text_as_text(made: DrawnFigure) -> None:
    for svg, view in ((made.wide, WIDE), (made.narrow, NARROW), (made.alone, WIDE)):
        root = parsed(svg)
        assert root.attrib["viewBox"].startswith(f"0 0 {view:g} ")
        assert "width" not in root.attrib
        by_id = {element.attrib.get("id"): element.text for element in root.iter()}
        assert [by_id[name] for name in root.attrib["aria-labelledby"].split()] == [
            "A title <b>",
            "A caption & more.",
        ]
        texts = [element.text for element in root.iter() if element.tag.endswith("text")]
        assert HOSTILE in texts
        assert not any(element.tag.endswith("script") for element in root.iter())
    assert ">narrow<" in made.narrow
    assert "<script" not in made.wide + made.narrow + made.alone


@given(st.text(max_size=80), st.integers(3, 40))
def test_a_label_is_one_printable_line_and_no_longer_than_asked(text: str, longest: int) -> None:
    shown = plain(text, longest)
    assert len(shown) <= longest
    assert shown.isprintable()
    if len(text) <= longest and text.isprintable() and text.split() == [text]:
        assert shown == text


def test_a_caption_with_control_characters_is_a_whole_file() -> None:
    said = "Without: a\x0bb, c\udcffd."
    drawing = Drawing("classes", "A\x1b[2J", said, lambda _: 100, lambda *_: None)
    root = ET.fromstring(draw_figure("a", drawing).alone)
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == "Without: a b, c d."
