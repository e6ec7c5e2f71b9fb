"""The processors, GPUs and memory that Ray may use, and the part of them that each trial holds."""

import sys
from dataclasses import dataclass

import torch

from core.errors import ResourceError
from core.text import many
from core.values import as_setting
from tune.engine import cgroups


@dataclass(frozen=True)
class TrialResources:
    """The processors and GPUs that each trial holds, and how many trials run at once.

    cpus       whole processors of a trial, which is also its number of threads
    gpus       GPUs of a trial: 0, 1, or a fraction of one
    parallel   number of trials that run at once
    """

    cpus: int
    gpus: float
    parallel: int


@dataclass(frozen=True)
class Node:
    """The processors, GPUs and memory of one computer. A trial never spans two computers.

    memory   bytes that may be used; 0 if that is not known
    """

    cpus: int
    gpus: int
    memory: int = 0


@dataclass(frozen=True)
class Machine:
    """The nodes that Ray may use: this machine alone, or those of the cluster at `address`."""

    nodes: tuple[Node, ...]
    address: str | None = None

    @classmethod
    def here(cls) -> "Machine":
        """The part of this machine that this process may use (see `tune.engine.cgroups`)."""
        allowed = cgroups.allowed_resources()
        return cls((Node(allowed.cpus, torch.cuda.device_count(), allowed.memory),))

    def share(
        self, cpus_per_trial: int | str, gpus_per_trial: float | str, parallel: int | None
    ) -> TrialResources:
        """The resources of each trial, with `auto` resolved, and how many trials run at once.

        cpus_per_trial   `auto` with GPUs is a node's processors divided by the trials that its GPUs
                         hold, on the node where that is least, and at most 8; `auto` without GPUs
                         is a quarter of the largest node's processors; at least one in both cases
        gpus_per_trial   from 0 to 1; `auto` is one whole GPU if any node has one, else none
                         (`tune.engine.packing` decides later how many trials share it)
        parallel         largest number of trials at once; None for as many as fit, counted on each
                         node by itself

        Raises ResourceError for a trial that fits on no node: Ray would wait forever without a
        message.
        """
        several = len(self.nodes) > 1
        most_gpus = max((node.gpus for node in self.nodes), default=0)
        gpus = (1.0 if most_gpus else 0.0) if gpus_per_trial == "auto" else float(gpus_per_trial)
        assert 0 <= gpus <= 1, "a trial trains on one GPU"  # tune.request.request refuses others
        if gpus and not most_gpus:
            raise ResourceError(
                "resources.gpus_per_trial must be 0, since"
                f" {'no node has a' if several else 'there is no'} GPU, and is {as_setting(gpus)};"
                " --gpus-per-trial 0 runs on processors"
            )
        by_gpu = [(node, _trials_by_gpu(node, gpus)) for node in self.nodes]
        by_gpu = [(node, trials) for node, trials in by_gpu if trials]
        most_cpus = max((node.cpus for node, _ in by_gpu), default=0)
        if cpus_per_trial != "auto":
            cpus = int(cpus_per_trial)
        elif gpus:
            # A node without processors runs no trial, so it does not count.
            least = min((node.cpus // trials for node, trials in by_gpu if node.cpus), default=1)
            cpus = max(1, min(8, least))
        else:
            cpus = max(1, most_cpus // 4)
        if cpus > most_cpus:
            largest = "of the largest node with enough GPUs" if gpus else "of the largest node"
            raise ResourceError(
                f"resources.cpus_per_trial must not pass the {many(most_cpus, 'processor')} "
                f"{largest if several else 'there are'}, and is {cpus}; "
                + ("--cpus-per-trial auto fits" if most_cpus else "give Ray's nodes processors")
            )
        fitting = sum(min(trials, node.cpus // cpus) for node, trials in by_gpu)
        return TrialResources(cpus, gpus, fitting if parallel is None else min(parallel, fitting))

    def most_on_a_gpu(self, cpus_per_trial: int | str, parallel: int | None, most: int) -> int:
        """The largest number of trials, from 1 to `most`, that `share` can put together on a GPU.

        `parallel` and the processors that each trial then needs may allow fewer than `most`.

        cpus_per_trial, parallel   as `share` takes them
        """
        gpus = sum(node.gpus for node in self.nodes)
        return max(
            (
                trials
                for trials in range(2, most + 1)
                # With fewer at once, no GPU would have `trials` of them when spread evenly.
                if self.share(cpus_per_trial, 1 / trials, parallel).parallel > (trials - 1) * gpus
            ),
            default=1,
        )


def _trials_by_gpu(node: Node, gpus: float) -> int:
    """Number of trials that the GPUs of a node hold: unlimited for 0 GPUs a trial.

    No trial spans two GPUs.
    """
    if gpus == 0:
        return sys.maxsize
    return node.gpus * int(1 / gpus + 1e-9)
