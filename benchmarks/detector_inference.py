"""Time detectors with compact backbones against the dense ones, from the image to the boxes.

One process: the detectors take turns. On a CPU with one thread the processor's time counts, which other processes
disturb least; else the time that passes. Operations are counted by PyTorch while the detector runs, those of its heads
included.

    OMP_NUM_THREADS=1 python benchmarks/detector_inference.py
    python benchmarks/detector_inference.py --detectors retinanet_r18 --rates 0.4 --size 256
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import record
import torch
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmkdprune.compat.versions import require
from mmkdprune.deploy.compact_folder import PrunedNetwork, compact_network
from mmkdprune.pruning import make_pruner

DETECTORS = {
    "retinanet_r18": "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
    "retinanet_r50": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "faster-rcnn_r50": "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
}


def build(name: str) -> tuple[nn.Module, dict]:
    from mmdet.registry import MODELS

    settings = get_config(DETECTORS[name]).model
    settings.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(settings)).eval()
    return model, settings


def compacted(dense: nn.Module, settings: dict, rate: float, size: int) -> nn.Module:
    pruned = copy.deepcopy(dense)
    make_pruner(pruned, "hfp", rate, coupling="group").finalize()
    network = PrunedNetwork(pruned, copy.deepcopy(settings), "mmdet", (3, size, size), "detector")
    return compact_network(network).network.eval()


def detection(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    from mmdet.structures import DetDataSample

    shape = tuple(images.shape[2:])
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
    samples = [DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)}) for _ in images]

    def run() -> None:
        with torch.no_grad():
            model(images, copy.deepcopy(samples), mode="predict")

    return run


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def measure(name: str, args: argparse.Namespace) -> list[dict]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    dense, settings = build(name)
    detectors = {0.0: dense} | {rate: compacted(dense, settings, rate, args.size) for rate in args.rates}
    images = torch.randn(1, 3, args.size, args.size)
    runs = {rate: detection(model, images) for rate, model in detectors.items()}
    with torch.no_grad():
        of_backbone = {rate: operations(lambda m=model: m.backbone(images)) for rate, model in detectors.items()}
    of_all = {rate: operations(run) for rate, run in runs.items()}
    times: dict[float, list[float]] = {rate: [] for rate in runs}
    for _ in range(args.rounds + 1):  # the first turn warms up
        for rate, run in runs.items():
            start = clock()
            run()
            times[rate].append(clock() - start)
    best = {rate: min(values[1:]) for rate, values in times.items()}
    share = of_backbone[0.0] / of_all[0.0]
    rows = []
    for rate in args.rates:
        expected = 1 / (1 - share * (1 - of_backbone[rate] / of_backbone[0.0]))
        speedup = best[0.0] / best[rate]
        rows.append(
            {
                "detector": name,
                "rate": rate,
                "backbone_share": round(share, 2),
                "backbone_left": round(of_backbone[rate] / of_backbone[0.0], 2),
                "dense_ms": round(1e3 * best[0.0], 1),
                "compact_ms": round(1e3 * best[rate], 1),
                "speedup": round(speedup, 2),
                "expected": round(expected, 2),
                "of_expected": round(speedup / expected, 2),
            }
        )
        print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    return rows


def main() -> None:
    """Run the cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=list(DETECTORS), default=list(DETECTORS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--size", type=int, default=416, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    mmdet = require("mmdet")
    require("mmdet.utils").register_all_modules(init_default_scope=False)
    rows: list[dict] = []
    with DefaultScope.overwrite_default_scope("mmdet"):
        for name in args.detectors:
            rows += measure(name, args)
    record.show(rows)
    record.write(args.out, torch.device("cpu"), rows, size=args.size, mmdet=mmdet.__version__)


if __name__ == "__main__":
    main()
