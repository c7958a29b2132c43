"""The yardstick computes the objective of the package."""

import pytest
import torch
from step_time import CASES, make_yardstick
from straightforward import draw_mixup, objective_of

METHODS = [(case, method) for case in ("digits", "digits-hsakd") for method in CASES[case][0]]


@pytest.mark.parametrize(("case", "method"), METHODS)
@pytest.mark.usefixtures("one_thread")
def test_losses_are_those_of_the_package(case, method):
    trainer = make_yardstick(case, method, torch.device("cpu"))
    model = trainer.model
    images = (trainer.images[:16].float() - trainer.mean) / trainer.std
    target = trainer.target[:16]
    objective = objective_of(model)
    if method == "plain":
        expected = model.head.loss(model.extract_feat(images), samples_of(target))
        found = objective(model, images, target)
    elif method == "mixskd":
        lam, perm = draw_mixup(model, len(images))
        expected = model.distillation_loss(images, target, torch.tensor(lam), perm)
        found = objective(model, images, target, (lam, perm))
    else:
        expected = model.distillation_loss(images, target)
        found = objective(model, images, target)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    before = {name: value.clone() for name, value in model.named_parameters()}
    losses = trainer.step()
    assert all(isinstance(value, float) for value in losses.values())
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) > 10


def samples_of(target):
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(int(label)) for label in target]
