"""Images a second of a whole study on one GPU, against one trial at a time with torchvision's
plain loop.

    python -m benchmarks.gpu_throughput --data DIR [--weights FILE] [--trials 12] [--epochs 4]
    [--shares auto 1]
        [--mps]

Ours is the real search: a probe decides how many trials share the GPU, they train in bf16, and
every epoch's evaluation, checkpoint and ledger is in the time; each of the shares is a study of its
own, 1 for one trial at a time. With --mps those that share a GPU run once more with NVIDIA's
Multi-Process Service. Theirs is torchvision's Mask R-CNN in fp32 on full masks, split id by id from
the same label maps in the training process, without any evaluation. Needs a GPU, and says so where
none is.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from benchmarks.table import Line, as_text
from benchmarks.training_step import torchvision_model, with_full_masks
from core import data as datasets
from core.config import ModelConfig, PredictConfig
from core.labels import label_maps as masks
from core.network.build import build_detector
from tune.ledger.reading import read_ledger


def plain_loop(where: str, steps: int) -> float:
    """Images/s of torchvision's Mask R-CNN, batch 2, AdamW, after some steps to warm up."""
    data, device = datasets.load(where), torch.device("cuda")
    torch.manual_seed(0)
    config = ModelConfig(weights="none", trainable_layers=1)
    state = build_detector(config, len(data.classes), None, PredictConfig()).state_dict()
    network = torchvision_model(state, config, len(data.classes)).to(device)
    optimizer = torch.optim.AdamW(
        [one for one in network.parameters() if one.requires_grad], lr=5e-5
    )
    warm, begin = 5, 0.0
    for step in range(warm + steps):
        if step == warm:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        chosen = [data.samples[(2 * step + place) % len(data.samples)] for place in range(2)]
        images = [
            torch.from_numpy(one.image.transpose(2, 0, 1).copy()).to(device).float() / 255
            for one in chosen
        ]
        targets = [masks.target_of(one.label_maps, one.labels_N, one.crowd_N) for one in chosen]
        loss = sum(
            network(images, [with_full_masks(target, device) for target in targets]).values()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    return 2 * steps / (time.perf_counter() - begin)


def study(
    where: str, weights: str, trials: int, epochs: int, share: str, mps: bool
) -> tuple[float, str]:
    """Images/s of a search over learning rates, all trials together, and how many of them shared
    the GPU.
    """
    space = {
        "study": "throughput",
        "data": str(Path(where).resolve()) if where != "synthetic" else where,
        "fixed": {"model.weights": weights, "optim.epochs": epochs, "optim.precision": "bf16"},
        "space": {"optim.learning_rate": {"low": 1e-5, "high": 2e-4, "log": True}},
        "search": {"sampler": "random", "trials": trials},
        "stop_early": {"rule": "none"},
        "confirm": {"top": 0},
        "resources": {"gpus_per_trial": share if share == "auto" else float(share), "mps": mps},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "space.yaml").write_text(yaml.safe_dump(space))
        command = [
            sys.executable,
            "-m",
            "tune.search",
            "--space",
            f"{folder}/space.yaml",
            "--results",
            folder,
        ]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        reading = read_ledger(f"sqlite:///{folder}/throughput/study.db", "throughput")
    assert reading is not None
    reports = [epoch for record in reading.records for epoch in record.epochs]
    begin = min(epoch["at"] / 1000 - epoch["seconds"] for epoch in reports)
    end = max(epoch["at"] / 1000 for epoch in reports)
    images = sum(epoch["images_per_second"] * epoch["train_seconds"] for epoch in reports)
    how = next(
        line for word in ("Probe", "Study") for line in said.splitlines() if line.startswith(word)
    )
    return images / (end - begin), how


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_throughput", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40, help="of the plain loop")
    parser.add_argument(
        "--shares", nargs="+", default=["auto"], help="resources.gpus_per_trial, a study each"
    )
    parser.add_argument(
        "--mps", action="store_true", help="the shares under 1 once more, with resources.mps"
    )
    parsed = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu_throughput needs a GPU, and torch sees none: nothing was measured")
        return 0
    theirs = plain_loop(parsed.data, parsed.steps)
    print(f"{theirs:.1f} images/s: one plain trial", flush=True)
    lines = []
    asked = [(share, False) for share in parsed.shares]
    asked += [
        (share, True)
        for share in parsed.shares
        if parsed.mps and (share == "auto" or float(share) < 1)
    ]
    for share, mps in asked:
        ours, how = study(parsed.data, parsed.weights, parsed.trials, parsed.epochs, share, mps)
        with_mps = ", with MPS" if mps else ""
        print(f"{ours:.1f} images/s{with_mps}: {how}", flush=True)
        what = (
            f"{parsed.trials} trials on one {torch.cuda.get_device_name()}, {share} of it"
            f" each{with_mps}"
        )
        goal = "goal: 3 times" if share == "auto" else ""
        lines.append(
            Line(
                what,
                f"{ours:.1f} images/s",
                f"{theirs:.1f} images/s one plain trial",
                ours / theirs,
                goal,
            )
        )
    print(as_text(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
