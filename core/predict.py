"""Use a trained model: COCO results of new images, of any size.

    python -m core.predict --model results/STUDY/best --images DIR --out results.json

Beside the results, `results.images.json` lists the images with their ids, and the categories, as COCO does:
`COCO("results.images.json").loadRes("results.json")` reads the two. Nothing is written before the last image is done.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.config import TrialConfig
from core.console import complain, say
from core.data import TestImage, list_images
from core.data.images import read_test_image
from core.data.listing import find_listing
from core.device import MOST_THREADS
from core.errors import BadRequest, CellTuneError, ResourceError
from core.files import write_atomically, write_json_atomically
from core.inference import about_full_tiles
from core.interrupts import exit_status, terminable
from core.submission import results_of
from core.text import many
from core.trained_model import TrainedModel, load


@terminable()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 a wrong request, 1 the rest, 130 or 143 interrupted."""
    parsed = _parser().parse_args(arguments)
    console = Console()
    try:
        _set_threads(parsed.threads)
        images = list_images(parsed.images)
        listing_out = _listing_beside(parsed.out, parsed.images)
        trained = _with_options(load(parsed.model, parsed.device), parsed)
        classes = f"{many(len(trained.classes), 'class')} ({', '.join(category.name for category in trained.classes)})"
        on = next(trained.model.parameters()).device
        say(console, f"Model {parsed.model}: {trained.config.model.backbone}, {classes}, on {on}")
        results, full_tiles = _predict(trained, images, console)
        _write(parsed.out, listing_out, results, _listing(trained, images))
    except BadRequest as error:
        complain(error)
        return 2
    except CellTuneError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain(f"Interrupted: {parsed.out} was not written")
        return exit_status()
    done = f"{many(len(images), 'image')}, {many(len(results), 'instance')}"
    say(console, f"{done}: {parsed.out} (the images and their ids: {listing_out})")
    full = about_full_tiles(full_tiles, trained.config.predict.max_detections, "--max-detections")
    if full:
        say(console, full)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core.predict",
        description="Predict instances with a trained model and write them as COCO results.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="a trained model, such as results/STUDY/best")
    add(
        "--images",
        required=True,
        metavar="DIR",
        help="a folder of TIFF, PNG or JPEG files, a data set with a test listing (HW3 or COCO), or the listing",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="the results, a .json file in a folder that exists")
    settings = parser.add_argument_group("prediction; what is not given is as the model was trained or tuned")
    add = settings.add_argument
    add("--flips", action=argparse.BooleanOptionalAction, help="predict on the mirrored image as well and merge")
    add("--tile", type=int, metavar="N", help="side of overlapping tiles in pixels; 0: the training crop, or no tiles")
    add("--score-threshold", type=float, metavar="X", help="instances must score more than this")
    add("--max-detections", type=int, metavar="N", help="most instances of a tile, or of an image without")
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="auto", metavar="auto|cpu|cuda:0", help="auto, the default: the first GPU, else the CPU")
    add("--threads", type=int, metavar="N", help="processor threads; default: those that torch takes")
    return parser


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise BadRequest(f"--threads must be from 1 to {MOST_THREADS}, and is {threads}")
    torch.set_num_threads(threads)


def _listing_beside(out: Path, images: str) -> Path:
    """The file of the images' ids, beside `out`. Raises BadRequest where the two could not be written in the end."""
    if out.suffix != ".json":
        raise BadRequest(f"--out must be the name of a .json file, and is {str(out)!r}")
    beside = out.with_suffix(".images.json")
    source = find_listing(Path(images))
    try:
        for path in (out, beside):
            if path.is_dir():
                raise BadRequest(f"--out: {path} must be a file, and is a folder; name another file")
            if source is not None and path.exists() and path.samefile(source):
                raise BadRequest(f"--out: {path} lists the images, and would be overwritten; name another file")
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{beside.name}.", suffix=".part"):
            return beside
    except OSError as error:
        raise BadRequest(f"--out: {out} cannot be written: {error.strerror}; name a file in another folder") from None


def _with_options(trained: TrainedModel, parsed: argparse.Namespace) -> TrainedModel:
    """The model, predicting with the settings that the command line names."""
    config = trained.config
    for name in ("flips", "tile", "score_threshold", "max_detections"):
        value = getattr(parsed, name)
        if value is not None:
            settings = config.settings() | {f"predict.{name}": value}
            config = TrialConfig.from_settings(settings, f"--{name.replace('_', '-')}")
    return trained.predicting_with(config.predict)


def _predict(trained: TrainedModel, images: Sequence[TestImage], console: Console) -> tuple[list[str], list[int]]:
    """Each result as JSON, image after image, and how many tiles of each image are full.

    Text takes a fraction of what the objects would, masks included.
    """
    results: list[str] = []
    full_tiles: list[int] = []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(images))
        for number, image in enumerate(images, start=1):
            progress.update(task, description=image.file_name)
            begin = time.perf_counter()
            of_image, full = _results_in(trained, image)
            results += of_image
            full_tiles.append(full)
            progress.advance(task)
            if not console.is_terminal:
                seconds = time.perf_counter() - begin
                found = many(len(of_image), "instance")
                say(console, f"{number}/{len(images)} {image.file_name}: {found}, {seconds:.1f} s")
    return results, full_tiles


def _results_in(trained: TrainedModel, image: TestImage) -> tuple[list[str], int]:
    try:
        found = trained.predict(read_test_image(image))
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"{image.file_name}: {image.height} x {image.width} pixels do not fit in the GPU's memory; "
            "use --tile 1024, or --device cpu"
        ) from None
    results = results_of(found, image.id, image.height, image.width, trained.classes)
    return [json.dumps(result, allow_nan=False) for result in results], found.full_tiles


def _listing(trained: TrainedModel, images: Sequence[TestImage]) -> dict[str, Any]:
    """What the ids in the results mean: a COCO file without annotations."""
    return {
        "images": [
            {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": [],
        "categories": [asdict(category) for category in trained.classes],
    }


def _write(out: Path, listing_out: Path, results: Sequence[str], listing: dict[str, Any]) -> None:
    try:
        write_json_atomically(listing_out, listing)
        write_atomically(out, ("[\n" + ",\n".join(results) + "\n]\n").encode())
    except OSError as error:
        raise CellTuneError(f"{out} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
