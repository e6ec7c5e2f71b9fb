"""Learning curves of LCBench: 34 data sets, seven settings, 52 epochs, replayed from a surrogate
of real trainings.

Zimmer, Lindauer and Hutter 2021 (Auto-PyTorch); the surrogate is YAHPO Gym's; both Apache 2.0. They
lie beside the project, in `../shared/data/lcbench`, and need onnxruntime.

A surrogate extrapolates near the bounds of the data that it was fitted on, and a search that goes
there finds scores that no training had. Two rules keep searches where the surrogate is reliable:
the space is the middle fraction MIDDLE of each range of LCBench, and no score counts as higher than
the best of RANDOM_CONFIGS random configurations of that space.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "shared/data/lcbench"
EPOCHS = 52
RANGES: Mapping[str, tuple[float, float, bool, bool]] = {
    "batch_size": (16, 512, True, True),
    "learning_rate": (1e-4, 1e-1, True, False),
    "momentum": (0.1, 0.99, False, False),
    "weight_decay": (1e-5, 1e-1, False, False),
    "num_layers": (1, 5, False, True),
    "max_units": (64, 1024, True, True),
    "max_dropout": (0.0, 1.0, False, False),
}
"""LCBench's ranges in the order of the surrogate's inputs: low, high, log scale, whole number."""
MIDDLE = 0.8
"""Share of each range, on its scale, that is searched."""
RANDOM_CONFIGS = 2000
"""Number of random configurations that set the highest score that counts, and the unit of noise."""


def _middle(low: float, high: float, log: bool, whole: bool) -> tuple[float, float, bool, bool]:
    ends = (math.log(low), math.log(high)) if log else (low, high)
    margin = (1 - MIDDLE) / 2 * (ends[1] - ends[0])
    low, high = ends[0] + margin, ends[1] - margin
    if log:
        low, high = math.exp(low), math.exp(high)
    return (math.ceil(low), math.floor(high), log, whole) if whole else (low, high, log, whole)


SPACE = {name: _middle(*of) for name, of in RANGES.items()}
"""The space that is searched, in the form of RANGES."""

_ACCURACY = 1
"""Which of the surrogate's six outputs is the validation accuracy."""
_NOT_DATA_SETS = ("#na#", "167083")
_CHUNK = 20
"""Curves a call of the surrogate: more fall out of the processor's cache."""


def missing() -> str | None:
    """Why there are no curves here, a sentence; None where there are."""
    if not (FOLDER / "model.onnx").is_file():
        return (
            "The learning curves of LCBench are not here: they are looked for in"
            " ../shared/data/lcbench."
        )
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "The learning curves of LCBench need onnxruntime: install the extra `dev`."
    return None


def data_sets(tuning: bool) -> list[str]:
    """The half of the data sets on which choices are made, or the half that only evaluates them.

    Every second name in the order of all names is in the tuning half, as it was when the first
    choices were made: another division would evaluate choices on data sets on which they were made.
    """
    names = sorted(name for name in _codes() if name not in _NOT_DATA_SETS)
    return names[0 if tuning else 1 :: 2]


def curves(data_set: str, configs: np.ndarray) -> np.ndarray:
    """Validation accuracy in percent after each epoch.

    configs   [n, 7], columns in the order of SPACE; whole numbers are rounded here
    returns   [n, 52]
    """
    whole = [number for _, _, _, number in SPACE.values()]
    configs = np.where(whole, np.round(configs), configs).astype(np.float32)
    return np.concatenate(
        [_replay(data_set, configs[i : i + _CHUNK]) for i in range(0, len(configs), _CHUNK)]
    )


def random_configs(count: int, rng: np.random.Generator) -> np.ndarray:
    """Configurations drawn from SPACE, [count, 7]."""
    columns = []
    for low, high, log, whole in SPACE.values():
        pad = (
            0.5 if whole and not log else 0
        )  # so that the ends of 1 to 5 are as likely as what lies between
        low, high = low - pad, high + pad
        column = (
            rng.uniform(np.log(low), np.log(high), count) if log else rng.uniform(low, high, count)
        )
        columns.append(np.exp(column) if log else column)
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Task:
    """The curves of one data set as searches are judged by them: accuracy in percent, no noise.

    best     the highest accuracy that counts
    spread   the interquartile range of the last epoch's accuracies among the best fifth of
             random configurations: how much good configurations differ
    """

    data_set: str
    best: float
    spread: float

    def curve(self, config: Mapping[str, float]) -> np.ndarray:
        """The accuracy of a configuration after each epoch, [52]."""
        row = np.array([[config[name] for name in SPACE]])
        return np.minimum(curves(self.data_set, row)[0], self.best)


@functools.cache
def task(data_set: str) -> Task:
    """The task of a data set; the first call takes a second or two of processor time."""
    rng = np.random.default_rng([RANDOM_CONFIGS, int(data_set)])
    drawn = curves(data_set, random_configs(RANDOM_CONFIGS, rng))
    best_fifth = np.sort(drawn[:, -1])[-RANDOM_CONFIGS // 5 :]
    low, high = np.quantile(best_fifth, [0.25, 0.75])
    return Task(data_set, float(drawn.max()), float(high - low))


def _replay(data_set: str, configs: np.ndarray) -> np.ndarray:
    count = len(configs)
    numbers = np.empty((count, EPOCHS, 1 + len(SPACE)), np.float32)
    numbers[:, :, 0] = np.arange(1, EPOCHS + 1)
    numbers[:, :, 1:] = configs[:, None, :]
    feed = {
        "x_cat": np.full((count * EPOCHS, 1), _codes()[data_set], np.int32),
        "x_cont": numbers.reshape(count * EPOCHS, -1),
    }
    output = np.asarray(_session().run(None, feed)[0])
    return output[:, _ACCURACY].reshape(count, EPOCHS).astype(float)


@functools.cache
def _codes() -> dict[str, int]:
    codes: dict[str, int] = json.loads((FOLDER / "encoding.json").read_text())["OpenML_task_id"]
    return codes


@functools.cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
