"""Time compact networks against the dense ones they were made of, with PyTorch and with ONNX Runtime.

One process: the networks take turns, so that the ratios hold when the machine's speed drifts. On a CPU with one thread,
the processor's time counts, which other processes disturb least; else the time that passes.

    python benchmarks/compact_latency.py                                   # ResNet-18 and -50, VGG-16
    python benchmarks/compact_latency.py --networks resnet18 --rates 0.4 --rounds 3
    python benchmarks/compact_latency.py --device cuda --batch-sizes 1 32 128 --out benchmarks/results/NAME.json
"""

import argparse
import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import record
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mmkdprune.pruning import compact, complexity, make_pruner

NETWORKS = {
    "resnet18": {"type": "ResNet", "depth": 18},
    "resnet50": {"type": "ResNet", "depth": 50},
    "vgg16": {"type": "VGG", "depth": 16, "norm_cfg": {"type": "BN"}, "num_classes": -1},
}
# case: coupling of the masks, and whether ends of residual branches are scattered
CASES = {"group": ("group", False), "independent": ("independent", False), "scatter": ("independent", True)}


class Pooled(nn.Module):
    """A backbone and average pooling, so that the last stage may get narrower, too."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(images)[-1].mean((2, 3)))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = MODELS.build(copy.deepcopy(NETWORKS[name]))
    for module in backbone.modules():
        module.training = False
    with torch.no_grad():
        channels = backbone(torch.zeros(1, 3, 64, 64))[-1].shape[1]
    return Pooled(backbone, channels).eval()


def compacted(dense: nn.Module, rate: float, case: str, divisor: int, size: int) -> tuple[nn.Module, float, float]:
    """The compact network, seconds that took, and growth of memory over the model's own size."""
    coupling, scatter = CASES[case]
    pruned = copy.deepcopy(dense)
    make_pruner(pruned, "hfp", rate, coupling=coupling).finalize()
    weights = sum(value.numel() * value.element_size() for value in pruned.state_dict().values())
    before = record.forget_peak()
    start = time.perf_counter()
    small, _ = compact(pruned, (3, size, size), divisor=divisor, scatter=scatter)
    seconds = time.perf_counter() - start
    return small, seconds, (record.resident("VmHWM") - before) / weights


def torch_runner(network: nn.Module, images: torch.Tensor, layout: str) -> Callable[[], object]:
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = copy.deepcopy(network).to(images.device).to(memory_format=memory_format)
    images = images.contiguous(memory_format=memory_format)

    def run() -> None:
        with torch.no_grad():
            network(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def onnx_runner(network: nn.Module, images: torch.Tensor, folder: Path) -> Callable[[], object]:
    import onnxruntime

    from mmkdprune.deploy.onnx import export_onnx

    exported = export_onnx(network.cpu(), images.shape[1:], folder / "network.onnx", overwrite=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(exported.path.read_bytes(), options, providers=["CPUExecutionProvider"])
    array = images.cpu().numpy()
    return lambda: session.run(None, {"images": array})


def measure(name: str, args: argparse.Namespace, folder: Path) -> tuple[list[dict], list[dict]]:
    """Rows of latencies, and of what compaction itself took."""
    device = torch.device(args.device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    dense = build(name)
    networks: dict[tuple, nn.Module] = {("dense", 0.0): dense}
    costs = []
    for case in args.cases:
        for rate in args.rates:
            small, seconds, growth = compacted(dense, rate, case, args.divisor, args.size)
            networks[case, rate] = small
            costs.append(
                {"network": name, "case": case, "rate": rate, "seconds": round(seconds, 2), "memory": round(growth, 2)}
            )
    macs = {key: complexity(network, (3, args.size, args.size), rounds=0)["macs"] for key, network in networks.items()}
    rows = []
    for batch_size in args.batch_sizes:
        images = torch.randn(batch_size, 3, args.size, args.size, device=device)
        for kind in args.runtimes:
            runners = {
                key: onnx_runner(network, images, folder) if kind == "onnx" else torch_runner(network, images, kind)
                for key, network in networks.items()
            }
            times: dict[tuple, list[float]] = {key: [] for key in runners}
            for _ in range(args.rounds + 1):
                for key, run in runners.items():
                    start = clock()
                    run()
                    times[key].append(clock() - start)
            best = {key: min(values[1:]) for key, values in times.items()}  # the first pass warms up
            for key in networks:
                if key[0] != "dense":
                    speedup = best["dense", 0.0] / best[key]
                    ideal = macs["dense", 0.0] / macs[key]
                    rows.append(
                        {
                            "network": name,
                            "case": key[0],
                            "rate": key[1],
                            "batch": batch_size,
                            "runtime": kind,
                            "dense_ms": round(1e3 * best["dense", 0.0], 2),
                            "compact_ms": round(1e3 * best[key], 2),
                            "speedup": round(speedup, 2),
                            "ideal": round(ideal, 2),
                            "of_ideal": round(speedup / ideal, 2),
                        }
                    )
                    print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    return rows, costs


def main() -> None:
    """Run the cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["group"])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    runtimes = ["contiguous", "channels_last"]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        runtimes.append("onnx")
    parser.add_argument("--runtimes", nargs="+", choices=["contiguous", "channels_last", "onnx"], default=runtimes)
    parser.add_argument("--divisor", type=int, default=1, help="round kept channels up to a multiple of this")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    init_default_scope("mmpretrain")
    rows: list[dict] = []
    costs: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            for found, all_of_them in zip(measure(name, args, Path(folder)), (rows, costs), strict=True):
                all_of_them += found
    record.show(rows)
    record.show(costs)
    record.write(args.out, torch.device(args.device), rows, compaction=costs, size=args.size, divisor=args.divisor)


if __name__ == "__main__":
    main()
