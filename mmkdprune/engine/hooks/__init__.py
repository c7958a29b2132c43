"""Hooks of scope ``mmkdprune``."""

from .channels_last_hook import ChannelsLastHook
from .check_batch_size_hook import CheckBatchSizeHook
from .check_classes_hook import CheckClassesHook
from .check_resume_hook import CheckResumeHook
from .check_teacher_hook import CheckTeacherHook
from .deferred_runtime_info_hook import DeferredRuntimeInfoHook
from .filter_pruning_hook import FilterPruningHook
from .gradient_buckets_hook import GradientBucketsHook
from .keep_memory_hook import KeepMemoryHook
from .meta_step_hook import MetaStepHook
from .non_finite_loss_hook import NonFiniteLossHook
from .progress_bar_hook import ProgressBarHook
from .random_state_hook import RandomStateHook
from .tf32_hook import TF32Hook
from .train_only_accuracy_hook import TrainOnlyAccuracyHook
from .training_labels_hook import TrainingLabelsHook

__all__ = [
    "ChannelsLastHook",
    "CheckBatchSizeHook",
    "CheckClassesHook",
    "CheckResumeHook",
    "CheckTeacherHook",
    "DeferredRuntimeInfoHook",
    "FilterPruningHook",
    "GradientBucketsHook",
    "KeepMemoryHook",
    "MetaStepHook",
    "NonFiniteLossHook",
    "ProgressBarHook",
    "RandomStateHook",
    "TF32Hook",
    "TrainOnlyAccuracyHook",
    "TrainingLabelsHook",
]
