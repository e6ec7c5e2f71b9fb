"""Laws of the progress: what a terminal shows of running trials, and what a log leaves out."""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tune.ledger.records import State, TrialRecord
from tune.statistics.certainty import Interval
from tune.study.progress import CURVE, EPOCH_LINES, Progress, sparkline


def epochs(scores: Sequence[float], **more: Any) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"epoch": at, "ap50": score, "seconds": 20.0, "losses": {"loss": 1.0}, **more}
        for at, score in enumerate(scores, start=1)
    )


def trial(number: int, state: State, scores: Sequence[float], **more: Any) -> TrialRecord:
    settings = {"optim.epochs": 4, "optim.learning_rate": 0.001, "data.folds": 0, "seed": 0}
    return TrialRecord(
        number, state=state, settings=settings, params={"optim.learning_rate": 0.001},
        epochs=epochs(scores, **more), attempts=1,
    )  # fmt: skip


def screen(records: Sequence[TrialRecord], planned: int = 6, width: int = 120) -> str:
    """The text that a terminal of `width` columns shows."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True, color_system=None)
    sure = Interval(0.45, 0.4, 0.5)
    with Progress(planned, console, left=lambda _: "3 min left", sure=lambda _: sure) as progress:
        progress.show(records, records[0])
    return output.getvalue()


def test_a_terminal_shows_trials_by_state_the_best_with_its_interval_and_each_running_trial() -> (
    None
):
    seen = screen(
        [
            trial(0, State.COMPLETE, [0.1, 0.3, 0.4, 0.45]),
            trial(1, State.PRUNED, [0.1]),
            trial(2, State.FAIL, [0.0]),
            trial(3, State.RUNNING, [0.1, 0.2], peak_memory_bytes=3 << 30),
        ]
    )
    assert "6 trials: 1 complete, 1 stopped early, 1 failed, 1 running and 2 waiting" in seen
    assert "best so far: trial 0, AP50 0.4500 (0.40 to 0.50): learning_rate 0.001" in seen
    assert re.search(r"3 +2/4 +0.2000 +0.2000 +▅█ +20.0 s +3.0 GiB +40 s +learning_rate", seen)
    assert "3 min left" in seen


@pytest.mark.parametrize("width", [80, 120])
def test_settings_of_any_length_take_no_room_from_the_numbers_of_a_running_trial(
    width: int,
) -> None:
    many = {f"augment.setting_{number}": True for number in range(30)}
    curve = [0.01 * epoch for epoch in range(1, 61)]
    running = trial(10, State.RUNNING, curve, peak_memory_bytes=13 << 30)
    seen = screen([replace(running, params=many, settings=running.settings | many)], 6, width)
    assert re.search(r"trial +epoch +AP50 +best +curve +per epoch +GPU memory +left", seen)
    assert re.search(r"10 +60/4 +0.6000 +0.6000 +[▁▂▃▄▅▆▇█]+ +20.0 s +13.0 GiB ", seen)
    assert max(map(len, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen).splitlines())) <= width


def test_the_best_of_a_study_that_searches_nothing_has_its_settings_in_words() -> None:
    alone = replace(trial(0, State.COMPLETE, [0.1]), params={})
    assert "AP50 0.1000 (0.40 to 0.50): all settings at their defaults" in screen([alone], 1)


def test_one_trial_is_never_called_trials_and_memory_is_left_out_where_it_is_unknown() -> None:
    seen = screen([trial(0, State.RUNNING, [0.1])], planned=1)
    assert "1 trial: 1 running" in seen
    assert "memory" not in seen
    assert "trials" not in seen


@given(st.lists(st.floats(0, 1), max_size=60))
def test_a_curve_is_at_most_so_many_bars_and_its_highest_part_has_the_highest(
    curve: list[float],
) -> None:
    drawn = sparkline(curve)
    assert len(drawn) == min(len(curve), CURVE)
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")
    if curve and max(curve) > 1e-300:
        assert "█" in drawn
    elif curve and max(curve) == 0:
        assert set(drawn) == {"▁"}


@pytest.mark.parametrize("planned", [3, 10, 50, 1000])
def test_a_log_has_few_lines_for_each_trial_whatever_its_epochs(planned: int) -> None:
    output = io.StringIO()
    with Progress(1, Console(file=output, width=200)) as progress:
        now = replace(trial(0, State.RUNNING, []), settings={"optim.epochs": planned, "seed": 0})
        progress.show([now], now)
        for done in range(1, planned + 1):
            state = State.COMPLETE if done == planned else State.RUNNING
            now = replace(now, epochs=epochs([0.1] * done), state=state)
            progress.show([now], now)
    lines = output.getvalue().splitlines()
    assert len(lines) <= 1 + 1 + EPOCH_LINES
    assert len(lines) >= 1 + min(planned, EPOCH_LINES // 2)
    assert f"epoch {planned}/{planned}" in lines[-1]
    assert "complete" in lines[-1]
    assert "\x1b" not in output.getvalue()
