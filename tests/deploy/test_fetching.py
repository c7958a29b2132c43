import inspect

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmkdprune.deploy.fetching import fetching_class

FETCHING = {
    *("TIMMBackbone", "TimmClassifier", "HuggingFaceClassifier", "CLIPGenerator", "Detectron2Wrapper", "BertModel"),
    *("KnowledgeDistillationSingleStageDetector", "LAD", "VPD"),
}


class Direct(BaseModule):
    def __init__(self):
        super().__init__()
        self.weights = torch.hub.load_state_dict_from_url("https://example.org/a.pth")


class Indirect(BaseModule):
    def __init__(self):
        super().__init__()
        self.prepare()

    def prepare(self):
        return [torch.hub.load("a/b", name) for name in "ab"]


class Inherited(Indirect):
    def __init__(self):
        super().__init__()


class Harmless(BaseModule):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)

    def init_weights(self):
        torch.hub.load("a/b", "c")

    def never_called(self):
        torch.hub.load("a/b", "c")


def test_constructors_that_fetch():
    assert all(fetching_class(owner) for owner in (Direct, Indirect, Inherited))
    assert not fetching_class(Harmless)


def test_no_other_class_of_the_packages_is_suspected():
    import mmpretrain.models  # noqa: F401

    import mmkdprune.models  # noqa: F401

    with MODELS.switch_scope_and_registry("mmpretrain") as registry:
        classes = {name: kind for name, kind in registry.module_dict.items() if inspect.isclass(kind)}
    assert len(classes) > 100
    found = {name for name, kind in classes.items() if fetching_class(kind)}
    assert {"TIMMBackbone", "TimmClassifier", "HuggingFaceClassifier"} <= found <= FETCHING
