import torch
from mmengine.runner import Runner
from testing_helpers import assert_equal_states, build_algorithm

HOOK = {"type": "mmkdprune.ChannelsLastHook"}


def test_a_seed_gives_the_same_initial_weights_in_both_formats(tmp_path):
    """Random numbers fill weights in the order of memory."""
    states = {}
    for name, hooks in (("plain", []), ("channels_last", [HOOK])):
        folder = tmp_path / name
        folder.mkdir()
        model = build_algorithm("HSAKD", folder)
        options = {"custom_hooks": hooks, "experiment_name": name, "log_level": "ERROR", "randomness": {"seed": 0}}
        runner = Runner(model=model, work_dir=str(folder), **options)
        runner.call_hook("before_run")
        runner._init_model_weights()
        weight, taught = (part.backbone.layer2[0].conv1.weight for part in (model, model.teacher.network))
        for tensor in (weight, taught):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == bool(hooks)
        states[name] = model.state_dict()
    assert_equal_states(states["channels_last"], states["plain"])


def test_averaged_models_follow_where_they_were_made_earlier(tmp_path):
    hooks = [{"type": "EMAHook"}, {**HOOK, "priority": "LOW"}]
    model = build_algorithm("ImageClassifier", tmp_path)
    runner = Runner(model=model, work_dir=str(tmp_path), custom_hooks=hooks, experiment_name="ema", log_level="ERROR")
    runner.call_hook("before_run")
    (average,) = (hook.ema_model.module for hook in runner.hooks if hasattr(hook, "ema_model"))
    assert average.backbone.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
