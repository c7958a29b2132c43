"""Training algorithms: classifiers with train-only parts beside the deployable network."""

from .mixskd import MixSKD

__all__ = ["MixSKD"]
