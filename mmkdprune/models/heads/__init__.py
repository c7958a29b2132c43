"""Train-only heads."""

from .discriminator_head import DiscriminatorHead
from .self_teacher_head import SelfTeacherHead

__all__ = ["DiscriminatorHead", "SelfTeacherHead"]
