"""Signs that pruning destroys a network: each function tells of one in words, or returns ''."""

from collections.abc import Mapping
from typing import Any

from mmkdprune.pruning import Pruner

# Where all of the rate is reached, masks should have settled; a network is not trained behind masks that jump about.
NEARLY_ALL = 0.95
LEAST_OVERLAP = 0.7
MOST_LOST = 5.0  # points
# What a task is judged by, the first that there is; anything else but a loss if there is none of them.
JUDGED_BY = ("accuracy/top1", "coco/bbox_mAP", "coco/segm_mAP", "pascal_voc/mAP", "mIoU")


def soft_filters_before_norms(pruner: Pruner) -> str:
    """Soft filters whose BatchNorm is left as it is come back at full strength at once (at the start of a run)."""
    if not pruner.rate or pruner.bn_policy not in ("hard_only", "none"):
        return ""
    if all(pruner.schedules.hard_schedule(t, 100) == 1 for t in range(100)):
        return ""
    layers = [unit.name for unit in pruner.units if any(slot.is_norm for slot in unit.slots)]
    if not layers:
        return ""
    return (
        f"bn_policy={pruner.bn_policy!r} with soft filters before BatchNorms ({len(layers)} layers, {layers[0]} the "
        "first): a filter that was set to zero gives noise at full strength after one step of the optimizer, and the "
        "network is never trained as it will be pruned. Take bn_policy='follow' or 'scale'; this run may end near "
        "chance"
    )


def masks_that_jump(entry: Mapping[str, Any], rate: float) -> str:
    """Masks that change although the rate is reached (after a prune step).

    Args:
        entry (Mapping): As :meth:`Pruner.report` returns it.
        rate (float): The rate that is asked for.
    """
    overlap = entry["overlap"]
    if not rate or overlap is None or entry["rate"] < NEARLY_ALL * rate or overlap >= LEAST_OVERLAP:
        return ""
    return (
        f"only {overlap:.2f} of the filters that the step before had masked are masked again, although the rate is "
        f"reached (P={entry['rate']:.3g} of {rate:g}): filters that were masked grow past those that were kept, and "
        "the network is not trained behind one mask"
    )


def accuracy_lost(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A network that is much worse without its masked filters (after ``finalize``).

    Args:
        before (Mapping): Metrics before the last prune step.
        after (Mapping): The same after the end of pruning.
    """
    names = [name for name in JUDGED_BY if name in before and name in after]
    names = names[:1] or [name for name in before if name in after and "loss" not in name]
    for name in names:
        # shares and percentages are both in use
        points = 100 if abs(before[name]) <= 1 else 1
        if (lost := points * (before[name] - after[name])) > MOST_LOST:
            return (
                f"{name} fell by {lost:.1f} points when the masked filters were removed ({before[name]:.4g} before, "
                f"{after[name]:.4g} after): the network had not learnt to do without them. A hard end (ghfp-...), "
                "finetune, or another bn_policy help"
            )
    return ""
