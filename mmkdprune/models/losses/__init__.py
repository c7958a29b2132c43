"""Pure objectives: each takes tensors and returns a scalar or a dict of named scalars."""

from .hsakd_loss import HSAKDStudentLoss, HSAKDTeacherLoss, OnlineHSSAKDLoss
from .kd_loss import kd_loss, mutual_kd_loss
from .mixskd_loss import MixSKDLoss, interpolate_pairs

__all__ = [
    "HSAKDStudentLoss",
    "HSAKDTeacherLoss",
    "MixSKDLoss",
    "OnlineHSSAKDLoss",
    "interpolate_pairs",
    "kd_loss",
    "mutual_kd_loss",
]
