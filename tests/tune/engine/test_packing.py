"""Laws of how many trials share a GPU, given what was measured."""

import dataclasses
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from core.config import ModelConfig, PredictConfig, TrialConfig
from core.network.detector import Traits
from core.network.detectors import FPN_V2
from tests.core.activations import kept_bytes
from tune.engine.packing import (
    GAIN,
    MARGIN,
    MEMORY,
    MOST_TRIALS,
    PACKING_FORMAT,
    Conditions,
    Gpu,
    Measured,
    Packing,
    Round,
    best_number,
    choose_sharing,
    heaviest,
    images_per_second,
    most_that_fit,
    next_number,
    numbers_to_measure,
    read_packing,
    remembered_packing,
    speeds,
    what_matters,
)
from tune.engine.resources import Machine, Node
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
H200 = Gpu("NVIDIA H200", 140 * GB)
SPEEDS = {1: 30.1, 2: 57.0, 4: 102.0, 8: 127.0, 16: 136.0}
"""Images per second by the service on an H200, by the number of trials; taking turns TURNS."""
TURNS = {1: 30.1, 2: 55.0, 4: 62.0, 8: 61.0}

by_number = st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.floats(0.1, 1e4), min_size=1)


def space(**parts: Any) -> Any:
    fixed = {name: value for name, value in SMALL.items() if name not in parts.get("space", {})}
    return from_document({"study": "s", "data": "synthetic", "fixed": fixed, **parts}, "test").space


def rounds(by_trials: dict[int, float], service: bool = False) -> tuple[Round, ...]:
    return tuple(Round(trials, service, speed, 3 * GB, GB) for trials, speed in by_trials.items())


def packing(*gpus: Measured, services: tuple[bool, ...] = (False, True)) -> Packing:
    config = heaviest(space(space={"model.backbone": ["resnet101"]}))
    kinds = tuple(one.gpu for one in gpus)
    return Packing(Conditions(what_matters(config), kinds, 16, 0, "auto", None, services), gpus)


def both(gpu: Gpu = H200) -> Measured:
    return Measured(gpu, (*rounds(TURNS), *rounds(SPEEDS, True)[1:]))


@given(st.integers(1, 64))
def test_the_numbers_that_are_tried_double_up_to_the_largest_that_may_be_tried(most: int) -> None:
    tried = numbers_to_measure(most)
    assert (tried[0], tried[-1]) == (1, most)
    assert all(2 * one == two for one, two in pairwise(tried[:-1]))
    assert len(tried) == 1 or tried[-2] < tried[-1] <= 2 * tried[-2]


def grown(speed: Any, most: int) -> list[Round]:
    found = [Round(1, False, speed(1))]
    while (trials := next_number(found, most)) is not None:
        found.append(Round(trials, False, speed(trials)))
    return found


@given(by_number, st.integers(1, MOST_TRIALS))
def test_more_trials_are_tried_as_long_as_the_last_number_gained_and_there_is_room(
    known: dict[int, float], most: int
) -> None:
    found = grown(lambda trials: known.get(trials, 5.0), most)
    assert [one.trials for one in found] == numbers_to_measure(most)[: len(found)]
    gains = [two.images_per_second >= GAIN * one.images_per_second for one, two in pairwise(found)]
    assert all(gains[:-1])
    assert found[-1].trials == most or not gains[-1]


@given(st.integers(2, MOST_TRIALS))
def test_a_number_that_did_not_work_is_the_last(fails: int) -> None:
    found = grown(lambda trials: 0.0 if trials >= fails else 2.0**trials, MOST_TRIALS)
    assert [one.trials for one in found if one.images_per_second] == [
        trials for trials in numbers_to_measure(MOST_TRIALS) if trials < fails
    ]
    assert sum(not one.images_per_second for one in found) == 1


@given(by_number)
def test_the_smallest_number_is_taken_over_which_none_gains(known: dict[int, float]) -> None:
    trials = best_number(known)
    assert max(known.values()) < GAIN * known[trials]
    for fewer in known:
        if fewer < trials:
            assert max(known.values()) >= GAIN * known[fewer]


@given(by_number, by_number)
def test_the_service_is_taken_where_its_best_number_gains_over_the_best_number_of_turns(
    turns: dict[int, float], together: dict[int, float]
) -> None:
    trials, service = choose_sharing(turns, together)
    gains = together[best_number(together)] >= GAIN * turns[best_number(turns)]
    assert trials == (best_number(together) if gains else best_number(turns))
    assert service == (gains and trials > 1)


@given(by_number)
def test_what_was_not_measured_is_not_taken(known: dict[int, float]) -> None:
    assert choose_sharing(known, {}) == (best_number(known), False)
    assert choose_sharing({}, known) == (best_number(known), best_number(known) > 1)


@given(by_number, by_number, st.floats(0.1, 10))
def test_the_choice_depends_on_ratios_of_speeds_alone(
    turns: dict[int, float], together: dict[int, float], factor: float
) -> None:
    ratios = [one / two for one in turns.values() for two in turns.values()]
    ratios += [
        one / two for one in together.values() for two in [*together.values(), *turns.values()]
    ]
    assume(all(abs(ratio - GAIN) > 1e-9 and abs(ratio * GAIN - 1) > 1e-9 for ratio in ratios))
    scaled = [
        {trials: factor * one for trials, one in known.items()} for known in (turns, together)
    ]
    assert choose_sharing(*scaled) == choose_sharing(turns, together)


@given(st.integers(1, 200 * GB), st.integers(1, 200 * GB))
def test_trials_that_fit_leave_a_margin_or_are_one(held: int, free: int) -> None:
    trials = most_that_fit(held, free)
    assert 1 <= trials <= MOST_TRIALS
    assert trials == 1 or trials * MARGIN * held <= MEMORY * free
    assert trials == MOST_TRIALS or (trials + 1) * MARGIN * held > MEMORY * free - 2


def test_a_memory_of_which_nothing_is_known_bounds_nothing() -> None:
    assert most_that_fit(0, 8 * GB) == most_that_fit(GB, 0) == MOST_TRIALS


def test_processors_and_parallel_bound_what_a_gpu_would_hold() -> None:
    def most(
        cpus: int, gpus: int, per_trial: int | str = "auto", parallel: int | None = None
    ) -> int:
        return Machine((Node(cpus, gpus),)).most_on_a_gpu(per_trial, parallel, MOST_TRIALS)

    assert most(16, 1) == 16
    assert most(3, 1) == 3
    assert most(16, 1, 4) == 4
    assert most(16, 1, "auto", 2) == 2
    assert most(16, 4) == 4
    assert most(16, 4, "auto", 5) == 2
    assert most(2, 4) == 1


@given(st.integers(1, 64), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 20)))
def test_the_largest_number_on_a_gpu_runs_and_the_next_does_not(
    cpus: int, gpus: int, parallel: int | None
) -> None:
    machine = Machine((Node(cpus, gpus),))
    most = machine.most_on_a_gpu("auto", parallel, MOST_TRIALS)

    def on_the_fullest(trials: int) -> int:
        return -(-machine.share("auto", 1 / trials, parallel).parallel // gpus)

    assert most == 1 or on_the_fullest(most) == most
    assert most == MOST_TRIALS or on_the_fullest(most + 1) <= most


steps_of_trials = st.lists(
    st.tuples(st.floats(0, 5), st.lists(st.floats(0.01, 2), min_size=2, max_size=30)),
    min_size=1,
    max_size=5,
)


@given(steps_of_trials, st.floats(0, 10))
def test_only_the_time_counts_in_which_all_train(
    trials: list[tuple[float, list[float]]], since: float
) -> None:
    """Images are counted here step by step: those between the borders, and parts of those on them."""
    trainings = []
    for start, lengths in trials:
        ends = [start + sum(lengths[: n + 1]) for n in range(len(lengths))]
        trainings.append([(end, 2) for end in ends])
    found = images_per_second(trainings, since)
    firsts = [
        min((end for end, _ in steps if end >= since), default=float("inf")) for steps in trainings
    ]
    begin, until = max(firsts), min(steps[-1][0] for steps in trainings)
    if begin >= until:
        assert found == 0
        return
    images = 0.0
    for steps in trainings:
        for (before, _), (end, count) in pairwise(steps):
            common = min(end, until) - max(before, begin)
            images += max(common, 0.0) / (end - before) * count if end > before else 0.0
    assert found == pytest.approx(images / (until - begin), rel=1e-6, abs=1e-6)


def test_trials_that_train_evenly_train_the_sum_of_their_images() -> None:
    fast = [(0.1 * n, 2) for n in range(1, 41)]
    slow = [(0.5 + 0.5 * n, 4) for n in range(1, 9)]
    assert images_per_second([fast, slow], 1.0) == pytest.approx(20 + 8)


@given(by_number, by_number, st.integers(1, 4), st.integers(1, 4))
def test_gpus_of_different_kinds_count_together_where_a_number_worked_on_all(
    one: dict[int, float], two: dict[int, float], some: int, others: int
) -> None:
    kinds = [
        Measured(Gpu("large", 80 * GB, some), rounds(one)),
        Measured(Gpu("small", 8 * GB, others), rounds(two)),
    ]
    found = speeds(kinds, False)
    assert set(found) == set(one) & set(two)
    assert all(found[n] == pytest.approx(some * one[n] + others * two[n]) for n in found)
    assert speeds(kinds, True) == {}


def test_the_smallest_gpu_bounds_the_share_of_all() -> None:
    small = Measured(
        Gpu("small", 8 * GB),
        (*rounds({1: 10.0, 2: 18.0}), Round(4, False, 0.0, trouble="out of memory")),
    )
    large = Measured(Gpu("large", 80 * GB), rounds({1: 30.0, 2: 55.0, 4: 100.0}))
    found = packing(large, small, services=(False,))
    assert (found.trials, found.service) == (2, False)
    assert found.sentences[1:] == (
        "4 trials at once on small did not work: out of memory; delete packing.json to measure"
        " again",
        "Trials have the same share of each GPU, although large and small differ, because Ray decides which"
        " one a trial gets",
    )


def test_a_packing_holds_the_speed_of_one_trial_alone_and_of_those_that_share_a_gpu() -> None:
    found = packing(both())
    assert (found.trials, found.service) == (8, True)
    assert (found.images_per_second_alone, found.images_per_second_packed) == (30.1, 127.0)
    two = packing(
        Measured(Gpu("large", 80 * GB, 3), rounds({1: 40.0, 2: 60.0})),
        Measured(Gpu("small", 80 * GB, 1), rounds({1: 20.0, 2: 30.0})),
    )
    assert (two.images_per_second_alone, two.images_per_second_packed) == (35.0, 52.5)


def test_the_user_is_told_what_was_measured() -> None:
    assert packing(both()).sentences == (
        "The heaviest settings (resnet101, batch 2) trained 30.1 images/s alone on NVIDIA H200,"
        " 55.0 with 2, 62.0 with 4, 61.0 with 8 trials taking turns, 57.0 with 2, 102.0 with 4,"
        " 127.0 with 8, 136.0 with 16 trials using the Multi-Process Service, each in 3.0 of 140 GiB of its memory: 8 trials share"
        " a GPU, by NVIDIA's Multi-Process Service",
    )
    alone = packing(Measured(H200, rounds({1: 30.0, 2: 31.0})), services=(False,))
    assert alone.sentences[0].endswith(": 1 trial has a GPU")


def test_the_user_is_told_why_the_service_is_not_used() -> None:
    little = packing(Measured(H200, (*rounds(TURNS), *rounds({2: 60.0, 4: 65.0}, True))))
    assert (little.trials, little.service) == (4, False)
    assert (
        little.against_service
        == "the service gained less than 10% (60.0 images/s, and 62.0 by turns)"
    )
    failed = Round(2, True, 0.0, trouble="a process did not answer in time")
    none = packing(Measured(H200, (*rounds(TURNS), failed)))
    assert (none.trials, none.service) == (4, False)
    assert none.against_service == "no trials that shared a GPU by the service trained"
    assert none.sentences[1] == (
        "2 trials at once with the Multi-Process Service on NVIDIA H200 did not work: a process did"
        " not answer in time; delete packing.json to measure again"
    )
    assert packing(both()).against_service == ""
    assert packing(Measured(H200, rounds(TURNS)), services=(False,)).against_service == ""


def test_a_packing_is_read_as_it_was_written_and_used_under_the_same_conditions_alone(
    tmp_path: Path,
) -> None:
    file = tmp_path / "packing.json"
    found = packing(both())
    file.write_text(json.dumps(found.to_json()))
    assert read_packing(file) == found
    assert remembered_packing(file, found.conditions) == found
    for change in (
        {"gpus": (dataclasses.replace(H200, number=2),)},
        {"settings": {**found.conditions.settings, "optim.batch_size": 4}},
        {"cpus": 8},
        {"parallel": 3},
        {"services": (False,)},
    ):
        assert remembered_packing(file, dataclasses.replace(found.conditions, **change)) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"settings": {}, "probe": {"device": "a GPU"}, "trials": 2}',  # of the version before
        json.dumps({"format": PACKING_FORMAT, "conditions": {}, "gpus": []}),
        json.dumps(packing(both()).to_json() | {"format": PACKING_FORMAT + 1}),
        json.dumps(packing(both()).to_json() | {"gpus": []}),
        json.dumps(packing(both()).to_json() | {"gpus": [{"gpu": {}, "rounds": []}]}),
        json.dumps(packing(both()).to_json()).replace("30.1", '"many"'),
        json.dumps(packing(both()).to_json()).replace('"trials": 8', '"trials": -8'),
    ],
)
def test_a_file_that_is_damaged_or_of_another_version_is_measured_anew(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "packing.json").write_text(content)
    assert read_packing(tmp_path / "packing.json") is None


def test_the_heaviest_settings_are_those_of_the_space_that_take_the_most_memory() -> None:
    found = heaviest(
        space(
            space={
                "model.backbone": ["resnet101", "swin_t", "resnet18", "resnext50_32x4d"],
                "model.detector": ["fpn", "cascade"],
                "model.mask_side": [56, 28],
                "model.trainable_layers": [0, 5, 1],
                "model.box_samples": {"low": 16, "high": 48},
                "data.crop": [48, 0, 32],
                "augment.elastic": [False, True],
                "augment.copy_paste": [False, True],
                "augment.copy_paste_most": {
                    "choices": [10, 400],
                    "when": {"augment.copy_paste": [True]},
                },
                "optim.precision": ["bf16", "fp32"],
                "optim.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            }
        )
    ).settings()
    assert (found["model.backbone"], found["model.trainable_layers"]) == ("swin_t", 5)
    assert (found["model.detector"], found["model.mask_side"]) == ("cascade", 56)
    assert (found["model.box_samples"], found["data.crop"], found["optim.precision"]) == (
        48,
        0,
        "fp32",
    )
    assert found["augment.elastic"] is True
    assert found["augment.copy_paste_most"] == 400


def test_the_heaviest_training_has_an_average_the_largest_sizes_and_group_norm() -> None:
    found = heaviest(
        space(
            space={
                "model.detector": ["fpn_v2", "fpn"],
                "model.norm": {
                    "choices": ["group", "frozen", "batch"],
                    "when": {"model.detector": ["fpn_v2"]},
                },
                "model.weights": ["coco"],
                "model.size_jitter": {"low": 0.0, "high": 0.4},
                "optim.ema": [0.0, 0.5],
                "optim.precision": ["fp16", "bf16"],
            }
        )
    ).settings()
    assert (found["model.detector"], found["model.norm"]) == ("fpn_v2", "group")
    assert (found["model.size_jitter"], found["optim.ema"]) == (0.4, 0.5)
    assert found["optim.precision"] == "fp16"
    assert {"model.norm", "model.size_jitter", "optim.ema"} <= what_matters(TrialConfig()).keys()


@pytest.mark.parametrize(
    ("precisions", "norm"), [(["bf16"], "group"), (["fp32"], "batch"), (["bf16", "fp32"], "batch")]
)
def test_the_norm_that_takes_the_most_memory_depends_on_the_precision(
    precisions: list[str], norm: str
) -> None:
    norms = {"choices": ["frozen", "batch", "group"], "when": {"model.detector": ["fpn_v2"]}}
    names = {
        "model.detector": ["fpn_v2", "fpn"], "model.norm": norms, "optim.precision": precisions,
        "model.weights": ["coco"],
    }  # fmt: skip
    assert heaviest(space(space=names)).model.norm == norm


def test_norms_are_ranked_by_what_they_keep_for_the_gradient_in_float32() -> None:
    def activations(norm: str) -> int:
        """The bytes of backbone and pyramid; with `batch` alone the backbone's norm trains."""
        model = ModelConfig(detector="fpn_v2", backbone="resnet18", weights="a.pth", norm=norm)
        traits = Traits(frozen_norm=norm != "batch", norm_eps=1e-5, stride_in_1x1=False)
        network = FPN_V2.build(model, 1, PredictConfig(), traits).backbone
        return kept_bytes(network, torch.rand(1, 3, 64, 64))

    frozen, group, batch = map(activations, ("frozen", "group", "batch"))
    assert frozen < group < batch


def test_the_heaviest_variant_has_the_largest_image_that_training_draws() -> None:
    sides = {"model.image_min_side": 800, "model.image_max_side": 800}
    several = sides | {"model.size_jitter": 0.5}
    larger = {"model.image_min_side": 1000, "model.image_max_side": 1000}
    rows = {"one size": sides, "several": several, "larger": larger}
    assert heaviest(space(variants=rows, baseline="one size")).model.size_jitter == 0.5


def test_the_heaviest_variant_has_the_largest_batch_before_all() -> None:
    rows = {"a": {"model.backbone": "resnet101"}, "b": {"optim.batch_size": 8}, "c": {}}
    assert heaviest(space(variants=rows, baseline="a")).optim.batch_size == 8


def test_what_is_tried_after_training_is_measured_at_its_heaviest_too() -> None:
    searched = replace(
        space(space={"optim.batch_size": [2, 4]}),
        auto=lambda name, _: 700 if name == "predict.max_detections" else None,
    )
    tried = {
        "predict.max_detections": [400, "auto", 500],
        "predict.scales": ["1", "0.5,1.5", "0.25,0.5,1"],
        "predict.views": ["none", "all"],
    }
    found = heaviest(searched, tried)
    assert found.optim.batch_size == 4
    assert (found.predict.max_detections, found.predict.scales) == (700, "0.5,1.5")
    assert found.predict.views == "none"


def test_a_setting_that_changes_neither_memory_nor_speed_changes_no_conditions() -> None:
    one, two, other = (
        what_matters(
            heaviest(space(space={"optim.learning_rate": rates, "optim.batch_size": size}))
        )
        for rates, size in (
            ({"low": 1e-5, "high": 1e-3}, [2, 4]),
            ({"low": 1e-6, "high": 1e-3}, [1, 4]),
            ({"low": 1e-5, "high": 1e-3}, [2, 8]),
        )
    )
    assert one == two != other
    assert one["optim.batch_size"] == 4
    assert one["augment.elastic"] is False
