"""Write the table of backbones that can be compacted: how much goes, and that what is left computes the same.

    python benchmarks/compactable_backbones.py                     # all: compactable_backbones.json and compaction.md
    python benchmarks/compactable_backbones.py --only ResNet-18    # prints the row, writes nothing

Every network is built at its full size with random weights and random BatchNorm statistics, pruned at rate 0.4 with
masks for single layers (independent) and for coupled layers (group), and compacted.
"""

import argparse
import copy
import json
import warnings
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkdprune.pruning import compact, complexity, make_pruner

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = DOCS / "compactable_backbones.json", DOCS / "compaction.md"
START, END = "<!-- backbones: begin -->", "<!-- backbones: end -->"
RATE = 0.4
SINGLE, ALL = "inside blocks", "everything that is masked"
_CONVNEXT = {"type": "ConvNeXt", "arch": "tiny", "linear_pw_conv": False}
# title: (config, image size, arguments of the pruner, what goes with independent masks, with group masks)
BACKBONES: dict[str, tuple[dict, int, dict, str, str]] = {
    "ResNet-18": ({"type": "ResNet", "depth": 18}, 64, {}, SINGLE, ALL),
    "ResNet-34": ({"type": "ResNet", "depth": 34}, 64, {}, SINGLE, ALL),
    "ResNet-50": ({"type": "ResNet", "depth": 50}, 64, {}, SINGLE, ALL),
    "ResNet-101": ({"type": "ResNet", "depth": 101}, 64, {}, SINGLE, ALL),
    "ResNet_CIFAR-18": ({"type": "ResNet_CIFAR", "depth": 18}, 32, {}, SINGLE, ALL),
    "SEResNet-50": ({"type": "SEResNet", "depth": 50}, 64, {}, SINGLE, ALL),
    "ResNeXt-50": (
        {"type": "ResNeXt", "depth": 50}, 64, {},
        "equally many channels of every group", "the residual stream; grouped convolutions are not masked",
    ),
    "VGG-16": ({"type": "VGG", "depth": 16}, 64, {}, ALL, ALL),
    "VGG-16-BN": ({"type": "VGG", "depth": 16, "norm_cfg": {"type": "BN"}}, 64, {}, ALL, ALL),
    "MobileNetV2": ({"type": "MobileNetV2"}, 64, {}, "expanded channels", ALL),
    "MobileNetV3-small": ({"type": "MobileNetV3", "arch": "small"}, 64, {}, "expanded channels", ALL),
    "MobileNetV3-large": ({"type": "MobileNetV3", "arch": "large"}, 64, {}, "expanded channels", ALL),
    "EfficientNet-B0": ({"type": "EfficientNet", "arch": "b0"}, 64, {}, "expanded channels", ALL),
    "RegNetX-400MF": (
        {"type": "RegNet", "arch": "regnetx_400mf"}, 64, {},
        "equally many channels of every group", "the residual stream; grouped convolutions are not masked",
    ),
    "RepVGG-A0": (
        {"type": "RepVGG", "arch": "A0"}, 64, {}, "channels that both branches happen to lack", ALL,
    ),
    "HRNet-W18": ({"type": "HRNet", "arch": "w18"}, 64, {}, SINGLE, ALL),
    "ConvNeXt-tiny": (
        _CONVNEXT, 64, {"include": "pointwise_conv1"}, "hidden units; LayerNorm keeps the stream", "the same",
    ),
    "DenseNet-121": ({"type": "DenseNet", "arch": "121"}, 64, {}, ALL, ALL),
    "CifarResNet-56": ({"type": "mmkdprune.CifarResNet", "depth": 56}, 32, {}, SINGLE, ALL),
    "CifarResNet-56, padded shortcuts": (
        {"type": "mmkdprune.CifarResNet", "depth": 56, "shortcut": "pad"}, 32, {},
        SINGLE, "inside blocks; padding keeps the stream",
    ),
    "CifarWideResNet-40-2": (
        {"type": "mmkdprune.CifarWideResNet", "depth": 40, "widen_factor": 2}, 32, {}, SINGLE, ALL,
    ),
    "CifarVGG-13": ({"type": "mmkdprune.CifarVGG", "depth": 13}, 32, {}, ALL, ALL),
    "CifarMobileNetV2": ({"type": "mmkdprune.CifarMobileNetV2"}, 32, {}, "expanded channels", ALL),
    "CifarShuffleNetV1": (
        {"type": "mmkdprune.CifarShuffleNetV1"}, 32, {}, "equally many channels of every group, first unit only", "",
    ),
    "CifarShuffleNetV2": (
        {"type": "mmkdprune.CifarShuffleNetV2"}, 32, {},
        "inside units and after the stages; shuffling keeps the stream", "the same",
    ),
}  # fmt: skip


class Classifier(nn.Module):
    """A backbone, pooling and a linear layer: what is behind the last stage counts."""

    def __init__(self, backbone: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        for module in backbone.modules():
            module.training = False
        with torch.no_grad():
            channels = self._last(torch.zeros(1, 3, size, size)).shape[1]
        self.fc = nn.Linear(channels, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W) to (N, 10)."""
        last = self._last(images)
        return self.fc(last.mean((2, 3)) if last.ndim == 4 else last)

    def _last(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.backbone(images)
        return maps[-1] if isinstance(maps, (tuple, list)) else maps


def random_statistics(network: nn.Module, seed: int = 0) -> None:
    """Scales, shifts and statistics as training leaves them behind, so that nothing is exact by chance."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(scale := getattr(module, "gamma", None), nn.Parameter):  # ConvNeXt's branches begin near zero
            scale.data.copy_(0.5 + torch.rand(scale.shape, generator=generator))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors = (module.weight.data, module.bias.data, module.running_mean, module.running_var)
            for tensor, low in zip(tensors, (0.5, -0.5, -0.5, 0.5), strict=True):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))


def measure(title: str) -> dict:
    """Compact one backbone with masks of both kinds."""
    config, size, options, *_ = BACKBONES[title]
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    dense = Classifier(MODELS.build(copy.deepcopy(config)), size).eval()
    random_statistics(dense)
    row: dict = {"backbone": title, "image_size": size, **_counts(dense, size)}
    for coupling in ("independent", "group"):
        model = copy.deepcopy(dense)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pruner = make_pruner(model, "hfp", RATE, coupling=coupling, **options)
            except ValueError:  # every group has a member that cannot be pruned
                row[coupling] = None
                continue
        pruner.finalize()
        small, plan = compact(model, (3, size, size))
        row[coupling] = {
            **_counts(small, size),
            "zero_filters_left": sum(number for number, _ in plan.left.values()),
            "error_float32": _error(model, small, size),
            "error_float64": plan.check["max_relative_error"],
        }
    return row


def _counts(network: nn.Module, size: int) -> dict:
    return {name: int(value) for name, value in complexity(network, (3, size, size), rounds=0).items()}


def _error(first: nn.Module, second: nn.Module, size: int) -> float:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = first(images), second(images)
    return float((one - other).abs().max() / one.abs().max())


def table(rows: list[dict]) -> str:
    """The Markdown table."""
    lines = [
        "| backbone | params, M | independent: params, M (MACs) | what goes | group: params, M (MACs) | what goes "
        "| largest error, float32 / float64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        *_, single, coupled = BACKBONES[row["backbone"]]
        cells = [row["backbone"], f"{row['params'] / 1e6:.2f}"]
        for name, what in (("independent", single), ("group", coupled)):
            small = row[name]
            cells.append(f"{small['params'] / 1e6:.2f} ({small['macs'] / row['macs']:.0%})" if small else "nothing")
            cells.append(what or "no group can be masked as a whole")
        errors = [
            max(row[name][f"error_{kind}"] for name in ("independent", "group") if row[name])
            for kind in ("float32", "float64")
        ]
        lines.append(f"| {' | '.join(cells)} | {errors[0]:.0e} / {errors[1]:.0e} |")
    return "\n".join(lines)


def page_with(text: str, rows: list[dict]) -> str:
    """The page with the table of these rows in it."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(rows)}\n{END}{after}"


def main() -> None:
    """Measure and write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(BACKBONES), help="one backbone; nothing is written")
    only = parser.parse_args().only
    rows = []
    for title in [only] if only else BACKBONES:
        rows.append(measure(title))
        print(json.dumps(rows[-1]), flush=True)
    if not only:
        record = {"command": "python benchmarks/compactable_backbones.py", "rate": RATE, "torch": torch.__version__}
        RESULTS.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
        PAGE.write_text(page_with(PAGE.read_text(), rows))


if __name__ == "__main__":
    main()
