"""The whole way of a backbone: pretrained, pruned, compact, then fine-tuned in a detector and a segmentor."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdprune.config.comparison import comparable_settings
from mmkdprune.config.reading import config_stem, parse_options, read_config
from mmkdprune.deploy.transfer import transfer_backbone, write_config
from mmkdprune.errors import UsageError
from mmkdprune.pruning import PlanError

from ..pipeline import Phase
from ..processes import command_line, run_command
from ..run_log import read_validations
from ..work_dir import find_checkpoints

TASKS = ("detection", "segmentation")
STAGES = ("pretrain", "compact", *TASKS, "report")
BACKBONES = ("scratch", "plain", "mixskd", "compact")
SCRATCH, COMPACT = "scratch", "compact"
COMPACT_FILE = "compact.pth"
_AGAIN = "the same command goes on from there"


@dataclass(frozen=True)
class Chain:
    """What to train, and where.

    Attributes:
        work_dir: Folder with one folder a seed.
        configs: Config of every pretrained backbone and of every task, by its name.
        options: ``key=value`` texts by ``'pretrain'`` or task.
        backbones: The rows, some of ``BACKBONES``.
        stages: The stages to go through, some of ``STAGES``.
        seeds: Every stage is repeated with each.
        debug: Show tracebacks.
    """

    work_dir: Path
    configs: Mapping[str, str]
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    backbones: Sequence[str] = BACKBONES
    stages: Sequence[str] = STAGES
    seeds: Sequence[int] = (0,)
    debug: bool = False

    @property
    def tasks(self) -> list[str]:
        """The tasks that are not skipped."""
        return [task for task in TASKS if task in self.stages]

    @property
    def reported_tasks(self) -> list[str]:
        """The tasks that are not skipped, and those that are finished."""
        return [task for task in TASKS if task in self.stages or self._is_finished(task)]

    def folder(self, seed: int) -> Path:
        """Folder of the runs with a seed."""
        return self.work_dir / f"seed{seed}"

    def pretraining(self, backbone: str, seed: int) -> Phase:
        """The run that pretrains a backbone."""
        return self._phase(self.configs[backbone], "pretrain", self.configs[backbone], seed)

    def compact_folder(self, seed: int) -> Path:
        """Where ``mmkdprune compact`` writes."""
        return self.folder(seed) / f"{config_stem(self.configs[COMPACT])}_compact"

    def fine_tuning(self, backbone: str, task: str, seed: int) -> Phase:
        """The run that fine-tunes a backbone; of a pretrained one the adapted config must have been written.

        Raises:
            UsageError: It has not.
        """
        name = f"{config_stem(self.configs[task])}_from_{backbone}"
        if backbone == SCRATCH:
            options = [*self.options.get(task, ()), "model.backbone.init_cfg=None"]
            return self._phase(self.configs[task], None, name, seed, options)
        adapted = self.folder(seed) / f"{name}.py"
        if not adapted.is_file():
            raise UsageError(f"{adapted} is not there: run the stage {task!r} first")
        return self._phase(str(adapted), None, name, seed)

    def _phase(self, config: str, stage: str | None, name: str, seed: int, options: Sequence[str] = ()) -> Phase:
        given = [*options, *(self.options.get(stage, ()) if stage else ()), f"randomness.seed={seed}"]
        folder = self.folder(seed) / config_stem(name)
        return Phase(config, read_config(config, parse_options(given)), folder, given, "remove the folder")

    def _is_finished(self, task: str) -> bool:
        try:
            return all(self.fine_tuning(one, task, seed).is_done() for one in self.backbones for seed in self.seeds)
        except UsageError:  # not begun, or done with other settings
            return False

    def check(self) -> None:
        """Read all configs, so that a mistake shows before the first hour of training.

        Raises:
            UsageError: A config or an option is wrong, or a package is missing.
        """
        for backbone in self.backbones:
            if backbone != SCRATCH:
                self.pretraining(backbone, self.seeds[0])
        for task in self.tasks:
            read_config(self.configs[task], parse_options(self.options.get(task, ())))

    def run(self) -> None:
        """Go through the stages; what is finished is used as it is, what was interrupted goes on."""
        self.check()
        for seed in self.seeds:
            pretrained = [backbone for backbone in self.backbones if backbone != SCRATCH]
            for backbone in pretrained if "pretrain" in self.stages else ():
                self._train(self.pretraining(backbone, seed), f"pretraining, {backbone}, seed {seed}")
            if "compact" in self.stages and COMPACT in pretrained:
                self._compact(seed)
            for task in self.tasks:
                for backbone in self.backbones:
                    if backbone != SCRATCH:
                        self._write_adapted(backbone, task, seed)
                    self._train(self.fine_tuning(backbone, task, seed), f"{task}, {backbone}, seed {seed}")

    def _train(self, phase: Phase, label: str) -> None:
        done = phase.is_done()
        if done and phase.length[1] in read_validations(phase.work_dir):
            print(f"{label}: done already, {phase.final_checkpoint}", flush=True)
            return
        command = command_line("train", phase.name, "--work-dir", phase.work_dir)
        command += ["--debug"] if self.debug else []
        if done:
            # Interrupted in its last validation, which a resumed run does not repeat: the last part is trained again.
            *earlier, _ = find_checkpoints(phase.work_dir)
            command += ["--resume", str(earlier[-1])] if earlier else ["--overwrite"]
        elif phase.is_started():
            command.append("--resume")
        run_command([*command, "--cfg-options", *phase.options], label, _AGAIN)
        phase.check_final_checkpoint()

    def _compact(self, seed: int) -> None:
        folder, label = self.compact_folder(seed), f"compaction, seed {seed}"
        if (folder / COMPACT_FILE).is_file():
            print(f"{label}: done already, {folder}", flush=True)
            return
        phase = self.pretraining(COMPACT, seed)
        _require(phase.final_checkpoint, "pretrain")
        # The config that the run has left beside its checkpoints has all options in it.
        own = phase.work_dir / f"{phase.stem}.py"
        run_command(command_line("compact", own, phase.final_checkpoint, "--out", folder), label, _AGAIN)

    def backbone_file(self, backbone: str, seed: int) -> Path:
        """Checkpoint of a pretrained backbone.

        Raises:
            UsageError: It is not there.
        """
        if backbone == COMPACT:
            return _require(self.compact_folder(seed) / COMPACT_FILE, "compact")
        return _require(self.pretraining(backbone, seed).final_checkpoint, "pretrain")

    def _write_adapted(self, backbone: str, task: str, seed: int) -> None:
        name = f"{config_stem(self.configs[task])}_from_{backbone}.py"
        config = read_config(self.configs[task], parse_options(self.options.get(task, ())))
        try:
            transfer = transfer_backbone(self.backbone_file(backbone, seed), config)
        except PlanError as error:
            raise UsageError(f"{backbone}: {error}") from None
        print(f"\n{task}, {backbone}, seed {seed}: {transfer.report.line()}", flush=True)
        for note in transfer.notes:
            print(f"  {note}")
        write_config(transfer, self.folder(seed) / name, how_to_replace="give another --work-dir, or remove it")


def _require(file: Path, stage: str) -> Path:
    if not file.is_file():
        raise UsageError(f"there is no {file}: the stage {stage!r} makes it, so do not skip that")
    return file


def length_of(phase: Phase, config: str) -> str:
    """Length of a run in words; of one that options have shortened (or prolonged) it says of how many."""
    unit, number = phase.length
    planned = Phase(config, read_config(config), phase.work_dir).length[1]
    share = f"{number} of {planned}" if number != planned else str(number)
    return f"{share} {'epochs' if unit == 'epoch' else 'iterations'}"


def settings_of(chain: Chain) -> dict[str, Any]:
    """What makes two reports comparable: names and contents of the configs, and the options."""
    return {
        "configs": dict(chain.configs),
        "config_sha256": {name: config_hash(read_config(config)) for name, config in chain.configs.items()},
        "options": {key: list(value) for key, value in chain.options.items()},
    }


def config_hash(config: Config) -> str:
    """Hash what determines a run's result but for its seed."""
    recipe = comparable_settings(config, leave_out=("randomness",))
    recipe["validation"] = comparable_settings(Config({"train_dataloader": config.val_dataloader}))
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
