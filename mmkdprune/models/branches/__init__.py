"""Stage protocol and stage branches."""

from .stage_branch import ConvStages, StageBranch, build_branches
from .stage_protocol import StageOutputs, StageProtocol
from .stages import ResNetStages, find_stage_protocol, fresh_copy, register_stage_protocol
from .traced_stages import TracedStages

__all__ = [
    "ConvStages",
    "ResNetStages",
    "StageBranch",
    "StageOutputs",
    "StageProtocol",
    "TracedStages",
    "build_branches",
    "fresh_copy",
    "register_stage_protocol",
    "find_stage_protocol",
]
