"""Compare the classes of all data sets, the heads and the checkpoint before a run starts."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from mmkdprune.arguments import checked
from mmkdprune.compat.segmentation_masks import ACCEPTS_ALL
from mmkdprune.engine.resume import is_resumed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.metadata.annotated_names import check_annotated_names
from mmkdprune.metadata.class_names import (
    ACCEPT_OTHER_CLASSES,
    ClassMismatchError,
    LabelRangeError,
    class_names,
    difference,
    is_renamed,
    leaf_datasets,
    listed,
)
from mmkdprune.metadata.label_ranges import check_labels
from mmkdprune.metadata.task_heads import misfits, sizes_of, task_heads
from mmkdprune.metadata.trained_on import trained_on
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import HOOKS

_ALLOW_UNUSED = "custom_hooks=[dict(type='mmkdprune.CheckClassesHook', allow_unused=True)]"
_HOW_TO_FIX = (
    "A label is the position of its name, so predictions and labels would mean different classes. Give every data set "
    "the same names in the same order (metainfo=dict(classes=(...)); for a data set of folders an empty folder stands "
    f"for a class without images), or accept the difference with {ACCEPT_OTHER_CLASSES}"
)


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuse a run whose data sets, heads and checkpoint do not mean the same classes by the same labels.

    Every runner has one. Before training it compares the class names of training, validation and test set, the number
    of classes of every task head (``head``, ``bbox_head``, ``roi_head.*``, ``mask_head``, ``decode_head``,
    ``auxiliary_head``), the names in annotation files and the range of the labels; before a test, the test set with the
    heads and with the classes that the checkpoint was trained on. A resumed run must have the classes of its
    checkpoint; weights of ``load_from`` with a head of other classes are a warning, and so is
    a test set of other classes while a network trains. Data sets without names, models
    without such heads, and loops that evaluate features (``FeatureValLoop``) are not compared.

    Args:
        allow_unused (bool): Accept heads with more classes than the data without a warning. Defaults to False.
        allow_other_classes (bool): Only warn where names, their order or labels of a validation or test set, of an
            annotation file or of the checkpoint are others than those of the training set. Defaults to False.

    Raises:
        ClassMismatchError: If classes differ, or a label lies outside the range of a head.
    """

    # Before hooks that act on the model or the data.
    priority = "VERY_HIGH"

    @checked
    def __init__(self, allow_unused: bool = False, allow_other_classes: bool = False) -> None:
        self.allow_unused, self.allow_other_classes = allow_unused, allow_other_classes
        self._trained_classes: tuple[str, ...] | None = None
        self._loaded_heads: set[str] = set()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the classes of the checkpoint and which heads it fills."""
        self._trained_classes = trained_on(checkpoint).classes
        model = unwrapped(runner.model)
        own, state = model.state_dict(), checkpoint.get("state_dict", checkpoint)
        self._loaded_heads = set()
        for place in task_heads(model):
            prefix = f"{place.removeprefix('model.')}."
            keys = [key for key in own if key.startswith(prefix)]
            loaded = (state.get(key, state.get(f"module.{key}")) for key in keys)
            fits = [getattr(value, "shape", None) == own[key].shape for key, value in zip(keys, loaded, strict=True)]
            if keys and all(fits):
                self._loaded_heads.add(place)

    def before_train(self, runner: Runner) -> None:
        """Compare all that is known before the first iteration."""
        train = runner.train_dataloader.dataset
        names = self._check_set(runner, train, "train")
        val_loop = getattr(runner, "_val_loop", None)
        if isinstance(val_loop, BaseLoop) and getattr(val_loop, "compares_classes", True):
            dataset = getattr(getattr(val_loop, "dataloader", None), "dataset", None)
            if dataset is not None:
                others = class_names(dataset, "val_dataloader.dataset")
                self._compare(runner, names, others, "the training set", "the validation set")
                self._check_set(runner, dataset, "val", compare_heads=names is None)
        self._compare_with_test_set(runner, names)
        if self._trained_classes is not None and names is not None:
            self._compare_with_start(runner, names)

    def before_val(self, runner: Runner) -> None:
        """Compare, in a run that only validates."""
        if not isinstance(getattr(runner, "_train_loop", None), BaseLoop):
            self._check_evaluation(runner, runner.val_loop, "val")

    def before_test(self, runner: Runner) -> None:
        """Compare the test set with heads and checkpoint."""
        self._check_evaluation(runner, runner.test_loop, "test")

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the masks that were not opened before."""
        self._check_masks(runner, data_batch, "val")

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the masks that were not opened before."""
        self._check_masks(runner, data_batch, "test")

    def _check_masks(self, runner: Runner, data_batch: Any, kind: str) -> None:
        """Refuse mask values beyond the classes, which metrics would leave out; masks on a GPU are not looked at."""
        head = getattr(unwrapped(runner.model), "decode_head", None)
        number = getattr(head, "num_classes", None)
        if not isinstance(number, int) or not isinstance(data_batch, Mapping):
            return
        for sample in data_batch.get("data_samples") or ():
            mask = getattr(getattr(sample, "gt_sem_seg", None), "data", None)
            if not isinstance(mask, Tensor) or mask.device.type != "cpu":
                continue
            outside = mask[(mask >= number) & (mask != getattr(head, "ignore_index", 255))]
            if outside.numel():
                with self._accepted(runner, kind):
                    raise LabelRangeError(
                        f"the mask of {getattr(sample, 'img_path', 'an image')} of the {_TITLES[kind]} set has the "
                        f"label {int(outside[0])}, outside 0 ... {number - 1}: correct the annotations, or set "
                        f"model.decode_head.num_classes (now {number})"
                    )

    def _check_evaluation(self, runner: Runner, loop: Any, kind: str) -> None:
        dataset = getattr(getattr(loop, "dataloader", None), "dataset", None)
        if dataset is None or not getattr(loop, "compares_classes", True):
            return
        names = self._check_set(runner, dataset, kind)
        trained = self._trained_classes
        if names is not None and trained is not None and is_renamed(trained, names) and names != trained:
            text = difference(trained, names, "the checkpoint", f"the {_TITLES[kind]} set")
            runner.logger.warning(f"CheckClassesHook: some classes have other names than in the checkpoint: {text}.")
            return
        if self._loaded_heads or not task_heads(unwrapped(runner.model)):
            self._compare(runner, trained, names, "the training of the checkpoint", f"the {_TITLES[kind]} set")

    def _check_set(self, runner: Runner, dataset: Any, kind: str, compare_heads: bool = True) -> tuple[str, ...] | None:
        """Check names, heads and labels of one data set; return its names."""
        field = f"{kind}_dataloader.dataset"
        names = class_names(dataset, field)
        heads = task_heads(unwrapped(runner.model))
        with self._accepted(runner, kind):
            _refuse_empty(dataset, field, names)
            check_annotated_names(dataset, field, count_boxes=kind == "train")
        if names is not None and compare_heads:
            self._check_heads(runner, dataset, names, heads, kind)
        limits = {f"{place}.num_classes": number for place, number in heads.items()}
        if names is not None:
            limits[f"{field}.metainfo.classes"] = len(names)
        if self.allow_other_classes and kind != "train":
            for leaf in leaf_datasets(dataset):
                setattr(leaf, ACCEPTS_ALL, True)  # its masks are not refused when they are loaded, either
        if limits and "thing_classes" not in (getattr(dataset, "metainfo", None) or {}):
            with self._accepted(runner, kind):
                limit_from = min(limits, key=lambda place: limits[place])
                title, number = f"{_TITLES[kind]} set", limits[limit_from]
                ignored = getattr(getattr(unwrapped(runner.model), "decode_head", None), "ignore_index", 255)
                warning = check_labels(
                    dataset, title, number, limit_from, ignored, names is not None or kind != "train"
                )
                if warning is not None and not self.allow_unused:
                    runner.logger.warning(f"CheckClassesHook: {warning}.")
        return names

    def _check_heads(
        self, runner: Runner, dataset: Any, names: tuple[str, ...], heads: Mapping[str, int], kind: str
    ) -> None:
        sizes = sizes_of(dataset.metainfo, names)
        for place, number in misfits(heads, sizes):
            text = (
                f"the {_TITLES[kind]} set {type(dataset).__name__} has {listed(names)}, but {place}.num_classes is "
                f"{number}: set {place}.num_classes={len(names)}, or correct {kind}_dataloader.dataset"
            )
            if number < max(sizes):
                raise ClassMismatchError(text)
            if not self.allow_unused:
                runner.logger.warning(
                    f"CheckClassesHook: {text}. The other outputs are never trained; {_ALLOW_UNUSED} accepts that."
                )

    def _compare(
        self,
        runner: Runner,
        ours: tuple[str, ...] | None,
        theirs: tuple[str, ...] | None,
        our_name: str,
        their_name: str,
    ) -> None:
        if ours is None or theirs is None:
            return
        found = difference(ours, theirs, our_name, their_name)
        if found is not None:
            self._refuse(runner, f"the classes of {our_name} and of {their_name} differ: {found}. {_HOW_TO_FIX}")

    def _compare_with_test_set(self, runner: Runner, names: tuple[str, ...] | None) -> None:
        """Warn of a test set with other classes: this run does not use it, and a test of its network refuses it."""
        others = _test_classes(runner) if names is not None and not self.allow_other_classes else None
        if names is not None and others is not None:
            found = difference(names, others, "the training set", "the test set")
            if found is not None:
                runner.logger.warning(
                    f"CheckClassesHook: the classes of the training set and of test_dataloader differ: {found}. "
                    f"A test of this network will refuse that set. {_HOW_TO_FIX}."
                )

    def _compare_with_start(self, runner: Runner, names: tuple[str, ...]) -> None:
        """Compare with the checkpoint that was loaded; the classes of one that is only a start may be others."""
        assert self._trained_classes is not None
        found = difference(self._trained_classes, names, "the checkpoint", "the training set")
        if found is None:
            return
        if is_resumed(runner) and not is_renamed(self._trained_classes, names):
            self._refuse(runner, f"the run that is resumed had other classes: {found}. {_HOW_TO_FIX}")
        elif self._loaded_heads and not self.allow_other_classes:
            runner.logger.warning(
                f"CheckClassesHook: load_from filled {', '.join(sorted(self._loaded_heads))} with weights for other "
                f"classes: {found}. Training starts from the wrong classes; if that is intended, accept it with "
                f"{ACCEPT_OTHER_CLASSES}."
            )

    def _refuse(self, runner: Runner, text: str) -> None:
        if not self.allow_other_classes:
            raise ClassMismatchError(text)
        runner.logger.warning(f"CheckClassesHook: accepted (allow_other_classes=True): {text}.")

    @contextmanager
    def _accepted(self, runner: Runner, kind: str) -> Iterator[None]:
        """Turn a refusal into a warning where other classes are accepted; labels of a training set never are."""
        try:
            yield
        except ClassMismatchError as error:
            if not self.allow_other_classes or (kind == "train" and isinstance(error, LabelRangeError)):
                raise
            runner.logger.warning(f"CheckClassesHook: accepted (allow_other_classes=True): {error}.")


_TITLES = {"train": "training", "val": "validation", "test": "test"}


def _refuse_empty(dataset: Any, field: str, names: tuple[str, ...] | None) -> None:
    try:
        number = len(dataset)
    except TypeError:
        return
    if number == 0:
        from mmkdprune.metadata.empty_dataset import explain_empty

        raise ClassMismatchError(f"{field}: {explain_empty(dataset)}")


def _test_classes(runner: Runner) -> tuple[str, ...] | None:
    """Class names of a test set that differs from the validation set; None if they are not known yet."""
    loader = getattr(runner, "_test_dataloader", None)
    others = [getattr(runner, name, None) for name in ("_val_dataloader", "_train_dataloader")]
    if not isinstance(loader, Mapping) or any(_dataset_of(other) == loader.get("dataset") for other in others):
        return None
    loop = getattr(runner, "_test_loop", None)
    if "FeatureTestLoop" in str(loop.get("type") if isinstance(loop, Mapping) else type(loop)):
        return None
    settings = loader["dataset"]
    if not isinstance(settings, Mapping):
        return class_names(settings, "test_dataloader.dataset")
    settings = copy.deepcopy(dict(settings))
    while str(settings.get("type")).endswith("BatchedDataset") and isinstance(settings.get("dataset"), Mapping):
        settings = dict(settings["dataset"])
    with isolated_random_state("classes of the test set"):
        try:
            return _first_names(settings, DATASETS.build)
        except ClassMismatchError:
            raise
        except Exception as error:  # its data need not be here yet; the test compares once more
            runner.logger.info(f"The classes of the test set were not compared: {type(error).__name__}: {error}")
            return None


def _dataset_of(loader: Any) -> Any:
    return loader.get("dataset") if isinstance(loader, Mapping) else None


def _first_names(settings: dict[str, Any], build: Callable[[dict], Any]) -> tuple[str, ...] | None:
    """Names without reading the data where the class or the config has them."""
    try:
        dataset = build({**settings, "lazy_init": True})
        names = class_names(dataset, "test_dataloader.dataset")
    except TypeError:  # a data set without lazy_init
        names = None
    return names if names is not None else class_names(build(settings), "test_dataloader.dataset")
