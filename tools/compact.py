"""Make the physically small network of a pruned run.

    python tools/compact.py CONFIG CHECKPOINT --out DIR [--divisor 8] [--no-check]

CONFIG and CHECKPOINT are those of a run with FilterPruningHook, of a classifier (also under a method of this package),
a detector or a segmentor. DIR gets the compact checkpoint, the plan, a config that fine-tunes and tests the network,
and a report with the lines that use the backbone in other configs.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmkdprune.commands.command_line import add_file_check_argument, add_weights_argument, readable_errors
from mmkdprune.config.reading import read_config
from mmkdprune.deploy import compact_folder, compact_report
from mmkdprune.deploy.export import saved_bytes
from mmkdprune.errors import UsageError
from mmkdprune.pruning import CompactionError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of the run")
    parser.add_argument("checkpoint", type=Path, help="its last checkpoint, or a classifier exported from it")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--divisor", type=int, default=1, help="round the channels of every layer up to a multiple of this (default: 1)"
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare with the pruned network on random images of two sizes (default: yes)",
    )
    parser.add_argument(
        "--scatter",
        action="store_true",
        help="with masks of single layers: shrink convolutions at the end of residual branches, too",
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images (default: what the run pruned with, else 224 224)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images in a timed pass (default: 1)")
    add_file_check_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser.parse_args()


def main() -> None:
    """Compact; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        for name in ("divisor", "batch_size"):
            if getattr(args, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(args, name)}")
        compact_folder.refuse_folder(args.out)
        config = read_config(args.config)
        size = tuple(args.image_size) if args.image_size else None
        pruned = compact_folder.load_pruned(config, args.checkpoint, args.weights, size)
        try:
            result = compact_folder.compact_network(pruned, args.divisor, args.scatter, args.check)
        except CompactionError as error:
            raise CompactionError(f"{args.checkpoint}: {error}") from None
        before = saved_bytes({"state_dict": pruned.network.state_dict()})
        sizes = (len(before), len(compact_folder.checkpoint_bytes(pruned, result)))
        measured = compact_report.measure(
            pruned.network, result.network, pruned.image_shape, sizes, batch_size=args.batch_size
        )
        report = compact_report.compaction_report(
            measured, result.plan, pruned.image_shape, source=pruned.source, batch_size=args.batch_size
        )
        snippets = compact_folder.snippets(result, pruned, args.out)
        files = {
            "report.md": compact_report.markdown(report, snippets).encode(),
            "report.json": (json.dumps(report, indent=2) + "\n").encode(),
            "report.png": compact_report.bars(report),
        }
        compact_folder.write_folder(args.out, config, pruned, result, files)
    print(f"{args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}\n")
    print(compact_report.table(report))
    print(f"\n{compact_report.error_line(report['check'])}")
    if left := sum(number for number, _ in result.plan.left.values()):
        print(f"{left} zero filters stay, {args.out / 'report.md'} says why")
    for package, lines in snippets.items():
        print(f"\n# --- {package} ---\n{lines}")


if __name__ == "__main__":
    main()
