"""Laws of how many trials share a GPU.

The probe runs here on the CPU, in a process of its own as on a GPU.
"""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrialConfig
from core.data import synthetic
from core.errors import ResourceError
from core.training.probe import Probe, measure
from tune.engine import packing
from tune.engine.packing import (
    MARGIN,
    MEMORY,
    MOST,
    Packing,
    heaviest,
    pack,
    remembered,
    trials_that_share,
)
from tune.request.file import from_document

GB = 2**30
SMALL: dict[str, Any] = {
    "model.weights": "none",
    "model.image_min_side": 64,
    "model.image_max_side": 64,
    "model.proposals_train": 32,
    "model.proposals_test": 32,
    "model.box_samples": 16,
    "model.rpn_samples": 16,
    "optim.epochs": 1,
}


def space(**parts: Any) -> Any:
    fixed = {name: value for name, value in SMALL.items() if name not in parts.get("space", {})}
    return from_document({"study": "s", "data": "synthetic", "fixed": fixed, **parts}, "test").space


def probe(peak: float, busy: float, total: float = 80.0) -> Probe:
    return Probe("a GPU", int(total * GB), int(peak * GB), busy, 1.0)


def test_a_trial_that_keeps_the_gpu_busy_shares_it_with_none() -> None:
    assert trials_that_share(probe(1.0, 1.0)) == 1


def test_a_trial_that_leaves_the_gpu_idle_shares_it_with_as_many_as_fill_its_time() -> None:
    assert trials_that_share(probe(1.0, 0.34)) == 3
    assert trials_that_share(probe(0.5, 1 / 3)) == 3
    assert trials_that_share(probe(1.0, 0.01)) == MOST


def test_memory_bounds_what_time_would_allow() -> None:
    assert trials_that_share(probe(20.0, 0.1)) == 3


def test_the_memory_of_the_machine_bounds_what_a_gpu_would_hold() -> None:
    found = dataclasses.replace(probe(1.0, 0.01), host_bytes=4 * GB)
    assert trials_that_share(found, 0) == MOST
    assert trials_that_share(found, 15 * GB) == 3
    assert trials_that_share(found, 2 * GB) == 1


@given(peak=st.floats(0.1, 79), busy=st.floats(0.01, 1), total=st.floats(4, 200))
def test_trials_that_share_fit_into_the_memory_or_are_one(
    peak: float, busy: float, total: float
) -> None:
    found = probe(peak, busy, total)
    trials = trials_that_share(found)
    assert 1 <= trials <= MOST
    assert trials == 1 or trials * MARGIN * found.peak_bytes <= MEMORY * found.total_bytes
    assert trials == 1 or (trials - 1) * found.busy < 1


def test_the_heaviest_settings_are_those_of_the_space_that_take_the_most_memory() -> None:
    found = heaviest(
        space(
            space={
                "model.backbone": ["resnet101", "resnet18", "resnext50_32x4d"],
                "model.trainable_layers": [0, 5, 1],
                "model.box_samples": {"low": 16, "high": 48},
                "data.crop": [48, 0, 32],
                "optim.precision": ["bf16", "fp32"],
                "optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            }
        )
    ).settings()
    assert (found["model.backbone"], found["model.trainable_layers"]) == ("resnet101", 5)
    assert (found["model.box_samples"], found["data.crop"], found["optim.precision"]) == (
        48,
        0,
        "fp32",
    )


def test_the_heaviest_variant_has_the_largest_batch_before_all() -> None:
    rows = {"a": {"model.backbone": "resnet101"}, "b": {"optim.batch_size": 8}, "c": {}}
    assert heaviest(space(variants=rows, baseline="a")).optim.batch_size == 8


def test_a_probe_runs_in_a_process_of_its_own_and_leaves_the_data_as_they_were() -> None:
    data = synthetic.make(images=6, side=64)
    before = data.fingerprint
    found = pack(space(space={"model.backbone": ["resnet18"]}), data, lambda _: None, "cpu")
    assert found.trials == 1
    assert found.probe.device == "cpu"
    assert found.probe.peak_bytes > 100 * 2**20
    assert found.probe.images_per_second > 0
    assert data.fingerprint == before
    json.dumps(found.to_json())


def test_what_does_not_fit_one_gpu_alone_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that measures is killed, as by the kernel where memory ends."""
    monkeypatch.setattr(packing.probe, "measure", die)
    with pytest.raises(
        ResourceError, match=r"model.backbone resnet18, optim.batch_size 2\) must fit one GPU alone"
    ):
        pack(
            space(space={"model.backbone": ["resnet18"]}),
            synthetic.make(images=4, side=64),
            lambda _: None,
            "cpu",
        )


def die(*_: object) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_probe_of_a_setting_that_would_diverge_does_not() -> None:
    config = TrialConfig.from_settings(
        {**SMALL, "model.backbone": "resnet18", "optim.learning_rate": 1.0}
    )
    assert measure(config, synthetic.make(images=4, side=64), None, "cpu").busy == 1.0


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"settings": {}, "probe": {}, "trials": 2}'])
def test_a_damaged_memory_of_a_probe_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "packing.json").write_text(content)
    assert (
        remembered(tmp_path / "packing.json", space(space={"model.backbone": ["resnet18"]})) is None
    )


def test_the_user_is_told_what_was_measured() -> None:
    found = Packing({"model.backbone": "resnet101", "optim.batch_size": 2}, probe(9.5, 0.41), 3)
    assert (
        found.sentence
        == "Probe of the heaviest settings (resnet101, batch 2): 9.5 of 80 GB, and the GPU busy 41%"
        " of the time: 3 trials share a GPU"
    )
    assert replace(found, trials=1).sentence.endswith("1 trial has a GPU")
