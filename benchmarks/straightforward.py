"""The objectives written down from their formulas, as a yardstick of speed.

Plain PyTorch in float32 on contiguous images: what one would write with the papers at hand and no thought of speed, but
without waste either: one forward pass of every network, no double work. The networks are those of the package's models.
``step_time.py`` lets these steps take turns with the package's own, and a test compares the losses of both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Losses = dict[str, Tensor]


def kd(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
    """Softened Kullback-Leibler divergence, times the squared temperature; the teacher gets no gradient."""
    ours = F.log_softmax(student / temperature, 1)
    theirs = F.softmax(teacher.detach() / temperature, 1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean")


def forward_heads(model: Any, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and last feature maps of branches and network, the network's own last."""
    taps, last_map, outputs = model.stage_protocol.forward(model.backbone, images)
    heads = [branch(tap, last_map.shape[-2:])[:2] for branch, tap in zip(model.branches, taps[:-1], strict=True)]
    heads.append((model.head_logits(outputs), last_map))
    return [logits for logits, _ in heads], [feat for _, feat in heads]


def forward_joint(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Class logits of the network and joint logits of all branches."""
    taps, _, outputs = model.stage_protocol.forward(model.backbone, images)
    return model.head_logits(outputs), [branch(tap)[0] for branch, tap in zip(model.branches, taps, strict=True)]


def rotations(images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Four rotations of every image in a row, and their joint labels."""
    rotated = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)
    return rotated, torch.stack([4 * target + k for k in range(4)], dim=1).flatten()


def plain(model: Any, images: Tensor, target: Tensor) -> Losses:
    """Cross-entropy of the network."""
    return {"loss": F.cross_entropy(model(images, mode="tensor"), target)}


def draw_mixup(model: Any, number: int) -> tuple[float, Tensor]:
    """Mixing coefficient and partners."""
    return float(np.random.default_rng().beta(model.alpha, model.alpha)), torch.randperm(number)


def mixskd(model: Any, images: Tensor, target: Tensor, draws: tuple[float, Tensor] | None = None) -> Losses:
    """All seven terms of MixSKD."""
    lam, perm = draws or draw_mixup(model, len(images))
    perm = perm.to(images.device)

    def mixed_ce(logits: Tensor) -> Tensor:
        return lam * F.cross_entropy(logits, target) + (1 - lam) * F.cross_entropy(logits, target[perm])

    def lerp(rows: Tensor) -> Tensor:
        return lam * rows + (1 - lam) * rows[perm]

    def self_teacher(feats: Sequence[Tensor]) -> Tensor:
        aggregated = model.self_teacher.conv(torch.cat(list(feats), dim=1))
        return model.self_teacher.fc(F.adaptive_avg_pool2d(aggregated, 1).flatten(1))

    logits, feats = forward_heads(model, torch.cat([images, lerp(images)]))
    number = len(images)
    lerp_logits, mix_logits = [lerp(rows[:number]) for rows in logits], [rows[number:] for rows in logits]
    lerp_feats, mix_feats = [lerp(rows[:number]) for rows in feats], [rows[number:] for rows in feats]
    teacher_lerp, teacher_mix = self_teacher(lerp_feats), self_teacher(mix_feats)
    truth = F.one_hot(torch.arange(2, device=images.device).repeat_interleave(number), 2).to(images.dtype)
    disc = [
        F.binary_cross_entropy_with_logits(discriminator(torch.cat(pair)), truth)
        for discriminator, pair in zip(model.discriminators, zip(lerp_feats, mix_feats, strict=True), strict=True)
    ]
    branches = zip(lerp_logits[:-1], mix_logits[:-1], strict=True)
    return {
        "loss_ce": sum(F.cross_entropy(rows[:number], target) for rows in logits),
        "loss_mix_ce": sum(mixed_ce(rows) for rows in mix_logits),
        "loss_teacher_ce": mixed_ce(teacher_lerp) + mixed_ce(teacher_mix),
        "loss_kd_backbone": kd(lerp_logits[-1], teacher_mix) + kd(mix_logits[-1], teacher_lerp),
        "loss_kd_branches": sum(kd(first, second) + kd(second, first) for first, second in branches),
        "loss_feat": sum(F.mse_loss(first, second) for first, second in zip(lerp_feats, mix_feats, strict=True)),
        "loss_disc": sum(disc),
    }


def knowledge_distillation(model: Any, images: Tensor, target: Tensor) -> Losses:
    """Classic KD."""
    teacher = model.teacher.network
    with torch.no_grad():
        taught = teacher.head_logits(teacher.backbone(images))
    logits = model.head_logits(model.backbone(images))
    return {"loss_ce": F.cross_entropy(logits, target), "loss_kd": kd(logits, taught, model.kd_loss.temperature)}


def hsakd_teacher(model: Any, images: Tensor, target: Tensor) -> Losses:
    """HSAKD's teacher phase."""
    rotated, labels = rotations(images, target)
    logits, joint_logits = forward_joint(model, rotated)
    return {
        "loss_ce": F.cross_entropy(logits[::4], target),
        "loss_joint_ce": sum(F.cross_entropy(rows, labels) for rows in joint_logits),
    }


def hsakd(model: Any, images: Tensor, target: Tensor) -> Losses:
    """HSAKD's student phase."""
    rotated, _ = rotations(images, target)
    with torch.no_grad():
        taught, taught_joint = forward_joint(model.teacher.network, rotated)
    logits, joint_logits = forward_joint(model, rotated)
    return {
        "loss_ce": F.cross_entropy(logits[::4], target),
        "loss_kd": kd(logits, taught),
        "loss_joint_kd": sum(kd(ours, theirs) for ours, theirs in zip(joint_logits, taught_joint, strict=True)),
    }


def online_hssakd(model: Any, images: Tensor, target: Tensor) -> Losses:
    """Two networks that teach each other."""
    rotated, labels = rotations(images, target)
    first, second = (forward_joint(network, rotated) for network in (model, *model.peers.values()))
    pairs = list(zip(first[1], second[1], strict=True))
    return {
        "loss_ce": F.cross_entropy(first[0][::4], target) + F.cross_entropy(second[0][::4], target),
        "loss_joint_ce": sum(F.cross_entropy(rows, labels) for rows in (*first[1], *second[1])),
        "loss_kd": kd(first[0], second[0]) + kd(second[0], first[0]),
        "loss_joint_kd": sum(kd(ours, theirs) + kd(theirs, ours) for ours, theirs in pairs),
    }


OBJECTIVES: dict[str, Callable[..., Losses]] = {
    "ImageClassifier": plain,
    "MixSKD": mixskd,
    "KnowledgeDistillation": knowledge_distillation,
    "HSAKD": hsakd,
    "OnlineHSSAKD": online_hssakd,
}


def objective_of(model: nn.Module) -> Callable[..., Losses] | None:
    """The objective that a model of the package trains with, or None where none is written down here."""
    if getattr(model, "phase", "student") == "teacher":
        return hsakd_teacher
    return OBJECTIVES.get(type(model).__name__)


class StraightforwardTrainer:
    """One model with an optimizer of its own and a fixed batch, trained by a loop of plain PyTorch.

    Args:
        model: A model of the package; its networks are trained.
        images: uint8, (B, C, H, W).
        target: Class indices, (B,).
        optimizer: Config of the optimizer.
    """

    def __init__(self, model: Any, images: Tensor, target: Tensor, optimizer: dict[str, Any]) -> None:
        self.model, self.images, self.target = model, images, target
        self.objective = objective_of(model)
        settings = {name: value for name, value in optimizer.items() if name != "type"}
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, **settings)
        self.mean, self.std = model.data_preprocessor.mean, model.data_preprocessor.std

    def step(self) -> dict[str, float]:
        """Take one training step and return the losses as numbers, for a log."""
        assert self.objective is not None
        losses = self.objective(self.model, (self.images.float() - self.mean) / self.std, self.target)
        total = sum(losses.values())
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[union-attr]
        self.optimizer.step()
        return {name: value.item() for name, value in losses.items()}
