"""From a training checkpoint to a file that holds only what is deployed: the backbone, or the whole classifier.

The file is ``{'meta': …, 'state_dict': {'backbone.…': …}}`` of plain types: ``torch.load(weights_only=True)`` reads it
in a process that knows nothing of this package, and ``init_cfg=dict(type='Pretrained', checkpoint=…,
prefix='backbone.')`` loads it into any MMPretrain, MMDetection or MMSegmentation config.
"""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.checkpoint.finite import refuse_non_finite
from mmkdprune.checkpoint.keys import KeyReport
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.errors import ExportError

from .filling import check_fit
from .network import PARTS, Part, Size, Weights, describe, measure_parts, part_of, select_peer, select_weights
from .stored_config import build_stored


@dataclass
class Export:
    """An exported file and what went into it.

    Attributes:
        path: The file.
        meta: Its ``meta``.
        kept: Size of each exported part.
        dropped: Size of each other part of the checkpoint.
        network: The plain network of ``meta['model']``, without the weights; ``None`` when the checkpoint names none.
        report: Comparison of that network's keys with the exported ones.
    """

    path: Path
    meta: dict[str, Any]
    kept: dict[str, Size]
    dropped: dict[str, Size]
    network: nn.Module | None = None
    report: KeyReport | None = None


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path | None = None,
    part: Part = "backbone",
    weights: Weights = "saved",
    overwrite: bool = False,
    peer: int = 0,
) -> Export:
    """Write the deployable part of a checkpoint to a file of its own.

    Args:
        checkpoint: File of a run (or of an earlier export).
        out: Folder, or path and stem of the file; the name always ends in the first 8 hex digits of the file's SHA-256.
            Defaults to a name made from the config's, beside the checkpoint.
        part: ``backbone``, or ``classifier`` for backbone, neck and head.
        weights: ``saved`` takes ``state_dict`` as it is: the averaged weights when the run had an ``EMAHook``. ``ema``
            and ``raw`` ask for the averaged or the plain weights of such a run.
        overwrite: Replace an existing file.
        peer: Which of the networks that were trained together; 0 is the deployable one.

    Returns:
        What was written.

    Raises:
        ExportError: Nothing to export (a classifier of a run without labels), no such weights or peer, a target that
            exists, or weights that do not fit the network.
    """
    source = Path(checkpoint)
    content = load_checkpoint_file(source, map_location="cpu")
    whole = select_weights(content, weights)
    state = select_peer(whole, peer, source)
    # Copies, because a view would be saved together with all of the memory it looks at.
    kept = {key: _plain_copy(value) for key, value in state.items() if part_of(key) in PARTS[part]}
    if not any(part_of(key) == "backbone" for key in state):
        found = ", ".join(f"{name}.* ({size.keys})" for name, size in measure_parts(state).items()) or "nothing"
        raise ExportError(f"{source} has no backbone.* key, so there is no backbone to export; it holds {found}")
    meta = describe(content, source, part, weights, peer)
    network = build_stored(meta["model"]) if "model" in meta else None
    if network is not None:
        report = check_fit(network, kept, source)
    else:
        report = None
        refuse_non_finite(kept, source)
    target = Path(out) if out is not None else source.parent
    if target.is_dir() or str(out).endswith(os.sep):
        target = target / f"{_run_name(content, source)}{f'_peer{peer}' if peer else ''}_{part}"
    path = write_export({"meta": meta, "state_dict": kept}, target, overwrite)
    prefix = f"peers.{peer}." if peer else ""
    return Export(
        path=path,
        meta=meta,
        kept=measure_parts(kept),
        dropped=measure_parts(
            {key: value for key, value in whole.items() if key.removeprefix(prefix) not in kept or prefix not in key}
        ),
        network=network,
        report=report,
    )


def saved_bytes(content: dict[str, Any]) -> bytes:
    """What ``torch.save`` writes."""
    with io.BytesIO() as buffer:
        torch.save(content, buffer)
        return buffer.getvalue()


def write_export(content: dict[str, Any], target: Path, overwrite: bool = False) -> Path:
    """Write atomically to ``<target>-<first 8 hex digits of the SHA-256>.pth`` and return that path."""
    data = saved_bytes(content)
    stem = target.name.removesuffix(".pth")
    path = target.with_name(f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already; add --overwrite to replace it, or give another name")
    with atomic_write(path) as file:
        file.write(data)
    return path


def _plain_copy(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format)


def _run_name(checkpoint: Mapping[str, Any], source: Path) -> str:
    """Name of the config: MMEngine's experiment name without its time, else the checkpoint's folder."""
    experiment = (checkpoint.get("meta") or {}).get("experiment_name")
    name = experiment if isinstance(experiment, str) else source.resolve().parent.name
    # A name from a file must not choose the folder.
    return re.sub(r"_?\d{8}_\d{6}$", "", os.path.basename(name)).lstrip(".") or source.stem
