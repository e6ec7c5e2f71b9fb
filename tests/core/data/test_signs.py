"""Laws of the answer to a folder that no reader reads: what was seen, whose it is, the way out."""

import re
from pathlib import Path

import pytest

from core.data import inspect_data
from core.data.signs import MOST_FILES, SIGNS, Sign, seen_in

SHOWING = {
    "images and masks in folders": ("images/a.png", "masks/b.png"),
    "masks whose images are not": ("cells/a_masks.png",),
    "a part of a Roboflow export": ("valid/_annotations.coco.json",),
    "labels of YOLO": ("labels/train/a.txt",),
    "XML of neither": ("Annotations/a.xml",),
    "a Pascal VOC export": ("SegmentationObject/a.png",),
    "MATLAB files": ("Labels/train_1.mat",),
    "outlines of ImageJ": ("RoiSet.zip",),
    "whole slides": ("slide.svs",),
    "files of a microscope": ("a.czi",),
    "arrays of several images": ("data.h5",),
    "an archive": ("export.zip",),
}
"""Files that show each sign, by the beginning of its words."""


def answer(folder: Path, *files: str) -> str:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    (problem,) = inspect_data(str(folder)).problems
    return str(problem)


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.what)
def test_a_sign_is_told_with_the_files_that_show_it_and_what_to_do(
    sign: Sign, tmp_path: Path
) -> None:
    (files,) = [files for words, files in SHOWING.items() if sign.what.startswith(words)]
    told = answer(tmp_path, *files)
    assert told.startswith(f"{tmp_path}: the folder holds no annotated image (seen: ")
    assert re.search(f"{re.escape(files[0])}.* looks? like {re.escape(sign.what)}: ", told)
    assert told.count(sign.advice) == 1
    assert "put one folder per image there" not in told


def test_files_are_counted_by_kind_and_pictures_alone_get_the_layouts(tmp_path: Path) -> None:
    told = answer(tmp_path, *(f"{number}.jpg" for number in range(8)), "notes.txt")
    assert "(seen: 8 .jpg and 1 .txt); put one folder per image there" in told
    assert f"{tmp_path}/NAME_masks.png beside the images {tmp_path}/NAME.png" in told


def test_names_reach_the_terminal_as_text(tmp_path: Path) -> None:
    told = answer(tmp_path, "\x1b[2J.mat", "a.\x1b[31m")
    assert told.isprintable()


def test_a_huge_folder_is_described_by_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_FILES >= 1000
    monkeypatch.setattr("core.data.signs.MOST_FILES", 3)
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
        for number in range(3):
            (tmp_path / place / f"{number}.jpg").write_bytes(b"")
    assert seen_in(tmp_path) == ("seen: 3 .jpg",)
