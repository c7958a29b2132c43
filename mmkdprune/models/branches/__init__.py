"""Stage protocol and stage branches."""

from .fresh_copy import fresh_copy, without_pretrained
from .map_neck import split_neck
from .shared_stages import share_stages
from .splits import ResNetStages, ShuffleNetV2Stages
from .stage_branch import BranchDepth, ConvStages, StageBranch, build_branches
from .stage_protocol import StageOutputs, StageProtocol, lowest_map, pool
from .stages import find_stage_protocol, register_stage_protocol
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
    "find_stage_protocol",
    "fresh_copy",
    "lowest_map",
    "pool",
    "register_stage_protocol",
    "share_stages",
    "split_neck",
    "without_pretrained",
]
