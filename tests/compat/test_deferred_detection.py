"""MMPretrain without MMDetection, until that is asked for: each case is a process of its own."""

import subprocess
import sys

import pytest
from testing_helpers import REPOSITORY

IS_THERE = (
    "from mmdet.registry import MODELS; found = MODELS.get('ResLayerExtraNorm'); "
    "from mmpretrain.models.utils import ResLayerExtraNorm as layer; "
    "from mmpretrain.models.utils.res_layer_extra_norm import ResLayerExtraNorm as again; "
    "assert found is layer is again, (found, layer, again); "
    "print(type(layer(depth=50)).__name__)"
)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.split("\n")[-2]


@pytest.mark.parametrize(
    "order",
    [
        "import sys, mmkdprune, mmkdprune.models, mmpretrain.models; assert 'mmdet' not in sys.modules; ",
        "import mmkdprune, mmdet.models, mmpretrain.models; ",
    ],
)
def test_the_layer_is_there_once_mmdet_is_imported(order):
    """In the first case it is the look-up in MMDetection's registry that imports it."""
    pytest.importorskip("mmdet")
    assert run(order + IS_THERE) == "ResLayerExtraNorm"
