"""Fine-tune a detector or segmentor from a backbone of the queue, or from random weights.

    python benchmarks/fine_tune.py CONFIG --work-dir DIR --name NAME [--backbone FILE [--compact RUN_CONFIG]]

The adapted config is written as DIR/NAME.py and trained in DIR/NAME; what is finished or begun there goes on. With
--compact the filters that pruning has left at zero are removed first; neck and heads get the new widths.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.processes import run_command
from mmkdprune.config.reading import read_config
from mmkdprune.deploy.transfer import transfer_backbone, write_config
from mmkdprune.errors import UsageError

TOOLS = Path(__file__).resolve().parent.parent / "tools"
COMPACT_FILE = "compact.pth"
_AGAIN = "the same command goes on from there"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="detector or segmentor to train")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of the run and of what it needs")
    parser.add_argument("--name", required=True, help="name of the adapted config and of the run's folder")
    parser.add_argument("--backbone", type=Path, help="checkpoint of the backbone (default: random weights)")
    parser.add_argument("--compact", type=Path, metavar="CONFIG", help="config of the run that pruned the backbone")
    parser.add_argument("--cfg-options", nargs="+", default=[], help="override settings of the training run, key=value")
    args = parser.parse_args()
    if args.compact is not None and args.backbone is None:
        parser.error("--compact needs --backbone, the checkpoint to be made smaller")
    return args


def compacted(checkpoint: Path, config: Path, folder: Path) -> Path:
    """Make the backbone of a checkpoint compact, unless that is done already."""
    file = folder / COMPACT_FILE
    if not file.is_file():
        command = [sys.executable, str(TOOLS / "compact.py"), str(config), str(checkpoint), "--out", str(folder)]
        run_command(command, "compaction", _AGAIN)
    return file


def write_adapted(config: Config, backbone: Path | None, file: Path) -> None:
    """Write the config that starts from a backbone, or from random weights.

    Raises:
        UsageError: Another config is there already, or the backbone does not fit.
    """
    advice = "remove its folder to train the row anew"
    if backbone is not None:
        transfer = transfer_backbone(backbone, config)
        print(transfer.report.line(), flush=True)
        write_config(transfer, file, how_to_replace=advice)
        return
    settings = config.to_dict()
    settings["model"]["backbone"]["init_cfg"] = None
    text = Config(settings).pretty_text
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise UsageError(f"{file} exists already and differs: {advice}")
    with atomic_write(file, "w", encoding="utf-8") as stream:
        stream.write(text)


def main() -> None:
    """Adapt and train; see the module's docstring."""
    args = parse_args()
    with readable_errors(building=True):
        backbone = args.backbone
        if args.compact is not None:
            backbone = compacted(args.backbone, args.compact, args.work_dir / "compact")
        adapted = args.work_dir / f"{args.name}.py"
        write_adapted(read_config(args.config), backbone, adapted)
        command = [sys.executable, str(TOOLS / "train_pipeline.py"), str(adapted), "--work-dir", str(args.work_dir)]
        run_command([*command, "--cfg-options", *args.cfg_options], args.name, _AGAIN)


if __name__ == "__main__":
    main()
