"""Export the backbone, or the deployable classifier, from a training checkpoint.

    python tools/export_backbone.py work_dirs/<run>/epoch_20.pth

Prints what was exported and dropped, compares it with the network of the run's config, and prints the lines that load
it into a config of MMPretrain, MMDetection or MMSegmentation.
"""

import argparse
import copy
import sys

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmengine.registry import MODELS, init_default_scope

from mmkdprune.checkpoint.keys import misfits, report_loaded_keys
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.commands.command_line import add_stored_network_arguments, add_weights_argument, readable_errors
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.export import Export, export_checkpoint
from mmkdprune.deploy.snippets import init_cfg_snippets
from mmkdprune.errors import UsageError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Export the backbone or classifier of a checkpoint", allow_abbrev=False
    )
    parser.add_argument("checkpoint", help="checkpoint of a run")
    parser.add_argument(
        "out",
        nargs="?",
        help="folder, or path and stem of the file (a short hash is added); default: named after the config, beside "
        "the checkpoint",
    )
    parser.add_argument("--part", choices=["backbone", "classifier"], default="backbone", help="what to export")
    add_weights_argument(parser)
    parser.add_argument(
        "--peer",
        type=int,
        default=0,
        help="which of several networks trained together (default: 0, the deployable one)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--check", metavar="CONFIG", help="compare with the backbone of this config, of any package")
    add_stored_network_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser.parse_args()


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
    snippets = init_cfg_snippets(export.meta, export.path, export.network.backbone)
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


def main() -> None:
    """Export; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        export = export_checkpoint(args.checkpoint, args.out, args.part, args.weights, args.overwrite, args.peer)
        print_report(export)
        print_snippets(export)
        if args.check:
            check_config(export, args.check)


if __name__ == "__main__":
    main()
