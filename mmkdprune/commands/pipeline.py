"""Runs that need another run's checkpoint: which ones, in what order, and how far each has come."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.reading import config_stem, parse_options, read_config
from mmkdprune.config.stored_text import read_config_text
from mmkdprune.engine.speed import apply_speed, use_default_speed
from mmkdprune.errors import UsageError

from .work_dir import find_checkpoints, find_resumable

# Fields of a model that name a trained network by the config that trains it.
SOURCES = ("teacher", "pretrained")
# Settings in which a run in the work dir must agree with the phase that it is taken for.
COMPARED = ("model", "optim_wrapper", "param_scheduler", "train_cfg", "randomness", "custom_hooks", "train_dataloader")
# What mmkdprune train sets itself, and what changes the speed or the place of a run but not its result.
NOT_COMPARED = {
    "model": ("data_preprocessor",),
    "optim_wrapper": ("type", "loss_scale", "dtype"),
    "train_dataloader": ("collate_fn", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor"),
}


@dataclass
class Phase:
    """One run.

    Attributes:
        name: Its config as the command line, or the later config, names it.
        config: That config, options applied.
        work_dir: Where it is trained.
        options: ``key=value`` texts for ``mmkdprune train``.
        how_to_replace: What loses a run with other settings in that place, for the message that there is one.
    """

    name: str
    config: Config
    work_dir: Path
    options: list[str] = field(default_factory=list)
    how_to_replace: str = "--overwrite"

    @property
    def stem(self) -> str:
        """Name of the config file without folder and ending."""
        return config_stem(self.name)

    @property
    def length(self) -> tuple[str, int]:
        """Unit (``epoch`` or ``iter``) and number of what is planned."""
        train_cfg = self.config.train_cfg
        return ("epoch", train_cfg.max_epochs) if "max_epochs" in train_cfg else ("iter", train_cfg.max_iters)

    @property
    def final_checkpoint(self) -> Path:
        """The checkpoint that a later phase starts from."""
        unit, number = self.length
        return self.work_dir / f"{unit}_{number}.pth"

    def is_started(self) -> bool:
        """Tell whether there is something to resume."""
        return bool(find_checkpoints(self.work_dir))

    def is_done(self) -> bool:
        """Tell whether the run has come to its end.

        Raises:
            UsageError: The work dir holds a run with other settings.
        """
        latest = find_resumable(self.work_dir)
        if latest is None:
            return False
        meta = load_checkpoint_file(latest)["meta"]
        self._compare(meta.get("cfg") or "")
        unit, number = self.length
        return meta.get(unit, 0) >= number and self.final_checkpoint.is_file()

    def check_final_checkpoint(self) -> None:
        """Refuse to go on without the file that the next run starts from.

        Raises:
            UsageError: The run has not written it.
        """
        if not self.final_checkpoint.is_file():
            unit = self.length[0]
            raise UsageError(
                f"{self.stem} has come to its end without writing {self.final_checkpoint}: a run that others learn "
                f"from needs default_hooks.checkpoint=dict(type='CheckpointHook', by_epoch={unit == 'epoch'})"
            )

    def _compare(self, text: str) -> None:
        found, wanted = read_config_text(text, COMPARED), copy.deepcopy(self.config)
        apply_speed(wanted)
        for name in COMPARED:
            if found and (name in found or name in wanted):
                theirs, ours = (_comparable(name, settings.get(name)) for settings in (found, wanted))
                difference = _first_difference(theirs, ours, name)
                if difference:
                    raise UsageError(
                        f"{self.work_dir} holds a run of {self.stem} with other settings ({difference}): give another "
                        f"--work-dir, or {self.how_to_replace} to lose that run"
                    )


def plan_phases(name: str, options: Sequence[str], root: Path, speed: bool = False) -> list[Phase]:
    """List the runs that a config needs, the config's own last.

    A model's ``teacher`` or ``pretrained`` field with a ``config`` is a run of its own, and comes before. A network
    whose checkpoint is given in the options is there already.

    Args:
        name: The config, a path or ``package::path``.
        options: ``key=value`` texts; those of ``model.*`` are for this config alone, the others for all.
        root: Each run gets a folder in it, named after its config.
        speed: Whether the runs are started with ``--speed``.

    Returns:
        The runs in order; each has the earlier ones' checkpoints in its options.

    Raises:
        UsageError: A config does not exist, or needs itself.
    """
    phases = _plan(name, list(options), root, ())
    for phase in phases if speed else ():
        use_default_speed(phase.config)
    return phases


def _plan(name: str, options: list[str], root: Path, later: tuple[str, ...]) -> list[Phase]:
    if name in later:
        raise UsageError(f"the configs need each other: {' -> '.join(map(config_stem, (*later, name)))}")
    stem = config_stem(name)
    if stem in map(config_stem, later):
        raise UsageError(
            f"two configs that need each other's runs are both named {stem}, and so is their folder: rename one"
        )
    config = read_config(name, parse_options(options))
    phases: list[Phase] = []
    own = list(options)
    for source in SOURCES:
        settings, key = config.model.get(source), f"model.{source}.checkpoint"
        given = any(option.split("=")[0] == key for option in options)
        if not isinstance(settings, Mapping) or "config" not in settings or given:
            continue
        shared = [option for option in options if not option.startswith("model.")]
        phases += _plan(settings["config"], shared, root, (*later, name))
        own.append(f"{key}={phases[-1].final_checkpoint}")
    return [*phases, Phase(name, read_config(name, parse_options(own)), root / stem, own)]


def comparable_settings(config: Config, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Collect what determines the result of a run: network, data, schedule, hooks, seed.

    Args:
        config: The config of the run.
        leave_out: Top-level fields not to collect.

    Returns:
        Lists, dicts and plain values, without paths of data and checkpoints and without what changes only the speed.
    """
    return {name: _comparable(name, config[name]) for name in COMPARED if name in config and name not in leave_out}


def _comparable(name: str, value: Any) -> Any:
    """Plain lists and dicts, without what a runner adds and without paths of data and checkpoints."""
    plain = json.loads(json.dumps(value, default=str), object_hook=_without_data_root)
    if name == "custom_hooks":
        own = ("mmkdprune.CheckClassesHook", "mmkdprune.CheckBatchSizeHook")
        return [hook for hook in plain or [] if hook.get("type") not in own]
    if isinstance(plain, dict):
        for key in NOT_COMPARED.get(name, ()):
            plain.pop(key, None)
        if isinstance(plain.get("optimizer"), dict):
            plain["optimizer"].pop("fused", None)
        for source in SOURCES:
            if isinstance(plain.get(source), dict):
                plain[source].pop("checkpoint", None)
    return plain


def _without_data_root(value: dict) -> dict:
    return {key: item for key, item in value.items() if key != "data_root"}


def _first_difference(found: Any, wanted: Any, path: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys((*found, *wanted)):
            difference = _first_difference(found.get(key), wanted.get(key), f"{path}.{key}")
            if difference:
                return difference
        return ""
    return "" if found == wanted else f"{path}: {found!r} there, {wanted!r} here"
