"""What a stock config may not ask of an algorithm, since the algorithm would leave it out or could not work with it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead, ContrastiveHead
from mmpretrain.models.losses import CrossEntropyLoss


def classifier_clashes(model: ImageClassifier) -> Iterator[str]:
    """Find what a classifier's head and data preprocessor would do and a distillation algorithm leaves out.

    Args:
        model (ImageClassifier): With a head.

    Yields:
        str: What is wrong and how to mend it, without the subject of the sentence.
    """
    if getattr(model.data_preprocessor, "batch_augments", None) is not None:
        yield (
            "needs one label an image, but the config's batch augments (Mixup, CutMix, ...) make soft ones: set "
            "model.train_cfg=None (and no model.data_preprocessor.batch_augments)."
        )
    elif getattr(model.data_preprocessor, "to_onehot", False):  # which batch augments turn on themselves
        yield (
            "needs one label an image, but the config makes one-hot scores of them: set "
            "data_preprocessor.to_onehot=False."
        )
    if type(model.head).loss is not ClsHead.loss:
        yield (
            f"takes the logits of the head and computes the cross-entropy itself, but {type(model.head).__name__} "
            "has a loss of its own that would be left out: use model.head.type='LinearClsHead'."
        )
        return
    if model.head.cal_acc:
        yield "does not compute the training accuracy: set model.head.cal_acc=False."
    loss = getattr(model.head, "loss_module", None)
    if not _is_plain_cross_entropy(loss):
        yield (
            f"computes the cross-entropy of the head itself, so head.loss={type(loss).__name__}(...) with options "
            "of its own (smoothing, class or loss weights) would be ignored: set "
            "model.head.loss=dict(_delete_=True, type='CrossEntropyLoss'); weights go into loss_weights."
        )


def check_networks(configs: Sequence[Mapping[str, Any]], feat_dim: int) -> None:
    """Refuse networks for momentum contrast that have a head, no neck, or embeddings of another dimension.

    Args:
        configs (Sequence[Mapping]): Those of the networks, peer 0 first.
        feat_dim (int): Dimensions of the embeddings.

    Raises:
        ValueError: One of them is refused.
    """
    for index, config in enumerate(configs):
        if "head" in config:
            raise ValueError(f"MoCoMCL: peer {index} has a head, which no peer needs: leave head out of peers.")
        if not isinstance(config.get("neck"), Mapping):
            raise ValueError(
                "MoCoMCL needs a neck that makes the embeddings: set neck=dict(type='MoCoV2Neck', in_channels=..., "
                f"hid_channels=..., out_channels={feat_dim}), got {config.get('neck')!r}."
            )
        check_dimensions(f"of peer {index}", config["neck"].get("out_channels", feat_dim), feat_dim)


def check_dimensions(neck: str, given: int, wanted: int) -> None:
    """Refuse embeddings of another dimension than the queues hold; ``neck`` tells which neck makes them."""
    if given != wanted:
        raise ValueError(
            f"MoCoMCL: the neck {neck} gives embeddings of {given} dimensions, but feat_dim={wanted}: all networks "
            "need the same, set neck.out_channels or feat_dim."
        )


def similarity_temperature(head: Any) -> float:
    """Read the temperature of a ``ContrastiveHead``; one with a loss of its own is refused by a ``ValueError``."""
    loss = getattr(head, "loss_module", None)
    if type(head) is not ContrastiveHead or not _is_plain_cross_entropy(loss):
        raise ValueError(
            f"MoCoMCL computes the cross-entropy of the head itself, so head={type(head).__name__} with "
            f"{type(loss).__name__} would be ignored: set model.head=dict(type='ContrastiveHead', temperature=0.07, "
            "loss=dict(type='CrossEntropyLoss')); weights go into loss_weights."
        )
    return head.temperature


def _is_plain_cross_entropy(loss: Any) -> bool:
    return (
        isinstance(loss, CrossEntropyLoss)
        and not loss.use_soft
        and not loss.use_sigmoid
        and loss.class_weight is None
        and loss.loss_weight == 1.0
        and loss.reduction == "mean"
    )
