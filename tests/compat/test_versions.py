import subprocess
import sys
from pathlib import Path

import pytest

from mmkdprune.compat import versions
from mmkdprune.compat.versions import (
    StackError,
    check_versions,
    find_problems,
    find_traps,
    installed_version,
    limit_of_mmcv,
    release,
    require,
    require_scope,
)

GOOD = {
    **{"torch": "2.1.0", "mmengine": "0.10.0", "mmcv": "2.0.0rc4", "mmpretrain": "1.0.0"},
    **{"pkg_resources": "81.0", "wrapt": "1.16.0"},
}


def test_the_oldest_supported_versions_pass_in_silence(recwarn):
    check_versions(GOOD)
    assert not recwarn.list


def test_this_environment_passes():
    check_versions()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"torch": None}, ["torch is not installed (needed: >= 2.1)", 'pip install "torch>=2.1" torchvision']),
        ({"torch": "1.13.1+cu117"}, ["torch 1.13.1+cu117 is too old", 'pip install "torch>=2.1"']),
        ({"mmengine": "0.9.1"}, ["mmengine 0.9.1 is too old (needed: >= 0.10.0)", 'pip install "mmengine>=0.10.0,<1"']),
        ({"mmcv": None}, ["mmcv is not installed", 'pip install "mmcv-lite>=2.1.0,<2.2"']),
        ({"mmcv": "1.7.2"}, ["mmcv 1.7.2 is too old", "OpenMMLab 1.x", "pip uninstall -y mmcv mmcv-full mmcls && pip"]),
        ({"mmpretrain": None}, ["mmpretrain is not installed", 'pip install "mmpretrain>=1.0.0,<2"']),
        ({"mmpretrain": None, "mmcls": "0.25.0"}, ["mmpretrain is not installed", "mmcls 0.25.0 is its old name"]),
        ({"wrapt": None}, ["wrapt is not installed. Fix: pip install wrapt"]),
        ({"pkg_resources": None}, ["pkg_resources, which MMEngine imports, is missing", 'pip install "setuptools<82"']),
    ],
)
def test_each_problem_is_named_with_its_fix(change, parts):
    problems = find_problems(GOOD | change)
    assert len(problems) == 1
    for part in parts:
        assert part in problems[0]
    with pytest.raises(ImportError, match="mmkdprune cannot work in this environment") as error:
        check_versions(GOOD | change)
    assert problems[0] in str(error.value)


def test_all_problems_come_in_one_message():
    with pytest.raises(ImportError) as error:
        check_versions({"torch": "1.8"})
    lines = str(error.value).splitlines()
    assert [line.split()[1] for line in lines[1:-2]] == ["torch", "mmengine", "mmcv", "mmpretrain", "wrapt"]
    assert 'pip install "mmkdprune[openmmlab]"' in lines[-2]
    assert lines[-1].endswith("python -m mmkdprune.env")


FORK = {"mmengine": ["onedl-mmengine"], "mmcv": ["onedl-mmcv"], "mmpretrain": ["onedl-mmpretrain"]}


def test_forks_need_no_pkg_resources_and_a_newer_torch(recwarn):
    check_versions(GOOD | {"pkg_resources": None, "torch": "2.4.0"}, FORK)
    assert not recwarn.list
    (problem,) = find_problems(GOOD | {"torch": "2.3.1"}, FORK)
    assert 'torch 2.3.1 is too old (needed: >= 2.4). Fix: pip install "torch>=2.4" torchvision' in problem


def test_what_is_missing_beside_forks_is_a_fork():
    (problem,) = find_problems(GOOD | {"torch": "2.11.0", "mmpretrain": None}, FORK | {"mmpretrain": []})
    assert 'Fix: pip install "onedl-mmpretrain>=1.3.6,<2"' in problem


def test_a_mixture_is_refused():
    with pytest.raises(ImportError, match=r"mmdet beside onedl-mmengine, onedl-mmcv and onedl-mmpretrain"):
        check_versions(GOOD | {"torch": "2.11.0"}, FORK | {"mmdet": ["mmdet"]})


def test_lite_over_full_warns():
    with pytest.warns(UserWarning, match=r"mmcv-lite and mmcv are one module, mmcv.* pip uninstall -y mmcv-lite mmcv"):
        check_versions(GOOD, {"mmcv": ["mmcv-lite", "mmcv"]})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"transformers": "4.51.0", "pycocotools": "2.0"}, 'pip install "transformers<=4.50"'),
        ({"mmcls": "0.25.0"}, "pip uninstall -y mmcls"),
        ({"torch": "2.1.2", "numpy": "2.0.1"}, 'pip install "numpy<2"'),
    ],
)
def test_known_traps_warn(change, part):
    with pytest.warns(UserWarning, match="Fix: ") as warned:
        check_versions(GOOD | change)
    assert part in str(warned[0].message)


def test_harmless_transformers_do_not_warn():
    assert find_traps(GOOD | {"transformers": "4.50.3", "pycocotools": "2.0"}) == []
    assert find_traps(GOOD | {"transformers": "5.0.0"}) == []  # MMPretrain leaves its multimodal models out


def test_numpy_2_does_not_warn_with_a_torch_that_was_built_for_it():
    assert find_traps(GOOD | {"torch": "2.3.0", "numpy": "2.4.6"}) == []


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.1.0", (2, 1, 0)), ("2.1", (2, 1, 0)), ("2.10.0a0+git12", (2, 10, 0)), ("1.0.0rc5", (1, 0, 0))],
)
def test_release(version, numbers):
    assert release(version) == numbers


def test_a_fork_without_version_number_passes():
    assert find_problems(GOOD | {"mmcv": "of unknown version"}) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package ``fork_of_mmcv`` with the given ``__init__.py`` and ``version.py``; it is importable."""

    def write(init, version=None):
        folder = tmp_path / "fork_of_mmcv"
        folder.mkdir()
        (folder / "__init__.py").write_text(init)
        if version is not None:
            (folder / "version.py").write_text(version)
        monkeypatch.syspath_prepend(tmp_path)
        return "fork_of_mmcv"

    yield write
    sys.modules.pop("fork_of_mmcv", None)


def test_a_version_is_read_without_import(package):
    assert installed_version(package("raise RuntimeError('imported')", "__version__ = '2.1.0+fork'")) == "2.1.0+fork"


def test_a_package_without_version_file_is_imported(package):
    assert installed_version(package("__version__ = '2.2.0'")) == "2.2.0"


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("no_package") is None
    assert installed_version("not_there_at_all") is None


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("assert False, 'MMCV==2.9 is used but incompatible.'", "AssertionError: MMCV==2.9 is used but incompatible."),
        ("raise KeyError('Adafactor is already registered')", "KeyError: 'Adafactor is already registered'"),
        ("raise ImportError('libGL.so.1: cannot open')", "ImportError: libGL.so.1: cannot open"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_an_error_inside_a_package_is_passed_on_under_its_name(package, init, text):
    with pytest.raises(ImportError, match="needs fork_of_mmcv, and importing it failed") as error:
        require(package(init))
    assert text in str(error.value)
    assert error.value.__cause__ is not None


def test_the_check_imports_none_of_the_packages_it_checks():
    package = Path(versions.__file__).parent.parent
    code = (
        f"import sys, types; sys.modules['mmkdprune'] = package = types.ModuleType('mmkdprune'); "
        f"package.__path__ = [{str(package)!r}]; from mmkdprune.compat.versions import check_versions; "
        "check_versions(); print(sorted({'torch', 'mmengine', 'mmcv', 'mmpretrain', 'cv2'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "init", "text", "fix"),
    [
        ("mmdet", None, "needs mmdet for this, and it is not installed", 'pip install "mmkdprune[det]"'),
        ("mmseg", None, "needs mmseg for this, and it is not installed", 'pip install "mmkdprune[seg]"'),
        ("mmseg", "raise ModuleNotFoundError('No ftfy', name='ftfy')", "No ftfy", 'pip install "mmkdprune[seg]"'),
        ("mmseg", "import not_there_at_all", "No module named 'not_there_at_all'", None),
        (
            "mmdet",
            "assert False, 'MMCV==2.2.0 is used but incompatible.'",
            "MMCV==2.2.0 is used",
            "mmcv-lite>=2.1.0,<2.2",
        ),
        (
            "mmdet",
            "raise ImportError('/x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN2at')",
            "undefined symbol",
            "mmcv-lite>=2.1.0,<2.2",
        ),
    ],
)
def test_what_a_config_needs_is_said_with_its_fix(name, init, text, fix, tmp_path, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if init:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(init)
    with pytest.raises(StackError, match=text) as error:
        require_scope(name)
    assert ("Fix: " in str(error.value)) == (fix is not None)
    assert (fix or "") in str(error.value)


def test_other_scopes_need_nothing():
    require_scope("mmpretrain")
    require_scope(None)


def test_a_runner_says_what_its_scope_needs(monkeypatch):
    from mmengine.config import Config
    from mmengine.runner import Runner

    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(StackError, match=r"mmdet.*Fix: pip install"):
        Runner.from_cfg(Config({"default_scope": "mmdet"}))


@pytest.mark.parametrize(
    ("init", "limit"),
    [("mmcv_maximum_version = '2.2.0'\n", "2.2.0"), ('MMCV_MAX = "2.3.0"\n', "2.3.0"), ("maximum = 1\n", None)],
)
def test_the_limit_of_another_package_is_read_without_import(package, init, limit):
    assert limit_of_mmcv(package(init + "raise RuntimeError('imported')\n")) == limit
    assert limit_of_mmcv("not_there_at_all") is None


def test_an_mmcv_that_mmdetection_refuses():
    assert find_problems(GOOD | {"mmcv": "2.1.0"}, mmcv_limit="2.2.0") == []
    (problem,) = find_problems(GOOD | {"mmcv": "2.2.0"}, mmcv_limit="2.2.0")
    assert "mmcv 2.2.0 is refused by the installed mmdet, which takes < 2.2.0" in problem
    assert problem.endswith('pip install "mmcv-lite>=2.1.0,<2.2"')
    with pytest.raises(StackError, match="refused"):
        check_versions(GOOD | {"mmcv": "2.2.0"}, mmcv_limit="2.2.0")
