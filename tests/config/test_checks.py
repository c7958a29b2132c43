import math

import pytest
from mmengine.config import Config

from mmkdprune.config.checks import check_numbers
from mmkdprune.errors import UsageError


def optimizer(**settings):
    return {"optim_wrapper": {"optimizer": {"type": "SGD", **settings}}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (optimizer(lr=math.nan), "optim_wrapper.optimizer.lr must be a finite number of 0 or more, got nan"),
        (optimizer(lr=-0.1), "got -0.1"),
        (optimizer(lr=math.inf), "got inf"),
        (optimizer(lr="1e-3"), "optim_wrapper.optimizer.lr must be a number, got the text '1e-3'"),
        ({"optim_wrapper": {"head": {"optimizer": {"lr": math.nan}}}}, "optim_wrapper.head.optimizer.lr must be"),
        ({"data_preprocessor": {"mean": [0.0], "std": [0.0]}}, r"^data_preprocessor.std must be .*, got \[0.0\]"),
        ({"data_preprocessor": {"std": [1.0, math.nan]}}, "data_preprocessor.std"),
        ({"model": {"data_preprocessor": {"std": 1.0}}}, "model.data_preprocessor.std must be .*, got 1.0"),
    ],
)
def test_numbers_that_make_nan(config, message):
    with pytest.raises(UsageError, match=message):
        check_numbers(Config(config))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"optim_wrapper": None, "model": None},
        {**optimizer(lr=0.1), "data_preprocessor": {"mean": [0.0], "std": (1, 2.5)}},
        {"optim_wrapper": {"constructor": "X", "type": "OptimWrapper"}},
    ],
)
def test_ordinary_configs_pass(config):
    check_numbers(Config(config))
