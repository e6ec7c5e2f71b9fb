"""Every setting of a trial, once: name, unit, range, default and meaning.

The settings under `augment.` are defined with their augmentations in `core/augment/`.

A setting's name is its path, such as `optim.learning_rate`; space files, `--set`, `trials.csv` and
MLflow all use it. Pages for people show its name in plain words above it (`setting_in_words`): the
title of its field, where the last part of the path would not do. Defaults are those of the
reference report where they are sound; `docs/decisions.md` says where they are not.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from core.augmentations import augment_fields
from core.backbones import BACKBONES, names_with
from core.detectors import DETECTORS
from core.errors import SettingError
from core.extensions import NameIn
from core.text import nearest
from core.values import as_number, as_setting

Value = bool | int | float | str
"""The types that a setting's value can have."""
Precision = Literal["fp32", "bf16"]
"""The precisions that `optim.precision: auto` can be."""
AUTO = "auto"
"""The value of a setting that is read off the data, or off the machine, before a trial begins."""
AT_HAND = "at_hand"
"""The value of `model.weights` that is found on the machine before a trial, or a study, begins."""


class MayBeAuto:
    """Marks a setting that may be `auto` as well as a value of its type.

    A type checker sees that type alone, since nothing computes with a setting before
    `TrialConfig.resolved` has put a value in place of `auto`.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _or_auto,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(_as_it_is),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        inner = handler(schema)
        if AUTO in inner.get("enum", ()):
            return inner
        return {"anyOf": [inner, {"const": AUTO, "type": "string"}]}


def _as_it_is(value: Value) -> Value:
    return value


def _or_auto(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Accept `auto`, or what the type accepts; the rule that another text breaks names both."""
    if isinstance(value, str) and value == AUTO:
        return value
    try:
        return handler(value)
    except ValidationError as error:
        rule = error.errors(include_url=False)[0]["msg"].partition(", unable to")[0]
        if not isinstance(value, str) or AUTO in rule:
            raise
        raise PydanticCustomError(
            "or_auto", "{rule} or 'auto'", {"rule": rule, "expected": f"'{AUTO}'"}
        ) from None


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers, or `optim.epochs: true` would train one epoch."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (
            int,
            float,
        ):
            raise PydanticCustomError("number", "Input should be a number, not true or false")
        return value


MAY_BE_LISTS = ("data.class_names", "data.intensity")
"""Settings that are texts, and may be written as a list or a mapping too."""


def _as_names(value: Any) -> Any:
    """Write `data.class_names` in its one form: `epithelium,lymphocyte` or `1=epithelium`."""
    if isinstance(value, Mapping):
        parts = [f"{key}={name}" for key, name in value.items()]
    elif isinstance(value, list | tuple):
        parts = [str(name) for name in value]
    else:
        inner = re.fullmatch(r"\s*[\[{](.*)[\]}]\s*", str(value))
        text = inner[1] if inner else str(value)
        parts = text.split(",") if text.strip() else []
    names = [re.sub(r"^\s*(\d+)\s*[=:]\s*", r"\1=", part).strip().strip("'\"") for part in parts]
    numbered = [re.fullmatch(r"(\d{1,18})=(.*)", name) for name in names]
    texts = [
        match[2].strip("'\"") if match else name
        for match, name in zip(numbered, names, strict=True)
    ]
    keys = [int(match[1]) for match in numbered if match]
    if (
        isinstance(value, bool | int | float)
        or any(
            not name.strip() or "," in name or "=" in name or not name.isprintable()
            for name in texts
        )
        or len(keys) not in (0, len(names))
        or len(set(keys)) < len(keys)
    ):
        raise PydanticCustomError(
            "names",
            "Input should be a name for each class, such as epithelium,lymphocyte, or names of some"
            " by their ids, such as 1=epithelium,3=macrophage; a name holds no comma and no =",
        )
    return ",".join(
        [f"{key}={text}" for key, text in zip(keys, texts, strict=True)] if keys else texts
    )


def intensity_range(intensity: str) -> tuple[float, float]:
    """The two ends of `data.intensity`, `LOW,HIGH`; raises ValueError for another text."""
    low, high = (float(text) for text in intensity.split(","))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(intensity)
    return low, high


def _as_intensity(value: Any) -> Any:
    """Write `data.intensity` in its one form, `0,4095`."""
    texts = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
    text = ",".join(texts).strip("[] ").replace(" ", "")
    if text == AUTO:
        return text
    try:
        low, high = intensity_range(text)
    except ValueError:
        raise PydanticCustomError(
            "intensity",
            "Input should be auto, or the values that become black and white, the lower one first,"
            " such as 0,4095",
        ) from None
    digits = 9 if as_number(low, 9) != as_number(high, 9) else 17
    return f"{as_number(low, digits)},{as_number(high, digits)}"


class DataConfig(_Settings):
    """The annotated images: how they are read, split and shown in training."""

    validation_fraction: float = Field(0.2, gt=0, lt=1, title="share of images that validate")
    """Fraction of the images held out for validation; unused when `folds` is set, and where a data
    set's own split is taken."""
    folds: int = Field(0, ge=0, le=100, title="folds of cross-validation")
    """0 for a hold-out; k >= 2 for k-fold cross-validation."""
    fold: int = Field(0, ge=0, title="fold that validates")
    """The fold that validates, counted from 0 to `folds` - 1."""
    split_seed: int = Field(0, ge=0, title="seed of the split")
    """Seed of the split; 0 takes the data set's own split where it has one and `folds` is 0."""
    group_pattern: str = ""
    """Regular expression searched in the image's name; its first group names the group. A group is
    never split."""
    skip_bad: bool = False
    """Whether annotations and images that cannot be used are skipped and counted, instead of
    refusing the data set."""
    allow_suspicious: bool = False
    """Whether annotations that look wrong, and that a person has looked at, are used as they are.
    """
    split_components: bool = False
    """Whether every connected piece of a mask is an instance of its own, as semantic masks need."""
    class_names: Annotated[
        str,
        BeforeValidator(_as_names, json_schema_input_type=str | list[str] | dict[str, str]),
    ] = ""
    """Names of the classes in place of those that the files give, such as class1 in HW3: a name for
    each class in the order of their ids, or ID=NAME for some; empty for the files' own."""
    intensity: Annotated[
        str, BeforeValidator(_as_intensity, json_schema_input_type=str | list[float])
    ] = AUTO
    """Values that become black and white in images of more than 8 bits, such as 0,4095; auto: 99.8%
    of their pixels lie between the two, measured over the data set. A study, and a model, keep the
    measured values. Images of 8 bits stay as they are."""
    crop: Annotated[int, Field(ge=0, le=8192, title="side of crops"), MayBeAuto()] = 0
    """Pixels; 0 for the whole image, otherwise the side of a random training crop and of the tiles
    in prediction; auto: crops where whole images would show the cells too small."""
    repeat_rare: float = Field(0, ge=0, le=1, title="repetition of rare classes")
    """Threshold t of LVIS's repeat factors, 0 for none: where a class is in a fraction f < t of the
    training images, an epoch shows each image that holds it about sqrt(t / f) times."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folds == 1:
            raise ValueError("data.folds must be 0 (hold-out) or at least 2, and is 1")
        if self.fold >= max(self.folds, 1):
            raise ValueError(
                f"data.fold must be under data.folds ({self.folds}), and is {self.fold}"
            )
        if isinstance(self.crop, int) and 0 < self.crop < 32:
            raise ValueError(f"data.crop must be 0 or at least 32 pixels, and is {self.crop}")
        if self.group_pattern:
            try:
                groups = re.compile(self.group_pattern).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    "data.group_pattern must be a regular expression, and is"
                    f" {self.group_pattern!r} ({error})"
                ) from None
            if groups < 1:
                raise ValueError(
                    "data.group_pattern needs a group in parentheses, and is"
                    f" {self.group_pattern!r}"
                )
        return self


# A type checker knows none of its fields: only augmentations read them, each its own, typed there.
if TYPE_CHECKING:
    AugmentConfig = _Settings
else:
    AugmentConfig = create_model(
        "AugmentConfig",
        __base__=_Settings,
        __module__=__name__,
        __doc__="The augmentation of a training image and its label maps, as the table of"
        " augmentations has it: the switch of each, and the strengths of each.",
        **augment_fields(),
    )


def _as_number(value: Any) -> Any:
    """Turn a whole number that is written as text, as on a command line, into a number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class ModelConfig(_Settings):
    """The network: detector, backbone, what it starts from and how much of it trains."""

    detector: Annotated[str, NameIn(DETECTORS)] = "fpn"
    """The network around the backbone: fpn or fpn_v2, torchvision's two recipes for Mask R-CNN, or
    cascade, the first one with boxes refined in three stages."""
    backbone: Annotated[str, NameIn(BACKBONES)] = "resnet50"
    """The feature extractor, pretrained as `model.weights` says; ConvNeXt and Swin want settings of
    their own, which a search notes."""
    weights: str = Field("auto", min_length=1, title="pretrained weights")
    """auto (coco for resnet50, imagenet for the others), coco, imagenet, none, or the path of a
    file; at_hand: the first of coco, imagenet and none that needs no download for any backbone of
    the study, which keeps it."""
    stride_in_1x1: bool = False
    """Whether a bottleneck strides in its first 1x1 convolution; a WEIGHTS.json beside the file of
    weights may declare it."""
    trainable_layers: int = Field(1, ge=0, le=5, title="stages of the backbone trained")
    """Backbone stages that train, from the last: 0 frozen, 1 the last stage, 5 all."""
    trainable_fpn: bool = Field(True, title="feature pyramid trained")
    """Whether the feature pyramid trains."""
    image_min_side: Annotated[
        int, Field(ge=32, le=8192, title="shorter side of images"), MayBeAuto()
    ] = 800
    """Pixels; the length to which the shorter side of an image is brought; auto: a length at which
    the median cell has 30 to 40 pixels."""
    image_max_side: Annotated[
        int, Field(ge=32, le=8192, title="longer side of images, at most"), MayBeAuto()
    ] = 1333
    """Pixels; largest length of the longer side; where it is reached, the shorter side stays under
    `model.image_min_side`; auto: so large that nearly all images reach `model.image_min_side`."""
    anchor_scale: Annotated[float, Field(ge=0.05, le=8, title="scale of anchors"), MayBeAuto()] = (
        1.0
    )
    """Factor on torchvision's anchor sides of 32, 64, 128, 256, 512 pixels; under 0.05 the smallest
    have no area; auto: the factor at which most instances have an anchor that fits."""
    proposals_train: Annotated[
        int, Field(ge=16, le=10000, title="proposals in training"), MayBeAuto()
    ] = 2000
    """Proposals kept per image before and after non-maximum suppression, in training; auto: enough
    for the most crowded image."""
    proposals_test: Annotated[
        int, Field(ge=16, le=10000, title="proposals in prediction"), MayBeAuto()
    ] = 1000
    """Proposals kept per image before and after non-maximum suppression, in prediction; auto:
    enough for the most crowded image."""
    size_jitter: float = Field(0, ge=0, le=0.9, title="jitter of image sizes")
    """s: in training `model.image_min_side` and `model.image_max_side` are multiplied by a factor,
    drawn uniformly for each image from 1 - s to 1 + s; 0 for one size. The largest size decides how
    much memory is taken."""
    rpn_samples: int = Field(256, ge=16, le=4096, title="anchors in the loss")
    """Anchors per image that enter the loss of the proposal network."""
    box_samples: int = Field(512, ge=16, le=4096, title="proposals in the loss")
    """Proposals per image that enter the losses of the heads; a quarter at most are positive."""
    mask_side: Annotated[Literal[28, 56], BeforeValidator(_as_number)] = Field(
        28, title="resolution of masks"
    )
    """Cells along a side of a predicted mask, whatever the size of its box; with 56 the mask head
    computes four times as much."""
    norm: Literal["batch", "frozen", "group"] = Field("batch", title="normalisation")
    """Normalisation in the pyramid and heads of fpn_v2. batch: by the statistics of each batch.
    frozen: by the pretrained statistics, scale and shift, which never change. group: within each of
    32 groups of channels, whatever the batch size. With frozen and group a pretrained backbone's
    norm is frozen too."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        sides = self.image_min_side, self.image_max_side
        if all(isinstance(side, int) for side in sides) and sides[0] > sides[1]:
            raise ValueError(
                "model.image_min_side must not exceed model.image_max_side"
                f" ({self.image_max_side}), and is {self.image_min_side}"
            )
        row = BACKBONES[self.backbone]
        if self.weights in ("auto", "coco", "imagenet") and not row.has(self.weights):
            having = names_with(lambda one: one.has(self.weights))
            others = "imagenet or auto" if row.weights else "none or the path of a file"
            raise ValueError(
                f"model.weights: {self.weights} exists for {having} only, and model.backbone is"
                f" {self.backbone}; use {others}"
            )
        if self.stride_in_1x1 and not row.bottleneck:
            raise ValueError(
                "model.stride_in_1x1 needs a backbone of bottleneck blocks"
                f" ({names_with(lambda one: one.bottleneck)}), and model.backbone is"
                f" {self.backbone}; use one of these, or false"
            )
        if self.norm != "batch":
            self._check_norm()
        return self

    @property
    def advice(self) -> tuple[str, ...]:
        """The tables' advice on this backbone and this detector, one sentence each."""
        rows = (
            ("backbone", self.backbone, BACKBONES[self.backbone].advice),
            ("detector", self.detector, DETECTORS[self.detector].advice),
        )
        return tuple(f"model.{kind} {name}: {advice}" for kind, name, advice in rows if advice)

    def _check_norm(self) -> None:
        if DETECTORS[self.detector].freezes_norm:
            raise ValueError(
                f"model.norm: {self.norm} needs model.detector: fpn_v2, and it is {self.detector},"
                " which has norm in the backbone alone; use batch"
            )
        is_imagenets = self.weights == "imagenet" or (
            self.weights == "auto" and BACKBONES[self.backbone].weights[0] == "imagenet"
        )
        if self.norm == "frozen" and (self.weights == "none" or is_imagenets):
            raise ValueError(
                "model.norm: frozen needs pretrained statistics of pyramid and heads, and"
                f" model.weights: {self.weights} has none for model.backbone: {self.backbone};"
                " use coco, the path of a whole fpn_v2, or model.norm: group"
            )


class OptimConfig(_Settings):
    """The optimizer AdamW: its learning rates, batches, precision and averaged weights."""

    learning_rate: float = Field(5e-5, gt=0, le=1)
    """Highest learning rate of every cycle."""
    backbone_factor: float = Field(1, gt=0, le=10, title="learning rate of the backbone, relative")
    """Ratio of the backbone's learning rate to that of the pyramid and heads."""
    weight_decay: float = Field(0.01, ge=0, le=10)
    """Decoupled weight decay of AdamW."""
    decay_norms: bool = Field(True, title="weight decay of norms")
    """Whether norms and biases decay too, as in the reference report."""
    epochs: int = Field(50, ge=1, le=10000)
    """Passes over the training images, in which `data.repeat_rare` shows some of them several
    times."""
    batch_size: int = Field(2, ge=1, le=256)
    """Images that the network sees at once; the last batch of an epoch may be smaller."""
    accumulate: int = Field(1, ge=1, le=256, title="batches in an optimizer step")
    """Batches in one optimizer step, whose gradient is the mean over their images; the last step of
    an epoch may have fewer. Learning rate, restarts and warm-up go by optimizer steps."""
    restarts: int = Field(0, ge=0, le=100, title="warm restarts")
    """Warm restarts: r restarts make r + 1 cosine cycles, each down to 0, in optimizer steps."""
    restart_multiplier: float = Field(1, ge=1, le=10, title="growth of each cycle")
    """Ratio of each cycle's length to that of the cycle before; the last cycle takes the steps that
    remain."""
    warmup_epochs: float = Field(0, ge=0, title="epochs of warm-up")
    """Epochs of linear warm-up before the first cycle."""
    gradient_clip: float = Field(0, ge=0, title="limit of the gradient")
    """Largest norm of the gradient; 0 for no limit."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], MayBeAuto()] = Field(
        "auto", title="numerical precision"
    )
    """bf16: autocast of the network in training; weights, losses and evaluation stay in fp32. fp16:
    the same with scaled gradients, for GPUs without bf16. auto: bf16 on GPUs that have it, else
    fp32; a study keeps the one with which it began."""
    ema: float = Field(0, ge=0, le=1000, title="averaging of weights")
    """Half-life, in epochs, of the moving average of the weights that is evaluated and kept; 0 for
    the weights themselves."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"optim.warmup_epochs must be under optim.epochs ({self.epochs}), and is"
                f" {as_setting(self.warmup_epochs)}"
            )
        return self


MOST_DETECTIONS = 10_000
"""The largest `predict.max_detections`."""
MOST_SCALES = 8
"""Largest number of factors in `predict.scales`."""


def _as_scales(value: Any) -> Any:
    """Write `predict.scales` in its one form, `0.75,1,1.25`: ascending, without needless digits."""
    texts = [value] if isinstance(value, int | float) else str(value).split(",")
    try:
        factors = sorted({float(text) for text in texts})
    except ValueError:
        factors = []
    if (
        isinstance(value, bool)
        or not 1 <= len(texts) == len(factors) <= MOST_SCALES
        or not all(0.25 <= factor <= 4 for factor in factors)
    ):
        raise PydanticCustomError(
            "scales",
            f"Input should be 1 to {MOST_SCALES} different factors from 0.25 to 4, such as"
            " 0.75,1,1.25",
        )
    return ",".join(as_number(factor, 6) for factor in factors)


def _as_caps(value: Any) -> Any:
    """Write `predict.class_caps` in its one form, `20,0`: without repetitions at its end."""
    texts = [value] if isinstance(value, int) else str(value).split(",")
    try:
        caps = [int(text) for text in texts]
    except ValueError:
        caps = [-1]
    if isinstance(value, bool) or not all(0 <= cap <= MOST_DETECTIONS for cap in caps):
        raise PydanticCustomError(
            "caps",
            f"Input should be whole numbers from 0 to {MOST_DETECTIONS}, one for all classes or one"
            " for each, such as 20,0",
        )
    while len(caps) > 1 and caps[-1] == caps[-2]:
        caps.pop()
    return ",".join(str(cap) for cap in caps)


class PredictConfig(_Settings):
    """How the outputs of the network become detections."""

    score_threshold: float = Field(0.05, ge=0, lt=1)
    """Detections must score more than this."""
    nms_iou: float = Field(0.5, gt=0, le=1, title="overlap of boxes, at most")
    """Largest IoU of two boxes of one class; of boxes that overlap more, non-maximum suppression
    keeps only the best."""
    max_detections: Annotated[
        int, Field(ge=1, le=MOST_DETECTIONS, title="detections kept"), MayBeAuto()
    ] = 400
    """Detections kept per tile, all classes together; an image that is not cut into tiles is one;
    auto: enough for the most crowded tile."""
    class_caps: Annotated[str, BeforeValidator(_as_caps)] = Field(
        "0", title="detections kept of each class"
    )
    """Detections kept per image of class 1, class 2 and so on, such as 20,0; the last number holds
    for all further classes too, and 0 is no cap."""
    views: Literal["none", "mirror", "flips", "all"] = Field("none", title="views in prediction")
    """Looks at each tile that are merged: none: as it is; mirror: also mirrored; flips: all four
    flips; all: these four and their quarter turns."""
    flips: bool = False
    """The older name of `predict.views: mirror`; more views hold the mirrored one anyway."""
    scales: Annotated[str, BeforeValidator(_as_scales)] = Field("1", title="scales in prediction")
    """Factors on the size at which the network sees a tile, such as 0.75,1,1.25: each view is
    looked at with each of them, and all looks are merged."""
    tile: int = Field(0, ge=0, le=8192, title="side of tiles")
    """Pixels; side of overlapping tiles, 0 for the whole image (or `data.crop` where that is set).
    """
    overlap: float = Field(0.25, ge=0, le=0.9, title="overlap of tiles")
    """Least fraction of its side that a tile shares with the next; an instance up to this size is
    whole in one of them."""
    merge: Literal["nms", "soft_nms", "weighted"] = Field("nms", title="merging of views")
    """How the detections of several looks at a tile become one list. nms: of boxes with an IoU over
    `predict.nms_iou` the one with the best score stays; soft_nms: the others stay too, with lower
    scores; weighted: one box takes their place, with the means of their sides and scores, and the
    pixels that most of their masks hold."""
    agreement: float = Field(0, ge=0, le=1, title="weight of agreement between views")
    """How far a score depends on the fraction of looks that found the instance: 0 not at all; 1:
    it is multiplied by the fraction."""

    @property
    def key(self) -> str:
        """A name for files, 12 hexadecimal digits that differ for other settings of prediction.

        A setting that a later version adds does not change it while it has its default.
        """
        changed = json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(changed.encode()).hexdigest()[:12]

    def cap_of(self, label: int) -> int:
        """Largest number of detections of class `label`, from 1 on, in an image; 0 for no cap."""
        caps = self.class_caps.split(",")
        return int(caps[min(label, len(caps)) - 1])

    @property
    def factors(self) -> tuple[float, ...]:
        """The factors that `scales` names, ascending."""
        return tuple(float(text) for text in self.scales.split(","))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.tile < 32:
            raise ValueError(f"predict.tile must be 0 or at least 32 pixels, and is {self.tile}")
        return self


class MetricConfig(_Settings):
    """The objective: COCO AP50 of masks."""

    max_dets: int = Field(100, ge=1, le=10000, title="detections that count")
    """Detections per image and class that count, as in the official evaluation."""


RELATED = ("model.backbone", "model.weights", "model.trainable_layers", "optim.precision")
"""The settings that a rule relates though they are of two groups; every other rule of this file
relates settings of one group."""


class TrialConfig(_Settings):
    """All settings of one trial."""

    seed: int = Field(0, ge=0)
    """Seed of every random draw of the trial except its split."""
    data: DataConfig = DataConfig()
    """The images and their split."""
    augment: AugmentConfig = AugmentConfig()
    """The augmentations."""
    model: ModelConfig = ModelConfig()
    """The network."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    predict: PredictConfig = PredictConfig()
    """The detections."""
    metric: MetricConfig = MetricConfig()
    """The objective."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone, layers = self.model.backbone, self.model.trainable_layers
        row = BACKBONES[backbone]
        is_new = self.model.weights == "none" and layers == len(row.stages)
        if self.optim.precision == "fp16" and is_new and not row.new_in_fp16:
            raise ValueError(
                f"optim.precision: fp16 cannot train all stages of model.backbone: {backbone} from"
                " model.weights: none, whose gradients overflow at the padding of images; use"
                " pretrained weights, bf16, fp32, or model.trainable_layers under"
                f" {layers}"
            )
        return self

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], place: str = "settings") -> "TrialConfig":
        """Build a configuration from flat names, such as `{"optim.epochs": 5}`, and defaults.

        Raises SettingError, one sentence that begins with `place`.
        """
        nested: dict[str, Any] = {}
        for name, value in settings.items():
            check_setting_name(name, place)
            *groups, leaf = name.split(".")
            node = nested
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise SettingError(f"{place}: {_sentence(error)}") from None

    @classmethod
    def from_assignments(cls, assignments: Sequence[str]) -> "TrialConfig":
        """Build a configuration from what `--set` was given: NAME=VALUE each.

        Raises SettingError, one sentence that begins with `--set`.
        """
        settings: dict[str, str] = {}
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise SettingError(
                    f"--set must be a setting, NAME=VALUE, and is {assignment!r:.80}"
                )
            settings[name] = value
        return cls.from_settings(settings, "--set")

    @property
    def open(self) -> tuple[str, ...]:
        """The names of the settings that are `auto`, each after those that its value depends on."""
        settings = self.settings()
        return tuple(name for name in AUTO_SETTINGS if settings[name] == AUTO)

    def resolved(self, value_of: "Resolver") -> "TrialConfig":
        """The configuration with the value that `value_of` returns in place of each `auto`.

        Where it returns None, `auto` stays. Raises SettingError where a value and the other
        settings exclude each other.
        """
        config = self
        for name in self.open:
            value = value_of(name, config)
            if value is not None:
                config = config.changed({name: value})
        return config

    def changed(self, settings: Mapping[str, Value], place: str = "settings") -> "TrialConfig":
        """The configuration with other values of some settings. Raises SettingError."""
        return TrialConfig.from_settings({**self.settings(), **settings}, place)

    def predictions(
        self, tried: Mapping[str, Sequence[Value]], value_of: "Resolver | None"
    ) -> list[PredictConfig]:
        """The settings of prediction, changed by each combination of values of `predict.` settings.

        tried      the values of each of these settings
        value_of   finds the values that `auto` stands for; None leaves it

        They have the order of itertools.product, so the first has the first value of each list.
        Where nothing is to be tried, they are the configuration's own alone. Raises SettingError.
        """
        changed = (
            self.changed(dict(zip(tried, values, strict=True)))
            for values in itertools.product(*tried.values())
        )
        return [(one if value_of is None else one.resolved(value_of)).predict for one in changed]

    def other_predictions(
        self, tried: Mapping[str, Sequence[Value]], value_of: "Resolver | None"
    ) -> list[PredictConfig]:
        """The distinct `predictions` other than the configuration's own."""
        found = dict.fromkeys(self.predictions(tried, value_of))
        return [one for one in found if one != self.predict]

    def settings(self) -> dict[str, Value]:
        """All settings with flat names, in the order of their definition."""
        return dict(_flatten(self.model_dump()))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Value]]:
    """Pairs of a flat name, such as `optim.epochs`, and its value, from nested settings."""
    pairs: list[tuple[str, Value]] = []
    for key, value in tree.items():
        pairs += (
            _flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else [(f"{prefix}{key}", value)]
        )
    return pairs


SETTINGS: Mapping[str, Value] = TrialConfig().settings()
"""Every setting's name with its default."""


def setting_in_words(name: str) -> str:
    """The name of a setting in plain words: `learning rate` for `optim.learning_rate`.

    It is the title of the setting's definition. Where a setting has none, the last part of its name
    says the same.
    """
    group, _, leaf = name.rpartition(".")
    holder = TrialConfig.model_fields[group].annotation if group else TrialConfig
    fields = getattr(holder, "model_fields", {})
    if leaf in fields and fields[leaf].title:
        return str(fields[leaf].title)
    if leaf.endswith("_p"):
        return f"probability of {leaf.removesuffix('_p').replace('_', ' ')}"
    return leaf.replace("_", " ")


def _may_be_auto() -> Iterator[str]:
    """Yield the flat names of the settings that are marked MayBeAuto."""
    for group, info in TrialConfig.model_fields.items():
        for leaf, field in getattr(info.annotation, "model_fields", {}).items():
            if any(isinstance(one, MayBeAuto) for one in field.metadata):
                yield f"{group}.{leaf}"


AUTO_SETTINGS: tuple[str, ...] = tuple(_may_be_auto())
"""The settings that may be `auto`, in the order of their definition, in which they are resolved: a
crop, then the sides of images, then anchors and caps."""

Resolver: TypeAlias = Callable[[str, TrialConfig], Value | None]
"""A function of the name of a setting that is `auto`, and of a configuration in which all settings
before it are resolved. It returns the setting's value, or None to leave it open."""


SYNONYMS: Mapping[str, str] = {
    "freeze": "model.trainable_layers",
    "frozen_layers": "model.trainable_layers",
    "encoder": "model.backbone",
    "pretrained": "model.weights",
    "checkpoint": "model.weights",
    "size": "model.image_min_side",
    "img_size": "model.image_min_side",
    "imgsz": "model.image_min_side",
    "resolution": "model.image_min_side",
    "flip": "augment.horizontal_flip",
    "hflip": "augment.horizontal_flip",
    "fliplr": "augment.horizontal_flip",
    "vflip": "augment.vertical_flip",
    "flipud": "augment.vertical_flip",
    "rot90": "augment.quarter_turns",
    "lsj": "augment.scale_jitter",
    "hed": "augment.stain_jitter",
    "repeat_factor": "data.repeat_rare",
    "colour": "augment.color_jitter",
    "noise": "augment.blur_or_noise",
    "accumulate_grad_batches": "optim.accumulate",
    "multi_scale": "model.size_jitter",
    "ema_decay": "optim.ema",
    "decay": "optim.weight_decay",
    "jitter": "augment.color_jitter",
    "amp": "optim.precision",
    "fp16": "optim.precision",
    "scheduler": "optim.restarts",
    "tta": "predict.views",
    "conf": "predict.score_threshold",
    "random_state": "seed",
}
"""Names of some settings in other programs, to suggest ours to a user who writes them."""


def check_setting_name(name: str, place: str, others: Iterable[str] = ()) -> None:
    """Raise SettingError, with the most similar name, unless `name` is a trial setting.

    place    the beginning of the error's sentence
    others   names of other things that may have been meant
    """
    if name in SETTINGS:
        return
    near = nearest(name, [*SETTINGS, *others], SYNONYMS)
    way_out = (
        f"Did you mean '{near}'?" if near else "core/config.py and core/augment/ list all settings."
    )
    raise SettingError(f"{place}: {name!r:.80} is not a trial setting. {way_out}")


def _sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error in one sentence: name, rule, value received."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":  # ours: already a sentence that names the setting
        return first["msg"].removeprefix("Value error, ")
    rule = first["msg"].removeprefix("Input ").removeprefix("should ")
    return f"{name} must {rule}, and is {first['input']!r}"
