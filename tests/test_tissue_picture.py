"""Laws of README's prediction: chosen by its rule, with the numbers of the model that made it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import tissue_picture
from benchmarks.tissue import LEAST_LEFT, all_quarters
from benchmarks.tissue_picture import (
    CAPTION,
    FOLDER,
    NUMBERS,
    PART_BEGIN,
    PART_END,
    PICTURE,
    Predicted,
    caption_of,
    epochs_that_fit,
    main,
    median_image,
    publish,
    readme_part,
)
from core.data import synthetic
from core.errors import StudyError
from core.labels.label_maps import crop_mask, find_instances
from core.metric.ap50 import ap50, match_images
from core.sample import Detections, Sample
from core.values import as_ap50

ROOT = Path(__file__).parents[1]
SMALL = {
    **tissue_picture.SETTINGS,
    "model.backbone": "resnet18",
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 32,
    "model.proposals_test": 32,
    "model.rpn_samples": 32,
    "model.box_samples": 16,
    "data.validation_fraction": 0.4,
    "predict.max_detections": 10,
}


def tiles(count: int) -> Any:
    """A data set of `count` crops, each of a tile of its own."""
    data = synthetic.make_cells(images=count, side=128)
    named = [replace(one, name=f"tile{place}_0_0") for place, one in enumerate(data.samples)]
    return replace(data, samples=tuple(named))


def test_the_quarters_of_a_crop_are_its_four_parts_with_its_cells() -> None:
    (crop,) = tiles(1).samples
    parts = all_quarters(tiles(1)).samples
    height, width = (side // 2 for side in crop.size)
    places = [(0, 0), (0, width), (height, 0), (height, width)]
    assert [one.name for one in parts] == [f"tile0_{y}_{x}" for y, x in places]
    for one, (y, x) in zip(parts, places, strict=True):
        np.testing.assert_array_equal(one.image, crop.image[y : y + height, x : x + width])
        window = crop.label_maps[:, y : y + height, x : x + width]
        sizes = np.bincount(window.ravel(), minlength=len(crop.labels_N) + 1)[1:]
        whole = np.bincount(crop.label_maps.ravel(), minlength=len(crop.labels_N) + 1)[1:]
        kept = (sizes > 0) & (sizes >= LEAST_LEFT * whole)
        np.testing.assert_array_equal(one.labels_N, crop.labels_N[kept])


@given(st.integers(1, 500), st.floats(0.01, 100), st.floats(0.1, 1000))
def test_so_many_epochs_fit_and_one_more_does_not(images: int, each: float, minutes: float) -> None:
    epochs = epochs_that_fit(images, each, minutes)
    assert epochs >= 1
    assert epochs == 1 or epochs * images * each <= 60 * minutes * (1 + 1e-9)
    assert (epochs + 1) * images * each > 60 * minutes * (1 - 1e-9)


def perfect(sample: Sample, part: float) -> Detections:
    """The first cells of an image, as a fraction of all, exactly as they are annotated."""
    found = find_instances(sample.label_maps)
    count = round(part * len(found.ids_N))
    return Detections(
        found.boxes_N4[:count].astype(np.float32),
        sample.labels_N[found.ids_N - 1][:count],
        np.linspace(0.9, 0.8, count, dtype=np.float32),
        [crop_mask(sample.label_maps, found, row) for row in range(count)],
    )


@given(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), min_size=1, max_size=5))
def test_the_pictured_image_is_the_one_of_the_median_score(parts: list[float]) -> None:
    data = tiles(len(parts))
    found = [perfect(one, part) for one, part in zip(data.samples, parts, strict=True)]
    classes = len(data.classes)
    table, _ = match_images(data.samples, found, classes)
    place, score = median_image(Predicted(data.samples, found, table, table), 100)
    scores = [
        ap50(match_images([one], [seen], classes)[0], 100).mean
        for one, seen in zip(data.samples, found, strict=True)
    ]
    assert score == scores[place]
    assert sorted(scores)[len(scores) // 2] == score


@pytest.mark.usefixtures("narrow")
def test_one_command_trains_scores_and_pictures_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tissue_picture, "SETTINGS", SMALL)
    monkeypatch.setattr(tissue_picture, "epochs_that_fit", lambda *_: 2)
    synthetic.write_hw3(tiles(5), tmp_path / "data")
    out = tmp_path / "out"
    command = ["--data", str(tmp_path / "data"), "--weights", "none", "--out", str(out)]
    assert main(command) == 0
    numbers = json.loads((out / NUMBERS).read_text())
    # The model that is pictured is the one that was scored in its best epoch.
    assert numbers["ap50"] == pytest.approx(max(numbers["curve"]), abs=1e-9)
    assert numbers["low"] <= numbers["ap50"] <= numbers["high"]
    assert (numbers["training_images"], numbers["validation_images"]) == (12, 8)
    assert numbers["validation_tiles"] == 2
    caption = (out / CAPTION).read_text()
    assert caption == capsys.readouterr().out
    assert as_ap50(numbers["image_ap50"]) in caption
    assert "trained for 2 epochs on 12 images" in " ".join(caption.split())
    before = (out / PICTURE).read_bytes()
    with Image.open(out / PICTURE) as picture:
        assert picture.format == "JPEG"
    (out / PICTURE).unlink()
    assert main(command) == 0
    assert "Epoch" not in capsys.readouterr().err
    assert (out / PICTURE).read_bytes() == before
    assert json.loads((out / NUMBERS).read_text()) == numbers

    (tmp_path / "README.md").write_text("# other\n")
    with pytest.raises(StudyError, match="put them back"):
        publish(out, tmp_path)
    assert not (tmp_path / FOLDER).exists()
    (tmp_path / "README.md").write_text(f"# a\n\n{PART_BEGIN}\nold\n{PART_END}\n\nb\n")
    publish(out, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page == f"# a\n\n{PART_BEGIN}\n{readme_part(tmp_path / FOLDER)}{PART_END}\n\nb\n"
    assert main([*command, "--minutes", "0"]) == 2


def test_the_caption_says_when_fewer_epochs_ran_than_were_planned() -> None:
    numbers = json.loads((ROOT / FOLDER / NUMBERS).read_text())
    told = caption_of({**numbers, "epochs": 2, "planned_epochs": 5})
    assert "2 of 5 planned epochs" in told


def test_readme_shows_the_stored_picture_with_its_numbers_and_both_pictures_are_small() -> None:
    readme = (ROOT / "README.md").read_text()
    part = readme.partition(PART_BEGIN)[2].partition(PART_END)[0]
    assert part == f"\n{readme_part(ROOT / FOLDER)}"
    numbers = json.loads((ROOT / FOLDER / NUMBERS).read_text())
    assert " ".join(caption_of(numbers).split()) == " ".join(
        (ROOT / FOLDER / CAPTION).read_text().split()
    )
    pictures = [ROOT / FOLDER / PICTURE, ROOT / "docs/example/report.svg"]
    assert sum(path.stat().st_size for path in pictures) < 400_000
