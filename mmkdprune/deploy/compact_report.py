"""What a compaction brought: measured, as Markdown, JSON and bars."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmkdprune.hardware import hardware
from mmkdprune.pruning import Plan, complexity
from mmkdprune.pruning.budget import ROUND_TO
from mmkdprune.pruning.complexity import pass_seconds
from mmkdprune.pruning.forward import run_deployable
from mmkdprune.pruning.modes import evaluating

# quantity: title, unit, divisor, decimals
QUANTITIES = {
    "macs": ("MACs", "M", 1e6, 2),
    "params": ("parameters", "M", 1e6, 3),
    "file_bytes": ("file", "kB", 1e3, 1),
    "latency_ms": ("latency", "ms", 1, 2),
}


class Deployed(nn.Module):
    """A model that is called as compaction runs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        """Run the model on images (N, C, H, W)."""
        return run_deployable(self.model, images)


def measure(
    dense: nn.Module,
    small: nn.Module,
    image_shape: Sequence[int],
    file_bytes: tuple[int, int],
    rounds: int = 30,
    batch_size: int = 1,
) -> dict[str, dict[str, float]]:
    """Count and time both networks, taking turns so that the ratio holds when the machine's speed drifts.

    Args:
        dense: The pruned network.
        small: The compact one.
        image_shape: (C, H, W).
        file_bytes: Sizes of the two checkpoints.
        rounds: Timed passes of each; the fastest counts, which other processes disturb least.
        batch_size: Images in a pass.

    Returns:
        ``dense`` and ``compact``: ``macs`` of one image, ``params``, ``file_bytes``, ``latency_ms`` of a batch.
    """
    networks = {"dense": Deployed(dense), "compact": Deployed(small)}
    results: dict[str, dict[str, float]] = {
        name: {**complexity(network, image_shape, rounds=0), "file_bytes": size}
        for (name, network), size in zip(networks.items(), file_bytes, strict=True)
    }
    images = next(dense.parameters()).new_zeros((batch_size, *image_shape))
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad(), evaluating(networks["dense"]), evaluating(networks["compact"]):
        for _ in range(rounds):
            for name, network in networks.items():
                times[name].append(1e3 * pass_seconds(network, images))
    for name, measured in times.items():
        results[name]["latency_ms"] = min(measured)
    return results


def compaction_report(
    measured: Mapping[str, Mapping[str, float]], plan: Plan, image_shape: Sequence[int], **facts: Any
) -> dict[str, Any]:
    """Put a report together.

    Args:
        measured: See :func:`measure`.
        plan: What was kept.
        image_shape: (C, H, W).
        **facts: More to note: ``source``, ``batch_size``.
    """
    layers = {
        name: {"before": entry["out"]["of"], "after": len(entry["out"]["kept"])}
        for name, entry in plan.layers.items()
        if "out" in entry
    }
    return {
        **facts,
        "network": plan.network,
        "image_shape": list(image_shape),
        "hardware": hardware(torch.device("cpu")),
        "torch": torch.__version__,
        "divisor": plan.divisor,
        "check": plan.check,
        **{name: dict(values) for name, values in measured.items()},
        "layers": layers,
        "left": {name: list(entry) for name, entry in plan.left.items()},
    }


def table(report: Mapping[str, Any], more: Mapping[str, tuple[str, str]] | None = None) -> str:
    """Markdown table of dense and compact network.

    Args:
        report: See :func:`compaction_report`.
        more: Rows to put in front: (dense, compact) by title.
    """
    lines = ["| | dense | compact | compact / dense |", "|---|---|---|---|"]
    lines += [f"| {title} | {first} | {second} | |" for title, (first, second) in (more or {}).items()]
    for name, (title, unit, scale, decimals) in QUANTITIES.items():
        dense, small = report["dense"][name], report["compact"][name]
        values = " | ".join(f"{value / scale:.{decimals}f} {unit}" for value in (dense, small))
        lines.append(f"| {title} | {values} | {small / dense:.2f} |")
    return "\n".join(lines)


def error_line(check: Mapping[str, Any]) -> str:
    """What the comparison of the two networks gave, in words."""
    if not check:
        return "not compared with the dense network (--no-check)"
    sizes = " and ".join(f"{height}x{width}" for height, width in check["sizes"])
    return f"largest relative error {check['max_relative_error']:.1e} on random images of {sizes} px"


def odd_widths_line(report: Mapping[str, Any]) -> str:
    """Name layers whose widths kernels do not like, and what to do about it; empty where there are none.

    Args:
        report: See :func:`compaction_report`.
    """
    layers = report["layers"]
    odd = {name: row["after"] for name, row in layers.items() if row["after"] % ROUND_TO}
    if not odd:
        return ""
    name, width = next(iter(odd.items()))
    return (
        f"{len(odd)} of {len(layers)} narrower layers have widths that are no multiple of {ROUND_TO} ({name}: "
        f"{width}, ...), on which kernels lose time: prune with round_to={ROUND_TO} (a target does), or compact with "
        f"--divisor {ROUND_TO}, which keeps some zero channels"
    )


def markdown(report: Mapping[str, Any], snippets: Mapping[str, str]) -> str:
    """The whole report as text."""
    channels, height, width = report["image_shape"]
    lines = [
        f"# Compact {report['network']}",
        "",
        f"From `{report['source']}`; {error_line(report['check'])}.",
        "",
        table(report),
        *(["", f"{odd}."] if (odd := odd_widths_line(report)) else []),
        "",
        f"MACs and latency: images of {channels}x{height}x{width}, batch {report['batch_size']}, {report['hardware']}, "
        f"torch {report['torch']}.",
        "",
        "## Use it",
        "",
        "`config.py` fine-tunes and tests the network. In other configs:",
        "",
    ]
    for package, text in snippets.items():
        lines += [f"{package}:", "", "```python", text, "```", ""]
    lines += ["## Channels", "", "| layer | before | after |", "|---|---|---|"]
    lines += [f"| {name} | {row['before']} | {row['after']} |" for name, row in report["layers"].items()]
    if report["left"]:
        lines += ["", "## Zero filters that stay", "", "| layer | filters | why |", "|---|---|---|"]
        lines += [f"| {name} | {number} | {reason} |" for name, (number, reason) in report["left"].items()]
    return "\n".join(lines) + "\n"


def bars(report: Mapping[str, Any]) -> bytes:
    """PNG: what is left of each quantity, and of the channels of each layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = report["layers"]
    height = max(2.5, min(0.16 * len(layers), 20.0))
    figure = Figure(figsize=(9, 3.5 + height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(2.5, height + 1))
    titles = [title for title, *_ in QUANTITIES.values()]
    shares = [report["compact"][name] / report["dense"][name] for name in QUANTITIES]
    above.barh(titles, shares, color="tab:green")
    for index, (name, share) in enumerate(zip(QUANTITIES, shares, strict=True)):
        _, unit, scale, decimals = QUANTITIES[name]
        dense, small = (f"{report[key][name] / scale:.{decimals}f}" for key in ("dense", "compact"))
        above.text(share + 0.01, index, f"{dense} → {small} {unit}", va="center", fontsize=8)
    above.set_title(f"{report['network']}, compact: what is left of the dense network", loc="left", fontsize=10)
    names = list(layers)
    every = max(1, len(names) // 60)
    below.barh(names, [row["after"] / row["before"] for row in layers.values()], color="tab:blue", height=0.8)
    below.set_yticks(range(0, len(names), every), names[::every], fontsize=7)
    below.set_xlabel("share of channels kept, first layer on top")
    for axes in (above, below):
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3)
        axes.grid(axis="x", alpha=0.3)
    with io.BytesIO() as buffer:
        canvas.print_png(buffer)
        return buffer.getvalue()
