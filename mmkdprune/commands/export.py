"""Export the backbone, or the deployable classifier, from a training checkpoint: ``mmkdprune export``."""

import argparse
import copy
from typing import cast

from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkdprune.checkpoint.keys import misfits, report_loaded_keys
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.export import Export, export_checkpoint
from mmkdprune.deploy.snippets import init_cfg_snippets
from mmkdprune.errors import UsageError


def print_report(export: Export) -> None:
    """Say what is in the file and what is not."""
    meta = export.meta
    print(f"exported {export.path}")
    peer = f", peer {meta['peer']}" if "peer" in meta else ""
    print(
        f"  from {meta['source']} of {meta.get('algorithm', 'an unknown algorithm')}{peer}, weights: {meta['weights']}"
    )
    for title, sizes in (("kept", export.kept), ("dropped", export.dropped)):
        for name, size in sizes.items():
            print(f"  {title:8}{name + '.*':18}{size.keys:6d} keys {size.values:14,d} values")
    if export.report is None:
        print("  not compared with a network: the checkpoint does not say its config")
    else:
        print(f"  in a plain network of that config: {export.report.line()}")


def print_snippets(export: Export) -> None:
    """Print the lines that load the backbone elsewhere."""
    if export.network is None:
        print(f"init_cfg=dict(type='Pretrained', checkpoint='{export.path.resolve()}', prefix='backbone.')")
        return
    snippets = init_cfg_snippets(export.meta, export.path, cast(nn.Module, export.network.backbone))
    preprocessor = export.meta["model"].get("data_preprocessor", {})
    normalisation = {key: preprocessor[key] for key in ("mean", "std", "to_rgb", "bgr_to_rgb") if key in preprocessor}
    if normalisation:
        print(f"\nIt was trained on images normalised with {normalisation}; use the same data_preprocessor.")
    print("In a config that inherits another backbone, add _delete_=True to the backbone's dict.")
    for package, lines in snippets.items():
        print(f"\n# --- {package} ---\n{lines}")


def check_config(export: Export, name: str) -> None:
    """Compare the exported backbone with the one of a config."""
    config = read_config(name)
    init_default_scope(config.get("default_scope", "mmpretrain"))
    model = MODELS.build(copy.deepcopy(config.model))
    prefix = "backbone."
    wanted = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    state = load_checkpoint_file(export.path)["state_dict"]
    given = {key: value for key, value in state.items() if key.startswith(prefix)}
    report = report_loaded_keys(wanted, given)
    print(f"\nin the backbone of {name}: {report.line()}")
    if misfits(report):
        raise UsageError(f"the exported backbone is not the one of {name}")


def run(args: argparse.Namespace) -> None:
    """Export; see :mod:`mmkdprune.cli.export`."""
    with readable_errors(args.debug, building=True):
        export = export_checkpoint(args.checkpoint, args.out, args.part, args.weights, args.overwrite, args.peer)
        print_report(export)
        print_snippets(export)
        if args.check:
            check_config(export, args.check)
