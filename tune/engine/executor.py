"""Runs the attempts that a desk hands out, in worker processes that later attempts reuse."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.exceptions import OutOfMemoryError

from core import interrupts
from core.errors import ProcessLost
from tune.engine.bridge import Desk, LedgerCallback, LedgerScheduler, LedgerSearcher
from tune.engine.carrying import files_on_cluster
from tune.engine.interruption import Ending, ended_by_interrupt
from tune.engine.messages import assignment_in
from tune.engine.resources import Machine, TrialResources
from tune.engine.session import ray_session
from tune.engine.worker import MakeTrial, OpenFiles, TrialWorker, files_here
from tune.store.url import UrlStore


def execute(
    desk: Desk,
    make_trial: MakeTrial,
    machine: Machine,
    resources: TrialResources,
    stall_seconds: float = 0.0,
    folder: Path | None = None,
    store: UrlStore | None = None,
    grace: float = interrupts.GRACE_SECONDS,
) -> None:
    """Run the attempts that the desk hands out until it is finished.

    desk            decides what runs, and records what workers report
    make_trial      builds the trial of an attempt, in its worker
    machine         the processors and GPUs that Ray may use, or the address of a cluster
    resources       the processors of each trial; an assignment names its GPUs itself
    stall_seconds   seconds that one epoch may take, 0 for no limit; a worker that takes longer is
                    killed, and its attempt is lost
    folder          the study's folder, from which and to which a cluster's workers carry trials'
                    files where they do not see it; None where all see the assignments' folders
    store           the URL through which all trials' files go; None if they are in the folder
    grace           seconds that running epochs have to end after Ctrl-C, or after a SIGTERM to this
                    process or to a worker

    Raises KeyboardInterrupt after Ctrl-C, when running epochs have ended or the grace time is over;
    a second Ctrl-C ends the process. Raises ProcessLost where Ray's memory monitor killed workers,
    which Ray Tune does not survive.
    """
    with (
        ended_by_interrupt(),
        Ending(grace, cluster=machine.address is not None) as ending,
        ray_session(machine) as scratch,
        _files(machine, folder, store, desk) as open_files,
    ):
        trainable = ray_tune.with_resources(
            ray_tune.with_parameters(
                TrialWorker,
                make_trial=make_trial,
                stall_seconds=stall_seconds,
                grace=grace,
                open_files=open_files,
            ),
            lambda config: _reservation(resources.cpus, assignment_in(config).gpus),
        )
        tuner = ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=LedgerSearcher(desk),
                scheduler=LedgerScheduler(desk),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_ray_trial_name,
                trial_dirname_creator=_ray_trial_name,
            ),
            run_config=ray_tune.RunConfig(
                name="study",
                storage_path=str(scratch / "results"),
                verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=0),
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[LedgerCallback(desk, machine.address), ending],
            ),
        )
        # At the end, this logger would list all workers that were lost, which are known by then.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        try:
            with ending.awaited():
                tuner.fit()
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            raise ProcessLost(
                "Ray ended the running trials, because the machine's memory must be under 95% full"
                " (RAY_memory_usage_threshold), and was not; end other programs, or run fewer"
                " trials at once with --parallel, and run the same command again: it continues"
            ) from None
    # After a Ctrl-C the desk hands nothing out, and Ray returns as if all trials were done.
    if not desk.finished or interrupts.interrupted():
        raise KeyboardInterrupt


def _files(
    machine: Machine, folder: Path | None, store: UrlStore | None, desk: Desk
) -> contextlib.AbstractContextManager[OpenFiles]:
    """The function that opens the files of attempts, on this machine or on a cluster."""
    if folder is None or (machine.address is None and store is None):
        return contextlib.nullcontext(files_here)
    return files_on_cluster(folder, store, desk.say)


def _reservation(cpus: int, gpus: float) -> Any:
    """Ray's request for the processors and GPUs of an attempt."""
    return ray_tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}])


def _ray_trial_name(trial: Any) -> str:
    assignment = assignment_in(trial.config)
    return f"{assignment.trial}-{assignment.attempt}"
