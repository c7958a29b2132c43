"""Time a training step of each method against the plain network, beside the ratio of their FLOPs.

Both models come from the twin configs, see the same random batch and take turns in one process, so that the ratio
holds when the machine's speed drifts. A method that costs more time than its FLOPs wastes the hardware. The same
objective as a straightforward loop of plain PyTorch in float32 (``straightforward.py``) takes its turn as well.
"cohort-x2" is MCL's two networks without contrast.

    python benchmarks/step_time.py                      # all but ImageNet on this machine
    python benchmarks/step_time.py --case digits --out benchmarks/results/step_time_cpu.json
    python benchmarks/step_time.py --case digits --compile
"""

import argparse
import ctypes
import gc
import multiprocessing
import statistics
from collections.abc import Sequence
from pathlib import Path

import record
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from straightforward import StraightforwardTrainer, objective_of
from torch.utils.flop_counter import FlopCounterMode

from mmkdprune.engine.hooks.keep_memory_hook import keep_freed_memory
from mmkdprune.models.utils.compilation import compile_training

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COMPILED = ", compiled"
DIGITS, CIFAR = "_1xb64-12e_digits-16px.py", "_1xb64-240e_cifar100.py"
MOCO_DIGITS, MOCO_CIFAR = "_resnet8_1xb64-40e_digits-16px.py", "_resnet18_1xb128-200e_cifar100.py"
PAIRS_DIGITS, PAIRS_CIFAR = "_1xb64-12e-pairs_digits-16px.py", "_1xb128-300e_cifar100.py"
WITHOUT_LABELS = {"plain": "moco", "moco-mcl-x2": "moco-mcl-x2"}
COHORT = {"plain": "plain", "cohort-x2": "mcl-x2", "mcl-x2": "mcl-x2"}
CASES: dict[str, tuple[dict[str, str], int, int]] = {
    # name: (configs by method, images a step, image size in pixels)
    "digits": (
        {name: f"mixskd/{name}_resnet20_1xb64-20e_digits-16px.py" for name in ("plain", "mixskd")},
        64,
        16,
    ),
    "cifar100": (
        {name: f"mixskd/{name}_resnet18_1xb64-205e_cifar100.py" for name in ("plain", "mixskd")},
        32,
        32,
    ),
    "imagenet": (
        {name: f"mixskd/{name}_resnet50_8xb16-305e_in1k.py" for name in ("plain", "mixskd")},
        16,
        224,
    ),
    "digits-hsakd": (
        {
            "plain": f"hsakd/plain_resnet8{DIGITS}",
            "kd": f"hsakd/kd_resnet20_resnet8{DIGITS}",
            "hsakd-teacher": f"hsakd/hsakd-teacher_resnet20{DIGITS}",
            "hsakd": f"hsakd/hsakd_resnet20_resnet8{DIGITS}",
            "hssakd-x2": f"hssakd/hssakd-x2_resnet8{DIGITS}",
        },
        64,
        16,
    ),
    "cifar100-hsakd": (
        {
            "plain": f"hsakd/plain_wrn-16-2{CIFAR}",
            "kd": f"hsakd/kd_wrn-40-2_wrn-16-2{CIFAR}",
            "hsakd-teacher": f"hsakd/hsakd-teacher_wrn-40-2{CIFAR}",
            "hsakd": f"hsakd/hsakd_wrn-40-2_wrn-16-2{CIFAR}",
        },
        16,
        32,
    ),
    "digits-mcl": ({name: f"mcl/{config}_resnet8{PAIRS_DIGITS}" for name, config in COHORT.items()}, 64, 16),
    "cifar100-mcl": ({name: f"mcl/{config}_wrn-16-2{PAIRS_CIFAR}" for name, config in COHORT.items()}, 128, 32),
    # Two views of each image; the plain network is MoCo.
    "digits-moco": ({name: f"moco_mcl/{config}{MOCO_DIGITS}" for name, config in WITHOUT_LABELS.items()}, 64, 16),
    "cifar100-moco": ({name: f"moco_mcl/{config}{MOCO_CIFAR}" for name, config in WITHOUT_LABELS.items()}, 32, 32),
}
# Overrides of a method's model: the difference to "mcl-x2" is what contrast costs.
OVERRIDES = {
    "cohort-x2": {"loss_weights": dict.fromkeys(("loss_vcl", "loss_icl", "loss_soft_vcl", "loss_soft_icl"), 0.0)}
}


def build_model(case: str, method: str, device: torch.device) -> tuple[Config, torch.nn.Module, list[torch.Tensor]]:
    """Build a method's model as its config describes it.

    Returns:
        tuple[Config, nn.Module, list[Tensor]]: The config, the model in training mode, and a batch of images.
    """
    configs, batch_size, size = CASES[case]
    config = Config.fromfile(CONFIGS / configs[method])
    config.model.update(OVERRIDES.get(method, {}))
    init_default_scope("mmpretrain")
    set_random_seed(0)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    MMLogger.get_current_instance().setLevel("WARNING")  # init_weights reports every parameter
    if getattr(model, "teacher", None) is not None:
        model.teacher.is_loaded = True  # random weights take as long as trained ones
    model.init_weights()
    images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
    return config, model.to(device).train(), list(images)


class Trainer:
    """One model with its optimizer and a fixed batch."""

    def __init__(self, case: str, method: str, device: torch.device, amp: bool) -> None:
        config, self.model, images = build_model(case, method.removesuffix(COMPILED), device)
        if any(hook["type"] == "mmkdprune.ChannelsLastHook" for hook in config.get("custom_hooks", [])):
            self.model.to(memory_format=torch.channels_last)
        if method.endswith(COMPILED):
            compile_training(self.model)
        if amp:
            # as --speed does: bfloat16 needs no loss scale, which would ask the device at every step for an overflow
            config.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale={"enabled": False})
        self.optim_wrapper = build_optim_wrapper(self.model, config.optim_wrapper)
        if config.data_preprocessor.get("type") == "SelfSupDataPreprocessor":
            views = torch.stack(images).to(device)
            self.batch = {"inputs": [views, views.flip(3)], "data_samples": []}
            return
        classes = config.data_preprocessor.num_classes
        samples = [DataSample().set_gt_label(index % classes) for index in range(len(images))]
        if device.type == "cuda":  # where BatchedDataset keeps it
            images = torch.stack(images).to(device)
            samples = [sample.to(device) for sample in samples]
        self.batch = {"inputs": images, "data_samples": samples}

    def step(self) -> None:
        """Take one training step, as MMEngine's loop does."""
        self.model.train_step(self.batch, self.optim_wrapper)

    def flops(self) -> int:
        """Count the FLOPs of a step, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()


def make_yardstick(case: str, method: str, device: torch.device) -> StraightforwardTrainer | None:
    """Make the straightforward float32 step of the same objective, where one is written down."""
    config, model, images = build_model(case, method, device)
    if objective_of(model) is None:
        return None
    target = torch.arange(len(images), device=device) % config.data_preprocessor.num_classes
    return StraightforwardTrainer(model, torch.stack(images).to(device), target, config.optim_wrapper.optimizer)


def _peak_of_child(case: str, method: str, device_name: str, amp: bool, queue) -> None:
    device = torch.device(device_name)
    trainer = Trainer(case, method, device, amp)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would serve the steps without being seen
    before = record.forget_peak()
    trainer.step()
    trainer.step()
    queue.put(torch.cuda.max_memory_allocated() if device.type == "cuda" else record.resident("VmHWM") - before)


def peak_memory(case: str, method: str, device: torch.device, amp: bool) -> int:
    """Measure the peak memory of two steps in a process of their own.

    Returns:
        int: Bytes. On a GPU what the allocator held at most; on a CPU the growth of the resident set over the built
        model.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak_of_child, args=(case, method, str(device), amp, queue))
    child.start()
    peak = queue.get(timeout=600)
    child.join()
    return peak


def straightforward_columns(own: list[float], there: list[float]) -> dict[str, float | None]:
    """Columns of the comparison with a yardstick, which a method may lack."""
    if not there:
        return {"straightforward_ms": None, "time_over_straightforward": None}
    ratios = [ours / theirs for ours, theirs in zip(own, there, strict=True)]
    return {
        "straightforward_ms": round(1e3 * statistics.median(there), 2),
        "time_over_straightforward": round(statistics.median(ratios), 3),
    }


def measure(
    case: str, rounds: int, warmup: int, device: torch.device, amp: bool, methods: Sequence[str], compiled: bool
) -> list[dict]:
    """Measure methods of a case in turns and relate them to the plain one, and compiled ones to themselves."""
    methods = [method for method in CASES[case][0] if method in methods or not methods]
    trainers = {method: Trainer(case, method, device, amp) for method in methods}
    flops = {method: trainer.flops() for method, trainer in trainers.items()}
    if compiled:
        trainers |= {method + COMPILED: Trainer(case, method + COMPILED, device, amp) for method in methods}
    yardsticks = {method: make_yardstick(case, method, device) for method in methods}
    times: dict[str, list[float]] = {method: [] for method in trainers}
    straightforward: dict[str, list[float]] = {method: [] for method in trainers}
    for index in range(warmup + rounds):
        for method, trainer in trainers.items():
            yardstick = yardsticks.get(method)
            # Who comes second finds another's data in the caches: they change places every round.
            spent_there = record.seconds(yardstick.step, device) if yardstick and index % 2 else None
            spent = record.seconds(trainer.step, device)
            if yardstick and spent_there is None:
                spent_there = record.seconds(yardstick.step, device)
            if index >= warmup:
                times[method].append(spent)
                if spent_there is not None:
                    straightforward[method].append(spent_there)
    rows = []
    for method in trainers:
        time_ratios = [own / plain for own, plain in zip(times[method], times["plain"], strict=True)]
        eager = method.removesuffix(COMPILED)
        time_ratio, flops_ratio = statistics.median(time_ratios), flops[eager] / flops["plain"]
        speedups = [theirs / own for theirs, own in zip(times[eager], times[method], strict=True)]
        rows.append(
            {
                "case": case,
                "method": method,
                "batch_size": CASES[case][1],
                "step_ms": round(1e3 * statistics.median(times[method]), 2),
                "images_per_s": round(CASES[case][1] / statistics.median(times[method]), 1),
                "time_ratio": round(time_ratio, 3),
                "flops_ratio": round(flops_ratio, 3),
                "time_over_flops": round(time_ratio / flops_ratio, 3),
                **straightforward_columns(times[method], straightforward[method]),
                **({"compile_speedup": round(statistics.median(speedups), 3)} if compiled else {}),
                # The compiler's own memory would be in it, or, after a first step, the gradients would not.
                "peak_memory_mib": None
                if method != eager
                else round(peak_memory(case, method, device, amp) / 2**20, 1),
            }
        )
    return rows


def main() -> None:
    """Run the chosen cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=[name for name in CASES if name != "imagenet"])
    parser.add_argument("--rounds", type=int, default=20, help="counted steps of each method")
    parser.add_argument("--warmup", type=int, default=3, help="steps before counting")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast (GPU)")
    parser.add_argument("--methods", nargs="+", default=[], help="only these methods of each case; plain is needed")
    parser.add_argument("--compile", action="store_true", help="let the compiled form of each method take part, too")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    keep_freed_memory()  # as --speed does; without it large networks wait for pages, whoever frees more the longer
    device = torch.device(args.device)
    rows = [
        row
        for case in args.case
        for row in measure(case, args.rounds, args.warmup, device, args.amp, args.methods, args.compile)
    ]
    record.show(rows)
    record.write(args.out, device, rows, amp=args.amp)


if __name__ == "__main__":
    main()
