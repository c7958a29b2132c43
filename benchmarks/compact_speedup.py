"""Measure which share of the saved arithmetic becomes time, beside Torch-Pruning's network of the same widths.

    python benchmarks/compact_speedup.py --out benchmarks/results/compact_speedup_cpu.json    # repeat it to go on
    python benchmarks/compact_speedup.py --networks resnet18 --rates 0.5 --rounds 3

Dense networks and compact ones, with their BatchNorms folded into the convolutions, take turns in one process: in every
round each computes one batch. A row's `speedup` is the median of the rounds' ratios, `ideal` the ratio of the
multiply-accumulate operations of the networks as they are, widths rounded; `of_ideal` is the first over the second. On
one CPU thread the processor's time counts, which other processes disturb least, else the time that passes.
Where the time is: python benchmarks/compact_profile.py
"""

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import record
import torch
from compact_latency import NETWORKS, build, onnx_runner, torch_runner
from mmcv.cnn import fuse_conv_bn
from mmengine.registry import init_default_scope
from quiet import keep_quiet
from torch import nn

from mmkdprune.engine.hooks.keep_memory_hook import keep_freed_memory
from mmkdprune.pruning import compact, complexity, make_pruner

RUNTIMES = ("channels_last", "onnx", "contiguous")
DENSE, OURS, THEIRS = "dense", "compact", "torch_pruning"
TOLERANCE = 1e-3  # relative, of folding in float32


def compacted(dense: nn.Module, rate: float, round_to: int, size: int) -> nn.Module:
    """Prune whole stages by magnitude and remove the filters."""
    pruned = copy.deepcopy(dense)
    make_pruner(pruned, "hfp", rate, coupling="group", round_to=round_to).finalize()
    return compact(pruned, (3, size, size))[0]


def torch_pruning_network(dense: nn.Module, widths: Mapping[str, int], size: int) -> nn.Module:
    """Let Torch-Pruning remove as many filters, those of smallest magnitude.

    Args:
        dense: The network.
        widths: Filters that each convolution keeps, by name.
        size: Of the images, in pixels.

    Returns:
        A network of these widths.

    Raises:
        ValueError: It came out with others.
    """
    import torch_pruning

    network = copy.deepcopy(dense)
    graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=torch.randn(1, 3, size, size))
    for name, layer in network.named_modules():
        surplus = layer.out_channels - widths[name] if isinstance(layer, nn.Conv2d) else 0
        if surplus:  # else it went with a layer before it
            norms = layer.weight.detach().flatten(1).norm(dim=1)
            weakest = norms.argsort()[:surplus].tolist()
            graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=weakest).prune()
    if widths_of(network) != dict(widths):
        raise ValueError("Torch-Pruning's network has other widths")
    return network


def widths_of(network: nn.Module) -> dict[str, int]:
    """Filters of each convolution, by name."""
    return {name: layer.out_channels for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def folded(network: nn.Module) -> nn.Module:
    """Return a copy with the BatchNorms in the convolutions, which gives the same outputs."""
    images = torch.randn(2, 3, 64, 64)
    result = fuse_conv_bn(copy.deepcopy(network)).eval()
    with torch.no_grad():
        expected, found = network(images), result(images)
    left = [name for name, layer in result.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    difference = float((found - expected).abs().max() / expected.abs().max())
    if left or difference > TOLERANCE:
        raise ValueError(f"folding BatchNorms failed: {left or difference}")
    return result


def networks_of(
    name: str, rates: list[float], round_to: int, size: int, theirs: bool = False
) -> dict[tuple[str, float], nn.Module]:
    """Build the dense network and, for each rate, the compact one (and Torch-Pruning's); BatchNorms are folded."""
    dense = build(name)
    networks = {(DENSE, 0.0): dense}
    for rate in rates:
        ours = networks[OURS, rate] = compacted(dense, rate, round_to, size)
        if theirs:
            networks[THEIRS, rate] = torch_pruning_network(dense, widths_of(ours), size)
    return {key: folded(network) for key, network in networks.items()}


def clock() -> Callable[[], float]:
    """Choose what is counted; see the module's docstring."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def take_turns(runners: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, list[float]]:
    """Time all runners once a round, in seconds; a first round warms up."""
    now = clock()
    times: dict[Any, list[float]] = {key: [] for key in runners}
    for turn in range(rounds + 1):
        for key, run in runners.items():
            start = now()
            run()
            if turn:
                times[key].append(now() - start)
    return times


def measure(name: str, networks: dict, runtime: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one network in one runtime, one row a rate."""
    images = torch.randn(args.batch_size, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            key: onnx_runner(network, images, Path(folder))
            if runtime == "onnx"
            else torch_runner(network, images, runtime)
            for key, network in networks.items()
        }
        times = take_turns(runners, args.rounds)
    macs = {key: complexity(network, (3, args.size, args.size), rounds=0)["macs"] for key, network in networks.items()}
    rows = []
    for rate in args.rates:
        ratios = speedups(times, OURS, rate)
        speedup, ideal = statistics.median(ratios), macs[DENSE, 0.0] / macs[OURS, rate]
        theirs: float | str = "not timed"
        if (THEIRS, rate) in times:
            theirs = round(statistics.median(speedups(times, THEIRS, rate)) / ideal, 2)
        rows.append(
            {
                "network": name,
                "round_to": args.round_to,
                "rate": rate,
                "runtime": runtime,
                "dense_ms": round(1e3 * statistics.median(times[DENSE, 0.0]), 1),
                "compact_ms": round(1e3 * statistics.median(times[OURS, rate]), 1),
                "speedup": round(speedup, 2),
                "spread_%": round(100 * (max(ratios) - min(ratios)) / speedup, 1),
                "ideal": round(ideal, 2),
                "of_ideal": round(speedup / ideal, 2),
                "torch_pruning_of_ideal": theirs,
            }
        )
    return rows


def speedups(times: Mapping[Any, list[float]], kind: str, rate: float) -> list[float]:
    """Dense over small, round by round."""
    return [dense / small for dense, small in zip(times[DENSE, 0.0], times[kind, rate], strict=True)]


def earlier_rows(out: Path | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the rows that are measured already; a file with other settings ends the program."""
    if out is None or not out.exists():
        return []
    content = json.loads(out.read_text())
    found = {name: content.get(name) for name in settings}
    if found != dict(settings):
        sys.exit(f"error: {out} has rows of other settings ({found}, not {dict(settings)}): choose another --out")
    return content["rows"]


def main() -> None:
    """Measure what is not measured yet; the file is written after each network and runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--round-to", type=int, default=8, help="widths are multiples of this (default: 8)")
    runtimes = [name for name in RUNTIMES if name != "onnx" or importlib.util.find_spec("onnxruntime")]
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=runtimes)
    parser.add_argument("--without-torch-pruning", action="store_true", help="also skipped where it is not installed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--out", type=Path, help="JSON file; rows that it has are not measured again")
    args = parser.parse_args()
    settings = {"batch_size": args.batch_size, "size": args.size}
    rows = earlier_rows(args.out, settings)
    keep_quiet()
    keep_freed_memory()  # as ONNX Runtime does; else PyTorch waits for pages, which shrink with the width only
    init_default_scope("mmpretrain")
    theirs = not args.without_torch_pruning and importlib.util.find_spec("torch_pruning") is not None
    for name in args.networks:
        done = {(row["network"], row["round_to"], row["runtime"], row["rate"]) for row in rows}
        left = [
            runtime
            for runtime in args.runtimes
            if any((name, args.round_to, runtime, rate) not in done for rate in args.rates)
        ]
        networks = networks_of(name, args.rates, args.round_to, args.size, theirs) if left else {}
        for runtime in left:
            rows += measure(name, networks, runtime, args)
            record.show(rows[-len(args.rates) :])
            record.write(args.out, torch.device("cpu"), rows, **settings)


if __name__ == "__main__":
    main()
