"""A trained model as a folder of two files: `config.yaml` and `model.safetensors`.

The two are enough to use the model. `config.yaml` holds

format       version of this layout
settings     every setting with which it was trained and predicts, flat names
classes      the data set's categories, in the order of the class numbers
network      what the network took from its pretrained weights beside tensors (see
             `core.network.detector.Traits`)
began_with   file name, SHA-256 and stride_in_1x1 of the pretrained weights; null without
sha256       SHA-256 of model.safetensors
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import yaml
from numpy.typing import NDArray

from core import bounded_yaml
from core.config import PredictConfig, TrialConfig
from core.data.dataset import Category
from core.device import resolve
from core.errors import ModelError, SettingError
from core.files import reason, write_atomically
from core.network.build import restore_detector
from core.network.detector import Detector, Traits
from core.prediction.detect import predict
from core.prediction.views import windows_of
from core.sample import Detections

FORMAT = 1
CONFIG, WEIGHTS = "config.yaml", "model.safetensors"

_HEAD = """\
# A trained Mask R-CNN; model.safetensors beside it holds its weights.
#   python -m core.predict --model FOLDER --images DIR --out results.json
"""


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready to predict.

    config       the settings with which it was trained and predicts
    classes      class number c of its detections is `classes[c - 1]`
    model        the detector, in evaluation mode, on any device
    began_with   name, sha256 and stride_in_1x1 of its pretrained weights; None without
    """

    config: TrialConfig
    classes: tuple[Category, ...]
    model: Detector
    began_with: Mapping[str, Any] | None = None

    @property
    def models(self) -> tuple[Detector, ...]:
        """The networks that predict together."""
        return (self.model,)

    def predict(self, image: NDArray[np.uint8], helpers: int = 0) -> Detections:
        """The detections in an image of any size, uint8 [H, W, 3], RGB.

        helpers   number of threads that paste masks while the network looks at the next tiles
        """
        return predict(self.models, image, self.config.predict, self.config.data.crop, helpers)

    def most_detections(self, height: int, width: int) -> int:
        """The largest number of detections that an image of `height` x `width` pixels can have.

        It is `predict.max_detections` for each tile.
        """
        predict = self.config.predict
        windows = windows_of(predict, (height, width), self.config.data.crop)
        return len(windows) * predict.max_detections

    def predicting_with(self, config: PredictConfig) -> "TrainedModel":
        """The same network with other settings of `predict`.

        The network is not copied, so this object must not be used any more.
        """
        self.model.predict = config
        return replace(self, config=self.config.model_copy(update={"predict": config}))


def save(folder: Path, trained: TrainedModel) -> None:
    """Write the two files. The configuration, which holds the hash of the other, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in trained.model.state_dict().items()
    }
    data = safetensors.torch.save(tensors)
    document = {
        "format": FORMAT,
        "settings": trained.config.settings(),
        "classes": [asdict(category) for category in trained.classes],
        "network": asdict(trained.model.traits),
        "began_with": None if trained.began_with is None else dict(trained.began_with),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / WEIGHTS, data)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(folder / CONFIG, (_HEAD + text).encode())


def load(folder: Path, device: str = "auto") -> TrainedModel:
    """Read what `save` wrote, onto a device (see `core.device.resolve`).

    Raises ModelError for a folder that holds no model, a damaged one, or files of two models, and
    ResourceError for a device that is not there.
    """
    place = resolve(device)
    config, classes, traits, document = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({reason(error)}); --model needs it beside {CONFIG}"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != document["sha256"]:
        raise ModelError(
            f"{path} must have the SHA-256 that {CONFIG} names, {str(document['sha256'])[:12]}...,"
            f" and has {found[:12]}...; it is damaged or of another model: write the folder again"
            " with tune.retrain_best"
        )
    try:
        model = restore_detector(
            config.model, len(classes), traits, config.predict, safetensors.torch.load(data)
        )
    except (safetensors.SafetensorError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise ModelError(
            f"{path} does not fit the settings in {CONFIG}: {lines[min(1, len(lines) - 1)].strip()}"
        ) from None
    model.to(place)
    return TrainedModel(config, classes, model, document["began_with"])


def _read_config(path: Path) -> tuple[TrialConfig, tuple[Category, ...], Traits, dict[str, Any]]:
    try:
        document = bounded_yaml.load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} holds no trained model: there is no {CONFIG} in it; tune.retrain_best"
            " writes one into results/STUDY/best"
        ) from None
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ModelError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ModelError(
            f"{path} must be of format {FORMAT}, and is not; another version wrote it, or another"
            " program"
        )
    try:
        config = TrialConfig.from_settings(document["settings"], str(path))
        classes = tuple(
            Category(int(entry["id"]), str(entry["name"])) for entry in document["classes"]
        )
        traits = Traits(**document["network"])
        document["sha256"], document["began_with"]
    except SettingError as error:
        raise ModelError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{path} is incomplete ({type(error).__name__}: {error}); write the folder again"
        ) from None
    return config, classes, traits, document
