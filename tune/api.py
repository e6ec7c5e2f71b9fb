"""The functions `search`, `report` and `retrain`, which programs and the command lines call."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from core.console import say
from core.errors import CellTuneError
from core.files import refused
from core.interrupts import GRACE_SECONDS, terminable
from tune.announcements import (
    registered_line,
    retrained_lines,
    retraining_lines,
    search_lines,
    searched_lines,
)
from tune.report.page import WrittenReport, dataset_of, make_report
from tune.request.file import Changes
from tune.request.request import StudyRequest
from tune.retrain import run
from tune.retrain.plan import On, plan_retraining
from tune.retrain.run import RetrainingOutcome
from tune.study import conductor
from tune.study.options import Options
from tune.study.plan import StudyPlan, plan_study
from tune.study.reading import Study, read_study


@terminable()
def search(
    request: StudyRequest,
    results: str | Path = "results",
    storage: str | None = None,
    tracking_uri: str | None = None,
    parallel: int | None = None,
    time_budget: float | None = None,
    address: str | None = None,
    grace: float = GRACE_SECONDS,
    console: Console | None = None,
    store: str | None = None,
    warm_start: str | Path | None = None,
) -> Study:
    """Run a search, or continue it, and write its report; returns the study as it is afterwards.

    results       folder of all studies
    storage       SQLAlchemy URL of the ledger; None for a file in the study's folder
    tracking_uri  address of the tracker; None for an MLflow database in `results`
    parallel      largest number of trials at once; None for as many as fit
    time_budget   seconds after which no epoch begins; None for no limit
    address       address of a Ray cluster; None for this machine
    grace         seconds that running epochs have to end after Ctrl-C or SIGTERM
    console       where plan, progress and outcome are printed; None for nowhere
    store         URL of an object store through which trials' files go; None for `results` alone
    warm_start    name or folder of another study from which a new one begins: its best
                  configurations are start points, and trials whose scores compare are the
                  sampler's history; None for none

    `Study.finished` tells whether everything that was planned has ended. Raises BadRequest before
    any trial starts, and StorageError where a disk or the ledger fails; the same call then
    continues.
    """
    other = None if warm_start is None else str(warm_start)
    options = Options(
        Path(results), storage, tracking_uri, parallel, time_budget, address, store, grace, other
    )
    console = console or Console(quiet=True)
    plan = plan_study(request, options)
    _say_all(console, search_lines(plan))
    conductor.run_study(plan, console)
    study = read_study(request.study, options.results, plan.options.storage, options.tracking_uri)
    _say_all(console, searched_lines(plan, study, _report_or_reason(plan, study)))
    return study


def report(study: Study, data: str | None = None) -> Path:
    """Write the report of a study, also while its search runs; returns the path of the page.

    data   where the data set is now, for the pictures; None for where it was in the search. If it
           is gone from there, the page has no pictures

    Raises BadRequest if `data` is no data set, StorageError if the ledger does not answer, and
    OSError if the page cannot be written.
    """
    return make_report(study, dataset_of(study, data)[0]).page


@terminable()
def retrain(
    study: Study,
    trial: int | None = None,
    changes: Changes = (),
    *,
    on: On = "train",
    data: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    ensemble: bool = False,
    grace: float = GRACE_SECONDS,
    console: Console | None = None,
) -> RetrainingOutcome:
    """Retrain the winner of a study, or continue its retraining, and write `best/`.

    trial     number of the trial to retrain; None for the winner
    changes   changes to the trial's settings: values by name, or texts KEY=VALUE
    on        train: the trial's own split, the epoch chosen on its validation images; all: every
              annotated image, up to the epoch that was best
    data      where the data set is now; None for where it was in the search
    device    cpu, cuda:0, ...; auto for the first GPU, else the CPU
    threads   processor threads; None for those of the trial, so that it is repeated
    ensemble  whether, instead of a training, the models that the confirmation trained of the winner
              become one model whose members predict together
    grace     seconds that a running epoch has to end after Ctrl-C or SIGTERM
    console   where plan, progress and outcome are printed; None for nowhere

    `Outcome.missing` says why there is no submission, if there is none. Raises BadRequest before
    anything is started, and another CellTuneError if the training fails.
    """
    console = console or Console(quiet=True)
    plan = plan_retraining(study, trial, data, on, changes, threads, ensemble)
    _say_all(console, retraining_lines(plan))
    outcome = run.run_retraining(plan, console, device, grace)
    _say_all(console, retrained_lines(plan, outcome))
    say(console, registered_line(plan, run.show_in_tracker(plan, outcome)))
    return outcome


def _report_or_reason(plan: StudyPlan, study: Study) -> WrittenReport | str:
    """The report that was written, or why it cannot be: then the study is complete all the same."""
    try:
        return make_report(study, plan.data)
    except CellTuneError as error:
        return str(error)
    except OSError as error:
        return refused(error)


def _say_all(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        say(console, line)
