"""Small pieces shared by models and losses."""

from .checks import check_class_indices, check_target, check_temperature, is_compiling, is_number
from .peers import NETWORK_FIELDS, peer_configs
from .precision import upcast_half
from .rotation import NUM_ROTATIONS, class_logits, joint_target, rotate4

__all__ = [
    "NETWORK_FIELDS",
    "NUM_ROTATIONS",
    "check_class_indices",
    "check_target",
    "check_temperature",
    "class_logits",
    "is_compiling",
    "is_number",
    "joint_target",
    "peer_configs",
    "rotate4",
    "upcast_half",
]
