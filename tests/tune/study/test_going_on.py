"""Laws of a study that goes on: it may ask for more than it had, and for nothing else.

A grown study has the trials, and the report, of a study that asked for all of them from the start.
Run as a program, this file is a search whose trials are not trained: tests kill it.
"""

import csv
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay import ReplayedTrial
from benchmarks.simulated_scores import draw_images, evaluate
from core import data as datasets
from core.config import TrialConfig
from core.data import synthetic
from core.data.dataset import Dataset
from core.data.split import split
from core.errors import StudyError
from core.metric.ap50 import MatchTable
from tune.engine.messages import Assignment
from tune.engine.resources import Machine, Node, TrialResources
from tune.ledger.claim import Claim
from tune.ledger.ledger import Ledger
from tune.ledger.proposals import as_planned, missing_rows, next_point
from tune.ledger.reading import read_ledger
from tune.ledger.records import State, TrialRecord
from tune.report.content import content_of
from tune.request.file import from_document, load_request
from tune.request.request import StudyRequest
from tune.search import main as search
from tune.store.folder import StudyFolder
from tune.study import conductor, confirmation
from tune.study.candidates import candidates
from tune.study.going_on import growth, refuse_other_facts, study_facts
from tune.study.options import Options
from tune.study.plan import StudyPlan
from tune.study.reading import read_study
from tune.study.trials import TrialInputs

ROOT = Path(__file__).parents[3]
SPACE: dict[str, Any] = {
    "model.backbone": ["resnet18", "resnet34"],
    "optim.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
    "optim.batch_size": {"low": 1, "high": 4},
    "optim.restarts": [0, 1],
    "optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1]}},
}
TABLE: dict[str, Any] = {
    "study": "s",
    "data": "synthetic",
    "fixed": {"optim.epochs": 2, "model.weights": "none"},
    "variants": {"plain": {}, "deep": {"model.trainable_layers": 5}},
    "baseline": "plain",
    "seeds": 2,
}
DATA = synthetic.make_cells(images=2, side=64)


def facts(space: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    document = {"study": "s", "data": "synthetic", "space": SPACE | (space or {}), **sections}
    return study_facts(from_document(document, "test"), DATA)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"model.backbone": ["resnet34", "resnet50", "resnet18", "resnet101"]},
            "model.backbone may be resnet50, resnet101 as well",
        ),
        (
            {"optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}},
            "optim.learning_rate ranges from 1e-05 to 0.01, before from 0.0001 to 0.001",
        ),
        (
            {"optim.batch_size": {"low": 1, "high": 8}},
            "optim.batch_size ranges from 1 to 8, before from 1 to 4",
        ),
        (
            {"optim.restart_multiplier": {"choices": [1, 2, 3], "when": {"optim.restarts": [1]}}},
            "optim.restart_multiplier may be 3 as well",
        ),
    ],
)
def test_wider_bounds_and_more_choices_are_taken_and_told(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    assert growth(facts(), facts(change)) == [sentence]
    refuse_other_facts(facts(), facts(change), StudyFolder(tmp_path))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"model.backbone": ["resnet18"]}, "space, model.backbone"),
        ({"model.backbone": ["resnet18", "resnet50"]}, "space, model.backbone"),
        (
            {"optim.learning_rate": {"low": 2e-4, "high": 1e-2, "log": True}},
            "space, optim.learning_rate",
        ),
        ({"optim.learning_rate": {"low": 1e-4, "high": 1e-3}}, "space, optim.learning_rate, log"),
        ({"optim.batch_size": [1, 2, 3, 4]}, "space, optim.batch_size"),
        ({"optim.weight_decay": [0.0, 0.1]}, "space, optim.weight_decay"),
        (
            {"optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [0]}}},
            "restart_multiplier, when",
        ),
    ],
)
def test_any_other_change_of_the_space_is_refused_with_its_place(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    assert growth(facts(), facts(change)) == []
    with pytest.raises(
        StudyError, match=f"is a study with another request: .*{place}.* was .* and is "
    ) as caught:
        refuse_other_facts(facts(), facts(change), StudyFolder(tmp_path))
    assert "give this search another --study name" in str(caught.value)


def test_growth_excuses_no_other_change(tmp_path: Path) -> None:
    wider = {"optim.batch_size": {"low": 1, "high": 8}}
    with pytest.raises(StudyError, match=r"fixed, optim\.epochs was not there and is 7"):
        refuse_other_facts(facts(), facts(wider, fixed={"optim.epochs": 7}), StudyFolder(tmp_path))
    with pytest.raises(StudyError, match=r"is a study with other data: was .* and is "):
        refuse_other_facts(facts(), facts(wider) | {"data": "0" * 64}, StudyFolder(tmp_path))


def test_more_trials_are_no_change(tmp_path: Path) -> None:
    refuse_other_facts(
        facts(search={"trials": 60}), facts(search={"trials": 80}), StudyFolder(tmp_path)
    )


def test_weights_of_an_added_choice_are_no_change_and_other_weights_are(tmp_path: Path) -> None:
    before, after = (
        {"weights": {"a": ["1", False]}},
        {"weights": {"a": ["1", False], "b": ["2", False]}},
    )
    refuse_other_facts(before, after, StudyFolder(tmp_path))
    with pytest.raises(StudyError, match="other pretrained weights: a was"):
        refuse_other_facts(before, {"weights": {"a": ["3", False]}}, StudyFolder(tmp_path))


@pytest.mark.parametrize(("low", "high", "grows"), [(0.0, 0.6, True), (0.05, 0.55, False)])
def test_a_range_with_steps_grows_by_whole_steps_so_that_the_values_that_were_tried_stay_its_own(
    low: float, high: float, grows: bool
) -> None:
    before, after = (
        facts({"optim.weight_decay": {"low": a, "high": b, "step": 0.1}})
        for a, b in ((0.1, 0.5), (low, high))
    )
    assert bool(growth(before, after)) == grows


# More of a table


def table(**changes: Any) -> StudyRequest:
    return from_document({**TABLE, **changes}, "test")


def facts_of_table(**changes: Any) -> dict[str, Any]:
    return study_facts(table(**changes), DATA)


def test_more_seeds_and_more_variants_are_taken_and_told(tmp_path: Path) -> None:
    added = {"flip": {"augment.horizontal_flip": True}, **TABLE["variants"], "other": {}}
    for changes, sentences in (
        ({"seeds": 3}, ["seeds is 3, before 2"]),
        ({"variants": added}, ["flip and other have been added to the variants"]),
        (
            {"seeds": 4, "variants": added, "compare": {"flip": "other"}},
            ["flip and other have been added to the variants", "seeds is 4, before 2"],
        ),
        ({"compare": {"deep": "plain"}}, []),
        ({}, []),
    ):
        assert growth(facts_of_table(), facts_of_table(**changes)) == sentences
        refuse_other_facts(facts_of_table(), facts_of_table(**changes), StudyFolder(tmp_path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"seeds": 1},
            "s: seeds must be at least 2, as many as the study has, and is 1; ask for 2 or more, or"
            " give this search another --study name",
        ),
        (
            {"variants": {"plain": {}, "new": {}}, "seeds": 3},
            "s: variants must name every row that the study has, and deep has been left out; put"
            " back what is missing, or give this search another --study name",
        ),
        (
            {"variants": {"plain": {}, "deep": {"model.trainable_layers": 3}}, "seeds": 3},
            "s is a study with another request: variants, deep, model.trainable_layers was 5 and is"
            " 3; go back to that, or give this search another --study name",
        ),
        (
            {"variants": {**TABLE["variants"], "new": {}}, "baseline": "new"},
            's is a study with another request: baseline was "plain" and is "new"; go back to that,'
            " or give this search another --study name",
        ),
    ],
)
def test_a_table_that_shrinks_or_changes_is_refused_in_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as caught:
        refuse_other_facts(facts_of_table(), facts_of_table(**changes), StudyFolder(tmp_path / "s"))
    assert str(caught.value) == f"{tmp_path}/{sentence}"


NAMES = ("plain", "deep", "flip", "late", "small")


@given(
    first=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    steps=st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), unique=True),
            st.integers(0, 2),
            st.integers(0, 9),
            st.randoms(use_true_random=False),
        ),
        max_size=3,
    ),
    folds=st.sampled_from([0, 2]),
)
def test_a_table_that_grew_in_any_order_has_the_trials_of_one_that_asked_at_once_and_none_twice(
    first: list[str], steps: list[tuple[list[str], int, int, Any]], folds: int
) -> None:
    """It need not be finished before it grows, and a new row may stand anywhere in the file."""
    names, seeds = list(first), 1
    records: list[TrialRecord] = []

    def asked() -> StudyRequest:
        fixed = {"optim.epochs": 2, "data.folds": folds}
        variants = {name: {"optim.batch_size": 1 + NAMES.index(name)} for name in names}
        return table(fixed=fixed, variants=variants, baseline=first[0], seeds=seeds)

    def run(most: int | None) -> None:
        request = asked()
        while len(records) < request.planned_trials and most != 0:
            point = next_point(request, records)
            records.append(
                TrialRecord(len(records), point.name, params=point.params, settings=point.settings)
            )
            most = None if most is None else most - 1

    for more, further, done, rng in steps:
        run(done)
        for name in more:
            if name not in names:
                names.insert(rng.randint(0, len(names)), name)
        seeds += further
    run(None)
    rows = asked().space.rows()
    assert not list(missing_rows(asked().space, records))
    assert [(one.name, one.settings) for one in as_planned(asked().space, records)] == [
        (row.name, row.config.settings()) for row in rows
    ]


def test_a_grid_that_has_grown_has_every_point_once(tmp_path: Path) -> None:
    only = {"optim.learning_rate": [1e-4], "optim.batch_size": [1], "optim.restarts": [1, 3]}
    grid = {"search": {"sampler": "grid"}}
    small, large = (
        {"study": "s", "data": "synthetic", "space": SPACE | only | change, **grid}
        for change in (
            {"optim.restart_multiplier": {"choices": [1, 2], "when": {"optim.restarts": [1]}}},
            {
                "model.backbone": ["resnet50", "resnet34", "resnet18"],
                "optim.restart_multiplier": {"choices": [3, 1, 2], "when": {"optim.restarts": [1]}},
            },
        )
    )
    records: list[TrialRecord] = []
    for document in (small, large):
        request = from_document(document, "test")
        while len(records) < request.planned_trials:
            point = next_point(request, records)
            records.append(TrialRecord(len(records), params=point.params, settings=point.settings))
    before, after = (study_facts(from_document(one, "test"), DATA) for one in (small, large))
    assert len(growth(before, after)) == 2
    refuse_other_facts(before, after, StudyFolder(tmp_path))
    points = Counter(frozenset(record.params.items()) for record in records)
    expected = from_document(large, "test").space.grid()
    assert points == Counter(frozenset(point.items()) for point in expected)


# A finished study that goes on, in processes of its own

FIRST: dict[str, Any] = {
    **TABLE,
    "study": "grown",
    "variants": {
        "Plain": {"model.backbone": "resnet18"},
        "Flip": {"augment.horizontal_flip": True},
    },
    "baseline": "Plain",
    "confirm": {"top": 1, "seeds": 1},
    "resources": {"gpus_per_trial": 0, "cpus_per_trial": 1},
}
MORE: dict[str, Any] = {
    **FIRST,
    "variants": {
        "Plain": FIRST["variants"]["Plain"],
        "ResNet-34": {"model.backbone": "resnet34"},
        "Flip": FIRST["variants"]["Flip"],
    },
    "compare": {"Flip": "ResNet-34"},
    "seeds": 3,
    "confirm": {"top": 1, "seeds": 2},
}
QUALITY = {"resnet18": 0.3, "resnet50": 2.0, "resnet34": 0.0}


class ScoredTrial(ReplayedTrial):
    """A trial with match tables of a model whose quality depends on its backbone and its seed.

    begun   folder in which each epoch that begins leaves a file, once
    """

    def __init__(self, assignment: Assignment, data: Dataset, begun: Path) -> None:
        super().__init__(assignment, self._table)
        self._data, self._begun = data, begun

    def _table(self, assignment: Assignment, epoch: int) -> MatchTable:
        settings = dict(assignment.settings)
        backbone, seed = str(settings["model.backbone"]), int(settings["seed"])
        phase = Path(assignment.folder).parent.name
        (self._begun / f"{phase} {backbone} {seed} {epoch}").touch(exist_ok=False)
        images = draw_images(np.random.default_rng(1), len(self._data.samples))
        held_out = np.array(split(self._data, TrialConfig.from_settings(settings).data).validation)
        rng = np.random.default_rng([seed, epoch, zlib.crc32(backbone.encode())])
        quality = QUALITY[backbone] + rng.normal(0, 0.1) + epoch / 10
        return evaluate(rng, images.take(held_out), quality, held_out)


@dataclass(frozen=True)
class Scoring:
    """Makes the trials of an attempt."""

    begun: Path

    trains = False

    def make(self, assignment: Assignment, inputs: TrialInputs) -> ScoredTrial:
        return ScoredTrial(assignment, inputs.data, self.begun)


def run(how: str, folder: Path, document: dict[str, Any], kill: str = "") -> None:
    """Run a study in a process of its own, which may be killed at a point.

    how   engine: by the search command, with Ray; hand: one trial after the other, without
    """
    begun = folder / "begun"
    if begun.exists():  # what was running when a driver died is begun again
        begun.rename(folder / f"begun {len(list(folder.glob('begun*')))}")
    begun.mkdir(parents=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, __file__, how, str(begun), "--space", str(folder / "space.yaml")]
    command += ["--results", str(folder / "results"), "--parallel", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | (
        {"CELL_TUNE_KILL": kill} if kill else {}
    )
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == (-signal.SIGKILL if kill else 0), (kill, done.stdout, done.stderr)
    if kill and how == "engine":
        time.sleep(3)  # its workers end with it


def by_hand(request: StudyRequest, results: Path, begun: Path) -> None:
    """Do what the driver and the workers of a study do, without Ray and MLflow."""
    data = datasets.load_data("synthetic")
    resources = TrialResources(1, 0.0, 1)
    plan = StudyPlan(request, Options(results), data, {}, Machine((Node(1, 0),)), resources)
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    facts = study_facts(request, data)

    def run_all(ledger: Ledger, folder_of: Callable[[int], Path], more: dict[str, Any]) -> None:
        refuse_other_facts(ledger.facts, facts, plan.folder)
        ledger.remember(facts | more)
        while (record := ledger.next()) is not None:
            folder = folder_of(record.id)
            trial = ScoredTrial(
                Assignment(record.id, record.attempts, str(folder), dict(record.settings), 0),
                data,
                begun,
            )
            trial.load(folder)
            ended = bool(trial.reports) and ledger.report(
                record.id, [report.to_json() for report in trial.reports]
            )
            while not ended:
                trial.run_epoch()
                folder.mkdir(parents=True, exist_ok=True)
                trial.save(folder)
                ended = ledger.report(record.id, [report.to_json() for report in trial.reports])

    with Claim(plan.storage, request.study) as claim:
        ledger = Ledger(claim, request)
        conductor.write_study_json(plan)
        run_all(ledger, plan.folder.trial, {})
        found = candidates(ledger.records, request, confirmation.decide(ledger, request))
        points = confirmation.confirming_points(found, request, plan.repeats)
        confirming = Ledger(claim, confirmation.confirming_request(request), points)
        known = confirmation.confirmation_facts(request, plan.repeats)
        run_all(confirming, plan.folder.confirm_trial, known)


@dataclass(frozen=True)
class Grown:
    """A study that was finished, grew, was killed, and went on; and one that asked at once.

    first   the trials of the search when it was finished for the first time
    """

    folder: Path
    first: Sequence[TrialRecord]
    at_once: Path

    def begun(self) -> Counter[str]:
        files = [path for folder in self.folder.glob("begun*") for path in folder.iterdir()]
        return Counter(path.name for path in files)


def records(folder: Path, study: str = "grown") -> tuple[TrialRecord, ...]:
    reading = read_ledger(f"sqlite:///{folder / 'results' / 'grown' / 'study.db'}", study)
    assert reading is not None
    return reading.records


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("hand", marks=pytest.mark.study),
        pytest.param("engine", marks=pytest.mark.fault),
    ],
)
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder, at_once = (tmp_path_factory.mktemp(name) for name in ("grown", "at-once"))
    run(request.param, folder, FIRST)
    first = records(folder)
    run(request.param, folder, MORE, kill="reported:3")
    run(request.param, folder, MORE)
    run(request.param, at_once, MORE)
    return Grown(folder, first, at_once)


@pytest.mark.timeout(900)
def test_a_finished_study_takes_a_seed_and_a_variant_and_runs_what_is_missing_and_nothing_twice(
    grown: Grown,
) -> None:
    for study in ("grown", "grown.confirm"):
        found, expected = (records(folder, study) for folder in (grown.folder, grown.at_once))
        assert {one.state for one in found} == {State.COMPLETE}
        assert Counter((one.name, one.settings["seed"]) for one in found) == Counter(
            (one.name, one.settings["seed"]) for one in expected
        )
    assert records(grown.folder)[: len(grown.first)] == tuple(
        replace(one, mlflow_run=new.mlflow_run)
        for one, new in zip(grown.first, records(grown.folder), strict=False)
    )
    assert len(grown.first) == 4
    # Two trials ran when the driver was killed: an epoch of each may have begun again.
    assert sum(times - 1 for times in grown.begun().values()) <= 2


@pytest.mark.timeout(900)
def test_the_report_of_a_study_that_grew_is_that_of_one_that_asked_for_all_at_once(
    grown: Grown,
) -> None:
    """They differ only in the numbers of the trials, and in the time of the killed epochs."""
    contents = [
        content_of(read_study("grown", folder / "results"))
        for folder in (grown.folder, grown.at_once)
    ]
    one, other = contents
    assert len(one.rows) == 3
    assert all(row.difference is not None for row in one.rows[1:])
    assert [row.compared_with for row in one.rows] == [None, "Plain", "ResNet-34"]
    assert one.choice is not None
    for name in (
        "answer", "cautions", "smallest_difference", "limits", "classes", "choice", "finished",
    ):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name
    assert [replace(row, trials=()) for row in one.rows] == [
        replace(row, trials=()) for row in other.rows
    ]
    shown = [
        {
            table.name: [
                {name: cell for name, cell in row.items() if name != "trial"}
                for row in csv.DictReader(io.StringIO(table.csv()))
            ]
            for table in content.tables
            if table.name != "cost"
        }
        for content in contents
    ]
    assert shown[0].keys() >= {"methods", "comparisons", "confirmation", "classes"}
    assert shown[0] == shown[1]


@pytest.mark.timeout(900)
def test_a_winner_is_not_chosen_again_by_a_smaller_confirmation(
    grown: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(grown.folder / "results", results)
    space = str(grown.folder / "space.yaml")
    for change, sentence in (
        ("confirm.seeds=1", "confirm.seeds must be at least 2, with which the winner"),
        ("confirm.top=0", "confirm.top must be at least 1, with which the winner"),
    ):
        status = search(["--space", space, "--results", str(results), "--set", change])
        assert status == 2
        assert sentence in capsys.readouterr().err


if __name__ == "__main__":
    how, begun, *arguments = sys.argv[1:]
    if how == "hand":
        _, space, _, results, *_ = arguments
        by_hand(load_request(space), Path(results), Path(begun))
        sys.exit(0)
    run_study = functools.partial(conductor.run_study, trials=Scoring(Path(begun)))
    with mock.patch.object(conductor, "run_study", run_study):
        sys.exit(search(arguments))
