"""One trial: images in, Mask R-CNN trained, AP50 out. Knows nothing of searches.

`Trial`, `TrialConfig` and `load_data` are imported when they are first used, so that the import of
this package costs nothing.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.config import TrialConfig
    from core.data import load_data
    from core.training.trial import Trial

__all__ = ["Trial", "TrialConfig", "load_data"]

_PLACES = {
    "Trial": "core.training.trial:Trial",
    "TrialConfig": "core.config:TrialConfig",
    "load_data": "core.data:load_data",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return resolve_name(_PLACES[name])
