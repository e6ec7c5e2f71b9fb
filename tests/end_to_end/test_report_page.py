"""The report in a real browser, at the widths of a desk and of a phone, light and dark."""

import base64
import io
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.simulated_study import REFERENCE, REFERENCE_QUALITY, SAMPLED, build, sampled_quality
from tests.browser import Browser, Tab, needs_chromium
from tests.end_to_end.looks import CONTRAST, FIGURES, OVERFLOW
from tune.report import page as report
from tune.report.content import content_of
from tune.report.figures.figure import Pictures, PngPicture, figures_of
from tune.study.reading import read_study

ROOT = Path(__file__).parents[2]
CONSEP = ROOT.parent / "shared/data/consep"
WEIGHTS = ROOT.parent / "shared/weights/resnet50_imagenet_stride1x1_fp16.pth"
DESK, PHONE = 1280, 360


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of the reference report's rows, with a long hostile name, and of a search; with
    every kind of figure.
    """
    results = tmp_path_factory.mktemp("results")
    long = "<b>&" + "long" * 20
    variants = {**REFERENCE["variants"], long: {"augment.elastic": True}}
    compare = {
        "ResNet-101": "Res50 (ImageNet)",
        "Partial + Elastic": "Partial + Aug.",
        long: "Full fine-tuning",
    }
    document = {
        **REFERENCE,
        "fixed": {"optim.epochs": 3},
        "seeds": 2,
        "variants": variants,
        "compare": compare,
    }
    fates = {3: "epoch 2, batch 4: loss is nan"}
    search = {
        **SAMPLED,
        "fixed": {"model.weights": "none", "optim.epochs": 4},
        "search": {"sampler": "random", "trials": 16},
        "stop_early": {"rule": "successive_halving", "min_epochs": 2, "reduction": 3},
        "confirm": {"top": 2, "seeds": 2},
    }
    folders = {
        "variants": build(
            results, document, lambda record: REFERENCE_QUALITY.get(record.name, 0.2)
        ),
        "search": build(results, search, sampled_quality, lambda record: fates.get(record.id, "")),
    }
    found = {
        name: content_of(read_study(folder.path.name, folder.path.parent))
        for name, folder in folders.items()
    }
    return {
        name: report.write_report(found[name], {**figures_of(found[name]), "examples": pictured()})
        for name in folders
    }


def pictured() -> Pictures:
    """Noise, of the size of three panels."""
    stream = io.BytesIO()
    Image.effect_noise((1700, 560), 80).save(stream, format="PNG")
    return Pictures(
        "pictures", "What it sees", "No interval.", (PngPicture(stream.getvalue(), "Noise."),)
    )


each_page = pytest.mark.parametrize("name", ["variants", "search"])


@needs_chromium
@each_page
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_page_shows_every_figure_whole_and_runs_over_no_edge(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    tab = Tab(browser, pages[name], width, "light")
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        inner, outer, over = tab.run(OVERFLOW)
        assert over == []
        assert inner <= outer
        figures = tab.run(FIGURES)
        assert len(figures) >= 6
        for figure in figures:
            assert figure["shown"] == 1, figure["name"]
            assert figure["loaded"], figure["name"]
            left, right, wide, high = figure["box"]
            assert left >= 0
            assert wide > 200
            assert high > 60
            assert figure["cut"] == [], figure["name"]
            assert figure["overlapping"] == [], figure["name"]
            if not figure["pictures"]:
                assert right <= outer
                assert figure["drawn"] > 5
                assert min(figure["sizes"]) >= 10, "text that is too small to be read"
        assert tab.run(CONTRAST) >= 4.5, scheme
    assert tab.complaints == []


@needs_chromium
@each_page
def test_light_and_dark_are_two_looks_of_one_page_which_fetches_nothing_else(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    tab = Tab(browser, pages[name], DESK, "light")
    looks = {}
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        strokes = (
            "[...new Set([...document.querySelectorAll('.wide path')].map(path =>"
            " getComputedStyle(path).stroke))]"
        )
        looks[scheme] = (
            tab.run("getComputedStyle(document.body).backgroundColor"),
            set(tab.run(strokes)) - {"none"},
        )
    fetched = tab.run(
        "performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 22))"
    )
    assert set(fetched) <= {"data:image/webp;base64"}
    assert looks["light"][0] == "rgb(255, 255, 255)"
    assert looks["dark"][0] != looks["light"][0]
    assert not looks["dark"][1] & looks["light"][1]


@needs_chromium
@each_page
def test_on_paper_no_table_is_cut_and_the_page_is_light(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    # 182 mm of A4 between the margins, in CSS pixels.
    tab = Tab(browser, pages[name], 688, "dark", media="print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = tab.run(
        """[...document.querySelectorAll('.scroll, table, svg, img')]
      .filter(element => element.getBoundingClientRect().width > 0)
      .filter(element => element.getBoundingClientRect().right > 689 || element.scrollHeight > element.clientHeight + 1
        && getComputedStyle(element).overflow !== 'visible').map(element => element.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    printed = tab.call(
        "Page.printToPDF",
        preferCSSPageSize=True,
        printBackground=True,
        paperWidth=8.27,
        paperHeight=11.7,
    )
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", unpacked(pdf))) <= 40


def unpacked(pdf: bytes) -> bytes:
    """A PDF with its compressed streams beside it in plain: objects may lie in them."""
    plain = [pdf]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            plain.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return b"\n".join(plain)


@needs_chromium
def test_a_figure_s_own_file_opens_alone(browser: Browser, pages: dict[str, Path]) -> None:
    for path in sorted((pages["search"].parent / "figures").glob("*.svg")):
        tab = Tab(browser, path, DESK, "light")
        assert tab.run("document.documentElement.tagName") == "svg"
        assert tab.run(
            "[...document.querySelectorAll('path')].some(path => path.getBoundingClientRect().width"
            " > 100)"
        )
        assert tab.complaints == []


@needs_chromium
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not CONSEP.exists(), reason=f"{CONSEP} is not there")
def test_the_reference_report_s_rows_on_real_tissue_end_with_a_page(
    browser: Browser, tmp_path: Path
) -> None:
    """Four rows of report_tables.yaml, three seeds, small and short, from the command line to
    the page.
    """
    unpacked_to = tmp_path / "consep"
    subprocess.run(
        [sys.executable, str(CONSEP / "unpack.py"), str(unpacked_to)],
        check=True,
        capture_output=True,
    )
    for tile in range(1, 8):
        for folder in sorted((unpacked_to / "train").glob(f"train_{tile}_*")):
            shutil.copytree(folder, tmp_path / "cells/train" / folder.name)
    document = yaml.safe_load((ROOT / "search_spaces/report_tables.yaml").read_text())
    rows = ("Res50", "Aug.", "Partial", "Res50 with restart")
    document["variants"] = {name: document["variants"][name] for name in rows}
    del document["compare"]
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    settings = [
        f"model.weights={WEIGHTS if WEIGHTS.exists() else 'none'}", "model.detector=fpn",
        "optim.epochs=2", "optim.learning_rate=3e-4", "model.image_min_side=192",
        "model.box_samples=64", "model.proposals_train=200", "model.proposals_test=200",
        "model.anchor_scale=0.5", r"data.group_pattern=^(.+)_\d+_\d+$",
        *(["model.stride_in_1x1=true"] if WEIGHTS.exists() else []),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tune.search", "--space", "rows.yaml", "--data", "cells", "--gpus-per-trial", "0",
         *(f"--set={one}" for one in settings)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout[-2500:])
    page = tmp_path / "results/report_tables/report/index.html"
    assert f"Report: {page.relative_to(tmp_path)}" in done.stdout
    for width in (DESK, PHONE):
        tab = Tab(browser, page, width, "light")
        inner, outer, over = tab.run(OVERFLOW)
        assert (inner <= outer, over, tab.complaints) == (True, [], [])
        for figure in tab.run(FIGURES):
            assert figure["shown"] == max(figure["pictures"], 1), figure["name"]
            assert (figure["loaded"], figure["cut"], figure["overlapping"]) == (
                True,
                [],
                [],
            ), figure["name"]
