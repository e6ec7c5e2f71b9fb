"""Laws of a search on a cluster, one of whose nodes dies and one of which joins late.

Ray, its nodes, the processes and the disks are real; trials replay curves instead of training.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest

from core.metric.ap50 import MatchTable
from tests import cluster as nodes
from tests.cluster import Cluster, cluster
from tests.object_store import running_s3
from tests.tracking_database import provide
from tune.ledger.records import TrialRecord
from tune.store.folder import StudyFolder, match_table_path
from tune.study.confirmation import Confirmation, confirmed_winner
from tune.study.reading import read_study

TRIALS, EPOCHS, CONFIRMING = 5, 3, 4
SPACE = f"""
study: far
data: synthetic
fixed: {{optim.epochs: {EPOCHS}, model.weights: none, model.backbone: resnet18}}
space:
  optim.learning_rate: {{low: 1.0e-5, high: 0.1, log: true}}
  optim.weight_decay: {{low: 0.0, high: 0.9}}
search: {{sampler: random, trials: {TRIALS}, seed: 0}}
stop_early: {{rule: none}}
confirm: {{top: 2, seeds: 2}}
"""

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(
        not nodes.namespaces_are_allowed(),
        reason="nodes with disks and processes of their own need the right to namespaces",
    ),
]


@dataclass
class Far:
    """A search on a cluster that has ended."""

    results: Path
    witness: Path
    made: Cluster
    killed: str

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.results / "far")

    @property
    def out(self) -> str:
        return (self.made.folder / "out").read_text()

    @property
    def begun(self) -> dict[tuple[str, int, int, int], str]:
        """The node of each epoch that began, by phase, trial, epoch and attempt."""
        found = {}
        for path in self.witness.iterdir():
            phase, *numbers = path.name.split("-")
            trial, epoch, attempt = map(int, numbers)
            found[phase, trial, epoch, attempt] = path.read_text()
        return found


def run(folder: Path, made: Cluster, results: Path, *more: str) -> Far:
    """Search; kill the node that runs the second epoch of trial 1, which would last for minutes, and
    start another.
    """
    space, witness = made.folder / "space.yaml", folder / "witness"
    space.write_text(SPACE)
    witness.mkdir()
    driver = made.search(
        witness, 0.2, "--space", str(space), "--results", str(results), "--cpus-per-trial", "1",
        *more,
    )  # fmt: skip

    def said() -> str:
        return (made.folder / "out").read_text() + (made.folder / "err").read_text()

    begun = witness / nodes.DOOMED
    until = time.monotonic() + 200
    while not begun.exists() or not begun.read_text():
        assert driver.poll() is None, said()
        assert time.monotonic() < until, said()
        time.sleep(0.05)
    killed = begun.read_text()
    made.kill(killed)
    made.start(nodes.LATE, 1)
    assert driver.wait(300) == 0, said()
    return Far(results, witness, made, killed)


def winners(confirmation: Confirmation | None) -> Sequence[TrialRecord]:
    """The confirming trials of the winner, whose weights are kept."""
    if confirmation is None:
        return ()
    winner = confirmed_winner(confirmation)
    assert winner is not None
    return next(one.repeats for one in confirmation.confirmed if one.candidate.name == winner.name)


def assert_complete(far: Far, confirming: int = CONFIRMING) -> None:
    """Every trial ended once, with all that it leaves, on the driver's disk.

    confirming   number of trials of the confirmation
    """
    storage = f"sqlite:///{far.folder.path / 'study.db'}"
    for study, count in (("far", TRIALS), ("far.confirm", confirming))[: 2 if confirming else 1]:
        trials = optuna.load_study(study_name=study, storage=storage).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * count
        assert all([*trial.intermediate_values] == [1, 2, 3] for trial in trials)
    # The epoch in which the node died began twice; every other one once.
    times = Counter(epoch[:3] for epoch in far.begun)
    expected = {("trials", trial, epoch) for trial in range(TRIALS) for epoch in (1, 2, 3)}
    expected |= {("confirm", trial, epoch) for trial in range(confirming) for epoch in (1, 2, 3)}
    assert set(times) == expected
    assert {epoch: count for epoch, count in times.items() if count > 1} == {("trials", 1, 2): 2}
    assert far.begun["trials", 1, 2, 1] == far.killed != far.begun["trials", 1, 2, 2]
    assert nodes.LATE in far.begun.values()
    read = read_study("far", far.results)
    assert (read.records[1].lost, read.records[1].spared) == (0, 1)  # it is not to blame
    confirmation = read.confirmation
    assert (confirmation is not None) is bool(confirming)
    confirmed = () if confirmation is None else confirmation.records
    for records, folder_of in (
        (read.records, far.folder.trial),
        (confirmed, far.folder.confirm_trial),
    ):
        for record in records:
            folder = folder_of(record.id)
            for epoch in range(1, EPOCHS + 1):
                table = MatchTable.load(match_table_path(folder, epoch))
                assert len(table.image_names) > 0
            assert (folder / "config.json").exists()
            assert len((folder / "epochs.csv").read_text().splitlines()) == 1 + EPOCHS
            assert not [*folder.glob("**/.*.part"), *folder.glob(".epoch")]
            assert not (folder / "last.safetensors").exists()
    for record in winners(confirmation):
        best = far.folder.confirm_trial(record.id) / f"best-{EPOCHS:04d}.safetensors"
        expected_weights = nodes.weights(record.settings, EPOCHS, nodes.BEST_BYTES)
        assert best.read_bytes() == expected_weights
    left = [
        path.name
        for node in far.made.nodes.keys() - {far.killed}
        for path in (far.made.folder / node).glob("ct-*")
    ]
    assert left == []


def test_with_disks_of_their_own_the_nodes_files_come_back_and_a_trial_goes_on_elsewhere(
    tmp_path: Path,
) -> None:
    hidden = tmp_path / "driver"
    results = provide(hidden / "results")
    with cluster(tmp_path / "nodes", hidden) as made:
        far = run(tmp_path, made, results)
        assert_complete(far)
    assert "2 of 3 nodes of the cluster do not see" in far.out


def test_with_a_shared_folder_nothing_is_carried_and_a_trial_goes_on_elsewhere(
    tmp_path: Path,
) -> None:
    results = provide(tmp_path / "shared" / "results")
    with cluster(tmp_path / "nodes", None) as made:
        far = run(tmp_path, made, results, "--set", "confirm.top=0")
        assert_complete(far, confirming=0)
    assert "do not see" not in far.out


def test_through_an_object_store_a_trial_goes_on_elsewhere(tmp_path: Path) -> None:
    hidden = tmp_path / "driver"
    results = provide(hidden / "results")
    with (
        running_s3(tmp_path) as s3,
        cluster(tmp_path / "nodes", hidden, s3.environment) as made,
    ):
        far = run(tmp_path, made, results, "--store", s3.url)
        assert_complete(far)
    assert "do not see" not in far.out
