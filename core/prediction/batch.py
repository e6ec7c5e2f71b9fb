"""The predictions of many images, written as each is done.

An image that cannot be predicted does not stop the others: it is named, and it is in no file.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.config import AUTO, TrialConfig, Value
from core.console import complain, say
from core.data import Problem, TestImage
from core.data.dataset import examples_of, first_problem_of
from core.data.images import of_8_bits, read_test_image
from core.data.listing import find_listing, look_through
from core.data.pixel_size import PixelSize, parse_pixel_size, pixel_size_of
from core.device import MOST_THREADS
from core.errors import BadRequest, CellTuneError, DataError, ResourceError
from core.files import reason_of, refused
from core.prediction.detect import about_full_tiles
from core.prediction.learned import balanced_score_in, read_metrics, warning_of
from core.prediction.outputs import OUTPUTS, Files, PerImage, Predicted, file_names, listing_beside
from core.prediction.trained_model import TrainedModel, load
from core.text import have, listed, many
from core.values import as_number, as_seconds

USUAL_SCORE = 0.5
"""Least score of a cell where nothing says at which score F1 is highest."""


@dataclass(frozen=True)
class Place:
    """The place to which predictions are written.

    folder    folder of all files
    results   name of the file of COCO results in it; empty for that of `OUTPUTS`
    outputs   names in OUTPUTS
    """

    folder: Path
    results: str
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.folder / self.results)


@dataclass
class _Done:
    """The images so far, and their numbers.

    images       the images that were predicted
    instances    number of their detections
    cells        number of their cells
    covered      number of detections that better ones cover wholly
    unsized      number of images whose pixels are of unknown size
    full_tiles   for each predicted image, the number of tiles that reached the cap on detections
    cells_capped   whether that cap may have kept out a cell of some image
    left_out     a sentence for each image that could not be predicted
    """

    images: list[TestImage] = field(default_factory=list)
    instances: int = 0
    cells: int = 0
    covered: int = 0
    unsized: int = 0
    full_tiles: list[int] = field(default_factory=list)
    cells_capped: bool = False
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{many(len(self.images), 'image')}, {many(self.instances, 'detection')}"


@dataclass(frozen=True)
class _Look:
    """The circumstances that all images of a prediction share.

    least_score   least score of a cell
    why           where that score comes from, in words
    pixel_size    size of a pixel of all images; None where their files tell
    warning       as in `Predicted`
    has_cells     whether cells are written, beside COCO results
    once          whether each image is looked at once, as a whole, so that what a cap keeps out
                  scores no more than the last detection
    """

    least_score: float
    why: str
    pixel_size: PixelSize | None
    warning: str
    has_cells: bool
    once: bool


def predict_batch(
    model: Path,
    images: str,
    out: Path,
    settings: Mapping[str, Value],
    console: Console,
    device: str = "auto",
    threads: int | None = None,
    write: str | None = None,
    pixel_size: str | None = None,
) -> bool:
    """Predict images and write what is found; returns whether no image was left out.

    model        folder of a trained model
    images       folder, list or file of images (see `core.data.listing.list_images`)
    out          JSON file of COCO results, or a folder of all kinds of files
    settings     settings of prediction by name, which replace the model's own
    device       as in `core.device.resolve_device`
    threads      number of CPU threads of torch; None for torch's own number
    write        names in OUTPUTS with commas between them; None for all in a folder
    pixel_size   size of a pixel in micrometres, as `--pixel-size` takes it; None to read it off
                 the files

    Raises BadRequest before anything is predicted, and CellTuneError where the files cannot be
    written. Whatever is raised, the files of the images that are done are written.
    """
    _set_threads(threads)
    given = None if pixel_size is None else parse_pixel_size(pixel_size, "--pixel-size")
    place = _place_of(out, write)
    found, problems = look_through(images)
    if not found:
        raise DataError(first_problem_of(problems))
    _check_place(place, images)
    trained = _with_settings(load(model, device), settings)
    look = _look_of(model, trained, settings, given, place)
    _say_what_is_used(console, model, trained, problems, look)
    _say_what_differs(console, trained.config.data.intensity, found)
    done = _Done()
    files = Files(place.folder, place.outputs, place.results)
    try:
        try:
            _predict(trained, found, console, done, files, look)
        finally:
            for sentence in done.left_out:
                complain(f"Left out: {sentence}")
            _finish(files, done, trained, place)
    except KeyboardInterrupt:
        kept = f"holds {done}, of {len(found):,}" if done.images else "was not written"
        raise KeyboardInterrupt(f"Interrupted: {place} {kept}") from None
    if not done.images:
        complain(f"No image could be predicted; {place} was not written")
        return False
    _say_what_was_written(console, trained, place, look, done, len(problems))
    return not (done.left_out or problems)


def _look_of(
    model: Path,
    trained: TrainedModel,
    settings: Mapping[str, Value],
    given: PixelSize | None,
    place: Place,
) -> _Look:
    """The least score of a cell and the warning, from the options and `metrics.json`."""
    metrics = read_metrics(model)
    balanced = balanced_score_in(metrics)
    if "predict.score_threshold" in settings:
        least, why = trained.config.predict.score_threshold, "--score-threshold"
    elif balanced is not None:
        least, why = balanced, "where F1 was highest on the validation images"
    else:
        least, why = USUAL_SCORE, "the usual one; --score-threshold sets another"
    predict = trained.config.predict
    once = (
        not (predict.tile or trained.config.data.crop or predict.flips)
        and predict.views == "none"
        and "," not in predict.scales
        and predict.merge != "soft_nms"
    )
    return _Look(least, why, given, warning_of(metrics), place.outputs != ("coco",), once)


def _finish(files: Files, done: _Done, trained: TrainedModel, place: Place) -> None:
    """Finish the files of the images that are done, or remove what was begun."""
    if not done.images:
        files.drop()
        return
    try:
        files.finish(done.images, trained.classes)
    except OSError as error:
        raise CellTuneError(refused(error, place)) from None


def _say_what_is_used(
    console: Console,
    model: Path,
    trained: TrainedModel,
    problems: Sequence[Problem],
    look: _Look,
) -> None:
    for problem in problems:
        complain(f"Left out: {problem}")
    classes = (
        f"{many(len(trained.classes), 'class')}"
        f" ({', '.join(category.name for category in trained.classes)})"
    )
    on = next(trained.model.parameters()).device
    say(console, f"Model {model}: {trained.config.model.backbone}, {classes}, on {on}")
    if look.warning:
        say(console, f"Warning: {look.warning}")


def _say_what_differs(console: Console, intensity: str, images: Sequence[TestImage]) -> None:
    """Name images of 8 bits where the model's own images were brought to 8 bits by a range."""
    if intensity == AUTO or not (flat := of_8_bits(images)):
        return
    say(
        console,
        f"Note: {many(len(flat), 'image')} {have(len(flat))} 8 bits a channel"
        f" ({examples_of(flat)}), and the model brings images of more bits to 8 by data.intensity"
        f" {intensity}; if it was trained on such images, save these with as many bits, or their"
        " brightness differs",
    )


def _say_what_was_written(
    console: Console, trained: TrainedModel, place: Place, look: _Look, done: _Done, problems: int
) -> None:
    left_out = len(done.left_out) + problems
    rest = f"; {many(left_out, 'image')} left out" if left_out else ""
    if place.results:
        beside = listing_beside(place.folder / place.results)
        say(console, f"{done}: {place} (the images and their ids: {beside}){rest}")
    else:
        names = [
            f"{output.folder}/" if isinstance(output, PerImage) else output.name
            for output in map(OUTPUTS.__getitem__, place.outputs)
        ]
        say(console, f"{done}: {place} ({listed(names)}){rest}")
    if look.has_cells:
        say(
            console,
            f"{many(done.cells, 'cell')}: detections with a score of"
            f" {as_number(look.least_score, 3)} or more ({look.why}), and where they overlap the"
            " better one has the pixel" + _covered(done.covered),
        )
    if look.has_cells and done.unsized:
        say(
            console,
            f"The pixel size of {many(done.unsized, 'image')} is not known, so cells there are"
            " measured in pixels alone; --pixel-size gives it in micrometres",
        )
    full = about_full_tiles(
        done.full_tiles, trained.config.predict.max_detections, "--max-detections"
    )
    if full:
        if look.has_cells and not done.cells_capped:
            full += "; these would score too little to be cells"
        say(console, full)


def _covered(count: int) -> str:
    verb = "lies" if count == 1 else "lie"
    return f"; {many(count, 'other')} {verb} wholly under better ones" if count else ""


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise BadRequest(f"--threads must be from 1 to {MOST_THREADS}, and is {threads}")
    torch.set_num_threads(threads)


def _place_of(out: Path, write: str | None) -> Place:
    """The place and outputs that `--out` and `--write` ask for. Raises BadRequest."""
    is_file = out.suffix == ".json" and not out.is_dir()
    known = ", ".join(OUTPUTS)
    wanted = tuple(OUTPUTS if write is None else dict.fromkeys(write.split(",")))
    unknown = [name for name in wanted if name not in OUTPUTS]
    if unknown:
        raise BadRequest(f"--write must name some of {known}, and names {unknown[0]!r}")
    if is_file:
        if write is not None and wanted != ("coco",):
            raise BadRequest(
                f"--write {write} needs a folder in --out, and {out} is a file, which holds COCO"
                " results alone; name a folder"
            )
        return Place(out.parent, out.name, ("coco",))
    if (out.suffix or out.exists()) and not out.is_dir():
        raise BadRequest(
            "--out must be the name of a .json file, or of a folder for all kinds of files, and"
            f" is {str(out)!r}; a new folder is named without a point"
        )
    return Place(out, "", wanted)


def _check_place(place: Place, images: str) -> None:
    """Raise BadRequest where the files could not be written in the end, or would destroy others."""
    try:
        if place.results:
            _check_file(place, find_listing(Path(images)))
            tried, longest = place.folder, listing_beside(place.folder / place.results).name
        elif place.folder.exists():
            _check_folder(place.folder)
            tried, longest = place.folder, ""
        else:
            tried, longest = place.folder.parent, place.folder.name
        with tempfile.NamedTemporaryFile(dir=tried, prefix=f".{longest}.", suffix=".part"):
            return
    except OSError as error:
        another = "name a file in another folder" if place.results else "name another folder"
        raise BadRequest(
            f"--out: {place} cannot be written: {reason_of(error)}; {another}"
        ) from None


def _check_file(place: Place, source: Path | None) -> None:
    out = place.folder / place.results
    for path in (out, listing_beside(out)):
        if path.is_dir():
            raise BadRequest(f"--out: {path} must be a file, and is a folder; name another file")
        if source is not None and path.exists() and path.samefile(source):
            raise BadRequest(
                f"--out: {path} lists the images, and would be overwritten; name another file"
            )


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files: they may be another prediction, which a person has corrected."""
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if there:
        raise BadRequest(
            f"--out: {folder} must be a new or an empty folder, and holds {there[0]}; name another"
            " folder, or remove this one"
        )


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
    trained: TrainedModel,
    images: Sequence[TestImage],
    console: Console,
    done: _Done,
    files: Files,
    look: _Look,
) -> None:
    """Predict image after image, and write and add each to `done` at once.

    However this ends, `done` holds all finished images. Raises CellTuneError where the disk
    refuses.
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
        names = file_names([image.file_name for image in images])
        for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
            progress.update(task, description=image.file_name)
            begin = time.perf_counter()
            try:
                seen = _predicted(trained, image, name, look)
            except (DataError, ResourceError) as error:
                done.left_out.append(str(error))
                found = "left out"
            else:
                _add(done, files, seen, look)
                found = many(len(seen.found), "detection")
                if look.has_cells:
                    found = f"{many(len(seen.cells.found), 'cell')} of {found}"
            progress.advance(task)
            if not console.is_terminal:
                seconds = time.perf_counter() - begin
                say(
                    console,
                    f"{number}/{len(images)} {image.file_name}: {found}, {as_seconds(seconds)}",
                )


def _predicted(trained: TrainedModel, image: TestImage, name: str, look: _Look) -> Predicted:
    """An image with what is found in it. Raises DataError and ResourceError."""
    pixels = read_test_image(image, trained.config.data.intensity)
    try:
        # One thread drives the network, the others paste the masks of tiles that it has looked at.
        found = trained.predict(pixels, helpers=torch.get_num_threads() - 1)
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"{image.file_name}: {image.height} x {image.width} pixels do not fit in the GPU's"
            " memory; use --tile 1024, or --device cpu"
        ) from None
    size = look.pixel_size
    if size is None and image.path and look.has_cells:
        size = pixel_size_of(Path(image.path), (image.height, image.width))
    return Predicted(
        image,
        name,
        pixels,
        found,
        look.least_score,
        size,
        trained.classes,
        look.warning,
    )


def _add(done: _Done, files: Files, seen: Predicted, look: _Look) -> None:
    """Write the files of an image, then count it. Raises CellTuneError where the disk refuses."""
    try:
        files.add(seen)
    except OSError as error:
        raise CellTuneError(refused(error)) from None
    done.images.append(seen.image)
    done.instances += len(seen.found)
    done.full_tiles.append(seen.found.full_tiles)
    if look.has_cells:
        below = look.once and bool((seen.found.scores_N < look.least_score).any())
        done.cells_capped |= seen.found.full_tiles > 0 and not below
        done.cells += len(seen.cells.found)
        done.covered += seen.cells.covered
        done.unsized += seen.pixel_size is None
