"""tools/test.py --tta, with images that are batched from memory and without."""

import mmengine
import pytest
import torch
from mmengine.config import Config
from testing_helpers import REPOSITORY, build_model, save_weights

BASE = REPOSITORY / "configs" / "hsakd" / "plain_resnet8_1xb64-12e_digits-16px.py"
BATCHED = """
test_dataloader = dict(
    num_workers=0,
    collate_fn=dict(type='mmkdprune.batched_collate'),
    dataset=dict(
        _delete_=True,
        type='mmkdprune.BatchedDataset',
        dataset=dict(
            type='mmkdprune.Digits', split='test', size=16, indices=48, pipeline={{_base_.test_pipeline}})))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier with weights that tell images from their mirror images."""
    torch.manual_seed(0)
    config = Config.fromfile(BASE)
    model = build_model(config.model.type, **{key: value for key, value in config.model.items() if key != "type"})
    model.init_weights()
    torch.nn.init.normal_(model.head.fc.weight)
    return save_weights(model, tmp_path_factory.mktemp("weights") / "classifier.pth")


@pytest.fixture
def predict(checkpoint, call, tmp_path):
    """Run tools/test.py and return the scores of 48 images."""

    def run(name: str, extra: str, *options: str) -> torch.Tensor:
        config = tmp_path / f"{name}.py"
        config.write_text(f"_base_ = '{BASE}'\n{extra}")
        out = tmp_path / f"{name}.pkl"
        code, output = call("test.py", config, checkpoint, "--work-dir", tmp_path / name, "--out", out, *options)
        assert code == 0, output
        return torch.stack([sample["pred_score"] for sample in mmengine.load(out)])

    return run


def test_batched_images(predict):
    """The images are augmented one by one then: the same scores as from the ordinary data set."""
    plain = predict("plain", "test_dataloader = dict(dataset=dict(indices=48))\n")
    mirrored = predict("mirrored", "test_dataloader = dict(dataset=dict(indices=48))\n", "--tta")
    assert plain.shape == mirrored.shape == (48, 10)
    assert not torch.allclose(plain, mirrored, atol=1e-3)
    assert torch.equal(predict("batched", BATCHED), plain)
    assert torch.equal(predict("batched_mirrored", BATCHED, "--tta"), mirrored)


def test_own_pipeline_and_speed(predict):
    """A config's ``tta_pipeline`` is what runs, and ``speed.batched_data`` leaves it alone."""
    extra = """
test_dataloader = dict(dataset=dict(indices=48))
speed = dict(batched_data=True)
tta_pipeline = [dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip', prob=0.0)], [dict(type='PackInputs')]])]
"""
    plain = predict("plain", "test_dataloader = dict(dataset=dict(indices=48))\n")
    assert torch.allclose(predict("own", extra, "--tta"), plain, atol=1e-6)
