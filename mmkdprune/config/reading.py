"""Configs of installed packages."""

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.utils import is_installed


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
