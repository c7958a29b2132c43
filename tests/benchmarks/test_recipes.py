import inspect

import pytest
from recipes import recipe, recipe_hash
from rows import Row
from testing_helpers import REPOSITORY

from mmkdprune.engine.hooks import FilterPruningHook
from mmkdprune.pruning import FilterPruner, presets

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
PRUNED = REPOSITORY / "configs/pruning/ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py"
KD = REPOSITORY / "configs/hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"
PRUNER = "custom_hooks.0.pruner."


def hash_of(*options, config=PLAIN, **fields):
    return Row("a", "A", config, 0, options, **fields).hash


def test_what_does_not_change_the_result_does_not_change_the_hash():
    whole = hash_of()
    for option in (
        "randomness.seed=3",
        "default_hooks.logger.interval=1",
        "default_hooks.checkpoint.max_keep_ckpts=5",
        "work_dir=x",
        "train_dataloader.num_workers=2",
    ):
        assert hash_of(option) == whole, option
    assert Row("b", "B", PLAIN, 7).hash == whole  # name, group and seed


def test_what_changes_the_result_changes_the_hash():
    options = (
        "optim_wrapper.optimizer.lr=0.1",
        "train_cfg.max_epochs=3",
        "model.backbone.depth=8",
        "data_preprocessor.mean=[0,0,0]",
        "train_dataloader.dataset.indices=96",
        "speed.amp=auto",
        "optim_wrapper.type=AmpOptimWrapper",
        "compile=True",
        "val_dataloader.dataset.split=train",
        "val_evaluator.topk=(5,)",
        "randomness.deterministic=True",
        "custom_hooks.0.type=EMAHook",
        "default_hooks.runtime_info.type=mmkdprune.KeepMemoryHook",
    )
    hashes = {hash_of(option) for option in options}
    assert len({hash_of(), *hashes}) == len(options) + 1


def test_hooks_of_this_package_count_wherever_they_stand():
    assert hash_of("default_hooks.more.type=mmkdprune.KeepMemoryHook") != hash_of()
    assert hash_of("default_hooks.more.type=SyncBuffersHook") == hash_of()  # MMEngine's default hooks only write


@pytest.mark.parametrize("name", ["custom_hooks.0", "default_hooks.pruning"])
def test_a_pruner_written_out_is_the_pruner_by_default(name):
    base = [f"{name}.type=mmkdprune.FilterPruningHook", f"{name}.pruner.method=sfp", f"{name}.pruner.rate=0.4"]
    short = hash_of(*base)
    same = ("pruner.freeze=post_step", "pruner.sticky=True", "interval=None", "warmup=0", "pruner.type=FilterPruner")
    other = ("pruner.freeze=grad", "pruner.sticky=False", "interval=2", "warmup=1", "pruner.rate=0.5")
    assert {hash_of(*base, f"{name}.{option}") for option in same} == {short}
    assert len({short, *(hash_of(*base, f"{name}.{option}") for option in other)}) == len(other) + 1


def test_a_changed_default_of_the_pruner_makes_a_result_stale(monkeypatch):
    settings = Row("a", "A", PRUNED, 0).settings()
    before = recipe_hash(settings)
    assert recipe_hash(settings) == before
    monkeypatch.setattr(FilterPruner, "__signature__", changed(FilterPruner, "bn_policy", "none"), raising=False)
    assert recipe_hash(settings) != before


def changed(kind, name, default):
    signature = inspect.signature(kind)
    parameters = dict(signature.parameters)
    parameters[name] = parameters[name].replace(default=default)
    return signature.replace(parameters=list(parameters.values()))


def test_a_changed_default_of_the_hook_makes_a_result_stale(monkeypatch):
    settings = Row("a", "A", PRUNED, 0).settings()
    before = recipe_hash(settings)
    signature = changed(FilterPruningHook, "finetune", 3)
    monkeypatch.setattr(FilterPruningHook, "__signature__", signature, raising=False)
    assert recipe_hash(settings) != before


def test_a_changed_schedule_of_a_method_makes_a_result_stale(monkeypatch):
    settings = Row("a", "A", PRUNED, 0).settings()
    before = recipe_hash(settings)
    _, decay, hard = presets._PRESETS["ghfp-asrfp"]
    monkeypatch.setitem(
        presets._PRESETS, "ghfp-asrfp", (lambda target: lambda t, total: target * (t + 1) / total, decay, hard)
    )
    assert recipe_hash(settings) != before


def test_a_setting_that_is_new_leaves_results_as_they_are_until_a_config_names_it(monkeypatch):
    settings = Row("a", "A", PRUNED, 0).settings()
    before = recipe_hash(settings)
    signature = inspect.signature(FilterPruner)
    new = inspect.Parameter("new", inspect.Parameter.KEYWORD_ONLY, default=1)
    monkeypatch.setattr(
        FilterPruner,
        "__signature__",
        signature.replace(parameters=[*signature.parameters.values(), new]),
        raising=False,
    )
    assert recipe_hash(settings) == before
    named = Row("a", "A", PRUNED, 0, (f"{PRUNER}new=2",)).settings()
    assert recipe_hash(named) != before


def test_schedules_are_hashed_by_their_values():
    pruner = recipe(Row("a", "A", PRUNED, 0).settings())["custom_hooks"][0]["pruner"]
    assert len(pruner["rate_schedule"]) == len(pruner["hard_schedule"]) == 20
    assert (pruner["rate_schedule"][0], pruner["rate_schedule"][-1]) == (0.0, 0.4)
    assert pruner["method"] == "ghfp-asrfp"
    assert pruner["bn_policy"] in ("hard_only", "follow")


def test_the_recipe_of_a_teacher_is_a_part_of_the_student_s(monkeypatch):
    whole = hash_of(config=KD)
    assert hash_of(config=KD, teacher_seed=0) != whole  # one teacher for all seeds
    assert hash_of("model.teacher.checkpoint=x.pth", config=KD) != whole  # another teacher than the queue's own
    option = "optim_wrapper.optimizer.lr=0.07"
    (teacher,) = Row("a", "A", KD, 0, (option,)).needs.values()
    assert teacher.hash == hash_of(option, config=teacher.config)
