import torch
from mmengine.optim import OptimWrapper
from testing_helpers import batch, build_model, network, samples


def test_backbone_stays_bit_identical_while_the_head_learns():
    model = build_model("mmkdprune.LinearProbe", **network(8))
    model.init_weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = OptimWrapper(torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.9, weight_decay=0.1))
    images, labels = batch(number=8)
    first = None
    for _ in range(20):
        losses = model.train()(images, labels, mode="loss")
        first = losses["loss"].item() if first is None else first
        optimizer.update_params(sum(losses.values()))
    assert losses["loss"].item() < 0.9 * first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head."), name
    assert not any(module.training for module in model.backbone.modules())
    assert model.head.training


def test_gradients_are_those_of_the_head_alone():
    """The step is that of a stock classifier whose backbone is in eval mode."""
    torch.manual_seed(0)
    probe, plain = (build_model(name, **network(8)) for name in ("mmkdprune.LinearProbe", "ImageClassifier"))
    plain.load_state_dict(probe.state_dict())
    plain.backbone.eval()
    images = torch.randn(4, 3, 16, 16)
    for model in (probe.train(), plain):
        model(images, samples(0, 1, 2, 3), mode="loss")["loss"].backward()
    assert torch.equal(probe.head.fc.weight.grad, plain.head.fc.weight.grad)
    assert all(parameter.grad is None for parameter in probe.backbone.parameters())
