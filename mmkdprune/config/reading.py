"""Read a config, from a file or an installed package, and apply options to it."""

import argparse
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.utils import is_installed

from mmkdprune.errors import UsageError

# Packages that configs may need and this one does not: their names, and the extra that installs them.
_EXTRAS = {
    "mmdet": ("MMDetection", "det"),
    "mmseg": ("MMSegmentation", "seg"),
    "mmsegmentation": ("MMSegmentation", "seg"),
}


class AbsentPackageError(ModuleNotFoundError):
    """A config is one of a package that is not installed."""


def package_config(name: str) -> Config:
    """Read a config of an installed package.

    MMEngine's ``get_config`` would call ``pip install`` where the package is absent.

    Args:
        name (str): ``package::path``, ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'`` say.

    Raises:
        AbsentPackageError: The package is not installed; the text begins with its distribution's name.
    """
    distribution = MODULE2PACKAGE.get(name.split("::")[0])
    if distribution is not None and not is_installed(distribution):
        raise AbsentPackageError(
            f"{distribution} is not installed, and {name} is one of its configs: pip install {distribution}"
        )
    return get_config(name)


def read_config(name: str, options: dict | None = None) -> Config:
    """Read a config from a path or from an installed package (``mmkdprune::mixskd/….py``) and apply the options."""
    if "::" not in name and not os.path.isfile(name):
        raise UsageError(f"there is no config {name}; give a path, or package::path for one of an installed package")
    try:
        config = package_config(name) if "::" in name else Config.fromfile(name)
    except ModuleNotFoundError as error:
        # The config or base config of an absent package; MMEngine has no name attribute for it.
        package = str(error).split(" ")[0]
        if package not in _EXTRAS:
            raise
        raise _absent(package, name) from None
    if options:
        config.merge_from_dict(options)
    scope = config.get("default_scope")
    if scope in _EXTRAS and importlib.util.find_spec(scope) is None:
        raise _absent(scope, name)
    return config


def _absent(package: str, config: str) -> UsageError:
    title, extra = _EXTRAS[package]
    return UsageError(
        f'{config} needs {title}, which is not installed: pip install "mmkdprune[{extra}]" (in a clone: '
        f'pip install -e ".[{extra}]")'
    )


def config_stem(name: str) -> str:
    """Name of a config file without package, folder and ending."""
    return Path(name.split("::")[-1]).stem


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts into values, as MMEngine's command lines do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise UsageError(f"--cfg-options takes key=value, got {wrong[0]!r}")
    return parser.parse_args(["--cfg-options", *options]).cfg_options if options else {}
