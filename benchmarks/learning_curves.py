"""Learning curves of LCBench: 34 data sets, seven settings, 52 epochs, replayed from a surrogate
of real trainings.

Zimmer, Lindauer and Hutter 2021 (Auto-PyTorch); the surrogate is YAHPO Gym's; both Apache 2.0. They
lie beside the project, in `../shared/data/lcbench`, and need onnxruntime.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "shared/data/lcbench"
EPOCHS = 52
SPACE: Mapping[str, tuple[float, float, bool, bool]] = {
    "batch_size": (16, 512, True, True),
    "learning_rate": (1e-4, 1e-1, True, False),
    "momentum": (0.1, 0.99, False, False),
    "weight_decay": (1e-5, 1e-1, False, False),
    "num_layers": (1, 5, False, True),
    "max_units": (64, 1024, True, True),
    "max_dropout": (0.0, 1.0, False, False),
}
"""Of each setting, in the order of the surrogate's inputs: low, high, log scale, whole number."""

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
    """The half on which choices are made, or the half that only shows what they are worth;
    sorted by name.
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


def best_of_random(data_set: str, count: int) -> float:
    """The highest accuracy in any epoch of so many random configurations, the same ones each
    time.
    """
    rng = np.random.default_rng([count, int(data_set)])
    return float(curves(data_set, random_configs(count, rng)).max())


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
