"""Measure how sensitive each layer is to pruning, and suggest rates: ``mmkdprune sensitivity``."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import EVALUATOR, init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.missing_data import explained_missing_data
from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.hooks import hook_name
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.compact_folder import load_pruned
from mmkdprune.engine.hooks.progress_bar_hook import is_interactive
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.part import HeldImages, PartialEvaluation
from mmkdprune.hardware import hardware
from mmkdprune.pruning.sensitivity import Candidates, check_rates, lowest_filters, pruned_for_a_while
from mmkdprune.version import __version__

from .sensitivity_picture import draw
from .sensitivity_record import SensitivityRecord
from .sensitivity_target import SensitivityTarget, pruner_arguments

_FIELDS = ("val_dataloader", "val_evaluator")


def run(args: argparse.Namespace) -> None:
    """Measure and suggest; see :mod:`mmkdprune.cli.sensitivity`."""
    with readable_errors(args.debug):
        with readable_errors(args.debug, building=True):
            # Evaluators log their tables, once a point.
            MMLogger.get_instance("mmkdprune_sensitivity", log_level="ERROR")
            config = _load_config(args)
            model = _load_model(config, args)
            loaders = _loaders(config, args)
            candidates = lowest_filters(model, args.rates, **pruner_arguments(args), coupling=args.coupling)
        folder = args.out or args.checkpoint.parent
        record = SensitivityRecord(folder / "sensitivity.json", _settings(config, model, args), args.overwrite)
        record.add_layers(candidates, check_rates("--rates", args.rates))
        record.content |= {"config": Path(args.config.split("::")[-1]).name, "checkpoint": args.checkpoint.name}
        record.content |= {"hardware": hardware(), "mmkdprune_version": __version__}
        record.save()
        with readable_errors(args.debug, building=True):
            evaluation = _evaluation(config, model, loaders, args)
            target = SensitivityTarget(model, evaluation, args) if args.coupling == "group" else None
        try:
            _measure(record, evaluation, candidates, model)
            metric, sign = _choose_metric(config, record.content["dense"], args.metric)
            record.content |= {"metric": metric, "higher_is_better": sign > 0}
            record.content.pop("suggestion", None)
            if target is not None:
                record.content["suggestion"] = target.suggest(record, evaluation, metric, sign)
        except KeyboardInterrupt:
            print(f"\nstopped; {record.path} has what was measured: repeat the command to go on", file=sys.stderr)
            raise SystemExit(130) from None
        record.save()
        picture = draw(record.content, record.path.with_suffix(".png"))
        print(f"\n{record.path}\n{picture}")
        if target is not None:
            target.tell(record.content, folder / "sensitivity_prune.py")


def _load_config(args: argparse.Namespace) -> Config:
    config = read_config(args.config, args.cfg_options)
    needed = (*_FIELDS, *(("train_dataloader",) if args.recalibration_images else ()))
    if absent := [field for field in needed if not config.get(field)]:
        advice = "; --recalibration-images 0 does without training images" if absent == ["train_dataloader"] else ""
        raise UsageError(f"{args.config} has no {' and no '.join(absent)}: there is nothing to measure on{advice}")
    if not args.checkpoint.is_file():
        raise UsageError(f"there is no checkpoint {args.checkpoint}")
    init_default_scope(config.get("default_scope") or "mmpretrain")
    if config.get("data_preprocessor"):
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    set_dataloader_defaults(config, ["train_dataloader", "val_dataloader"], pin_memory=False)
    return config


def _load_model(config: Config, args: argparse.Namespace) -> BaseModel:
    """The deployable network with the weights of the checkpoint, which must be its own."""
    network: Any = revert_sync_batchnorm(load_pruned(config, args.checkpoint, args.weights).network)
    return network.to(args.device or get_device())


def _loaders(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    fields = ["val_dataloader", *(["train_dataloader"] if args.recalibration_images else [])]
    loaders = {}
    for field in fields:
        with explained_missing_data(config, field):
            loaders[field] = Runner.build_dataloader(config[field], seed=args.seed)
    return loaders


def _evaluation(
    config: Config, model: BaseModel, loaders: Mapping[str, Any], args: argparse.Namespace
) -> PartialEvaluation:
    validation = HeldImages(loaders["val_dataloader"], args.images, args.seed, "--images")
    training, number = None, args.recalibration_images
    if number:
        training = HeldImages(loaders["train_dataloader"], number, args.seed, "--recalibration-images")
    settings = config.val_evaluator
    is_whole = isinstance(settings, dict) and "metrics" in settings
    evaluator = EVALUATOR.build({"type": "Evaluator", **settings}) if is_whole else Evaluator(settings)
    evaluator.dataset_meta = getattr(loaders["val_dataloader"].dataset, "metainfo", None)
    return PartialEvaluation(model, validation, evaluator, training)


def _settings(config: Config, model: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    """All that a point depends on."""
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    training = config.train_dataloader if args.recalibration_images else None
    return {
        "weights": weights.hexdigest()[:16],
        "model": _digest(config.model),
        "val_dataloader": _digest(config.val_dataloader),
        "val_evaluator": _digest(config.val_evaluator),
        "train_dataloader": _digest(training),
        **{name: getattr(args, name) for name in ("images", "recalibration_images", "seed", "coupling", "criterion")},
        "include": list(args.include or ()),
        "exclude": list(args.exclude or ()),
    }


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(_lasting(settings), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _lasting(settings: Any) -> Any:
    """Settings without places of files, and what changes the speed alone."""
    passing = ("data_root", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "init_cfg")
    if isinstance(settings, Mapping):
        return {key: _lasting(value) for key, value in settings.items() if key not in passing}
    return [_lasting(value) for value in settings] if isinstance(settings, list | tuple) else settings


def _choose_metric(config: Config, metrics: Mapping[str, float], wanted: str | None) -> tuple[str, int]:
    """Name of the metric that counts, and -1 if a lower one is better, else 1: what the best checkpoint goes by."""
    hooks = [*(config.get("default_hooks") or {}).values(), *(config.get("custom_hooks") or ())]
    hook: Mapping[str, Any] = next((hook for hook in hooks if hook_name(hook) == "CheckpointHook"), {})
    best = hook.get("save_best")
    named = [best] if isinstance(best, str) else list(best or ())
    found = next((name for name in named if name in metrics), next(iter(metrics), None))
    if wanted is not None:
        found = wanted
    if found is None or found not in metrics:
        raise UsageError(
            f"--metric: the evaluator gives no {found or 'number'}, only {', '.join(metrics) or 'nothing'}"
        )
    is_less = hook.get("rule") == "less" if found in named and hook.get("rule") else "loss" in found.lower()
    return found, -1 if is_less else 1


def _measure(record: SensitivityRecord, evaluation: PartialEvaluation, found: Candidates, model: BaseModel) -> None:
    """Measure what is not there yet, and write it point by point."""
    content = record.content
    content["validation_images"] = evaluation.validation.images
    content["training_images"] = evaluation.training.images if evaluation.training else 0
    if "dense" not in content:
        content["dense"] = evaluation.metrics(recalibrate=False)
        with pruned_for_a_while(model, found.network, []):
            content["recalibrated"] = evaluation.metrics(recalibrate=True)
        record.save()
    whole = sum(len(masks) for masks in found.masks.values())
    todo = {name: [number for number in masks if not record.has(name, number)] for name, masks in found.masks.items()}
    left = sum(map(len, todo.values()))
    print(
        f"{len(found.units)} layers or groups, {whole} points on {content['validation_images']} validation and "
        f"{content['training_images']} training images"
        + (f"; {whole - left} are there already" if whole > left else "")
        + f"\ndense: {_shown(content['dense'])}; with new BatchNorm statistics: {_shown(content['recalibrated'])}",
        flush=True,
    )
    started, done = time.monotonic(), 0
    for unit in found.units:
        for number in todo[unit.name]:
            before = time.monotonic()
            with pruned_for_a_while(model, found.network, [(unit, found.masks[unit.name][number])]):
                metrics = evaluation.metrics(recalibrate=True)
            record.add(unit.name, number, metrics, time.monotonic() - before)
            done += 1
            _show_progress(f"{unit.name}: {unit.size - number} of {unit.size} filters", done, left, started)
        points = content["layers"][unit.name]["points"]
        if todo[unit.name]:
            row = ", ".join(f"{int(key) / unit.size:.0%} {_first(points[key]):.4g}" for key in points)
            print(f"{_CLEAR}{unit.name} ({unit.size} filters, {len(unit.members)} layers): {row}", flush=True)


# On a terminal: to the beginning of the line, which is emptied.
_CLEAR = "\r\x1b[K" if is_interactive() else ""


def _show_progress(text: str, done: int, whole: int, started: float) -> None:
    if is_interactive():
        seconds = (time.monotonic() - started) / done * (whole - done)
        print(f"{_CLEAR}{done}/{whole}, {seconds / 60:.1f} min left, {text}", end="", file=sys.stderr, flush=True)
        if done == whole:
            print(_CLEAR, end="", file=sys.stderr, flush=True)


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _first(metrics: Mapping[str, float]) -> float:
    return next(iter(metrics.values()))
