"""What several test files need."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkdprune.compat.versions import release

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent

one_graph = pytest.mark.skipif(
    release(torch.__version__) < (2, 2, 0),
    reason="the compiler of PyTorch 2.1 cuts graphs at zip(strict=True), inference_mode, sets of shapes and others",
)


def run_script(*arguments, status: int = 0) -> str:
    """Run a Python script of the repository as a user would; return what it prints."""
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def run_own_command(command: list[str], monkeypatch) -> None:
    """Run ``python -m mmkdprune ...`` inside this process."""
    from mmkdprune.cli.main import main

    assert command[:3] == [sys.executable, "-m", "mmkdprune"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        main(command[3:])


def run_two_processes(script: str, folder: Path) -> None:
    """Run ``tests/<script> RANK FOLDER`` in two processes; fail with the end of their output unless both end well."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    logs = [folder / f"{rank}.log" for rank in range(2)]  # a pipe that nobody reads would stop its process
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, str(REPOSITORY / "tests" / script), str(rank), str(folder)]
        with log.open("w") as stream:
            processes.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT))
    codes = [process.wait(timeout=600) for process in processes]
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)


def join_two_processes(rank: int, folder: Path) -> None:
    """Become one of the two processes of :func:`run_two_processes`, with one thread."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)


def golden(name: str) -> dict:
    """Read reference values that were computed in float64 with the authors' code."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def det(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    """The deterministic tensor of the golden values: element k in row-major order is scale * sin(a * k + b)."""
    return (scale * torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b)).reshape(shape)


def set_shape_only_weights(module: nn.Module) -> None:
    """Give a network the weights of the golden values, which depend on nothing but the shapes."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                fan_in = parameter.numel() / parameter.shape[0]
                parameter.copy_(det(tuple(parameter.shape), 0.37, 0.11 * parameter.ndim, 2 / math.sqrt(fan_in)))
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.weight.fill_(1)
            if isinstance(getattr(child, "bias", None), nn.Parameter):
                child.bias.zero_()


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters of all modules together."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def assert_matches_golden(actual: Tensor, expected: dict, atol: float = 2e-6) -> None:
    """Compare a tensor with the shape, first values, sum and norm of its golden entry."""
    assert list(actual.shape) == expected["shape"]
    torch.testing.assert_close(
        actual.flatten()[: len(expected["first"])],
        torch.tensor(expected["first"], dtype=torch.float64),
        rtol=0,
        atol=atol,
    )
    for value, name in ((actual.sum(), "sum"), (actual.norm(), "l2")):
        torch.testing.assert_close(value.item(), expected[name], rtol=1e-6, atol=atol)


def network(depth: int | str = 20, num_classes: int = 10, **changes) -> dict:
    """Backbone, neck and head of a small classifier."""
    channels = 256 if str(depth).endswith("x4") else 64
    return {
        "backbone": {"type": "mmkdprune.CifarResNet", "depth": depth},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LinearClsHead", "num_classes": num_classes, "in_channels": channels},
        **changes,
    }


def short_network() -> dict:
    """ResNet-8 without its last stage: two blocks, the fewest with a stage that branches can follow."""
    backbone = {"type": "mmkdprune.CifarResNet", "depth": 8, "num_stages": 2}
    backbone |= {"strides": (1, 2), "dilations": (1, 1), "out_indices": (1,)}
    return network(8, backbone=backbone, head={"type": "LinearClsHead", "num_classes": 10, "in_channels": 32})


def build_model(type_name: str, /, **options) -> nn.Module:
    """Build a model by its registered name, of MMPretrain's scope where it names none."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(Config({"model": {"type": type_name, **options}}).model)


def samples(*labels: int) -> list[DataSample]:
    """Data samples with one label each."""
    return [DataSample().set_gt_label(label) for label in labels]


def batch(size: int = 16, number: int = 6) -> tuple[Tensor, list[DataSample]]:
    """Random images of 10 classes and their data samples."""
    return torch.randn(number, 3, size, size), samples(*(index % 10 for index in range(number)))


class Labelled(torch.utils.data.Dataset):
    """A data set that knows its labels, and no images."""

    def __init__(self, labels) -> None:
        self.labels = np.asarray(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def get_gt_labels(self) -> np.ndarray:
        return self.labels


def save_weights(model: nn.Module, path: Path) -> str:
    """Save a model as a checkpoint and return the path."""
    torch.save({"state_dict": model.state_dict()}, path)
    return str(path)


ALGORITHMS = ("ImageClassifier", "MixSKD", "HSAKD-teacher", "HSAKD", "OnlineHSSAKD", "KnowledgeDistillation")
COHORTS = ("MCL", "LayerwiseMCL")


def build_algorithm(name: str, folder: Path, is_short: bool = False) -> nn.Module:
    """Build one of ``ALGORITHMS`` or ``COHORTS`` with ResNet-8 and initial weights that depend on the name only.

    A short one takes half the time to compile.
    """
    torch.manual_seed(0)
    options: dict = {}
    own = short_network() if is_short else network(8)
    if name in ("HSAKD", "KnowledgeDistillation"):
        teacher = build_model("mmkdprune.HSAKD", phase="teacher", **own)
        options["teacher"] = {**own, "checkpoint": save_weights(teacher, folder / f"{name}.pth")}
    elif name == "HSAKD-teacher":
        name, options["phase"] = "HSAKD", "teacher"
    elif name in COHORTS:
        options["num_peers"] = 2
    model = build_model(name if name == "ImageClassifier" else f"mmkdprune.{name}", **own, **options)
    model.init_weights()
    return model


def forbid_host_synchronisation(monkeypatch) -> None:
    """Let everything that would wait for the device fail."""

    def forbidden(*args, **kwargs):
        raise AssertionError("the step waits for the device")

    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, forbidden)


def trained_state(type_name: str, steps: int = 3, **options) -> dict[str, Tensor]:
    """Weights and statistics after some steps on random images, for comparing methods bit for bit."""
    torch.manual_seed(5)
    model = build_model(type_name, **options)
    model.init_weights()
    optimizer = OptimWrapper(torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.9))
    for _ in range(steps):
        optimizer.update_params(sum(model(*batch(), mode="loss").values()))
    return model.state_dict()


def assert_equal_states(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Compare state dicts bit for bit, keys and their order included."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def assert_starts_as_the_plain_twin(build: Callable[[], nn.Module], parts: set[str]) -> None:
    """Compare keys, initial weights and the random state afterwards with those of the plain network of depth 8."""
    torch.manual_seed(5)
    plain = build_model("ImageClassifier", **network(8))
    plain.init_weights()
    after_plain = torch.rand(1)
    torch.manual_seed(5)
    state = build().state_dict()
    assert torch.equal(torch.rand(1), after_plain)
    assert [key for key in state if key.split(".")[0] in ("backbone", "neck", "head")] == list(plain.state_dict())
    assert {key.split(".")[0] for key in state} == {"backbone", "head"} | parts
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def assert_matches_mcl_golden(backbone: nn.Module, entry: str, num_networks: int | None) -> None:
    """Compare a CIFAR backbone with its entry among the MCL networks; None stands for an entry of L-MCL."""
    expected = golden("kd_nets")[entry]
    backbone.double().train()
    classifier = nn.Linear(backbone.feat_dim, 10).double()
    set_shape_only_weights(backbone)
    set_shape_only_weights(classifier)
    pooled = backbone(det((4, 3, 32, 32), 0.0137, 0.2))[-1].mean((2, 3))
    assert_matches_golden(classifier(pooled), expected["logits0"] if num_networks else expected["logits"][-1])
    if num_networks is None:
        assert count_parameters(backbone, classifier) == expected["params_backbone"]
        return
    assert_matches_golden(pooled, expected["emb0"])
    # Four networks share the stem and the first stage, two share nothing.
    shared = count_parameters(backbone.stem, backbone.stage1) if num_networks == 4 else 0
    assert num_networks * (count_parameters(backbone, classifier) - shared) + shared == expected["params"]


def assert_images_stay_channels_last(model: nn.Module) -> None:
    """Take a step with channels-last images and look at what reaches the first stage of a residual network."""
    model.train().to(memory_format=torch.channels_last)
    seen = []
    model.backbone.layer1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images, data_samples = batch()
    model(images.to(memory_format=torch.channels_last), data_samples, mode="loss")
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def assert_overfits(model: nn.Module, steps: int) -> Tensor:
    """Train on 16 random images of 4 classes, which the deployable network must then know; return the images."""
    model.train()
    images, labels = torch.randn(16, 3, 16, 16), samples(*(index % 4 for index in range(16)))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True))
    for _ in range(steps):
        optimizer.update_params(sum(model(images, labels, mode="loss").values()))
    predicted = torch.cat([sample.pred_label for sample in model.eval()(images, labels, mode="predict")])
    assert (predicted == torch.arange(16) % 4).float().mean() >= 15 / 16
    return images
