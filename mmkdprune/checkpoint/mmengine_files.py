"""MMEngine's own saving, loading and resuming of checkpoints, made safe: plain data, and nothing in them is run."""

import codecs
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmkdprune.compat.patching import patch

from .loading import CorruptCheckpointError, load_safely
from .plain import to_plain
from .search import is_undamaged, newest_whole_checkpoint

_already_reported: set[str] = set()


def _save_plain(original: Callable) -> Callable:
    def save_checkpoint(checkpoint: dict, filename: str, *args: Any, **kwargs: Any) -> None:
        plain, left_out = to_plain(checkpoint)
        _report_once("Not saved in the checkpoint, because they are not plain data: ", left_out)
        original(plain, filename, *args, **kwargs)

    return save_checkpoint


def _report_once(text: str, names: list[str]) -> None:
    from mmengine.logging import print_log

    fresh = [name for name in names if name not in _already_reported]
    _already_reported.update(fresh)
    if fresh:
        print_log(text + ", ".join(fresh), logger="current", level=logging.WARNING)


def _load_for_mmengine(path: str, map_location: Any) -> Any:
    """Loads a file, without the text of a config in it, which MMEngine would run as Python when it resumes.

    Checkpoints of MMCV have such a text; MMEngine looks for the number of GPUs there. Its own texts have another name.
    """
    content = load_safely(path, map_location)
    if isinstance(content, dict) and isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)
    return content


def _load_local(_original: Callable) -> Callable:
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return _load_for_mmengine(filename, map_location)

    return load_from_local


def _load_http(_original: Callable) -> Callable:
    """Downloads as ``torch.hub`` does, to the same place. Its own ``weights_only`` is off by default to this day."""

    def load_from_http(
        filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool | None = None
    ) -> Any:
        from mmengine.dist import barrier, get_rank

        if get_rank() == 0:
            file = _download(filename, model_dir, os.isatty(0) if progress is None else progress)
        barrier()
        if get_rank() > 0:
            file = _download(filename, model_dir, progress=False)
        try:
            return _load_for_mmengine(file, map_location)
        except CorruptCheckpointError as error:
            raise CorruptCheckpointError(f"{error}. Remove it, and it is downloaded again from {filename}") from None

    return load_from_http


def _load_from_storage(original: Callable) -> Callable:
    """Loads from a storage service (``s3://``) as from a local file; MMEngine would unpickle whatever it gets."""

    def load(filename: str, map_location: Any = None, backend: str = "petrel") -> Any:
        from mmengine.fileio import get_file_backend

        content = get_file_backend(filename, backend_args={"backend": backend}).get(filename)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, os.path.basename(filename))
            Path(file).write_bytes(content)
            return _load_for_mmengine(file, map_location)

    return load


def _download(url: str, model_dir: str | None, progress: bool) -> str:
    from urllib.parse import urlparse

    folder = model_dir or os.path.join(torch.hub.get_dir(), "checkpoints")
    os.makedirs(folder, exist_ok=True)
    file = os.path.join(folder, os.path.basename(urlparse(url).path))
    if not os.path.exists(file):
        torch.hub.download_url_to_file(url, file, progress=progress)
    return _unzip_single_file(file, folder)


def _unzip_single_file(file: str, folder: str) -> str:
    """Old torchvision weights are a legacy checkpoint inside a zip archive."""
    if not zipfile.is_zipfile(file):
        return file
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1 or members[0].is_dir():
            return file
        return archive.extract(members[0], os.path.join(folder, f"{os.path.basename(file)}.unzipped"))


def _find_whole(original: Callable) -> Callable:
    def find_latest_checkpoint(path: str) -> str | None:
        from mmengine.logging import print_log

        try:
            named = original(path)
        except UnicodeDecodeError:  # what a disk makes of a file after a power failure
            named = ""
        named = "" if named and "\0" in named else named
        if named is None:  # no `last_checkpoint`: nothing was saved here
            return None
        if named and ("://" in named or os.path.isdir(named) or is_undamaged(named)):
            return named
        found = newest_whole_checkpoint(path, noted=named)
        problem = f"names {named}, which is missing, damaged or not whole" if named else "is empty or damaged"
        outcome = f"resuming from {found}" if found else "no other whole checkpoint is there"
        print_log(
            f"{os.path.join(path, 'last_checkpoint')} {problem}: {outcome}", logger="current", level=logging.WARNING
        )
        return found or named or None

    return find_latest_checkpoint


def patch_unpickling() -> None:
    """Lets the safe loader of PyTorch before 2.4 take the plain types that later ones take, as their list has them."""
    if hasattr(torch.serialization, "add_safe_globals"):
        return
    from torch import _weights_only_unpickler

    allowed = _weights_only_unpickler._get_allowed_globals()  # one and the same dictionary at every call
    # Pickles of protocol 2 name the built-in types by the module of Python 2.
    allowed.update({f"__builtin__.{kind.__name__}": kind for kind in (set, bytearray, complex)})
    allowed.update({"_codecs.encode": codecs.encode, "torch.device": torch.device})
    dtypes = (torch.bool, torch.uint8, torch.bfloat16)
    allowed.update({str(dtype): dtype for dtype in dtypes})


def patch_saving() -> None:
    """Makes MMEngine write plain checkpoints, wherever it holds the function that does."""
    import mmengine.runner
    import mmengine.runner.checkpoint
    import mmengine.runner.runner

    for module in (mmengine.runner, mmengine.runner.checkpoint, mmengine.runner.runner):
        patch(module, "save_checkpoint", _save_plain)


def patch_loading() -> None:
    """Makes MMEngine read local and downloaded checkpoints safely, and find the newest whole one to resume from."""
    import mmengine.runner
    import mmengine.runner._flexible_runner
    import mmengine.runner.checkpoint as module
    import mmengine.runner.runner

    patch(module, "load_from_local", _load_local)
    patch(module, "load_from_http", _load_http)
    module.CheckpointLoader.register_scheme("", module.load_from_local, force=True)
    module.CheckpointLoader.register_scheme(("http://", "https://"), module.load_from_http, force=True)
    patch(module, "load_from_ceph", _load_from_storage)
    patterns = [r"(\S+\:)?s3://", r"(\S+\:)?petrel://"]
    module.CheckpointLoader.register_scheme(patterns, module.load_from_ceph, force=True)
    for holder in (mmengine.runner, module, mmengine.runner.runner, mmengine.runner._flexible_runner):
        patch(holder, "find_latest_checkpoint", _find_whole)
