"""The whole comparison on one GPU, in under six minutes: torchvision's plain loop, one trial, and
studies whose trials share the GPU.

    python -m benchmarks.gpu_throughput [--data DIR] [--weights FILE] [--out FILE]
        [--only plain trial step packed turns] [--device cpu] [--short]

    plain    torchvision's Mask R-CNN with full masks, batch 2, in fp32 and under bf16 autocast; it
             evaluates nothing
    trial    one trial of ours, as a search runs it: training alone, and with its evaluations
    step     the milliseconds of the parts of a training step (`benchmarks.step_parts`)
    packed   a search with the defaults: the GPU is measured, and as many trials share it as gain
    turns    the same without NVIDIA's Multi-Process Service, with the number of trials at once that
             `packed` measured, if it ran before

All train the last stage of a ResNet-50 at 800 pixels. A study is timed from the start of its
process to the last entry in its ledger: Ray, measuring, all starts, evaluations and checkpoints
are in it. Each part is a process of its own and may fail or be cut short without the others.
Starts and measuring are a large part of so short a study, so its speed after them is shown too.
Each part leaves the later ones their time, and may use what the ones before it left. Without Ray
installed `plain`, `trial` and `step` run. `--data synthetic`, the default, draws crops of 500
pixels with 150 cells each. `--device cpu --short` runs everything at a tiny size, to try the
program: its figures mean nothing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import step_parts
from benchmarks.step_parts import SMALL, as_table
from benchmarks.training_step import torchvision_model, with_full_masks
from core import data as datasets
from core.config import PredictConfig, TrialConfig
from core.data import synthetic
from core.data.dataset import Dataset
from core.device import resolve_device
from core.labels import label_maps as masks
from core.network import weights as pretrained
from core.network.build import build_detector
from core.training.trial import Trial

PARTS = ("plain", "trial", "step", "packed", "turns")
LIMIT_SECONDS = 345.0
"""Seconds for everything."""
PART_SECONDS: Mapping[str, float] = {
    "plain": 40, "trial": 35, "step": 30, "packed": 155, "turns": 85,
}  # fmt: skip
"""Seconds that the parts before it leave to each part; it may use what they left beside."""
AROUND_SECONDS = 40.0
"""Seconds of a study's part beside the study's time budget: imports before it, the end of the last
epochs and the report after it."""
SERVICE: Mapping[str, bool | str] = {"packed": "auto", "turns": False}
"""`resources.mps` of each study."""
WARM_STEPS, STEPS = 5, 30
CROPS, CROP_SIDE, CELLS = 40, 500, 150
GOALS: Mapping[str, float] = {"trial": 4.0, "packed": 10.0, "turns": 5.0}
"""Images a second, as a multiple of the plain loop's."""
STEP_GOAL, EVALUATION_GOAL = 28.0, 0.10
"""Milliseconds of a training step, and the part of a trial's time that evaluation takes."""


def settings_of(weights: str, short: bool) -> dict[str, Any]:
    """The settings of all sides."""
    own: dict[str, Any] = dict(SMALL) if short else {"model.trainable_layers": 1}
    return {**own, "model.weights": weights}


def data_of(where: str, short: bool) -> Dataset:
    """The data set of all sides."""
    if where != "synthetic":
        return datasets.load_data(where)
    if short:
        return synthetic.make_cells(images=6, side=64)
    return step_parts.dataset(CROPS, CELLS, CROP_SIDE)


def plain(data: Dataset, weights: str, device: torch.device, short: bool) -> dict[str, float]:
    """Images/s of torchvision's Mask R-CNN with AdamW, in fp32 and under bf16 autocast."""
    config = TrialConfig.from_settings(
        settings_of(weights, short) | {"model.backbone": "resnet50"}
    ).model
    file = pretrained.find_weights(config)
    base = None if file is None else pretrained.read_weights(file)
    classes = len(data.classes)
    state = build_detector(config, classes, base, PredictConfig()).state_dict()
    found = {}
    for precision in ("fp32", "bf16"):
        network = torchvision_model(state, config, classes)
        if short:
            network.transform.min_size = (config.image_min_side,)
            network.transform.max_size = config.image_max_side
        found[precision] = _plain_loop(network.to(device), data, device, precision, short)
    return found


def _plain_loop(
    network: torch.nn.Module, data: Dataset, device: torch.device, precision: str, short: bool
) -> float:
    optimizer = torch.optim.AdamW(
        [one for one in network.parameters() if one.requires_grad], lr=5e-5
    )
    warm, steps = (1, 1) if short else (WARM_STEPS, STEPS)
    begin = time.perf_counter()
    for step in range(warm + steps):
        if step == warm:
            _wait(device)
            begin = time.perf_counter()
        chosen = [data.samples[(2 * step + place) % len(data.samples)] for place in range(2)]
        images = [
            torch.from_numpy(one.image.transpose(2, 0, 1).copy()).to(device).float() / 255
            for one in chosen
        ]
        targets = [masks.target_of(one.label_maps, one.labels_N, one.crowd_N) for one in chosen]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = sum(
                network(images, [with_full_masks(target, device) for target in targets]).values()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(device)
    return 2 * steps / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trial(data: Dataset, weights: str, device: torch.device, short: bool) -> dict[str, float]:
    """Images/s of one trial, alone on the device, in the second of three epochs."""
    settings = settings_of(weights, short) | {"optim.epochs": 3}
    cpus = min(8, len(os.sched_getaffinity(0)))  # as many as a search gives a trial
    alone = Trial(
        TrialConfig.from_settings(settings), data, device=str(device),
        loader_workers=cpus - 1 if device.type == "cuda" else 0,
        threads=cpus,
    )  # fmt: skip
    alone.run_epoch()
    report = alone.run_epoch()
    trained = report.images_per_second * report.train_seconds
    return {
        "training": report.images_per_second,
        "whole": trained / report.seconds,
        "evaluation": report.evaluate_seconds / report.seconds,
        "step_ms": 1000 * report.train_seconds / report.steps,
    }


def step(data: Dataset, weights: str, device: torch.device, short: bool) -> dict[str, float]:
    """The parts of a training step."""
    config = TrialConfig.from_settings(settings_of(weights, short))
    file = pretrained.find_weights(config.model)
    base = None if file is None else pretrained.read_weights(file)
    return step_parts.measure(config, data, base, str(device), 2 if short else 12)


def study(name: str, parsed: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images/s of a search over learning rates, all its trials together, and how they ran.

    name   packed, or turns for a search without NVIDIA's service
    """
    from tune.engine.packing import read_packing
    from tune.ledger.reading import read_ledger

    short = parsed.short
    share: str | float = 1 / parsed.at_once if parsed.at_once else "auto"
    space: dict[str, Any] = {
        "study": "throughput",
        "data": str(Path(parsed.data).resolve()),
        "fixed": settings_of(parsed.weights, short) | {"optim.epochs": 1 if short else 15},
        "space": {"optim.learning_rate": {"low": 1e-5, "high": 2e-4, "log": True}},
        "search": {"sampler": "random", "trials": 2 if short else 96},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
        "resources": {
            "gpus_per_trial": share if device.type == "cuda" else 0,
            "mps": SERVICE[name],
        },
    }
    budget = max(1, round(parsed.seconds - AROUND_SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "space.yaml").write_text(yaml.safe_dump(space))
        command = [
            sys.executable, "-m", "tune.search", "--space", f"{folder}/space.yaml",
            "--results", folder, "--time-budget", f"{budget}s",
        ]  # fmt: skip
        begin = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reading = read_ledger(f"sqlite:///{folder}/throughput/study.db", "throughput")
        packing = read_packing(Path(folder) / "throughput/packing.json")
    if reading is None or not any(record.epochs for record in reading.records):
        raise RuntimeError(f"no epoch was trained: {(done.stderr.strip() or done.stdout)[-500:]}")
    found = study_figures([list(record.epochs) for record in reading.records], begin)
    at_once = parsed.at_once if packing is None else packing.trials
    return found | {"said": _telling(done.stdout), "at_once": at_once}


def study_figures(trials: Sequence[Sequence[Mapping[str, Any]]], begin: float) -> dict[str, Any]:
    """The figures of a study, from the epochs of each of its trials.

    begin   when its process was started, in seconds since 1970
    """
    epochs = [epoch for one in trials for epoch in one]
    images = sum(epoch["images_per_second"] * epoch["train_seconds"] for epoch in epochs)
    first = min(epoch["at"] / 1000 - epoch["seconds"] for epoch in epochs)
    last = max(epoch["at"] / 1000 for epoch in epochs)
    return {
        "images_per_second": images / (last - begin),
        "after_start": images / (last - first),
        "start_seconds": first - begin,
        "seconds": last - begin,
        "trials": sum(bool(one) for one in trials),
        "epochs": len(epochs),
        "evaluation": sum(epoch["evaluate_seconds"] for epoch in epochs)
        / sum(epoch["seconds"] for epoch in epochs),
    }


def _telling(said: str) -> list[str]:
    """The lines of a search that say how many trials shared the GPU, and how."""
    words = ("Study", "heaviest", "GPU", "Time", "Multi-Process", "at once", "service")
    lines = [line.strip() for line in said.splitlines()]
    return [line for line in lines if any(word in line for word in words)][:12]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison, one row a measurement.

    found   the figures of each part; in place of them `error` where it failed, and `left_out` where
            it cannot be run here
    """
    plain = found.get("plain", {})
    rates = [plain[name] for name in ("fp32", "bf16") if name in plain]
    rows = [("", "images/s", "times the plain loop", "goal")]

    def row(what: str, rate: float | None, goal: float | None = None) -> None:
        ratio = rate / max(rates) if rate is not None and rates else None
        verdict = "" if goal is None else f"{goal:g}"
        if goal is not None and ratio is not None:
            verdict += ", met" if ratio >= goal else ", missed"
        rows.append(
            (
                what,
                "not measured" if rate is None else f"{rate:.1f}",
                "" if ratio is None else f"{ratio:.2f}",
                verdict,
            )
        )

    row("plain loop, fp32", plain.get("fp32"))
    row("plain loop, bf16", plain.get("bf16"))
    one = found.get("trial", {})
    row("one trial, training", one.get("training"), GOALS["trial"])
    row("one trial, evaluation included", one.get("whole"))
    for name, how in (("packed", "the service"), ("turns", "turns")):
        of_study = found.get(name, {})
        whole, after = of_study.get("images_per_second"), of_study.get("after_start")
        row(f"study, {how}, everything included", whole, GOALS[name])
        row(f"study, {how}, after its start", after, GOALS[name])
    widths = [max(len(one[column]) for one in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip()
        for one in rows
    ]
    return "\n".join([*lines, "", *_further(found)])


def _further(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The figures that are no images a second, and the parts that failed."""
    of_step, of_trial = found.get("step", {}), found.get("trial", {})
    if "step" in of_step:
        yield as_table(of_step)
        yield f"goal: a step of at most {STEP_GOAL:g} ms: {_verdict(of_step['step'], STEP_GOAL)}"
    if "evaluation" in of_trial:
        share = of_trial["evaluation"]
        verdict = _verdict(share, EVALUATION_GOAL)
        goal = f"goal {EVALUATION_GOAL:.0%}: {verdict}"
        yield f"evaluation takes {share:.0%} of a trial's time; {goal}"
    for name in ("packed", "turns"):
        if "epochs" in found.get(name, {}):
            one = found[name]
            yield (
                f"{name}: {one['epochs']} epochs of {one['trials']} trials in {one['seconds']:.0f}"
                f" s, {one['start_seconds']:.0f} s of them before the first epoch, evaluation"
                f" {one['evaluation']:.0%}"
            )
            yield from (f"  {line}" for line in one["said"])
    for name, figures in found.items():
        if why := figures.get("error") or figures.get("left_out"):
            yield f"{name} was not measured: {why}"


def _verdict(value: float, goal: float) -> str:
    return "met" if value <= goal else "missed"


def run_apart(
    name: str, seconds: float, parsed: argparse.Namespace, at_once: int = 0
) -> dict[str, Any]:
    """The figures of a part, which runs in a process of its own for at most so many seconds.

    at_once   number of trials that share the GPU in a study; 0 where the study is to measure it
    """
    command = [
        sys.executable, "-m", "benchmarks.gpu_throughput", "--part", name, "--data", parsed.data,
        "--weights", parsed.weights, "--device", parsed.device,
        "--seconds", str(seconds), "--at-once", str(at_once),
    ]  # fmt: skip
    command += ["--short"] if parsed.short else []
    # A session of its own, so that all that it started can be ended with it.
    part = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, complained = part.communicate(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than the {seconds:.0f} s it had"}
    finally:
        if part.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
            part.communicate()
    try:
        content: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = complained.strip().splitlines() or [f"its process ended with {part.returncode}"]
        return {"error": lines[-1][:500]}
    return content


def run_part(name: str, parsed: argparse.Namespace) -> dict[str, Any]:
    """The figures of a part, in this process."""
    device = resolve_device(parsed.device)
    if name in ("packed", "turns"):
        if name == "turns" and device.type == "cpu":
            return {"left_out": "on processors there is no service to do without"}
        if importlib.util.find_spec("ray") is None:
            return {"left_out": "Ray is not installed here"}
        return study(name, parsed, device)
    measures: Mapping[str, Callable[[Dataset, str, torch.device, bool], dict[str, float]]] = {
        "plain": plain, "trial": trial, "step": step,
    }  # fmt: skip
    data = data_of(parsed.data, parsed.short)
    return measures[name](data, parsed.weights, device, parsed.short)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for the record."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; returns 1 if a part that was asked for gave no figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_throughput", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", default="synthetic", help="a folder in COCO or HW3 layout")
    parser.add_argument("--weights", default="none", metavar="FILE")
    parser.add_argument(
        "--only", type=lambda text: re.split(r"[ ,]+", text), default=[*PARTS], metavar="PART,PART",
        help=f"of {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --short")
    parser.add_argument("--short", action="store_true", help="a tiny size, to try the program")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures as JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS, help=argparse.SUPPRESS)
    parser.add_argument("--at-once", type=int, default=0, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.only) - set(PARTS):
        parser.error(f"--only must be of {', '.join(PARTS)}, and names {', '.join(unknown)}")
    if parsed.device != "cpu" and not torch.cuda.is_available():
        print("gpu_throughput needs a GPU, and torch sees none; --device cpu --short tries it")
        return 0
    if parsed.part:
        print(json.dumps(run_part(parsed.part, parsed)))
        return 0
    with _data_for_all(parsed):
        return compare(parsed)


def compare(
    parsed: argparse.Namespace,
    run: Callable[[str, float, argparse.Namespace, int], dict[str, Any]] = run_apart,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run the parts one after the other; what is measured is written at once.

    run     gives the figures of a part, as `run_apart`
    clock   gives the time in seconds
    """
    patience = 4 if parsed.short else 1  # a tiny comparison is tried on any machine, however busy
    until = clock() + patience * LIMIT_SECONDS
    at_once = 0
    content: dict[str, Any] = {"machine": machine(resolve_device(parsed.device)), "parts": {}}
    print(json.dumps(content["machine"]), flush=True)
    for place, name in enumerate(parsed.only):
        begin = clock()
        later = sum(PART_SECONDS[one] for one in parsed.only[place + 1 :])
        left = until - begin - patience * later
        figures: dict[str, Any] = {"error": "no time was left"}
        if left > 0:
            figures = run(name, left, parsed, at_once)
        at_once = figures.get("at_once", at_once)
        content["parts"][name] = figures
        took = clock() - begin
        print(f"{name}, {took:.0f} s: {json.dumps(figures)}", flush=True)
        if parsed.out:
            parsed.out.write_text(json.dumps(content, indent=2) + "\n")
    print(table(content["parts"]))
    return int(any("error" in content["parts"][name] for name in parsed.only))


@contextlib.contextmanager
def _data_for_all(parsed: argparse.Namespace) -> Iterator[None]:
    """Write the drawn data set to a folder for the time of the block: searches read one."""
    if parsed.data != "synthetic" or not {"packed", "turns"} & set(parsed.only):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write_hw3(data_of("synthetic", parsed.short), Path(folder))
        parsed.data = folder
        yield


if __name__ == "__main__":
    sys.exit(main())
