"""Training algorithms: classifiers with train-only parts beside the deployable network."""

from .hsakd import HSAKD
from .knowledge_distillation import KnowledgeDistillation
from .mixskd import MixSKD
from .online_hssakd import OnlineHSSAKD

__all__ = ["HSAKD", "KnowledgeDistillation", "MixSKD", "OnlineHSSAKD"]
