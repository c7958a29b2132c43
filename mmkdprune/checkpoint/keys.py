"""Loading pretrained weights that says what was loaded, and fails when that is nothing.

MMEngine's ``Pretrained`` initialiser loads with ``strict=False``: a wrong prefix or a wrong network leaves the module
as it was, and the only sign is a warning in the log.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from mmkdprune.compat.patching import patch

from .finite import refuse_non_finite

pass

# Parts of the deployable network: fields of a classifier's config, and the beginnings of its keys.
NETWORK_FIELDS = ("backbone", "neck", "head")


class PretrainedKeysError(RuntimeError):
    """No key of a checkpoint fits the module that it should initialise."""


class OtherPrefixError(PretrainedKeysError):
    """Some would with another prefix, which the message names."""


@dataclass(frozen=True)
class KeyReport:
    """How the keys of a module and of a state dict fit together; every kind of key counts, buffers included.

    Args:
        matched (list[str]): Keys of the module that were in the state dict, with the same shape.
        missing (list[str]): Keys of the module that were not in the state dict.
        unexpected (list[str]): Keys of the state dict that the module does not have.
        mismatched (list[str]): Keys in both, with different shapes (not loaded).
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def line(self, limit: int = 3) -> str:
        """One line with the counts and the first few keys of each kind that is not a match.

        Args:
            limit (int): How many keys of a kind are named. Defaults to 3.

        Returns:
            str: For example ``'120 keys matched, 1 missing (fc.weight), 0 unexpected'``.
        """
        parts = [f"{len(self.matched)} keys matched"]
        kinds = [("missing", self.missing), ("unexpected", self.unexpected)]
        if self.mismatched:
            kinds.append(("of another shape", self.mismatched))
        for kind, keys in kinds:
            names = ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")
            parts.append(f"{len(keys)} {kind}" + (f" ({names})" if keys else ""))
        return ", ".join(parts)


def report_loaded_keys(
    module_keys: Iterable[str] | Mapping[str, Tensor], state_dict_keys: Iterable[str] | Mapping[str, Tensor]
) -> KeyReport:
    """Compares the keys of a module with those of a state dict; shapes too, where both arguments hold tensors.

    Args:
        module_keys (Iterable[str] | Mapping[str, Tensor]): ``module.state_dict()`` or its keys.
        state_dict_keys (Iterable[str] | Mapping[str, Tensor]): The state dict to load, or its keys.

    Returns:
        KeyReport: The comparison, in the order of the arguments.
    """
    ours, theirs = list(module_keys), list(state_dict_keys)
    our_set, their_set = set(ours), set(theirs)
    mismatched: list[str] = []
    if isinstance(module_keys, Mapping) and isinstance(state_dict_keys, Mapping):
        common = [key for key in ours if key in their_set]
        mismatched = [key for key in common if _shape(module_keys[key]) != _shape(state_dict_keys[key])]
    return KeyReport(
        matched=[key for key in ours if key in their_set and key not in mismatched],
        missing=[key for key in ours if key not in their_set],
        unexpected=[key for key in theirs if key not in our_set],
        mismatched=mismatched,
    )


def load_backbone(module: nn.Module, checkpoint: str, prefix: str | None = "backbone.") -> KeyReport:
    """Loads the part of a checkpoint under ``prefix`` into a module, and logs which keys fitted.

    Args:
        module (nn.Module): The backbone, say.
        checkpoint (str): File or URL, as in MMEngine's ``init_cfg``.
        prefix (str, optional): Leading part of the checkpoint's keys that is taken off; other keys are left alone.
            None takes all keys. Defaults to ``'backbone.'``.

    Returns:
        KeyReport: What matched and what did not.

    Raises:
        PretrainedKeysError: Nothing matched.
        NonFiniteWeightsError: Weights are infinite or not a number.
    """
    return _load_pretrained(module, checkpoint, prefix, map_location="cpu")


def _load_pretrained(module: nn.Module, checkpoint: str, prefix: str | None, map_location: Any) -> KeyReport:
    from mmengine.logging import print_log
    from mmengine.model import is_model_wrapper
    from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

    if is_model_wrapper(module):
        module = cast(nn.Module, module.module)
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location)
    if not isinstance(loaded, dict):
        raise RuntimeError(f"No state_dict found in checkpoint file {checkpoint}")
    full = loaded.get("state_dict", loaded)
    selected, own = select_keys(full, prefix), module.state_dict()
    # Some backbones rename keys while they load: then every key may be of them.
    is_renamed = not any(key in own for key in selected)
    refuse_non_finite({key: value for key, value in selected.items() if is_renamed or key in own}, checkpoint, module)
    observer = _LoadObserver(module)
    with observer:
        # MMEngine's own warning would list every key once more.
        load_state_dict(module, selected, strict=False, logger="silent")
    report = observer.report(select_keys(full, prefix))
    source = f"{checkpoint} (prefix {prefix!r})" if prefix else checkpoint
    if not report.matched and module.state_dict():
        raise _no_match(module, full, source, prefix, report)
    print_log(f"{type(module).__name__} loaded from {source}: {report.line()}", logger="current")
    return report


def select_keys(state_dict: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Return the keys to load, renamed as MMEngine does it: without the prefix, or without DDP's ``module.``.

    Args:
        state_dict (Mapping[str, Tensor]): Of the checkpoint.
        prefix (str, optional): Leading part of the keys to take; None takes all.
    """
    if prefix:
        prefix = prefix if prefix.endswith(".") else f"{prefix}."
        return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    selected = OrderedDict((re.sub(r"^module\.", "", key), value) for key, value in state_dict.items())
    selected.__dict__.update(_metadata=getattr(state_dict, "_metadata", OrderedDict()))
    return selected


class _LoadObserver:
    """Sees which keys a load left out; backbones rename and resize keys while loading, so names alone do not tell."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.lists: tuple[list[str], list[str], list[str]] | None = None

    def __enter__(self) -> None:
        def remember(_state: Any, _prefix: Any, _metadata: Any, _strict: Any, missing: Any, extra: Any, errors: Any):
            self.lists = missing, extra, errors

        self._handle = self.module._register_load_state_dict_pre_hook(remember)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def report(self, state_dict: Mapping[str, Tensor]) -> KeyReport:
        ours = self.module.state_dict()
        if self.lists is None:  # the module loads in a way of its own
            return report_loaded_keys(ours, state_dict)
        missing, unexpected, errors = self.lists
        # BatchNorm fills this buffer in by itself when it loads a state dict without version metadata.
        filled = [key for key in ours if key.endswith("num_batches_tracked") and key not in state_dict]
        missing = list(dict.fromkeys([*missing, *filled]))
        mismatched = [match[1] for error in errors if (match := re.match(r"size mismatch for (\S+):", error))]
        absent = {*missing, *mismatched}
        return KeyReport([key for key in ours if key not in absent], missing, list(unexpected), mismatched)


def _shape(value: Any) -> Any:
    return getattr(value, "shape", None)


def _no_match(
    module: nn.Module, state_dict: Mapping[str, Tensor], source: str, prefix: str | None, report: KeyReport
) -> PretrainedKeysError:
    ours = module.state_dict()
    heads = Counter(key.split(".")[0] + "." if "." in key else key for key in state_dict)
    text = (
        f"Nothing of {source} fits {type(module).__name__}: {report.line()}. "
        f"The file's keys begin with {', '.join(f'{head} ({count})' for head, count in heads.most_common(8))}; "
        f"the module's are like {', '.join(list(ours)[:2])}. "
    )
    if report.mismatched:
        return PretrainedKeysError(
            f"{text}The names fit, the shapes do not: it is another variant of the network (depth, width, classes)."
        )
    best, count = _best_prefix(ours, state_dict)
    if count and best != (prefix or ""):
        fix = f"prefix={best!r}" if best else "no prefix"
        return OtherPrefixError(
            f"{text}With {fix}, {count} of the module's {len(ours)} keys would match: set that in `init_cfg`."
        )
    return PretrainedKeysError(f"{text}No prefix would match either: check that the checkpoint is of this network.")


def _best_prefix(ours: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> tuple[str, int]:
    """The prefix (up to three names long) under which most of the module's keys are in the file, with their shapes."""
    counts: Counter[str] = Counter()
    for key, value in state_dict.items():
        names = key.split(".")
        for depth in range(min(4, len(names))):
            rest = ".".join(names[depth:])
            if rest in ours and _shape(ours[rest]) == _shape(value):
                counts["".join(f"{name}." for name in names[:depth])] += 1
    return counts.most_common(1)[0] if counts else ("", 0)


def _report_pretrained(_original: Callable) -> Callable:
    def __call__(self: Any, module: nn.Module) -> None:
        from mmengine.model import update_init_info

        _load_pretrained(module, self.checkpoint, self.prefix, self.map_location)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    return __call__


def patch_pretrained_init() -> None:
    """Makes ``init_cfg=dict(type='Pretrained', ...)`` report its keys and fail when none matched."""
    from mmengine.model import PretrainedInit

    patch(PretrainedInit, "__call__", _report_pretrained)


def misfits(report: KeyReport) -> list[str]:
    """Keys that keep weights from filling a network exactly, whatever the direction.

    Batch counters of normalisation layers do not count: old checkpoints lack them and inference does not read them.
    """
    keys = [*report.missing, *report.unexpected, *report.mismatched]
    return [key for key in keys if not key.endswith("num_batches_tracked")]
