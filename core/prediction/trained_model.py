"""A trained model as a folder: `config.yaml` and `model.safetensors`, or `config.yaml` and members.

The files are enough to use the model. `config.yaml` of one network holds

format       1, the version of this layout
settings     every setting with which it was trained and predicts, flat names
classes      the data set's categories, in the order of the class numbers
network      what the network took from its pretrained weights beside tensors (see
             `core.network.detector.Traits`)
began_with   file name, SHA-256 and stride_in_1x1 of the pretrained weights; null without
sha256       SHA-256 of model.safetensors

Where several networks predict together, each has such a folder under `members/`. The `config.yaml`
above them holds

format       2
settings     those of the first member, with the settings of prediction of all
classes      as above
members      the SHA-256 of the config.yaml of members/0, members/1 ...
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml
from numpy.typing import NDArray

from core import bounded_yaml
from core.config import PredictConfig, TrialConfig
from core.data.dataset import Category
from core.device import resolve_device
from core.errors import ModelError, SettingError
from core.files import reason_of, write_atomically
from core.network.build import restore_detector
from core.network.detector import Detector, Traits
from core.prediction.detect import predict
from core.prediction.views import tiles_of
from core.sample import Detections

FORMAT_OF_ONE, FORMAT_OF_SEVERAL = 1, 2
"""Format of one network, and of several that predict together."""
CONFIG, WEIGHTS, MEMBERS = "config.yaml", "model.safetensors", "members"

_HEAD = """\
# A trained Mask R-CNN; model.safetensors beside it, or in members/, holds its weights.
#   python -m core.predict --model FOLDER --images DIR --out results.json
"""


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready to predict.

    config       the settings with which it was trained and predicts
    classes      class number c of its detections is `classes[c - 1]`
    model        the detector, in evaluation mode, on any device
    began_with   name, sha256 and stride_in_1x1 of its pretrained weights; None without
    others       models of the same classes that predict together with this one, with its settings
                 of prediction
    """

    config: TrialConfig
    classes: tuple[Category, ...]
    model: Detector
    began_with: Mapping[str, Any] | None = None
    others: tuple["TrainedModel", ...] = ()

    @property
    def models(self) -> tuple[Detector, ...]:
        """The networks that predict together."""
        return (self.model, *(other.model for other in self.others))

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
        windows = tiles_of(predict, (height, width), self.config.data.crop)
        return len(windows) * predict.max_detections

    def predicting_with(self, config: PredictConfig) -> "TrainedModel":
        """The same network with other settings of `predict`.

        The network is not copied, so this object must not be used any more.
        """
        self.model.predict = config
        return replace(
            self,
            config=self.config.model_copy(update={"predict": config}),
            others=tuple(other.predicting_with(config) for other in self.others),
        )


def join_models(members: Sequence[TrainedModel]) -> TrainedModel:
    """One model of members that predict together, with the settings of prediction of the first.

    It shares their networks, which are given these settings, so the members must not be used alone
    any more.
    """
    first, *others = members
    assert all(other.classes == first.classes for other in others), "members know other classes"
    return replace(first, others=tuple(others)).predicting_with(first.config.predict)


def files_of(folder: Path) -> list[Path]:
    """The files and folders of which the model of a folder consists."""
    members = folder / MEMBERS
    return [folder / CONFIG, members if members.is_dir() else folder / WEIGHTS]


def save(folder: Path, trained: TrainedModel) -> None:
    """Write the files of a model, each configuration after the files whose hashes it holds.

    Raises OSError where the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trained.others:
        _save_together(folder, trained)
        return
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in trained.model.state_dict().items()
    }
    data = safetensors.torch.save(tensors)
    document = {
        "format": FORMAT_OF_ONE,
        "settings": trained.config.settings(),
        "classes": [asdict(category) for category in trained.classes],
        "network": asdict(trained.model.traits),
        "began_with": None if trained.began_with is None else dict(trained.began_with),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / WEIGHTS, data)
    _write_config(folder, document)


def _save_together(folder: Path, trained: TrainedModel) -> None:
    digests = []
    for number, member in enumerate((replace(trained, others=()), *trained.others)):
        path = folder / MEMBERS / str(number)
        save(path, member)
        digests.append(hashlib.sha256((path / CONFIG).read_bytes()).hexdigest())
    document = {
        "format": FORMAT_OF_SEVERAL,
        "settings": trained.config.settings(),
        "classes": [asdict(category) for category in trained.classes],
        "members": digests,
    }
    _write_config(folder, document)


def _write_config(folder: Path, document: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120)
    write_atomically(folder / CONFIG, (_HEAD + text).encode())


def load(folder: Path, device: str = "auto") -> TrainedModel:
    """Read what `save` wrote, onto a device (see `core.device.resolve_device`).

    Raises ModelError for a folder that holds no model, a damaged one, or files of two models, and
    ResourceError for a device that is not there.
    """
    place = resolve_device(device)
    document = _read_document(folder / CONFIG)
    if document["format"] == FORMAT_OF_SEVERAL:
        return _load_together(folder, document, device)
    return _load_one(folder, document, place)


def _load_together(folder: Path, document: Mapping[str, Any], device: str) -> TrainedModel:
    path = folder / CONFIG
    config, classes = _settings_and_classes(path, document)
    with _complete(path):
        digests = [str(digest) for digest in document["members"]]
    if len(digests) < 2:
        raise ModelError(f"{path} must name two members or more; {_AGAIN}")
    members = []
    for number, digest in enumerate(digests):
        of_member = folder / MEMBERS / str(number)
        member = _load_one(of_member, _read_document(of_member / CONFIG), resolve_device(device))
        found = hashlib.sha256((of_member / CONFIG).read_bytes()).hexdigest()
        if found != digest or member.classes != classes:
            raise ModelError(f"{of_member / CONFIG} is not the one that {path} names; {_AGAIN}")
        members.append(member)
    return join_models(members).predicting_with(config.predict)


def _load_one(folder: Path, document: Mapping[str, Any], place: torch.device) -> TrainedModel:
    path = folder / CONFIG
    if document["format"] != FORMAT_OF_ONE:
        raise ModelError(f"{path} must be of format {FORMAT_OF_ONE}, and is not; {_AGAIN}")
    config, classes = _settings_and_classes(path, document)
    with _complete(path):
        traits = Traits(**document["network"])
        sha256, began_with = str(document["sha256"]), document["began_with"]
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({reason_of(error)}); --model needs it beside {CONFIG}"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path} must have the SHA-256 that {CONFIG} names, {sha256[:12]}..., and has"
            f" {found[:12]}...; it is damaged or of another model: {_AGAIN}"
        )
    try:
        model = restore_detector(
            config.model, len(classes), traits, config.predict, safetensors.torch.load(data)
        )
    except (safetensors.SafetensorError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise ModelError(
            f"{path} does not fit the settings in {CONFIG}"
            f" ({lines[min(1, len(lines) - 1)].strip()}); {_AGAIN}"
        ) from None
    model.to(place)
    return TrainedModel(config, classes, model, began_with)


_AGAIN = "write the folder again with tune.retrain_best"


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = bounded_yaml.load_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        best = path.parent / "best"  # a study was named in place of its model
        way_out = (
            f"name {best}, which does"
            if (best / CONFIG).is_file()
            else "tune.retrain_best writes one into results/STUDY/best"
        )
        raise ModelError(
            f"{path.parent} holds no trained model: there is no {CONFIG} in it; {way_out}"
        ) from None
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ModelError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); {_AGAIN}"
        ) from None
    if not isinstance(document, dict) or document.get("format") not in (
        FORMAT_OF_ONE,
        FORMAT_OF_SEVERAL,
    ):
        raise ModelError(
            f"{path} must be of format {FORMAT_OF_ONE} or {FORMAT_OF_SEVERAL}, and is not; another"
            " version wrote it, or another program"
        )
    return document


def _settings_and_classes(
    path: Path, document: Mapping[str, Any]
) -> tuple[TrialConfig, tuple[Category, ...]]:
    with _complete(path):
        config = TrialConfig.from_settings(document["settings"], str(path))
        classes = tuple(
            Category(int(entry["id"]), str(entry["name"])) for entry in document["classes"]
        )
    return config, classes


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Raise ModelError in place of errors on YAML that is not a document as `save` writes it."""
    try:
        yield
    except SettingError as error:
        raise ModelError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{path} is incomplete ({type(error).__name__}: {error}); {_AGAIN}"
        ) from None
