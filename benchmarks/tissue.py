"""Several configurations compared side by side on CoNSeP, through the service itself.

    python -m benchmarks.tissue [--data DIR] [--weights FILE] [--presets NAME ...] [--epochs 10]
        [--seeds 3] [--out DIR] [--study NAME] [--set KEY=VALUE ...] [--short]
    python -m benchmarks.tissue --list          the presets with their settings

The presets are the variants of one study: the service packs its trials on the GPU, resumes where it
was killed, and its report says which differences are more than chance. The split is by tile, since
crops of one tile in both parts would leak. Without names eight presets are compared, with three
seeds each: 24 trials of 10 epochs, planned for five minutes on one H200 (unmeasured).

DIR holds the data in HW3 layout, or an `unpack.py` that writes it; without it, data/consep or
../shared/data/consep is taken. Names of crops end in their place in the tile, `_y_x`. FILE holds a
ResNet-50's weights; other backbones take those that `model.weights: imagenet` finds.

`--short` is for a CPU, where it can show large gains and no small ones. Two opposite quarters of
the first crop of each tile, 54 images of 250 px, are resized to 256 px, so that cells keep about
their size; the full form's factor of 1.6 (800 px for a crop of 500 px) would take 2.4 times the
work. Two fifths of the tiles validate, and 8 epochs of three seeds are trained. Sides that presets
name shrink like A's, from 800 to 256; settings that count pixels or instances of an image are
scaled to a quarter. `auto` is read off the quarters, so presets that read settings off the data see
larger images than the others, and take longer.

The baseline's trainings also predict their validation images in other ways, without further
training; the last table compares them (`benchmarks.prediction`).
"""

import argparse
import datetime
import hashlib
import platform
import subprocess
import sys
import tempfile
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from core.command import command_line
from core.config import AUTO, SETTINGS, Value
from core.console import say
from core.data import load_data, synthetic
from core.data.dataset import Dataset
from core.errors import BadRequest
from core.files import write_atomically
from core.sample import Sample
from core.text import many

Settings = Mapping[str, Value]

PLACES = (Path("data/consep"), Path("../shared/data/consep"))
"""Folders in which CoNSeP is looked for."""
GROUPS = r"^(.+)_\d+_\d+$"
"""Expression whose first group is the tile in the name of a crop."""

_REPORT: Settings = {"model.trainable_layers": 0, "optim.learning_rate": 5e-5}
"""The reference report's recipe: the backbone frozen, one learning rate, whole images at 800 px."""
_MILD: Settings = {
    "augment.horizontal_flip": True,
    "augment.color_jitter": True,
    "augment.affine": True,
    "augment.blur_or_noise": True,
}
_A: Settings = {
    "model.trainable_layers": 3,
    "optim.learning_rate": 2e-4,
    "optim.warmup_epochs": 0.5,
    "augment.horizontal_flip": True,
    "model.anchor_scale": 0.5,
    "predict.max_detections": 500,
}
"""A plain guess of a person who has looked at the images."""

_SIDES = ("model.image_min_side", "model.image_max_side")
_READ_OFF_DATA = (
    "data.crop",
    "model.anchor_scale",
    "model.proposals_train",
    "model.proposals_test",
    "predict.max_detections",
)
_CHANGES: Mapping[str, Settings] = {
    "read off the data": dict.fromkeys((*_SIDES, *_READ_OFF_DATA), AUTO),
    "anchors x 1": {"model.anchor_scale": 1.0},
    "anchors x 0.25": {"model.anchor_scale": 0.25},
    "last stage": {"model.trainable_layers": 1},
    "all stages": {"model.trainable_layers": 5},
    "5e-5": {"optim.learning_rate": 5e-5},
    "4e-4": {"optim.learning_rate": 4e-4},
    "decay 0.1": {"optim.weight_decay": 0.1},
    "no flip": {"augment.horizontal_flip": False},
    "affine": {"augment.affine": True},
    "colour": {"augment.color_jitter": True},
    "blur or noise": {"augment.blur_or_noise": True},
    "elastic": {"augment.elastic": True},
    "affine, colour, blur": {k: v for k, v in _MILD.items() if k != "augment.horizontal_flip"},
    "vertical flip": {"augment.vertical_flip": True},
    "flips and turns": {"augment.vertical_flip": True, "augment.quarter_turns": True},
    "scale jitter": {"augment.scale_jitter": True},
    "stain jitter": {"augment.stain_jitter": True},
    "copy-paste": {"augment.copy_paste": True},
    "copy-paste, rare classes": {
        "augment.copy_paste": True,
        "augment.copy_paste_most": 40,
        "augment.copy_paste_rarity": 1.0,
    },
    "rare images repeated": {"data.repeat_rare": 1.0},
    "for rare classes": {"augment.copy_paste": True, "data.repeat_rare": 1.0},
    "averaged weights": {"optim.ema": 0.5},
    "no decay on norms": {"optim.decay_norms": False},
    "backbone x 0.25": {"optim.backbone_factor": 0.25},
    "two batches a step": {"optim.accumulate": 2},
    "several sizes": {"model.size_jitter": 0.25},
    "fpn_v2": {"model.detector": "fpn_v2"},
    "fpn_v2, group norm": {"model.detector": "fpn_v2", "model.norm": "group"},
    "1,000 px": {"model.image_min_side": 1000},
    "crops of 400 px": {"data.crop": 400},
    "mirrored view": {"predict.views": "mirror"},
    "eight views": {"predict.views": "all"},
    "eight views, weighted": {"predict.views": "all", "predict.merge": "weighted"},
    "eight views that agree": {"predict.views": "all", "predict.agreement": 0.5},
    "three scales": {"predict.scales": "0.8,1,1.25"},
    "cascade": {"model.detector": "cascade"},
    "masks of 56": {"model.mask_side": 56},
    "ResNet-101": {"model.backbone": "resnet101"},
    "ResNeXt-50": {"model.backbone": "resnext50_32x4d"},
    "MobileNetV3": {"model.backbone": "mobilenet_v3_large"},
    "ConvNeXt-T": {"model.backbone": "convnext_tiny"},
    "ConvNeXt-S": {"model.backbone": "convnext_small"},
    "Swin-T": {"model.backbone": "swin_t"},
    "Swin-S": {"model.backbone": "swin_s"},
}
"""Changes of A, one thing at a time, by their names."""

_TOGETHER = (
    "read off the data",
    "flips and turns",
    "copy-paste, rare classes",
    "averaged weights",
)
PRESETS: Mapping[str, Settings] = {
    "recipe": _REPORT,
    "best row": {**_REPORT, **_MILD, "model.trainable_layers": 1, "augment.elastic": True},
    "A": _A,
    **{f"A, {name}": {**_A, **change} for name, change in _CHANGES.items()},
    "A, all of it": dict(ChainMap(*(dict(_CHANGES[name]) for name in _TOGETHER), dict(_A))),
}
"""The configurations by name; `recipe` and `best row` are rows of the reference report (Res50, and
Partial + Elastic)."""

EIGHT = (
    "recipe", "best row", "A", "A, read off the data", "A, flips and turns",
    "A, copy-paste, rare classes", "A, averaged weights", "A, all of it",
)  # fmt: skip
"""The presets that are compared where none is named."""

SHORT: Settings = {
    "data.validation_fraction": 0.4,
    "model.image_min_side": 256,
    "model.image_max_side": 384,
    "model.proposals_train": 500,
    "model.proposals_test": 250,
    "model.box_samples": 64,
    "predict.max_detections": 100,
}
"""The settings that `--short` gives all presets beside their own."""
SHORTER: Mapping[str, float] = {
    **dict.fromkeys(_SIDES, 256 / 800),
    "data.crop": 1 / 2,
    "predict.max_detections": 1 / 4,
    "augment.copy_paste_most": 1 / 4,
}
"""Factors by which `--short` multiplies settings of presets: a quarter has half the sides of its
crop and a quarter of its instances."""
TILE = 320
"""Side, in pixels, of the tiles by which `benchmarks.prediction` predicts a crop; it is half of
this for a quarter."""
LEAST_LEFT = 0.25
"""Least fraction of an instance's pixels that must lie in a quarter of its crop. An instance of
which less is left becomes background there, as an annotator would leave it."""


def space_of(names: Sequence[str], data: Path, parsed: argparse.Namespace) -> dict[str, Any]:
    """The space file of a comparison."""
    fixed: dict[str, Value] = {
        "data.group_pattern": GROUPS,
        "optim.epochs": parsed.epochs or (8 if parsed.short else 10),
        "model.weights": parsed.weights,
        "model.stride_in_1x1": parsed.stride_in_1x1,
        **(SHORT if parsed.short else {}),
    }
    return {
        "study": parsed.study,
        "data": str(data.resolve()),
        "fixed": fixed,
        "variants": {name: _variant(PRESETS[name], parsed.short) for name in names},
        "baseline": _baseline(names),
        "seeds": parsed.seeds or 3,
    }


def _baseline(names: Sequence[str]) -> str:
    return "A" if "A" in names else names[0]


def _variant(preset: Settings, short: bool) -> dict[str, Value]:
    settings = dict(preset)
    if "model.backbone" in settings:  # the weights that all share are a ResNet-50's
        settings |= {"model.weights": "imagenet", "model.stride_in_1x1": False}
    if not short:
        return settings
    if settings.get("augment.copy_paste"):
        name = "augment.copy_paste_most"
        settings.setdefault(name, SETTINGS[name])
    for name, factor in SHORTER.items():
        value = settings.get(name, AUTO)
        if value != AUTO:
            settings[name] = round(factor * float(value))
    return settings


def data_of(where: Path, out: Path, short: bool) -> Path:
    """The folder of the data set in HW3 layout: `where`, or what is written from it to the folder
    `out`.

    Raises BadRequest where it cannot be written.
    """
    # What an earlier call wrote from another folder is not this data set.
    source = hashlib.sha256(str(where.resolve()).encode()).hexdigest()[:8]
    target = out / f"tissue-{'quarters' if short else 'data'}-{source}"
    unpacks = (where / "unpack.py").exists()
    if target.exists() or not (unpacks or short):
        return target if unpacks or short else where
    with tempfile.TemporaryDirectory(dir=out) as folder:
        whole = where
        if unpacks:
            whole = Path(folder) / "whole"
            ended = subprocess.run([sys.executable, where / "unpack.py", whole], check=False)
            if ended.returncode:
                raise BadRequest(
                    f"{where / 'unpack.py'} must end with status 0, and ended with"
                    f" {ended.returncode}; see its messages above"
                )
        if short:
            few = Path(folder) / "few"
            synthetic.write_hw3(quarters(load_data(str(whole))), few)
            whole = few
        whole.rename(target)
    return target


def found_data() -> Path:
    """The folder of CoNSeP, where it lies in one of PLACES. Raises BadRequest."""
    found = [path for path in PLACES if path.is_dir()]
    if not found:
        raise BadRequest(
            f"CoNSeP must be in {' or '.join(map(str, PLACES))}, and neither is there; name its"
            " folder with --data DIR"
        )
    return found[0]


def quarters(data: Dataset) -> Dataset:
    """The upper left and the lower right quarter of the first crop of each tile, by name.

    They are named after their place in the tile, as crops are.
    """
    tiles: dict[str, Sample] = {}
    for crop in data.samples:
        tiles.setdefault(crop.name.rsplit("_", 2)[0], crop)
    of_two = (quarter for crop in tiles.values() for quarter in (*_quarters(crop),)[::3])
    return replace(data, samples=tuple(of_two))


def all_quarters(data: Dataset) -> Dataset:
    """The four quarters of every crop, named after their place in the tile."""
    return replace(data, samples=tuple(one for crop in data.samples for one in _quarters(crop)))


def _quarters(crop: Sample) -> Iterator[Sample]:
    """The four quarters of a crop, row by row."""
    tile, top, left = crop.name.rsplit("_", 2)
    height, width = (side // 2 for side in crop.size)
    whole = np.bincount(crop.label_maps.ravel(), minlength=len(crop.labels_N) + 1)
    for y0, x0 in ((0, 0), (0, width), (height, 0), (height, width)):
        rows, columns = slice(y0, y0 + height), slice(x0, x0 + width)
        maps = crop.label_maps[:, rows, columns]
        here = np.bincount(maps.ravel(), minlength=len(whole))
        (kept,) = np.nonzero((here[1:] > 0) & (here[1:] >= LEAST_LEFT * whole[1:]))
        numbers = np.zeros(len(whole), np.uint16)
        numbers[kept + 1] = np.arange(1, len(kept) + 1)
        yield Sample(
            f"{tile}_{int(top) + y0}_{int(left) + x0}",
            crop.image[rows, columns],
            numbers[maps],
            crop.labels_N[kept],
            crop.crowd_N[kept],
        )


def compare(parsed: argparse.Namespace) -> str:
    """Run the comparison, or continue it; returns what is written about it, as Markdown."""
    from benchmarks.prediction import TriesWays, compared
    from tune import load_request, read_study, report
    from tune.announcements import search_lines
    from tune.report.content import content_of
    from tune.study import conductor
    from tune.study.options import Options
    from tune.study.plan import plan_study

    names = list(parsed.presets or EIGHT)
    out: Path = parsed.out
    out.mkdir(parents=True, exist_ok=True)
    data = data_of(parsed.data or found_data(), out, parsed.short)
    space = out / f"{parsed.study}.yaml"
    write_atomically(space, yaml.safe_dump(space_of(names, data, parsed), sort_keys=False).encode())
    begin = time.monotonic()
    plan = plan_study(load_request(space, parsed.set), Options(out, time_budget=parsed.time_budget))
    console = Console(stderr=True)
    for line in search_lines(plan):
        say(console, line)
    tile = TILE // 2 if parsed.short else TILE
    base = _baseline(names)
    of_base = next(row.config for row in plan.request.space.rows() if row.name == base)
    conductor.run_study(plan, console, TriesWays(of_base, tile))
    seconds = time.monotonic() - begin
    study = read_study(parsed.study, out)
    say(console, f"Report: {report(study)}")
    found = content_of(study)
    images = study.description["data"]["images"]
    short = " This is the short form, for a CPU: small gains do not show." if parsed.short else ""
    head = (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.machine()},"
        f" {_device()}: {len(names)} presets, n = {plan.request.space.seeds} seeds, {images} images"
        f" split by tile, {many(plan.request.max_epochs, 'epoch')}; this call took {seconds:.0f} s."
        f"{short}\n\n"
        f"    {' '.join(['python -m benchmarks.tissue', *sys.argv[1:]])}"
    )
    shown = [table for table in found.tables if table.name in ("methods", "limits")]
    parts = [head, "\n".join(found.answer), *(table.markdown() for table in shown)]
    return "\n\n".join([*parts, compared(study, base, tile)]) + "\n"


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _listed() -> str:
    return "\n".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in preset.items())}"
        for name, preset in PRESETS.items()
    )


@command_line("Interrupted; to continue, run the same command again")
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of a comparison, and write it to OUT/STUDY.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tissue", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--weights", default="imagenet", metavar="FILE")
    parser.add_argument("--stride-in-1x1", action="store_true", help="of the weights")
    parser.add_argument("--presets", nargs="+", choices=[*PRESETS], metavar="NAME")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--study", metavar="NAME", help="tissue, or tissue-short")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--list", action="store_true")
    parsed = parser.parse_args(arguments)
    if parsed.list:
        print(_listed())
        return 0
    parsed.study = parsed.study or ("tissue-short" if parsed.short else "tissue")
    text = compare(parsed)
    write_atomically(parsed.out / f"{parsed.study}.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
