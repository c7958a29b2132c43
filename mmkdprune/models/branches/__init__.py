"""Stage protocol and stage branches."""

from .shared_stages import share_stages
from .stage_branch import BranchDepth, ConvStages, StageBranch, build_branches
from .stage_protocol import StageOutputs, StageProtocol
from .stages import ResNetStages, ShuffleNetV2Stages, find_stage_protocol, fresh_copy, register_stage_protocol
from .traced_stages import TracedStages

__all__ = [
    "BranchDepth",
    "ConvStages",
    "ResNetStages",
    "ShuffleNetV2Stages",
    "StageBranch",
    "StageOutputs",
    "StageProtocol",
    "TracedStages",
    "build_branches",
    "fresh_copy",
    "register_stage_protocol",
    "find_stage_protocol",
    "share_stages",
]
