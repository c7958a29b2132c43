"""Time an optimizer's fused form against its default one, on the weights of real networks, in turns.

python benchmarks/optimizer_step.py
"""

import argparse
import statistics
from pathlib import Path

import record
import torch
import torchvision

OPTIMIZERS = {
    "SGD": dict(lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "AdamW": dict(lr=1e-5, weight_decay=0.05),
}


def measure(network: str, name: str, rounds: int, device: torch.device) -> dict:
    """Let both forms take turns on the same weights and gradients."""
    model = getattr(torchvision.models, network)().to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    forms = [getattr(torch.optim, name)(model.parameters(), fused=fused, **OPTIMIZERS[name]) for fused in (None, True)]
    times = [[record.seconds(form.step, device) for form in forms] for _ in range(rounds + 3)][3:]
    default, fused = zip(*times, strict=True)
    return {
        "network": network,
        "optimizer": name,
        "default_ms": round(1e3 * statistics.median(default), 2),
        "fused_ms": round(1e3 * statistics.median(fused), 2),
        "fused_speedup": round(statistics.median(a / b for a, b in times), 2),
    }


def main() -> None:
    """Measure all pairs, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2"], help="torchvision's names")
    parser.add_argument("--rounds", type=int, default=20, help="counted steps of each form")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    device = torch.device(args.device)
    rows = [measure(network, name, args.rounds, device) for network in args.networks for name in OPTIMIZERS]
    record.show(rows)
    record.write(args.out, device, rows)


if __name__ == "__main__":
    main()
