import pytest

from mmkdprune.engine.hooks.check_classes_hook import CheckClassesHook


@pytest.mark.parametrize(("head_classes", "allowed"), [(3, False), (5, False), (5, True), (4, False), (None, False)])
def test_check_classes_hook(head_classes, allowed):
    class Toy:
        metainfo = {"classes": list("abcd")}

    runner, runner.model, runner.model.head, runner.train_dataloader = (Toy() for _ in range(4))
    runner.model.head.num_classes = head_classes
    runner.train_dataloader.dataset = Toy()
    if head_classes in (4, None) or allowed:
        CheckClassesHook(allow_unused=allowed).before_train(runner)
    else:
        with pytest.raises(ValueError, match="Toy has 4 classes"):
            CheckClassesHook(allow_unused=allowed).before_train(runner)
