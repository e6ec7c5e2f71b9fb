"""Runs the attempts that a desk hands out, in worker processes that later attempts reuse."""

import logging
from typing import Any

from ray import tune as ray_tune
from ray.exceptions import OutOfMemoryError

from core import interrupts
from core.errors import ProcessLost
from tune.engine.bridge import Desk, LedgerCallback, LedgerScheduler, LedgerSearcher
from tune.engine.interruption import NotesCtrlC, second_interrupt_ends
from tune.engine.messages import assignment_in
from tune.engine.resources import Machine, TrialResources
from tune.engine.session import ray_session
from tune.engine.worker import MakeTrial, TrialWorker


def execute(
    desk: Desk,
    make_trial: MakeTrial,
    machine: Machine,
    resources: TrialResources,
    stall_seconds: float = 0.0,
) -> None:
    """Run the attempts that the desk hands out until it is finished.

    desk            decides what runs, and records what workers report
    make_trial      builds the trial of an attempt, in its worker
    machine         the processors and GPUs that Ray may use, or the address of a cluster
    resources       the processors of each trial; an assignment names its GPUs itself
    stall_seconds   seconds that one epoch may take, 0 for no limit; a worker that takes longer is
                    killed, and its attempt is lost

    Raises KeyboardInterrupt after Ctrl-C, when running trials have had some seconds to report; a
    second Ctrl-C ends the process. Raises ProcessLost where Ray's memory monitor killed workers,
    which Ray Tune does not survive.
    """
    with second_interrupt_ends(), ray_session(machine) as folder:
        trainable = ray_tune.with_resources(
            ray_tune.with_parameters(
                TrialWorker, make_trial=make_trial, stall_seconds=stall_seconds
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
                storage_path=str(folder / "results"),
                verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=0),
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[LedgerCallback(desk), NotesCtrlC()],
            ),
        )
        # At the end, this logger would list all workers that were lost, which are known by then.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        try:
            tuner.fit()
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            raise ProcessLost(
                "Ray ended the running trials, because the machine's memory must be under 95% full"
                " (RAY_memory_usage_threshold), and was not; end other programs, or run fewer"
                " trials at once with --parallel, and run the same command again: it continues"
            ) from None
    # Ray handles Ctrl-C itself, and then returns as if all trials were done.
    if not desk.finished or interrupts.interrupted():
        raise KeyboardInterrupt


def _reservation(cpus: int, gpus: float) -> Any:
    """Ray's request for the processors and GPUs of an attempt."""
    return ray_tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}])


def _ray_trial_name(trial: Any) -> str:
    assignment = assignment_in(trial.config)
    return f"{assignment.trial}-{assignment.attempt}"
