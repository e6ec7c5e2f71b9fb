"""The figure of the best trial's predictions beside the annotations.

The validation images are picked by a rule, not by hand.
"""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from core.config import TrialConfig
from core.errors import CellTuneError
from core.metric.ap50 import MatchTable, balanced_score
from core.network import weights as pretrained
from core.prediction import overlay
from core.training.trial import Trial
from tune.ledger.records import TrialRecord
from tune.report.content import ReportContent
from tune.report.figures.figure import Absence, Pictures, PngPicture
from tune.store.folder import match_table_path
from tune.tables import Kind, cell_text

PANEL = 420
"""Longest side of a panel, in pixels; a picture has three panels side by side."""
LARGE_IMAGE_PIXELS = 2_000_000
"""Number of pixels above which an image is left out, unless all are larger: a report should be
written in seconds on a CPU."""
PREDICTING_THREADS = 4
"""Largest number of CPU threads that predict."""


def examples(content: ReportContent) -> Pictures | Absence:
    """The validation images on which the best trial has its median and its lowest F1.

    A sentence stands in their place where the data or the weights are missing.
    """
    try:
        made = _drawn(content)
    except CellTuneError as error:
        made = str(error)
    return Absence("pictures", f"There are no pictures: {made}.") if isinstance(made, str) else made


def _winning_trial(content: ReportContent) -> TrialRecord | None:
    """The winner's trial of the search, or the best of the search where none is confirmed."""
    if content.choice is not None:
        number = content.candidates[content.choice.name]
        return next(trial.record for trial in content.trials if trial.record.id == number)
    return None if content.best is None else content.best.record


def _drawn(content: ReportContent) -> Pictures | str:
    """The pictures, or the reason why there are none, in words."""
    record, data = _winning_trial(content), content.data
    if record is None:
        return "no trial has run to its end yet"
    if data is None:
        return "the data set was not given; --data DIR says where it is"
    if data.fingerprint != content.folder.read_description()["data"]["fingerprint"]:
        return "the data set is another than the one that was searched on"
    folder = content.folder.trial(record.id)
    no_weights = f"the weights of trial {record.id} are not kept"
    if not any(folder.glob("best-*.safetensors")):
        return no_weights
    config = TrialConfig.from_settings(record.settings, f"trial {record.id}")
    file = pretrained.find_weights(config.model, download=False)
    if file is not None and not file.path.exists():
        return (
            f"the pretrained weights {file.path} are not there; python -m tune.weights SPACE"
            " downloads them, or CELL_TUNE_WEIGHTS names their folder; then python -m tune.report"
            " adds the pictures"
        )
    table = MatchTable.load(match_table_path(folder, record.best_epoch or 0))
    shown = balanced_score(table)
    shown = 0.5 if shown is None else shown
    f1_I = image_f1(table, shown)
    places = {sample.name: index for index, sample in enumerate(data.samples)}
    images = chosen_images(
        f1_I, [data.samples[places[name]].image.size // 3 for name in table.image_names]
    )
    with _few_threads():
        weights = None if file is None else pretrained.read_weights(file)
        model = Trial(config, data, weights, device="cpu").kept_model(folder)
        if model is None:
            return no_weights
        pictures = []
        for index in images:
            sample = data.samples[places[table.image_names[index]]]
            drawn = overlay.draw_overlay(
                sample.image,
                model.predict(sample.image),
                data.classes,
                sample,
                max_side=PANEL,
                min_score=shown,
            )
            stream = io.BytesIO()
            Image.fromarray(drawn).save(stream, format="PNG")
            said = (
                f"Image {sample.name}: as it is, as annotated, and as predicted; F1"
                f" {cell_text(float(f1_I[index]), _F1)}."
            )
            pictures.append(PngPicture(stream.getvalue(), said))
    which = f"trial {record.id}" + (f" ({record.name})" if record.name else "")
    which_images = (
        "Shown are the validation image of median F1 and, below it, that of the lowest F1, with"
        if images[1:]
        else "Shown is a validation image with"
    )
    f1 = " and ".join(cell_text(float(f1_I[index]), _F1) for index in images)
    caption = (
        f"Annotations, and what {which} predicts at its best epoch, coloured by class."
        f" {which_images} an F1 of {f1}. F1 is the harmonic mean of recall (the share of instances"
        " that were found) and precision (the share of predictions that are right). Only"
        f" predictions of score {cell_text(shown, _F1)} or more are drawn: there F1 over all"
        " validation images is highest. A picture has no uncertainty to show: the intervals say how"
        " much scores differ from image to image."
    )
    return Pictures("pictures", "What the best trial sees", caption, tuple(pictures))


_F1 = Kind.NUMBER


def image_f1(table: MatchTable, min_score: float) -> NDArray[np.float64]:
    """F1 of each image [I], 2 hits / (detections + instances).

    Only detections that score `min_score` or more count. F1 is nan for an image without detections
    and instances.
    """
    counted_D = ~table.ignored_D & (table.score_D >= min_score)
    images = len(table.image_names)
    hits_I = np.bincount(table.image_D[counted_D & table.hit_D], minlength=images)
    both_I = np.bincount(table.image_D[counted_D], minlength=images) + table.truths_IC.sum(axis=1)
    f1_I: NDArray[np.float64] = np.divide(
        2.0 * hits_I, both_I, out=np.full(images, np.nan), where=both_I > 0
    )
    return f1_I


def chosen_images(f1_I: NDArray[np.float64], pixels: list[int]) -> list[int]:
    """The places of the image of median F1 and of that of the lowest; one place if they are one.

    pixels   number of pixels of each image

    Images without F1, and of more than LARGE_IMAGE_PIXELS, are left out; where all are larger, the
    one of the lowest F1 is taken. Of images with equal F1 the first counts.
    """
    there = [
        index for index in np.argsort(f1_I, kind="stable").tolist() if not np.isnan(f1_I[index])
    ]
    small = [index for index in there if pixels[index] <= LARGE_IMAGE_PIXELS] or there[:1]
    return list(dict.fromkeys([small[len(small) // 2], small[0]])) if small else []


@contextlib.contextmanager
def _few_threads() -> Iterator[None]:
    """Limit torch to PREDICTING_THREADS threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(PREDICTING_THREADS, len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
