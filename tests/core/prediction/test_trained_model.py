"""Laws of the folder that holds a trained model: it is all that is needed, and what is damaged
is refused.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn
from torchvision import models
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Category
from core.errors import ModelError
from core.network.build import build_detector
from core.network.weights import BaseWeights
from core.prediction import trained_model
from core.prediction.trained_model import CONFIG, MEMBERS, WEIGHTS, TrainedModel, join_models
from tests.core.scenes import assert_same_detections

CLASSES = (Category(3, "épithélium: oui"), Category(7, "no"), Category(11, "12"))
TINY: dict[str, Any] = {
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.proposals_test": 32,
    "optim.learning_rate": 5e-5,
    "predict.score_threshold": 0.01,
    "predict.max_detections": 20,
}
IMAGE = synthetic.make_cells(images=1, side=96).samples[0].image


pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def imagenet_like(backbone: str, norm_eps: float, stride_in_1x1: bool) -> BaseWeights:
    """A ResNet of random numbers whose norms have statistics of their own."""
    torch.manual_seed(1)
    state = models.get_model(backbone, weights=None).state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            state[name] = torch.rand_like(value) + 0.5
        elif name.endswith("running_mean"):
            state[name] = torch.randn_like(value) / 10
    tensors = {name: value.numpy() for name, value in state.items()}
    return BaseWeights("w.pth", "0" * 64, stride_in_1x1, tensors, norm_eps)


def build(settings: dict[str, Any], weights: BaseWeights | None = None) -> TrainedModel:
    config = TrialConfig.from_settings(TINY | settings)
    torch.manual_seed(0)
    model = build_detector(config.model, len(CLASSES), weights, config.predict)
    with torch.no_grad():  # an untrained mask head is undecided, and pastes nothing but noise
        model.roi_heads.mask_predictor.mask_fcn_logits.bias += 0.5
    began_with = None if weights is None else {"name": weights.name, "sha256": weights.sha256}
    return TrainedModel(config, CLASSES, model.eval(), began_with)


IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import numpy as np, torch
from core.prediction import trained_model
from tests.core.narrow import narrowed
torch.set_num_threads(1)
image = np.load(sys.argv[1])
with narrowed():
    for folder in map(Path, sys.argv[2:]):
        found = trained_model.load(folder, "cpu").predict(image)
        crops = found.masks
        np.savez(folder / "found.npz",
                 boxes=found.boxes_N4, scores=found.scores_N, labels=found.labels_N,
                 corners=[(crop.y0, crop.x0, *crop.pixels.shape) for crop in crops],
                 pixels=np.concatenate([crop.pixels.ravel() for crop in crops]))
"""


def test_a_fresh_process_predicts_the_same_bits(tmp_path: Path) -> None:
    """The models began without weights, with a frozen norm, or with a stride in 1x1 convolutions
    and no epsilon, and one predicts mirrored tiles.
    """
    pretrained = {"model.weights": "imagenet"}
    kinds: list[tuple[dict[str, Any], BaseWeights | None]] = [
        ({}, None),
        ({"model.detector": "fpn_v2", "model.trainable_layers": 5}, None),
        (pretrained | {"model.backbone": "resnet34"}, imagenet_like("resnet34", 1e-5, False)),
        (
            pretrained | {"model.backbone": "resnet34", "model.detector": "fpn_v2"},
            imagenet_like("resnet34", 1e-5, False),
        ),
        (pretrained | {"model.backbone": "resnet50"}, imagenet_like("resnet50", 0.0, True)),
        ({"predict.flips": True, "predict.tile": 64, "model.anchor_scale": 0.5}, None),
    ]
    np.save(tmp_path / "image.npy", IMAGE)
    wanted = {}
    for number, (settings, weights) in enumerate(kinds):
        trained = build(settings, weights)
        trained_model.save(folder := tmp_path / str(number), trained)
        wanted[folder] = trained.predict(IMAGE)
    program = [sys.executable, "-c", IN_A_FRESH_PROCESS]
    subprocess.run([*program, tmp_path / "image.npy", *wanted], check=True)
    for folder, expected in wanted.items():
        assert len(expected) > 0
        with np.load(folder / "found.npz") as found:
            assert np.array_equal(found["boxes"], expected.boxes_N4)
            assert np.array_equal(found["scores"], expected.scores_N)
            assert np.array_equal(found["labels"], expected.labels_N)
            assert found["corners"].tolist() == [
                [crop.y0, crop.x0, *crop.pixels.shape] for crop in expected.masks
            ]
            assert np.array_equal(
                found["pixels"], np.concatenate([crop.pixels.ravel() for crop in expected.masks])
            )


def test_each_trait_of_the_network_matters_and_is_kept(tmp_path: Path) -> None:
    """What goes wrong without: the same tensors, read as another network, find something else."""
    trained = build(
        {"model.weights": "imagenet", "model.backbone": "resnet50"},
        imagenet_like("resnet50", 0.0, True),
    )
    trained_model.save(tmp_path, trained)
    document = yaml.safe_load((tmp_path / CONFIG).read_text())
    assert document["network"] == {"frozen_norm": True, "norm_eps": 0.0, "stride_in_1x1": True}
    expected = trained.predict(IMAGE).scores_N
    for name, other in (("norm_eps", 0.1), ("stride_in_1x1", False)):
        changed = {**document, "network": {**document["network"], name: other}}
        (tmp_path / CONFIG).write_text(yaml.safe_dump(changed))
        assert not np.array_equal(
            trained_model.load(tmp_path, "cpu").predict(IMAGE).scores_N, expected
        )


def test_the_configuration_is_complete_and_loads_again(tmp_path: Path) -> None:
    trained = build(
        {"data.group_pattern": r"^(.+)_\d+$", "optim.learning_rate": 1.25e-7, "seed": 3}
    )
    trained_model.save(tmp_path, trained)
    document = yaml.safe_load((tmp_path / CONFIG).read_text("utf-8"))
    assert TrialConfig.from_settings(document["settings"]) == trained.config
    assert document["settings"] == trained.config.settings()
    loaded = trained_model.load(tmp_path, "cpu")
    assert (loaded.config, loaded.classes, loaded.began_with) == (trained.config, CLASSES, None)


def test_the_weights_are_whole_under_torchvisions_names(tmp_path: Path) -> None:
    trained = build({"model.backbone": "resnet34"})
    trained_model.save(tmp_path, trained)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet34", weights=None, norm_layer=nn.BatchNorm2d
    )
    theirs = models.detection.MaskRCNN(backbone, num_classes=len(CLASSES) + 1)
    assert tensors.keys() == theirs.state_dict().keys()
    assert all(
        torch.equal(value, tensors[name]) for name, value in trained.model.state_dict().items()
    )


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    trained_model.save(tmp_path, build({}))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained_model.load(tmp_path, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_other_settings_of_prediction_need_no_other_network() -> None:
    trained = build({})
    few = trained.config.predict.model_copy(update={"max_detections": 3, "flips": True})
    other = trained.predicting_with(few)
    assert other.config.predict == few
    built = build({"predict.max_detections": 3, "predict.flips": True})
    assert_same_detections(other.predict(IMAGE), built.predict(IMAGE))


def a_pair(**settings: Any) -> TrainedModel:
    """Two networks of one kind that predict together."""
    members = [build({"seed": seed} | settings) for seed in (3, 4)]
    with torch.no_grad():
        for parameter in members[1].model.parameters():
            parameter.mul_(1.01)
    return join_models(members)


@pytest.mark.parametrize("merge", ["nms", "weighted"])
def test_models_that_predict_together_are_saved_and_loaded_whole(
    merge: str, tmp_path: Path
) -> None:
    pair = a_pair(**{"predict.merge": merge, "predict.views": "mirror"})
    expected = pair.predict(IMAGE)
    assert not np.array_equal(expected.scores_N, replace(pair, others=()).predict(IMAGE).scores_N)
    trained_model.save(tmp_path, pair)
    assert [path.name for path in trained_model.files_of(tmp_path)] == [CONFIG, MEMBERS]
    loaded = trained_model.load(tmp_path, "cpu")
    assert_same_detections(loaded.predict(IMAGE), expected)
    assert [one.config.seed for one in (loaded, *loaded.others)] == [3, 4]
    assert (loaded.config, loaded.classes) == (pair.config, CLASSES)
    for number in (0, 1):  # each member is a model of its own
        alone = trained_model.load(tmp_path / MEMBERS / str(number), "cpu")
        assert (alone.config.seed, alone.others) == (3 + number, ())


def test_other_settings_of_prediction_are_those_of_all_members() -> None:
    pair = a_pair()
    few = pair.config.predict.model_copy(update={"max_detections": 3})
    assert len(pair.predicting_with(few).predict(IMAGE)) <= 3


def mix_members(folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        (folder / MEMBERS / "1" / name).write_bytes((folder / MEMBERS / "0" / name).read_bytes())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder / MEMBERS / "1"), "1 holds no trained model"),
        (lambda folder: (folder / MEMBERS / "0" / WEIGHTS).unlink(), "cannot be read .No such"),
        (mix_members, "members/1/config.yaml is not the one that .*config.yaml names"),
        (lambda folder: change(members=["0"])(folder), "must name two members or more"),
        (lambda folder: change(members=None)(folder), "is incomplete .KeyError: 'members'"),
        (lambda folder: change(members=3)(folder), "is incomplete .TypeError"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    trained_model.save(tmp_path, a_pair())
    damage(tmp_path)
    with pytest.raises(ModelError, match=sentence):
        trained_model.load(tmp_path, "cpu")


def change(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        document = yaml.safe_load((folder / CONFIG).read_text())
        for name, value in changes.items():
            if value is None:
                del document[name]
            else:
                document[name] = value
        (folder / CONFIG).write_text(yaml.safe_dump(document))

    return write


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def of_another_network(folder: Path) -> None:
    """A configuration that names another backbone than the weights are of."""
    settings = yaml.safe_load((folder / CONFIG).read_text())["settings"]
    change(settings={**settings, "model.backbone": "resnet34"})(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda folder: (folder / CONFIG).unlink(),
            "holds no trained model: there is no config.yaml",
        ),
        (
            lambda folder: (folder / WEIGHTS).unlink(),
            "model.safetensors cannot be read .No such file",
        ),
        (lambda folder: (folder / CONFIG).write_text("a: ["), "config.yaml cannot be read"),
        (
            lambda folder: (folder / CONFIG).write_text("- 1"),
            "config.yaml must be of format 1 or 2",
        ),
        (change(format=99), "must be of format 1 or 2, and is not"),
        (change(classes=None), "config.yaml is incomplete .KeyError: 'classes'"),
        (
            change(classes=[{"id": float("inf"), "name": "cell"}]),
            "config.yaml is incomplete .OverflowError",
        ),
        (change(network={"frozen_norm": True}), "config.yaml is incomplete"),
        (
            change(settings={"optim.epochs": 0}),
            "config.yaml: optim.epochs must be greater than or equal to 1",
        ),
        (flip_a_bit, "model.safetensors must have the SHA-256 that config.yaml names"),
        (of_another_network, "model.safetensors does not fit the settings in config.yaml"),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    trained_model.save(tmp_path, build({}))
    damage(tmp_path)
    with pytest.raises(ModelError, match=sentence) as caught:
        trained_model.load(tmp_path, "cpu")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
