"""The built wheel in a clean environment, the editable install, and what `make` says when it cannot go on."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from testing_helpers import REPOSITORY

from mmkdprune.compat.stacks import installed_distributions

CONFIG = "mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py"
SOURCES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "model-index.yml"),
    *("Makefile", "requirements", "mmkdprune", "configs", "tools", "tests"),
)
LEFT_BY_SETUPTOOLS = ("build", "mmkdprune.egg-info")
USER_CONFIG = f"_base_ = ['mmkdprune::{CONFIG}']\nrandomness = dict(seed=1)\n"
# What a user's script sees: where the package lies, MMEngine's hub, and a config that inherits. The inherited parts
# must not get MMEngine's `_scope_` of this package: most of their types are MMPretrain's.
USER_SCRIPT = f"""
import mmkdprune
from mmengine.config import Config
from mmengine.hub import get_config
print(mmkdprune.__file__)
print(get_config("mmkdprune::{CONFIG}").model.type)
config = Config.fromfile("user_config.py")
print(config.model.type, "_scope_" in str(config), config.randomness.seed)
"""
SCRIPT_PRINTS = ["mmkdprune.MixSKD", "mmkdprune.MixSKD", "False", "1"]


def run(*command, env=None, **options):
    """Run a command that must succeed and return its output; its own environment variables do not leak in."""
    options = {"env": clean_environ() | (env or {}), "text": True, **options}
    result = subprocess.run([str(part) for part in command], capture_output=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def clean_environ():
    ours = ("PYTHONPATH", "PYTHON", "VENV", "STACK", "MIN_FREE_GB", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("MAKE")}


def copy_sources(folder):
    """Copy the checkout without what builds left there: no build may depend on it, or leave anything in it."""
    folder.mkdir()
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", ".mim")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy2(source, folder / name)
    return folder


def make_environment(folder, *install):
    """Make a virtual environment with this package and, behind it on the path, the packages of this one."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A plain line in a .pth file adds that folder, and not the .pth files in it: an editable install of the checkout
    # under test stays out of sight.
    shared = {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    # One of those files matters: from Python 3.12 on, distutils, which MMEngine imports, is setuptools' substitute.
    distutils = "import _distutils_hack; _distutils_hack.add_shim()"
    (site / "reference.pth").write_text("\n".join([*sorted(shared), distutils]))
    flags = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, *install)
    return python, site


def make_user_folder(folder):
    folder.mkdir()
    (folder / "user_config.py").write_text(USER_CONFIG)
    (folder / "user_script.py").write_text(USER_SCRIPT)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sources, and the wheel and sdist built from them."""
    tmp_path = tmp_path_factory.mktemp("build")
    sources = copy_sources(tmp_path / "sources")
    before = set(sources.rglob("*"))
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    run(*build, tmp_path / "wheel", "--wheel", sources, cwd=tmp_path)
    run(*build, tmp_path / "sdist", "--sdist", sources, cwd=tmp_path)
    added = {path.relative_to(sources).parts[0] for path in set(sources.rglob("*")) - before}
    assert added <= set(LEFT_BY_SETUPTOOLS)
    return sources, next((tmp_path / "wheel").glob("*.whl")), next((tmp_path / "sdist").glob("*.tar.gz"))


@pytest.fixture(scope="module")
def clean_environment(built, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("clean") / "environment", built[1])


def test_wheel_content(built):
    sources, wheel, _ = built
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {f"mmkdprune/{path.relative_to(sources / 'mmkdprune')}" for path in (sources / "mmkdprune").rglob("*.py")}
    mim = {
        f"mmkdprune/.mim/{path.relative_to(sources)}"
        for folder in ("configs", "tools")
        for path in (sources / folder).rglob("*")
        if path.is_file()
    }
    assert names == package | mim | {"mmkdprune/py.typed", "mmkdprune/.mim/model-index.yml"}
    assert f"mmkdprune/.mim/configs/{CONFIG}" in names
    assert "mmkdprune/.mim/tools/train.py" in names


def test_wheel_requires_nothing_that_could_replace_a_fork(built):
    archive = zipfile.ZipFile(built[1])
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in required if "extra ==" not in line] == ["Requires-Dist: numpy", "Requires-Dist: wrapt"]
    for extra, package in [
        ("openmmlab", "mmcv-lite"),
        ("det", "mmdet"),
        ("seg", "ftfy"),
        ("prune", "torch-pruning"),
        ("onnx", "onnxruntime"),
        ("onedl", "onedl-mmengine"),
        ("onedl", "onedl-mmsegmentation"),
        ("tensorboard", "tensorboard"),
    ]:
        assert any(line.startswith(f"Requires-Dist: {package}") and f'"{extra}"' in line for line in required)


def test_sdist_builds_the_same_wheel(built, tmp_path):
    _, wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, unpacked, cwd=tmp_path)
    again = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    first = zipfile.ZipFile(wheel)
    content = {name: first.read(name) for name in first.namelist() if not name.endswith("/RECORD")}
    assert {name: again.read(name) for name in again.namelist() if not name.endswith("/RECORD")} == content


def test_what_was_deleted_does_not_reach_the_next_wheel(built, tmp_path):
    sources = copy_sources(tmp_path / "sources")
    stale = sources / "build" / "lib" / "mmkdprune" / ".mim" / "configs" / "deleted.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, sources, cwd=tmp_path)
    assert set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()) == set(zipfile.ZipFile(built[1]).namelist())


def test_installed_wheel_serves_configs(clean_environment, tmp_path):
    python, site = clean_environment
    output = run(python, "user_script.py", cwd=make_user_folder(tmp_path / "user"))
    assert output.split() == [str(site / "mmkdprune" / "__init__.py"), *SCRIPT_PRINTS]


FEW = [
    *("train_cfg.max_epochs=1", "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
    *("train_dataloader.dataset.indices=128", "val_dataloader.dataset.indices=32"),
]
FEW_TO_EVALUATE = ["train_dataloader.dataset.indices=96", "test_dataloader.dataset.indices=64"]


def test_installed_wheel_trains(clean_environment, tmp_path):
    """Run what ``mim train mmkdprune user_config.py`` runs."""
    python, site = clean_environment
    user = make_user_folder(tmp_path / "user")
    tool = site / "mmkdprune" / ".mim" / "tools" / "train.py"
    output = run(python, tool, "user_config.py", "--launcher", "none", "--cfg-options", *FEW, cwd=user)
    assert "accuracy/top1" in output
    assert (user / "work_dirs" / "user_config" / "epoch_1.pth").is_file()


@pytest.fixture(scope="module")
def user(clean_environment, tmp_path_factory):
    """An empty folder, and ``mmkdprune`` of the wheel in it."""
    folder = tmp_path_factory.mktemp("empty")
    command = clean_environment[0].with_name("mmkdprune")
    return folder, lambda *words: run(command, *words, cwd=folder)


@pytest.fixture(scope="module")
def trained(clean_environment, user):
    """The checkpoint of a pruned network, and what the commands in the docs printed that made its compact form."""
    folder, _ = user
    text = (REPOSITORY / "docs" / "installation.md").read_text()
    commands = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)[1].strip().split("\n")
    few = " ".join(FEW[1:])
    path = f"{clean_environment[0].parent}{os.pathsep}{os.environ['PATH']}"
    printed = {}
    for line in commands:
        line = line.replace("train mine.py", f"train mine.py --cfg-options train_cfg.max_epochs=2 {few}")
        if "mmkdprune onnx" in line:
            pytest.importorskip("onnxruntime")
        printed[line.split()[1]] = run("bash", "-euc", line, cwd=folder, env={"PATH": path})
    return "work_dirs/mine/epoch_2.pth", printed


@pytest.mark.slow
def test_commands_on_a_pruned_network(user, trained):
    folder, mmkdprune = user
    checkpoint, printed = trained
    assert "a copy of mmkdprune::pruning/ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py" in printed["configs"]
    assert "This run:" in printed["train"]
    assert "| MACs |" in printed["compact"]
    assert "between ONNX Runtime and PyTorch" in printed["onnx"]
    assert (folder / "small" / "compact.onnx").is_file()
    few = ("--cfg-options", "test_dataloader.dataset.indices=32")
    assert "accuracy/top1" in mmkdprune("test", "mine.py", checkpoint, *few)
    assert "report.png" in mmkdprune("report", checkpoint, "--out", "reports")


@pytest.mark.slow
def test_commands_on_a_backbone(user, trained):
    folder, mmkdprune = user
    assert "prefix='backbone.'" in mmkdprune("export", trained[0])
    (backbone,) = (folder / "work_dirs" / "mine").glob("*_backbone-*.pth")
    other = "mmkdprune::mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
    assert "accuracy/top1" in mmkdprune("transfer", backbone, "--to", other, "--cfg-options", *FEW)
    to_evaluate = [backbone, "--data", "digits-16px", "--cfg-options", *FEW_TO_EVALUATE]
    assert "linear probe" in mmkdprune("linear-probe", *to_evaluate, "--fast")
    assert "| digits-16px |" in mmkdprune("knn", *to_evaluate)
    episodes = ("--data", "digits", "--episodes", "5", "--shots", "1")
    assert "| digits |" in mmkdprune("few-shot", backbone, *episodes)


@pytest.mark.slow
def test_commands_that_run_others(user):
    _, mmkdprune = user
    student = "mmkdprune::hsakd/hsakd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    assert "at the end" in mmkdprune("pipeline", student, "--cfg-options", *FEW)
    output = mmkdprune("chain", "--only", "pretrain", "--backbones", "plain", "--pretrain-options", *FEW)
    assert "accuracy/top1" in output


def test_remaining_commands_of_the_wheel(user):
    """The demo takes minutes; the tests of the README run it."""
    _, mmkdprune = user
    assert "mmpretrain" in mmkdprune("env")
    assert "usage: mmkdprune demo" in mmkdprune("demo", "--help")


def test_editable_install_serves_configs(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    python, _ = make_environment(tmp_path / "environment", "--editable", sources)
    links = {path.name: os.readlink(path) for path in (sources / "mmkdprune" / ".mim").iterdir()}
    assert links == {name: f"../../{name}" for name in ("configs", "tools", "model-index.yml")}
    output = run(python, "user_script.py", cwd=make_user_folder(tmp_path / "user"))
    assert output.split() == [str(sources / "mmkdprune" / "__init__.py"), *SCRIPT_PRINTS]


# --- make ------------------------------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path):
    return copy_sources(tmp_path / "a checkout")


def make(checkout, *arguments, env=None):
    """Run make, which must fail, and return its message: the one line of output that is not of make itself."""
    result = subprocess.run(
        ["make", *arguments], cwd=checkout, env=clean_environ() | (env or {}), capture_output=True, text=True
    )
    lines = [line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("make: ")]
    lines = [line for line in lines if not line.startswith(("mmkdprune: making", "mmkdprune: updating"))]
    assert result.returncode != 0
    assert len(lines) == 1, lines
    return lines[0]


@needs_make
@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_make_names_a_wrong_python_version(checkout, target):
    fake = checkout / "old-python"
    fake.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    fake.chmod(0o755)
    message = make(checkout, target, f"PYTHON={fake}")
    assert "Python 3.11, 3.12 or 3.13 is needed" in message
    assert "3.9.2" in message
    assert not (checkout / ".venv").exists()


@needs_make
def test_make_names_an_absent_python(checkout):
    assert "there is no such program" in make(checkout, "demo", "PYTHON=/not/there/python3")


@needs_make
def test_make_looks_for_a_fitting_python(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3"
    fake.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    fake.chmod(0o755)
    for other in ("python3.11", "python3.12", "python3.13"):
        (tmp_path / "bin" / other).symlink_to(fake)
    env = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    assert "python3 is 3.9.2; install one of them" in make(checkout, "demo", env=env)
    (tmp_path / "bin" / "python3.13").unlink()
    (tmp_path / "bin" / "python3.13").symlink_to(base_python())
    assert "GB of free disk space" in make(checkout, "demo", env=env | {"MIN_FREE_GB": "1000000"})  # a step further


@needs_make
def test_make_asks_for_disk_space_first(checkout):
    message = make(checkout, "demo", env={"MIN_FREE_GB": "1000000"})
    assert "needs 1000000 GB of free disk space" in message


@needs_make
def test_make_without_network_can_be_repeated(checkout):
    """The address is of this machine and nothing listens there."""
    env = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    for _ in range(2):
        message = make(checkout, "demo", f"PYTHON={base_python()}", env=env | {"PIP_RETRIES": "0"})
        assert "pip cannot get the pinned packages: no network" in message
        assert "log: .venv/install.log" in message
        assert not (checkout / ".venv" / ".complete").exists()


@needs_make
def test_make_does_not_trust_an_interrupted_environment(checkout):
    venv = checkout / ".venv"
    (venv / "lib").mkdir(parents=True)
    (venv / "lib" / "half_a_package.py").touch()
    (venv / ".unfinished").touch()
    make(checkout, "demo", env={"MIN_FREE_GB": "1000000"})
    assert not (venv / "lib" / "half_a_package.py").exists()


@needs_make
def test_make_leaves_a_foreign_folder_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.tex").touch()
    assert "is no virtual environment" in make(checkout, "demo")
    assert (checkout / ".venv" / "thesis.tex").exists()


@needs_make
def test_make_knows_the_stacks(checkout):
    assert "STACK=mmrazor: there are openmmlab and onedl" in make(checkout, "demo", "STACK=mmrazor")
    env = {"MIN_FREE_GB": "1000000"}
    assert ".venv-onedl needs 1000000 GB" in make(checkout, "demo", "STACK=onedl", env=env)
    # An interpreter with the other stack is the base of a new environment; one with the wanted stack is used.
    own = "onedl" if installed_distributions()["mmengine"] == ["onedl-mmengine"] else "openmmlab"
    other = {"onedl": "openmmlab", "openmmlab": "onedl"}[own]
    assert "needs 1000000 GB" in make(checkout, "demo", f"STACK={other}", f"PYTHON={sys.executable}", env=env)
    output = run("make", "--silent", "environment", f"STACK={own}", f"PYTHON={sys.executable}", cwd=checkout)
    assert output.splitlines() == [sys.executable]


def test_both_stacks_are_pinned():
    """What an extra asks for has one version in the environment that `make` makes."""

    def names(file):
        lines = (REPOSITORY / "requirements" / f"{file}.txt").read_text().splitlines()
        entries = [re.match(r"[\w.-]+", line)[0].lower() for line in lines if line and line[0] not in "#-"]
        inner = [line.split()[1].removesuffix(".txt") for line in lines if line.startswith(("-r ", "-c "))]
        return {*entries, *(name for file in inner for name in names(file))}

    assert names("openmmlab") | names("dev") <= names("constraints")
    assert names("onedl") | names("tools") <= names("constraints-onedl")


@needs_make
def test_make_uses_an_interpreter_with_the_stack_as_it_is(checkout):
    output = run("make", "--silent", "environment", f"PYTHON={sys.executable}", cwd=checkout)
    assert output.splitlines() == [sys.executable]
    assert not (checkout / ".venv").exists()
    (checkout / "tools" / "demo.py").write_text("import mmkdprune; print(mmkdprune.__file__)")
    output = run("make", "demo", f"PYTHON={sys.executable}", cwd=checkout)
    assert output.splitlines()[-1] == str(checkout / "mmkdprune" / "__init__.py")


def base_python():
    """The interpreter behind this virtual environment, which has no OpenMMLab stack."""
    return Path(sysconfig.get_config_var("BINDIR")) / f"python3.{sys.version_info.minor}"
