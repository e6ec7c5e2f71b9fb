"""The code of a registered model, which MLflow copies beside the weights, and runs to load them.

Nothing is pickled. The model takes an image, uint8 [H, W, 3] in RGB, [H, W, 4] or [H, W], or the
path of an image file, or a list of these:

    model = mlflow.pyfunc.load_model("models:/STUDY/latest")
    model.predict(image)
    model.predict("slide.tif")
    model.predict([image, "slide.tif"], {"image_id": 7})         # image ids 7 and 8

The file imports `core` and no more of this project, which must be installed where the model is
loaded. A copy of it stays with each registered model, so what it calls in `core` keeps its name.
The network goes to the first GPU that torch sees, or else stays on the CPU.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from core.data.images import read_rgb
from core.data.intensity import to_8_bits
from core.errors import DataError
from core.prediction import trained_model
from core.prediction.detect import about_full_tiles
from core.prediction.submission import CocoResult, results_of

_logger = logging.getLogger(__name__)

_WANTED = (
    "a NumPy array, uint8 [height, width] or [height, width, 3 or 4], or the path of an image file,"
    " or a list of these"
)


class RegisteredModel(PythonModel):
    """A model that takes images and returns COCO results."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model from its registered files, which MLflow keeps in one folder."""
        folder = Path(context.artifacts[trained_model.CONFIG]).parent
        self._trained = trained_model.load(folder)

    # With any type hint but a bare array, MLflow warns on loading the model, or refuses lists and
    # paths.
    def predict(  # type: ignore[override]  # MLflow calls it with or without a context, as it is written
        self, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[CocoResult]:
        """The COCO results of all images, in the order of images, best score of an image first.

        model_input   an image, uint8 [H, W], [H, W, 3] or [H, W, 4], or the path of an image file,
                      or a list of these
        params        image_id: the id of the first image, 1 if it is left out; further images get
                      the ids that follow

        Raises DataError, one sentence, for anything else.
        """
        first = int((params or {}).get("image_id", 1))
        results: list[CocoResult] = []
        full_tiles: list[int] = []
        for offset, (place, image) in enumerate(_images(model_input)):
            pixels = _pixels(image, place, self._trained.config.data.intensity)
            height, width = pixels.shape[:2]
            found = self._trained.predict(pixels)
            full_tiles.append(found.full_tiles)
            results += results_of(found, first + offset, height, width, self._trained.classes)
        most = self._trained.config.predict.max_detections
        full = about_full_tiles(full_tiles, most, "it in the config.yaml of the model")
        if full:
            _logger.warning("%s", full)
        return results


def _images(given: object) -> Sequence[tuple[str, object]]:
    """Each image after the words by which messages name it."""
    if isinstance(given, list | tuple):
        return [(f"image {number} of {len(given)}", image) for number, image in enumerate(given, 1)]
    return [("the image", given)]


def _pixels(image: object, place: str, intensity: str) -> NDArray[np.uint8]:
    """The pixels of an array or image file, uint8 [H, W, 3]. Raises DataError.

    intensity   the model's `data.intensity`, by which files of more than 8 bits are brought to 8
    """
    if isinstance(image, str | Path):
        try:
            return to_8_bits(read_rgb(Path(image)), intensity)
        except DataError as error:
            raise DataError(f"{image}: {str(error).removeprefix(f'{image}: ')}") from None
    if not isinstance(image, np.ndarray):
        raise DataError(f"{place} must be {_WANTED}, and is of type {type(image).__name__}")
    if image.dtype != np.uint8:
        raise DataError(
            f"{place} must be {_WANTED}, and holds {image.dtype}; bring its values to 0 .. 255"
        )
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise DataError(f"{place} must be {_WANTED}, and has the shape {list(image.shape)}")
    return image[:, :, :3]


mlflow.models.set_model(RegisteredModel())
