"""Laws of `python -m tune.weights`, with a real server in place of torchvision's."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.network import weights
from tests.core.network.test_download import CONTENT, SUM, Server, server  # noqa: F401
from tune.weights import main

ROOT = Path(__file__).parents[2]
NAME = f"resnet-{SUM[:8]}.pth"


@pytest.fixture
def space(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A space file of two backbones, whose weights are the server's."""

    def of(network: str) -> SimpleNamespace:
        url = server.url.replace("weights.pth", f"{network}-{SUM[:8]}.pth")
        return SimpleNamespace(
            IMAGENET1K_V1=SimpleNamespace(url=url, meta={"_file_size": len(CONTENT) / 2**20})
        )

    monkeypatch.setattr(weights, "get_model_weights", of)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "space.yaml"
    path.write_text(
        "study: a\ndata: synthetic\nfixed: {model.weights: imagenet}\n"
        "space: {model.backbone: [resnet18, resnet34], optim.learning_rate: [1e-4, 1e-3]}\n"
    )
    return path


def test_missing_files_are_listed_then_fetched_then_there(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(space), "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    for line, name in zip(listed, ("resnet18", "resnet34"), strict=False):
        assert re.fullmatch(
            rf"missing: {name}-{SUM[:8]}\.pth \(1 MiB, SHA-256 begins with {SUM[:8]}, from"
            rf" http://127\.0\.0\.1:\d+/{name}-{SUM[:8]}\.pth\)",
            line,
        )
    assert listed[2:] == ["2 files of pretrained weights, 2 missing"]
    assert not (tmp_path / "torch").exists()

    assert main([str(space)]) == 0
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == [
        f"fetched: {hub}/resnet18-{SUM[:8]}.pth",
        f"fetched: {hub}/resnet34-{SUM[:8]}.pth",
        "2 files of pretrained weights, none missing",
    ]
    assert {path.read_bytes() for path in hub.iterdir()} == {CONTENT}

    assert main([str(space), "--set", "model.backbone=resnet18"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"there:   {hub}/resnet18-{SUM[:8]}.pth",
        "1 file of pretrained weights, none missing",
    ]


def test_a_space_that_takes_what_is_at_hand_says_that_nothing_is_and_what_to_do(
    space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(space), "--list", "--set", "model.weights=at_hand"]) == 0
    told, count = capsys.readouterr().out.splitlines()
    assert told.endswith("from scratch. --set model.weights=auto lists the files to begin with")
    assert count == "0 files of pretrained weights, none missing"
    assert main([str(space), "--list", "--set", "model.weights=none"]) == 0
    assert "at_hand" not in capsys.readouterr().out


def test_a_folder_of_its_own_can_be_carried_to_another_machine(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(space), "--into", "weights"]) == 0
    assert f"fetched: weights/resnet18-{SUM[:8]}.pth" in capsys.readouterr().out
    assert len(list((tmp_path / "weights").iterdir())) == 2
    assert main([str(space), "--list"]) == 0
    assert "none missing" in capsys.readouterr().out


def test_what_lies_elsewhere_is_said_to_be_missing_in_the_folder_to_carry(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(space), "--set", "model.backbone=resnet18"]) == 0
    capsys.readouterr()
    assert main([str(space), "--into", "usb"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("there:   ")
    assert first.endswith(" (not in usb; copy it there to carry it as well)")
    assert [path.name for path in (tmp_path / "usb").iterdir()] == [f"resnet34-{SUM[:8]}.pth"]
    assert main([str(space), "--into", "usb"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[1:] == [
        f"there:   usb/resnet34-{SUM[:8]}.pth",
        "2 files of pretrained weights, none missing",
    ]


def test_the_files_are_listed_without_ray_and_without_the_ledger(space: Path) -> None:
    code = (
        "import sys; from tune.weights import main; main(sys.argv[1:]);"
        " sys.exit(int(bool({'ray', 'mlflow', 'tune.ledger.ledger'} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code, str(space), "--list", "--set", "model.weights=none"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (listed.returncode, listed.stdout) == (
        0,
        "0 files of pretrained weights, none missing\n",
    )


def test_without_a_network_one_sentence_names_all_files(
    space: Path,
    server: Server,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.status = 503
    assert main([str(space)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("2 files of pretrained weights are in none of weights, ")
    assert "could not be downloaded (the server answers 503 Service Unavailable): resnet18-" in said
    assert f" and resnet34-{SUM[:8]}.pth (1 MiB" in said
    assert "; put each into weights, or set model.weights to none" in said
