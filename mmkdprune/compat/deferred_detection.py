"""Keeps ``import mmpretrain.models`` from importing MMDetection.

One layer of MMPretrain derives from MMDetection's, so its package imports ``mmdet.models`` wherever that is installed,
and with it matplotlib, SciPy and scikit-learn: a third of the processor time of ``import mmpretrain.models``. Here that
layer's module is left empty, as where MMDetection is missing, until something else imports ``mmdet.models``.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import wrapt

LAYER = "ResLayerExtraNorm"
PACKAGE = "mmpretrain.models.utils"
MODULE = f"{PACKAGE}.res_layer_extra_norm"
DETECTION = "mmdet.models"


def defer_detection() -> None:
    """Leave the layer out until it is needed; without effect where its module or ``mmdet.models`` is imported already.

    Importing ``mmdet.models`` later registers the layer in MMDetection's registry as ever.
    """
    if MODULE in sys.modules or DETECTION in sys.modules or importlib.util.find_spec("mmpretrain") is None:
        return
    placeholder = ModuleType(MODULE, f"Left empty until {DETECTION} is imported.")
    setattr(placeholder, LAYER, None)
    sys.modules[MODULE] = placeholder

    def supply(_: ModuleType) -> None:
        if sys.modules.get(MODULE) is not placeholder:
            return
        del sys.modules[MODULE]
        package = sys.modules.get(PACKAGE)
        if package is not None:  # else its own import, still to come, finds MMDetection
            setattr(package, LAYER, getattr(importlib.import_module(MODULE), LAYER))

    wrapt.register_post_import_hook(supply, DETECTION)
