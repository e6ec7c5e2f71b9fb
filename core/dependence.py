"""Settings that have an effect, given the others, for all code that compares, searches or ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.augmentations import AUGMENTATIONS
from core.backbones import BACKBONES
from core.config import SETTINGS, Value


@dataclass(frozen=True)
class Need:
    """A condition on another setting, without which a setting has no effect.

    setting   name of the other setting
    above_0   whether the other must be on, or a number above 0; else it must be off, or 0
    """

    setting: str
    above_0: bool = True

    def is_met(self, settings: Mapping[str, Value]) -> bool:
        """Whether the condition holds among `settings`, and defaults for those not named."""
        return bool(settings.get(self.setting, SETTINGS[self.setting])) == self.above_0

    def __str__(self) -> str:
        if isinstance(SETTINGS[self.setting], bool):
            return f"{self.setting} {str(self.above_0).lower()}"
        return f"{self.setting} {'above 0' if self.above_0 else '0'}"


def _needs() -> dict[str, tuple[Need, ...]]:
    """Make the table NEEDS from the table of augmentations and the rules of other settings."""
    needs: dict[str, tuple[Need, ...]] = {}
    for name, part in AUGMENTATIONS.items():
        switch, probability = Need(f"augment.{name}"), Need(f"augment.{name}_p")
        has_probability = f"{name}_p" in part.model_fields
        needs |= {switch.setting: (probability,) if has_probability else ()}
        for strength in part.model_fields:
            found = [switch]
            if has_probability and strength != f"{name}_p":
                found.append(probability)
            if strength in part.needs:
                found.append(Need(f"augment.{part.needs[strength]}"))
            needs[f"augment.{strength}"] = tuple(found)
    return needs | {
        "optim.restart_multiplier": (Need("optim.restarts"),),
        "optim.backbone_factor": (Need("model.trainable_layers"),),
        "optim.decay_norms": (Need("optim.weight_decay"),),
        "data.fold": (Need("data.folds"),),
        "data.validation_fraction": (Need("data.folds", above_0=False),),
    }


NEEDS: Mapping[str, tuple[Need, ...]] = _needs()
"""Settings that have an effect only where others are on, each with all that it needs."""


def unmet_need(name: str, settings: Mapping[str, Value]) -> Need | None:
    """The first need of setting `name` that is not met; None if the setting has an effect."""
    return next((need for need in NEEDS.get(name, ()) if not need.is_met(settings)), None)


def effective_settings(settings: Mapping[str, Value]) -> dict[str, Value]:
    """The settings that have an effect, equal for two configurations exactly if these do the same.

    Settings without effect are left out, such as the strength of an augmentation that is off; a
    switch without effect is off; `auto` weights have their real name, tiles as large as the crops
    become the default, and `predict.flips` becomes the view that it stands for.

    settings   with flat names; those that are not named have their defaults
    """
    having = {**SETTINGS, **settings}
    if having["model.weights"] == "auto":
        having["model.weights"] = BACKBONES[str(having["model.backbone"])].weights[0]
    if having["predict.tile"] == having["data.crop"]:
        having["predict.tile"] = 0
    if having["predict.flips"]:
        views = having["predict.views"]
        having |= {"predict.flips": False, "predict.views": "mirror" if views == "none" else views}
    without = []  # settings without effect, which become their defaults
    if not having["predict.tile"] and not having["data.crop"]:
        without.append("predict.overlap")
    if having["predict.views"] == "none" and "," not in str(having["predict.scales"]):
        without.append("predict.agreement")
        if having["predict.merge"] == "weighted":  # one look has nothing to fuse
            without.append("predict.merge")
    having |= {name: SETTINGS[name] for name in without}
    having |= {
        name: False for name in NEEDS if isinstance(having[name], bool) and unmet_need(name, having)
    }
    return {
        name: value
        for name, value in having.items()
        if isinstance(value, bool) or unmet_need(name, having) is None
    }
