"""Train-only heads."""

from .aggregation_head import AggregationHead
from .discriminator_head import DiscriminatorHead
from .layer_weight_network import LayerWeightNetwork
from .projection_head import ProjectionHead
from .self_teacher_head import SelfTeacherHead

__all__ = ["AggregationHead", "DiscriminatorHead", "LayerWeightNetwork", "ProjectionHead", "SelfTeacherHead"]
