"""The parts of a training step: their milliseconds, the operations that Python asks for, and the
waits.

    python -m benchmarks.step_parts [--device cpu] [--short]

The steps are those of a trial (`core.training`), watched from outside: time stamps are taken where
the backbone, the proposal network, the heads and the optimizer begin and end. On a GPU they are
CUDA events, so that nothing waits for them. Torch's profiler counts in further steps.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.operations import BEFORE as COUNTED
from benchmarks.operations import Counter, Counts, counted_now
from core.config import TrialConfig
from core.data.dataset import Category, Dataset, assemble
from core.network.weights import BaseWeights
from core.training.trial import Trial

PARTS = ("images and resizing", "backbone", "proposals", "heads", "backward", "optimizer")
"""The parts of a step, in their order. The first also holds what lies between two steps: fetching
the next batch, and sending it to the device."""
BEFORE: Mapping[str, float] = {
    "images and resizing": 0.9,
    "backbone": 11.5,
    "proposals": 22.9,
    "heads": 23.7,
    "backward": 9.0,
    "step": 65.0,
    "kernels": 22.7,
    "asked": 1840,
    "copies": 124,
    "waits": 11,
}
"""A step as it was measured on one H200 on 2026-11-29 (800 px, batch 2, 150 instances an image,
ResNet-50 with its last stage trained), in milliseconds with a wait after each part, and in counts.
"""
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx",
            "cudaGraphLaunch")  # fmt: skip
COPIES = ("cudaMemcpyAsync", "cudaMemcpy", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class _Stamps:
    """Time stamps on a device, by the part that ends with each."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._taken: list[tuple[str, Any]] = []

    def take(self, part: str) -> None:
        """Take a stamp at the end of a part."""
        if self._on_gpu:
            stamp: Any = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            stamp = time.perf_counter()
        self._taken.append((part, stamp))

    def steps(self) -> list[dict[str, float]]:
        """The milliseconds of each part of each whole step; the first step is left out."""
        if self._on_gpu:
            torch.cuda.synchronize()
        found: list[dict[str, float]] = []
        for (_, begin), (part, end) in zip(self._taken, self._taken[1:], strict=False):
            took = begin.elapsed_time(end) if self._on_gpu else 1000 * (end - begin)
            if part == PARTS[0]:
                found.append({})
            if found:
                found[-1][part] = found[-1].get(part, 0.0) + took
        return [step for step in found if PARTS[-1] in step]


def dataset(images: int, instances: int, side: int) -> Dataset:
    """A data set of images crowded with cells."""
    samples = [
        replace(image_of_cells(instances, side, side, seed), name=f"cells_{seed:03d}")
        for seed in range(images)
    ]
    classes = [Category(number, f"class{number}") for number in range(1, CLASSES + 1)]
    return assemble("cells", classes, samples, [])


def measure(
    config: TrialConfig, data: Dataset, weights: BaseWeights | None, device: str, steps: int
) -> dict[str, float]:
    """Median milliseconds of each part of a training step and of the whole step, and the counts.

    steps   number of steps that are measured, after as many that warm up
    """
    batch = config.optim.batch_size
    optim = config.optim.model_copy(update={"epochs": 3, "learning_rate": 1e-6, "warmup_epochs": 0})
    config = config.model_copy(update={"optim": optim})
    chosen = tuple(data.samples[number % len(data.samples)] for number in range(steps * batch))
    trial = Trial(config, replace(data, samples=chosen), weights, validate=False, device=device)
    trial.run_epoch()
    stamps = _Stamps(trial.device)
    removers = _watch(trial, stamps)
    trial.run_epoch()
    for remove in removers:
        remove()
    timed = stamps.steps()
    found = {part: statistics.median(step.get(part, 0.0) for step in timed) for part in PARTS}
    found["step"] = statistics.median(sum(step.values()) for step in timed)
    return found | _counts(trial, len(chosen) // batch)


def _watch(trial: Trial, stamps: _Stamps) -> list[Callable[[], object]]:
    """Take stamps around the parts of the trial's steps; returns what ends that."""
    model, heads = trial.model, trial.model.get_submodule("roi_heads")
    losses = heads.losses

    @functools.wraps(losses)  # type: ignore[arg-type]  # torch types no method of a submodule
    def watched(*arguments: Any, **named: Any) -> Any:
        found = losses(*arguments, **named)  # type: ignore[operator]
        stamps.take("heads")
        return found

    heads.losses = watched  # type: ignore[assignment]
    backbone, rpn = model.get_submodule("backbone"), model.get_submodule("rpn")
    hooks = [
        backbone.register_forward_pre_hook(lambda *_: stamps.take(PARTS[0])),
        backbone.register_forward_hook(lambda *_: stamps.take("backbone")),
        rpn.register_forward_hook(lambda *_: stamps.take("proposals")),
        trial.optim.optimizer.register_step_pre_hook(lambda *_: stamps.take("backward")),
        trial.optim.optimizer.register_step_post_hook(lambda *_: stamps.take("optimizer")),
    ]
    return [*(hook.remove for hook in hooks), lambda: delattr(heads, "losses")]


def _counts(trial: Trial, steps: int) -> dict[str, float]:
    """The operations that Python asks for in a step, the copies and the waits among them; on a GPU
    also the milliseconds of its kernels.
    """
    if trial.device.type != "cuda":
        with Counter() as counter:
            trial.run_epoch()
        return {"asked": counter.operations / steps, "waits": counter.waits / steps}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watched:
        trial.run_epoch()
    rows = {row.key: row for row in watched.key_averages()}

    def counted(names: Sequence[str]) -> float:
        return sum(rows[name].count for name in names if name in rows) / steps

    kernels = sum(row.self_device_time_total for row in rows.values()) / 1000 / steps
    return {
        "asked": counted(LAUNCHES) + counted(COPIES),
        "copies": counted(COPIES),
        "waits": counted(WAITS),
        "kernels": kernels,
    }


def as_table(now: Mapping[str, float]) -> str:
    """The parts before and now, one a row; a part that was not measured has no figure."""
    rows = [("a training step", "before (H200)", "now", "")]
    for name in (*PARTS, "step", "kernels", "asked", "copies", "waits"):
        unit = "a step" if name in ("asked", "copies", "waits") else "ms"
        digits = 0 if unit == "a step" else 1
        before, after = (f"{one[name]:,.{digits}f}" if name in one else "" for one in (BEFORE, now))
        rows.append((_WORDS.get(name, name), before, after, unit))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0].ljust(widths[0])}  {row[1].rjust(widths[1])}  {row[2].rjust(widths[2])}  {row[3]}"
        for row in rows
    )


def picture(counts: Counts, took: Mapping[str, float] | None = None) -> str:
    """A step before and now: the milliseconds of its parts on a GPU, and their operations, as bars.

    counts   operations and waits of a step of today
    took     milliseconds of its parts on a GPU, by their names in `PARTS`; None if unmeasured
    """
    lines = [f"{'':27}{'milliseconds':32}operations, a # for 20"]
    for name, part in zip(PARTS, counts.parts, strict=False):
        for when, milliseconds, found in (("before", BEFORE, COUNTED), ("now", took, counts)):
            title = name if when == "before" else ""
            number = found.parts[part]
            lines.append(
                f"{title:20}{when:7}{_bar(milliseconds, name):32}{number:5,} {_marks(number / 20)}"
            )
    for when, milliseconds, found in (("before", BEFORE, COUNTED), ("now", took, counts)):
        title = _WORDS["step"] if when == "before" else ""
        whole = "unmeasured" if milliseconds is None else f"{milliseconds['step']:4.1f}"
        lines.append(f"{title:20}{when:7}{whole:32}{found.operations:5,}, {found.waits} waits")
    return "\n".join(line.rstrip() for line in lines)


def _bar(milliseconds: Mapping[str, float] | None, part: str) -> str:
    if milliseconds is None:
        return "unmeasured"
    return f"{milliseconds[part]:4.1f} {_marks(milliseconds[part])}"


def _marks(number: float) -> str:
    return "#" * round(number)


_WORDS = {
    "step": "the whole step",
    "kernels": "the GPU computes in it",
    "asked": "operations asked for",
    "copies": "copies among them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_parts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--short", action="store_true", help="a small network on small images")
    parsed = parser.parse_args(arguments)
    found = measured_alone(parsed.device, parsed.short)
    took = found if "kernels" in found else None
    print(f"{as_table(found)}\n\n{picture(counted_now(), took)}")
    return 0


def measured_alone(device: str, short: bool) -> dict[str, float]:
    """The parts of a step on images of cells, with new weights."""
    settings: dict[str, Any] = {"model.weights": "none", **(SMALL if short else {})}
    config = TrialConfig.from_settings(settings)
    side = config.model.image_min_side
    images = dataset(4, 10 if short else 150, side)
    return measure(config, images, None, device, 2 if short else 8)


SMALL: Mapping[str, Any] = {
    "model.backbone": "resnet18",
    "model.image_min_side": 64,
    "model.image_max_side": 96,
    "model.proposals_train": 64,
    "model.proposals_test": 64,
    "model.box_samples": 16,
    "model.rpn_samples": 32,
    "predict.max_detections": 20,
}
"""Settings of a network and images so small that a processor trains them in seconds."""


if __name__ == "__main__":
    sys.exit(main())
