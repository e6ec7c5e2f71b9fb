"""Laws of the trial: what was set is what is applied, it learns, and it goes on after any death
as if none had been.
"""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core import fitting
from core.augmentations import AUGMENTATIONS
from core.config import AUTO, TrialConfig
from core.data import synthetic
from core.data.dataset import Dataset, assemble
from core.errors import CheckpointError, ProcessLost, TornCheckpoint, TrialDiverged
from core.fitting import READ_OFF_DATA, Chosen
from core.metric.ap50 import MatchTable, ap50, match_images
from core.metric.limits import DETECTION_KINDS, INSTANCE_KINDS, MENDS, ClassLimits
from core.metric.reweighted import pulls
from core.network.weights import BaseWeights
from core.prediction.choice import evaluate_candidates
from core.prediction.detect import predict
from core.training import checkpoint
from core.training import trial as trainable
from core.training.optim import Schedule
from core.training.pictured import pictured_image
from core.training.trial import EpochReport, Trial
from tests.core.narrow import Stack, narrowed

TINY: dict[str, Any] = {
    "data.validation_fraction": 0.4,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "model.trainable_layers": 5,
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.proposals_train": 32,
    "model.proposals_test": 32,
    "model.rpn_samples": 32,
    "model.box_samples": 16,
    "model.anchor_scale": 0.5,
    "optim.epochs": 3,
    "optim.learning_rate": 1e-3,
    "predict.max_detections": 20,
}
EVERYTHING = TINY | {
    **{f"augment.{name}": True for name in AUGMENTATIONS},
    "optim.restarts": 1,
    "optim.warmup_epochs": 0.5,
    "optim.gradient_clip": 5,
    "optim.backbone_factor": 0.5,
    "optim.decay_norms": False,
    "optim.ema": 0.7,
    "model.size_jitter": 0.25,
}
DATA = synthetic.make_cells(images=5, side=64)
Uninterrupted = tuple[Trial, list[dict[str, torch.Tensor]], Path]
WALL_TIME = ("seconds", "train_seconds", "evaluate_seconds", "wait_seconds", "images_per_second")


@pytest.fixture(autouse=True, scope="module")
def _one_thread_and_few_channels() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with narrowed():
        yield
    torch.set_num_threads(threads)


def trial_of(chosen: dict[str, Any], data: Dataset = DATA, **options: Any) -> Trial:
    return Trial(TrialConfig.from_settings(chosen), data, device="cpu", **{"threads": 1} | options)


def without_wall_time(reports: list[EpochReport]) -> list[EpochReport]:
    wall_time: dict[str, Any] = dict.fromkeys(WALL_TIME, 0.0)
    return [replace(report, **wall_time) for report in reports]


def state_of(trial: Trial) -> dict[str, torch.Tensor]:
    """All weights and statistics, trained or not, their averages, and all that the optimizer keeps,
    as copies.
    """
    state = {name: value.clone() for name, value in trial.model.state_dict().items()}
    if trial.evaluated is not trial.model:
        averages = trial.evaluated.state_dict().items()
        state |= {f"average {name}": value.clone() for name, value in averages}
    for index, kept in trial.optim.optimizer.state_dict()["state"].items():
        state |= {f"optimizer {index} {key}": value.clone() for key, value in kept.items()}
    return state


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file with what changes when it is written: inode, time and size."""
    files = {
        str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()
    }
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in files.items()}


def copy(folder: Path, to: Path) -> Path:
    """The same files under hard links: a trial replaces its files, and never writes into one."""
    shutil.copytree(folder, to, copy_function=os.link)
    return to


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Three epochs in one go; the state after each, and a parent of folders 1, 2, 3: the trial's
    folder after each.
    """
    parent = tmp_path_factory.mktemp("uninterrupted")
    trial, states = trial_of(EVERYTHING), []
    for epoch in (1, 2, 3):
        trial.run_epoch()
        if epoch > 1:
            copy(parent / str(epoch - 1), parent / str(epoch))
        trial.save(parent / str(epoch))
        states.append(state_of(trial))
    return trial, states, parent


def test_resumed_trial_equals_uninterrupted_trial_whatever_the_loader_workers_and_the_threads(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    whole, states, _ = uninterrupted
    torch.manual_seed(1234)
    for epoch, workers in enumerate((0, 2, 1), start=1):
        # A machine with other defaults: the trial goes on with the one thread that it began with.
        trial = trial_of(EVERYTHING, loader_workers=workers, threads=1 if epoch == 1 else 2)
        assert trial.load(tmp_path) == (epoch > 1)
        if epoch > 1:
            assert_same_state(state_of(trial), states[epoch - 2])
        assert without_wall_time(trial.reports) == without_wall_time(whole.reports[: epoch - 1])
        torch.rand(epoch)
        trial.run_epoch()
        trial.save(tmp_path)
        assert trial.threads == 1
        assert_same_state(state_of(trial), states[epoch - 1])
        assert without_wall_time(trial.reports) == without_wall_time(whole.reports[:epoch])


def test_a_trial_in_the_memory_order_of_a_gpu_resumes_as_if_uninterrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights and moments keep one order: the fused optimizer walks through them side by side."""
    monkeypatch.setattr(trainable, "memory_format", lambda _: torch.channels_last)
    chosen = TINY | {"optim.epochs": 2}
    whole = trial_of(chosen)
    whole.run_epoch()
    whole.save(tmp_path)
    whole.run_epoch()
    resumed = trial_of(chosen)
    assert resumed.load(tmp_path)
    for parameter, kept in resumed.optim.optimizer.state.items():
        assert {kept[name].stride() for name in ("exp_avg", "exp_avg_sq")} == {parameter.stride()}
    resumed.run_epoch()
    assert resumed.model.backbone.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert_same_state(state_of(resumed), state_of(whole))


def test_cocos_twelve_numbers_come_once_at_the_end(uninterrupted: Uninterrupted) -> None:
    first, second, last = uninterrupted[0].reports
    assert (first.coco, second.coco) == ({}, {})
    assert last.coco["AP50"] == pytest.approx(last.ap50, abs=1e-12)
    assert EpochReport.from_json(json.loads(json.dumps(last.to_json()))) == last


def test_what_limited_each_class_comes_with_every_epoch_that_is_the_best_so_far(
    uninterrupted: Uninterrupted,
) -> None:
    whole, _, parent = uninterrupted
    best = -1.0
    for report in whole.reports:
        assert bool(report.limits) == (report.ap50 > best)
        best = max(best, report.ap50)
        table = MatchTable.load(parent / "3" / "matches" / f"epoch-{report.epoch:04d}.npz")
        counted_D = table.rank_D < whole.config.metric.max_dets
        for label, one in enumerate(report.limits, start=1):
            mine_D = counted_D & (table.label_D == label)
            assert sum(one.instances.values()) == table.truths_IC[:, label - 1].sum()
            assert sum(one.detections.values()) == mine_D.sum()
            assert one.detections["right"] == one.instances["found"] == table.hit_D[mine_D].sum()
    assert whole.reports[0].limits


def test_a_report_of_an_earlier_version_says_nothing_of_limits_and_pulls(
    uninterrupted: Uninterrupted,
) -> None:
    content = uninterrupted[0].reports[0].to_json()
    assert content.pop("limits")
    assert content.pop("ap50_pulls")
    report = EpochReport.from_json(content)
    assert (report.limits, report.ap50_pulls) == ((), ())


def test_training_moves_weights_every_epoch_and_another_seed_moves_them_elsewhere(
    uninterrupted: Uninterrupted,
) -> None:
    _, states, _ = uninterrupted
    name = "roi_heads.mask_head.0.0.weight"
    other = trial_of(EVERYTHING | {"seed": 1})
    fresh = trial_of(EVERYTHING)
    values = [
        fresh.model.state_dict()[name],
        *(state[name] for state in states),
        other.model.state_dict()[name],
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    assert_same_state(state_of(fresh), state_of(trial_of(EVERYTHING)))


def test_a_folder_holds_match_tables_the_best_weights_and_all_to_go_on(
    uninterrupted: Uninterrupted,
) -> None:
    whole, _, parent = uninterrupted
    for epoch in (1, 2, 3):
        best = max(whole.reports[:epoch], key=lambda report: report.ap50).epoch
        assert sorted(contents(parent / str(epoch))) == [
            f"best-{best:04d}.safetensors",
            "last.safetensors",
            *(f"matches/epoch-{number:04d}.npz" for number in range(1, epoch + 1)),
            "overlay.jpg",
        ]
        tensors, state = checkpoint.load_checkpoint(parent / str(epoch) / "last.safetensors")
        assert state["best"] == {"epoch": best, "file": f"best-{best:04d}.safetensors"}
        assert state["epoch"] == epoch
        assert [EpochReport.from_json(report) for report in state["reports"]] == whole.reports[
            :epoch
        ]
        trained = [
            name for name, parameter in whole.model.named_parameters() if parameter.requires_grad
        ]
        moments = {
            f"optimizer.{key}.{name}"
            for name in trained
            for key in ("exp_avg", "exp_avg_sq", "step")
        }
        weights = {
            f"{part}.{name}"
            for part in ("model", "average")
            for name in whole.model.trained_state()
        }
        assert set(tensors) == moments | weights


def test_reports_follow_from_the_match_tables_and_these_from_the_model(
    uninterrupted: Uninterrupted,
) -> None:
    whole, _, parent = uninterrupted
    for report in whole.reports:
        table = MatchTable.load(parent / "3" / "matches" / f"epoch-{report.epoch:04d}.npz")
        assert ap50(table, 100).mean == report.ap50
        assert ap50(table, 100).per_class == report.ap50_per_class
        assert ap50(table, None).mean == report.ap50_uncapped
        assert len(table.hit_D) == report.detections
        assert pulls(table, 100, table.image_names) == report.ap50_pulls
        assert table.image_names == tuple(
            DATA.samples[index].name for index in whole.split.validation
        )
    for path in (parent / "3").glob("best-*.safetensors"):
        tensors, state = checkpoint.load_checkpoint(path)
        best = trial_of(EVERYTHING)
        best.model.load_state_dict(tensors, strict=False)
        best.model.eval()
        samples = [DATA.samples[index] for index in best.split.validation]
        found = [predict([best.model], sample.image, best.config.predict) for sample in samples]
        assert (
            sum(one.full_tiles > 0 for one in found)
            == EpochReport.from_json(state["report"]).capped_images
        )
        masks, boxes = match_images(samples, found, len(DATA.classes))
        report = EpochReport.from_json(state["report"])
        assert (ap50(masks, 100).mean, ap50(boxes, 100).mean) == (report.ap50, report.ap50_box)


@pytest.mark.parametrize(("cap", "capped"), [(1, 2), (5000, 0)])
def test_a_report_counts_the_validation_images_that_reached_the_cap(cap: int, capped: int) -> None:
    trial = trial_of(
        TINY | {"optim.epochs": 1, "predict.score_threshold": 0.0, "predict.max_detections": cap}
    )
    assert len(trial.split.validation) == 2
    assert trial.run_epoch().capped_images == capped


def test_reports_say_what_was_done(uninterrupted: Uninterrupted) -> None:
    whole, _, _ = uninterrupted
    schedule = Schedule(whole.config.optim, 2)
    assert (len(whole.split.train), len(whole.split.validation)) == (3, 2)
    for epoch, report in enumerate(whole.reports, start=1):
        assert (report.epoch, report.steps) == (epoch, 2)
        assert report.learning_rate == schedule.learning_rate(2 * epoch - 1)
        assert report.seconds == pytest.approx(report.train_seconds + report.evaluate_seconds)
        assert report.images_per_second == pytest.approx(3 / report.train_seconds)
        assert report.peak_memory_bytes is None
        assert len(report.ap50_per_class) == len(DATA.classes)


COUNTS = st.integers(0, 2**31)
LIMITS = st.builds(
    ClassLimits,
    instances=st.fixed_dictionaries(dict.fromkeys(INSTANCE_KINDS, COUNTS)),
    called=st.lists(COUNTS, max_size=4).map(tuple),
    detections=st.fixed_dictionaries(dict.fromkeys(DETECTION_KINDS, COUNTS)),
    mended=st.fixed_dictionaries(dict.fromkeys(MENDS, st.none() | st.floats(0, 1))),
)


@settings(max_examples=30)
@given(
    st.builds(
        EpochReport,
        **{field.name: st.floats(0, 1) for field in fields(EpochReport)}
        | {
            "losses": st.dictionaries(
                st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3
            )
        }
        | {"ap50_per_class": st.lists(st.none() | st.floats(0, 1), max_size=4).map(tuple)}
        | {"peak_memory_bytes": st.none() | st.integers(0, 2**40)}
        | {
            name: st.integers(0, 2**31)
            for name in ("epoch", "steps", "detections", "capped_images")
        }
        | {"limits": st.lists(LIMITS, max_size=3).map(tuple)}
        | {"ap50_pulls": st.lists(st.floats(-1, 1), max_size=4).map(tuple)},
    )
)
def test_a_report_passes_through_json_unchanged(report: EpochReport) -> None:
    assert (
        EpochReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    )


def test_the_first_of_equal_epochs_is_the_best() -> None:
    trial = trial_of(TINY | {"optim.learning_rate": 1e-30})  # every epoch scores the same
    for _ in range(2):
        trial.run_epoch()
    assert trial.reports[0].ap50 == trial.reports[1].ap50
    assert trial.best is trial.reports[0]


def test_an_older_best_gives_way_to_a_better_epoch(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    folder = copy(uninterrupted[2] / "1", tmp_path / "trial")
    tensors, state = checkpoint.load_checkpoint(folder / "last.safetensors")
    state["reports"][0]["ap50"] = -1.0
    checkpoint.save_checkpoint(folder / "last.safetensors", tensors, state)
    trial = trial_of(EVERYTHING)
    trial.load(folder)
    trial.run_epoch()
    trial.save(folder)
    assert [path.name for path in folder.glob("best-*")] == ["best-0002.safetensors"]
    assert checkpoint.load_checkpoint(folder / "last.safetensors")[1]["best"]["epoch"] == 2
    best, _ = checkpoint.load_checkpoint(folder / "best-0002.safetensors")
    assert_same_state(best, trial.evaluated.trained_state())


def test_a_trial_goes_on_from_whatever_a_death_inside_save_left(
    uninterrupted: Uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, states, parent = uninterrupted
    folder = copy(parent / "1", tmp_path / "trial")
    before = contents(folder)

    def die(path: Path, *_: Any) -> None:
        path.with_name(f".{path.name}.4711.part").write_bytes(b"half")
        raise KeyboardInterrupt

    lost = trial_of(EVERYTHING)
    lost.load(folder)
    lost.run_epoch()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", die)
        with pytest.raises(KeyboardInterrupt):
            lost.save(folder)
    os.link(
        folder / "best-0001.safetensors", folder / "best-0002.safetensors"
    )  # had it died a little later
    (folder / "matches" / "epoch-0002.npz").write_bytes(b"of another attempt")
    (folder / "matches" / ".epoch-0002.npz.4711.part").write_bytes(b"half")

    trial = trial_of(EVERYTHING)
    assert trial.load(folder)
    assert trial.epoch == 1
    left = contents(folder)
    assert left.pop("matches/epoch-0002.npz")
    assert left == before
    trial.run_epoch()
    trial.save(folder)
    assert_same_state(state_of(trial), states[1])
    assert (
        ap50(MatchTable.load(folder / "matches" / "epoch-0002.npz"), 100).mean
        == whole.reports[1].ap50
    )


def test_a_save_writes_match_tables_then_the_best_then_last(
    uninterrupted: Uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(EVERYTHING)
    trial.load(uninterrupted[2] / "1")
    trial.run_epoch()
    there: list[tuple[str, list[str]]] = []

    def note(path: Path, *_: Any) -> None:
        there.append((path.name[:4], sorted(contents(tmp_path))))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", note)
        trial.save(tmp_path)  # a new folder: the best is written as well
    assert there == [("best", ["matches/epoch-0002.npz"]), ("last", ["matches/epoch-0002.npz"])]


def test_an_empty_folder_is_not_continued_and_stays_empty(tmp_path: Path) -> None:
    trial = trial_of(TINY)
    assert not trial.load(tmp_path)
    assert not trial.load(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


CHANGES: list[tuple[dict[str, Any], str]] = [
    (
        {"settings": EVERYTHING | {"optim.learning_rate": 0.5}},
        r"another configuration: optim\.learning_rate was 0\.5 and is 0\.001; go back",
    ),
    (
        {"weights": {"name": "a.pth", "sha256": "0123456789abcdef", "stride_in_1x1": False}},
        r"other pretrained weights: they were a\.pth \(SHA-256 0123456789ab\) and are none",
    ),
    ({"data": "fedcba9876543210"}, r"another data set: its fingerprint was fedcba987654 and is "),
    ({"format": 0}, r"has format 0, and this version reads format 2"),
]


def test_a_checkpoint_that_is_not_this_trials_is_refused_and_changes_nothing(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    trial = trial_of(EVERYTHING)
    fresh = state_of(trial)
    for number, (change, sentence) in enumerate(CHANGES):
        for name in ("last.safetensors", "best-0001.safetensors"):
            folder = copy(uninterrupted[2] / "1", tmp_path / f"{number}-{name}")
            _, state = checkpoint.load_checkpoint(folder / name)
            if "settings" in change:
                change = {"settings": state["settings"] | change["settings"]}
            checkpoint.save_checkpoint(folder / name, {}, state | change)
            files = contents(folder)
            with pytest.raises(CheckpointError, match=f"^{folder / name} .*{sentence}") as caught:
                trial.load(folder)
            assert "\n" not in str(caught.value)
            assert contents(folder) == files
    folder = copy(uninterrupted[2] / "1", tmp_path / "other layers")
    _, state = checkpoint.load_checkpoint(folder / "last.safetensors")
    checkpoint.save_checkpoint(
        folder / "last.safetensors", {"model.no.such.weight": torch.zeros(1)}, state
    )
    with pytest.raises(CheckpointError, match="holds other layers than this trial trains"):
        trial.load(folder)
    assert trial.epoch == 0
    assert_same_state(state_of(trial), fresh)


def test_a_trial_that_an_earlier_version_began_goes_on_though_settings_were_added_since(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """Epochs that it reported may lack fields as well."""
    added = ("data.skip_bad", "data.allow_suspicious", "data.split_components")
    folder = copy(uninterrupted[2] / "1", tmp_path / "old")
    for path in (folder / "last.safetensors", next(folder.glob("best-*.safetensors"))):
        tensors, state = checkpoint.load_checkpoint(path)
        for report in (state.get("report"), *state.get("reports", [])):
            if report is not None:
                del report["capped_images"]
        state["settings"] = {
            name: value for name, value in state["settings"].items() if name not in added
        }
        checkpoint.save_checkpoint(path, tensors, state)
    trial = trial_of(EVERYTHING)
    assert trial.load(folder)
    assert trial.epoch == 1
    other = trial_of(EVERYTHING | {"data.allow_suspicious": True})
    with pytest.raises(CheckpointError, match=r"data\.allow_suspicious was False and is True"):
        other.load(folder)


def test_a_torn_checkpoint_is_refused_and_changes_nothing(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    trial = trial_of(EVERYTHING)
    fresh = state_of(trial)
    for name in ("last.safetensors", "best-0001.safetensors"):
        folder = copy(uninterrupted[2] / "1", tmp_path / name)
        half = (folder / name).read_bytes()[:-100]
        (folder / name).unlink()
        if name != "last.safetensors":
            with pytest.raises(CheckpointError, match=f"{name}: there is no such checkpoint"):
                trial.load(folder)
        (folder / name).write_bytes(half)
        with pytest.raises(CheckpointError, match=f"{name} is torn"):
            trial.load(folder)
    assert_same_state(state_of(trial), fresh)


def imagenet_like(seed: int) -> BaseWeights:
    """A backbone as a file of weights has it."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        state = Stack(torch.nn.BatchNorm2d).state_dict()
    tensors = {name: value.numpy() for name, value in state.items()}
    return BaseWeights("resnet18.pth", f"{seed:064d}", False, tensors)


def test_a_checkpoint_holds_only_what_training_changed_and_needs_the_same_pretrained_weights(
    tmp_path: Path,
) -> None:
    chosen = TINY | {"model.trainable_layers": 0, "model.weights": "resnet18.pth"}
    trial = trial_of(chosen, weights=imagenet_like(1))
    trial.run_epoch()
    trial.save(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        tensors, state = checkpoint.load_checkpoint(path)
        assert not any("backbone.body" in name for name in tensors)
        assert any("backbone.fpn" in name for name in tensors)
        assert state["weights"]["sha256"] == f"{1:064d}"
    again = trial_of(chosen, weights=imagenet_like(1))
    assert again.load(tmp_path)
    assert_same_state(state_of(again), state_of(trial))
    with pytest.raises(CheckpointError, match=r"other pretrained weights: they were resnet18\.pth"):
        trial_of(chosen, weights=imagenet_like(2)).load(tmp_path)


def test_a_trial_finds_its_pretrained_weights_by_itself(tmp_path: Path) -> None:
    weights = imagenet_like(3)
    path = tmp_path / "resnet18.pth"
    torch.save({name: torch.from_numpy(value) for name, value in weights.tensors.items()}, path)
    trial = trial_of(TINY | {"model.weights": str(path)})
    kernel = trial.model.backbone.body.conv1.weight.detach().numpy()
    np.testing.assert_array_equal(kernel, weights.tensors["conv1.weight"])


@pytest.mark.parametrize(
    ("layers", "fpn"), [(0, False), (0, True), (1, True), (2, False), (5, True)]
)
def test_as_many_parameters_train_as_the_depth_says(layers: int, fpn: bool) -> None:
    trial = trial_of(TINY | {"model.trainable_layers": layers, "model.trainable_fpn": fpn})
    network = Stack(torch.nn.BatchNorm2d)
    stages = [network.layer4, network.layer3, network.layer2, network.layer1, network.conv1]
    wanted = sum(parameter.numel() for stage in stages[:layers] for parameter in stage.parameters())
    wanted += sum(parameter.numel() for parameter in network.bn1.parameters()) * (layers == 5)
    (group,) = trial.optim.optimizer.param_groups
    whole = sum(parameter.numel() for parameter in trial.model.parameters())
    backbone = sum(parameter.numel() for parameter in trial.model.backbone.parameters())
    pyramid = sum(parameter.numel() for parameter in trial.model.backbone.fpn.parameters())
    assert (
        sum(parameter.numel() for parameter in group["params"])
        == wanted + fpn * pyramid + whole - backbone
    )


def test_the_settings_given_are_those_applied() -> None:
    trial = trial_of(
        TINY
        | {
            "data.folds": 5,
            "data.fold": 3,
            "model.proposals_test": 17,
            "model.box_samples": 20,
            "model.mask_side": "56",
            "model.size_jitter": 0.25,
            "optim.batch_size": 3,
            "optim.weight_decay": 0.25,
            "optim.backbone_factor": 0.125,
            "optim.decay_norms": False,
            "optim.ema": 1.5,
            "predict.score_threshold": 0.125,
            "predict.max_detections": 7,
        }
    )
    assert (len(trial.split.train), len(trial.split.validation)) == (4, 1)
    assert len(trial.batches) == trial.optim.schedule.steps_per_epoch == 2
    groups = trial.optim.optimizer.param_groups
    assert {(group["factor"], group["weight_decay"]) for group in groups} == {
        (1, 0.25), (1, 0), (0.125, 0.25), (0.125, 0),
    }  # fmt: skip
    assert trial.optim.average is not None
    assert trial.optim.average.half_life == 3
    assert (trial.model.predict.score_threshold, trial.model.predict.max_detections) == (0.125, 7)
    assert trial.model.roi_heads.sampler.batch_size_per_image == 20
    assert trial.model.rpn.kept_in_evaluation == 17
    assert trial.model.roi_heads.mask_roi_pool.output_size == 28
    assert (trial.model.transform.min_side, trial.model.transform.max_side) == (64, 96)
    assert (trial.model.transform.least, trial.model.transform.most) == (0.75, 1.25)


def test_a_trial_that_shows_images_again_has_as_many_steps_in_each_epoch_and_resumes(
    tmp_path: Path,
) -> None:
    settings = TINY | {"data.repeat_rare": 1.0, "optim.epochs": 2, "optim.batch_size": 1}
    whole = trial_of(settings)
    assert len(whole.batches) == whole.optim.schedule.steps_per_epoch > len(whole.split.train)
    seen: list[float] = []
    whole.run_epoch(seen.append)
    assert len(seen) == len(whole.batches) + len(whole.split.validation)
    assert seen[-1] == 1
    whole.save(tmp_path)
    resumed = trial_of(settings, loader_workers=1)
    resumed.load(tmp_path)
    for trial in (whole, resumed):
        report = trial.run_epoch()
        assert report.steps == len(whole.batches)
        assert report.images_per_second == pytest.approx(len(whole.batches) / report.train_seconds)
    assert_same_state(state_of(resumed), state_of(whole))


def test_a_trial_finds_the_precision_of_its_device_once_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial_of(TINY).config.optim.precision == "fp32"
    assert trial_of(TINY | {"optim.precision": "bf16"}).config.optim.precision == "bf16"
    monkeypatch.setattr(trainable, "precision_of", lambda _: "bf16")
    trial = trial_of(TINY)
    assert trial.config.optim.precision == "bf16"
    half = trial.run_epoch()
    trial.save(tmp_path)
    assert trial.trained_model().config.optim.precision == "bf16"
    full = trial_of(TINY | {"optim.precision": "fp32"}).run_epoch()
    assert half.losses["loss"] == pytest.approx(full.losses["loss"], rel=0.2)
    assert half.losses != full.losses
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"optim\.precision was 'bf16' and is 'fp32'"):
        trial_of(TINY | {"optim.precision": "fp32"}).load(tmp_path)
    # It goes on in the precision with which it began, also under a version with another default.
    elsewhere = trial_of(TINY)
    assert elsewhere.load(tmp_path)
    assert elsewhere.config.optim.precision == "bf16"
    named = trial_of(TINY | {"optim.precision": "bf16"})
    assert named.load(tmp_path)
    assert elsewhere.run_epoch().losses == named.run_epoch().losses == trial.run_epoch().losses
    assert_same_state(state_of(elsewhere), state_of(trial))


def test_a_trial_reads_what_is_auto_off_its_data_and_goes_on_with_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"model.image_max_side": 96, "model.proposals_train": 32, "model.proposals_test": 32}
    trial = trial_of(TINY | dict.fromkeys(READ_OFF_DATA, AUTO) | given)
    found = trial.config
    assert found.open == ()
    assert trial.batches.loader.dataset.config == found
    assert trial.model.rpn.anchors.sides[0] == 32 * found.model.anchor_scale
    assert trial.model.transform.min_side == found.model.image_min_side
    assert trial.model.predict.max_detections == found.predict.max_detections
    trial.run_epoch()
    trial.save(tmp_path)
    assert trial.trained_model().config == found

    def halved(_: object, __: object) -> Chosen:
        return Chosen(0.05, "the rules are others now")

    monkeypatch.setitem(fitting.FITTING_RULES[fitting.NEWEST_RULES], "model.anchor_scale", halved)
    later = trial_of(TINY | dict.fromkeys(READ_OFF_DATA, AUTO) | given)
    assert later.config.model.anchor_scale == 0.05
    assert later.load(tmp_path)
    assert later.config == found
    assert later.model.rpn.anchors.sides == trial.model.rpn.anchors.sides
    for name, value in trial.model.state_dict().items():
        assert torch.equal(later.model.state_dict()[name], value)
    with pytest.raises(CheckpointError, match=r"data\.crop was 64 and is 0"):
        trial_of(TINY).load(tmp_path)


def test_crops_tiles_flips_and_bf16_run_together() -> None:
    chosen = {
        "data.crop": 40,
        "predict.flips": True,
        "optim.precision": "bf16",
        "model.detector": "fpn_v2",
    }
    report = trial_of(TINY | chosen).run_epoch()
    assert np.isfinite([report.ap50, report.losses["loss"]]).all()
    assert report.ap50 <= 1


def test_a_trial_that_diverges_has_no_score_saves_nothing_and_can_go_back(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    _, states, parent = uninterrupted
    folder = copy(parent / "1", tmp_path / "trial")
    trial = trial_of(EVERYTHING)
    trial.load(folder)
    files = contents(folder)
    torch.nn.init.constant_(trial.model.roi_heads.box_predictor.cls_score.bias, float("nan"))
    with pytest.raises(TrialDiverged, match="epoch 2, batch 1: loss is nan"):
        trial.run_epoch()
    assert trial.epoch == 1
    with pytest.raises(AssertionError, match="an epoch broke off"):
        trial.save(folder)
    with pytest.raises(AssertionError, match="an epoch broke off"):
        trial.run_epoch()
    assert contents(folder) == files
    assert trial.load(folder)
    trial.run_epoch()
    assert_same_state(state_of(trial), states[1])


def test_after_the_last_epoch_the_best_model_tries_other_settings_of_prediction(
    tmp_path: Path,
) -> None:
    config = TrialConfig.from_settings(TINY | {"optim.epochs": 2, "predict.score_threshold": 0.0})
    tried = {"predict.views": ["none", "flips"], "predict.max_detections": [20, 4]}
    others = config.other_predictions(tried, None)
    assert len(others) == 3
    trial = Trial(config, DATA, device="cpu", threads=1, predictions=others)
    trial.run_epoch()
    assert not trial.predictions
    done: list[float] = []
    report = trial.run_epoch(done.append)
    assert done.count(1.0) == 1 + len(trial.split.validation), "each image is a step of its own"
    assert report == trial.reports[-1]
    samples = [DATA.samples[index] for index in trial.split.validation]
    tables = trial.predictions
    assert list(tables) == others
    for alone in evaluate_candidates(trial.trained_model(), samples, others):
        assert np.array_equal(tables[alone.config].score_D, alone.masks.score_D)
        assert np.array_equal(tables[alone.config].hit_D, alone.masks.hit_D)
    trial.save(tmp_path)
    names = {path.name for path in (tmp_path / "matches").glob("predict-*")}
    assert names == {f"predict-{one.key}.npz" for one in others}
    without = trial_of(config.settings())
    again = [without.run_epoch() for _ in range(2)]
    assert without_wall_time(again) == without_wall_time(trial.reports)
    assert without.load(tmp_path), "a trial that tries nothing is the same trial"


def test_no_epoch_follows_the_last(uninterrupted: Uninterrupted) -> None:
    whole, _, _ = uninterrupted
    with pytest.raises(AssertionError, match="all 3 epochs are done"):
        whole.run_epoch()


def test_auto_is_the_gpu_where_there_is_one() -> None:
    trial = Trial(TrialConfig.from_settings(TINY), DATA)
    assert trial.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.long
def test_a_trial_learns_what_it_can_memorise() -> None:
    """Eight copies of one field of cells: seven train, one validates."""
    field = DATA.samples[0]
    copies = assemble(
        "copies", DATA.classes, [replace(field, name=f"copy-{number}") for number in range(8)]
    )
    chosen = {
        "data.validation_fraction": 0.125,
        "optim.epochs": 7,
        "optim.learning_rate": 5e-4,
        "optim.batch_size": 1,
        "model.proposals_train": 64,
        "model.proposals_test": 64,
        "model.box_samples": 32,
        "model.rpn_samples": 64,
    }
    trial = trial_of(TINY | chosen, copies)
    reports = [trial.run_epoch() for _ in range(7)]
    assert reports[-1].losses["loss"] < 0.3 * reports[0].losses["loss"]
    assert reports[0].ap50 < 0.25
    assert max(report.ap50 for report in reports) > 0.6
    assert max(report.ap50_box for report in reports) > 0.6


# Every image trains


def test_without_validation_every_image_trains_and_no_score_is_made_up(tmp_path: Path) -> None:
    trial = trial_of(EVERYTHING, validate=False)
    assert trial.split.train == tuple(range(len(DATA.samples)))
    for _ in range(2):
        report = trial.run_epoch()
        assert (report.ap50, report.ap50_uncapped, report.ap50_box, report.ap50_per_class) == (
            None,
            None,
            None,
            (),
        )
        trial.save(tmp_path)
        assert trial.best is report
    assert list((tmp_path / "matches").iterdir()) == []
    assert EpochReport.from_json(json.loads(json.dumps(report.to_json()))) == report

    resumed = trial_of(EVERYTHING, validate=False)
    assert resumed.load(tmp_path)
    for one in (trial, resumed):
        one.run_epoch()
    assert_same_state(state_of(trial), state_of(resumed))
    assert without_wall_time(trial.reports) == without_wall_time(resumed.reports)


def test_the_horizon_of_the_schedule_is_that_of_all_epochs_however_many_are_run() -> None:
    trial = trial_of(TINY, validate=False)
    steps = -(-len(DATA.samples) // 2)
    assert len(trial.batches) == steps
    expected = Schedule(trial.config.optim, steps)
    assert trial.run_epoch().learning_rate == expected.learning_rate(steps - 1) > 0
    assert expected.learning_rate(3 * steps - 1) < expected.learning_rate(steps - 1)


@pytest.mark.parametrize(("first", "then"), [(True, "a part of the images"), (False, "all images")])
def test_a_checkpoint_with_validation_is_none_without_and_the_other_way_round(
    first: bool, then: str, tmp_path: Path
) -> None:
    trial = trial_of(TINY, validate=first)
    trial.run_epoch()
    trial.save(tmp_path)
    with pytest.raises(CheckpointError, match=f"was trained on {then}"):
        trial_of(TINY, validate=not first).load(tmp_path)


# What others see of a trial


def test_progress_rises_to_one_and_changes_nothing(uninterrupted: Uninterrupted) -> None:
    watched, seen = trial_of(EVERYTHING), []
    report = watched.run_epoch(seen.append)
    assert seen == pytest.approx(
        [2 / 5, 3 / 5, 4 / 5, 1.0]
    )  # 3 images train in batches of 2, 2 validate
    assert without_wall_time([report]) == without_wall_time(uninterrupted[0].reports[:1])


def test_the_trained_model_is_that_of_the_best_epoch_and_a_copy(
    uninterrupted: Uninterrupted,
) -> None:
    trial, states, parent = uninterrupted
    before = state_of(trial)
    trained = trial.trained_model()
    assert trial.best is not None
    best = states[trial.best.epoch - 1]
    assert_same_state(
        trained.model.state_dict(),
        {name: best[f"average {name}"] for name in trained.model.state_dict()},
    )
    assert not trained.model.training
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())
    with torch.no_grad():
        next(trained.model.parameters()).add_(1)
    assert_same_state(state_of(trial), before)
    kept = trial_of(EVERYTHING).kept_model(parent / "3")
    assert kept is not None
    assert_same_state(kept.model.state_dict(), trial.trained_model().model.state_dict())


def test_averaged_weights_are_evaluated_and_kept_and_the_others_train_on(tmp_path: Path) -> None:
    """The trial without an average is the oracle of what trains."""
    still = TINY | {"optim.epochs": 2}
    plain, averaged = trial_of(still), trial_of(still | {"optim.ema": 2.0})
    for _ in range(2):
        reports = plain.run_epoch(), averaged.run_epoch()
        assert reports[0].losses == reports[1].losses
        assert_same_state(plain.model.state_dict(), averaged.model.state_dict())
    averaged.save(tmp_path)
    evaluated = averaged.evaluated
    evaluated.room = 64 * 96
    assert averaged.trained_model().model.room == 64 * 96
    assert not torch.equal(evaluated.roi_heads.box_predictor.cls_score.weight,
                           averaged.model.roi_heads.box_predictor.cls_score.weight)  # fmt: skip
    samples = [DATA.samples[index] for index in averaged.split.validation]
    found = [predict([evaluated], sample.image, averaged.config.predict) for sample in samples]
    masks, _ = match_images(samples, found, len(DATA.classes))
    assert ap50(masks, 100).mean == averaged.reports[-1].ap50
    assert averaged.best is not None
    if averaged.best.epoch == 2:
        (best,) = tmp_path.glob("best-*.safetensors")
        assert_same_state(checkpoint.load_checkpoint(best)[0], evaluated.trained_state())


def test_a_trial_in_fp16_goes_on_with_its_scale(tmp_path: Path) -> None:
    chosen = TINY | {
        "model.image_min_side": 32,
        "model.trainable_layers": 0,
        "model.trainable_fpn": False,
        "optim.batch_size": 3,
        "optim.precision": "fp16",
    }
    whole = trial_of(chosen)
    assert whole.run_epoch().steps == 1
    whole.optim.scaler.update(2.0**10)
    whole.save(tmp_path)
    resumed = trial_of(chosen)
    assert resumed.load(tmp_path)
    assert resumed.optim.scaler.get_scale() == 2**10
    assert_same_state(state_of(resumed), state_of(whole))
    tensors, state = checkpoint.load_checkpoint(tmp_path / "last.safetensors")
    del tensors["scaler.scale"]
    checkpoint.save_checkpoint(tmp_path / "last.safetensors", tensors, state)
    with pytest.raises(TornCheckpoint, match=r"is damaged \(KeyError: .*scaler\.scale"):
        trial_of(chosen).load(tmp_path)


def test_no_model_is_kept_where_the_weights_are_gone(tmp_path: Path) -> None:
    assert trial_of(TINY).kept_model(tmp_path) is None


@pytest.mark.parametrize("after", [0.0, 0.7], ids=["while it trains", "while it evaluates"])
def test_a_loaders_process_that_is_killed_is_named_and_the_trial_goes_on_in_another(
    tmp_path: Path, after: float
) -> None:
    undisturbed = trial_of(TINY)
    reports = [undisturbed.run_epoch(), undisturbed.run_epoch()]
    trial = trial_of(TINY, loader_workers=1)
    trial.run_epoch()
    trial.save(tmp_path)

    def kill(seen: float) -> None:
        loaders = multiprocessing.active_children()
        if seen >= after and loaders:
            os.kill(loaders[0].pid or 0, signal.SIGKILL)
            time.sleep(30)  # the signal of its end breaks this off

    with pytest.raises(
        ProcessLost, match=r"^a process that prepares images was killed \(SIGKILL\)"
    ):
        trial.run_epoch(kill)
    again = trial_of(TINY, loader_workers=1)
    assert again.load(tmp_path)
    again.run_epoch()
    assert without_wall_time(again.reports) == without_wall_time(reports)


def test_an_error_that_a_loader_met_stays_what_it_is() -> None:
    trial = trial_of(TINY, loader_workers=1)
    trial.batches.loader.dataset.samples = ()  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        trial.run_epoch()


CASCADE = {"model.detector": "cascade"}
GROUP = {"model.detector": "fpn_v2", "model.norm": "group"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "backbone", "precision"),
    [
        (GROUP, "resnet18", "fp16"),
        (GROUP, "resnet18", "bf16"),
        (GROUP, "convnext_tiny", "bf16"),
        (CASCADE, "swin_t", "bf16"),
    ],
    ids=lambda one: one if isinstance(one, str) else "-".join(map(str, one.values())),
)
def test_networks_norms_sizes_and_precisions_train_save_and_resume_together(
    network: dict[str, Any], backbone: str, precision: str, tmp_path: Path
) -> None:
    chosen = TINY | network | {
        "model.backbone": backbone, "model.size_jitter": 0.3, "optim.precision": precision,
        "optim.ema": 0.5, "optim.accumulate": 2, "optim.epochs": 2, "optim.batch_size": 1,
    }  # fmt: skip
    whole = trial_of(chosen)
    begun = {name: value.detach().clone() for name, value in whole.model.named_parameters()}
    report = whole.run_epoch()
    assert np.isfinite(report.losses["loss"])
    whole.save(tmp_path)
    whole.run_epoch()
    moved = set()
    for name, value in whole.model.named_parameters():
        assert torch.isfinite(value).all(), name
        if not torch.equal(begun[name], value):
            moved.add(name.split(".")[0])
    assert moved == {name.split(".")[0] for name in begun}
    image, state, reports = DATA.samples[0].image, state_of(whole), whole.reports
    expected = whole.trained_model().predict(image)
    del whole, begun  # a cascade and its moments take some 900 MB
    resumed = trial_of(chosen)
    assert resumed.load(tmp_path)
    resumed.run_epoch()
    assert_same_state(state_of(resumed), state)
    assert without_wall_time(resumed.reports) == without_wall_time(reports)
    resumed.save(tmp_path)
    kept = trial_of(chosen).kept_model(tmp_path)
    assert kept is not None
    found = kept.predict(image)
    np.testing.assert_array_equal(found.scores_N, expected.scores_N)
    np.testing.assert_array_equal(found.boxes_N4, expected.boxes_N4)


def test_a_saved_trial_keeps_a_picture_of_its_best_epoch_and_draws_it_once(
    tmp_path: Path,
) -> None:
    trial = trial_of(TINY)
    trial.run_epoch()
    trial.save(tmp_path)
    drawn = tmp_path / "overlay.jpg"
    with Image.open(drawn) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] > 2 * picture.size[1], "three panels side by side"
    drawn.unlink()
    trial.save(tmp_path)
    assert not drawn.exists(), "no epoch since then was better"


def test_the_pictured_image_is_the_one_of_median_crowding_and_never_a_huge_one() -> None:
    samples = synthetic.make_cells(images=5, side=64).samples
    place = pictured_image(samples)
    assert place is not None
    counts = sorted(len(sample.labels_N) for sample in samples)
    assert len(samples[place].labels_N) == counts[2]
    assert pictured_image(()) is None
