"""Few-shot accuracy as an MMEngine metric."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmkdprune.arguments import check_choice, check_count, check_number, checked
from mmkdprune.registry import METRICS

from .episodes import EpisodeShape
from .few_shot import CLASSIFIERS, TRANSFORMS, evaluate_few_shot


@METRICS.register_module()
class FewShotAccuracy(BaseMetric):
    """Mean accuracy over N-way K-shot episodes on the features of :class:`FeatureValLoop` or :class:`FeatureTestLoop`.

    Logs ``few_shot/5way_1shot_nearest_mean`` and the half width of its 95 % interval,
    ``few_shot/5way_1shot_nearest_mean_ci95``, for every combination.

    Args:
        num_ways (int | Sequence[int]): Classes of an episode. Defaults to 5.
        num_shots (int | Sequence[int]): Labelled images of each class. Defaults to (1, 5).
        num_queries (int): Images of each class to recognise. Defaults to 15.
        classifiers (Sequence[str]): ``'nearest_mean'`` and/or ``'logistic_regression'``. Defaults to both.
        num_episodes (int): How many episodes. Defaults to 600.
        seed (int): Of the episodes. Defaults to 0.
        transform (str): ``'l2'`` or ``'none'``, what is done to the features. Defaults to ``'l2'``.
        inverse_penalty (float): ``C`` of the logistic regression. Defaults to 1.
        collect_device (str): As in MMEngine's ``BaseMetric``.
        prefix (str, optional): Likewise.

    Raises:
        ValueError: If a setting is unknown or too small; at evaluation if the data set has fewer classes, or images of
            a class, than an episode needs.
    """

    default_prefix = "few_shot"

    @checked
    def __init__(
        self,
        num_ways: int | Sequence[int] = 5,
        num_shots: int | Sequence[int] = (1, 5),
        num_queries: int = 15,
        classifiers: Sequence[str] = CLASSIFIERS,
        num_episodes: int = 600,
        seed: int = 0,
        transform: str = "l2",
        inverse_penalty: float = 1.0,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        check_choice("FewShotAccuracy: collect_device", collect_device, ("cpu", "gpu"))
        check_count("FewShotAccuracy: num_episodes", num_episodes, 1)
        check_count("FewShotAccuracy: seed", seed, 0)
        check_number("FewShotAccuracy: inverse_penalty", inverse_penalty, 0, open_low=True)
        super().__init__(collect_device=collect_device, prefix=prefix)
        ways = [num_ways] if isinstance(num_ways, int) else list(num_ways)
        shots = [num_shots] if isinstance(num_shots, int) else list(num_shots)
        self.shapes = [EpisodeShape(way, shot, num_queries) for way in ways for shot in shots]
        if not self.shapes:
            raise ValueError(f"FewShotAccuracy: num_ways and num_shots must not be empty, got {ways} and {shots}.")
        if transform not in TRANSFORMS[:2]:
            raise ValueError(f"FewShotAccuracy: transform must be one of {TRANSFORMS[:2]}, got {transform!r}.")
        if not classifiers or set(classifiers) - set(CLASSIFIERS):
            raise ValueError(f"FewShotAccuracy: classifiers must be some of {CLASSIFIERS}, got {classifiers!r}.")
        self.options: dict[str, Any] = {
            "classifiers": tuple(classifiers),
            "num_episodes": num_episodes,
            "seed": seed,
            "transform": transform,
            "inverse_penalty": inverse_penalty,
        }

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep features and labels of a batch."""
        for sample in data_samples:
            if "feature" not in sample:
                raise ValueError(
                    "FewShotAccuracy needs features, not predictions: set val_cfg=dict(type='mmkdprune.FeatureValLoop')"
                    " or test_cfg=dict(type='mmkdprune.FeatureTestLoop')."
                )
            self.results.append((sample["feature"].float().cpu(), int(sample["gt_label"])))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Draw the episodes from all images."""
        features = torch.stack([feature for feature, _ in results])
        labels = torch.tensor([label for _, label in results])
        metrics: dict[str, float] = {}
        for shape in self.shapes:
            for result in evaluate_few_shot(features, labels, shape, **self.options):
                name = f"{shape.name}_{result.classifier}"
                metrics |= {name: result.accuracy, f"{name}_ci95": result.interval}
        return metrics
