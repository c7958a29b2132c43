"""Registries of scope ``mmkdprune``, children of MMEngine's root registries.

Every registry names the packages that hold its classes (``locations``), so ``type='mmkdprune.X'`` works in any
OpenMMLab config: MMEngine imports this file when it meets the scope, and the package when it looks up the class.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import Registry

SCOPE = "mmkdprune"


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope=SCOPE, locations=[f"{SCOPE}.{location}" for location in locations])


MODELS = _child("model", MMENGINE_MODELS, "models")
DATASETS = _child("dataset", MMENGINE_DATASETS, "datasets")
DATA_SAMPLERS = _child("data sampler", MMENGINE_DATA_SAMPLERS, "datasets")
FUNCTIONS = _child("function", MMENGINE_FUNCTIONS, "datasets")
HOOKS = _child("hook", MMENGINE_HOOKS, "engine.hooks", "evaluation")
LOOPS = _child("loop", MMENGINE_LOOPS, "engine.hooks", "evaluation")
METRICS = _child("metric", MMENGINE_METRICS, "engine.hooks", "evaluation")
TASK_UTILS = _child("task util", MMENGINE_TASK_UTILS, "engine.hooks")
