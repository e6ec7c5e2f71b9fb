"""How many operations a training step asks of its device, and how often it waits for an answer.

    python -m benchmarks.operations              half a minute on 2 cores
    python -m benchmarks.operations --changes    with each change taken back alone, a minute

A GPU is done with most operations before Python asks the next; where Python must know a number that
is on the GPU, or brings one there, it waits until all that was asked before is done, and the GPU
then has nothing to do. Both are counted without a GPU, forward and backward, views and allocations
left out; images of 800 px with 150 instances each, a ResNet-50 with frozen batch norm, three stages
of it trained.

Ours takes the form of a GPU, on torch's `meta` device, which computes nothing: whatever would wait
for a result raises there. Autocast knows no such device, so in bf16 ours runs on the CPU. Theirs is
torchvision's network with the same numbers in it, on the CPU; its proposals are suppressed as on a
GPU. A tensor that is made of Python's numbers counts as a wait, although a few are meant for the
CPU.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection import backbone_utils
from torchvision.ops import FrozenBatchNorm2d, boxes

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.table import Line, as_text
from benchmarks.training_step import with_full_masks
from core.config import ModelConfig, PredictConfig
from core.labels import label_maps as masks
from core.network import anchors, mask_loss, matching
from core.network.build import build_detector
from core.network.frozen_norm import FrozenBatchNorm
from core.network.mask_rcnn import MaskRCNN
from core.network.weights import BaseWeights
from core.sample import Target

SIDE, INSTANCES = 800, 150
FEW, MANY = 2, 8
WITHOUT_WORK = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like",
    "empty_strided", "expand", "is_same_size", "lift_fresh", "new_empty", "new_empty_strided",
    "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unsqueeze", "view",
}  # fmt: skip


WAITED_FOR = {"_local_scalar_dense", "_unique2", "lift_fresh", "masked_select", "nms", "nonzero"}
"""Results whose values, or number of values, Python must know, and numbers that Python brings."""
INDEXING = {"index", "index_put", "index_put_"}


class Counter(TorchDispatchMode):
    """Counts what is asked of the device while it is entered, and how often its answer is waited
    for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits = 0
        self._lists = _Lists(self)

    def __enter__(self) -> "Counter":
        self._lists.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._lists.__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.operations += name not in WITHOUT_WORK
        self.waits += name in WAITED_FOR
        if name in INDEXING:
            self.waits += any(index is not None and index.dtype == torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Counts tensors that become Python's numbers or NumPy's, which dispatches nothing."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._counter.waits += func in (torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy)
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Have the CPU compute as many boxes and masks at once as a GPU, and torchvision's suppress
    proposals as there.
    """
    with (
        mock.patch.dict(matching.IOU_ENTRIES, cpu=matching.IOU_ENTRIES["cuda"]),
        mock.patch.object(mask_loss, "CELLS_AT_ONCE", mask_loss.CELLS_ON_A_GPU),
        mock.patch.object(boxes, "_batched_nms_vanilla", boxes._batched_nms_coordinate_trick),
    ):
        yield


def networks() -> tuple[MaskRCNN, nn.Module]:
    """Ours and torchvision's, with a frozen norm as pretrained weights bring it, the same
    numbers and freezing.
    """
    torch.manual_seed(0)
    tensors = {name: value.numpy() for name, value in models.resnet50().state_dict().items()}
    config = ModelConfig(weights="drawn", trainable_layers=3)
    ours = build_detector(
        config, CLASSES, BaseWeights("drawn", "0" * 64, False, tensors), PredictConfig()
    )
    assert isinstance(ours, MaskRCNN)
    ours.fixed = True
    backbone = backbone_utils._resnet_fpn_extractor(
        models.resnet50(norm_layer=FrozenBatchNorm2d), 3
    )
    theirs: nn.Module = detection.MaskRCNN(backbone, num_classes=CLASSES + 1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@dataclass(frozen=True)
class Counts:
    """The operations and waits of a step, and its operations by part."""

    operations: int
    waits: int
    parts: Mapping[str, int]

    @property
    def in_words(self) -> str:
        """The operations of each part: `images 9, backbone 180 ...`."""
        return ", ".join(f"{part} {number}" for part, number in self.parts.items())


def counted(
    network: nn.Module, images: list[torch.Tensor], targets: list[Any], precision: str
) -> Counts:
    """A forward and a backward pass, after a forward pass that fills what is computed once."""
    counter = Counter()
    ends: dict[str, int] = {}

    def end(part: str) -> None:
        ends[part] = counter.operations

    backbone, rpn = network.get_submodule("backbone"), network.get_submodule("rpn")
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        network(images, targets)
        network.zero_grad()
        hooks = [
            backbone.register_forward_pre_hook(lambda *_: end("images")),
            backbone.register_forward_hook(lambda *_: end("backbone")),
            rpn.register_forward_hook(lambda *_: end("proposals")),
        ]
        with counter:
            terms = network(images, targets)
    end("heads")
    with counter:
        torch.stack([term.float() for term in terms.values()]).sum().backward()
    end("backward")
    for hook in hooks:
        hook.remove()
    numbers = [0, *ends.values()]
    parts = {
        part: after - before
        for part, before, after in zip(ends, numbers, numbers[1:], strict=False)
    }
    return Counts(counter.operations, counter.waits, parts)


def batch_of(images: int) -> tuple[list[torch.Tensor], list[Target]]:
    """Images crowded with cells, and what is to be learned of each."""
    samples = [image_of_cells(INSTANCES, SIDE, SIDE, seed) for seed in range(images)]
    pixels = [
        torch.from_numpy(sample.image.transpose(2, 0, 1).astype(np.float32) / 255)
        for sample in samples
    ]
    targets = [
        masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N) for sample in samples
    ]
    return pixels, targets


BEFORE = Counts(
    1259,
    9,
    {"images": 8, "backbone": 187, "proposals": 363, "heads": 407, "backward": 294},
)
"""A step of commit 82649c2, the last one whose shapes depended on what was computed: counted by
this program on processors, in fp32 (results/LOG.md)."""


def counted_now() -> Counts:
    """A step of today in fp32, on torch's `meta` device."""
    ours, _ = networks()
    pixels, targets = batch_of(FEW)
    meta = torch.device("meta")
    return counted(
        ours.to(meta), [one.to(meta) for one in pixels], [one.to(meta) for one in targets], "fp32"
    )


def one_change_less() -> Mapping[str, AbstractContextManager[Any]]:
    """Each change of the fixed form that can be taken back alone, and what takes it back."""
    few_masks = mock.patch.object(mask_loss, "CELLS_ON_A_GPU", mask_loss.CELLS_AT_ONCE)
    twice = 2 * matching.IOU_ENTRIES["cuda"]
    return {
        "frozen norm in torchvision's seven operations": mock.patch.object(
            FrozenBatchNorm, "forward", FrozenBatchNorm2d.forward
        ),
        "anchors computed anew in each step": mock.patch.object(anchors, "SIZES_KEPT", 0),
        "64 masks at a time in their loss instead of 256": few_masks,
        "twice as many overlaps at once": mock.patch.dict(matching.IOU_ENTRIES, cuda=twice),
    }


def changes(short: bool) -> Iterator[str]:
    """The step of today, then with each change taken back alone, a line each.

    short   leaves out the other form of the step, which is computed on the CPU
    """
    yield f"{'a step of today':48} {in_short(counted_now())}"
    for name, taken_back in one_change_less().items():
        with taken_back:
            yield f"{name:48} {in_short(counted_now())}"
    if not short:
        ours, _ = networks()
        ours.fixed = False
        with as_on_a_gpu():
            yield f"{'a step image by image':48} {in_short(counted(ours, *batch_of(FEW), 'fp32'))}"


def in_short(counts: Counts) -> str:
    """The operations and the waits of a step: `1,045 operations, 0 waits`."""
    return f"{counts.operations:,} operations, {counts.waits} waits"


def lines(short: bool) -> Iterator[Line]:
    """fp32; bf16 as well where there is time, which CPUs without matrix units take for it."""
    ours, theirs = networks()
    images, targets = batch_of(MANY)
    full = [with_full_masks(target, torch.device("cpu")) for target in targets[:FEW]]
    for precision in ("fp32",) if short else ("fp32", "bf16"):
        device = torch.device("meta" if precision == "fp32" else "cpu")
        network = copy.deepcopy(ours).to(device)
        pixels = [image.to(device) for image in images]
        learned = [target.to(device) for target in targets]
        with as_on_a_gpu():
            few = counted(network, pixels[:FEW], learned[:FEW], precision)
            its = counted(theirs, images[:FEW], full, precision)
        step = f"training step, {INSTANCES} instances, {SIDE} px, {precision}"
        yield Line(
            f"operations of a {step}", f"{few.operations}", f"{its.operations} torchvision",
            its.operations / few.operations, "a GPU waits for Python to ask each",
        )  # fmt: skip
        yield Line(
            "its parts",
            few.in_words,
            its.in_words,
            None,
            "the gradient of the masks is in the heads",
        )
        yield Line(
            f"waits in a {step}", f"{few.waits}", f"{its.waits} torchvision",
            None, "a GPU has nothing to do meanwhile",
        )  # fmt: skip
        if device.type == "meta":
            many = counted(network, pixels, learned, precision)
            yield Line(
                f"operations of a {step}, batch {MANY}", f"{many.operations}",
                f"{few.operations} batch {FEW}", few.operations / many.operations,
                f"waits: {many.waits}",
            )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="fp32 alone, and no other form")
    parser.add_argument("--changes", action="store_true", help="each change taken back alone")
    parsed = parser.parse_args(arguments)
    if parsed.changes:
        for line in changes(parsed.short):
            print(line, flush=True)
    else:
        print(as_text(lines(parsed.short)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
