"""Make the physically small network of a pruned run: ``mmkdprune compact``."""

import argparse
import json

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.config.reading import read_config
from mmkdprune.deploy import compact_folder, compact_report
from mmkdprune.deploy.export import saved_bytes
from mmkdprune.errors import UsageError
from mmkdprune.pruning import CompactionError


def run(args: argparse.Namespace) -> None:
    """Compact; see :mod:`mmkdprune.cli.compact`."""
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
    if odd := compact_report.odd_widths_line(report):
        print(odd)
    for package, lines in snippets.items():
        print(f"\n# --- {package} ---\n{lines}")
