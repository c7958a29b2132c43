"""Training algorithms: networks with train-only parts beside the deployable one."""

from .base import DistillationClassifier
from .dense_distillation import DenseDistillation
from .hsakd import HSAKD
from .knowledge_distillation import KnowledgeDistillation
from .layerwise_mcl import LayerwiseMCL
from .linear_probe import LinearProbe
from .mcl import MCL
from .mixskd import MixSKD
from .moco_mcl import MoCoMCL
from .online_hssakd import OnlineHSSAKD

__all__ = [
    "HSAKD",
    "MCL",
    "DenseDistillation",
    "DistillationClassifier",
    "KnowledgeDistillation",
    "LayerwiseMCL",
    "LinearProbe",
    "MixSKD",
    "MoCoMCL",
    "OnlineHSSAKD",
]
