"""``MessageHub`` in plain types: no pickled ``HistoryBuffer``, no NumPy scalars.

Since PyTorch 2.6 those two keep a stock checkpoint from being resumed at all.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmkdprune.compat.patching import patch

from .plain import to_plain


def _plain_history(buffer: Any) -> dict:
    log_history, count_history = buffer.data
    return {
        "log_history": _as_tensor(log_history),
        "count_history": _as_tensor(count_history),
        "max_length": int(buffer.max_length),
    }


def _as_tensor(history: np.ndarray) -> torch.Tensor:
    """A tensor, because a history holds up to 10^6 numbers; on the buffer's memory, which is never written in place."""
    if history.dtype.kind not in "bif":
        history = history.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(history))


def _history_buffer(value: Any) -> Any:
    """The ``HistoryBuffer`` of a saved history; anything else (old forms) is returned as it is."""
    from mmengine.logging import HistoryBuffer

    if not isinstance(value, dict) or not {"log_history", "count_history"} <= value.keys():
        return value
    histories = [torch.as_tensor(value[key]).cpu().numpy() for key in ("log_history", "count_history")]
    return HistoryBuffer(*histories, max_length=int(value.get("max_length", 1_000_000)))


def _plain_state_dict(_original: Callable) -> Callable:
    def state_dict(self: Any) -> dict:
        from mmengine.logging import print_log

        resumed = {key for key, value in self._resumed_keys.items() if value}
        scalars = {key: _plain_history(value) for key, value in self._log_scalars.items() if key in resumed}
        info, left_out = to_plain({key: value for key, value in self._runtime_info.items() if key in resumed})
        if left_out:
            print_log(
                "Not saved with the message hub, because they are not plain data: " + ", ".join(left_out),
                logger="current",
                level=logging.WARNING,
            )
        # A key without a value would only give a warning when it is loaded.
        return {
            "log_scalars": OrderedDict(scalars),
            "runtime_info": OrderedDict(info),
            "resumed_keys": {key: True for key in self._resumed_keys if key in scalars or key in info},
        }

    return state_dict


def _load_plain_state_dict(original: Callable) -> Callable:
    def load_state_dict(self: Any, state_dict: Any) -> None:
        if isinstance(state_dict, dict) and "log_scalars" in state_dict:
            scalars = {key: _history_buffer(value) for key, value in state_dict["log_scalars"].items()}
            state_dict = dict(state_dict, log_scalars=scalars)
        original(self, state_dict)

    return load_state_dict


def patch_message_hub() -> None:
    """Makes ``MessageHub`` write plain types, and read them as well as the objects of older checkpoints."""
    from mmengine.logging import MessageHub

    patch(MessageHub, "state_dict", _plain_state_dict)
    patch(MessageHub, "load_state_dict", _load_plain_state_dict)
