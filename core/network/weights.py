"""Sources of pretrained weights, and what must be known about the networks they come from.

`model.weights` names the file:

coco       torchvision's Mask R-CNN of the detector's recipe, trained on COCO; exists for resnet50
           only
imagenet   torchvision's classifier of the backbone's name, trained on ImageNet (IMAGENET1K_V1)
auto       coco for resnet50, imagenet for the other backbones
none       no file
at_hand    coco, imagenet or none, the first that needs no download
a path     .pth or .pt (a state dict; nothing else is unpickled) or .safetensors

IMAGENET1K_V1 exists for every backbone. All ResNets were trained by one recipe, so that comparing
them compares backbones. ConvNeXt and Swin were trained by newer recipes, longer and with stronger
augmentation: their difference from a ResNet is that of backbone and recipe together. The stronger
IMAGENET1K_V2 exists for some of the others; to use it, name its file.

The files of coco and imagenet are looked for in the folder given, in the folder that the
environment variable CELL_TUNE_WEIGHTS names, in ./weights and in torch.hub's checkpoints. A file
that is in none of them is downloaded into the last.

Beside any of these files a `WEIGHTS.json` may say that the network strides in the first 1x1
convolution of a bottleneck (as in Keras and the original ResNet, but not in torchvision). It speaks
of all files in its folder, or of each by name:

    {"stride_in_1x1": true}          {"resnet50.pth": {"stride_in_1x1": true}}
"""

import hashlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torchvision.models import get_model_weights

from core.backbones import BACKBONES, names_with
from core.config import AT_HAND, ModelConfig
from core.detectors import DETECTORS
from core.errors import WeightsError
from core.files import read_json, reason_of
from core.network.download import DownloadError, download_file
from core.text import first_line, listed

FOLDER_VARIABLE = "CELL_TUNE_WEIGHTS"
"""Environment variable that names a folder of weights."""

WEIGHTS_SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes of a file of weights."""

FILE_WITHOUT_EPSILON = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
"""Name of a file that was trained when torchvision's frozen batch norm still divided by
sqrt(variance) alone; torchvision sets eps to 0 for it."""


@dataclass(frozen=True)
class Source:
    """The place from which one of torchvision's files is downloaded.

    url    its address
    size   size of the file in MiB
    """

    url: str
    size: float

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first hexadecimal digits of the file's SHA-256 as its name states them, else ""."""
        promised = re.search(r"-([0-9a-f]{8,})\.", self.name)
        return promised[1] if promised else ""

    def __str__(self) -> str:
        return (
            f"{self.name} ({round(self.size)} MiB, SHA-256 begins with {self.sha256}, from"
            f" {self.url})"
        )


@dataclass(frozen=True)
class WeightsFile:
    """A file of pretrained weights.

    path            path of the file, now or once it is downloaded
    kind            coco or imagenet as `model.weights` asked; file for a path
    stride_in_1x1   the value that the WEIGHTS.json beside it declares; False without one
    missing         its source, if it is not on this machine yet; else None
    """

    path: Path
    kind: Literal["coco", "imagenet", "file"]
    stride_in_1x1: bool = False
    missing: Source | None = None


@dataclass(frozen=True)
class BaseWeights:
    """Weights as read, with which a trial starts.

    name            name of the file
    sha256          SHA-256 of the file, hexadecimal
    stride_in_1x1   whether a bottleneck of the network they come from strides in its first 1x1
                    convolution
    tensors         arrays by torchvision's names, of a classifier or of a whole Mask R-CNN:
                    float32, whole numbers int64; read-only where Ray hands them out
    norm_eps        number that their batch norm added to the variance; None for the backbone's own
    """

    name: str
    sha256: str
    stride_in_1x1: bool
    tensors: Mapping[str, NDArray[Any]]
    norm_eps: float | None = None

    @property
    def whole(self) -> bool:
        """Whether these are the weights of a whole Mask R-CNN and not of a classifier."""
        return _is_mask_rcnn(self.tensors)


def find_weights(
    config: ModelConfig, folder: Path | None = None, *, download: bool = True
) -> WeightsFile | None:
    """The file that `config.weights` asks for; None where it asks for none.

    folder     first place to look in
    download   False to download nothing: a missing file has the path it would be downloaded to

    Nothing is decoded. Raises WeightsError, which says which file is missing, where to put it, and
    the way out.
    """
    if config.weights == AT_HAND:
        config = config.model_copy(update={"weights": weights_at_hand([config], folder)})
    if config.weights == "none":
        return None
    kind = _kind_of_weights(config)
    path, missing = (
        (_given(config.weights), None) if kind == "file" else _known(config, kind, folder)
    )
    if missing is not None and download:
        fetch_weights([missing], folder)
        missing = None
    stride_in_1x1 = _declared_stride(path)
    if stride_in_1x1 and not BACKBONES[config.backbone].bottleneck:
        raise WeightsError(
            f"{path.parent / 'WEIGHTS.json'} declares stride_in_1x1 for {path.name}, which is a"
            f" matter of bottleneck blocks ({names_with(lambda row: row.bottleneck)}), and"
            f" model.backbone is {config.backbone}; declare it for the file that it is true of, by"
            " name"
        )
    return WeightsFile(path, kind, stride_in_1x1, missing)


def weights_at_hand(models: Iterable[ModelConfig], folder: Path | None = None) -> str:
    """The weights that `at_hand` stands for: coco or imagenet, the first whose files for all
    these models are on this machine; else none.

    folder   first place to look in
    """
    wanted = list(models)

    def is_here(config: ModelConfig, kind: str) -> bool:
        try:
            return _known(config, kind, folder)[1] is None
        except WeightsError:  # another package's detector, of which torchvision has no weights
            return False

    for kind in ("coco", "imagenet"):
        if all(BACKBONES[one.backbone].has(kind) and is_here(one, kind) for one in wanted):
            return kind
    return "none"


def read_weights(file: WeightsFile) -> BaseWeights:
    """Decode a file of weights; floating point numbers become float32.

    Raises WeightsError for a file that is torn, holds anything but a state dict of finite tensors,
    or is neither of a backbone of the table nor of a Mask R-CNN.
    """
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{file.path} cannot be read ({reason_of(error)}); see to it, or name another file"
        ) from None
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in _state_dict(file.path, data).items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{file.path} must be a state dict, names and tensors, and its '{name}' is a"
                f" {type(value).__name__}"
            )
        value = value.to(torch.float32 if value.is_floating_point() else torch.int64)
        if not torch.isfinite(value).all():
            raise WeightsError(
                f"{file.path} must hold finite numbers, and its '{name}' does not; name another"
                " file"
            )
        tensors[name] = value.contiguous().numpy()
    if not (_is_mask_rcnn(tensors) or _is_backbone(tensors)):
        raise WeightsError(
            f"{file.path} must hold one of the backbones ({', '.join(BACKBONES)}) or a Mask R-CNN"
            f" by torchvision's names, and its tensors are {first_names(tensors)}"
        )
    return BaseWeights(
        name=file.path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        stride_in_1x1=file.stride_in_1x1,
        tensors=tensors,
        norm_eps=0.0 if file.path.name == FILE_WITHOUT_EPSILON else None,
    )


def first_names(names: Mapping[str, Any] | list[str]) -> str:
    """The first three of many names, and the number of the rest, for a message."""
    return ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_mask_rcnn(tensors: Mapping[str, Any]) -> bool:
    return any(name.startswith("backbone.body.") for name in tensors)


def _is_backbone(tensors: Mapping[str, Any]) -> bool:
    """Whether every stage of some backbone has a tensor."""
    layers = {name[:end] for name in tensors for end, sign in enumerate(name) if sign == "."}
    return any(
        all(layers.intersection(stage) for stage in row.stages) for row in BACKBONES.values()
    )


def _kind_of_weights(config: ModelConfig) -> Literal["coco", "imagenet", "file"]:
    """The kind of file that `model.weights` names, `auto` resolved."""
    auto = BACKBONES[config.backbone].weights[0] if config.weights == "auto" else config.weights
    if auto == "coco":
        return "coco"
    return "imagenet" if auto == "imagenet" else "file"


def _given(name: str) -> Path:
    """The file at a path that the user gave."""
    path = Path(name).expanduser()
    if path.is_file() and path.suffix in WEIGHTS_SUFFIXES:
        return path
    state = "is no such file" if path.is_file() else "is not there"
    raise WeightsError(
        "model.weights must be auto, at_hand, coco, imagenet, none, or the path of a"
        f" {', '.join(WEIGHTS_SUFFIXES)} file, and '{name}' {state}"
    )


def fetch_weights(
    missing: Iterable[Source], folder: Path | None = None, into: Path | None = None
) -> None:
    """Download missing files, each once, and whole or not at all; a terminal shows the progress.

    folder   first place to look in, as in `find_weights`
    into     folder that gets the files; None for torch.hub's checkpoints

    What has arrived of a file stays there, and the next call goes on after it. Raises WeightsError
    at the first file that cannot be downloaded. Without a network none can be, so the message names
    all that are still missing, each with its address, size and checksum, and where to put them.
    """
    wanted = list(dict.fromkeys(missing))
    places = _places(folder)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        for place, source in enumerate(wanted):
            task = bar.add_task(source.name, total=source.size * 2**20)
            path = (into or places[-1]) / source.name
            try:
                download_file(
                    source.url,
                    path,
                    source.sha256,
                    lambda done, whole, task=task: bar.update(  # type: ignore[misc]
                        task, completed=done, total=whole or None
                    ),
                    most=round((2 * source.size + 1) * 2**20),
                )
            except (DownloadError, OSError) as error:
                raise WeightsError(_not_fetched(wanted[place:], places, error)) from None


def _not_fetched(still: Sequence[Source], places: Sequence[Path], error: Exception) -> str:
    """The sentence on files that are still missing, after an error with the first of them."""
    what = (
        "a file of pretrained weights is"
        if len(still) == 1
        else f"{len(still)} files of pretrained weights are"
    )
    return (
        f"{what} in none of {', '.join(map(str, places))} and could not be downloaded"
        f" ({reason_of(error)}): {listed([str(one) for one in still])}; put"
        f" {'it' if len(still) == 1 else 'each'} into {places[0]}, or set model.weights to"
        " none or to the path of another file"
    )


def _places(folder: Path | None) -> list[Path]:
    """Folders in which torchvision's files are looked for; downloads go into the last."""
    variable = os.environ.get(FOLDER_VARIABLE)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    return [place for place in (folder, variable and Path(variable), Path("weights"), hub) if place]


def _known(config: ModelConfig, kind: str, folder: Path | None) -> tuple[Path, Source | None]:
    """The path of a file of torchvision's weights, and its source if it is not on this machine."""
    network = config.backbone
    if kind == "coco":
        network = f"maskrcnn_{network}_{DETECTORS[config.detector].coco or config.detector}"
    try:
        of = get_model_weights(network)
    except ValueError:
        raise WeightsError(
            f"model.weights: {config.weights} is torchvision's {network}, which does not exist; use"
            " imagenet, none or the path of a file"
        ) from None
    weights = of.COCO_V1 if kind == "coco" else of.IMAGENET1K_V1
    source = Source(weights.url, float(weights.meta["_file_size"]))
    places = _places(folder)
    found = next((place / source.name for place in places if (place / source.name).is_file()), None)
    return (found, None) if found else (places[-1] / source.name, source)


def _declared_stride(path: Path) -> bool:
    """Whether the WEIGHTS.json beside `path` declares stride_in_1x1 for it.

    All entries of that file are checked. Raises WeightsError for one that is not well formed.
    """
    place = path.parent / "WEIGHTS.json"
    if not place.exists():
        return False
    content = read_json(place, WeightsError, "mend or remove it")
    of_all = not isinstance(content, dict) or "stride_in_1x1" in content
    entries = {path.name: content} if of_all else content
    for name, entry in entries.items():
        if (
            not isinstance(entry, dict)
            or [*entry] != ["stride_in_1x1"]
            or not isinstance(entry["stride_in_1x1"], bool)
        ):
            raise WeightsError(
                f'{place} must be {{"stride_in_1x1": true}} (or false), or hold that for each file'
                f" by name, and says {json.dumps(entry)} of {name}"
            )
    return path.name in entries and bool(entries[path.name]["stride_in_1x1"])


def _state_dict(path: Path, data: bytes) -> Mapping[str, Any]:
    """The state dict in a file's bytes.

    It may also be one level down, where training scripts put it beside an optimizer's.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of a file before it refuses it
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} is torn, or holds more than tensors ({first_line(error)}); fetch it again"
        ) from None
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is torn, or is no safetensors file ({error}); fetch it again"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and all(isinstance(name, str) for name in content)):
        raise WeightsError(
            f"{path} must be a state dict, names and tensors, and is a {type(content).__name__}"
        )
    return content
