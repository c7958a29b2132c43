"""Compare a method's first loss in mixed precision, channels-last or compiled with the one in float32.

    python benchmarks/first_loss.py                          # on a GPU: bfloat16, channels-last, compiled
    python benchmarks/first_loss.py --case digits --device cpu

The networks, their weights, the batch and the random numbers are the same. A fast form whose loss differs by more than
its precision explains would make all figures of fast runs meaningless.
"""

import argparse
import copy
from pathlib import Path

import record
import torch
from mmengine.runner import set_random_seed
from step_time import CASES, Trainer

from mmkdprune.models.utils.compilation import compile_training

FORMS = ("bfloat16", "channels_last", "compile")


def first_loss(trainer: Trainer, form: str, device: torch.device) -> float:
    """Compute the loss of a copy of a network in one of ``FORMS``, or as it is."""
    model = copy.deepcopy(trainer.model)
    if form == "channels_last":
        model.to(memory_format=torch.channels_last)
    if form == "compile":
        compile_training(model)
    set_random_seed(1)
    with torch.autocast(device.type, torch.bfloat16, enabled=form == "bfloat16"):
        losses = model(**model.data_preprocessor(trainer.batch, True), mode="loss")
        return float(model.parse_losses(losses)[0].detach())


def measure(case: str, methods: list[str], forms: list[str], device: torch.device) -> list[dict]:
    """Compare all forms of the methods of a case."""
    rows = []
    for method in CASES[case][0]:
        if methods and method not in methods:
            continue
        set_random_seed(0)
        trainer = Trainer(case, method, device, amp=False)
        expected = first_loss(trainer, "float32", device)
        for form in forms:
            found = first_loss(trainer, form, device)
            difference = abs(found - expected) / abs(expected)
            rows.append(
                {
                    "case": case,
                    "method": method,
                    "form": form,
                    "float32": round(expected, 6),
                    "loss": round(found, 6),
                    "relative_difference": float(f"{difference:.2g}"),
                }
            )
    return rows


def main() -> None:
    """Compare the chosen cases, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [name for name in CASES if name != "imagenet"]
    parser.add_argument("--case", nargs="+", choices=CASES, default=cases)
    parser.add_argument("--methods", nargs="+", default=[], help="only these methods of each case")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    device = torch.device(args.device)
    rows = [row for case in args.case for row in measure(case, args.methods, args.forms, device)]
    record.show(rows)
    record.write(args.out, device, rows)


if __name__ == "__main__":
    main()
