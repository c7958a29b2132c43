"""Time what momentum contrast does beside the networks, in turns with the straightforward forms of it.

Key encoders follow by one fused operation (``MomentumEncoder``) or by a loop over parameters as in MMEngine's
``ExponentialMovingAverage``. Queues are read and written in place (``QueueMutualContrastiveLoss``), or copied at every
step, as in MMPretrain's ``MoCo``, or put together anew.

    python benchmarks/momentum_update.py
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import record
import torch
import torch.nn.functional as F
import torchvision
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmkdprune.models.losses import QueueMutualContrastiveLoss
from mmkdprune.models.utils import MomentumEncoder

MOMENTUM = 0.001
NETWORKS, DIM = 2, 128


class _WithoutBuffers(nn.Module):
    """The parameters of a network alone: MMEngine's average copies buffers as well, which is not what is compared."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.values = nn.ParameterList(network.parameters())


def average_forms(name: str, device: torch.device) -> tuple[Callable, Callable]:
    """Make the loop and the fused form on the same network."""
    network = getattr(torchvision.models, name)().to(device)
    source, empty = _WithoutBuffers(network), nn.Identity()
    loop = ExponentialMovingAverage(source, MOMENTUM)
    fused = MomentumEncoder(source, empty, MOMENTUM)
    return lambda: loop.update_parameters(source), lambda: fused.update(source, empty)


def queue_forms(images: int, size: int, copied: bool, device: torch.device) -> tuple[Callable, Callable]:
    """Make the form with copies and the one in place: both hand the queues out and take new keys."""
    loss = QueueMutualContrastiveLoss(size, DIM, NETWORKS).to(device)
    keys = F.normalize(torch.randn(images, NETWORKS, DIM, device=device), dim=2)
    state = {"queues": loss.queues.clone(), "place": 0}

    def copy_and_write() -> None:
        state["queues"].clone()  # for the backward pass
        place = state["place"]
        state["queues"][:, place : place + images] = keys.transpose(0, 1)
        state["place"] = (place + images) % size

    def concatenate() -> None:
        state["queues"] = torch.cat([state["queues"][:, images:], keys.transpose(0, 1)], 1)

    return copy_and_write if copied else concatenate, lambda: loss.enqueue(keys)


def measure(case: str, forms: tuple[Callable, Callable], rounds: int, device: torch.device) -> dict:
    """Let both forms take turns."""
    times = [[record.seconds(form, device) for form in forms] for _ in range(rounds + 3)][3:]
    plain, ours = zip(*times, strict=True)
    return {
        "case": case,
        "straightforward_ms": round(1e3 * statistics.median(plain), 3),
        "ours_ms": round(1e3 * statistics.median(ours), 3),
        "speedup": round(statistics.median(a / b for a, b in times), 2),
    }


def main() -> None:
    """Measure all cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"], help="torchvision's names")
    parser.add_argument("--images", type=int, default=256, help="of a step")
    parser.add_argument("--queue-size", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=40, help="counted steps of each form")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    device = torch.device(args.device)
    rows = [
        measure(f"key encoder {name}, loop", average_forms(name, device), args.rounds, device) for name in args.networks
    ]
    for name, copied in (("copied", True), ("concatenated", False)):
        forms = queue_forms(args.images, args.queue_size, copied, device)
        rows.append(measure(f"{NETWORKS} queues of {args.queue_size}, {name}", forms, args.rounds, device))
    record.show(rows)
    record.write(args.out, device, rows, images=args.images, momentum=MOMENTUM)


if __name__ == "__main__":
    main()
