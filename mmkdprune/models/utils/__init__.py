"""Small pieces shared by models and losses."""

from .checks import (
    check_class_indices,
    check_embeddings,
    check_loss_weights,
    check_target,
    check_temperature,
    is_compiling,
    is_number,
)
from .encoders import MomentumEncoder, QueryEncoder, unit_embeddings
from .gather import gather_rows
from .memory_indices import MemoryIndexSampler, sample_indices
from .meta_gradient import meta_gradient
from .parts import build_initialised, set_aside
from .peers import NETWORK_FIELDS, peer_configs
from .precision import upcast_half, without_autocast
from .rotation import NUM_ROTATIONS, class_logits, joint_target, rotate4

__all__ = [
    "MemoryIndexSampler",
    "MomentumEncoder",
    "NETWORK_FIELDS",
    "NUM_ROTATIONS",
    "QueryEncoder",
    "build_initialised",
    "check_class_indices",
    "check_embeddings",
    "check_loss_weights",
    "check_target",
    "check_temperature",
    "class_logits",
    "gather_rows",
    "is_compiling",
    "is_number",
    "joint_target",
    "meta_gradient",
    "peer_configs",
    "rotate4",
    "sample_indices",
    "unit_embeddings",
    "set_aside",
    "upcast_half",
    "without_autocast",
]
