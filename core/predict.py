"""Use a trained model: COCO results of new images, of any size.

    python -m core.predict --model results/STUDY/best --images DIR --out results.json

Beside the results, `results.images.json` lists the images with their ids, and the categories, as
COCO does: `COCO("results.images.json").loadRes("results.json")` reads the two.

An image that cannot be predicted does not stop the others: it is named, it is in neither file, and
the exit status is 1. The two files are written at the end with the images that are done, also where
Ctrl-C ends the command.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.config import TrialConfig
from core.console import complain, say
from core.data import Problem, TestImage
from core.data.dataset import first_of
from core.data.images import read_test_image
from core.data.listing import find_listing, look_through
from core.device import MOST_THREADS
from core.errors import BadRequest, CellTuneError, DataError, ResourceError
from core.files import write_atomically, write_json_atomically
from core.interrupts import exit_status, terminable
from core.prediction.detect import about_full_tiles
from core.prediction.submission import results_of
from core.prediction.trained_model import TrainedModel, load
from core.text import many


@dataclass
class _Done:
    """The results of the images so far.

    images      the images that were predicted
    results     their results as JSON: text takes a fraction of the objects' memory, masks included
    full_tiles  for each predicted image, the number of tiles that reached the cap on detections
    left_out    a sentence for each image that could not be predicted
    """

    images: list[TestImage] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    full_tiles: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{many(len(self.images), 'image')}, {many(len(self.results), 'instance')}"


@terminable()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    It is 0 if every image was predicted; 1 if some were left out or the results could not be
    written; 2 for a wrong request, where nothing was written; 130 or 143 after an interruption,
    where the images that are done were written.
    """
    parsed = _parser().parse_args(arguments)
    console = Console()
    done = _Done()
    try:
        _set_threads(parsed.threads)
        images, problems = look_through(parsed.images)
        if not images:
            raise DataError(first_of(problems))
        listing_out = _listing_beside(parsed.out, parsed.images)
        trained = _with_options(load(parsed.model, parsed.device), parsed)
        _say_what_is_used(console, parsed.model, trained, problems)
        try:
            _predict(trained, images, console, done)
        finally:  # what took minutes is kept, whatever ended the rest
            for sentence in done.left_out:
                complain(f"Left out: {sentence}")
            if done.images:
                _write(parsed.out, listing_out, done.results, _listing(trained, done.images))
    except BadRequest as error:
        complain(error)
        return 2
    except CellTuneError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        kept = f"holds {done}, of {len(images):,}" if done.images else "was not written"
        complain(f"Interrupted: {parsed.out} {kept}")
        return exit_status()
    left_out = len(done.left_out) + len(problems)
    if not done.images:
        complain(f"No image could be predicted; {parsed.out} was not written")
        return 1
    rest = f"; {many(left_out, 'image')} left out" if left_out else ""
    say(console, f"{done}: {parsed.out} (the images and their ids: {listing_out}){rest}")
    full = about_full_tiles(
        done.full_tiles, trained.config.predict.max_detections, "--max-detections"
    )
    if full:
        say(console, full)
    return 1 if left_out else 0


def _say_what_is_used(
    console: Console, model: Path, trained: TrainedModel, problems: Sequence[Problem]
) -> None:
    for problem in problems:
        complain(f"Left out: {problem}")
    classes = (
        f"{many(len(trained.classes), 'class')}"
        f" ({', '.join(category.name for category in trained.classes)})"
    )
    on = next(trained.model.parameters()).device
    say(console, f"Model {model}: {trained.config.model.backbone}, {classes}, on {on}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core.predict",
        description="Predict instances with a trained model and write them as COCO results.",
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a trained model, such as results/STUDY/best",
    )
    add(
        "--images",
        required=True,
        metavar="DIR",
        help=(
            "a folder of TIFF, PNG, JPEG or BMP files, a data set with a test listing (HW3 or"
            " COCO), or the listing"
        ),
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the results, a .json file in a folder that exists",
    )
    settings = parser.add_argument_group(
        "prediction; what is not given is as the model was trained or tuned"
    )
    add = settings.add_argument
    add(
        "--flips",
        action=argparse.BooleanOptionalAction,
        help="predict on the mirrored image as well and merge",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="side of overlapping tiles in pixels; 0: the training crop, or no tiles",
    )
    add("--score-threshold", type=float, metavar="X", help="instances must score more than this")
    add(
        "--max-detections",
        type=int,
        metavar="N",
        help="most instances of a tile, or of an image without",
    )
    add = parser.add_argument_group("machine").add_argument
    add(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda:0",
        help="auto, the default: the first GPU, else the CPU",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="processor threads; default: those that torch takes",
    )
    return parser


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise BadRequest(f"--threads must be from 1 to {MOST_THREADS}, and is {threads}")
    torch.set_num_threads(threads)


def _listing_beside(out: Path, images: str) -> Path:
    """The file of the images' ids, beside `out`.

    Raises BadRequest where the two could not be written in the end.
    """
    if out.suffix != ".json":
        raise BadRequest(f"--out must be the name of a .json file, and is {str(out)!r}")
    beside = out.with_suffix(".images.json")
    source = find_listing(Path(images))
    try:
        for path in (out, beside):
            if path.is_dir():
                raise BadRequest(
                    f"--out: {path} must be a file, and is a folder; name another file"
                )
            if source is not None and path.exists() and path.samefile(source):
                raise BadRequest(
                    f"--out: {path} lists the images, and would be overwritten; name another file"
                )
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{beside.name}.", suffix=".part"):
            return beside
    except OSError as error:
        raise BadRequest(
            f"--out: {out} cannot be written: {error.strerror}; name a file in another folder"
        ) from None


def _with_options(trained: TrainedModel, parsed: argparse.Namespace) -> TrainedModel:
    """The model, predicting with the settings that the command line names."""
    config = trained.config
    for name in ("flips", "tile", "score_threshold", "max_detections"):
        value = getattr(parsed, name)
        if value is not None:
            settings = config.settings() | {f"predict.{name}": value}
            config = TrialConfig.from_settings(settings, f"--{name.replace('_', '-')}")
    return trained.predicting_with(config.predict)


def _predict(
    trained: TrainedModel, images: Sequence[TestImage], console: Console, done: _Done
) -> None:
    """Predict image after image; each is added to `done`, which so holds all finished images
    whenever this ends.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(images))
        for number, image in enumerate(images, start=1):
            progress.update(task, description=image.file_name)
            begin = time.perf_counter()
            try:
                of_image, full = _results_in(trained, image)
            except (DataError, ResourceError) as error:
                done.left_out.append(str(error))
                found = "left out"
            else:
                done.images.append(image)
                done.results += of_image
                done.full_tiles.append(full)
                found = many(len(of_image), "instance")
            progress.advance(task)
            if not console.is_terminal:
                seconds = time.perf_counter() - begin
                say(console, f"{number}/{len(images)} {image.file_name}: {found}, {seconds:.1f} s")


def _results_in(trained: TrainedModel, image: TestImage) -> tuple[list[str], int]:
    try:
        found = trained.predict(read_test_image(image))
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"{image.file_name}: {image.height} x {image.width} pixels do not fit in the GPU's"
            " memory; use --tile 1024, or --device cpu"
        ) from None
    results = results_of(found, image.id, image.height, image.width, trained.classes)
    return [json.dumps(result, allow_nan=False) for result in results], found.full_tiles


def _listing(trained: TrainedModel, images: Sequence[TestImage]) -> dict[str, Any]:
    """The images and categories that the ids in the results refer to, as a COCO file without
    annotations.
    """
    return {
        "images": [
            {
                "id": image.id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
            }
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
