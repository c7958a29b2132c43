"""mmkdprune: knowledge distillation and filter pruning for OpenMMLab backbones.

Importing the package checks the OpenMMLab stack (:mod:`mmkdprune.compat.versions`) and mends what keeps MMEngine
from saving and resuming checkpoints safely on current PyTorch; :mod:`mmkdprune.install` lists all that it changes.
"""

from .compat.versions import check_versions, is_report_requested
from .install import install
from .version import __version__

if not is_report_requested():
    check_versions()
    install()

__all__ = ["__version__"]
