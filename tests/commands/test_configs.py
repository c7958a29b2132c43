import pytest
from mmengine.config import Config
from testing_helpers import REPOSITORY

from mmkdprune.commands.configs import find_configs, with_named_bases

MIXSKD = "mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py"


def test_lists_what_fits(call):
    code, printed = call("configs")
    assert code == 0
    everything = printed.split()
    assert len(everything) == len(find_configs()) > 100
    assert not [name for name in everything if "_base_" in name]
    assert all((REPOSITORY / "configs" / name.removeprefix("mmkdprune::")).is_file() for name in everything)
    _, printed = call("configs", "mixskd/.*digits-16px")
    assert f"mmkdprune::{MIXSKD}" in printed.split()
    assert all("digits-16px" in name for name in printed.split())


@pytest.mark.parametrize("name", [MIXSKD, "hsakd/hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py"])
def test_a_copy_is_the_same_config(name, call, tmp_path):
    code, printed = call("configs", name, "--copy", tmp_path / "sub" / "mine.py")
    assert code == 0
    assert f"$ mmkdprune train {tmp_path / 'sub' / 'mine.py'}" in printed
    copied, original = Config.fromfile(tmp_path / "sub" / "mine.py"), Config.fromfile(REPOSITORY / "configs" / name)
    assert copied.to_dict() == original.to_dict()
    assert "../" not in (tmp_path / "sub" / "mine.py").read_text()


def test_every_config_can_be_copied():
    for name in find_configs():
        folder = (REPOSITORY / "configs" / name).parent.relative_to(REPOSITORY / "configs")
        text = with_named_bases((REPOSITORY / "configs" / name).read_text(), folder)
        inherited = {}
        exec(text.split("\nmodel =")[0].split("\ncustom_imports")[0], inherited)
        bases = inherited.get("_base_", [])
        for base in [bases] if isinstance(bases, str) else bases:
            package, _, path = base.partition("::")
            assert package in ("mmdet", "mmseg", "mmpretrain") or (REPOSITORY / "configs" / path).is_file(), name


def test_a_short_name_is_enough_and_goes_here(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("configs", "mixskd_resnet20_1xb64-20e_digits-16px", "--copy")[0] == 0
    assert (tmp_path / "mixskd_resnet20_1xb64-20e_digits-16px.py").is_file()


def test_columns_count_bytes():
    text = '_base_ = ["ä::x.py", "../_base_/speed.py"]  # ä\n'
    assert with_named_bases(text, "mixskd") == '_base_ = ["ä::x.py", "mmkdprune::_base_/speed.py"]  # ä\n'


def test_bad_input(call, tmp_path):
    assert "no config has 'nothing-like-it' in its path" in call("configs", "nothing-like-it")[1]
    assert "is no regular expression" in call("configs", "(")[1]
    code, printed = call("configs", "digits", "--copy", tmp_path / "mine.py")
    assert code == 2
    assert "--copy copies one config, and 'digits' fits these" in printed
    assert "ends in .py" in call("configs", MIXSKD, "--copy", tmp_path / "mine.txt")[1]
    (tmp_path / "mine.py").write_text("mine")
    assert "exists already" in call("configs", MIXSKD, "--copy", tmp_path / "mine.py")[1]
    assert (tmp_path / "mine.py").read_text() == "mine"
    assert call("configs", MIXSKD, "--copy", tmp_path / "mine.py", "--overwrite")[0] == 0
    assert "mmkdprune::" in (tmp_path / "mine.py").read_text()
