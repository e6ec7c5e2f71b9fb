"""Laws of the data doctor."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from core.check import main
from core.data.dataset import Dataset, assemble
from core.data.synthetic import make, write_hw3
from core.sample import Sample

DATA = make(images=6, side=64)


def square(name: str, labels: list[int], image: np.ndarray | None = None, step: int = 4) -> Sample:
    """Squares of 3 x 3 pixels in rows, one an instance."""
    side = step * int(np.ceil(np.sqrt(max(1, len(labels)))))
    maps = np.zeros((1, side, side), np.uint16)
    for index in range(len(labels)):
        y, x = divmod(index, side // step)
        maps[0, y * step : y * step + 3, x * step : x * step + 3] = index + 1
    if image is None:
        image = np.random.default_rng(len(labels)).integers(0, 256, (side, side, 3), np.uint8)
    return Sample(name, image, maps, np.array(labels, np.int64), np.zeros(len(labels), np.bool_))


def report(folder: Path, capsys: pytest.CaptureFixture[str], data: Dataset | None = None) -> tuple[int, str]:
    if data is not None:
        write_hw3(data, folder)
    status = main([str(folder)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


def test_a_usable_data_set_is_described_and_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = report(tmp_path, capsys, DATA)
    assert status == 0
    assert out.endswith("Usable: no problems found.\n")
    counts = DATA.instance_counts()
    assert f"6 annotated images, {counts.sum()} instances, 0 test images" in out
    for column, category in enumerate(DATA.classes):
        row = next(line.split() for line in out.splitlines() if line.startswith(category.name))
        expected = [str(counts[:, column].sum()), str(np.count_nonzero(counts[:, column]))]
        assert [row[2], row[4]] == expected
    heights = [sample.size[0] for sample in DATA.samples]
    assert f"image height        {min(heights)} to {max(heights)}, median {np.median(heights):.0f} pixels" in out
    areas = np.concatenate([np.bincount(sample.label_maps.ravel())[1:] for sample in DATA.samples])
    assert f"instance area       {areas.min()} to {areas.max()}, median {np.median(areas):,.0f} pixels" in out


def test_all_problems_are_listed_at_once_and_it_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hw3(DATA, tmp_path)
    train = tmp_path / "train"
    damaged = [sample.name for sample in DATA.samples[:3]]
    whole = (train / damaged[0] / "image.tif").read_bytes()
    (train / damaged[0] / "image.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(train / damaged[1] / "class1.tif", np.full(DATA.samples[1].size, 0.5))
    tifffile.imwrite(train / damaged[2] / "class9.tif", np.zeros((5, 5)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tif")}
    status, out = report(tmp_path, capsys)
    assert status == 2
    assert "3 problems to mend before a search:" in out
    for place in (f"{damaged[0]}/image.tif", f"{damaged[1]}/class1.tif", f"{damaged[2]}/class9.tif"):
        assert sum(line.startswith(f"  {train / place}: ") for line in out.splitlines()) == 1
    assert "3 annotated images" in out, "an image with a damaged mask is not half read"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tif")} == before


def test_unusual_things_are_noted_and_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowded = square("crowded", [1] * 101 + [2])
    negative = square("negative", [])
    twin = square("twin", [2, 2], crowded.image, step=4)
    twin_maps = np.zeros((1, *crowded.size), np.uint16)
    twin_maps[0, 0, 0], twin_maps[0, 9, 9], twin_maps[0, 5, 2:7] = 1, 1, 2
    twin = replace(twin, label_maps=twin_maps)
    status, out = report(tmp_path, capsys, assemble("cells", DATA.classes, [crowded, negative, twin]))
    notes = out[out.index("Unusual, and accepted:") :]
    assert status == 0
    assert "1 image without instances, taken as true negatives: negative" in notes
    assert "1 image with more than 100 instances of a class" in notes
    assert "1 instance of several separate pieces, perhaps different cells under one id: twin" in notes
    assert "1 image there more than once" in notes
    assert "crowded = twin" in notes
    assert "class class3 has no instance" in notes
    assert "class class2 is in 2 images only" in notes
    assert "0 of one pixel, 1 of one row or column" in out


def test_one_pixel_instances_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dots = square("dots", [1, 1, 3])
    maps = np.zeros_like(dots.label_maps)
    maps[0, 0, 0], maps[0, 0, 2:4], maps[0, 4:6, 4:6] = 1, 2, 3
    data = assemble("cells", DATA.classes, [replace(dots, label_maps=maps), square("b", [1])])
    status, out = report(tmp_path, capsys, data)
    assert status == 0
    assert "1 of one pixel, 1 of one row or column" in out
    assert "instance area       1 to 9, median 3 pixels" in out


def test_overlapping_instances_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = np.zeros((2, 8, 8), np.uint16)
    maps[0, :4], maps[1, 2:6] = 1, 2
    both = replace(square("both", [1, 2]), label_maps=maps)
    status, out = report(tmp_path, capsys, assemble("cells", DATA.classes, [both, square("b", [1])]))
    assert status == 0
    assert "1 image with overlapping instances: both" in out


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([square("a", [1])], "a hold-out needs at least 2 images, and there are 1"),
        ([square("a", []), square("b", [])], "the validation part must hold an instance"),
    ],
)
def test_what_cannot_be_split_is_not_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], samples: list[Sample], told: str
) -> None:
    status, out = report(tmp_path, capsys, assemble("cells", DATA.classes, samples))
    assert status == 2
    assert f"  {tmp_path}: {told}" in out
    assert "leave out" not in out


def test_the_command_line_answers_a_missing_folder_with_one_line_and_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "core.check", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "1 problem to mend before a search:"
    assert f"{tmp_path / 'nothing'}: there is no such folder; put one folder an image there" in done.stdout
    assert len(done.stdout.splitlines()) == 2
