import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.models.backbones import EfficientNetV2
from testing_helpers import (
    ALGORITHMS,
    COHORTS,
    assert_equal_states,
    batch,
    build_algorithm,
    build_model,
    forbid_host_synchronisation,
    network,
    one_graph,
    samples,
)

from mmkdprune.models.utils import compilation
from mmkdprune.models.utils.compilation import compile_training

# Columns of MMPretrain: repeats, kernel, stride, expansion, channels in and out, squeeze-and-excitation, kind of block
FEW_BLOCKS = [
    [1, 3, 1, 1, 32, 16, 0.0, -1],
    [1, 3, 2, 4, 16, 24, 0.0, 0],
    [1, 3, 2, 4, 24, 24, 0.25, 1],
    [1, 1, 1, 1, 24, 32, 0.0, -2],
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path, one_thread):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs(list):
    """A backend that collects the graphs and runs them as they are."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return graph.forward

    def called(self):
        """Names of what the graphs call: functions, methods, and in older versions of PyTorch modules."""
        kinds = ("call_function", "call_method", "call_module")
        return {str(node.target) for graph in self for node in graph.graph.nodes if node.op in kinds}


def pair(name, folder, **options):
    """The same model twice, the second one compiled."""
    plain, compiled = (build_algorithm(name, folder, is_short=True).train() for _ in range(2))
    compile_training(compiled, **options)
    return plain, compiled


def step(model, images, data_samples):
    model.zero_grad()
    losses = model(images, data_samples, mode="loss")
    sum(losses.values()).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


@one_graph
@pytest.mark.parametrize("name", [*ALGORITHMS, *COHORTS])
def test_the_tensor_part_is_one_graph_with_the_losses_of_the_plain_step(name, tmp_path, monkeypatch):
    graphs = Graphs()
    plain, compiled = pair(name, tmp_path, backend=graphs, fullgraph=True)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    images, data_samples = batch()
    for _ in range(2):
        torch.testing.assert_close(step(compiled, images, data_samples), step(plain, images, data_samples))
    assert len(graphs) == 1
    assert any("conv" in name for name in graphs.called())
    assert not graphs.called() & {"item", "tolist", "cpu", "numpy", "nonzero", "unique"}
    # validation does not notice
    assert torch.equal(compiled.eval()(images), compiled.train().eval()(images))
    assert len(graphs) == 1
    forbid_host_synchronisation(monkeypatch)
    step(compiled.train(), images, data_samples)


@one_graph
@pytest.mark.parametrize("name", ["ImageClassifier", "MixSKD"])  # each way to compile: a function, and a method
def test_the_leftover_batch_of_an_epoch_has_a_graph_of_its_own_once(name, tmp_path):
    graphs = Graphs()
    _, compiled = pair(name, tmp_path, backend=graphs, fullgraph=True)
    full, few = batch(), batch(number=4)
    for one in (full, few, full, few):
        step(compiled, *one)
    assert len(graphs) == 2
    compiled.eval()(few[0])
    assert len(graphs) == 2


@one_graph
def test_stages_that_are_known_by_tracing_only(monkeypatch):
    # A block or two at each resolution; time to compile goes with their number.
    monkeypatch.setitem(EfficientNetV2.arch_settings, "b0", FEW_BLOCKS)
    options = network(8, backbone={"type": "EfficientNetV2", "arch": "b0"})
    options["head"]["in_channels"] = 32
    plain, compiled = (build_model("mmkdprune.HSAKD", phase="teacher", **options).train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    graphs = Graphs()
    compile_training(compiled, backend=graphs, fullgraph=True)
    images, data_samples = batch(size=64, number=2)
    torch.testing.assert_close(step(compiled, images, data_samples), step(plain, images, data_samples))
    duplicate = copy.deepcopy(compiled)
    torch.testing.assert_close(step(duplicate, images, data_samples), step(plain, images, data_samples))
    assert len(graphs) == 1
    assert compiled.stage_protocol.taps is None  # no feature map outlives its step


def test_hooks_that_older_versions_of_pytorch_cannot_follow_are_refused(monkeypatch):
    options = network(8, backbone={"type": "EfficientNetV2", "arch": "b0"})
    options["head"]["in_channels"] = 1280
    model = build_model("mmkdprune.HSAKD", phase="teacher", **options)
    monkeypatch.setattr(torch, "__version__", "2.1.2")
    with pytest.raises(
        ValueError, match=r"stages of EfficientNetV2 are known by tracing only.* train with compile=False"
    ):
        compile_training(model)


@pytest.mark.slow
def test_kernels_give_the_losses_of_the_plain_step(tmp_path):
    """Of one algorithm with a teacher, branches and rotations; for the others, what is compiled is compared above."""
    plain, compiled = pair("HSAKD", tmp_path)
    images, data_samples = batch()
    theirs, ours = (step(model, images, data_samples)[0] for model in (plain, compiled))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_copy_trains_its_own_weights(tmp_path):
    original = build_algorithm("MixSKD", tmp_path, is_short=True).train()
    compile_training(original, backend="eager")
    step(original, *batch())
    duplicate = copy.deepcopy(original)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    optimizer = OptimWrapper(torch.optim.SGD(duplicate.parameters(), 0.1))
    optimizer.update_params(sum(duplicate(*batch(), mode="loss").values()))
    assert_equal_states(original.state_dict(), before)
    assert not torch.equal(duplicate.head.fc.weight, original.head.fc.weight)


def test_all_loss_weights_zero_is_the_plain_step(tmp_path):
    weights = dict.fromkeys(("loss_ce", "loss_joint_ce"), 0)
    graphs = Graphs()
    model = build_model("mmkdprune.HSAKD", phase="teacher", loss_weights=weights, **network(8)).train()
    assert compile_training(model, backend=graphs) == "backbone, neck, head and loss"
    losses, _ = step(model, *batch())
    assert list(losses) == ["loss"]
    assert len(graphs) == 1


def test_heads_with_a_loss_of_their_own_stay_outside():
    graphs = Graphs()
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": 64, "cal_acc": True}
    plain, compiled = (build_model("ImageClassifier", **network(8, head=head)).train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    assert compile_training(compiled, backend=graphs, fullgraph=True) == "backbone and neck (LinearClsHead is not)"
    images, data_samples = batch()
    ours, theirs = (model(images, data_samples, mode="loss") for model in (compiled, plain))
    torch.testing.assert_close(ours, theirs)
    assert "accuracy_top-1" in ours
    assert len(graphs) == 1


def test_soft_targets_of_a_plain_classifier():
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": 64}
    head["loss"] = {"type": "LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "original"}
    plain, compiled = (build_model("ImageClassifier", **network(8, head=head)).train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    compile_training(compiled, backend="eager", fullgraph=True)
    images, data_samples = batch()
    for sample in data_samples:
        sample.set_gt_score(torch.rand(10).softmax(0))
    torch.testing.assert_close(step(compiled, images, data_samples), step(plain, images, data_samples))


def test_a_wrong_label_is_named_as_without_compilation(tmp_path):
    for name in ("MixSKD", "HSAKD-teacher"):
        _, compiled = pair(name, tmp_path, backend="eager")
        with pytest.raises(ValueError, match=r"a label lies outside 0 \.\.\. 9.*got \[11\]"):
            compiled(torch.randn(2, 3, 16, 16), samples(3, 11), mode="loss")


def test_other_models_are_left_alone():
    assert compile_training(torch.nn.Linear(2, 2)) is None


def test_a_cut_is_reported_once(monkeypatch):
    def doubled(values):
        values = values * 2
        torch._dynamo.graph_break()
        return values + 1

    messages = []
    monkeypatch.setattr(compilation, "print_log", lambda message, *args, **kwargs: messages.append(message))
    compiled = compilation.compile_function(doubled, {"backend": "eager"})
    for _ in range(2):
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    (message,) = messages
    assert message.startswith("torch.compile: doubled was cut at 1 place(s)")


def test_contrast_with_memory_banks_is_left_out(monkeypatch):
    """It makes its own gradients; networks, heads and the cross-entropy are compiled all the same."""
    graphs, models = Graphs(), []
    images, data_samples = torch.randn(8, 3, 16, 16), samples(0, 0, 1, 1, 2, 2, 3, 3)
    for index, sample in enumerate(data_samples):
        sample.set_field(index, "sample_idx", field_type="metainfo")
    for _ in range(2):
        torch.manual_seed(0)
        loss = {"type": "mmkdprune.MemoryMutualContrastiveLoss"}
        models.append(build_model("mmkdprune.MCL", num_peers=2, loss=loss, **network(8)))
        models[-1].init_weights()
        models[-1].set_training_labels([0, 0, 1, 1, 2, 2, 3, 3])
        models[-1].train()
    plain, compiled = models
    assert "but the contrast with memory banks" in compile_training(compiled, backend=graphs)
    for _ in range(2):
        torch.testing.assert_close(step(compiled, images, data_samples), step(plain, images, data_samples))
        assert torch.equal(plain.criterion.banks, compiled.criterion.banks)
    assert any("conv" in name for name in graphs.called())
