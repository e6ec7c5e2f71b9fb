"""Match tables of trials that replay a curve."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.config import TrialConfig
from core.data.dataset import Dataset
from core.data.split import split
from core.metric.ap50 import MatchTable

INSTANCES = 20
"""Instances in each image, all of one class."""


def match_table(
    data: Dataset, settings: Mapping[str, Any], epoch: int, quality: float
) -> MatchTable:
    """The matches of an epoch on a trial's validation images.

    A share of about `quality` of the instances is found, in some images one more than in others.
    """
    config = TrialConfig.from_settings(dict(settings))
    names = [data.samples[index].name for index in split(data, config.data).validation]
    luck = np.random.default_rng([int(settings["seed"]), epoch]).random(len(names))
    hits_I = np.floor(quality * INSTANCES + luck).astype(int).clip(0, INSTANCES)
    found = int(hits_I.sum())
    return MatchTable(
        image_D=np.repeat(np.arange(len(names), dtype=np.int32), hits_I),
        label_D=np.ones(found, np.int16),
        score_D=np.full(found, 0.9, np.float32),
        rank_D=np.concatenate([np.arange(hits, dtype=np.int32) for hits in hits_I]),
        hit_D=np.ones(found, np.bool_),
        ignored_D=np.zeros(found, np.bool_),
        truths_IC=np.tile(np.array([INSTANCES, 0, 0, 0], np.int32), (len(names), 1)),
        image_names=tuple(names),
    )
