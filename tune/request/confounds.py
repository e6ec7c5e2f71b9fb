"""The factors in which two configurations differ, and whether a difference in AP50 can be
attributed to one of them.

A comparison says something about a factor only where this factor alone differs. The reference
report compared rows that differed in more than their names said: "Aug." had eight images a step
where its baseline had two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.config import SETTINGS, Value
from core.dependence import effective_settings
from core.text import listed, many
from core.values import as_number, as_setting

RATE = "optim.learning_rate"
STEP = ("optim.batch_size", "optim.accumulate")
"""The settings whose product is the number of images in an optimizer step."""

AUGMENTATION = "augmentation"
BACKBONE_FREEZING = "freezing of the backbone"
PYRAMID_FREEZING = "freezing of the feature pyramid"
BACKBONE = "backbone"
SCHEDULE = "learning rate schedule"
BATCH = "batch size"

FACTORS: Mapping[str, tuple[str, ...]] = {
    AUGMENTATION: tuple(name for name in SETTINGS if name.startswith("augment.")),
    BACKBONE_FREEZING: ("model.trainable_layers",),
    PYRAMID_FREEZING: ("model.trainable_fpn",),
    BACKBONE: ("model.backbone",),
    "pretrained weights": ("model.weights", "model.stride_in_1x1"),
    "detector": ("model.detector",),
    "size of masks": ("model.mask_side",),
    "normalisation": ("model.norm",),
    "anchors": ("model.anchor_scale",),
    "image size": ("model.image_min_side", "model.image_max_side", "model.size_jitter"),
    "training crops": ("data.crop",),
    "repetition of rare classes": ("data.repeat_rare",),
    "learning rate": (RATE,),
    "learning rate of the backbone": ("optim.backbone_factor",),
    BATCH: STEP,
    SCHEDULE: ("optim.restarts", "optim.restart_multiplier", "optim.warmup_epochs"),
    "epochs": ("optim.epochs",),
    "optimizer": (
        "optim.weight_decay", "optim.decay_norms", "optim.gradient_clip", "optim.precision",
    ),
    "average of the weights": ("optim.ema",),
    "sampling of proposals": ("model.proposals_train", "model.rpn_samples", "model.box_samples"),
    "prediction": (
        "model.proposals_test", *(name for name in SETTINGS if name.startswith("predict.")),
    ),
    "evaluation": tuple(name for name in SETTINGS if name.startswith("metric.")),
    "seed": ("seed",),
    "brightness": ("data.intensity",),
    "split": (
        "data.validation_fraction", "data.folds", "data.fold", "data.split_seed",
        "data.group_pattern", "data.skip_bad", "data.allow_suspicious", "data.split_components",
        "data.class_names",
    ),
}  # fmt: skip
"""Every setting, under the factor that a reader would name; all augmentations together are one
factor."""


@dataclass(frozen=True)
class Factor:
    """A factor in which two configurations differ.

    settings   the factor's settings that differ
    values     both values in words, the first configuration's first: `8 instead of 2`
    """

    name: str
    settings: tuple[str, ...]
    values: str

    def __str__(self) -> str:
        return f"{self.name} ({self.values})"


def differing_factors(one: Mapping[str, Value], other: Mapping[str, Value]) -> tuple[Factor, ...]:
    """The factors in which two configurations differ, in the order of FACTORS.

    one, other   all settings of each, by flat names such as `optim.learning_rate`

    A setting that has no effect counts as its default: the strength of an augmentation that is off,
    the length of cycles without restarts. A learning rate that changes in proportion to the images
    of a step counts as part of the batch size.
    """
    one, other = effective_settings(one), effective_settings(other)
    names = {
        name
        for name, default in SETTINGS.items()
        if one.get(name, default) != other.get(name, default)
    }
    if _scaled(one, other):
        names.discard(RATE)
    found = []
    for factor, settings in FACTORS.items():
        differing = tuple(name for name in settings if name in names)
        if differing:
            found.append(Factor(factor, differing, _values(factor, differing, one, other)))
    return tuple(found)


@dataclass(frozen=True)
class Attribution:
    """The causes, if they can be told, of the difference between a table's row and its counterpart.

    name, counterpart   the names of the two rows
    factors             the factors in which they differ
    together            rows that differ from the same counterpart in one factor each, and together
                        in exactly `factors`
    """

    name: str
    counterpart: str
    factors: tuple[Factor, ...]
    together: tuple[str, ...] = ()

    @property
    def is_confounded(self) -> bool:
        """Whether several factors differ that no other rows of the table tell apart."""
        return len(self.factors) > 1 and not self.together

    @property
    def causes(self) -> tuple[str, ...]:
        """The one factor, or the rows whose effects add up to it; empty if confounded."""
        if self.is_confounded:
            return ()
        return self.together or tuple(factor.name for factor in self.factors)

    @property
    def sentence(self) -> str:
        """One sentence on what differs and what the difference can be attributed to."""
        if not self.factors:
            return (
                f"{self.name} has the same settings as {self.counterpart}: they differ by chance"
                " alone"
            )
        differs = (
            f"{self.name} differs from {self.counterpart} in"
            f" {listed([str(factor) for factor in self.factors])}"
        )
        if self.together:
            return f"{differs}: the difference is that of {listed(self.together)} together"
        if self.is_confounded:
            return (
                f"{differs}: the difference cannot be attributed to the {self.factors[0].name}"
                " alone"
            )
        return differs


def attribute_comparisons(
    counterparts: Mapping[str, str], table: Mapping[str, Mapping[str, Value]]
) -> list[Attribution]:
    """The attribution of each comparison of a table.

    counterparts   the row that each row is compared with
    table          all settings of each row, without those that distinguish its repeats

    A difference in several factors can be attributed where other rows of the table differ from the
    same counterpart in one of these factors each, with the same settings and values: "Partial +
    Aug." is "Partial" and "Aug." together.
    """
    factors: dict[str, dict[str, tuple[Factor, ...]]] = {}
    alone: dict[str, dict[str, dict[str, Value | None]]] = {}
    for counterpart in dict.fromkeys(counterparts.values()):
        found = {
            row: differing_factors(settings, table[counterpart]) for row, settings in table.items()
        }
        factors[counterpart] = found
        alone[counterpart] = {
            row: _differing_settings(table[row], table[counterpart])
            for row, differing in found.items()
            if len(differing) == 1
        }
    return [
        Attribution(
            name,
            counterpart,
            factors[counterpart][name],
            (
                _rows_that_make(
                    _differing_settings(table[name], table[counterpart]), alone[counterpart]
                )
                if len(factors[counterpart][name]) > 1
                else ()
            ),
        )
        for name, counterpart in counterparts.items()
    ]


def _rows_that_make(
    changes: Mapping[str, Value | None], alone: Mapping[str, Mapping[str, Value | None]]
) -> tuple[str, ...]:
    """The rows of `alone` that together make exactly these changes; empty where none do."""
    chosen: list[str] = []
    covered: dict[str, Value | None] = {}
    # Rows with most changes first: "Elastic", which includes the changes of "Aug.", is chosen
    # before it.
    for row in sorted(alone, key=lambda name: -len(alone[name])):
        if alone[row].items() <= changes.items() and not alone[row].items() <= covered.items():
            chosen.append(row)
            covered |= alone[row]
    return tuple(row for row in alone if row in chosen) if covered == changes else ()


def _differing_settings(
    one: Mapping[str, Value], other: Mapping[str, Value]
) -> dict[str, Value | None]:
    """Every setting in which a configuration differs from another, with its own value."""
    names = [name for factor in differing_factors(one, other) for name in factor.settings]
    names += [RATE] if _scaled(one, other) else []
    own = effective_settings(one)
    return {name: own.get(name) for name in names}


def _scaled(one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    """Whether images of a step and learning rate both differ, in the same proportion."""
    return (
        _images_of_a_step(one) != _images_of_a_step(other)
        and abs(_rate_per_image(one) / _rate_per_image(other) - 1) < 1e-9
    )


def _images_of_a_step(settings: Mapping[str, Value]) -> int:
    return math.prod(int(settings[name]) for name in STEP)


def _rate_per_image(settings: Mapping[str, Value]) -> float:
    return float(settings[RATE]) / _images_of_a_step(settings)


def _values(
    factor: str, names: Sequence[str], one: Mapping[str, Value], other: Mapping[str, Value]
) -> str:
    """The values of the differing settings `names` of a factor, in words (see `Factor.values`)."""
    if factor == BACKBONE_FREEZING:
        return f"trains {_stages(one[names[0]])} instead of {_stages(other[names[0]])}"
    if factor == PYRAMID_FREEZING:
        return "trained instead of frozen" if one[names[0]] else "frozen instead of trained"
    if factor == BATCH:
        sizes = (
            _both(STEP[0], one, other)
            if names == STEP[:1]
            else f"{_in_batches(one)} instead of {_in_batches(other)}"
        )
        return f"{sizes}{_rate_beside_batch(one, other)}"
    parts = []
    for name in names:
        mine, its = one.get(name), other.get(name)
        if mine is None or (its is None and mine == SETTINGS[name]):
            continue  # a default need not be said beside the switch that it belongs to
        leaf = (
            ""
            if name == "model.weights" or len(FACTORS[factor]) == 1
            else f"{name.rpartition('.')[2]} "
        )
        parts.append(f"{leaf.replace('_', ' ')}{_both(name, one, other)}")
    return ", ".join(parts)


def _stages(layers: Value) -> str:
    known: Mapping[Value, str] = {0: "no stage", 1: "the last stage", 5: "all stages"}
    return known.get(layers, f"the last {layers} stages")


def _in_batches(settings: Mapping[str, Value]) -> str:
    images, batches = _images_of_a_step(settings), int(settings[STEP[1]])
    return f"{many(images, 'image')} a step in {many(batches, 'batch')}"


def _rate_beside_batch(one: Mapping[str, Value], other: Mapping[str, Value]) -> str:
    """A clause on the learning rate per image, for two configurations of different batch size."""
    if _scaled(one, other):
        return ", the learning rate in proportion"
    ratio = round(_rate_per_image(one) / _rate_per_image(other), 9)
    words = {0.25: "a quarter", 0.5: "half", 1.0: "the same", 2.0: "twice", 4.0: "four times"}
    return f"; learning rate per image {words.get(ratio, f'{as_number(ratio, 3)} times')}"


def _both(name: str, one: Mapping[str, Value], other: Mapping[str, Value]) -> str:
    """Both values of a setting, in words; the own alone if it is a switch or the other has none."""
    mine, its = one[name], other.get(name)
    if its is None or isinstance(mine, bool):
        return as_setting(mine)
    return f"{as_setting(mine)} instead of {as_setting(its)}"
