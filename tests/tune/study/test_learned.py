"""What is said of a study of which little can be said: nothing learned, trials alike in effect,
a single trial.

Ledgers, folders and match tables are real; what the tables hold is simulated, and nothing is
trained.
"""

import io
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.simulated_study import SAMPLED, SMALL, build
from core.config import SETTINGS
from core.console import say
from core.errors import StudyError
from tune.announcements import search_lines, searched_lines
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.ledger.selections import NOTHING_CHOSEN
from tune.report import page as report
from tune.report.content import ReportContent, content_of
from tune.report.figures.figure import figures_of
from tune.report.main_table import SAME_SETTINGS
from tune.request.file import from_document
from tune.retrain.plan import choose_trial
from tune.store.folder import StudyFolder
from tune.study.candidates import choose
from tune.study.learned import LEARNED, no_winner, nothing_learned, remedies
from tune.study.options import Options
from tune.study.plan import check_request
from tune.study.progress import Progress
from tune.study.reading import read_study

HOPELESS: dict[str, Any] = {
    **SAMPLED,
    "study": "hopeless",
    "fixed": {"model.weights": "none", "optim.epochs": 3},
    "search": {"sampler": "random", "trials": 12},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 2, "seeds": 1},
}
ROWS: dict[str, Any] = {
    **SMALL,
    "study": "rows",
    "fixed": {"model.weights": "none", "optim.epochs": 2},
    "variants": {"Plain": {}, "Flipped": {"augment.horizontal_flip": True}},
    "seeds": 2,
}
JITTER: dict[str, Any] = {
    **SMALL,
    "study": "alike",
    "fixed": {"model.weights": "none", "optim.epochs": 2},
    "space": {
        "augment.brightness": {"low": 0.1, "high": 0.5},
        "augment.color_jitter": [False, True],
    },
    "search": {"sampler": "random", "trials": 3},
    "stop_early": {"rule": "none"},
    "confirm": {"top": 3, "seeds": 1},
}


def brightness(*values: float, jitter: bool = False) -> list[dict[str, Any]]:
    return [{"augment.brightness": value, "augment.color_jitter": jitter} for value in values]


def storage(folder: StudyFolder) -> str:
    return f"sqlite:///{folder.path / 'study.db'}"


def found(folder: StudyFolder) -> ReportContent:
    return content_of(read_study(folder.path.name, folder.path.parent))


def records(folder: StudyFolder) -> tuple[TrialRecord, ...]:
    reading = read_ledger(storage(folder), folder.path.name)
    assert reading is not None
    return reading.records


def console_of(folder: StudyFolder, document: Mapping[str, Any]) -> str:
    """What a search prints before and after such a study."""
    plan, problems = check_request(from_document(document, "test"), Options(folder.path.parent))
    assert plan is not None, problems
    console = Console(file=io.StringIO(), width=200)
    for line in search_lines(plan):
        say(console, line)
    with Progress(plan.request.planned_trials, console) as progress:
        for record in records(folder):
            progress.show(records(folder), record)
    study = read_study(folder.path.name, folder.path.parent)
    for line in searched_lines(plan, study, report.make_report(study, plan.data)):
        say(console, line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module", params=["search", "rows"])
def hopeless(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> StudyFolder:
    document = {"search": HOPELESS, "rows": ROWS}[request.param]
    return build(tmp_path_factory.mktemp("hopeless"), document, lambda _: -9.0)


def test_a_study_in_which_nothing_was_learned_says_so_first_and_what_to_do(
    hopeless: StudyFolder,
) -> None:
    shown = found(hopeless)
    assert shown.nothing_learned
    assert shown.answer[0].startswith("Nothing was learned: the highest AP50 of ")
    assert shown.answer[0].endswith("so no trial is better than another and there is no winner.")
    assert shown.answer[1].startswith("To try: more epochs (optim.epochs was ")
    for name in (
        "optim.learning_rate",
        "model.weights was none",
        "model.image_min_side",
        "core.check",
    ):
        assert name in shown.answer[1]
    said = " ".join(shown.answer)
    assert "on fresh seeds and splits" not in said
    assert "has the highest" not in said


def test_where_nothing_was_learned_nothing_is_ordered_and_no_figure_claims_a_difference(
    hopeless: StudyFolder,
) -> None:
    shown = found(hopeless)
    assert shown.rows
    assert all(row.difference is None and row.verdict == "" for row in shown.rows)
    assert (shown.effects, shown.importances, shown.choice) == ((), {}, None)
    assert set(figures_of(shown)) <= {"loss-curves", "stopped", "examples"}
    assert {table.name for table in shown.tables}.isdisjoint({"effects", "confirmation"})


def test_where_nothing_was_learned_nothing_is_confirmed_and_no_trial_is_taken_but_by_its_number(
    hopeless: StudyFolder,
) -> None:
    there = records(hopeless)
    assert choose(there, found(hopeless).request) == NOTHING_CHOSEN
    with pytest.raises(
        StudyError, match=r"there is no winner; retrain one of them all the same with --trial ID"
    ):
        choose_trial(there, None, len(there))
    chosen, why = choose_trial(there, 1, len(there))
    assert (chosen.id, "--trial names it" in why) == (1, True)


def test_the_console_says_so_before_anything_else_and_crowns_no_winner(tmp_path: Path) -> None:
    lines = console_of(build(tmp_path, HOPELESS, lambda _: -9.0), HOPELESS).splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("Nothing was learned: "))
    said = lines[begin:]
    assert said[1].startswith("To try: ")
    assert said[2] == "Nothing is confirmed on fresh seeds and splits"
    assert said[3].startswith("Finished: ")
    assert not any("Finished" in line for line in lines[:begin])
    assert not [line for line in said if line.startswith(("Best:", "Confirmed:"))]


RECORDS = st.lists(
    st.tuples(st.sampled_from(list(State)), st.lists(st.floats(0, 0.02), max_size=3)),
    min_size=1,
    max_size=6,
)


@given(RECORDS)
def test_nothing_was_learned_exactly_if_trials_are_complete_and_no_epoch_of_any_passed_the_least(
    trials: list[tuple[State, list[float]]],
) -> None:
    there = [
        TrialRecord(
            number, state=state, settings=SETTINGS, epochs=tuple({"ap50": value} for value in curve)
        )
        for number, (state, curve) in enumerate(trials)
    ]
    complete = any(state is State.COMPLETE and curve for state, curve in trials)
    expected = complete and all(value < LEARNED for _, curve in trials for value in curve)
    assert nothing_learned(there) == expected
    if expected:
        assert no_winner(there).startswith("nothing was learned")
        assert "optim.learning_rate was 5e-05" in remedies(there)


def test_trials_that_are_one_configuration_in_effect_are_not_ranked(tmp_path: Path) -> None:
    document = {**JITTER, "start": brightness(0.1, 0.2, 0.3)}
    folder = build(tmp_path, document, lambda _: 0.3)
    shown = found(folder)
    assert len({tuple(record.params.items()) for record in records(folder)}) == 3
    best, *others = shown.rows
    assert [(row.verdict, row.difference) for row in others] == [(SAME_SETTINGS, None)] * 2
    said = " ".join(shown.answer)
    assert "All 3 complete trials are the same configuration in effect" in said
    assert "has the highest" not in said
    selection = choose(records(folder), shown.request).candidates
    assert selection is not None
    assert len(selection.expected) == 1
    assert shown.effects == ()
    assert best.verdict == ""


def test_a_trial_that_is_the_same_in_effect_as_the_best_is_not_called_worse(tmp_path: Path) -> None:
    document = {**JITTER, "start": [*brightness(0.1, 0.2), *brightness(0.3, jitter=True)]}
    shown = found(
        build(
            tmp_path, document, lambda record: -1.5 * bool(record.settings["augment.color_jitter"])
        )
    )
    verdicts = {row.name: row.verdict for row in shown.rows}
    best = shown.rows[0].name
    (twin,) = {"trial 0", "trial 1"} - {best}
    assert verdicts[twin] == SAME_SETTINGS
    assert verdicts["trial 2"] not in ("", SAME_SETTINGS)
    assert f"Trial {twin.removeprefix('trial ')} is the same configuration in effect" in " ".join(
        shown.answer
    )


def test_variants_that_are_one_configuration_in_effect_are_said_to_be(tmp_path: Path) -> None:
    rows = {"Plain": {}, "Turned": {"augment.rotate": 45.0}, "Deep": {"model.trainable_layers": 5}}
    document = {**ROWS, "variants": rows}
    notes = from_document(document, "test").notes
    assert (
        "variant 'Turned': augment.rotate 45.0 has no effect, since it needs augment.affine true"
        in notes
    )
    assert (
        "variants 'Plain' and 'Turned' are the same configuration in effect, and differ by chance"
        " alone" in notes
    )
    shown = found(build(tmp_path, document, lambda record: float(record.name == "Deep")))
    turned = next(row for row in shown.rows if row.name == "Turned")
    assert (turned.verdict, turned.difference) == (SAME_SETTINGS, None)
    assert "the same configuration in effect as Plain" in turned.note
    assert "so that they differ by chance alone: Turned as Plain" in " ".join(shown.answer)


COUNTED = "trial|epoch|seed|image|instance|class|training|repeat|candidate|method|split|fold|point|processor|comparison"
DISAGREES = re.compile(
    rf"(?<![\d.,])1 (?:[a-z]+ )?(?:{COUNTED})e?s\b|(?<![\d.,])1 (?:are|have|were)\b"
)


class Words(HTMLParser):
    """The text of a page without its style; what stands in one element stays together."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self._silent = False
        self.feed(page)

    def handle_starttag(self, tag: str, _: object) -> None:
        self._silent = tag == "style"

    def handle_endtag(self, _: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += [] if self._silent else [data]


ONE: dict[str, Any] = {
    **JITTER,
    "study": "one",
    "fixed": {"model.weights": "none", "optim.epochs": 1},
    "search": {"sampler": "random", "trials": 1},
    "confirm": {"top": 1, "seeds": 1},
}
ONE_ROW: dict[str, Any] = {
    **ROWS,
    "study": "one",
    "variants": {"Plain": {}},
    "seeds": 1,
    "fixed": ONE["fixed"],
}


@pytest.mark.parametrize("document", [ONE, ONE_ROW], ids=["search", "rows"])
@pytest.mark.parametrize("quality", [0.3, -9.0])
def test_every_count_of_a_study_of_one_trial_agrees_in_console_and_report(
    document: dict[str, Any], quality: float, tmp_path: Path
) -> None:
    folder = build(tmp_path, document, lambda _: quality)
    said = console_of(folder, document)
    assert "Study one: 1 trial of up to 1 epoch, " in said
    text = (folder.path / "report" / report.PAGE).read_text()
    tables = "\n".join(path.read_text() for path in (folder.path / "report" / "tables").iterdir())
    for line in [*said.splitlines(), *Words(text).text, *tables.splitlines()]:
        assert DISAGREES.search(line) is None, line
