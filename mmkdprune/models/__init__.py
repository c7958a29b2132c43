"""Algorithms, branches, heads, losses and backbones; importing this package registers them."""

from mmkdprune.compat.photometric import patch_hue
from mmkdprune.compat.unreadable_images import patch_image_loading
from mmkdprune.compat.versions import require

require("mmpretrain")  # passes an error inside MMPretrain on under its name
patch_hue()
patch_image_loading()

from . import algorithms, backbones, branches, heads, losses, utils  # noqa: E402

__all__ = ["algorithms", "backbones", "branches", "heads", "losses", "utils"]
