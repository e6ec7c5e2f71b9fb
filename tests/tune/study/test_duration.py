"""Laws of the time estimate: what it contains, what it never says, and when nothing is measured."""

import heapq
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from core import data as datasets
from core.config import TrialConfig
from core.data import synthetic
from core.errors import DataError
from core.training.trial import Trial
from tune.engine.packing import (
    Conditions,
    Gpu,
    Measured,
    Packing,
    Round,
    heaviest,
    what_matters,
)
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.records import State, TrialRecord
from tune.request.file import from_document
from tune.search import main
from tune.stopping.halving import SuccessiveHalving
from tune.stopping.never import Never
from tune.stopping.rule import StoppingRule
from tune.study import pace
from tune.study.duration import (
    OVERHEAD_SECONDS,
    Forecast,
    Span,
    epochs_left,
    forecast_of,
    seconds_of_an_epoch,
    time_left,
    time_line,
)
from tune.study.options import Options
from tune.study.pace import Pace
from tune.study.plan import StudyPlan

ROOT = Path(__file__).parents[3]
EPOCH = Span(8.0, 20.0)


def forecast(
    trials: int,
    epochs: int,
    parallel: int = 2,
    rule: StoppingRule | None = None,
    reduction: int = 3,
    confirming: int = 0,
    epoch: Span | None = EPOCH,
) -> Forecast:
    full = Span(float(epochs), float(epochs))
    rule = rule or SuccessiveHalving(math.ceil(epochs / 10), reduction)
    return Forecast((full,) * trials, rule, reduction, (full,) * confirming, parallel, epoch)


def left(known: Forecast, records: Sequence[TrialRecord] = ()) -> Span:
    found = known.left(records)
    assert found is not None
    return found


def record(number: int, curve: Sequence[float], seconds: float, epochs: int) -> TrialRecord:
    reports = tuple({"ap50": value, "seconds": seconds} for value in curve)
    state = State.COMPLETE if len(curve) >= epochs else State.RUNNING
    return TrialRecord(number, state=state, settings={"optim.epochs": epochs}, epochs=reports)


Sizes = st.integers(1, 60)


@given(Sizes, st.integers(1, 80), st.integers(1, 12), st.integers(2, 5), st.integers(0, 15))
def test_more_trials_epochs_or_confirmations_never_take_less_time(
    trials: int, epochs: int, parallel: int, reduction: int, confirming: int
) -> None:
    base = left(forecast(trials, epochs, parallel, None, reduction, confirming))
    assert 0 <= base.low <= base.high
    for more in (
        forecast(trials + 1, epochs, parallel, None, reduction, confirming),
        forecast(trials, epochs, parallel, None, reduction, confirming + 1),
        forecast(trials, 10 * epochs, parallel, None, reduction, confirming),
    ):
        longer = left(more)
        assert longer.low >= base.low - 1e-9
        assert longer.high >= base.high - 1e-9


@given(Sizes, st.integers(1, 80), st.integers(1, 12))
def test_stopping_early_lowers_the_least_time_and_never_the_most(
    trials: int, epochs: int, parallel: int
) -> None:
    stopped, full = (left(forecast(trials, epochs, parallel, rule)) for rule in (None, Never(1, 3)))
    assert stopped.low <= full.low
    assert stopped.high == full.high


@given(Sizes, st.integers(1, 80), st.integers(1, 12))
def test_without_stopping_the_span_holds_every_order_of_equal_trials(
    trials: int, epochs: int, parallel: int
) -> None:
    found = left(forecast(trials, epochs, parallel, Never(1, 3), epoch=Span(10.0, 10.0)))
    rounds = math.ceil(trials / parallel)
    assert found.low <= 10.0 * epochs * rounds <= found.high


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0.01, 1e4), st.booleans()), max_size=30),
    st.integers(0, 30),
)
def test_whatever_has_run_nothing_negative_is_left_and_low_is_not_above_high(
    ran: list[tuple[int, float, bool]], more: int
) -> None:
    records = [
        replace(
            record(number, [0.1] * done, seconds, 20),
            state=State.FAIL if failed else State.RUNNING if done < 20 else State.COMPLETE,
        )
        for number, (done, seconds, failed) in enumerate(ran)
    ]
    found = left(forecast(len(records) + more, 20), records)
    assert 0 <= found.low <= found.high < math.inf


@given(st.integers(1, 40), st.integers(1, 30), st.floats(0.1, 1e4))
def test_of_a_finished_study_nothing_is_left_and_nothing_is_said(
    trials: int, epochs: int, seconds: float
) -> None:
    records = [record(number, [0.5] * epochs, seconds, epochs) for number in range(trials)]
    found = left(forecast(trials, epochs), records)
    assert found == Span(0.0, 0.0)
    assert time_left(found) is None
    assert time_line(found, None, on_processors=True) is None


def test_the_study_s_own_seconds_take_the_place_of_those_measured_before_it() -> None:
    before = Span(1.0, 2.0)
    assert seconds_of_an_epoch([], before) == before
    assert seconds_of_an_epoch([]) is None
    records = [record(number, [0.1] * 3, 50.0, 10) for number in range(20)]
    found = seconds_of_an_epoch(records, before)
    assert found is not None
    assert found.low < 50.0 < found.high
    assert found.high / found.low < 1.5


@dataclass
class Replay:
    """A study of random curves: what its driver knew after each epoch, and when it ended."""

    moments: list[tuple[float, list[TrialRecord]]]
    end: float


def replayed(
    rng: np.random.Generator, trials: int, epochs: int, parallel: int, rule: StoppingRule
) -> Replay:
    """Trials on `parallel` processors, judged after each epoch as the ledger judges them."""
    curves = _curves(rng, trials, epochs)
    seconds = rng.uniform(EPOCH.low, EPOCH.high, trials)
    records: dict[int, TrialRecord] = {}
    queue: list[tuple[float, int]] = []
    moments: list[tuple[float, list[TrialRecord]]] = []

    def begin(now: float) -> None:
        if len(records) < trials:
            number = len(records)
            records[number] = record(number, (), seconds[number], epochs)
            heapq.heappush(queue, (now + seconds[number], number))

    for _ in range(parallel):
        begin(0.0)
    now = 0.0
    while queue:
        now, number = heapq.heappop(queue)
        done = len(records[number].epochs) + 1
        one = record(number, curves[number][:done], seconds[number], epochs)
        if one.state is State.RUNNING and rule.why_stopped(
            one.curve,
            [other.curve for other in records.values() if other.id != number],
            [other.curve for other in records.values() if other.state is State.COMPLETE],
            epochs,
        ):
            one = replace(one, state=State.PRUNED)
        records[number] = one
        if one.state is State.RUNNING:
            heapq.heappush(queue, (now + seconds[number], number))
        else:
            begin(now)
        moments.append((now, list(records.values())))
    return Replay(moments, now)


def _curves(rng: np.random.Generator, trials: int, epochs: int) -> Any:
    """Learning curves [trials, epochs]: each rises to a level of its own, at a speed of its own,
    with noise.
    """
    level, speed = rng.uniform(0.2, 0.6, (trials, 1)), rng.uniform(0.5, 12.0, (trials, 1))
    rising = level * (1 - np.exp(-np.arange(1, epochs + 1) / speed))
    return (rising + rng.normal(0, rng.choice([0.0, 0.02, 0.1]), (trials, epochs))).clip(0, 1)


@pytest.mark.parametrize(
    ("trials", "epochs", "parallel", "reduction"),
    [(8, 4, 2, 2), (20, 20, 2, 3), (30, 20, 8, 3), (60, 50, 4, 3), (12, 12, 12, 4)],
)
def test_on_replayed_studies_the_span_holds_the_time_they_took(
    trials: int, epochs: int, parallel: int, reduction: int
) -> None:
    rule = SuccessiveHalving(max(1, epochs // 10), reduction)
    known = forecast(trials, epochs, parallel, rule, reduction)
    inside: list[bool] = []
    widths: list[float] = []
    for seed in range(12):
        study = replayed(np.random.default_rng(seed), trials, epochs, parallel, rule)
        at = [0, *np.linspace(0, len(study.moments) - 2, 6).astype(int)]
        for place, index in enumerate(at):
            now, records = (0.0, []) if place == 0 else study.moments[index]
            found = left(known, records)
            inside.append(found.low <= study.end - now <= found.high)
        first = left(known)
        widths.append(first.high / first.low)
    assert np.mean(inside) >= 0.97
    assert max(widths) < 16


def test_the_expected_epochs_follow_the_trials_that_ended() -> None:
    rule = SuccessiveHalving(2, 3)
    ended = [
        replace(record(number, [0.1] * 2, 10.0, 20), state=State.PRUNED) for number in range(40)
    ]
    known = (Span(20.0, 20.0),) * 41
    assert epochs_left([], known, rule, 3)[-1].high == 20.0
    assert epochs_left(ended, known, rule, 3)[-1].high < 5.0


@given(st.floats(0, 1e8), st.floats(1, 100), st.floats(0, 1e8))
def test_a_time_budget_bounds_what_is_said_to_be_left(
    low: float, factor: float, budget: float
) -> None:
    span = Span(low, low * factor)
    line, said = time_line(span, budget, on_processors=False), time_left(span, budget)
    if span.high < 60:
        assert line is None
        assert said is None
        return
    assert line is not None
    assert said is not None
    whole = span + Span(*OVERHEAD_SECONDS)
    if budget >= whole.high:
        assert "--time-budget" not in line
    elif budget > whole.low:
        assert "--time-budget may end it after" in line
    else:
        assert "--time-budget ends it after" in line
    assert ("left of the time budget" in said) == (budget <= span.low and budget < span.high)


def test_a_study_of_months_on_processors_says_so_with_the_way_out() -> None:
    said = time_line(Span(6e6, 2e7), None, on_processors=True)
    assert said is not None
    assert said.startswith("Time: 2 to 8 months for this study on this machine without a GPU")
    for way_out in ("a GPU", "model.image_min_side=256", "search_spaces/demo.yaml"):
        assert way_out in said
    on_gpu = time_line(Span(6e6, 2e7), None, on_processors=False)
    assert on_gpu == "Time: 2 to 8 months for this study on this machine"
    assert time_line(None, None, on_processors=True) is None
    assert time_line(None, None, on_processors=False) == (
        "Time: not measured yet; the search will say it once the GPU is measured or an epoch has run"
    )


SPACE: dict[str, Any] = {
    "study": "paced",
    "data": "synthetic",
    "space": {
        "optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "model.backbone": ["resnet18", "resnet50"],
    },
    "start": [{"model.backbone": "resnet18"}],
    "search": {"sampler": "random", "trials": 12},
}


def make_plan(
    results: Path,
    gpus: float = 0.0,
    address: str | None = None,
    is_short: bool = False,
    repeat_rare: float = 0.0,
) -> StudyPlan:
    fixed = {"model.weights": "none", "optim.epochs": 20, "data.repeat_rare": repeat_rare}
    document = {**SPACE, "fixed": fixed}
    if is_short:
        sides = {"model.image_min_side": 32, "model.image_max_side": 48}
        document["fixed"] |= {"optim.epochs": 1, **sides}
        document |= {"search": {"sampler": "random", "trials": 3}, "confirm": {"top": 0}}
    return StudyPlan(
        from_document(document, "test"),
        Options(results),
        datasets.load_data("synthetic"),
        {},
        Machine((Node(2, int(gpus > 0)),), address),
        TrialResources(1, gpus, 2),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrialConfig]:
    """The configurations that were measured; none takes any time."""
    configs: list[TrialConfig] = []

    def measured(config: TrialConfig, *_: Any) -> Pace:
        configs.append(config)
        return Pace(6.0 * len(configs), 3.0 * len(configs))

    monkeypatch.setattr(pace, "measure_pace", measured)
    return configs


def test_what_confirming_trainings_try_after_training_takes_its_time() -> None:
    without = forecast(6, 10, 1, Never(1, 3), confirming=3)
    known = replace(without, trying=Span(4.0, 8.0), evaluating=Span(0.25, 0.5))
    assert left(known).low - left(without).low == pytest.approx(3 * 4 * 0.25 * EPOCH.low)
    assert left(known).high - left(without).high == pytest.approx(3 * 8 * 0.5 * EPOCH.high * 1.3)
    searched = [
        replace(one, epochs=tuple({**epoch, "evaluate_seconds": 1.0} for epoch in one.epochs))
        for one in (record(number, [0.1] * 10, 10.0, 10) for number in range(6))
    ]
    more = left(known, searched).low - left(without, searched).low
    assert more == pytest.approx(3 * 4 * 0.1 * seconds_of_an_epoch(searched, EPOCH).low)
    slow = record(0, [0.1] * 10, 500.0, 10)  # which tried, as its last epoch says
    two_left = known.left(searched, [slow])
    assert two_left is not None
    assert two_left.high == pytest.approx(
        left(replace(known, confirming=known.confirming[1:]), searched).high
    )


@pytest.mark.parametrize(
    ("tried", "trying"),
    [
        ({"predict.views": ["none", "all"]}, Span(8.0, 8.0)),
        ({"predict.scales": ["1", "1,2"]}, Span(5.0, 5.0)),
        ({"predict.max_detections": [400, 500, 600]}, Span(1.0, 2.0)),
        ({"predict.nms_iou": [0.4, 0.5, 0.6]}, Span(2.0, 2.0)),
        ({}, Span(0.0, 0.0)),
    ],
)
def test_settings_of_prediction_take_the_looks_that_they_need(
    tried: dict[str, Any], trying: Span, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path)
    after = {name: tuple(values) for name, values in tried.items()}
    plan = replace(plan, request=replace(plan.request, after_training=after))
    known = pace.forecast_plan(plan, (), measures=False)
    assert known.trying == trying
    assert 0 <= known.evaluating.low <= known.evaluating.high < 1
    assert (known.evaluating.low > 0) == bool(tried)


def test_the_first_and_the_heaviest_configuration_are_measured_each_once(
    asked: list[TrialConfig], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path)
    known = pace.forecast_plan(plan, (), measures=True)
    assert known.epoch == Span(0.7 * (19 * 6.0 + 5 * 3.0), 19 * 12.0 + 5 * 6.0)
    assert [config.model.backbone for config in asked] == ["resnet18", "resnet50"]


def test_an_epoch_that_shows_images_again_takes_longer(
    asked: list[TrialConfig], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, repeat_rare=1.0)
    known = pace.forecast_plan(plan, (), measures=True)
    shown = Trial(asked[0], plan.data, device="cpu").batches.images
    assert shown > 19
    assert known.epoch == Span(0.7 * (shown * 6.0 + 5 * 3.0), shown * 12.0 + 5 * 6.0)


@pytest.mark.parametrize(
    "case", ["epochs that ran", "nobody measures", "a cluster", "a short study", "a GPU"]
)
def test_nothing_is_measured_where_it_would_be_pointless(
    case: str, asked: list[TrialConfig], tmp_path: Path
) -> None:
    ran = [record(0, [0.1], 30.0, 20)] if case == "epochs that ran" else []
    plan = make_plan(
        tmp_path,
        gpus=1.0 if case == "a GPU" else 0.0,
        address="127.0.0.1:6379" if case == "a cluster" else None,
        is_short=case == "a short study",
    )
    known = pace.forecast_plan(plan, ran, measures=case != "nobody measures")
    assert known.epoch is None
    assert asked == []
    assert (known.left(ran) is None) == (not ran)


def test_on_a_gpu_an_epoch_takes_what_was_measured_alone_or_among_those_that_share_it(
    asked: list[TrialConfig], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, gpus=1.0)
    gpu = Gpu("a GPU", 80 * 2**30)
    rounds = (Round(1, False, 20.0), Round(2, False, 32.0))
    settings = what_matters(heaviest(plan.request.space))
    conditions = Conditions(settings, (gpu,), 2, 0, "auto", None, (False,))
    packing = Packing(conditions, (Measured(gpu, rounds),))
    plan.folder.path.mkdir(parents=True)
    plan.folder.packing.write_text(json.dumps(packing.to_json()))
    alone = pace.forecast_plan(plan, (), measures=True).epoch
    assert alone == Span(*(pytest.approx((19 + part * 5) / 20) for part in (0.2, 1.5)))
    packed = pace.forecast_plan(replace(plan, resources=TrialResources(1, 0.5, 2)), (), True).epoch
    assert packed == Span(*(pytest.approx((19 + part * 5) / 16) for part in (0.2, 1.5)))
    assert asked == []
    (line,) = pace.dry_lines(plan)
    assert line is not None
    assert [line] == pace.dry_lines(replace(plan, resources=TrialResources(1, 0.5, 2)))


def test_what_cannot_be_measured_stops_no_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any) -> Pace:
        raise DataError("an image that no network takes")

    monkeypatch.setattr(pace, "measure_pace", refused)
    assert pace.forecast_plan(make_plan(tmp_path), (), measures=True).epoch is None


@given(st.floats(0.001, 3), st.floats(0, 3), st.floats(1.0, 30.0))
def test_larger_images_are_extrapolated_along_a_line_in_their_pixels(
    constant: float, slope: float, budget: float
) -> None:
    """A clock that only the measurements move: they take what the line says."""
    config = TrialConfig.from_settings({"model.weights": "none"})
    now, sides = [0.0], []

    def one_image(small: TrialConfig, *_: Any) -> Pace:
        sides.append(small.model.image_min_side)
        area = (small.model.image_min_side / config.model.image_min_side) ** 2
        now[0] += 2 * constant + slope * area
        return Pace(constant + slope * area, constant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "_of_one_image", one_image)
        patch.setattr(pace.time, "monotonic", lambda: now[0])
        found = pace.measure_pace(config, synthetic.make_cells(images=2, side=64), 1, budget)
    assert found.trained == pytest.approx(constant + slope)
    assert found.evaluated == pytest.approx(constant)
    assert sides in ([200, 400], [200, 400, 800])
    assert len(sides) == 2 or now[0] <= budget + 1e-9


def test_a_real_measurement_has_positive_figures_and_leaves_the_threads_alone() -> None:
    import torch

    before = torch.get_num_threads()
    config = TrialConfig.from_settings(
        {
            "model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64,
            "model.image_max_side": 96, "model.proposals_train": 32, "model.proposals_test": 32,
            "model.box_samples": 16, "optim.epochs": 6, "optim.warmup_epochs": 0.5,
            "optim.restarts": 3,
        }
    )  # fmt: skip
    found = pace.measure_pace(config, synthetic.make_cells(images=3, side=64), 1)
    assert found.trained > 0
    assert found.evaluated > 0
    assert torch.get_num_threads() == before


def test_a_dry_run_says_how_long_a_study_takes_and_writes_nothing(
    asked: list[TrialConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--space", str(ROOT / "search_spaces/ablation.yaml"), "--data", "synthetic"]
    arguments += ["--set", "model.weights=none", "--gpus-per-trial", "0"]
    assert main([*arguments, "--results", str(tmp_path / "results"), "--dry-run"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("Time: ")]
    assert re.match(r"Time: \S+ (h|days) to \S+ days for this study", line)
    assert len(asked) == 2
    assert not (tmp_path / "results").exists()


def test_variants_bring_their_own_epochs_and_confirmations_are_counted() -> None:
    document = {
        "study": "rows", "data": "synthetic", "fixed": {"model.weights": "none"},
        "variants": {"short": {"optim.epochs": 2}, "long": {"optim.epochs": 9}},
        "baseline": "short", "seeds": 2, "confirm": {"top": 1, "seeds": 3},
    }  # fmt: skip
    known = forecast_of(from_document(document, "test"), 3, 1)
    assert [span.high for span in known.coming] == [2, 9, 2, 9]
    assert known.confirming == (Span(2.0, 9.0),) * 3


def test_progress_shows_the_time_left_only_where_there_is_some() -> None:
    from tune.study.progress import Progress

    def said(text: str | None) -> str:
        output = io.StringIO()
        with Progress(1, Console(file=output, width=200), "search", lambda _: text) as progress:
            first = replace(record(0, [], 5.0, 2), attempts=1)
            progress.show([first], first)
            after = replace(first, epochs=({"ap50": 0.1, "seconds": 5.0, "losses": {"loss": 1.0}},))
            progress.show([after], after)
        return output.getvalue().splitlines()[-1]

    assert said("3 to 5 min left").endswith("AP50 0.1000, 5.0 s; 3 to 5 min left")
    assert said(None).endswith("AP50 0.1000, 5.0 s")


@pytest.mark.parametrize(("seconds", "asked"), [(1000.0, 1), (0.0, 3)])
def test_epochs_that_end_soon_after_each_other_do_not_wait_for_a_new_time_left(
    monkeypatch: pytest.MonkeyPatch, seconds: float, asked: int
) -> None:
    from tune.study import progress

    monkeypatch.setattr(progress, "LEFT_SECONDS", seconds)
    output, calls = io.StringIO(), []

    def left(records: Sequence[TrialRecord]) -> str:
        calls.append(records)
        return f"{len(calls)} h left"

    with progress.Progress(1, Console(file=output, width=200), "search", left) as shown:
        calls.clear()
        trial = replace(record(0, [], 5.0, 9), attempts=1)
        shown.show([trial], trial)
        for _ in range(3):
            epoch = {"ap50": 0.1, "seconds": 5.0, "losses": {"loss": 1.0}}
            trial = replace(trial, epochs=(*trial.epochs, epoch))
            shown.show([trial], trial)
    assert len(calls) == asked
    assert output.getvalue().splitlines()[-1].endswith(f"; {asked} h left")
