"""List the configs of this package, or copy one: ``mmkdprune configs``."""

import argparse
import ast
import re
import sys
from pathlib import Path

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.config.shipped import configs_folder

from .command_line import fail


def run(args: argparse.Namespace) -> None:
    """List or copy; see :mod:`mmkdprune.cli.configs`."""
    try:
        found = find_configs(args.pattern)
    except re.error as error:
        fail(f"{args.pattern!r} is no regular expression: {error}", 2)
    if not found:
        fail(f"no config has {args.pattern!r} in its path; `mmkdprune configs` lists them all")
    if args.copy is None:
        print("\n".join(f"mmkdprune::{name}" for name in found))
        return
    exact = [name for name in found if args.pattern in (name, Path(name).name, Path(name).stem)]
    if len(found) > 1 and len(exact) != 1:
        print("\n".join(found), file=sys.stderr)
        fail(f"--copy copies one config, and {args.pattern!r} fits these {len(found)}: give more of one's path", 2)
    print(copy_config((exact or found)[0], args.copy, args.overwrite))


def find_configs(pattern: str = "") -> list[str]:
    """Return the paths below ``configs`` of what can be trained or tested, sorted.

    Args:
        pattern: Regular expression that is searched in them.
    """
    folder = configs_folder()
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py"))
    return [name for name in names if not name.startswith("_base_/") and re.search(pattern, name)]


def copy_config(name: str, target: Path, overwrite: bool = False) -> str:
    """Write a config that works anywhere: what it inherits from is named by package.

    Args:
        name: Path below ``configs``.
        target: File, or an existing folder.
        overwrite: Replace an existing file.

    Returns:
        str: What was written and how to train it.
    """
    source = configs_folder() / name
    file = target / source.name if target.is_dir() else target
    if file.suffix != ".py":
        fail(f"--copy {target}: a config is a Python file and ends in .py", 2)
    if file.exists() and not overwrite:
        fail(f"{file} exists already: give another name to --copy, or add --overwrite")
    text = with_named_bases(source.read_text(encoding="utf-8"), Path(name).parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, "w", "utf-8") as stream:
        stream.write(f"# A copy of mmkdprune::{name}\n{text}")
    return f"{file}: a copy of mmkdprune::{name}\n\n$ mmkdprune train {file}"


def with_named_bases(text: str, folder: Path) -> str:
    """Replace the relative paths in ``_base_`` of a config by ``mmkdprune::path``.

    Args:
        text: Of the config.
        folder: The config's, below ``configs``.
    """
    statements = (node for node in ast.parse(text).body if isinstance(node, ast.Assign))
    values = [node.value for node in statements if getattr(node.targets[0], "id", "") == "_base_"]
    lines = text.splitlines(keepends=True)
    paths = [node for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)]
    for node in sorted(paths, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        base = str(node.value)
        if "::" in base:
            continue
        line = lines[node.lineno - 1].encode()  # columns count bytes
        path = configs_folder().joinpath(folder, base).resolve().relative_to(configs_folder().resolve())
        end = node.end_col_offset
        lines[node.lineno - 1] = (line[: node.col_offset] + f'"mmkdprune::{path}"'.encode() + line[end:]).decode()
    return "".join(lines)
