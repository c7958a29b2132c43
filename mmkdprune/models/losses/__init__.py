"""Pure objectives: each takes tensors and returns a scalar or a dict of named scalars."""

from .channel_wise_distillation_loss import ChannelWiseDistillationLoss
from .class_map_distillation_loss import ClassMapDistillationLoss
from .dist_loss import DISTLoss
from .dkd_loss import DKDLoss
from .feature_mse_loss import FeatureMSELoss
from .hsakd_loss import HSAKDStudentLoss, HSAKDTeacherLoss, OnlineHSSAKDLoss
from .kd_loss import KDLoss, kd_loss, mutual_kd_loss
from .layerwise_mutual_contrastive_loss import LayerwiseMutualContrastiveLoss
from .memory_mutual_contrastive_loss import MemoryMutualContrastiveLoss
from .mixskd_loss import MixSKDLoss, interpolate_pairs
from .mutual_contrastive_loss import MutualContrastiveLoss
from .pearson_distillation_loss import PearsonDistillationLoss
from .queue_mutual_contrastive_loss import QueueMutualContrastiveLoss

__all__ = [
    "ChannelWiseDistillationLoss",
    "ClassMapDistillationLoss",
    "DISTLoss",
    "DKDLoss",
    "FeatureMSELoss",
    "HSAKDStudentLoss",
    "HSAKDTeacherLoss",
    "KDLoss",
    "LayerwiseMutualContrastiveLoss",
    "MemoryMutualContrastiveLoss",
    "MixSKDLoss",
    "MutualContrastiveLoss",
    "OnlineHSSAKDLoss",
    "PearsonDistillationLoss",
    "QueueMutualContrastiveLoss",
    "interpolate_pairs",
    "kd_loss",
    "mutual_kd_loss",
]
