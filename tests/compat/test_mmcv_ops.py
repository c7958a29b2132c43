import importlib
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from mmkdprune.compat import mmcv_ops
from mmkdprune.compat.mmcv_ops import EXTENSION, FINDER, MissingOperatorError, OperatorModule, supply_operators

COMPILED = getattr(importlib.import_module(EXTENSION), "__file__", None) is not None
without_extension = pytest.mark.skipif(COMPILED, reason="MMCV is compiled")


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), result.stderr


def test_nothing_is_imported_before_it_is_needed():
    lines, warnings = run(
        "import sys, mmkdprune\n"
        "print(sorted({'torchvision', 'mmcv', 'mmkdprune.compat.operators'} & set(sys.modules)))\n"
        "import mmcv.ops, mmcv.cnn.bricks.transformer as transformer\n"
        "print('MultiScaleDeformableAttention' in vars(transformer))"
    )
    assert lines == ["[]", "True"]
    assert "MultiScaleDeformableAttention" not in warnings


@without_extension
def test_imports_that_failed_before_succeed_afterwards():
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    lines, _ = run(
        "import importlib, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import mmcv.cnn.bricks.transformer\n"  # as MMPretrain does
        "import mmdet, mmseg\n"
        "for name in ('mmcv.ops', 'mmdet.models', 'mmseg.models', 'mmseg.models.decode_heads'):\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error: print('> missing', error.name)\n"
        "import mmkdprune, mmdet.models, mmseg.models\n"
        "from mmseg.models.decode_heads import cc_head, point_head, psa_head\n"
        "print('> absent', None in (cc_head.CrissCrossAttention, point_head.point_sample, psa_head.PSAMask))\n"
        "from mmdet.registry import MODELS\n"
        "print('> detector', 'FasterRCNN' in MODELS, mmcv.ops.nms.__module__)"
    )
    lines = [line for line in lines if line.startswith(">")]  # the fork's packages print that operators are missing
    *missing, absent, detector = lines  # some modules of the fork do without an operator that they cannot import
    assert set(missing) == {f"> missing {EXTENSION}"}
    assert [absent, detector] == ["> absent False", "> detector True mmcv.ops.nms"]


def test_modules_that_did_without_an_operator_get_it(monkeypatch):
    import mmcv.ops

    early = ModuleType("mmseg.models.losses.focal_loss")
    early._sigmoid_focal_loss, early.point_sample, early.timm = None, "its own", None
    monkeypatch.setitem(sys.modules, early.__name__, early)
    supply_operators()
    assert (early._sigmoid_focal_loss, early.point_sample) == (mmcv.ops.sigmoid_focal_loss, "its own")
    assert early.timm is None


def test_heads_that_were_made_without_mmdetection_are_named(monkeypatch):
    pytest.importorskip("mmdet")
    from mmengine.model import BaseModule

    early = ModuleType("mmseg.models.decode_heads.maskformer_head")
    early.MMDET_MaskFormerHead = BaseModule
    monkeypatch.setitem(sys.modules, early.__name__, early)
    with pytest.warns(UserWarning, match="made its MaskFormerHead without.*Fix: import mmkdprune before mmseg"):
        supply_operators()


def test_a_name_that_was_not_there_is_looked_up_later(monkeypatch):
    import mmcv.cnn.bricks.transformer as transformer
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention

    monkeypatch.delattr(transformer, "MultiScaleDeformableAttention")
    monkeypatch.setitem(vars(transformer), "__getattr__", None)  # so that it is gone afterwards
    supply_operators()
    assert transformer.MultiScaleDeformableAttention is MultiScaleDeformableAttention
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        transformer.Absent  # noqa: B018


def test_a_module_of_that_name_goes_first(tmp_path, monkeypatch):
    import mmcv

    (tmp_path / "_ext.py").write_text("nms = 'compiled'")
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)
    monkeypatch.delitem(sys.modules, EXTENSION, raising=False)
    assert importlib.import_module(EXTENSION).nms == "compiled"


def test_the_finder_is_there_once_and_finds_one_module():
    supply_operators()
    supply_operators()
    assert sys.meta_path.count(FINDER) == 1
    assert FINDER.find_spec("mmcv._other", None) is None
    assert FINDER.find_spec("_ext", None) is None


def test_an_operator_that_is_missing_says_so_when_it_is_called():
    module = OperatorModule(EXTENSION)
    operator = module.nms_rotated  # mmcv.ops looks all of them up at import
    with pytest.raises(MissingOperatorError, match=r"^nms_rotated is an operator of compiled MMCV.*pip install"):
        operator(torch.zeros(1, 5), threshold=0.5)
    assert not hasattr(module, "__file__")


@pytest.mark.parametrize(
    ("distribution", "fix"),
    [("mmcv-lite", "pip uninstall -y mmcv-lite"), ("onedl-mmcv", "--force-reinstall onedl-mmcv,")],
)
def test_what_compiles_mmcv_keeps_to_the_stack(distribution, fix, monkeypatch):
    monkeypatch.setattr(mmcv_ops, "installed_distributions", lambda: {"mmcv": [distribution]})
    assert fix in mmcv_ops.missing_operator_message("nms_rotated")


@without_extension
def test_through_mmcv():
    from mmcv.ops import nms_rotated
    from mmcv.utils import collect_env

    with pytest.raises(MissingOperatorError, match="nms_rotated"):
        nms_rotated(torch.ones(1, 5), torch.ones(1), 0.5)
    assert collect_env()["MMCV Compiler"] == mmcv_ops.UNKNOWN
    assert importlib.util.find_spec(EXTENSION) is not None
