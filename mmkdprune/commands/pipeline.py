"""Runs that need another run's checkpoint: which ones, in what order, and how far each has come."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.comparison import COMPARED, first_difference, settings_hash
from mmkdprune.config.reading import config_stem, parse_options, read_config
from mmkdprune.config.stored_text import read_config_text
from mmkdprune.engine.pruning.field import apply_prune
from mmkdprune.engine.speed import apply_speed, choose_speed
from mmkdprune.errors import UsageError

from .work_dir import SETTINGS_HASH, find_checkpoints, find_resumable

# Fields of a model that name a trained network by the config that trains it.
SOURCES = ("teacher", "pretrained")


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
        checkpoint = load_checkpoint_file(latest)
        self._refuse_other_settings(checkpoint)
        unit, number = self.length
        return checkpoint["meta"].get(unit, 0) >= number and self.final_checkpoint.is_file()

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

    def _refuse_other_settings(self, checkpoint: Mapping[str, Any]) -> None:
        """Compare with the run that wrote a checkpoint.

        It is the same one if it was asked for the same settings, whatever became of them on that machine. Otherwise,
        and where a run holds no hash of them (one of an earlier version, or of another tool), the settings that it ran
        with are compared with what would become of these here.
        """
        if (checkpoint.get("mmkdprune") or {}).get(SETTINGS_HASH) == settings_hash(self.config):
            return
        found = read_config_text(checkpoint["meta"].get("cfg") or "", COMPARED)
        here = copy.deepcopy(self.config)
        apply_prune(here)
        apply_speed(here)
        difference = found and first_difference(found, read_config_text(here.pretty_text, COMPARED))
        if difference:
            raise UsageError(
                f"{self.work_dir} holds a run of {self.stem} with other settings ({difference}): give another "
                f"--work-dir, or {self.how_to_replace} to lose that run"
            )


def plan_phases(name: str, options: Sequence[str], root: Path, speed: bool | None = None) -> list[Phase]:
    """List the runs that a config needs, the config's own last.

    A model's ``teacher`` or ``pretrained`` field with a ``config`` is a run of its own, and comes before. A network
    whose checkpoint is given in the options is there already.

    Args:
        name: The config, a path or ``package::path``.
        options: ``key=value`` texts; those of ``model.*`` are for this config alone, the others for all.
        root: Each run gets a folder in it, named after its config.
        speed: Whether the runs are started with ``--speed`` (True) or ``--no-speed`` (False).

    Returns:
        The runs in order; each has the earlier ones' checkpoints in its options.

    Raises:
        UsageError: A config does not exist, or needs itself.
    """
    phases = _plan(name, list(options), root, ())
    for phase in phases:
        choose_speed(phase.config, speed)
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
