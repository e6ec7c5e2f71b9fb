"""Laws of `data.class_names`: other names, the same data, and one sentence where they do not fit."""

from pathlib import Path

import pytest

from core.check import main
from core.config import DataConfig, TrialConfig
from core.data import inspect_data, load_data
from core.data.synthetic import make_cells, write_hw3
from core.errors import DataError, SettingError
from tune.request.file import from_document, load_request

NAMES = ("epithelium", "lymphocyte", "neutrophil", "macrophage")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "cells"
    write_hw3(make_cells(images=4, side=64), folder)
    return str(folder)


def names_of(cells: str, text: str) -> list[str]:
    return [one.name for one in load_data(cells, DataConfig(class_names=text)).classes]


def test_names_take_the_place_of_those_of_the_files_and_the_data_stay_the_same(cells: str) -> None:
    plain, named = load_data(cells), load_data(cells, DataConfig(class_names=",".join(NAMES)))
    assert [one.name for one in plain.classes] == ["class1", "class2", "class3", "class4"]
    assert [one.name for one in named.classes] == list(NAMES)
    assert [one.id for one in named.classes] == [one.id for one in plain.classes]
    assert named.fingerprint == plain.fingerprint


def test_some_classes_are_named_by_their_ids(cells: str) -> None:
    assert names_of(cells, "4=macrophage,1=big cell") == [
        "big cell",
        "class2",
        "class3",
        "macrophage",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a,b,c",
            r"data\.class_names: must name the 4 classes of cells \(1 class1, 2 .* and names 3: a",
        ),
        ("5=a", r"must name classes of the data set .* and names id 5; leave it out"),
        ("a,b,c,a", "must give each class a name of its own, and gives 'a' to two"),
        ("1=class2", "must give each class a name of its own, and gives 'class2' to two"),
    ],
)
def test_names_that_do_not_fit_the_data_are_one_sentence(
    cells: str, text: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=sentence):
        names_of(cells, text)
    assert len(inspect_data(cells, DataConfig(class_names=text)).problems) == 1
    assert main([cells, "--set", f"data.class_names={text}"]) == 2
    assert "data.class_names: must" in capsys.readouterr().out


def test_the_doctor_shows_them(cells: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([cells, "--set", f"data.class_names={','.join(NAMES)}"]) == 0
    said = capsys.readouterr().out
    assert "macrophage" in said
    assert "class4" not in said


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("[epithelium, other cell]", "epithelium,other cell"),
        ("{1: epithelium, 3: macrophage}", "1=epithelium,3=macrophage"),
        ("'epithelium, lymphocyte'", "epithelium,lymphocyte"),
        ("'1: epithelium'", "1=epithelium"),
    ],
)
def test_a_space_file_may_hold_a_text_a_list_or_a_mapping(
    tmp_path: Path, written: str, kept: str
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        f"study: a\ndata: synthetic\nfixed: {{data.class_names: {written}}}\n"
        "space: {optim.learning_rate: [1e-4, 1e-3]}\n"
    )
    request = load_request(path)
    assert request.reading.class_names == kept
    assert from_document(request.to_document(), "again").reading.class_names == kept
    overridden = load_request(path, ["data.class_names=[a, b]"])
    assert overridden.reading.class_names == "a,b"


@pytest.mark.parametrize("wrong", ["a,,b", "1=a,b", "1=a,1=b", "a=b", 5, True])
def test_another_text_is_one_sentence(wrong: object) -> None:
    with pytest.raises(
        SettingError, match=r"data\.class_names must be a name for each class, such"
    ):
        TrialConfig.from_settings({"data.class_names": wrong})
