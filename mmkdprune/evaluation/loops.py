"""Validation and test loops that hand features, instead of predictions, to the metrics."""

from typing import Any

import torch
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.registry import LOOPS

from .features import make_preprocessor, pool_features, read_target


def feature_samples(model: Any, data_batch: dict[str, Any], dataset: str) -> list[Any]:
    """Compute the pooled backbone features of a batch.

    Args:
        model (nn.Module): A classifier or self-supervised model, wrapped or not, with a ``backbone``.
        data_batch (dict): ``inputs`` and ``data_samples``.
        dataset (str): Name of the data set, for messages.

    Returns:
        list[DataSample]: The samples of the batch, each with ``feature``, (D,).

    Raises:
        ValueError: If the model has no backbone, or images no label.
    """
    network = unwrapped(model)
    backbone = getattr(network, "backbone", None)
    if backbone is None:
        raise ValueError(f"features are those of the backbone, but {type(network).__name__} has none.")
    batch = make_preprocessor(network.data_preprocessor)(data_batch, False)
    read_target(batch.get("data_samples"), dataset)
    for sample, feature in zip(batch["data_samples"], pool_features(backbone(batch["inputs"])), strict=True):
        sample.set_field(feature, "feature")
    return batch["data_samples"]


@LOOPS.register_module()
class FeatureValLoop(ValLoop):
    """Validate features: metrics get data samples with ``feature``, the pooled output of the backbone, (D,).

    For metrics such as :class:`FewShotAccuracy`, whose classes may be others than the head's::

        val_cfg = dict(type='mmkdprune.FeatureValLoop')
        val_evaluator = dict(type='mmkdprune.FewShotAccuracy', num_ways=5, num_shots=[1, 5])

    It works with classifiers and with self-supervised models, which do not predict. Arguments are those of MMEngine's
    ``ValLoop``.
    """

    compares_classes = False

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Compute the features of one batch."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = feature_samples(self.runner.model, data_batch, type(self.dataloader.dataset).__name__)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


@LOOPS.register_module()
class FeatureTestLoop(TestLoop):
    """Test features; as :class:`FeatureValLoop`."""

    compares_classes = False

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Compute the features of one batch."""
        self.runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = feature_samples(self.runner.model, data_batch, type(self.dataloader.dataset).__name__)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
