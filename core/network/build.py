"""A detector built from settings and pretrained weights, or restored from a saved state."""

import re
from collections.abc import Mapping

import numpy as np
import torch

from core.backbones import BACKBONES
from core.config import ModelConfig, PredictConfig
from core.detectors import DETECTORS
from core.errors import WeightsError
from core.network.detector import Detector, Traits
from core.network.weights import BaseWeights, first_names

CLASS_LAYERS = re.compile(r"\.box_predictor\.|\.mask_predictor\.mask_fcn_logits\.")
"""Pattern in the names of the layers that depend on the classes. Pretrained weights never fill
them, even if the number of classes is the same: class 1 of the data set is not class 1 of COCO, and
nobody knows whether it is class 1 of a user's file."""

COUNTER = "num_batches_tracked"
"""Suffix of a counter that batch norm keeps and nothing reads. Older files and frozen batch norm
have none."""

STATISTICS = ("running_mean", "running_var")
"""Suffixes of the statistics that batch norm keeps of the features on which it was trained."""


def build_detector(
    config: ModelConfig, classes: int, weights: BaseWeights | None, predict: PredictConfig
) -> Detector:
    """A detector in training mode on the CPU, frozen as `config` says.

    classes   number of classes beside background
    weights   the weights that `config.weights` names; None exactly where that is `none`

    Layers that no weights fill are initialised from torch's global generator, which the caller
    seeds. Raises WeightsError for weights that do not fit.
    """
    assert (weights is None) == (config.weights == "none"), (
        f"weights for model.weights: {config.weights}"
    )
    recipe = DETECTORS[config.detector]
    traits = Traits(
        frozen_norm=(recipe.freezes_norm or config.norm != "batch") and weights is not None,
        norm_eps=BACKBONES[config.backbone].norm_eps
        if weights is None or weights.norm_eps is None
        else weights.norm_eps,
        stride_in_1x1=config.stride_in_1x1 or (weights is not None and weights.stride_in_1x1),
    )
    model: Detector = recipe.build(config, classes, predict, traits)
    if weights is not None:
        _copy_weights(model, weights, config)
    model.freeze(config.trainable_layers, config.trainable_fpn)
    return model.train()


def restore_detector(
    config: ModelConfig,
    classes: int,
    traits: Traits,
    predict: PredictConfig,
    state: Mapping[str, torch.Tensor],
) -> Detector:
    """The detector whose `state_dict` is `state`, in evaluation mode on the CPU; no layer trains.

    It leaves torch's generators as they were. Raises RuntimeError, torch's own, for a state of
    another network.
    """
    with torch.random.fork_rng([]):  # layers are initialised at random before they are filled
        model: Detector = DETECTORS[config.detector].build(config, classes, predict, traits)
    model.load_state_dict(state)
    model.requires_grad_(False)
    return model.eval()


def _copy_weights(model: Detector, weights: BaseWeights, config: ModelConfig) -> None:
    """Copy pretrained weights into the model, or into its backbone where they are a classifier's.

    A whole Mask R-CNN also fills the layers of another detector that begin as copies of its own.
    Group norm takes the scale and shift of pretrained batch norm, and has no place for statistics.
    Raises WeightsError for weights that do not fit.
    """
    if config.norm == "frozen" and not weights.whole:
        raise WeightsError(
            f"model.norm: frozen keeps the pretrained statistics of pyramid and heads, and"
            f" {weights.name} is a backbone alone; name a whole fpn_v2, or use model.norm: group"
        )
    without_place = (*STATISTICS, COUNTER) if config.norm == "group" else (COUNTER,)
    place = model if weights.whole else model.get_submodule("backbone.body")
    has = place.state_dict().keys()
    head = BACKBONES[config.backbone].head

    def is_new(name: str) -> bool:
        """Whether a tensor keeps its random initial values, whatever the file holds."""
        if weights.whole:
            return CLASS_LAYERS.search(name) is not None
        return name.startswith((*head, "level_norms."))

    arrays = dict(weights.tensors)
    if weights.whole:
        for one, copy in DETECTORS[config.detector].copies:
            arrays = {
                copy + name.removeprefix(one): value
                for name, value in arrays.items()
                if name.startswith(one)
            } | arrays
    tensors = {
        # A copy, because shared arrays are read-only and torch has no read-only tensors.
        name: torch.from_numpy(np.array(value))
        for name, value in arrays.items()
        if not is_new(name) and (name in has or not name.endswith(without_place))
    }
    misfit = (
        f"{weights.name} does not fit model.detector {config.detector} with model.backbone"
        f" {config.backbone}"
    )
    way_out = "name the weights of this network, or set model.weights to auto or none"
    try:
        loaded = place.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # its first line is a headline; then one line for each misfit
        raise WeightsError(
            f"{misfit}: {str(error).splitlines()[1].strip().rstrip('.')}; {way_out}"
        ) from None
    missing = [
        name for name in loaded.missing_keys if not is_new(name) and not name.endswith(COUNTER)
    ]
    if missing:
        raise WeightsError(f"{misfit}: it lacks {first_names(missing)}; {way_out}")
    if loaded.unexpected_keys:
        raise WeightsError(
            f"{misfit}: the model has no {first_names(loaded.unexpected_keys)}; {way_out}"
        )
