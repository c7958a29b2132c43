"""Helpers that users and the other packages share."""

from mmkdprune.compat.pretrained import KeyReport, PretrainedKeysError, load_backbone, report_loaded_keys

from .random import PrivateRandom, isolated_random_state

__all__ = [
    "KeyReport",
    "PretrainedKeysError",
    "PrivateRandom",
    "isolated_random_state",
    "load_backbone",
    "report_loaded_keys",
]
