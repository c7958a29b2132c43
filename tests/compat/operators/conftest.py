import sys

import pytest

from mmkdprune.compat.mmcv_ops import EXTENSION, OperatorLoader


@pytest.fixture(scope="session")
def stand_in():
    """The module that stands in for MMCV's extension; made here, so that it is tested beside compiled MMCV as well."""
    loader = OperatorLoader()
    module = type("Spec", (), {"name": EXTENSION})
    extension = loader.create_module(module)
    loader.exec_module(extension)
    return extension


@pytest.fixture(autouse=True)
def _operators(stand_in, monkeypatch):
    """Let every function of ``mmcv.ops`` call the operators of this package."""
    import mmcv.ops  # noqa: F401

    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", stand_in)
