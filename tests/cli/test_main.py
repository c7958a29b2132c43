"""The command ``mmkdprune``: help without PyTorch, misspelt words, and what it repeats of heavy modules."""

import resource
import subprocess
import sys

import pytest
from testing_helpers import REPOSITORY, run_script

from mmkdprune.cli import chain, few_shot, linear_probe, onnx
from mmkdprune.cli.main import COMMANDS, main

HEAVY = ("torch", "mmengine", "mmcv", "mmpretrain", "numpy.random")
SAYS_WHAT_WAS_LOADED = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", [name for name in {HEAVY!r} if name in sys.modules]))
from mmkdprune.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_comes_at_once(words):
    """Far below a second of processor time, since nothing heavy is imported for it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", SAYS_WHAT_WAS_LOADED, *words]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "loaded: []" in result.stdout
    assert f"usage: mmkdprune {words[0] if len(words) > 1 else 'COMMAND'}" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_overview_names_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.HELP in shown


def test_it_is_a_module_and_a_set_of_scripts():
    overview = run_script("-m", "mmkdprune")
    assert overview == run_script("-m", "mmkdprune", "--help")
    assert run_script("-m", "mmkdprune", "train", "--help").startswith("usage: mmkdprune train")
    assert "Train a model from a config." in run_script("tools/train.py", "--help")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tarin", "config.py"], "has no command 'tarin'; did you mean `mmkdprune train`?"),
        (["fewshot"], "did you mean `mmkdprune few-shot`?"),
        (["quux"], "has no command 'quux'; `mmkdprune --help` lists them"),
        (["train", "config.py", "--work_dir", "x"], "unrecognized arguments: --work_dir x (did you mean --work-dir?)"),
        (["train", "config.py", "--overwite"], "(did you mean --overwrite?)"),
        (["train", "config.py", "--resume", "--overwrite"], "give one of them"),
        (["train", "config.py", "--gpus", "0"], "--gpus must be 1 or more, got 0"),
        (["knn", "a.pth"], "the following arguments are required: --data"),
    ],
)
def test_misspelt_words(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("model.type=mmkdprune.MixSDK", "Did you mean type='mmkdprune.MixSKD'?"),
        ("model.backbone.type=mmkdprune.CifarResnet", "Did you mean type='mmkdprune.CifarResNet'?"),
        ("model.backbone.type=CifarResNet", "Did you mean type='mmkdprune.CifarResNet'?"),
    ],
)
def test_misspelt_types(override, hint, call):
    config = "mmkdprune::mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py"
    code, printed = call("train", config, "--dry-run", "--cfg-options", override)
    assert code
    assert hint in printed


def test_choices_are_those_of_the_modules_that_are_not_imported_for_help():
    from mmkdprune.commands.chain import stages
    from mmkdprune.deploy import onnx as deploy_onnx
    from mmkdprune.evaluation import few_shot as evaluation_few_shot
    from mmkdprune.evaluation import linear

    assert chain.STAGES == stages.STAGES
    assert chain.BACKBONES == stages.BACKBONES
    assert onnx.OPSET == deploy_onnx.OPSET
    assert few_shot.CLASSIFIERS == evaluation_few_shot.CLASSIFIERS
    assert few_shot.TRANSFORMS == evaluation_few_shot.TRANSFORMS
    assert linear_probe.SOLVERS == linear.SOLVERS
