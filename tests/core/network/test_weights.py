import hashlib
import json
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision import models

from core.config import ModelConfig
from core.detectors import DETECTORS, Recipe
from core.errors import WeightsError
from core.network import weights
from core.network.mask_rcnn import MaskRCNN
from core.network.weights import WeightsFile, fetch_weights, find_weights, read_weights

IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
    "convnext_tiny": "convnext_tiny-983f1562.pth",
    "convnext_small": "convnext_small-0c510722.pth",
    "swin_t": "swin_t-704ceda3.pth",
    "swin_s": "swin_s-5e29d889.pth",
}
COCO_FILES = {
    "fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
    "cascade": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
}
REAL_WEIGHTS = (
    Path(__file__).parents[3].parent / "shared" / "weights" / "resnet50_imagenet_stride1x1_fp16.pth"
)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those of the test, and a network whose proxy refuses: what a machine
    without a network does.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    # urllib reads the proxies once, for the first request of the process; the tests after these
    # have their own.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def put(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"found, not decoded")
    return path


def resnet_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(models.resnet18().state_dict())


# Which file


def test_a_detector_that_torchvision_never_trained_on_coco_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Recipe(build=MaskRCNN, freezes_norm=True, memory_rank=3)
    monkeypatch.setattr(weights, "DETECTORS", {**DETECTORS, "other": other})
    config = ModelConfig.model_construct(backbone="resnet50", detector="other", weights="auto")
    with pytest.raises(WeightsError, match="torchvision's maskrcnn_resnet50_other, which does not"):
        find_weights(config)


@pytest.mark.parametrize("backbone", IMAGENET_FILES)
@pytest.mark.parametrize("detector", COCO_FILES)
def test_imagenet_is_the_first_recipe_of_the_backbone_for_both_detectors(
    backbone: str, detector: str, tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", IMAGENET_FILES[backbone])
    config = ModelConfig.model_validate(
        {"backbone": backbone, "detector": detector, "weights": "imagenet"}
    )
    assert find_weights(config, tmp_path / "folder") == WeightsFile(path, "imagenet")


@pytest.mark.parametrize("detector", COCO_FILES)
@pytest.mark.parametrize("asked", ["auto", "coco"])
def test_auto_is_coco_of_the_detector_for_resnet50(
    asked: str, detector: str, tmp_path: Path
) -> None:
    path = put(tmp_path / "folder", COCO_FILES[detector])
    config = ModelConfig.model_validate({"detector": detector, "weights": asked})
    assert find_weights(config, tmp_path / "folder") == WeightsFile(path, "coco")


def test_auto_is_imagenet_for_every_other_backbone(tmp_path: Path) -> None:
    for backbone in set(IMAGENET_FILES) - {"resnet50"}:
        path = put(tmp_path / "folder", IMAGENET_FILES[backbone])
        found = find_weights(
            ModelConfig.model_validate({"backbone": backbone}), tmp_path / "folder"
        )
        assert found == WeightsFile(path, "imagenet")


def test_none_is_no_file() -> None:
    assert find_weights(ModelConfig(weights="none")) is None


def test_places_are_looked_in_from_the_nearest_to_the_farthest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(weights="imagenet")
    name = IMAGENET_FILES["resnet50"]
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "named"))
    places = [
        tmp_path / "torch" / "hub" / "checkpoints",
        Path("weights"),
        tmp_path / "named",
        tmp_path / "given",
    ]
    for place in places:
        path = put(place, name)
        found = find_weights(config, tmp_path / "given")
        assert found is not None
        assert found.path.resolve() == path.resolve()


def test_what_is_nowhere_and_cannot_be_downloaded_is_named_with_the_place_for_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(WeightsError) as caught:
        find_weights(ModelConfig(), tmp_path / "folder")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        COCO_FILES["fpn"],
        f"put it into {tmp_path / 'folder'}",
        "model.weights to none",
        "path",
        "refused",
    ):
        assert part in message
    assert socket.getdefaulttimeout() is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_one_sentence_names_all_missing_files_with_address_size_checksum_and_place(
    tmp_path: Path,
) -> None:
    put(tmp_path / "folder", IMAGENET_FILES["resnet34"])
    backbones = [name for name in IMAGENET_FILES if name.startswith("res")] + ["resnet18"]
    asked = [
        ModelConfig.model_validate({"backbone": one, "weights": "imagenet"}) for one in backbones
    ]
    files = [
        found
        for config in asked
        if (found := find_weights(config, tmp_path / "folder", download=False)) is not None
    ]
    assert [file.missing is None for file in files] == [
        backbone == "resnet34" for backbone in backbones
    ]
    with pytest.raises(WeightsError) as caught:
        fetch_weights([file.missing for file in files if file.missing], tmp_path / "folder")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("4 files of pretrained weights are in none of ")
    assert f"put each into {tmp_path / 'folder'}, or " in message
    for backbone, size in (
        ("resnet18", 45),
        ("resnet50", 98),
        ("resnet101", 171),
        ("resnext50_32x4d", 96),
    ):
        name = IMAGENET_FILES[backbone]
        what = (
            f"{name} ({size} MiB, SHA-256 begins with {name[-12:-4]}, from"
            f" https://download.pytorch.org/models/{name})"
        )
        assert message.count(what) == 1
    assert IMAGENET_FILES["resnet34"] not in message


@pytest.mark.parametrize("name", ["imagnet", "missing.pth", "folder", "notes.txt"])
def test_a_path_that_is_no_weights_file_is_refused_with_the_choices(name: str) -> None:
    Path("folder").mkdir()
    Path("notes.txt").write_text("weights")
    with pytest.raises(
        WeightsError, match=rf"auto, at_hand, coco, imagenet, none, or the path .*'{name}' is"
    ):
        find_weights(ModelConfig(weights=name))


# WEIGHTS.json


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        ({"stride_in_1x1": True}, True),
        ({"stride_in_1x1": False}, False),
        ({"mine.pth": {"stride_in_1x1": True}}, True),
        ({"mine.pth": {"stride_in_1x1": False}, "other.pth": {"stride_in_1x1": True}}, False),
        ({"other.pth": {"stride_in_1x1": True}}, False),
        ({}, False),
    ],
)
def test_weights_json_declares_the_stride_of_all_files_or_of_each(
    content: dict[str, Any], declared: bool
) -> None:
    path = put(Path("somewhere"), "mine.pth")
    (path.parent / "WEIGHTS.json").write_text(json.dumps(content))
    assert find_weights(ModelConfig(weights=str(path))) == WeightsFile(path, "file", declared)


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '"yes"', '{"stride_in_1x1": 1}', '{"stride_in_1x1": true, "mine.pth": {}}', '{"mine.pth": {}}',
     '{"other.pth": {"stride": true}}', '{"mine.pth": true}'],
)  # fmt: skip
def test_a_wrong_weights_json_is_named(content: str) -> None:
    path = put(Path("somewhere"), "mine.pth")
    (path.parent / "WEIGHTS.json").write_text(content)
    with pytest.raises(WeightsError, match=r"somewhere/WEIGHTS\.json(:| must)"):
        find_weights(ModelConfig(weights=str(path)))


def test_a_declared_stride_without_bottlenecks_is_refused() -> None:
    path = put(Path("somewhere"), "mine.pth")
    (path.parent / "WEIGHTS.json").write_text('{"stride_in_1x1": true}')
    with pytest.raises(
        WeightsError, match=r"WEIGHTS\.json declares stride_in_1x1 for mine\.pth.*resnet18"
    ):
        find_weights(ModelConfig(weights=str(path), backbone="resnet18"))


# What is in it


@pytest.mark.parametrize("form", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_every_form_is_read_to_the_same_arrays(
    form: str, nested: str | None, tmp_path: Path
) -> None:
    tensors = resnet_tensors()
    path = tmp_path / f"mine{form}"
    if form == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({nested: tensors, "optimizer": {"lr": 0.1}} if nested else tensors, path)
    base = read_weights(WeightsFile(path, "file", stride_in_1x1=True))
    assert base.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert base.tensors[name].dtype == (
            np.int64 if name.endswith("num_batches_tracked") else np.float32
        )
        assert np.array_equal(base.tensors[name], value.numpy())
    assert base.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (base.name, base.stride_in_1x1, base.whole) == (path.name, True, False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in resnet_tensors().items()
    }
    torch.save(tensors, tmp_path / "half.pth")
    base = read_weights(WeightsFile(tmp_path / "half.pth", "file"))
    assert base.tensors["conv1.weight"].dtype == np.float32
    assert np.array_equal(base.tensors["conv1.weight"], tensors["conv1.weight"].float().numpy())


def test_only_the_coco_weights_without_an_epsilon_set_it_to_zero(tmp_path: Path) -> None:
    tensors = {"backbone.body.conv1.weight": torch.ones(1)}
    for name, epsilon in (
        (COCO_FILES["fpn"], 0.0),
        (COCO_FILES["fpn_v2"], None),
        ("mine.pth", None),
    ):
        torch.save(tensors, tmp_path / name)
        base = read_weights(WeightsFile(tmp_path / name, "file"))
        assert base.whole
        assert base.norm_eps == epsilon


@dataclass
class Opener:
    """A pickle that opens a file when it is loaded."""

    path: str

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Opener(str(tmp_path / "opened"))}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth is torn, or holds more than tensors"):
        read_weights(WeightsFile(tmp_path / "evil.pth", "file"))
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("form", [".pth", ".safetensors"])
@pytest.mark.parametrize("length", [0, 7, 5000, -1])
def test_a_torn_file_is_named(length: int, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"torn{form}"
    tensors = {"layer1.0.conv1.weight": torch.ones(64, 64)}
    if form == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=rf"torn\{form} is torn"):
        read_weights(WeightsFile(path, "file"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "must be a state dict.* is a list"),
        ({1: torch.ones(1)}, "must be a state dict.* is a dict"),
        ({"epoch": 3}, "its 'epoch' is a int"),
        (
            {"layer1.0.conv1.weight": torch.tensor([1.0, float("nan")])},
            "'layer1.0.conv1.weight' does not",
        ),
        (
            {f"encoder.{i}": torch.ones(1) for i in range(5)},
            r"encoder\.0, encoder\.1, encoder\.2 and 2 more",
        ),
        ({}, "must hold one of the backbones .* or a Mask R-CNN"),
    ],
)
def test_a_file_of_something_else_is_named(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(WeightsFile(tmp_path / "other.pth", "file"))
    assert "other.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read"):
        read_weights(WeightsFile(tmp_path / "gone.pth", "file"))


@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"{REAL_WEIGHTS} is not there")
def test_real_half_precision_weights_are_read() -> None:
    file = find_weights(ModelConfig(weights=str(REAL_WEIGHTS)))
    assert file is not None
    base = read_weights(file)
    assert base.tensors["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert {array.dtype for array in base.tensors.values()} == {
        np.dtype(np.float32),
        np.dtype(np.int64),
    }
    assert not base.whole
