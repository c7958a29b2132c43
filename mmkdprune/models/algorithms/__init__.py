"""Training algorithms: classifiers with train-only parts beside the deployable network."""

from .base import DistillationClassifier
from .hsakd import HSAKD
from .knowledge_distillation import KnowledgeDistillation
from .layerwise_mcl import LayerwiseMCL
from .mcl import MCL
from .mixskd import MixSKD
from .online_hssakd import OnlineHSSAKD

__all__ = ["DistillationClassifier", "HSAKD", "KnowledgeDistillation", "LayerwiseMCL", "MCL", "MixSKD", "OnlineHSSAKD"]
