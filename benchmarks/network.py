"""What the network's training costs beside masks: optimizer, kept activations, precision,
waiting for images.

python -m benchmarks.network                               a minute on 2 cores
python -m benchmarks.network --precision [--weights FILE]  bf16 against fp32 over three seeds, ten
                                                           minutes and more
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.cells import CLASSES, image_of_cells
from benchmarks.labels import taking_turns
from benchmarks.table import Line, as_text
from benchmarks.trial import SMALL
from core.config import ModelConfig, PredictConfig, TrialConfig
from core.data import synthetic
from core.labels import label_maps as masks
from core.network.build import build_detector
from core.training.loop import TrainingBatches
from core.training.optim import build_optimizer
from core.training.trial import Trial


def lines(short: bool) -> Iterator[Line]:
    """Without --precision, whose trainings take minutes."""
    torch.set_num_threads(1)
    yield _optimizer(5 if short else 20)
    yield from _kept_activations()
    yield _loader()


def _optimizer(times: int) -> Line:
    config = TrialConfig.from_settings({"model.weights": "none"})
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(build_detector(config.model, CLASSES, None, PredictConfig()))
    trainable = [[one for one in network.parameters() if one.requires_grad] for network in networks]
    fused = build_optimizer(networks[0], config.optim)
    plain = torch.optim.AdamW(
        trainable[1],
        lr=config.optim.learning_rate,
        weight_decay=config.optim.weight_decay,
        foreach=False,
    )
    torch.manual_seed(1)
    for one, other in zip(*trainable, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    ours, theirs, *_ = taking_turns(fused.step, plain.step, times)
    differ = max(
        float((one - other).detach().abs().max()) for one, other in zip(*trainable, strict=True)
    )
    millions = sum(one.numel() for one in trainable[0]) / 1e6
    return Line(
        f"an AdamW step, {millions:.0f} M parameters",
        f"{1e3 * ours:.0f} ms fused",
        f"{1e3 * theirs:.0f} ms plain",
        theirs / ours,
        f"weights differ by {differ:.0e} after {times + 1} steps",
    )


def _kept_activations() -> Iterator[Line]:
    """What autograd keeps of a forward pass: below the freeze depth, nothing."""
    sample = image_of_cells(30, 320, 320)
    images = [torch.from_numpy(sample.image.transpose(2, 0, 1).astype(np.float32) / 255)]
    targets = [masks.target_of(sample.label_maps, sample.labels_N, sample.crowd_N)]
    kept: dict[int, float] = {}
    for depth in (0, 1, 5):
        config = ModelConfig(
            weights="none", trainable_layers=depth, image_min_side=320, image_max_side=320,
            proposals_train=200, box_samples=32,
        )  # fmt: skip
        torch.manual_seed(0)
        network = build_detector(config, CLASSES, None, PredictConfig())
        frozen = {one.data_ptr() for one in network.parameters()}
        held: dict[int, int] = {}

        def note(
            tensor: torch.Tensor, frozen: set[int] = frozen, held: dict[int, int] = held
        ) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if tensor.data_ptr() not in frozen:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            terms = network.losses(images, targets)
        kept[depth] = sum(held.values()) / 2**20
        del terms
    for depth, what in ((0, "frozen backbone"), (1, "last stage trains")):
        yield Line(
            f"activations kept for the gradient, 320 px, {what}",
            f"{kept[depth]:.0f} MB",
            f"{kept[5]:.0f} MB all trains",
            kept[5] / kept[depth],
            "none below the freeze depth",
        )


def _loader() -> Line:
    """Images that one process prepares, with the five augmentations of the first version."""
    data = synthetic.make_cells(images=12, side=512)
    flags = ("horizontal_flip", "color_jitter", "affine", "elastic", "blur_or_noise")
    settings = {f"augment.{name}": True for name in flags}
    batches = TrainingBatches(data, tuple(range(12)), TrialConfig.from_settings(settings))
    seconds = []
    for epoch in range(1, 4):
        begin = time.perf_counter()
        for _ in batches.of_epoch(epoch):
            pass
        seconds.append(time.perf_counter() - begin)
    return Line(
        "images of 512 px prepared by one process, five augmentations",
        f"{12 / statistics.median(seconds):.0f} images/s",
        "",
        None,
        "a GPU trains some 8 to 24 images/s (published)",
    )


def precision(weights: str) -> Iterator[Line]:
    """AP50 of small trainings on the synthetic data, three seeds each, at equal settings.

    weights   of a ResNet-50, whose frozen batch norm is then in it, or none for a small network
              from scratch
    """
    torch.set_num_threads(1)
    data = synthetic.make_cells()
    found: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for seed in range(3):
        for kind, scores in found.items():
            settings = {
                **SMALL,
                "optim.epochs": 4,
                "optim.learning_rate": 1e-3,
                "optim.precision": kind,
                "seed": seed,
            }
            if weights != "none":
                settings |= {
                    "model.backbone": "resnet50",
                    "model.weights": weights,
                    "optim.learning_rate": 3e-4,
                }
                settings |= {"model.stride_in_1x1": "stride1x1" in weights}
            trial = Trial(TrialConfig.from_settings(settings), data, device="cpu", threads=1)
            for _ in range(4):
                trial.run_epoch()
            assert trial.best is not None
            scores.append(trial.best.ap50 or 0.0)
            print(f"{kind}, seed {seed}: AP50 {scores[-1]:.4f}", file=sys.stderr, flush=True)
    means = {kind: statistics.mean(scores) for kind, scores in found.items()}
    spread = statistics.stdev(found["fp32"])
    yield Line(
        "AP50 after 4 epochs, mean of 3 seeds",
        f"{means['bf16']:.3f} bf16",
        f"{means['fp32']:.3f} fp32",
        None,
        f"differ by {abs(means['bf16'] - means['fp32']):.3f}; seeds differ by {spread:.3f} (SD)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.network", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument(
        "--precision", action="store_true", help="bf16 against fp32 over three seeds"
    )
    parser.add_argument(
        "--weights", default="none", metavar="FILE", help="ResNet-50 weights for --precision"
    )
    parsed = parser.parse_args(arguments)
    print(as_text(precision(parsed.weights) if parsed.precision else lines(parsed.short)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
