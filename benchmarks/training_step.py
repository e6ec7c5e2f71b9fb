"""A training step of ours and of torchvision's own Mask R-CNN with full masks: seconds, memory,
and equal losses.

    python -m benchmarks.training_step            three steps each, a few minutes on 2 cores
    python -m benchmarks.training_step --short    one step each

Same network, same numbers in it, same images, same draws. Every measurement is a process of its
own, since a process never gives back the memory it had; sides take turns. On a GPU (--device cuda)
the memory is that of tensors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.memory import forget_the_peak, peak_bytes
from benchmarks.table import Line, as_text
from core.config import ModelConfig, PredictConfig
from core.labels import label_maps as masks
from core.network.anchors import ANCHOR_RATIOS, ANCHOR_SIDES, Anchors
from core.network.build import build_detector
from core.network.matching import match_anchors

SIDE, BATCH = 800, 2
MANY, FEW = 250, 5
CONFIG = ModelConfig(weights="none", trainable_layers=1)


def torchvision_model(
    state: dict[str, torch.Tensor], config: ModelConfig, classes: int
) -> detection.MaskRCNN:
    """Torchvision's `maskrcnn_resnet50_fpn` with the numbers of ours, frozen alike."""
    network = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=classes + 1, trainable_backbone_layers=5
    )
    network.load_state_dict(state)
    ours = build_detector(config, classes, None, PredictConfig())
    trains = {name: parameter.requires_grad for name, parameter in ours.named_parameters()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trains[name])
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
    return network


def measure(side: str, instances: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Seconds of each step, peak memory in bytes, and the losses of the first step."""
    torch.manual_seed(0)
    ours = build_detector(CONFIG, CLASSES, None, PredictConfig())
    network = (
        ours.to(device)
        if side == "ours"
        else torchvision_model(ours.state_dict(), CONFIG, CLASSES).to(device)
    )
    samples = [image_of_cells(instances, SIDE, SIDE, seed) for seed in range(BATCH)]
    images = [
        torch.from_numpy(sample.image.transpose(2, 0, 1).astype(np.float32) / 255).to(device)
        for sample in samples
    ]
    targets = [
        masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N) for sample in samples
    ]
    seconds, losses = [], {}
    forget_the_peak()
    for step in range(steps):
        torch.manual_seed(1)
        begin = time.perf_counter()
        if side == "ours":
            terms = ours.losses(images, [target.to(device) for target in targets])
        else:
            terms = network(images, [with_full_masks(target, device) for target in targets])
        torch.stack(list(terms.values())).sum().backward()
        if not step:
            losses = {name: float(term.detach()) for name, term in terms.items()}
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        network.zero_grad()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_bytes()
    return {"seconds": seconds, "peak": peak, "losses": losses}


def with_full_masks(target: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """What torchvision wants: one mask of the whole image an instance, uint8 [N, H, W]."""
    full = torch.stack([target.label_maps_LHW[0] == number for number in target.ids_N]).to(
        torch.uint8
    )
    return {
        "boxes": target.boxes_N4.to(device),
        "labels": target.labels_N.to(device),
        "masks": full.to(device),
    }


def _apart(*arguments: str) -> Any:
    """What another process of this program prints as JSON."""
    command = [sys.executable, "-m", "benchmarks.training_step", *arguments]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def lines(short: bool, device: str = "cpu") -> Iterator[Line]:
    """A step, the memory that instances add to it, and the memory of matching anchors."""
    found = {
        (side, instances): _apart(
            "--one", side, str(instances), "1" if short else "3", "--device", device
        )
        for instances in (MANY, FEW)
        for side in ("theirs", "ours")
    }
    differ = max(
        abs(found["ours", instances]["losses"][name] - value) / max(abs(value), 1e-3)
        for instances in (MANY, FEW)
        for name, value in found["theirs", instances]["losses"].items()
    )
    for instances in (MANY, FEW):
        ours, theirs = (
            statistics.median(found[side, instances]["seconds"]) for side in ("ours", "theirs")
        )
        what = f"training step, {instances} instances, {SIDE} px, batch {BATCH}"
        yield Line(
            what,
            f"{ours:.1f} s",
            f"{theirs:.1f} s torchvision",
            theirs / ours,
            f"losses to {differ:.0e}",
        )
    added = {
        side: found[side, MANY]["peak"] - found[side, FEW]["peak"] for side in ("ours", "theirs")
    }
    ours, theirs = (max(added[side], 2**20) / 2**20 for side in ("ours", "theirs"))
    yield Line(
        f"memory that {MANY - FEW} instances an image add",
        f"{ours:.0f} MB",
        f"{theirs:.0f} MB torchvision",
        theirs / ours,
        "goal: 5 times less",
    )
    peaks = {side: _apart("--match", side) for side in ("ours", "theirs")}
    assert peaks["ours"]["sum"] == peaks["theirs"]["sum"], "the same matches"
    ours, theirs = (peaks[side]["added"] / 2**20 for side in ("ours", "theirs"))
    yield Line(
        "matching anchors, 700 instances, 800 x 1333: memory",
        f"{ours:.0f} MB",
        f"{theirs:.0f} MB torchvision",
        theirs / max(ours, 1),
        "all matches equal; goal: under 1 GB",
    )
    ours, theirs = (peaks[side]["seconds"] for side in ("ours", "theirs"))
    yield Line(
        "the same: time",
        f"{ours:.2f} s",
        f"{theirs:.2f} s torchvision",
        theirs / ours,
        "all matches equal",
    )


def match(side: str) -> dict[str, float]:
    """Memory and seconds of matching 700 boxes with all anchors of an image of 800 x 1333
    pixels.
    """
    sample = image_of_cells(700, 800, 1333)
    boxes_N4 = masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N).boxes_N4
    features = [
        torch.zeros(1, 1, -(-800 // stride), -(-1344 // stride)) for stride in (4, 8, 16, 32, 64)
    ]
    anchors_A4 = Anchors(ANCHOR_SIDES, ANCHOR_RATIOS)((800, 1344), features)
    forget_the_peak()
    before, begin = peak_bytes(), time.perf_counter()
    if side == "ours":
        matched = match_anchors(boxes_N4, anchors_A4)
    else:
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        matched = matcher(box_iou(boxes_N4, anchors_A4))
    seconds = time.perf_counter() - begin
    added = peak_bytes() - before
    place_A = torch.arange(len(matched)) % 9973
    return {"added": added, "seconds": seconds, "sum": int((matched * place_A).sum())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or measure one side."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="one step each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--one", nargs=3, metavar=("SIDE", "INSTANCES", "STEPS"), help=argparse.SUPPRESS
    )
    parser.add_argument("--match", metavar="SIDE", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.one:
        side, instances, steps = parsed.one
        print(json.dumps(measure(side, int(instances), int(steps), torch.device(parsed.device))))
    elif parsed.match:
        print(json.dumps(match(parsed.match)))
    else:
        print(as_text(lines(parsed.short, parsed.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
