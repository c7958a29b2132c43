"""Take the time of compact networks apart: which kinds of layers shrink by less than their arithmetic, and its cost.

    python benchmarks/compact_profile.py --networks resnet18 --rates 0.4 --runtimes channels_last onnx

The networks are those of ``compact_speedup.py``. PyTorch's profiler, or ONNX Runtime's, tells the time of each layer,
summed up by kind. `ideal` is the ratio of their multiply-accumulate operations, for what is no convolution or
linear layer that of the values that go in. `lost_%` is by how much more of the compact network's time a kind takes than
if it had shrunk as the whole network's arithmetic: what costs most is on top.
"""

import argparse
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
import torch
from compact_latency import NETWORKS, torch_runner
from compact_speedup import DENSE, OURS, networks_of
from mmengine.registry import init_default_scope
from torch import nn
from torch.autograd.profiler_util import FunctionEvent

from mmkdprune.deploy.onnx import export_onnx
from mmkdprune.engine.hooks.keep_memory_hook import keep_freed_memory

RUNTIMES = ("channels_last", "onnx")
# Parts of the names of operators, in PyTorch and in ONNX.
KINDS = {"pool": "pooling", "relu": "activation", "clamp": "activation", "add": "addition", "reorder": "layout"}


@dataclass
class Work:
    """What layers of a kind do in one pass.

    Attributes:
        seconds: Their time.
        amount: Multiply-accumulate operations, or values that go in.
    """

    seconds: float = 0.0
    amount: float = 0.0


def convolution(weight: Sequence[int]) -> str:
    """Name the kind of a convolution by the shape of its weight (C_out, C_in, H, W)."""
    return "first convolution" if weight[1] == 3 else f"{weight[2]}x{weight[3]} convolutions"


def kind_of(operator: str) -> str:
    """Name the kind of an operator that is no convolution."""
    name = operator.lower()
    if any(part in name for part in ("addmm", "gemm", "linear", "matmul")):
        return "linear"
    return next((kind for part, kind in KINDS.items() if part in name), "other")


def torch_work(network: nn.Module, images: torch.Tensor) -> dict[str, Work]:
    """Profile a pass of PyTorch, images and weights channels-last."""
    run = torch_runner(network, images, "channels_last")
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        run()
    work: dict[str, Work] = defaultdict(Work)
    convolutions = iter(convolution_work(network, images))
    for event in profile.events():
        if event.cpu_parent is None and event.cpu_time_total > 0:  # what an operator calls is part of its time
            if event.name == "aten::conv2d":
                kind, amount = next(convolutions)
            else:
                kind, amount = kind_of(event.name), values_in(event)
            work[kind].seconds += event.cpu_time_total / 1e6
            work[kind].amount += amount
    return work


def values_in(event: FunctionEvent) -> float:
    """Count the values of an operator's first input; of a linear layer, the operations of an image's row."""
    shapes = [shape for shape in event.input_shapes if shape]
    if kind_of(event.name) == "linear" and len(shapes) > 1:
        return math.prod(shapes[0]) * shapes[1][0]
    return math.prod(shapes[0]) if shapes else 0.0


def convolution_work(network: nn.Module, images: torch.Tensor) -> list[tuple[str, float]]:
    """Kind and multiply-accumulate operations of each convolution of a pass, in the order of their calls."""
    found: list[tuple[str, float]] = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        found.append((convolution(layer.weight.shape), output.numel() * math.prod(layer.weight.shape[1:])))

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def onnx_work(network: nn.Module, images: torch.Tensor) -> dict[str, Work]:
    """Profile a pass of ONNX Runtime, which has fused activations and additions into convolutions."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(network, images.shape[1:], Path(folder) / "network.onnx").path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, {"images": images.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    work: dict[str, Work] = defaultdict(Work)
    for event in nodes[len(nodes) // 2 :]:  # the first pass warms up
        inputs, outputs = (shapes(event["args"][f"{end}_type_shape"]) for end in ("input", "output"))
        operator = event["args"]["op_name"]
        if operator.endswith("Conv"):
            kind, amount = convolution(inputs[1]), math.prod(outputs[0]) * math.prod(inputs[1][1:])
        else:
            kind = kind_of(operator)
            amount = math.prod(outputs[0]) * inputs[0][-1] if kind == "linear" else math.prod(inputs[0])
        work[kind].seconds += event["dur"] / 1e6
        work[kind].amount += amount
    return work


def shapes(described: Iterable[dict[str, list[int]]]) -> list[list[int]]:
    """Read the shapes of ONNX Runtime's profile, ``[{'float': [32, 64, 56, 56]}, ...]``."""
    return [shape for one in described for shape in one.values()]


def median_work(profile: Callable[[nn.Module], dict[str, Work]], networks: dict, rounds: int) -> dict[Any, dict]:
    """Profile the networks in turns and take, kind by kind, the pass of median time."""
    passes: dict[Any, list[dict[str, Work]]] = {key: [] for key in networks}
    for _ in range(rounds):
        for key, network in networks.items():
            passes[key].append(profile(network))
    return {
        key: {
            kind: sorted((one[kind] for one in found), key=lambda work: work.seconds)[rounds // 2] for kind in found[0]
        }
        for key, found in passes.items()
    }


def rows_of(settings: dict[str, Any], dense: dict[str, Work], small: dict[str, Work]) -> list[dict[str, Any]]:
    """Compare two networks kind by kind; what loses most comes first."""
    multiplying = [kind for kind in dense if "convolution" in kind or kind == "linear"]
    ideal = sum(dense[kind].amount for kind in multiplying) / sum(small[kind].amount for kind in multiplying)
    total = sum(work.seconds for work in small.values())
    rows = []
    for kind in dense:
        before, after = dense[kind], small.get(kind, Work())
        lost = (after.seconds - before.seconds / ideal) / total
        if max(before.seconds / sum(work.seconds for work in dense.values()), after.seconds / total) < 0.005:
            continue
        row = {
            "kind": kind,
            "dense_ms": round(1e3 * before.seconds, 3),
            "compact_ms": round(1e3 * after.seconds, 3),
            "speedup": round(before.seconds / after.seconds, 2),
            "ideal": round(before.amount / after.amount, 2),
            "lost_%": round(100 * lost, 1),
        }
        if kind in multiplying:
            row["dense_gmacs"], row["compact_gmacs"] = (
                round(work.amount / work.seconds / 1e9, 1) for work in (before, after)
            )
        else:
            row["dense_gmacs"] = row["compact_gmacs"] = ""
        rows.append({**settings, **row})
    return sorted(rows, key=lambda row: -row["lost_%"])


def main() -> None:
    """Profile, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--round-to", type=int, default=8, help="widths are multiples of this (default: 8)")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    keep_freed_memory()
    init_default_scope("mmpretrain")
    images = torch.randn(args.batch_size, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    rows: list[dict] = []
    for name in args.networks:
        built = networks_of(name, args.rates, args.round_to, args.size)
        networks = {key: network for key, network in built.items() if key[0] in (DENSE, OURS)}
        for runtime in args.runtimes:
            profile = onnx_work if runtime == "onnx" else torch_work
            found = median_work(lambda network, profile=profile: profile(network, images), networks, args.rounds)
            for rate in args.rates:
                settings = {"network": name, "round_to": args.round_to, "rate": rate, "runtime": runtime}
                rows += rows_of(settings, found[DENSE, 0.0], found[OURS, rate])
    record.show(rows)
    record.write(args.out, torch.device("cpu"), rows, batch_size=args.batch_size, size=args.size)


if __name__ == "__main__":
    main()
