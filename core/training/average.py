"""The moving average of a network's weights, which is evaluated and kept in their place."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from core.network.detector import Detector

DELAY = 8
"""Early averages look back on 1 / (1 + DELAY) of the steps so far."""


class WeightAverage:
    """An exponential moving average of all floating-point numbers that training changes.

    model       a detector in evaluation mode that has the average; what does not train it shares
                with the detector that does
    half_life   number of optimizer steps after which a step's weights count half as much

    The first step's weights are the first average, so what the network began with is not in it.
    Early averages look back on a ninth of the steps so far, and not on the half-life (see `kept`).
    Batch norm's statistics are averaged as weights are: those of a batch of two images are noisy,
    and to first order the mean features of averaged weights are averaged mean features.
    """

    def __init__(self, trained: Detector, half_life: float) -> None:
        assert half_life > 0
        self.half_life = half_life
        changing = {id(value) for value in trained.trained_state().values()}
        shared = {
            id(value): value
            for value in (*trained.parameters(), *trained.buffers())
            if id(value) not in changing
        }
        self.model: Detector = copy.deepcopy(trained, shared).eval()
        self._weights = _floats(trained)
        self._averages = _floats(self.model)

    def kept(self, step: int) -> float:
        """The fraction of the average that a step leaves; the rest is that step's weights.

        step   number of optimizer steps so far, from 1

        It is (t - 1) / (t + DELAY) after t steps until that exceeds 0.5 ** (1 / half_life). This is
        polynomial-decay averaging (Shamir and Zhang, 2013), which TensorFlow's
        ExponentialMovingAverage has as min(decay, (1 + n) / (10 + n)).
        """
        long_run: float = 0.5 ** (1 / self.half_life)
        return min((step - 1) / (step + DELAY), long_run)

    def update(self, step: int) -> None:
        """Take the weights after an optimizer step into the average; nothing is waited for."""
        average = get_ema_multi_avg_fn(self.kept(step))  # type: ignore[no-untyped-call]
        average(self._averages, self._weights, step)


def _floats(model: Detector) -> list[torch.Tensor]:
    """The tensors that are averaged, of a detector and of its copy in the same order: all but batch
    norm's counters, which nothing reads.
    """
    return [value.detach() for value in model.trained_state().values() if value.is_floating_point()]
