"""Stage protocol and stage branches."""

from .stage_branch import ConvStages, StageBranch, build_branches
from .stages import ResNetStages, StageProtocol, find_stage_protocol, fresh_copy, register_stage_protocol
from .traced_stages import TracedStages

__all__ = [
    "ConvStages",
    "ResNetStages",
    "StageBranch",
    "StageProtocol",
    "TracedStages",
    "build_branches",
    "fresh_copy",
    "register_stage_protocol",
    "find_stage_protocol",
]
