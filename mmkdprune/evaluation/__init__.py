"""How good a representation is: linear probes, nearest neighbours and few-shot episodes on frozen features.

Importing this package registers its metrics, loops and hooks. MMPretrain is imported only when images are normalised:
every start of a tool looks in here.
"""

from .episodes import EpisodeSampler, EpisodeShape
from .features import FeatureSet, extract_features, make_preprocessor, pool_features
from .few_shot import FewShotResult, confidence_interval, evaluate_few_shot
from .few_shot_metric import FewShotAccuracy
from .knn import knn_scores, topk_accuracy, topk_hits
from .knn_hook import KNNEvaluationHook
from .linear import LinearResult, fit_linear
from .logistic_regression import BatchedLogisticRegression, fit_logistic_regression
from .loops import FeatureTestLoop, FeatureValLoop

__all__ = [
    "BatchedLogisticRegression",
    "EpisodeSampler",
    "EpisodeShape",
    "FeatureSet",
    "FeatureTestLoop",
    "FeatureValLoop",
    "FewShotAccuracy",
    "FewShotResult",
    "KNNEvaluationHook",
    "LinearResult",
    "confidence_interval",
    "evaluate_few_shot",
    "extract_features",
    "fit_linear",
    "fit_logistic_regression",
    "knn_scores",
    "make_preprocessor",
    "pool_features",
    "topk_accuracy",
    "topk_hits",
]
