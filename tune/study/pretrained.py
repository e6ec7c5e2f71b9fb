"""The pretrained weights with which a study's trials begin, by the networks that they can have.

`tune.weights` lists them without a study, so this module imports neither Ray nor the ledger.
"""

import contextlib
import itertools
from collections.abc import Iterator

from core.config import SETTINGS, ModelConfig, TrialConfig
from core.errors import BadRequest, SettingError
from core.network.weights import WeightsFile, find_weights
from tune.space.domains import Choices
from tune.space.space import SearchSpace

_MODEL_SETTINGS = ("model.detector", "model.backbone", "model.weights", "model.stride_in_1x1")


def weights_key(model: ModelConfig) -> str:
    """A key for pretrained weights: models with the same key start from the same weights file."""
    return f"{model.detector} {model.backbone} {model.weights}"


def weights_files_of(space: SearchSpace, problems: list[BadRequest]) -> dict[str, WeightsFile]:
    """The files of pretrained weights of a study, by `weights_key`; problems are added to a list.

    Downloads nothing.
    """
    files: dict[str, WeightsFile] = {}
    for model in _one_of_each(space):
        try:
            file = find_weights(model, download=False)
        except BadRequest as error:
            problems.append(error)
        else:
            if file is not None:
                files[weights_key(model)] = file
    return files


def models_of(space: SearchSpace) -> Iterator[ModelConfig]:
    """The models of the variants, or of a space, all combinations of _MODEL_SETTINGS.

    In the latter all other settings have their defaults.
    """
    if space.variants:
        yield from (row.config.model for row in space.rows())
        return
    values = {name: [space.fixed.get(name, SETTINGS[name])] for name in _MODEL_SETTINGS}
    for parameter in space.parameters:
        if parameter.name in values and isinstance(parameter.domain, Choices):
            # In trials whose `when` does not hold, the setting has its default.
            default = [SETTINGS[parameter.name]] if parameter.when else []
            values[parameter.name] = list(dict.fromkeys([*parameter.domain.values, *default]))
    for combination in itertools.product(*values.values()):
        with contextlib.suppress(SettingError):  # a combination that no trial can have
            yield TrialConfig.from_settings(dict(zip(values, combination, strict=True))).model


def _one_of_each(space: SearchSpace) -> Iterator[ModelConfig]:
    """One model for each `weights_key` that the study's trials can have."""
    seen = set()
    for model in models_of(space):
        if weights_key(model) not in seen:
            seen.add(weights_key(model))
            yield model
