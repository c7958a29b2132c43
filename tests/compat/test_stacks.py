import pytest
from testing_helpers import REPOSITORY

from mmkdprune import env
from mmkdprune.compat.stacks import (
    FORK,
    STACKS,
    UPSTREAM,
    find_duplicates,
    find_mixtures,
    install_command,
    installed_distributions,
    stack_of,
)
from mmkdprune.compat.versions import release


def complete(stack):
    return {module: [names[0]] for module, (names, _) in STACKS[stack].items()}


@pytest.mark.parametrize("stack", [UPSTREAM, FORK])
def test_a_whole_stack_is_recognised(stack):
    assert stack_of(complete(stack)) == stack
    assert find_mixtures(complete(stack)) == find_duplicates(complete(stack)) == []


def test_this_environment_is_one_stack():
    found = installed_distributions()
    assert found["mmengine"]
    assert find_mixtures(found) == []
    assert stack_of(found) == (FORK if found["mmengine"] == ["onedl-mmengine"] else UPSTREAM)


@pytest.mark.parametrize(
    ("stack", "change", "parts"),
    [
        (
            FORK,
            {"mmdet": ["mmdet"]},
            ["mmdet beside onedl-mmengine,", "pip uninstall -y mmdet &&", '"onedl-mmdetection>=3.5.1,<4"'],
        ),
        (
            UPSTREAM,
            {"mmengine": ["mmengine", "onedl-mmengine"]},
            [
                "onedl-mmengine beside mmengine,",
                'pip uninstall -y mmengine onedl-mmengine && pip install "mmengine>=0.10.0,<1"',
            ],
        ),
        (
            UPSTREAM,
            {"mmcv": ["onedl-mmcv"], "mmseg": ["onedl-mmsegmentation"]},
            [
                "onedl-mmcv and onedl-mmsegmentation beside mmengine, mmpretrain and mmdet.",
                'pip uninstall -y onedl-mmcv onedl-mmsegmentation && pip install "mmcv-lite>=2.1.0,<2.2" "mmsegm',
            ],
        ),
    ],
)
def test_a_mixture_names_both_and_the_way_out(stack, change, parts):
    (line,) = find_mixtures(complete(stack) | change)
    for part in parts:
        assert part in line


def test_what_is_not_installed_is_no_mixture():
    nothing = dict.fromkeys(STACKS[FORK], ())
    assert find_mixtures(nothing) == []
    assert stack_of(nothing) == UPSTREAM


def test_two_builds_of_mmcv_are_named():
    (line,) = find_duplicates(complete(UPSTREAM) | {"mmcv": ["mmcv-lite", "mmcv"]})
    assert "mmcv-lite and mmcv are one module" in line
    assert install_command(["mmcv"], UPSTREAM) in line


@pytest.mark.parametrize(("stack", "files"), [(UPSTREAM, ("openmmlab", "det", "seg")), (FORK, ("onedl",))])
def test_the_extras_install_what_the_advice_names(stack, files):
    lines = [line for file in files for line in (REPOSITORY / "requirements" / f"{file}.txt").read_text().splitlines()]
    entries = {line.partition("#")[0].strip() for line in lines}
    assert {f"{names[0]}{limits}" for names, limits in STACKS[stack].values()} <= entries


@pytest.mark.parametrize("module", ["mmpretrain", "mmdet", "mmseg"])
def test_upstream_packages_take_every_mmcv_that_the_extra_installs(module):
    if stack_of(installed_distributions()) != UPSTREAM:
        pytest.skip("the forks are installed")
    _, newest = env._stated_limits(module)["mmcv"]
    assert release(STACKS[UPSTREAM]["mmcv"][1].partition("<")[2]) <= release(newest)
