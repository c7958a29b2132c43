"""Say what a run's ``load_from`` loads, and stop where that is nothing.

MMEngine loads what fits and continues: a file with other key names, or of a network of another depth, trains from
random weights after one long warning.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, cast

from torch import Tensor, nn

from mmkdprune.compat.patching import patch

from .keys import NETWORK_FIELDS, KeyReport, PretrainedKeysError, _best_prefix, _LoadObserver, select_keys

_file: ContextVar[str | None] = ContextVar("file that a runner loads", default=None)
_CONTAINERS = (
    "state_dict",
    "model",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "module",
    "net",
    "network",
    "params",
)


def _noting_the_file(original: Callable) -> Callable:
    def load_checkpoint(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        token = _file.set(str(filename))
        try:
            return original(self, filename, *args, **kwargs)
        finally:
            _file.reset(token)

    return load_checkpoint


def _guarded(original: Callable) -> Callable:
    def load_to_model(
        model: nn.Module, checkpoint: Any, strict: bool = False, logger: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        file = _file.get()
        if file is None or strict or not isinstance(checkpoint, Mapping):
            return original(model, checkpoint, strict, logger, *args, **kwargs)
        network = _inside_wrappers(model)
        observer = _LoadObserver(network)
        with observer:
            # MMEngine's own warning would list every key.
            result = original(model, checkpoint, strict, "silent", *args, **kwargs)
        state = checkpoint.get("state_dict", checkpoint)
        _report(network, observer.report(select_keys(state, None)), checkpoint, file)
        return result

    return load_to_model


def _inside_wrappers(model: nn.Module) -> nn.Module:
    """What MMEngine loads into: it looks through the same wrappers."""
    from mmengine.model import BaseTTAModel, is_model_wrapper

    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def _report(model: nn.Module, report: KeyReport, checkpoint: Mapping[str, Any], file: str) -> None:
    from mmengine.logging import print_log

    if not _without_counters(report.matched) and model.state_dict():
        raise _nothing_fits(model, report, checkpoint, file)
    name = type(model).__name__
    partial = partial_match(model, report)
    text = f"{name} loaded from {file}: {report.line()}"
    if partial is not None:
        text += (
            f". Only a part fits: {partial.line()}. What is missing keeps its initial weights; is it a checkpoint of "
            "this network (depth, width, number of classes)?"
        )
    print_log(text, logger="current", level=logging.INFO if partial is None else logging.WARNING)


def partial_match(model: nn.Module, report: KeyReport) -> KeyReport | None:
    """Keys of the deployable network that do not fit; None if all do.

    Train-only parts of this package's algorithms, which only the model or only the file may have, do not count; nor do
    counters of batches, and parts of the file that the model does not have at all.

    Args:
        model (nn.Module): What was loaded into.
        report (KeyReport): How the keys fitted.
    """
    own = {key.split(".")[0] for key in model.state_dict()}
    is_classifier = any(kind.__name__ == "ImageClassifier" for kind in type(model).__mro__)
    parts = own & set(NETWORK_FIELDS) if is_classifier else own

    def chosen(keys: list[str]) -> list[str]:
        return [key for key in _without_counters(keys) if key.split(".")[0] in parts]

    found = KeyReport(*map(chosen, (report.matched, report.missing, report.unexpected, report.mismatched)))
    return found if found.missing or found.unexpected or found.mismatched else None


def _without_counters(keys: list[str]) -> list[str]:
    """Keys without BatchNorm's counters, which fit any network."""
    return [key for key in keys if not key.endswith("num_batches_tracked")]


def _nothing_fits(model: nn.Module, report: KeyReport, checkpoint: Mapping[str, Any], file: str) -> PretrainedKeysError:
    text = f"load_from: nothing of {file} fits {type(model).__name__}: {report.line()}. "
    if report.mismatched:
        return PretrainedKeysError(
            f"{text}The names fit, the shapes do not: it is another variant of the network (depth, width, classes)."
        )
    best: tuple[int, str, str, str] | None = None
    for container, state in _states(checkpoint):
        for place, part in (("model", model), ("model.backbone", getattr(model, "backbone", None))):
            if not isinstance(part, nn.Module):
                continue
            prefix, count = _best_prefix(part.state_dict(), state)
            if count and (best is None or count > best[0]):
                best = count, container, place, prefix
    if best is None:
        heads = ", ".join(list(dict.fromkeys(key.split(".")[0] for key in checkpoint))[:8])
        return PretrainedKeysError(
            f"{text}No prefix would match either (its keys begin with {heads}): check that the checkpoint is of this "
            "network, or set load_from=None."
        )
    count, container, place, prefix = best
    fix, number = "", len((model if place == "model" else model.get_submodule("backbone")).state_dict())
    unpacked = file
    if container not in ("", "state_dict"):
        unpacked = f"{file.removesuffix('.pth')}_weights.pth"
        fix = (
            f'Its weights lie under {container!r}: write them to a file of their own with python -c "import torch; '
            f"torch.save(dict(state_dict=torch.load('{file}', weights_only=True)['{container}']), '{unpacked}')\". "
        )
    if place == "model" and prefix in ("", "module."):
        return PretrainedKeysError(f"{text}{fix}Then load_from='{unpacked}' matches {count} of {number} keys.")
    with_prefix = f"prefix={prefix!r}" if prefix else "no prefix"
    settings = f"type='Pretrained', checkpoint='{unpacked}'" + (f", prefix={prefix!r}" if prefix else "")
    return PretrainedKeysError(
        f"{text}{fix}With {with_prefix}, {count} of the {number} keys of {place} would match: set load_from=None and "
        f"{place}.init_cfg=dict({settings})."
    )


def _states(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """State dicts in a checkpoint, with the key under which each lies; '' for the whole file."""
    for name in ("", *_CONTAINERS):
        found = checkpoint if not name else checkpoint.get(name)
        if isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values()):
            yield name, found


def patch_load_from() -> None:
    """Makes every runner report what it loads, and fail when nothing matched."""
    import mmengine.runner.checkpoint
    import mmengine.runner.runner
    from mmengine._strategy import SingleDeviceStrategy
    from mmengine.runner import Runner

    patch(Runner, "load_checkpoint", _noting_the_file)
    patch(SingleDeviceStrategy, "load_checkpoint", _noting_the_file)
    for module in (mmengine.runner.checkpoint, mmengine.runner.runner):
        patch(module, "_load_checkpoint_to_model", _guarded)
