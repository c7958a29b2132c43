"""Write the table of backbones that can be distilled: how each splits into stages, and which methods train it.

    python benchmarks/distillable_backbones.py                     # all: distillable_backbones.json and backbones.md
    python benchmarks/distillable_backbones.py --only ResNet-18    # that row, the others stay

Every network is built at its full size with random weights and takes one step of each method on two images.
"""

import argparse
import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from mmkdprune.models.branches import find_stage_protocol, lowest_map
from mmkdprune.models.branches.traced_stages import TracedStages

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = DOCS / "distillable_backbones.json", DOCS / "backbones.md"
START, END = "<!-- backbones: begin -->", "<!-- backbones: end -->"
CLASSES = 10
METHODS: dict[str, dict] = {"MixSKD": {}, "HSAKD": {"phase": "teacher"}, "MCL": {}}
# What follows a stage and is copied, by the class that describes it.
COPIES = {
    "ResNetStages": "residual layers",
    "RegNetStages": "residual layers",
    "VGGStages": "blocks with their pooling; the first two blocks are one stage",
    "MobileNetV2Stages": "inverted residuals, last 1x1 convolution",
    "MobileNetV3Stages": "inverted residuals, last 1x1 convolution",
    "EfficientNetStages": "inverted residuals, last 1x1 convolution",
    "ShuffleNetV1Stages": "shuffle units; the stem is the first stage",
    "ShuffleNetV2Stages": "shuffle units, last 1x1 convolution; the stem is the first stage",
    "DenseNetStages": "transitions and dense blocks, last norm",
    "RepVGGStages": "blocks in the form for training",
    "HRNetStages": "transitions and modules of all resolutions, and the neck that fuses them",
    "ConvNeXtStages": "downsampling and blocks, last norm",
    "SwinTransformerStages": "patch merging and blocks, last norm",
    "StagedBackboneStages": "stages and tail",
}
_BN = {"type": "BN"}
_FUSE = {"type": "HRFuseScales", "in_channels": (18, 36, 72, 144)}
# title: (backbone, image size)
BACKBONES: dict[str, tuple[dict, int]] = {
    "ResNet-18": ({"type": "ResNet", "depth": 18}, 64),
    "ResNet-50": ({"type": "ResNet", "depth": 50}, 64),
    "ResNet_CIFAR-18": ({"type": "ResNet_CIFAR", "depth": 18}, 32),
    "ResNetV1d-50": ({"type": "ResNetV1d", "depth": 50}, 64),
    "ResNeXt-50": ({"type": "ResNeXt", "depth": 50}, 64),
    "SEResNet-50": ({"type": "SEResNet", "depth": 50}, 64),
    "ResNeSt-50": ({"type": "ResNeSt", "depth": 50}, 64),
    "Res2Net-50": ({"type": "Res2Net", "depth": 50, "scales": 4, "base_width": 26}, 64),
    "RegNetX-400MF": ({"type": "RegNet", "arch": "regnetx_400mf"}, 64),
    "VGG-11": ({"type": "VGG", "depth": 11}, 64),
    "VGG-16-BN": ({"type": "VGG", "depth": 16, "norm_cfg": _BN}, 64),
    "VGG-11 with its classifier": ({"type": "VGG", "depth": 11, "num_classes": CLASSES}, 224),
    "MobileNetV2": ({"type": "MobileNetV2"}, 64),
    "MobileNetV3-small": ({"type": "MobileNetV3", "arch": "small"}, 64),
    "MobileNetV3-large": ({"type": "MobileNetV3", "arch": "large"}, 64),
    "ShuffleNetV1": ({"type": "ShuffleNetV1"}, 64),
    "ShuffleNetV2": ({"type": "ShuffleNetV2"}, 64),
    "EfficientNet-B0": ({"type": "EfficientNet", "arch": "b0"}, 64),
    "EfficientNet-ES": ({"type": "EfficientNet", "arch": "es"}, 64),
    "DenseNet-121": ({"type": "DenseNet", "arch": "121"}, 64),
    "RepVGG-A0": ({"type": "RepVGG", "arch": "A0"}, 64),
    "HRNet-W18": ({"type": "HRNet", "arch": "w18"}, 64),
    "ConvNeXt-tiny": ({"type": "ConvNeXt", "arch": "tiny"}, 64),
    "ConvNeXtV2-atto": (
        {"type": "ConvNeXt", "arch": "atto", "use_grn": True, "layer_scale_init_value": 0.0}, 64,
    ),
    "Swin-tiny": ({"type": "SwinTransformer", "arch": "tiny"}, 224),
    "CifarResNet-20": ({"type": "mmkdprune.CifarResNet", "depth": 20}, 32),
    "CifarWideResNet-16-2": ({"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 2}, 32),
    "CifarVGG-13": ({"type": "mmkdprune.CifarVGG", "depth": 13}, 32),
    "CifarMobileNetV2": ({"type": "mmkdprune.CifarMobileNetV2"}, 32),
    "CifarShuffleNetV1": ({"type": "mmkdprune.CifarShuffleNetV1"}, 32),
    "CifarShuffleNetV2": ({"type": "mmkdprune.CifarShuffleNetV2"}, 32),
    "EfficientNetV2-S": ({"type": "EfficientNetV2", "arch": "s"}, 64),
    "MobileOne-S0": ({"type": "MobileOne", "arch": "s0"}, 64),
    "MobileViT-XXS": ({"type": "MobileViT", "arch": "xx_small"}, 64),
    "CSPDarkNet-53": ({"type": "CSPDarkNet", "depth": 53}, 64),
    "InceptionV3": ({"type": "InceptionV3", "num_classes": CLASSES, "aux_logits": False}, 160),
    "VAN-tiny": ({"type": "VAN", "arch": "tiny"}, 64),
    "PoolFormer-S12": ({"type": "PoolFormer", "arch": "s12", "out_indices": (6,)}, 64),
    "EdgeNeXt-XXS": ({"type": "EdgeNeXt", "arch": "xxsmall"}, 64),
    "HorNet-tiny": ({"type": "HorNet", "arch": "tiny"}, 64),
    "TinyViT-5M": ({"type": "TinyViT", "arch": "5m", "img_size": (224, 224)}, 224),
    "SwinV2-tiny": ({"type": "SwinTransformerV2", "arch": "tiny", "img_size": 256, "window_size": 8}, 256),
    "ConvMixer-768/32": ({"type": "ConvMixer", "arch": "768/32"}, 64),
    "MLP-Mixer-B/16": ({"type": "MlpMixer", "arch": "b"}, 224),
    "ViT-S/16": ({"type": "VisionTransformer", "arch": "deit-small"}, 224),
}  # fmt: skip


def built(title: str) -> nn.Module:
    """Build a backbone of the table."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(copy.deepcopy(BACKBONES[title][0]))


def describe(backbone: nn.Module) -> dict[str, Any]:
    """Say how a backbone splits: the class that describes it, and channels and stride after each stage."""
    try:
        protocol = find_stage_protocol(backbone)
    except ValueError as error:
        return {"split": None, "stages": [], "refused": str(error).split(", but ")[0]}
    stages = protocol.feature_shapes(backbone)
    if isinstance(protocol, TracedStages):  # knows the ratios between strides only
        nn.Module.eval(backbone)
        with torch.no_grad():
            taps = protocol.forward(backbone, torch.zeros(1, 3, 224, 224)).taps
        stages = [(lowest_map(tap).shape[1], round(224 / lowest_map(tap).shape[2])) for tap in taps]
    return {"split": type(protocol).__name__, "stages": [list(shape) for shape in stages]}


def classifier(title: str) -> dict[str, Any]:
    """The config of a classifier with this backbone, as MMPretrain's own configs make one."""
    config, size = BACKBONES[title]
    backbone = built(title)
    nn.Module.eval(backbone)
    with torch.no_grad():
        last = backbone(torch.zeros(1, 3, size, size))[-1]
    if config["type"] in ("VGG", "InceptionV3") and "num_classes" in config:
        return {"backbone": config, "head": {"type": "ClsHead"}}
    head = {"type": "LinearClsHead", "num_classes": CLASSES, "in_channels": last.shape[1]}
    neck: Any = {"type": "GlobalAveragePooling"} if last.ndim > 2 else None
    if last.ndim == 3:
        neck, head["in_channels"] = {**neck, "dim": 1}, last.shape[1]
    if config["type"] == "HRNet":
        neck, head["in_channels"] = [_FUSE, neck], 2048
    return {"backbone": config, "neck": neck, "head": head}


def measure(title: str) -> dict[str, Any]:
    """Take one step with each method."""
    MMLogger.get_current_instance().setLevel("ERROR")  # no report of initial weights
    row: dict[str, Any] = {"backbone": title, "params": _count(built(title)), **describe(built(title))}
    size = BACKBONES[title][1]
    for method, options in METHODS.items():
        torch.manual_seed(0)
        try:
            config = copy.deepcopy({"type": f"mmkdprune.{method}", **classifier(title), **options})
            with DefaultScope.overwrite_default_scope("mmpretrain"):
                model = MODELS.build(config)
            model.init_weights()
            nn.Module.train(model)
            samples = [DataSample().set_gt_label(1) for _ in range(2)]
            losses = model(torch.randn(2, 3, size, size), samples, mode="loss")
            sum(losses.values()).backward()
            row[method] = bool(torch.stack(list(losses.values())).isfinite().all())
        except ValueError as error:
            row[method] = False
            row.setdefault("errors", {})[method] = str(error)
            continue
        if hasattr(model, "branches"):
            row[f"{method}_branches"] = _count(model.branches)
    return row


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(rows: list[dict]) -> str:
    """The Markdown table."""
    lines = [
        "| backbone | channels (stride) after each stage | a branch copies | MixSKD | HSAKD, HSSAKD | MCL "
        "| backbone, M | branches of MixSKD / HSAKD, M |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        native = row["split"] in COPIES
        copies = COPIES[row["split"]] if native else "nothing: 3x3 convolutions" if row["split"] else "nothing: refused"
        stages = ", ".join(f"{channels} ({stride})" for channels, stride in row["stages"]) or "-"
        methods = [("yes" if native or method == "MCL" else "conv") if row[method] else "no" for method in METHODS]
        sizes = [f"{row[key] / 1e6:.1f}" if key in row else "-" for key in ("MixSKD_branches", "HSAKD_branches")]
        cells = [row["backbone"], stages, copies, *methods, f"{row['params'] / 1e6:.1f}", " / ".join(sizes)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page_with(text: str, rows: list[dict]) -> str:
    """The page with the table of these rows in it."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(rows)}\n{END}{after}"


def main() -> None:
    """Measure and write; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BACKBONES), help="some backbones; the other rows stay")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    recorded = json.loads(RESULTS.read_text())["rows"] if only else []
    rows = {row["backbone"]: row for row in recorded}
    for title in only or BACKBONES:
        rows[title] = measure(title)
        print(json.dumps(rows[title]), flush=True)
        record = {"command": "python benchmarks/distillable_backbones.py", "torch": torch.__version__}
        kept = [rows[name] for name in BACKBONES if name in rows]
        RESULTS.write_text(json.dumps({**record, "rows": kept}, indent=1) + "\n")
        PAGE.write_text(page_with(PAGE.read_text(), kept))


if __name__ == "__main__":
    main()
