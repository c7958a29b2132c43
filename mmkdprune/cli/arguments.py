"""Arguments that several subcommands have."""

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

from mmkdprune.checkpoint.file_check import NO_FILE_CHECK_VARIABLE
from mmkdprune.config.shipped import LINEAR, known_data


class ConfigOptions(argparse.Action):
    """``key=value`` pairs as MMEngine's ``DictAction`` reads them, which is imported only where there are some."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest, nargs=self.nargs)(parser, namespace, values, option)


class _NoFileCheck(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> None:
        os.environ[NO_FILE_CHECK_VARIABLE] = "1"  # commands that this one starts get it, too


class _Imports(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        for name in values:
            try:
                importlib.import_module(name)
            except ImportError as error:
                parser.error(f"{option} {name}: {error}")
        setattr(namespace, self.dest, values)


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add the switch that shows tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")


def add_file_check_argument(parser: argparse.ArgumentParser) -> None:
    """Add the switch that loads files without comparing them with their checksums; it acts when it is parsed."""
    parser.add_argument(
        "--no-file-check",
        action=_NoFileCheck,
        nargs=0,
        help="load checkpoints without comparing them with their checksums (a damaged file loads as other weights)",
    )


def add_stored_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what commands need that rebuild a network from the config in a checkpoint."""
    add_file_check_argument(parser)
    parser.add_argument(
        "--imports",
        action=_Imports,
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="import these first: packages of your own with the classes of the checkpoint's network",
    )


def add_config_options_argument(parser: argparse.ArgumentParser, settings: str = "settings of the config") -> None:
    """Add ``--cfg-options``.

    Args:
        parser (argparse.ArgumentParser): To add it to.
        settings (str): Which settings it overrides.
    """
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help=f'override {settings}: key=value pairs; a list is key="[a,b]" or key=a,b, nested lists and tuples are '
        'key="[(a,b),(c,d)]" (quotation marks needed, no white space)',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing share."""
    add_config_options_argument(parser)
    parser.add_argument("--no-pin-memory", action="store_true", help="do not pin memory in the dataloaders")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    add_file_check_argument(parser)
    # torch >= 2.0 passes `--local-rank`, older launchers `--local_rank`; torchrun sets LOCAL_RANK instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    add_debug_argument(parser)


def add_speed_argument(parser: Any) -> None:
    """Add the switch that turns on all safe speed-ups, or none.

    Args:
        parser (argparse.ArgumentParser | argparse._ArgumentGroup): To add it to.
    """
    parser.add_argument(
        "--speed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn on the switches of mmkdprune::_base_/speed.py, or turn off those that the config has; "
        "--cfg-options speed.compile=True changes one of them (default: as the config says)",
    )


def add_processes_argument(parser: argparse.ArgumentParser) -> None:
    """Add the number of processes on this machine."""
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs of this machine, one process each (without GPUs: processes)"
    )


def check_processes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a number of processes below one."""
    if args.gpus < 1:
        parser.error(f"--gpus must be 1 or more, got {args.gpus}")


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """Add the choice of weights of a run with averaged ones."""
    parser.add_argument(
        "--weights",
        choices=["saved", "ema", "raw"],
        default="saved",
        help="of a run with EMAHook the averaged (ema, also what is saved as state_dict) or the raw weights",
    )


def add_image_size_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the height and width of images.

    Args:
        parser (argparse.ArgumentParser): To add it to.
        default (str): What is taken without it, in words.
    """
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"size of the images (default: {default})"
    )


def add_evaluation_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add checkpoints, data, and what is common to all evaluations of backbones.

    Args:
        parser (argparse.ArgumentParser): To add them to.
        kind (str): ``'linear'`` or ``'few-shot'``: which short names of data sets there are.
    """
    parser.add_argument("checkpoints", nargs="+", help="files of runs, exported backbones, or compact networks")
    names = ", ".join(known_data(kind))
    parser.add_argument("--data", required=True, metavar="NAME|CONFIG", help=f"{names}; or a config with dataloaders")
    add_weights_argument(parser)
    parser.add_argument("--peer", type=int, default=0, help="which of several networks trained together (default: 0)")
    parser.add_argument("--config", help="config with model.backbone, for checkpoints that do not say theirs")
    parser.add_argument(
        "--normalisation",
        choices=["data", "checkpoint"],
        default="data",
        help="normalise images as the data config says, or as in the training of the checkpoint (default: data)",
    )
    if kind == LINEAR:
        parser.add_argument(
            "--allow-other-classes",
            action="store_true",
            help="accept a training and a validation set whose classes differ in names or order",
        )
    add_config_options_argument(parser, "settings of the data config")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_stored_network_arguments(parser)
    add_debug_argument(parser)


def add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is common to evaluations on features that are extracted once."""
    parser.add_argument(
        "--random-init",
        nargs="?",
        type=int,
        const=0,
        metavar="SEED",
        help="evaluate the first checkpoint's network with initial weights, too",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features here and use those that are there")
