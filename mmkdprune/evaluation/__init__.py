"""How good a representation is: linear probes, nearest neighbours and few-shot episodes on frozen features.

Importing this package registers its metrics and loops.
"""

from mmkdprune.compat.versions import require

require("mmpretrain")  # passes an error inside MMPretrain on under its name

from .episodes import EpisodeSampler, EpisodeShape  # noqa: E402
from .features import FeatureSet, extract_features, make_preprocessor, pool_features  # noqa: E402
from .few_shot import FewShotResult, confidence_interval, evaluate_few_shot  # noqa: E402
from .few_shot_metric import FewShotAccuracy  # noqa: E402
from .logistic_regression import BatchedLogisticRegression, fit_logistic_regression  # noqa: E402
from .loops import FeatureTestLoop, FeatureValLoop  # noqa: E402

__all__ = [
    "BatchedLogisticRegression",
    "EpisodeSampler",
    "EpisodeShape",
    "FeatureSet",
    "FeatureTestLoop",
    "FeatureValLoop",
    "FewShotAccuracy",
    "FewShotResult",
    "confidence_interval",
    "evaluate_few_shot",
    "extract_features",
    "fit_logistic_regression",
    "make_preprocessor",
    "pool_features",
]
