"""Which network classes fetch code or weights from somewhere else when they are built."""

import functools
import inspect
from types import CodeType, FunctionType
from typing import Any

from mmengine.model import BaseModule
from torch import nn

# Wrappers of other libraries' networks, and networks that read others' weights: of MMPretrain, MMDetection and
# MMSegmentation, and of what users are likely to register under these names.
_WRAPPERS = (
    "TIMMBackbone",
    "TimmClassifier",
    "HuggingFaceClassifier",
    "BertModel",
    "CLIPGenerator",
    "Detectron2Wrapper",
    "KnowledgeDistillationSingleStageDetector",
    "VPD",
)
# What a constructor calls to get something from elsewhere.
_FETCHING_NAMES = {
    *("from_pretrained", "create_model", "load_url", "load_state_dict_from_url", "hf_hub_download", "urlopen"),
    *("snapshot_download", "urlretrieve", "load_checkpoint", "_load_checkpoint", "load_from_http", "CheckpointLoader"),
    *("hub", "import_module", "__import__", "get_object_from_string", "fromfile", "fromstring", "exec"),
}


@functools.cache
def fetching_class(owner: type) -> bool:
    """Tell whether a class gets code or weights from a hub, an address or a file when it is built.

    Wrappers of timm, Hugging Face and Detectron2 are known by name; of all others the constructor, and the methods
    that it calls, are searched for the functions that fetch.

    Args:
        owner (type): The class.

    Returns:
        bool: Whether it does, as far as that can be told without running it.
    """
    classes = [base for base in owner.__mro__ if base not in (nn.Module, BaseModule, object)]
    if any(base.__name__ in _WRAPPERS for base in classes):
        return True
    seen: set[str] = set()
    waiting = ["__new__", "__init__"]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for base in classes:
            used = _names_in(base.__dict__.get(name))
            if used & _FETCHING_NAMES:
                return True
            # Weights are initialised later, from init_cfg, which is never taken from a file.
            waiting += [other for other in used - seen - {"init_weights"} if _has(classes, other)]
    return False


def _has(classes: list[type], name: str) -> bool:
    return any(name in base.__dict__ for base in classes)


def _names_in(method: Any) -> set[str]:
    function = inspect.unwrap(getattr(method, "__func__", method))  # decorators stand before some constructors
    return _names_of(function.__code__) if isinstance(function, FunctionType) else set()


def _names_of(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_of(constant)
    return names
