"""Backbones in detectors and segmentors: the transfer configs, ``tools/transfer.py``, and pruned ones in both forms."""

import copy
import functools
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_configs import models_of
from testing_helpers import REPOSITORY, count_parameters
from transfer_helpers import (
    FCN,
    FOLDER,
    NARROW,
    NARROW_OPTIONS,
    RETINANET,
    DenseBackbones,
    PrunedBackbones,
    backbone_settings,
    backbone_state,
    build_model,
    check_loaded,
    fits,
    save_pruned,
    small_config,
    write_scenes,
)

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.reading import parse_options, read_config
from mmkdprune.deploy.transfer import transfer_backbone
from mmkdprune.pruning import ZeroKeeper, load_plan
from mmkdprune.pruning.forward import run_deployable
from mmkdprune.registry import HOOKS

CONFIGS = sorted(FOLDER.glob("*/*.py"))
# Rows of the papers and their relatives; others are of small sets and have tests of their own.
ROWS = [path for path in CONFIGS if re.search(r"_(coco|voc0712|ade20k|coco-stuff164k|voc12aug|cityscapes)", path.stem)]
ROWS = [path for path in ROWS if not re.search(r"_(digit-scenes|bccd|camvid|coco-mini)", path.stem)]
FAMILIES = [
    RETINANET,
    "detection/faster-rcnn_r50_fpn_1x_coco",
    "detection/cascade-rcnn_r50_fpn_1x_coco",
    "detection/mask-rcnn_r50_fpn_1x_coco",
    "segmentation/deeplabv3_r50-d8_4xb4-40k_ade20k-512x512",
    FCN,
    "segmentation/pspnet_r50-d8_4xb4-40k_ade20k-512x512",
    "segmentation/upernet_r50_4xb4-40k_ade20k-512x512",
]
CHECKPOINT = "model.backbone.init_cfg.checkpoint"
# Layers that read the backbone, and which of its stages.
READERS = {
    RETINANET: {
        "neck.lateral_convs.0.conv.weight": 1, "neck.lateral_convs.1.conv.weight": 2,
        "neck.lateral_convs.2.conv.weight": 3, "neck.fpn_convs.3.conv.weight": 3,
    },
    FCN: {
        "decode_head.convs.0.conv.weight": 3, "decode_head.conv_cat.conv.weight": 3,
        "auxiliary_head.convs.0.conv.weight": 2,
    },
}  # fmt: skip

for package in ("mmdet", "mmseg"):
    pytest.importorskip(package)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return DenseBackbones(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return PrunedBackbones(tmp_path_factory.mktemp("pruned"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes")


@functools.cache
def _read(path: str) -> Config:
    return read_config(path)


def config_of(path: str | Path) -> Config:
    """A config of its own; reading what inherits from another package takes a second."""
    return copy.deepcopy(_read(str(path)))


def without_scope(settings):
    """MMEngine notes in what is inherited from another package where that was."""
    if isinstance(settings, dict):
        return {key: without_scope(value) for key, value in settings.items() if key != "_scope_"}
    return [without_scope(value) for value in settings] if isinstance(settings, list | tuple) else settings


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_and_loads_its_backbone(path, dense):
    config = config_of(path)
    transfer = transfer_backbone(dense(backbone_settings(config)), config)
    assert fits(transfer)
    assert "in_channels" not in "".join(transfer.notes)  # neck and heads have the widths already
    model = build_model(transfer)
    assert len(transfer.report.matched) == len(model.backbone.state_dict())
    # The lines of the config itself, with nothing but the file changed, load the same.
    assert config.model.backbone.init_cfg.prefix == transfer.config.model.backbone.init_cfg.prefix == "backbone."
    if path not in ROWS:
        return
    assert not transfer.notes  # colours are the backbone's
    entry = models_of(path.parent / "metafile.yml")[str(path.relative_to(REPOSITORY))]
    facts = entry["Metadata"]
    assert (entry["Name"], facts["Parameters"]) == (path.stem, count_parameters(model))
    assert facts["Batch Size"] == config.auto_scale_lr.base_batch_size
    assert facts.get("Epochs", facts.get("Iterations")) in config.train_cfg.values()


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_rows_are_the_stock_configs_with_another_backbone_file(path):
    config = config_of(path)
    backbone = config.model.backbone
    assert (backbone.type, backbone.style, backbone.depth) == ("ResNet", "pytorch", 18 if "_r18_" in path.stem else 50)
    # The default is where the run of a config of this repository ends.
    run = re.fullmatch(r"work_dirs/(.*)/epoch_(\d+)\.pth", backbone.init_cfg.checkpoint)
    (source,) = (REPOSITORY / "configs").glob(f"*/{run[1]}.py")
    assert config_of(source).train_cfg.max_epochs == int(run[2])
    if path.parent.name == "detection":
        base = re.search(r"'(mmdet::\S+)'", path.read_text())
        if base:
            ours, stock = (without_scope(one.to_dict()) for one in (config, config_of(base[1])))
            assert ours["model"]["backbone"].pop("init_cfg") != stock["model"]["backbone"].pop("init_cfg")
            assert ours == stock
        assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    else:
        optimizer, (schedule,) = config.optim_wrapper.optimizer, config.param_scheduler
        assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("SGD", 0.02, 0.9, 1e-4)
        assert (schedule.type, schedule.power, schedule.end, config.train_cfg.max_iters) == (
            "PolyLR",
            0.9,
            40000,
            40000,
        )
        gpus, images, width, height = re.search(r"_(\d)xb(\d)-40k_.*-(\d+)x(\d+)$", path.stem).groups()
        assert config.train_dataloader.batch_size == int(images)
        assert int(gpus) * int(images) == config.auto_scale_lr.base_batch_size == 16
        assert config.model.data_preprocessor.size == (int(width), int(height))
        assert [
            step.crop_size for step in config.train_dataloader.dataset.get("pipeline", []) if "crop_size" in step
        ] in (
            [(int(width), int(height))],
            [],
        )
        assert config.model.auxiliary_head.loss_decode.loss_weight == 0.4
        assert config.model.decode_head.num_classes == config.model.auxiliary_head.num_classes
        dilated = "upernet" not in path.stem
        assert backbone.dilations == ((1, 1, 2, 4) if dilated else (1, 1, 1, 1))


def test_readmes_have_the_figures_of_the_metafiles():
    checked = 0
    for folder in ("detection", "segmentation"):
        readme = (FOLDER / folder / "README.md").read_text()
        for entry in models_of(FOLDER / folder / "metafile.yml").values():
            for metric, value in entry["Metadata"].get("Paper Results", {}).items():
                if metric in ("box mAP", "mAP", "mIoU"):
                    assert re.search(rf"\b{value}\b", readme), entry["Name"]
                    checked += 1
    assert checked == 5


@pytest.mark.parametrize("name", FAMILIES, ids=lambda name: name.split("/")[1].split("_")[0])
def test_every_head_trains_and_is_validated(name, dense, scenes, tmp_path, call, monkeypatch):
    """By the commands: the narrow backbone's widths reach the heads, two iterations and a validation follow."""
    monkeypatch.chdir(tmp_path)
    config = small_config(FOLDER / f"{name}.py", scenes, tmp_path)
    code, output = call("transfer.py", dense(NARROW), "--to", config, "--no-train")
    assert code == 0, output
    assert "dense backbone: 318 keys matched, 0 missing, 0 unexpected" in output
    assert "feature maps: 64, 128, 256, 512 channels" in output
    command = re.search(r"^\$ mmkdprune train (\S+) --work-dir (\S+)$", output, flags=re.M)
    code, output = call("train.py", command[1], "--work-dir", command[2])
    assert code == 0, output
    assert "ResNet loaded from" in output
    assert "318 keys matched, 0 missing, 0 unexpected" in output
    metric = "coco/bbox_mAP" if "detection" in name else "mIoU"
    assert metric in output
    assert ("coco/segm_mAP" in output) == ("mask" in name)
    (checkpoint,) = [path for path in Path(command[2]).glob("*.pth") if path.stem in ("epoch_1", "iter_2")]
    trained, start = backbone_state(checkpoint), backbone_state(dense(NARROW))
    assert not torch.equal(trained["layer4.2.conv3.weight"], start["layer4.2.conv3.weight"])
    frozen = "detection" in name
    assert torch.equal(trained["layer1.0.conv1.weight"], start["layer1.0.conv1.weight"]) == frozen
    assert torch.equal(trained["layer3.0.bn1.running_mean"], start["layer3.0.bn1.running_mean"]) == frozen
    if name in (RETINANET, FCN):  # a test of the checkpoint, with pictures
        code, output = call("test.py", command[1], checkpoint, "--show-dir", tmp_path / "shown")
        assert code == 0, output
        assert metric in output
        assert len(list((tmp_path / "shown").rglob("*.png"))) == 4
    if name == RETINANET:  # a second training must not lose the first
        code, output = call("train.py", command[1], "--work-dir", command[2])
        assert code == 1
        assert "already holds checkpoints" in output


@pytest.mark.parametrize("keep", [True, False])
def test_zeros_stay_through_fine_tuning(keep, pruned, scenes, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zeroed, _ = pruned["independent"]
    config = small_config(FOLDER / f"{RETINANET}.py", scenes, tmp_path)
    options = ["--keep-zeros"] if keep else []
    code, output = call("transfer.py", zeroed, "--to", config, "--no-train", "--out", "out.py", *options)
    assert code == 0, output
    zero, filters = re.search(r"(\d+) of (\d+) filters are zero", output).groups()
    code, output = call("train.py", "out.py", "--work-dir", "run", "--no-validate")
    assert code == 0, output
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert (f"{zero} of {filters} filters of backbone are zero and stay so" in log.read_text()) == keep
    before, after = backbone_state(zeroed), backbone_state(tmp_path / "run" / "epoch_1.pth")
    if keep:  # an interrupted run ends as the other does
        options = [
            "--no-validate",
            "--cfg-options",
            "randomness.seed=0",
            "default_hooks.checkpoint.save_optimizer=True",
        ]
        longer = [*options, "train_cfg.max_epochs=2"]
        for work_dir, first in (("straight", longer), ("resumed", options)):
            code, output = call("train.py", "out.py", "--work-dir", work_dir, *first)
            assert code == 0, output
        code, output = call("train.py", "out.py", "--work-dir", "resumed", "--resume", *longer)
        log = max((tmp_path / "resumed").glob("*/*.log"), key=lambda path: path.stat().st_mtime_ns)
        assert "Pruning was finished in the run that is resumed: its zeros stay" in log.read_text()
        one, other = (load_checkpoint_file(f"{name}/epoch_2.pth") for name in ("straight", "resumed"))
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    revived = 0
    for name, weight in before.items():
        if name.endswith("conv3.weight"):
            zero = (weight == 0).flatten(1).all(1)
            shift = name.replace("conv3.weight", "bn3.bias")
            assert zero.any()
            assert not torch.equal(weight, after[name]) or name.startswith("layer1")  # frozen
            revived += int(after[shift][zero].count_nonzero()) + int(after[name][zero].count_nonzero())
    assert (revived == 0) == keep


@pytest.mark.parametrize("name", [RETINANET, FCN], ids=["retinanet", "fcn"])
@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_compact_backbone_equals_the_masked_one(name, coupling, pruned, tmp_path):
    """In the whole model: dilated, frozen and in evaluation mode as the config says, with widths that follow."""
    zeroed, small = pruned[coupling]
    config = Config.fromfile(FOLDER / f"{name}.py")
    config.merge_from_dict(NARROW_OPTIONS)
    masked, compact = (transfer_backbone(path, config) for path in (zeroed, small))
    assert compact.is_compact
    assert not masked.is_compact
    assert fits(compact)
    models = [build_model(transfer) for transfer in (masked, compact)]
    plan = load_plan(small).part("backbone")
    widths = [39, 77, 154, 308] if coupling == "group" else [64, 128, 256, 512]
    assert compact.channels == widths
    torch.manual_seed(0)
    for model in models:
        model.init_weights()
    state = models[0].state_dict()
    ends = [plan.kept(f"layer{stage + 1}.{block}.conv3") for stage, block in enumerate((2, 3, 5, 2))]
    for key, stage in READERS[name].items() if coupling == "group" else ():
        rest = range(masked.channels[stage], state[key].shape[1])  # the head's own channels, behind the backbone's
        state[key] = state[key][:, [*ends[stage], *rest]]
    heads = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    assert not models[1].load_state_dict(heads, strict=False).unexpected_keys
    for model in models:
        model.train()
        assert model.backbone.layer3[0].bn1.training == ("segmentation" in name)
        frozen = not any(parameter.requires_grad for parameter in model.backbone.layer1.parameters())
        assert frozen == ("detection" in name)
        model.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (list(run_deployable(model, images)) for model in models)
    for first, second in zip(one, other, strict=True):
        assert ((first - second).abs().max() / first.abs().max()).item() < 1e-5


@pytest.fixture(scope="module")
def files(dense, tmp_path_factory) -> dict[str, str]:
    """ResNet-50 at full size under the names that the documentation gives its files."""
    settings = {"type": "ResNet", "depth": 50}
    zeroed, small = save_pruned(tmp_path_factory.mktemp("files"), settings, "group")
    names = {"work_dirs/compact/compact.pth": small, "BACKBONE.pth": dense(settings), "PRUNED.pth": zeroed}
    return {name: str(path) for name, path in names.items()}


def documented(kind: str, file: str = "docs/transfer.md") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (REPOSITORY / file).read_text(), flags=re.M | re.S)


def test_the_lines_of_the_documentation(files, tmp_path):
    blocks = documented("python")
    assert len(blocks) == 4
    assert documented("python", "README.md")[-1] == blocks[0]
    for number, block in enumerate(blocks):
        assert len([line for line in block.split("\n") if line and not line.startswith("_base_")]) <= 3
        (checkpoint,) = [path for name, path in files.items() if f'"{name}"' in block]
        for name, path in files.items():
            block = block.replace(f'"{name}"', f'"{path}"')
        config = tmp_path / f"lines{number}.py"
        config.write_text(block)
        check_loaded(Config.fromfile(config), checkpoint)
    hooks = Config.fromfile(config).custom_hooks
    assert HOOKS.build(hooks[0]).builder.kind is ZeroKeeper


def test_the_options_of_the_documentation(files):
    """The same by ``--cfg-options`` alone."""
    (block,) = documented("text")
    kinds = re.split(r"^(?=\w)", block, flags=re.M)[1:]
    assert [kind.split()[0] for kind in kinds] == ["dense", "compact", "zeroed"]
    for kind in kinds:
        config = Config.fromfile(FOLDER / f"{RETINANET}.py")
        options = parse_options(kind.split()[1:])
        (checkpoint,) = [path for name, path in files.items() if name.endswith(options[CHECKPOINT])]
        config.merge_from_dict({**options, CHECKPOINT: checkpoint})
        check_loaded(config, checkpoint)
    assert HOOKS.build(config.default_hooks.pruning).builder.kind is ZeroKeeper


def test_the_command_checks_writes_and_trains(dense, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint, target = dense({"type": "ResNet", "depth": 50}), FOLDER / f"{RETINANET}.py"
    started = []
    monkeypatch.setattr("os.execvp", lambda file, command: started.append(command))
    code, output = call("transfer.py", checkpoint, "--to", target, "--check-only")
    assert (code, list(tmp_path.iterdir()), started) == (0, [], []), output
    code, output = call("transfer.py", checkpoint, "--to", target)
    name = f"retinanet_r50_fpn_1x_coco_from_{checkpoint.stem}"
    assert code == 0, output
    train = [sys.executable, "-m", "mmkdprune", "train", f"work_dirs/{name}.py", "--work-dir", f"work_dirs/{name}"]
    assert started.pop() == train
    written = Path(f"work_dirs/{name}.py")
    assert Config.fromfile(written).model.backbone.init_cfg.checkpoint == str(checkpoint)
    # The same again is no conflict, so that --resume works; something else is.
    code, _ = call("transfer.py", checkpoint, "--to", target, "--resume", "--gpus", 2)
    assert code == 0
    assert started.pop() == [*train, "--gpus", "2", "--resume"]
    changed = ["transfer.py", checkpoint, "--to", target, "--no-train", "--cfg-options", "train_cfg.max_epochs=1"]
    before = written.read_bytes()
    code, output = call(*changed)
    assert code == 1
    assert "exists already and differs: give another --out, or replace it with --overwrite" in output
    assert written.read_bytes() == before
    code, output = call(*changed[:5], "--overwrite", *changed[5:])
    assert code == 0, output
    assert Config.fromfile(written).train_cfg.max_epochs == 1
    assert not started
    code, output = call(
        "transfer.py", checkpoint, "--to", target, "--check-only", "--cfg-options", "model.backbone.depth=101"
    )
    assert code == 1
    assert output.count("error: model.backbone.depth is 101 in the config") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "adapted.json"], "--out is a Python config and ends in .py, got adapted.json"),
        (["--work-dir", "."], "--work-dir . has no name to call the config by: give --out, too"),
        (["--gpus", "0"], "--gpus must be 1 or more"),
    ],
)
def test_mistakes_on_the_command_line(words, message, call):
    code, output = call("transfer.py", "backbone.pth", "--to", "config.py", *words)
    assert code == 2
    assert message in output


def test_missing_files_are_told_before_training(scenes, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small_config(FOLDER / f"{RETINANET}.py", scenes, tmp_path)
    code, output = call("train.py", config)
    assert code == 1
    assert "model.backbone.init_cfg.checkpoint: there is no checkpoint work_dirs/mixskd_resnet50" in output
    assert "model.backbone.init_cfg=None starts from random weights" in output
    options = ["model.backbone.init_cfg=None", "model.neck.in_channels=[64,128,256,512]"]
    options += ["train_dataloader.dataset.data_prefix.img=elsewhere"]
    code, output = call("train.py", config, "--cfg-options", *options)
    assert code == 1
    assert "train_dataloader: 4 files that CocoDataset lists are not there (of its 4 entries)" in output
    assert "elsewhere/0.png" in output
    assert "coco.json" in output
