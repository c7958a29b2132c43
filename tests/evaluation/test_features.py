import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from testing_helpers import batch, build_model, network, samples

from mmkdprune.evaluation import extract_features, make_preprocessor, pool_features
from mmkdprune.evaluation.features import read_target


class Loader(list):
    dataset = None


@pytest.fixture
def backbone():
    model = build_model("ImageClassifier", **network(8))
    model.init_weights()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    model.train()
    return model.backbone


def test_backbone_stays_bit_identical_in_all_respects(backbone):
    backbone.layer1.eval()  # as frozen stages are
    modes = [module.training for module in backbone.modules()]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images, labels = batch(number=6)
    loader = Loader(
        [{"inputs": images[:4], "data_samples": labels[:4]}, {"inputs": images[4:], "data_samples": labels[4:]}]
    )
    features = extract_features(backbone, loader)
    assert [module.training for module in backbone.modules()] == modes
    assert list(before) == list(backbone.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())
    assert features.labels.tolist() == [0, 1, 2, 3, 4, 5]
    backbone.eval()
    expected = backbone(images)[-1].mean((2, 3))
    torch.testing.assert_close(features.features, expected)
    features.features.requires_grad_(True)  # an ordinary tensor, not one of inference mode


def test_modes_come_back_after_an_error(backbone):
    def fail(*args):
        assert not backbone.layer1.training
        raise RuntimeError("stop")

    backbone.layer1.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        extract_features(backbone, Loader([dict(zip(("inputs", "data_samples"), batch(), strict=True))]))
    assert backbone.layer1.training


@pytest.mark.parametrize("flips", [False, True])
def test_normalisation_is_that_of_the_model(flips):
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    settings = {"mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 8.0], "to_rgb": flips}
    given = {"inputs": images, "data_samples": samples(0, 1)}
    expected = ClsDataPreprocessor(**settings)(given, False)["inputs"]
    for source in (settings, ClsDataPreprocessor(**settings), SelfSupDataPreprocessor(**settings)):
        torch.testing.assert_close(make_preprocessor(source)(given, False)["inputs"], expected)
    torch.testing.assert_close(make_preprocessor(None)(given, False)["inputs"], images.float())


def test_pooling():
    maps = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(pool_features((torch.randn(2, 9), maps)), maps.mean((2, 3)))
    assert pool_features(torch.ones(2, 3).half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"last output has shape \(2, 5, 3\): of a transformer set"):
        pool_features([torch.randn(2, 5, 3)])
    with pytest.raises(ValueError, match="has type list"):
        pool_features([[torch.randn(2, 3)]])


@pytest.mark.parametrize("unlabelled", [None, [], [DataSample()], [DataSample().set_gt_label(-1)]])
def test_images_without_a_label_are_refused(unlabelled):
    with pytest.raises(ValueError, match="STL10 has images without exactly one label: use the labelled part"):
        read_target(unlabelled, "STL10")
    with pytest.raises(ValueError, match="without exactly one label"):
        read_target([DataSample().set_gt_label([0, 1])], "x")


@pytest.mark.parametrize(("channels", "advice"), [(1, "color_type='grayscale'"), (4, "like those of its training")])
def test_network_of_other_channels_is_named(channels, advice):
    backbone = build_model("mmkdprune.CifarResNet", depth=8, in_channels=channels)
    images, labels = batch(number=2)
    message = rf"CifarResNet was trained on images of {channels} channel\(s\), and those of NoneType have 3: .*{advice}"
    with pytest.raises(ValueError, match=message):
        extract_features(backbone, Loader([{"inputs": images, "data_samples": labels}]))
