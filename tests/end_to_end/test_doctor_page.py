"""The doctor's page in a real browser: whole, readable on a desk and on a phone, light and dark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.config import TrialConfig
from core.data.conversion import write_coco
from core.data.dataset import Category, assemble
from core.data.synthetic import make_cells
from core.doctor.diagnosis import diagnose
from core.doctor.page import write_page
from core.sample import Sample
from tests.browser import DECODED, Browser, Tab, needs_chromium
from tests.end_to_end.looks import CONTRAST, FIGURES, OVERFLOW

pytestmark = needs_chromium
HOSTILE = "<img src=x onerror=alert(1)>&" + "long" * 20


def slipped(sample: Sample) -> Sample:
    """Its first instance has a stray piece in the corner opposite to it."""
    maps = np.array(sample.label_maps)
    height, width = sample.size
    y, x = np.argwhere(maps[0] == 1)[0].tolist()
    row, column = (height - 4 if y < height / 2 else 2), (width - 4 if x < width / 2 else 2)
    maps[0, row : row + 2, column : column + 2] = 1
    return replace(sample, label_maps=maps)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slips, a copy, hostile names, and images of an odd size."""
    cells, folder = make_cells(images=7, side=96), tmp_path_factory.mktemp("doctor")
    first = cells.samples[0]
    samples = [
        replace(slipped(first), name=HOSTILE),
        replace(first, name="copy"),
        *cells.samples[1:],
    ]
    classes = [Category(1, HOSTILE), *(Category(number, f"kind {number}") for number in (2, 3, 4))]
    (folder / "cells").mkdir()
    write_coco(assemble("cells", classes, samples), folder / "cells")
    return write_page(diagnose(str(folder / "cells"), TrialConfig()), folder / "check")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_readable(browser: Browser, page: Path, width: int) -> None:
    tab = Tab(browser, page, width, "light")
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        inner, outer, over = tab.run(OVERFLOW)
        assert over == []
        assert inner <= outer
        figures = [one for one in tab.run(FIGURES) if one["name"]]
        assert [one["name"] for one in figures] == ["figure-sizes", "figure-crowds"]
        for figure in figures:
            assert figure["shown"] == 1
            assert figure["drawn"] > 5
            assert (figure["cut"], figure["overlapping"]) == ([], []), figure["name"]
            assert min(figure["sizes"]) >= 10, "text that is too small to be read"
        assert tab.run(CONTRAST) >= 4.5, scheme
    pictures = tab.run(
        "[...document.images].map(one => [one.getBoundingClientRect().width, one.alt])"
    )
    assert len(pictures) >= 10
    for shown, words in pictures:
        assert shown >= 120, "too small to be looked at"
        assert words
    assert tab.complaints == []


def test_every_picture_decodes_and_no_name_has_become_an_element(
    browser: Browser, page: Path
) -> None:
    tab = Tab(browser, page, 1280, "light")
    tab.call("Runtime.evaluate", expression=DECODED, awaitPromise=True)
    assert tab.run("[...document.images].every(one => one.naturalWidth > 100)")
    assert tab.run("[...document.images].every(one => one.src.startsWith('data:image/webp'))")
    assert tab.run("document.querySelectorAll('[onerror], script').length") == 0
    assert tab.run(f"document.body.innerText.includes({HOSTILE!r})")
    assert tab.run(
        "performance.getEntriesByType('resource').every(one => one.name.startsWith('data:'))"
    )
    assert tab.complaints == []
