"""Time a whole training iteration against the same iteration on a batch that lies ready.

One runner, built from a config with the switches of ``--speed``: iterations with all hooks and with batches from the
config's loader take turns with iterations on one batch that stays where the network is. What is lost between the two is
the data path's.

    python benchmarks/training_throughput.py                                  # Digits
    python benchmarks/training_throughput.py --config configs/mixskd/plain_resnet18_1xb64-205e_cifar100.py
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from mmengine.runner import Runner

from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.reading import read_config
from mmkdprune.engine.speed import apply_speed, use_default_speed

DIGITS = Path(__file__).resolve().parent.parent / "configs" / "mixskd" / "plain_resnet20_1xb64-20e_digits-16px.py"


def build(path: str, switches: bool, work_dir: str) -> Runner:
    """Build the runner of a config, ready to train."""
    config = read_config(path)
    config.work_dir, config.log_level = work_dir, "WARNING"
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if switches:
        use_default_speed(config)
        apply_speed(config)
    set_dataloader_defaults(config, ["train_dataloader"], torch.cuda.is_available(), True)
    runner = Runner.from_cfg(config)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner._init_model_weights()
    runner.call_hook("before_run")
    runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
    runner.call_hook("before_train")
    runner.call_hook("before_train_epoch")
    runner.model.train()
    return runner


def resident(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Put a batch where the network is."""
    images = batch["inputs"]
    return {
        **batch,
        "inputs": images.to(device) if isinstance(images, torch.Tensor) else [x.to(device) for x in images],
    }


def measure(runner: Runner, iterations: int, rounds: int) -> dict[str, Any]:
    """Let both kinds of iterations take turns."""
    device = next(runner.model.parameters()).device
    batches = itertools.chain.from_iterable(itertools.repeat(runner.train_dataloader))
    ready = resident(next(batches), device)
    sources = {"loader": batches, "resident": itertools.repeat(ready)}
    times: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(rounds + 1):
        for name, source in sources.items():
            start = time.perf_counter()
            for index, batch in zip(range(iterations), source):  # noqa: B905  (the source has no end)
                runner.train_loop.run_iter(index, batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - start) / iterations)
    shares = [there / own for own, there in zip(times["loader"], times["resident"], strict=True)]
    size = runner.train_dataloader.batch_size
    return {
        "batch_size": size,
        **{f"{name}_ms": round(1e3 * statistics.median(values), 2) for name, values in times.items()},
        "images_per_s": round(size / statistics.median(times["loader"]), 1),
        "throughput_over_resident": round(statistics.median(shares), 3),
    }


def main() -> None:
    """Run, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(DIGITS))
    parser.add_argument("--iterations", type=int, default=10, help="a turn")
    parser.add_argument("--rounds", type=int, default=8, help="counted turns of each kind")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    rows = []
    for name, switches in (("as it is", False), ("--speed", True)):
        with tempfile.TemporaryDirectory() as work_dir:
            runner = build(args.config, switches, work_dir)
            rows.append(
                {"config": Path(args.config).stem, "switches": name, **measure(runner, args.iterations, args.rounds)}
            )
    record.show(rows)
    record.write(args.out, torch.device(runner.model.data_preprocessor.device), rows)


if __name__ == "__main__":
    main()
