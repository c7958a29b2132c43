"""Every run of ``configs/pruning/variants.yml``, the tool that lists them, and the one that draws a run."""

import copy
import functools
import json
import re
import runpy
import shlex
import sys

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from mmpretrain.registry import MODELS
from testing_helpers import REPOSITORY, count_parameters

from mmkdprune.cli.main import main
from mmkdprune.commands.variants import load_variants
from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.pruning import METHODS, FilterPruner, WeightPruner

LIST = REPOSITORY / "configs" / "pruning" / "variants.yml"
VARIANTS = load_variants(LIST)
PARAMETERS = {
    ("resnet20", "cifar10"): 269_722,
    ("resnet32", "cifar10"): 464_154,
    ("resnet56", "cifar10"): 853_018,
    ("resnet110", "cifar10"): 1_727_962,
    ("resnet18", "imagenet"): 11_689_512,
    ("resnet34", "imagenet"): 21_797_672,
    ("resnet50", "imagenet"): 25_557_032,
}


@functools.cache
def read(path) -> Config:
    return Config.fromfile(path)


def merged(variant) -> Config:
    """The config as ``tools/train.py`` reads it with the options of the command line."""
    config = copy.deepcopy(read(variant.config))
    options = dict(word.split("=", 1) for word in variant.option_words())
    config.merge_from_dict({name: DictAction._parse_iterable(value) for name, value in options.items()})
    return config


def test_all_methods_networks_and_starts_are_there():
    # on Digits the names say what happens to the BatchNorm of soft filters
    policies = {re.sub("-(hard_only|follow)(?=-0.4)", "", name) for name in VARIANTS}
    for method in METHODS:
        assert f"{method}-0.4_resnet20_1xb64-20e_digits-16px" in policies
        assert f"{method}-0.4_resnet20_1xb64-80e_cifar100-20classes-16px" in VARIANTS
        for dataset in ("cifar10", "cifar100"):
            for network in ("resnet20", "resnet32", "resnet56", "resnet110"):
                for rate in (0.1, 0.2, 0.3, 0.4):
                    for start in ("", "-pretrained"):
                        assert f"{method}-{rate}_{network}_1xb128-200e{start}_{dataset}" in VARIANTS
        for network in ("resnet18", "resnet34", "resnet50"):
            for start in ("", "-pretrained"):
                assert f"{method}-0.4_{network}_8xb32-100e{start}_in1k" in VARIANTS


def test_every_variant_says_what_its_name_says():
    pruners = set()
    for name, variant in VARIANTS.items():
        if "0.1" in name or "0.2" in name or "cifar100" in name:
            continue  # the same options with another number or data set
        config = merged(variant)
        start, network = re.match(r"(.*?)_(resnet\d+)_", name).groups()
        assert f"resnet{config.model.backbone.depth}" == network
        if name.startswith("plain_"):
            assert not any("Pruning" in hook["type"] for hook in config.get("custom_hooks", []))
            continue
        hook = config.custom_hooks[0]
        assert hook.type == "mmkdprune.FilterPruningHook"
        method, rate = start.rsplit("-", 1)
        assert hook.pruner.rate == float(rate)
        kind = WeightPruner if method.startswith("weights-") else FilterPruner
        settings = json.dumps(hook.pruner, sort_keys=True)
        if settings not in pruners:
            pruners.add(settings)
            builder = PrunerBuilder(hook.pruner)
            assert builder.kind is kind
            assert builder.method == re.sub("^weights-|-(mix|follow|taylor|hard_only)$", "", method)
        pretrained = "-pretrained_" in name
        assert (config.load_from is not None) == pretrained
        assert config.optim_wrapper.optimizer.lr == (0.01 if pretrained else 0.05 if "digits" in name else 0.1)
        if pretrained:
            plain, epochs = config.load_from.removeprefix("work_dirs/").split("/")
            assert plain in VARIANTS
            assert merged(VARIANTS[plain]).model == config.model
            assert epochs == f"epoch_{config.train_cfg.max_epochs}.pth"
    assert len(pruners) > 40


@pytest.mark.parametrize(("network", "dataset"), PARAMETERS)
def test_networks_build_and_are_pruned_where_the_papers_prune(network, dataset):
    schedule = "1xb128-200e_cifar10" if dataset == "cifar10" else "8xb32-100e_in1k"
    config = merged(VARIANTS[f"asrfp-0.3_{network}_{schedule}"])
    init_default_scope("mmpretrain")
    model = MODELS.build(config.model)
    assert count_parameters(model) == PARAMETERS[network, dataset]
    pruner = PrunerBuilder(config.custom_hooks[0].pruner)(model)
    depth = int(network.removeprefix("resnet"))
    # all convolutions but the shortcuts, which the CIFAR networks have none of: the layer count is that of the paper
    assert len(pruner.masks) == depth - 1
    assert len(pruner.skipped) == {18: 3, 34: 3, 50: 4}.get(depth, 0)
    logits = model.eval()(torch.zeros(1, 3, 32, 32), mode="tensor")
    assert logits.shape == (1, 10 if dataset == "cifar10" else 1000)


def test_names_are_unique_and_formatted(tmp_path):
    file = tmp_path / "list.yml"
    file.write_text("variants:\n- {name: 'a{x}', config: b.py, axes: {x: {'1': {k: 'v{x}'}, '2': {}}}}\n")
    one, two = load_variants(file).values()
    assert (one.name, one.option_words(), one.config) == ("a1", ["k=v1"], tmp_path / "b.py")
    assert (two.name, two.options) == ("a2", {})
    file.write_text("variants:\n- {name: a, config: b.py, axes: {x: {'1': {}, '2': {}}}}\n")
    with pytest.raises(ValueError, match="two variants are called a"):
        load_variants(file)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script, or a command of ``mmkdprune``, inside this process; returns what it printed."""

    def run_tool(*arguments, status=0):
        tool, *words = map(str, arguments)
        for manager in (MMLogger, MessageHub, Visualizer, DefaultScope):
            manager._instance_dict.clear()  # loggers of an earlier run would write to a stream that pytest has closed
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setattr(sys, "argv", [tool, *words])
        code = 0
        try:
            if tool.endswith(".py"):
                runpy.run_path(tool, run_name="__main__")
            else:
                main([tool, *words])
        except SystemExit as end:
            code = 1 if isinstance(end.code, str) else end.code or 0
            print(end.code)
        printed = capsys.readouterr()
        assert code == status, (printed.out + printed.err)[-3000:]
        return printed.out + (printed.err if status else "")

    return run_tool


def test_tool_lists_shows_and_writes(run, tmp_path):
    tool = REPOSITORY / "tools" / "pruning_variants.py"
    assert run(tool).split() == list(VARIANTS)
    (line,) = run(tool, r"^fpgm-mix-0\.4_resnet56.*e_cifar10$").strip().splitlines()
    words = shlex.split(line)
    assert words[:3] == ["mmkdprune", "train", "configs/pruning/ghfp-asrfp_resnet20_1xb128-200e_cifar10.py"]
    assert "custom_hooks.0.pruner.criterion.norm_share=0.75" in words
    out = tmp_path / "configs"
    name = "fpgm-mix-0.4_resnet20_1xb64-20e_digits-16px"
    assert run(tool, name, "--out", out).strip() == str(out / f"{name}.py")
    written = Config.fromfile(out / f"{name}.py")
    assert written.pretty_text == merged(VARIANTS[name]).pretty_text
    assert "exists already" in run(tool, name, "--out", out, status=1)
    assert "matches none of the" in run(tool, "resnet19", status=1)


def test_pruned_run_and_its_report_anew(run, tmp_path):
    """From the command of the list to the picture, remade from the checkpoint, the report and the log."""
    (line,) = run("tools/pruning_variants.py", r"^ghfp-srfp-hard_only-0\.6_.*digits").strip().splitlines()
    words = shlex.split(line)[1:]
    words[words.index("--work-dir") + 1] = str(tmp_path / "run")
    few = ("train_cfg.max_epochs=3", "train_dataloader.dataset.indices=64", "val_dataloader.dataset.indices=32")
    run(*words, *few)
    work_dir = tmp_path / "run"
    report = json.loads((work_dir / "pruning_report.json").read_text())
    assert report["steps"][-1]["zero"] == 9 * 7 + 19 * 6 + 38 * 6  # floor(0.6 N) in each layer
    assert report["complexity"]["params"] == 271_824
    assert report["paper_flops"]["reduction"] > 0.7
    assert (work_dir / "pruning_report.png").is_file()
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    tool = "report"
    for source in (work_dir / "epoch_3.pth", work_dir / "pruning_report.json", log):
        out = tmp_path / source.suffix.strip(".") / source.stem
        run(tool, source, "--out", out)
        again = json.loads((out / "pruning_report.json").read_text())
        assert (out / "pruning_report.png").read_bytes().startswith(b"\x89PNG")
        keys = ("rate", "decay", "hard_share", "pruned", "hard", "zero")
        steps = [step for step in report["steps"] if source is not log or not step["final"]]
        for ours, theirs in zip(again["steps"], steps, strict=True):
            assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
            assert {name: row["zero"] for name, row in ours["layers"].items()} == {
                name: row["zero"] for name, row in theirs["layers"].items()
            }
    assert "there is no file" in run(tool, tmp_path / "absent.pth", status=1)
    plain = tmp_path / "plain.pth"
    torch.save({"state_dict": {}}, plain)
    assert "holds no pruning state" in run(tool, plain, status=1)
    assert "holds no prune steps" in run(tool, write(tmp_path / "scalars.json", '{"loss": 1, "step": 1}'), status=1)


def write(path, text):
    path.write_text(text)
    return path
