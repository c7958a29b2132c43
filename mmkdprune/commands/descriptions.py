"""What a run is, in lines for a terminal: data, parameters, optimizer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.runner import Runner
from torch import nn

from mmkdprune.engine.hooks import FilterPruningHook


def titled_lines(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Align texts behind their titles; a title is not repeated in the next line.

    Args:
        rows (Sequence[tuple[str, str]]): Title and text.

    Returns:
        list[str]: A line for each.
    """
    width = max(len(title) for title, _ in rows)
    titles = ["" if index and rows[index - 1][0] == title else title for index, (title, _) in enumerate(rows)]
    return [f"{title:{width}}  {text}" for title, (_, text) in zip(titles, rows, strict=True)]


def data_line(loader: Any, processes: int) -> str:
    """Describe a dataloader.

    Args:
        loader (DataLoader): Of a run.
        processes (int): How many there are; each has such a loader.

    Returns:
        str: Data sets, samples, batches, workers.
    """
    dataset = loader.dataset
    names = [type(dataset).__name__]
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
        names.append(type(dataset).__name__)
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", "?")
    each = " in each process" if processes > 1 else ""
    workers = f", {loader.num_workers} workers" if loader.num_workers else ""
    try:
        batches = f"{len(loader):,} batches"
    except TypeError:
        batches = "batches"
    return f"{' of '.join(names)}, {len(loader.dataset):,} samples, {batches} of {size}{each}{workers}"


def processes_text(number: int) -> str:
    """Return ``'1 process'`` or ``'N processes'``."""
    return "1 process" if number == 1 else f"{number} processes"


def optimizer_line(wrapper: Any) -> str:
    """Describe the optimizer of a run, or the several of one.

    Args:
        wrapper (OptimWrapper | OptimWrapperDict): Of a runner.
    """
    wrappers: Sequence[Any] = list(wrapper.values()) if hasattr(wrapper, "optim_wrappers") else [wrapper]
    texts = []
    for one in wrappers:
        # A warm-up starts below the config's own rate.
        rates = sorted({group.get("initial_lr", group["lr"]) for group in one.optimizer.param_groups})
        rate = f"lr {rates[0]:.4g}" + (f" to {rates[-1]:.4g}" if len(rates) > 1 else "")
        count = getattr(one, "_accumulative_counts", 1)
        accumulated = f", a step every {count} batches" if count > 1 else ""
        texts.append(f"{type(one).__name__} of {type(one.optimizer).__name__}, {rate}{accumulated}")
    return "; ".join(texts)


def parameter_lines(model: nn.Module) -> list[str]:
    """Count what is deployed, what only training has, and what is frozen.

    Args:
        model (nn.Module): Not wrapped.

    Returns:
        list[str]: Lines of the report.
    """
    deployable: set[str] | None = None
    if hasattr(model, "deployable_parts"):
        deployable = set(model.deployable_parts())  # type: ignore[operator]
    elif any(base.__name__ == "BaseSelfSupervisor" for base in type(model).__mro__):  # without labels
        deployable = {"backbone"}
    children = dict(model.named_children())
    kept = {name: part for name, part in children.items() if deployable is None or name in deployable}
    extra = {name: part for name, part in children.items() if name not in kept}
    own = [parameter for _, parameter in model.named_parameters(recurse=False)]
    lines = [f"deployable {_count(_all(kept.values()) + own):,} ({_listed(kept)})"]
    if _all(extra.values()):
        lines.append(f"train-only {_count(_all(extra.values())):,} ({_listed(extra)})")
    teacher = getattr(getattr(model, "teacher", None), "network", None)
    if isinstance(teacher, nn.Module):
        lines.append(f"teacher {_count(teacher.parameters()):,} (frozen, not in the checkpoints)")
    frozen = _count(parameter for parameter in model.parameters() if not parameter.requires_grad)
    if frozen:
        lines.append(f"{frozen:,} of the model's own are frozen")
    return lines


def duration(seconds: float) -> str:
    """Return a time as ``'2 d 3 h'``, ``'3 h 20 min'``, ``'5 min 10 s'`` or ``'4 s'``."""
    total = round(seconds)
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if total >= size:
            return f"{total // size} {large} {total % size // part} {small}"
    return f"{total} s"


def size_text(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _all(parts: Iterable[nn.Module]) -> list[nn.Parameter]:
    return list({id(parameter): parameter for part in parts for parameter in part.parameters()}.values())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _listed(parts: Mapping[str, nn.Module]) -> str:
    counts = {name: _count(part.parameters()) for name, part in parts.items()}
    return ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)


def pruning_lines(runner: Runner) -> list[str]:
    """Say what prunes, and what will be left where there is a target.

    Args:
        runner: Whose hooks have started.
    """
    lines = []
    for hook in runner.hooks:
        if not isinstance(hook, FilterPruningHook):
            continue
        pruner, budget = hook.pruner, hook.builder.budget
        items = sum(unit.size for unit in pruner.units)
        place = f"{items:,} {pruner.items} in {len(pruner.masks)} layers of {pruner.scope or 'the model'}"
        lines.append(f"{hook.builder.method or type(pruner).__name__}, rate {pruner.rate:.4g} of {place}")
        if budget is not None:
            lines.append(budget.line())
    return lines
