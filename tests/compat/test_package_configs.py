import pytest
from mmengine.config.utils import MODULE2PACKAGE

from mmkdprune.compat import package_configs
from mmkdprune.compat.stacks import FORK, STACKS, UPSTREAM


@pytest.mark.parametrize(("stack", "found"), [(UPSTREAM, "mmsegmentation"), (FORK, "mmseg")])
def test_configs_of_a_fork_are_looked_for_in_the_fork(stack, found, monkeypatch):
    """Under upstream's name MMEngine would not find them, and install upstream's package."""
    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmsegmentation")
    monkeypatch.setattr(package_configs, "distributions_of", lambda module: [STACKS[stack][module][0][0]])
    package_configs.register_package()
    assert MODULE2PACKAGE["mmseg"] == found
    assert MODULE2PACKAGE["mmpretrain"] == "mmpretrain"
