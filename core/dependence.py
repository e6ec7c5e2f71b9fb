"""Which settings have an effect, given the others: one table for whoever compares, searches or ranks configurations."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.config import SETTINGS, Value


@dataclass(frozen=True)
class Need:
    """What another setting must be for one to have an effect.

    setting   the other one
    above_0   whether it must be on, or a number above 0; else it must be off, or 0
    """

    setting: str
    above_0: bool = True

    def is_met(self, settings: Mapping[str, Value]) -> bool:
        """Whether it holds among settings with flat names; one that is not named has its default."""
        return bool(settings.get(self.setting, SETTINGS[self.setting])) == self.above_0

    def __str__(self) -> str:
        if isinstance(SETTINGS[self.setting], bool):
            return f"{self.setting} {str(self.above_0).lower()}"
        return f"{self.setting} {'above 0' if self.above_0 else '0'}"


_STRENGTHS: Mapping[str, tuple[str, ...]] = {
    "horizontal_flip": (),
    "color_jitter": ("brightness", "contrast", "hue", "saturation", "value"),
    "affine": ("shift", "scale", "rotate"),
    "elastic": ("elastic_alpha", "elastic_sigma"),
    "blur_or_noise": (),
}
"""Augmentations with their strengths; beside each stands its probability, `NAME_p`."""


def _needs() -> dict[str, tuple[Need, ...]]:
    needs: dict[str, tuple[Need, ...]] = {}
    for name, strengths in _STRENGTHS.items():
        switch, probability = Need(f"augment.{name}"), Need(f"augment.{name}_p")
        needs |= {switch.setting: (probability,), probability.setting: (switch,)}
        needs |= {f"augment.{strength}": (switch, probability) for strength in strengths}
    needs["augment.elastic_sigma"] += (Need("augment.elastic_alpha"),)
    return needs | {
        "optim.restart_multiplier": (Need("optim.restarts"),),
        "data.fold": (Need("data.folds"),),
        "data.validation_fraction": (Need("data.folds", above_0=False),),
    }


NEEDS: Mapping[str, tuple[Need, ...]] = _needs()
"""Settings that have an effect only where others are on, each with all that it needs."""


def unmet(name: str, settings: Mapping[str, Value]) -> Need | None:
    """The first thing that a setting lacks to have an effect among settings with flat names; None if it has one."""
    return next((need for need in NEEDS.get(name, ()) if not need.is_met(settings)), None)


def effective(settings: Mapping[str, Value]) -> dict[str, Value]:
    """The settings that have an effect, in one form: equal for two configurations exactly if they train alike.

    Left out is what has no effect, such as the strength of an augmentation that is off; a switch without effect is off;
    weights that `auto` means are named, and tiles as large as the crops are the default.
    """
    having = {**SETTINGS, **settings}
    if having["model.weights"] == "auto":
        having["model.weights"] = "coco" if having["model.backbone"] == "resnet50" else "imagenet"
    if having["predict.tile"] == having["data.crop"]:
        having["predict.tile"] = 0
    having |= {name: False for name in NEEDS if isinstance(having[name], bool) and unmet(name, having)}
    return {name: value for name, value in having.items() if isinstance(value, bool) or unmet(name, having) is None}
