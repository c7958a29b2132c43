"""Write the digit scenes of ``mmkdprune.DigitScenes`` to files, for data sets that read some.

    python tools/write_digit_scenes.py data/digit_scenes [--size 128] [--train 400] [--val 200]

DIR gets ``img_dir`` and ``ann_dir`` (maps of classes) with train and val, which MMSegmentation's ``BaseSegDataset``
reads, and ``annotations/train.json`` and ``val.json`` for MMDetection's ``CocoDataset``.
"""

import argparse
from pathlib import Path

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.datasets.digit_scenes import write_digit_scenes
from mmkdprune.errors import UsageError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (default: 128)")
    parser.add_argument("--train", type=int, default=400, help="scenes for training (default: 400)")
    parser.add_argument("--val", type=int, default=200, help="scenes for validation (default: 200)")
    parser.add_argument("--digits", type=int, nargs=2, default=(4, 10), metavar=("LEAST", "MOST"), help="in a scene")
    parser.add_argument("--seed", type=int, default=0, help="another number gives other scenes (default: 0)")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser.parse_args()


def main() -> None:
    """Write both splits; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        for split in ("train", "val"):
            try:
                number = write_digit_scenes(
                    args.folder,
                    split=split,
                    num_scenes=getattr(args, split),
                    size=args.size,
                    num_digits=tuple(args.digits),
                    seed=args.seed,
                )
            except FileExistsError as error:
                raise UsageError(str(error)) from None
            print(f"{args.folder}: {number} scenes, {split}")


if __name__ == "__main__":
    main()
