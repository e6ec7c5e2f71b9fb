"""Laws of inputs that were once read wrong: each is read as it was drawn, or refused with its cause.

The inputs are drawn by a program that is kept beside the project, and left out where it is not.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from core import data as datasets
from core.check import main

MAKE = Path(__file__).parents[4] / "shared/cases/make.py"
pytestmark = pytest.mark.skipif(not MAKE.is_file(), reason=f"the cases are not there: {MAKE}")

LARGEST_DIFFERENCES = {
    "associated-alpha": 2,  # colours were halved
    "thumbnail-page": 0,
    "exif-turned": 60,  # a JPEG
    "ome-channels-first": 0,
    "palette": 3,  # of 64 colours
    "windows-paths": 0,
    "size-unknown": 0,
    "image-name-tiff": 0,
    "masks-in-two-formats": 0,
}
"""By how many grey levels the pixels of each readable case differ from those drawn, at most."""
CAUSES = {
    "boxes-only": "30 of 30 annotations are boxes without outlines, as for object detection",
    "fractions-of-the-image": "these look like fractions of the image",
    "one-empty-polygon": "`--set data.skip_bad=true` leaves out and counts",
    "semantic-masks": "`--set data.split_components=true` makes each piece an instance",
    "same-mask-twice": "30 instances in 5 images (slide0, slide1, slide2 and 2 more) are annotated twice",
    "interpolated-ids": "as where ids were resized with smoothing or saved as JPEG",
}


@pytest.fixture(scope="module")
def cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_cases", MAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_case_is_either_read_or_refused(cases: ModuleType) -> None:
    assert set(cases.CASES) == LARGEST_DIFFERENCES.keys() | CAUSES.keys()


@pytest.mark.parametrize("name", LARGEST_DIFFERENCES)
def test_an_input_that_says_what_it_is_is_read_as_it_was_drawn(
    cases: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases.CASES[name](tmp_path)
    assert main([str(tmp_path), "--no-page"]) == 0
    assert "Usable: no problems found." in capsys.readouterr().out
    data = datasets.load_data(str(tmp_path))
    assert data.instance_counts().sum() == 5 * cases.CELLS
    for seed, sample in enumerate(data.samples):
        drawn, _, _ = cases.scene(seed)
        difference = np.abs(sample.image.astype(int) - drawn)
        assert difference.max() <= LARGEST_DIFFERENCES[name]
        assert difference.mean() <= 4


@pytest.mark.parametrize("name", CAUSES)
def test_an_input_that_is_not_what_it_seems_is_refused_in_one_sentence_with_the_cause(
    cases: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases.CASES[name](tmp_path)
    assert main([str(tmp_path), "--no-page"]) == 2
    said = capsys.readouterr().out
    assert said.count(CAUSES[name]) == 1
    assert "Usable" not in said


def test_one_polygon_without_pixels_is_left_out_when_that_is_asked_for(
    cases: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases.CASES["one-empty-polygon"](tmp_path)
    assert main([str(tmp_path), "--set", "data.skip_bad=true"]) == 0
    assert "5 annotated images, 29 instances" in capsys.readouterr().out
