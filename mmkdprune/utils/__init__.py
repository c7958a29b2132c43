"""Helpers that users and the other packages share.

They are imported when they are asked for: the report of the environment (``python -m mmkdprune.utils.env``) runs where
PyTorch or MMEngine are missing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkdprune.compat.pretrained import KeyReport, PretrainedKeysError, load_backbone, report_loaded_keys

    from .random import PrivateRandom, isolated_random_state

_PLACES = {
    "KeyReport": "mmkdprune.compat.pretrained",
    "PretrainedKeysError": "mmkdprune.compat.pretrained",
    "PrivateRandom": "mmkdprune.utils.random",
    "isolated_random_state": "mmkdprune.utils.random",
    "load_backbone": "mmkdprune.compat.pretrained",
    "report_loaded_keys": "mmkdprune.compat.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


__all__ = [
    "KeyReport",
    "PretrainedKeysError",
    "PrivateRandom",
    "isolated_random_state",
    "load_backbone",
    "report_loaded_keys",
]
