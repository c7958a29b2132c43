"""Pure objectives: each takes tensors and returns a scalar or a dict of named scalars."""

from .dist_loss import DISTLoss
from .dkd_loss import DKDLoss
from .hsakd_loss import HSAKDStudentLoss, HSAKDTeacherLoss, OnlineHSSAKDLoss
from .kd_loss import KDLoss, kd_loss, mutual_kd_loss
from .layerwise_mutual_contrastive_loss import LayerwiseMutualContrastiveLoss
from .memory_mutual_contrastive_loss import MemoryMutualContrastiveLoss
from .mixskd_loss import MixSKDLoss, interpolate_pairs
from .mutual_contrastive_loss import MutualContrastiveLoss
from .queue_mutual_contrastive_loss import QueueMutualContrastiveLoss

__all__ = [
    "DISTLoss",
    "DKDLoss",
    "HSAKDStudentLoss",
    "HSAKDTeacherLoss",
    "KDLoss",
    "LayerwiseMutualContrastiveLoss",
    "MemoryMutualContrastiveLoss",
    "MixSKDLoss",
    "MutualContrastiveLoss",
    "OnlineHSSAKDLoss",
    "QueueMutualContrastiveLoss",
    "interpolate_pairs",
    "kd_loss",
    "mutual_kd_loss",
]
