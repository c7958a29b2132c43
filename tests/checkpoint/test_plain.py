import enum
import os
from collections import Counter, OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub

from mmkdprune.checkpoint.plain import to_plain


class Colour(enum.StrEnum):
    RED = "red"


class Opaque:
    """Not plain."""


@pytest.fixture
def hub():
    MessageHub._instance_dict.pop("test_checkpoint", None)
    return MessageHub.get_instance("test_checkpoint")


def reload(data, file):
    torch.save(data, file)
    return torch.load(file, weights_only=True)


def test_to_plain(tmp_path):
    data = {
        "numbers": [np.float64(1.5), np.float32(0.5), np.int64(2), np.bool_(True), np.longdouble(3)],
        "arrays": (np.arange(3), np.array(["a", "b"]), np.ones(2)[::-1], np.array([7], dtype=np.uint32)),
        "deque": deque([1, 2], 2),
        "set": frozenset({1}),
        "texts": [np.str_("x"), Colour.RED, Path("a") / "b", b"y"],
        "config": ConfigDict(a=ConfigDict(b=np.int32(4))),
        np.int64(3): None,
        "counter": Counter([2, 2]),
        "others": [np.complex64(1j), bytearray(b"z"), torch.device("cpu", 0), torch.uint8, torch.bool, torch.bfloat16],
    }
    plain, left_out = to_plain(data)
    loaded = reload(plain, tmp_path / "plain.pth")
    assert left_out == []
    assert loaded["numbers"] == [1.5, 0.5, 2, True, 3.0]
    assert [type(number) for number in loaded["numbers"]] == [float, float, int, bool, float]
    assert [getattr(value, "tolist", lambda value=value: value)() for value in loaded["arrays"]] == [
        [0, 1, 2], ["a", "b"], [1, 1], [7]
    ]  # fmt: skip
    assert loaded["deque"] == [1, 2]
    assert loaded["set"] == {1}
    assert loaded["texts"] == ["x", "red", os.path.join("a", "b"), b"y"]
    assert type(loaded["texts"][1]) is str
    assert loaded["others"] == [1j, bytearray(b"z"), torch.device("cpu", 0), torch.uint8, torch.bool, torch.bfloat16]
    assert loaded["config"] == {"a": {"b": 4}}
    assert loaded[3] is None
    assert loaded["counter"] == {2: 2}  # MultiStepLR's milestones
    assert type(loaded["counter"]) is dict


def test_to_plain_leaves_out_what_has_no_plain_form():
    plain, left_out = to_plain({"a": {"b": [1, Opaque()], "c": 2}, "f": print, Opaque: 1})
    assert plain == {"a": {"c": 2}}
    assert [entry.split(" ")[0] for entry in left_out[:2]] == ["a.b[1]", "f"]
    assert len(left_out) == 3
    assert to_plain(Opaque())[0] is None


def test_to_plain_shares_tensors_and_keeps_untouched_containers():
    state_dict = torch.nn.BatchNorm1d(2).state_dict()
    checkpoint = {"state_dict": state_dict, "meta": {"epoch": np.int64(1)}}
    plain, _ = to_plain(checkpoint)
    assert plain["state_dict"] is state_dict
    assert isinstance(checkpoint["meta"]["epoch"], np.int64)  # the caller's data stay as they are
    changed = OrderedDict(state_dict, extra=np.float64(1))
    changed._metadata = state_dict._metadata
    plain, _ = to_plain(changed)
    assert plain["weight"] is state_dict["weight"]
    assert plain._metadata is state_dict._metadata


def test_message_hub_round_trip(hub, tmp_path):
    for value in (1.0, 0.5, 0.25):
        hub.update_scalar("train/loss", value, count=2)
    hub.update_scalar("hidden", 1, resumed=False)
    hub.update_info("eta", np.float64(3.5))
    hub.update_info("best", np.arange(2))
    state = reload(hub.state_dict(), tmp_path / "hub.pth")
    assert state["log_scalars"]["train/loss"]["max_length"] == 1_000_000
    assert type(state["runtime_info"]["eta"]) is float

    MessageHub._instance_dict.pop("test_checkpoint")
    other = MessageHub.get_instance("test_checkpoint")
    other.load_state_dict(state)
    buffer = other.get_scalar("train/loss")
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.data[0].tolist() == [1.0, 0.5, 0.25]
    assert buffer.data[1].tolist() == [2, 2, 2]
    other.update_scalar("train/loss", 0.125)
    assert buffer.mean(2) == pytest.approx((0.25 + 0.125) / 3)
    assert hub.get_scalar("train/loss").current() == 0.25  # loading copied
    assert "hidden" not in other.log_scalars
    assert other.get_info("eta") == 3.5


def test_message_hub_reads_older_forms(hub):
    hub.load_state_dict(
        {
            "log_scalars": OrderedDict(loss=HistoryBuffer([1.0], [1])),
            "runtime_info": OrderedDict(epoch=3),
            "resumed_keys": {"loss": True, "epoch": True},
        }
    )
    assert hub.get_scalar("loss").current() == 1.0
    other = MessageHub.get_instance("test_checkpoint_copy")
    other.load_state_dict(hub)
    assert other.get_info("epoch") == 3


def test_message_hub_names_what_it_leaves_out(hub, monkeypatch):
    messages = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **kwargs: messages.append(message))
    hub.update_info("model", Opaque())
    hub.update_info("epoch", 1)
    state = hub.state_dict()
    assert state["runtime_info"] == {"epoch": 1}
    assert state["resumed_keys"] == {"epoch": True}
    assert "model (" in messages[0]
