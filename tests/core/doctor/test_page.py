"""Laws of the doctor's page: whole in one file, nothing in it is markup but its own, and what looks
wrong comes first.
"""

import base64
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.check import main
from core.config import DataConfig, TrialConfig
from core.data.conversion import write_coco
from core.data.dataset import Category, Dataset, assemble
from core.data.split import split
from core.data.synthetic import make_cells, write_hw3
from core.doctor import page as page_module
from core.doctor.diagnosis import diagnose
from core.doctor.page import PAGE_FILE, page_of
from core.doctor.pictures import LONGEST_SIDE
from core.prediction.overlay import draw_outlines, palette
from core.sample import Sample

CELLS = make_cells(images=6, side=64)


@pytest.fixture(autouse=True)
def current(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    return folder


class Read(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def page_on(dataset: Dataset, folder: Path, **settings: str) -> Read:
    """The page on a data set, written as COCO, which keeps names as they are."""
    folder.mkdir(exist_ok=True)
    write_coco(dataset, folder)
    return Read(page_of(diagnose(str(folder), TrialConfig.from_settings(settings))))


def test_the_page_is_whole_in_one_file_without_a_script(tmp_path: Path) -> None:
    page = page_on(CELLS, tmp_path / "cells")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    pictures = page.pictures()
    assert len(pictures) >= len(CELLS.samples)
    for picture in pictures:
        assert picture["alt"]
        _, _, data = (picture["src"] or "").partition("base64,")
        decoded = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (str(decoded.width), str(decoded.height)) == (picture["width"], picture["height"])
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert drawings
    assert all("aria-labelledby" in attributes for attributes in drawings)


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "`&amp;`")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_from_a_file_becomes_markup(tmp_path: Path, name: str) -> None:
    safe = name.replace("/", "\N{FRACTION SLASH}")  # no file name holds a slash
    twins = [replace(sample, name=f"{safe}{number}") for number, sample in enumerate(CELLS.samples)]
    twins.append(replace(twins[0], name=f"{safe}again"))
    hostile = assemble("x", [Category(number, f"{name}{number}") for number in (1, 2, 3, 4)], twins)
    page, plain = (
        page_on(hostile, tmp_path / "a"),
        page_on(
            assemble("x", CELLS.classes, [*CELLS.samples, replace(CELLS.samples[0], name="again")]),
            tmp_path / "b",
        ),
    )
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"code"}
    assert not [one for _, one in page.tags if any(key.startswith("on") for key in one)]
    assert f"{safe}0".replace("`", "") in page.text.replace("`", "")
    assert "49" not in [word for word in page.text.split() if word.startswith("49 ")]


def test_an_outline_has_the_colour_of_its_class_and_lies_inside_its_instance() -> None:
    sample = CELLS.samples[0]
    drawn = draw_outlines(sample, sample.size, len(CELLS.classes))
    changed = (drawn != sample.image).any(axis=2)
    assert changed.any()
    assert not (changed & (sample.label_maps[0] == 0)).any()
    colours = palette(len(CELLS.classes))[:, 0]
    classes_HW = np.concatenate([[0], sample.labels_N])[sample.label_maps[0]]
    assert (drawn[changed] == colours[classes_HW[changed] - 1]).all()
    for number in range(1, len(sample.labels_N) + 1):
        assert (changed & (sample.label_maps[0] == number)).any()


def slips(sample: Sample) -> Sample:
    """The image with a stray pixel for its first instance, and an instance of one pixel."""
    maps = np.array(sample.label_maps)
    free = np.argwhere(maps[0] == 0)
    free = free[(free > 1).all(axis=1) & (free < np.array(sample.size) - 2).all(axis=1)]
    far = [
        tuple(place)
        for place in free.tolist()
        if not maps[0, place[0] - 2 : place[0] + 3, place[1] - 2 : place[1] + 3].any()
    ]
    maps[0][far[0]], maps[0][far[-1]] = 1, len(sample.labels_N) + 1
    return replace(
        sample,
        label_maps=maps,
        labels_N=np.append(sample.labels_N, 1),
        crowd_N=np.append(sample.crowd_N, False),
    )


def test_what_looks_wrong_comes_first_with_its_file_and_its_remedy(tmp_path: Path) -> None:
    cells = make_cells(images=6, side=160)
    samples = [*cells.samples[:4], slips(cells.samples[4]), cells.samples[5]]
    page = page_on(assemble("x", cells.classes, samples), tmp_path / "cells")
    name = f"{samples[4].name}.png"
    assert name in (page.pictures()[0]["alt"] or "")
    text = page.text
    assert "1 instance in 1 image" in text
    assert text.index("stray pixels") < text.index("the colour of its outlines on this page")
    assert "erase it;" in text
    sheet = [
        one["alt"] or "" for one in page.pictures() if "with the outlines of " in (one["alt"] or "")
    ]
    assert next(alt for alt in sheet if " around " not in alt).startswith(name)


def test_a_long_data_set_is_shown_in_part_and_the_page_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise takes more bytes than any tissue; here with a tenth of the images and of the bytes."""
    monkeypatch.setattr(page_module, "MOST_SHOWN", page_module.MOST_SHOWN // 10)
    monkeypatch.setattr(page_module, "SHEET_BYTES", page_module.SHEET_BYTES // 10)
    rng = np.random.default_rng(0)
    first = CELLS.samples[0]
    noise = [
        replace(first, name=f"{number:03d}", image=rng.integers(0, 256, (*first.size, 3), np.uint8))
        for number in range(23)
    ]
    folder = tmp_path / "many"
    folder.mkdir()
    write_coco(assemble("x", CELLS.classes, noise), folder)
    html = page_of(diagnose(str(folder), TrialConfig()))
    assert len(html) < 200_000 + page_module.SHEET_BYTES * 4 / 3
    page = Read(html)
    assert "A sample of 20 images" in page.text
    assert "3 are not shown" in page.text


def test_of_a_large_image_with_small_cells_a_part_is_shown(tmp_path: Path) -> None:
    large = np.full((1500, 2000, 3), 230, np.uint8)
    maps = np.zeros((1, 1500, 2000), np.uint16)
    for number in range(200):
        y, x = 40 * (number // 20) + 900, 40 * (number % 20) + 1000
        maps[0, y : y + 20, x : x + 20] = number + 1
    one = Sample("large", large, maps, np.ones(200, np.int64), np.zeros(200, np.bool_))
    page = page_on(
        assemble("x", [Category(1, "cell")], [one, replace(one, name="other")]), tmp_path / "a"
    )
    shown = re.findall(r"Shown are rows (\d+) to (\d+) and columns (\d+) to (\d+)", page.text)
    assert shown
    y0, y1, x0, x1 = map(int, shown[0])
    assert maps[0, y0:y1, x0:x1].any()
    assert (y1 - y0) * 20 <= LONGEST_SIDE * 40


def test_copies_on_both_sides_of_the_split_are_shown_first(tmp_path: Path) -> None:
    twins = [*CELLS.samples, *(replace(one, name=f"z{one.name}") for one in CELLS.samples[:4])]
    data = assemble("x", CELLS.classes, twins)
    place = {sample.name: index for index, sample in enumerate(data.samples)}
    pairs = [(place[one.name], place[f"z{one.name}"]) for one in CELLS.samples[:4]]
    leaks = {
        seed: sum((one in validates) != (other in validates) for one, other in pairs)
        for seed in range(5)
        for validates in [split(data, DataConfig(split_seed=seed)).validation]
    }
    seed = next(seed for seed, count in leaks.items() if 0 < count < 4)
    text = page_on(data, tmp_path / "cells", **{"data.split_seed": str(seed)}).text
    leak, same = "One trains and the other validates", "This split has both in one part"
    assert text.count("The pixels are the same.") == 4
    assert text.count(leak) == leaks[seed]
    assert text.rindex(leak) < text.index(same)


def test_the_page_is_never_written_into_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hw3(CELLS, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path), "--out", str(tmp_path / "check")]) == 2
    assert "the page must lie outside the data set" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["."]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("No page: check: the page must lie outside")
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_another_file_of_that_name_is_not_written_over(
    tmp_path: Path, current: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hw3(CELLS, tmp_path)
    assert main([str(tmp_path), "--out", str(current / "mine")]) == 0
    assert main([str(tmp_path), "--out", str(current / "mine")]) == 0, "its own page is"
    (current / "mine" / PAGE_FILE).write_text("<p>my thesis")
    assert main([str(tmp_path), "--out", str(current / "mine")]) == 2
    assert "is not one of the doctor's pages" in capsys.readouterr().err
    assert (current / "mine" / PAGE_FILE).read_text() == "<p>my thesis"


def test_without_a_page_nothing_is_written(tmp_path: Path, current: Path) -> None:
    write_hw3(CELLS, tmp_path)
    assert main([str(tmp_path), "--no-page"]) == 0
    assert list(current.iterdir()) == []


def test_the_same_data_set_gives_the_same_page(tmp_path: Path) -> None:
    write_hw3(CELLS, tmp_path)
    one, other = (page_of(diagnose(str(tmp_path), TrialConfig())) for _ in range(2))
    assert one == other


def test_a_folder_whose_name_is_no_text_has_a_page(tmp_path: Path, current: Path) -> None:
    folder = tmp_path / os.fsdecode(b"cells\xff")
    folder.mkdir()
    write_coco(CELLS, folder)
    assert main([str(folder)]) == 0
    assert "cells\\udcff" in (current / "check" / PAGE_FILE).read_text("utf-8")
