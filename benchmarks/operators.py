"""Time the operators that stand in for MMCV's beside those of compiled MMCV, in turns.

Needs an environment with compiled MMCV. On a CPU with one thread the processor's time counts, which other processes
disturb least; else the time that passes. Sizes are those of a detector on an image of 800 x 1333 pixels.

    OMP_NUM_THREADS=1 python benchmarks/operators.py
    python benchmarks/operators.py --operators nms roi_align --rounds 30
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mmcv
import record
import torch
from torch import Tensor

from mmkdprune.compat.operators import OPERATORS

Calls = tuple[Callable[..., object], Callable[..., object]]
# name of an operator: calls to make with it, each given the operator's function
Case = Callable[[torch.device], Callable[[Callable[[str], Callable[..., object]]], None]]


def boxes(count: int, spread: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes around a tenth as many objects, as a detector finds them, and their scores."""
    generator = torch.Generator().manual_seed(0)
    objects = torch.rand(count // 10, 2, generator=generator) * spread
    corner = objects[torch.arange(count) % len(objects)] + 12 * torch.randn(count, 2, generator=generator)
    size = 40 + 12 * torch.randn(count, 2, generator=generator).abs()
    return torch.cat((corner, corner + size), dim=1).to(device), torch.rand(count, generator=generator).to(device)


def nms(device: torch.device) -> Callable:
    found, scores = boxes(2000, 1000, device)
    return lambda get: get("nms")(found, scores, iou_threshold=0.7, offset=0)


def softnms(method: int) -> Case:
    def case(device: torch.device) -> Callable:
        found, scores = boxes(1000, 1000, torch.device("cpu"))
        settings = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.05, "method": method, "offset": 0}
        return lambda get: get("softnms")(found, scores, torch.empty(1000, 5), **settings)

    return case


def nms_match(device: torch.device) -> Callable:
    dets = torch.cat([each.view(1000, -1) for each in boxes(1000, 1000, torch.device("cpu"))], dim=1)
    return lambda get: get("nms_match")(dets, iou_threshold=0.7)


def bbox_overlaps(device: torch.device) -> Callable:
    anchors, truth = boxes(20000, 1000, device)[0], boxes(50, 1000, device)[0]
    ious = torch.zeros(50, 20000, device=device)
    return lambda get: get("bbox_overlaps")(truth, anchors, ious, mode=0, aligned=False, offset=0)


def roi_align(half: str, pool_mode: int, regions: int) -> Case:
    """One level of a pyramid: 256 channels, stride 8."""

    def case(device: torch.device) -> Callable:
        features = torch.randn(1, 256, 100, 168, device=device)
        found = torch.cat((torch.zeros(regions, 1, device=device), boxes(regions, 700, device)[0]), dim=1)
        output = torch.zeros(regions, 256, 7, 7, device=device)
        places = [torch.zeros_like(output) if pool_mode == 0 else features.new_zeros(0) for _ in "yx"]
        settings = {"aligned_height": 7, "aligned_width": 7, "spatial_scale": 1 / 8, "sampling_ratio": 0}
        settings |= {"pool_mode": pool_mode, "aligned": True}
        OPERATORS["roi_align_forward"](features, found, output, *places, **settings)
        if half == "forward":
            return lambda get: get("roi_align_forward")(features, found, output, *places, **settings)
        gradient = torch.zeros_like(features)
        return lambda get: get("roi_align_backward")(output, found, *places, gradient, **settings)

    return case


def deform_conv(half: str, modulated: bool) -> Case:
    """A 3 x 3 convolution of the third stage of ResNet-50: 256 channels, stride 16."""

    def case(device: torch.device) -> Callable:
        features = torch.randn(1, 256, 50, 84, device=device)
        weight = torch.randn(256, 256, 3, 3, device=device)
        offset, mask = torch.randn(1, 18, 50, 84, device=device), torch.rand(1, 9, 50, 84, device=device)
        output = torch.zeros_like(features)
        gradients = [torch.zeros_like(each) for each in (features, weight, features.new_zeros(256), offset, mask)]
        if modulated:
            axes = {"kernel": 3, "stride": 1, "pad": 1, "dilation": 1}
            settings = {f"{name}_{axis}": value for name, value in axes.items() for axis in "hw"}
            settings |= {"group": 1, "deformable_group": 1, "with_bias": True}
            bias, empty = torch.randn(256, device=device), features.new_zeros(0)
            shared = (features, weight, bias, empty, offset, mask)
            if half == "forward":
                return lambda get: get("modulated_deform_conv_forward")(*shared, output, empty, **settings)
            backward = "modulated_deform_conv_backward"
            return lambda get: get(backward)(*shared, empty, *gradients, output, **settings)
        axes = {"k": 3, "d": 1, "pad": 1, "dilation": 1}
        settings = {f"{name}{axis}": value for name, value in axes.items() for axis in "WH"}
        settings |= {"group": 1, "deformable_group": 1, "im2col_step": 1}

        def run(get: Callable) -> None:
            columns = features.new_zeros(0)
            if half == "forward":
                get("deform_conv_forward")(features, weight, offset, output, columns, columns, **settings)
                return
            by_input = (features, offset, output, gradients[0], gradients[3], weight, columns)
            get("deform_conv_backward_input")(*by_input, **settings)
            by_weight = (features, offset, output, gradients[1], columns, columns)
            get("deform_conv_backward_parameters")(*by_weight, scale=1, **settings)

        return run

    return case


def psamask(device: torch.device) -> Callable:
    maps, output = torch.randn(1, 59 * 59, 30, 30, device=device), torch.zeros(1, 900, 30, 30, device=device)
    settings = {"psa_type": 0, "num_": 1, "h_feature": 30, "w_feature": 30, "h_mask": 59, "w_mask": 59}
    settings |= {"half_h_mask": 29, "half_w_mask": 29}
    return lambda get: get("psamask_forward")(maps, output, **settings)


CASES: dict[str, Case] = {
    "nms, 2000 boxes": nms,
    "soft nms, linear, 1000 boxes": softnms(1),
    "soft nms, gaussian, 1000 boxes": softnms(2),
    "nms_match, 1000 boxes": nms_match,
    "bbox_overlaps, 50 x 20000": bbox_overlaps,
    "roi_align forward, 512 regions": roi_align("forward", 1, 512),
    "roi_align backward, 512 regions": roi_align("backward", 1, 512),
    "roi_align forward, 20 regions": roi_align("forward", 1, 20),
    "roi_align backward, 20 regions": roi_align("backward", 1, 20),
    "roi_align max forward, 100 regions": roi_align("forward", 0, 100),
    "roi_align max backward, 100 regions": roi_align("backward", 0, 100),
    "deform_conv forward": deform_conv("forward", modulated=False),
    "deform_conv backward": deform_conv("backward", modulated=False),
    "modulated_deform_conv forward": deform_conv("forward", modulated=True),
    "modulated_deform_conv backward": deform_conv("backward", modulated=True),
    "psamask forward, 30 x 30": psamask,
}


def measure(name: str, compiled: object, device: torch.device, args: argparse.Namespace) -> dict:
    """Let both take turns on the same tensors."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    run = CASES[name](device)
    times: list[tuple[float, ...]] = []
    repeat = 1
    while len(times) < args.rounds + 2:
        turn = []
        for get in (compiled.__getattribute__, OPERATORS.__getitem__):
            start = clock()
            for _ in range(repeat):
                run(get)
            if device.type == "cuda":
                torch.cuda.synchronize()
            turn.append((clock() - start) / repeat)
        if len(times) == 1:  # short calls are timed several at once
            repeat = max(1, int(0.01 / max(min(turn), 1e-6)))
        times.append(tuple(turn))
    counted = times[2:]
    theirs, ours = (min(each) for each in zip(*counted, strict=True))
    return {
        "operator": name,
        "compiled_ms": round(1e3 * theirs, 2),
        "stand_in_ms": round(1e3 * ours, 2),
        "time_ratio": round(statistics.median(mine / other for other, mine in counted), 2),
        "best_over_best": round(ours / theirs, 2),
    }


def main() -> None:
    """Measure all operators, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", nargs="+", default=[""], help="beginnings of the names of the rows to measure")
    parser.add_argument("--rounds", type=int, default=10, help="counted turns")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    compiled = importlib.import_module("mmcv._ext")
    if getattr(compiled, "__file__", None) is None:
        sys.exit("error: this environment has no compiled MMCV to compare with")
    device = torch.device(args.device)
    rows = []
    for name in CASES:
        if name.startswith(tuple(args.operators)):
            rows.append(measure(name, compiled, device, args))
            print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    record.write(args.out, device, rows, mmcv=mmcv.__version__)


if __name__ == "__main__":
    main()
