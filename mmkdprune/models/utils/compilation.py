"""Compile the tensor part of a training step, and nothing around it.

What MMEngine compiles is the whole ``train_step``: data samples, optimizer wrapper and log variables included, which
``torch.compile`` cannot follow. Here labels and random draws are collected first, and the network with its losses is
one graph.
"""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from mmengine.logging import MMLogger, print_log
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn


def compile_function(function: Callable, options: Mapping[str, Any]) -> Callable:
    """Compile a function and report once into how many graphs it was cut.

    Every batch size gets a specialisation of its own unless the options say otherwise (``dynamic``): an epoch has one,
    or two with its leftover batch.

    Args:
        function (Callable): A function of modules and tensors; a module may be an argument.
        options (Mapping[str, Any]): Arguments of ``torch.compile``.

    Returns:
        Callable: The compiled function.
    """
    compiled = torch.compile(function, **{"dynamic": False, **options})
    is_reported = False

    def call(*args: Any) -> Any:
        nonlocal is_reported
        if is_reported:
            return compiled(*args)
        is_reported = True
        before = _graph_breaks()
        result = compiled(*args)
        _report(function.__name__, {reason: n - before.get(reason, 0) for reason, n in _graph_breaks().items()})
        return result

    return call


def compile_training(model: nn.Module, **options: Any) -> str | None:
    """Compile the tensor part of a model's training step.

    Args:
        model (nn.Module): A model that offers ``compile_step(**options)``, or a plain ``ImageClassifier``.
        **options (Any): Arguments of ``torch.compile``.

    Returns:
        str | None: What is compiled. None, and nothing is, if the model is neither.
    """
    if hasattr(model, "compile_step"):
        return model.compile_step(**options)  # type: ignore[operator]
    if isinstance(model, ImageClassifier) and type(model).loss is ImageClassifier.loss and model.with_head:
        return compile_classifier(model, options)
    return None


def compile_method(model: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Replace a model's method by its compiled form, in this instance only.

    Keys of the ``state_dict`` stay as they are. A copy of the model (of ``EMAHook``, say) runs its own weights.

    Args:
        model (nn.Module): The model.
        name (str): A method whose arguments are tensors.
        options (Mapping[str, Any]): Arguments of ``torch.compile``.
    """
    # The function of the class gets the model as an argument: bound to this one, a copy would train the wrong weights.
    setattr(model, name, MethodType(compile_function(getattr(type(model), name), options), model))


def compile_classifier(model: ImageClassifier, options: Mapping[str, Any]) -> str:
    """Compile the training step of a plain classifier.

    Args:
        model (ImageClassifier): A model whose ``loss`` is that of ``ImageClassifier``.
        options (Mapping[str, Any]): Arguments of ``torch.compile``.

    Returns:
        str: What is compiled. A head with a loss of its own, or one that computes the training accuracy, stays outside.
    """
    head = model.head
    plain_head = type(head).loss is ClsHead.loss and type(head)._get_loss is ClsHead._get_loss and not head.cal_acc
    step = compile_function(_scores_and_loss if plain_head else _features, options)

    def loss(self: ImageClassifier, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        if not plain_head:
            return self.head.loss(step(self, inputs), data_samples)
        if "gt_score" in data_samples[0]:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])
        return {"loss": step(self, inputs, target)}

    setattr(model, "loss", MethodType(loss, model))  # noqa: B010  (a method of this instance)
    return "backbone, neck, head and loss" if plain_head else f"backbone and neck ({type(head).__name__} is not)"


def _scores_and_loss(model: ImageClassifier, inputs: Tensor, target: Tensor) -> Tensor:
    scores = model.head(model.extract_feat(inputs))
    return model.head.loss_module(scores, target, avg_factor=scores.size(0))


def _features(model: ImageClassifier, inputs: Tensor) -> Any:
    return model.extract_feat(inputs)


def _graph_breaks() -> dict[str, int]:
    from torch._dynamo.utils import counters  # imported by torch.compile anyway, slow for others

    return dict(counters["graph_break"])


def _report(name: str, breaks: Mapping[str, int]) -> None:
    logger = MMLogger.get_current_instance()
    reasons = [reason for reason, number in breaks.items() if number > 0]
    if not reasons:
        print_log(f"torch.compile: {name} is one graph.", logger)
        return
    shown = "; ".join(reason.splitlines()[0] for reason in reasons[:3])
    print_log(
        f"torch.compile: {name} was cut at {len(reasons)} place(s), each of which costs time ({shown}). "
        "TORCH_LOGS=graph_breaks shows where; compile=dict(fullgraph=True) makes it an error.",
        logger,
        level=30,
    )
