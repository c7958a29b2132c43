"""List, show or write the pruning runs of ``configs/pruning/variants.yml``.

python tools/pruning_variants.py                                   # all names
python tools/pruning_variants.py '^asrfp-0.4_resnet56.*cifar10$'   # the commands that train the matching ones
python tools/pruning_variants.py '^asrfp-0.4_resnet56' --out my_configs   # their configs as files
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

from mmengine.config import Config

from mmkdprune.commands.variants import Variant, load_variants

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "configs" / "pruning" / "variants.yml"


def command(variant: Variant) -> str:
    """The command that trains a variant, into a work dir of its name."""
    file = variant.config
    config = str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
    words = ["mmkdprune", "train", config, "--work-dir", f"work_dirs/{variant.name}"]
    return shlex.join([*words, "--cfg-options", *variant.option_words()])


def write(variant: Variant, folder: Path) -> Path:
    """Write a variant as a config file that inherits nothing."""
    path = folder / f"{variant.name}.py"
    if path.exists():
        sys.exit(f"error: {path} exists already: choose another --out")
    config = Config.fromfile(variant.config)
    config.merge_from_dict(dict(variant.options))
    folder.mkdir(parents=True, exist_ok=True)
    config.dump(path)
    return path


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", help="regular expression on the names")
    parser.add_argument("--out", type=Path, help="folder to write the configs to")
    args = parser.parse_args()
    variants = load_variants(LIST)
    chosen = [variant for name, variant in variants.items() if re.search(args.pattern or "", name)]
    if not chosen:
        sys.exit(f"error: {args.pattern!r} matches none of the {len(variants)} variants")
    for variant in chosen:
        if args.out is not None:
            print(write(variant, args.out))
        else:
            print(command(variant) if args.pattern else variant.name)


if __name__ == "__main__":
    main()
