"""What the pruning hook tells the log and the visualizer: the plan before training, and every prune step."""

from typing import Any

import numpy as np
from mmengine.runner import Runner

from mmkdprune.pruning import Pruner

from .builder import PrunerBuilder

# Steps of which the last twentieth can be looked at.
_FEW_STEPS = 20


def describe_run(runner: Runner, pruner: Pruner, builder: PrunerBuilder, total: int) -> None:
    """Say what will be pruned, how much and why not the rest; warn of what seldom is meant.

    Args:
        runner (Runner): Of the run.
        pruner (Pruner): As it starts.
        builder (PrunerBuilder): That built it.
        total (int): Number of prune steps.
    """
    place = pruner.scope or "the model"
    filters = sum(unit.size for unit in pruner.units)
    if pruner.finalized:
        zero = pruner.report()["zero"]
        runner.logger.info(f"{zero} of {filters} {pruner.items} of {place} are zero and stay so; no more are pruned.")
        return
    runner.logger.info(
        f"Pruning {filters} {pruner.items} in {len(pruner.masks)} layers of {place} to rate {pruner.rate:g} "
        f"({builder.method or type(pruner).__name__}) in {total} steps."
    )
    if builder.budget is not None:
        text = f"Target: {builder.budget.line()}"
        if getattr(pruner, "limit", None) is not None:
            text += (
                " at one rate for all layers; ranking='global' takes as many filters at every step as meet the target"
            )
        runner.logger.info(f"{text}.")
    sizes = {f"pruning/items/{unit.name}": unit.size for unit in pruner.units}
    runner.visualizer.add_scalars(sizes, step=0)
    for name, reason in getattr(pruner, "skipped", {}).items():
        runner.logger.info(f"Not pruned: {name}: {reason}")
    for warning in _warnings(pruner, total):
        runner.logger.warning(f"FilterPruningHook: {warning}.")


def _warnings(pruner: Pruner, total: int) -> list[str]:
    found = []
    if outputs := getattr(pruner, "outputs", []):
        found.append(
            f"{', '.join(outputs)}: pruned filters are outputs of the model that become constant (prune_outputs=True)"
        )
    if frozen := [name for name in pruner.masks if not pruner.network.get_submodule(name).weight.requires_grad]:
        found.append(
            f"{len(frozen)} of the layers are frozen ({', '.join(frozen[:3])}, ...): they are pruned, but do not learn "
            "to do without; leave them out with exclude, or do not freeze them"
        )
    tail = range(total - max(1, total // _FEW_STEPS) - 1, total)
    counts = [pruner.counts(t, total) for t in tail] if total >= _FEW_STEPS else []
    if pruner.schedules.hard_end == 1 and any(count != counts[-1] for count in counts):
        found.append(
            f"the masks still grow in the last {len(tail) - 1} of {total} steps, which leaves no training after the "
            "last filters are removed: give the schedules a smaller snap_at, 0.9 say"
        )
    return found


def log_step(runner: Runner, pruner: Pruner, t: int, done: int) -> dict[str, Any]:
    """Log the last step, and return what the pruner reports of it.

    Args:
        runner (Runner): Of the run.
        pruner (Pruner): That has done the step.
        t (int): 0-based index of the step.
        done (int): Epochs or iterations so far.
    """
    entry = pruner.report()
    shares = {name: entry[name] for name in ("overlap", "revived") if entry[name] is not None}
    text = "".join(f", {name} {share:.3f}" for name, share in shares.items())
    runner.logger.info(
        f"Prune step {t + 1}/{entry['total']}: P={entry['rate']:.6f}, alpha={entry['decay']:.3g}, "
        f"lambda={entry['hard_share']:.6f}; {entry['zero']} of {entry['filters']} {pruner.items} are zero, "
        f"{entry['pruned']} masked, {entry['hard']} hard{text}"
    )
    scalars = {name: entry[name] for name in ("t", "rate", "decay", "hard_share")} | shares
    scalars |= {name: entry[name] for name in ("pruned", "hard", "zero")}
    scalars |= {f"zero/{name}": layer["zero"] for name, layer in entry["layers"].items()}
    runner.visualizer.add_scalars({f"pruning/{name}": value for name, value in scalars.items()}, step=done)
    return entry


def log_limit(runner: Runner, pruner: Pruner) -> None:
    """Say what is left of what a target limits, where training has decided on it (after the last prune step).

    Args:
        runner (Runner): Of the run.
        pruner (Pruner): That has finished.
    """
    limit = getattr(pruner, "limit", None)
    if limit is None:
        return
    left = limit.left(np.array([unit.pruned_count for unit in pruner.units]))
    text = f"Target: {left:.1%} will be left in the compact network, of {limit.share:.1%} that were asked for."
    if abs(left / limit.share - 1) > limit.tolerance:
        runner.logger.warning(f"FilterPruningHook: {text} Take a smaller round_to to come nearer.")
    else:
        runner.logger.info(text)
