"""Time a prune step and the enforcement of hard filters against training itself.

One process: training steps of the network take turns with what the pruner adds to them, so that the ratios hold when
the machine's speed drifts.

    python benchmarks/prune_step.py                     # ResNet-50 on this machine
    python benchmarks/prune_step.py --device cuda --batch-size 64 --out benchmarks/results/prune_step_gpu.json
"""

import argparse
import statistics
from pathlib import Path

import record
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmkdprune.pruning import WeightPruner, make_pruner

ITERATIONS = 100  # of the epoch that a prune step is compared with
CASES = {
    # case: method and arguments of the pruner
    "ghfp-asrfp": ("ghfp-asrfp", {}),
    "ghfp-asrfp, group": ("ghfp-asrfp", {"coupling": "group"}),
    "fpgm": ("fpgm", {}),
    "weights, ghfp-asrfp": ("ghfp-asrfp", {"pruner": WeightPruner}),
}


def measure(depth: int, batch_size: int, size: int, rounds: int, device: torch.device) -> list[dict]:
    """Measure all cases in turns with training steps of one network."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    network = MODELS.build({"type": "ResNet", "depth": depth}).to(device)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(batch_size, 3, size, size, device=device)

    def train() -> None:
        optimizer.zero_grad()
        network(images)[-1].square().mean().backward()
        optimizer.step()

    train()
    pruners = {case: make_pruner(network, method, 0.4, **options) for case, (method, options) in CASES.items()}
    times: dict[str, dict[str, list[float]]] = {case: {"train": [], "step": [], "enforce": []} for case in pruners}
    for _ in range(rounds):
        for case, pruner in pruners.items():
            times[case]["train"].append(record.seconds(train, device))
            # late in the schedules: all of the rate is masked, nearly all of it hard
            times[case]["step"].append(record.seconds(lambda pruner=pruner: pruner.step(89, 100), device))
            times[case]["enforce"].append(record.seconds(lambda pruner=pruner: pruner.enforce(optimizer), device))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    rows = []
    for case, pruner in pruners.items():
        step, enforce, plain = (statistics.median(times[case][name]) for name in ("step", "enforce", "train"))
        masks = sum(mask.numel() for unit in pruner.units for mask in (unit.pruned, unit.hard))
        rows.append(
            {
                "case": case,
                "train_ms": round(1e3 * plain, 1),
                "step_ms": round(1e3 * step, 1),
                "enforce_ms": round(1e3 * enforce, 1),
                "step_over_epoch": round(step / (ITERATIONS * plain), 6),
                "enforce_over_train": round(enforce / plain, 5),
                "state_over_weights": round(masks / weights, 5),
            }
        )
    return rows


def main() -> None:
    """Run the cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    device = torch.device(args.device)
    rows = measure(args.depth, args.batch_size, args.size, args.rounds, device)
    record.show(rows)
    record.write(args.out, device, rows, network=f"ResNet-{args.depth}, {args.batch_size} images of {args.size} px")


if __name__ == "__main__":
    main()
