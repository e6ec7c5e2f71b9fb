"""The table of detectors: all that settings, packing and network must know of each.

It imports no torch, because settings are read before anything is trained. To add a detector, write
a builder of a `core.network.detector.Detector` in `core/network/detectors.py` and give its row a
line here; another package names its row in an entry point of the group `cell_tune.detectors`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.extensions import Parts


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table.

    build         makes the network, drawn from torch's global generator, of a `ModelConfig`, the
                  number of classes beside background, a `PredictConfig` and its `Traits`
    freezes_norm  whether batch norm of a pretrained backbone is frozen, and all other layers have
                  none
    memory_rank   rank by the memory that training takes: 0 for fpn, the largest for fpn_v2
    coco          the recipe of torchvision's Mask R-CNN whose COCO weights fill it, the end of a
                  name such as `maskrcnn_resnet50_fpn`; empty where it is the row's own name
    copies        pairs of prefixes of layers' names: where a whole network's weights have layers
                  under the first prefix only, those under the second begin as copies of them
    advice        what a user of this detector should know, as in `Backbone`
    """

    build: Callable[..., Any]
    freezes_norm: bool
    memory_rank: float
    coco: str = ""
    copies: tuple[tuple[str, str], ...] = ()
    advice: str = ""


DETECTORS: Parts[Recipe] = Parts(
    "detector",
    "cell_tune.detectors",
    {
        "fpn": "core.network.detectors:FPN",
        "fpn_v2": "core.network.detectors:FPN_V2",
        "cascade": "core.network.detectors:CASCADE",
    },
)
"""Every detector."""
