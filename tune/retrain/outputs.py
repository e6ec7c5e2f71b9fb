"""The files that are written beside a model in `best/`: the submission and the pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from core.data.dataset import Category, TestImage
from core.data.images import read_test_image
from core.errors import DataError, SubmissionError
from core.files import write_json_atomically
from core.prediction import overlay, submission
from core.prediction.detect import combine
from core.prediction.learned import warning_of
from core.prediction.outputs import file_names
from core.prediction.submission import CocoResult
from core.prediction.trained_model import TrainedModel
from core.prediction.views import Seen, look_at_each
from core.sample import Detections, Sample
from tune.study.progress import Steps

DRAWN_SCORE = 0.5
"""Least score of a detection that is drawn, if no validation image tells at which score F1 is
highest."""

NOT_YET = {
    "written": False,
    "why": ["the prediction of the test images was broken off; the same command finishes it"],
}


@dataclass(frozen=True)
class Tested:
    """The predictions of the test images.

    results      the detections in each image that could be predicted, by the image's id
    full_tiles   for each of these images, the number of tiles that reached the cap on detections
    missing      the reasons why there is no submission, a sentence each; empty if there is one
    """

    results: dict[int, list[CocoResult]] = field(default_factory=dict)
    full_tiles: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def add_submission(
    best: Path,
    trained: TrainedModel,
    images: Sequence[TestImage],
    metrics: dict[str, Any],
    shown: float,
    console: Console,
    helpers: int,
) -> Tested:
    """Predict the test images, and add the submission to `best` if every image could be predicted.

    metrics   the content of metrics.json, to which the outcome is added, also in the file
    shown     least score of a detection that is drawn
    helpers   number of threads that draw pictures while the network looks at the next images

    Does nothing if there are no test images.
    """
    if not images:
        return Tested()
    folder = best / "overlays" / "test"
    tested = _predict_test(folder, trained, images, shown, warning_of(metrics), console, helpers)
    if not tested.missing:
        try:
            submission.write_zip(
                best / "submission.zip",
                tested.results,
                images,
                trained.classes,
                lambda image: trained.most_detections(image.height, image.width),
            )
        except SubmissionError as error:
            tested.missing.append(str(error))
    metrics["submission"] = {"written": not tested.missing, "why": tested.missing}
    write_json_atomically(best / "metrics.json", metrics)
    return tested


def draw_validation(
    best: Path,
    samples: Sequence[Sample],
    found: Sequence[Detections],
    classes: Sequence[Category],
    metrics: Mapping[str, Any],
    shown: float,
    console: Console,
) -> None:
    """Write a picture of each sample and its detections to `best/overlays/validation`.

    metrics   the content of metrics.json: where the model learned nothing, the pictures say so
    shown     least score of a detection that is drawn
    """
    folder = best / "overlays" / "validation"
    folder.mkdir(parents=True)
    names = file_names([sample.name for sample in samples])
    warning = warning_of(metrics)
    with Steps(console, "Drawing the validation images", len(names), "") as steps:
        for seen, (sample, name, of_sample) in enumerate(
            zip(samples, names, found, strict=True), 1
        ):
            drawn = overlay.draw_overlay(
                sample.image, of_sample, classes, sample, min_score=shown, warning=warning
            )
            overlay.write_png(folder / f"{name}.png", drawn)
            steps.at(seen)


_TestPicture = tuple[TestImage, Path, NDArray[np.uint8]]
"""A test image, the path of its picture, and its pixels (H x W x 3)."""


def _predict_test(
    folder: Path,
    trained: TrainedModel,
    images: Sequence[TestImage],
    shown: float,
    warning: str,
    console: Console,
    helpers: int,
) -> Tested:
    """Predict each test image that can be read, and write its picture to `folder`.

    Each of the others gets a sentence in `missing`.

    shown     least score of a detection that is drawn
    warning   a sentence on what is wrong with the model, for the pictures
    helpers   number of threads that draw pictures while the network looks at the next images
    """
    tested = Tested()
    folder.mkdir(parents=True)
    names = file_names([image.file_name for image in images])

    def readable() -> Iterator[tuple[_TestPicture, NDArray[np.uint8]]]:
        for image, name in zip(images, names, strict=True):
            try:
                pixels = read_test_image(image, trained.config.data.intensity)
            except DataError as error:
                tested.missing.append(str(error))
            else:
                yield (image, folder / f"{name}.png", pixels), pixels

    def end(picture: _TestPicture, seen: Seen) -> tuple[int, list[CocoResult], int]:
        image, path, pixels = picture
        found = combine(seen, config.predict)
        drawn = overlay.draw_overlay(
            pixels, found, trained.classes, min_score=shown, warning=warning
        )
        overlay.write_png(path, drawn)
        results = submission.results_of(found, image.id, image.height, image.width, trained.classes)
        return image.id, results, found.full_tiles

    config = trained.config
    with Steps(console, "Predicting the test images", len(images), "") as steps:
        for number, results, full in look_at_each(
            trained.models,
            readable(),
            [config.predict],
            end,
            tile=config.data.crop,
            helpers=helpers,
        ):
            tested.results[number] = results
            tested.full_tiles.append(full)
            steps.at(len(tested.results) + len(tested.missing))
        steps.at(len(images))
    return tested
