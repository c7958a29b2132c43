"""Algorithms, branches, heads, losses and backbones; importing this package registers them."""

from mmkdprune.compat.photometric import patch_hue
from mmkdprune.compat.unreadable_images import patch_image_loading
from mmkdprune.compat.versions import require

require("mmpretrain")  # passes an error inside MMPretrain on under its name
patch_hue()
patch_image_loading()

from . import algorithms, backbones, branches, heads, losses, utils  # noqa: E402
from .algorithms import (  # noqa: E402
    HSAKD,
    MCL,
    DenseDistillation,
    DistillationClassifier,
    KnowledgeDistillation,
    LayerwiseMCL,
    LinearProbe,
    MixSKD,
    MoCoMCL,
    OnlineHSSAKD,
)
from .backbones import (  # noqa: E402
    CifarMobileNetV2,
    CifarResNet,
    CifarShuffleNetV1,
    CifarShuffleNetV2,
    CifarVGG,
    CifarWideResNet,
    CompactBackbone,
    LinearStemResNetCIFAR,
    StagedBackbone,
)
from .heads import (  # noqa: E402
    AggregationHead,
    DiscriminatorHead,
    LayerWeightNetwork,
    ProjectionHead,
    SelfTeacherHead,
)

__all__ = [
    "algorithms",
    "backbones",
    "branches",
    "heads",
    "losses",
    "utils",
    "DenseDistillation",
    "DistillationClassifier",
    "HSAKD",
    "KnowledgeDistillation",
    "LayerwiseMCL",
    "LinearProbe",
    "MCL",
    "MixSKD",
    "MoCoMCL",
    "OnlineHSSAKD",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CifarWideResNet",
    "CompactBackbone",
    "LinearStemResNetCIFAR",
    "StagedBackbone",
    "AggregationHead",
    "DiscriminatorHead",
    "LayerWeightNetwork",
    "ProjectionHead",
    "SelfTeacherHead",
]
