"""The predictions of many images, written as COCO results.

Beside the results, `OUT.images.json` lists the images with their ids, and the categories, as COCO
does: `COCO("results.images.json").loadRes("results.json")` reads the two.

An image that cannot be predicted does not stop the others: it is named, and it is in neither file.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.config import TrialConfig, Value
from core.console import complain, say
from core.data import Problem, TestImage
from core.data.dataset import first_problem_of
from core.data.images import read_test_image
from core.data.listing import find_listing, look_through
from core.device import MOST_THREADS
from core.errors import BadRequest, CellTuneError, DataError, ResourceError
from core.files import reason_of, refused, write_atomically, write_json_atomically
from core.prediction.detect import about_full_tiles
from core.prediction.submission import results_of
from core.prediction.trained_model import TrainedModel, load
from core.text import many
from core.values import as_seconds


@dataclass
class _Done:
    """The results of the images so far.

    images       the images that were predicted
    results      their results, one JSON text each, which take a fraction of the memory of objects
    full_tiles   for each predicted image, the number of tiles that reached the cap on detections
    left_out     a sentence for each image that could not be predicted
    """

    images: list[TestImage] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    full_tiles: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{many(len(self.images), 'image')}, {many(len(self.results), 'instance')}"


def predict_batch(
    model: Path,
    images: str,
    out: Path,
    settings: Mapping[str, Value],
    console: Console,
    device: str = "auto",
    threads: int | None = None,
) -> bool:
    """Predict images and write the results; returns whether no image was left out.

    model      folder of a trained model
    images     folder, list or file of images (see `core.data.listing.list_images`)
    out        JSON file of the results; `OUT.images.json` beside it lists the images
    settings   settings of prediction by name, which replace the model's own
    device     as in `core.device.resolve_device`
    threads    number of CPU threads of torch; None for torch's own number

    Raises BadRequest before anything is predicted, and CellTuneError where the results cannot be
    written. Whatever ends the prediction, the results of the images that are done are written.
    """
    _set_threads(threads)
    found, problems = look_through(images)
    if not found:
        raise DataError(first_problem_of(problems))
    listing_out = _listing_beside(out, images)
    trained = _with_settings(load(model, device), settings)
    _say_what_is_used(console, model, trained, problems)
    done = _Done()
    try:
        try:
            _predict(trained, found, console, done)
        finally:
            for sentence in done.left_out:
                complain(f"Left out: {sentence}")
            if done.images:
                _write(out, listing_out, done.results, _listing(trained, done.images))
    except KeyboardInterrupt:
        kept = f"holds {done}, of {len(found):,}" if done.images else "was not written"
        raise KeyboardInterrupt(f"Interrupted: {out} {kept}") from None
    if not done.images:
        complain(f"No image could be predicted; {out} was not written")
        return False
    left_out = len(done.left_out) + len(problems)
    rest = f"; {many(left_out, 'image')} left out" if left_out else ""
    say(console, f"{done}: {out} (the images and their ids: {listing_out}){rest}")
    full = about_full_tiles(
        done.full_tiles, trained.config.predict.max_detections, "--max-detections"
    )
    if full:
        say(console, full)
    return not left_out


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


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise BadRequest(f"--threads must be from 1 to {MOST_THREADS}, and is {threads}")
    torch.set_num_threads(threads)


def _listing_beside(out: Path, images: str) -> Path:
    """The path of the file of images and ids, beside `out`.

    Raises BadRequest where one of the two files could not be written in the end.
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
            f"--out: {out} cannot be written: {reason_of(error)}; name a file in another folder"
        ) from None


def _with_settings(trained: TrainedModel, settings: Mapping[str, Value]) -> TrainedModel:
    """The model with these settings of prediction in place of its own.

    `predict.flips` and `predict.views` say the same thing, so either of them, if given, replaces
    both. Raises SettingError for a value that a setting does not take.
    """
    config = trained.config
    if "predict.views" in settings:
        settings = {"predict.flips": False, **settings}
    elif settings.get("predict.flips") is False and config.predict.views == "mirror":
        settings = {"predict.views": "none", **settings}
    for name, value in settings.items():
        option = f"--{name.removeprefix('predict.').replace('_', '-')}"
        config = TrialConfig.from_settings(config.settings() | {name: value}, option)
    return trained.predicting_with(config.predict)


def _predict(
    trained: TrainedModel, images: Sequence[TestImage], console: Console, done: _Done
) -> None:
    """Predict image after image, and add the results of each to `done` at once.

    However this ends, `done` holds all finished images.
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
                say(
                    console,
                    f"{number}/{len(images)} {image.file_name}: {found}, {as_seconds(seconds)}",
                )


def _results_in(trained: TrainedModel, image: TestImage) -> tuple[list[str], int]:
    """The results in an image as JSON texts, and the number of tiles that reached the cap."""
    try:
        # One thread drives the network, the others paste the masks of tiles that it has looked at.
        found = trained.predict(read_test_image(image), helpers=torch.get_num_threads() - 1)
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"{image.file_name}: {image.height} x {image.width} pixels do not fit in the GPU's"
            " memory; use --tile 1024, or --device cpu"
        ) from None
    results = results_of(found, image.id, image.height, image.width, trained.classes)
    return [json.dumps(result, allow_nan=False) for result in results], found.full_tiles


def _listing(trained: TrainedModel, images: Sequence[TestImage]) -> dict[str, Any]:
    """The images and categories to which the ids in the results refer, as COCO has them."""
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
        raise CellTuneError(refused(error, out)) from None
