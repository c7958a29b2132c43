import numpy as np
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


@pytest.mark.parametrize("labels", [[0, 1, 4], [0, -1, 2]])
def test_labels_outside_the_heads_range(labels):
    class Toy:
        metainfo = {"classes": list("abcd")}

        def __len__(self):
            return len(labels)

        def get_gt_labels(self):
            return labels

    runner, runner.model, runner.model.head, runner.train_dataloader = (Toy() for _ in range(4))
    runner.model.head.num_classes = 4
    runner.train_dataloader.dataset = Toy()
    with pytest.raises(ValueError, match=r"has the label (4|-1), outside 0 ... 3 \(1 of 3 images"):
        CheckClassesHook().before_train(runner)
    labels[:] = [0, 1, 3]
    CheckClassesHook().before_train(runner)


def test_sets_with_several_labels_an_image_or_none_are_left_alone():
    def ragged(self):
        return np.array([[0], [1, 2]])  # as MMPretrain does, which NumPy refuses

    def unlabelled(self):
        raise KeyError("gt_label")

    for labels_of in (ragged, unlabelled, lambda self: [0.5, 7.0], lambda self: [[9], [9]]):

        class Toy:
            metainfo = {"classes": list("abcd")}
            get_gt_labels = labels_of

            def __len__(self):
                return 2

        runner, runner.model, runner.model.head, runner.train_dataloader = (Toy() for _ in range(4))
        runner.model.head.num_classes = 4
        runner.train_dataloader.dataset = Toy()
        CheckClassesHook().before_train(runner)
