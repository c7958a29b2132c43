"""What makes the current OpenMMLab and PyTorch releases work together: checks and small, named patches.

Nothing here imports MMEngine before a patch is applied (:mod:`mmkdprune.install`), so that :func:`check_versions` can
say that it is missing.
"""

from .versions import check_versions

__all__ = ["check_versions"]
