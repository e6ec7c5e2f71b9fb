"""How many operations a training step asks of its device. A GPU is done with most of them before Python asks the next.

    python -m benchmarks.operations            half a minute on 2 cores

Counted on the CPU below autograd, forward and backward, views and allocations left out; two images of 800 px with 150
instances each, ResNet-50 with frozen batch norm, three stages of it trained. Anchors are matched in the pieces of a
GPU. Theirs is torchvision's network with the same numbers in it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection import backbone_utils
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.table import Line, as_text
from benchmarks.training_step import with_full_masks
from core import masks, matching
from core.config import ModelConfig, PredictConfig
from core.model import MaskRCNN, build_mask_rcnn
from core.weights import BaseWeights

SIDE, BATCH, INSTANCES = 800, 2, 150
WITHOUT_WORK = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand",
    "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class _Counter(TorchDispatchMode):
    """Counts what is asked of the device while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += func._schema.name.split("::")[1] not in WITHOUT_WORK
        return func(*args, **(kwargs or {}))


def networks() -> tuple[MaskRCNN, nn.Module]:
    """Ours and torchvision's, with a frozen norm as pretrained weights bring it, the same numbers and freezing."""
    torch.manual_seed(0)
    tensors = {name: value.numpy() for name, value in models.resnet50().state_dict().items()}
    config = ModelConfig(weights="drawn", trainable_layers=3)
    ours = build_mask_rcnn(config, CLASSES, BaseWeights("drawn", "0" * 64, False, tensors), PredictConfig())
    backbone = backbone_utils._resnet_fpn_extractor(models.resnet50(norm_layer=FrozenBatchNorm2d), 3)
    theirs: nn.Module = detection.MaskRCNN(backbone, num_classes=CLASSES + 1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def operations(losses: Callable[[], dict[str, torch.Tensor]], precision: str) -> int:
    """Of a forward and a backward pass, after a forward pass that fills what is computed once."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses()
        counter = _Counter()
        with counter:
            terms = losses()
    with counter:
        torch.stack([term.float() for term in terms.values()]).sum().backward()
    return counter.operations


def lines(short: bool) -> Iterator[Line]:
    """fp32; bf16 as well where there is time, which CPUs without matrix units take for it."""
    ours, theirs = networks()
    samples = [image_of_cells(INSTANCES, SIDE, SIDE, seed) for seed in range(BATCH)]
    images = [torch.from_numpy(sample.image.transpose(2, 0, 1).astype(np.float32) / 255) for sample in samples]
    targets = [masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N) for sample in samples]
    full = [with_full_masks(target, torch.device("cpu")) for target in targets]
    entries = matching.IOU_ENTRIES["cpu"]
    matching.IOU_ENTRIES["cpu"] = matching.IOU_ENTRIES["cuda"]
    try:
        for precision in ("fp32",) if short else ("fp32", "bf16"):
            mine = operations(lambda: ours.losses(images, targets), precision)
            its = operations(lambda: theirs(images, full), precision)
            what = f"operations of a training step, {INSTANCES} instances, {SIDE} px, {precision}"
            yield Line(what, f"{mine}", f"{its} torchvision", its / mine, "a GPU waits for Python to ask each")
    finally:
        matching.IOU_ENTRIES["cpu"] = entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fp32 alone")
    print(as_text(lines(parser.parse_args(arguments).short)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
