"""mmkdprune: knowledge distillation and filter pruning for OpenMMLab backbones.

Importing the package checks the OpenMMLab stack (:mod:`mmkdprune.compat.versions`) and, once MMEngine is imported,
mends what keeps it from saving and resuming checkpoints safely on current PyTorch; :mod:`mmkdprune.install` lists all
that it changes. The import itself takes a tenth of a second: neither PyTorch nor MMEngine is imported by it.
"""

from .compat.versions import check_versions, is_command
from .install import install_with_mmengine
from .version import __version__

if not is_command():
    check_versions()
    install_with_mmengine()

__all__ = ["__version__"]
