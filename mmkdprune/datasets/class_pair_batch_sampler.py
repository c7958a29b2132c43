"""Batches of some classes with some images each."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from mmkdprune.arguments import checked
from mmkdprune.randomness import derive_seed
from mmkdprune.registry import DATA_SAMPLERS

from .labels import read_labels


@DATA_SAMPLERS.register_module()
class ClassPairBatchSampler(Sampler):
    """Fill every batch with random classes and as many different random images of each.

    Batches are drawn one independently of the other: an epoch has as many as fit into the training set, but some images
    come several times and others not at all. A class smaller than ``samples_per_class`` is drawn with replacement. The
    batches follow from the seed, the epoch and the process alone, so a resumed run sees the same ones.

    Use it as ``train_dataloader=dict(batch_size=128, sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler'))``; seed, epoch and process are those of the sampler.

    Source: the batches of Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022 (64
    classes with 2 images).

    Args:
        sampler (DefaultSampler): The sampler of the data loader, from which MMEngine tells the epoch.
        batch_size (int): Images a batch and process; ``samples_per_class`` times the number of classes in it.
        samples_per_class (int): Images of each class, 2 or more. Defaults to 2.
        allow_single_images (bool): Accept classes with a single image, which is then all of its class's share of a
            batch. Defaults to False.

    Raises:
        ValueError: If the batch does not hold whole groups, needs more classes than there are, or a class has a single
            image; if the sampler keeps no epoch, or the data set does not tell its labels.
    """

    @checked
    def __init__(
        self, sampler: Any, batch_size: int, samples_per_class: int = 2, allow_single_images: bool = False
    ) -> None:
        if not isinstance(samples_per_class, int) or samples_per_class < 2:
            raise ValueError(
                f"ClassPairBatchSampler: samples_per_class must be an integer of 2 or more, got {samples_per_class!r}."
            )
        if not isinstance(batch_size, int) or batch_size < samples_per_class or batch_size % samples_per_class:
            raise ValueError(
                f"ClassPairBatchSampler: batch_size={batch_size!r} does not hold whole groups of "
                f"samples_per_class={samples_per_class} images: make it a multiple."
            )
        if not all(hasattr(sampler, name) for name in ("dataset", "epoch", "seed")):
            raise ValueError(
                f"ClassPairBatchSampler: {type(sampler).__name__} keeps no epoch, so every epoch would have the same "
                "batches: use sampler=dict(type='DefaultSampler', shuffle=True), also in an iteration-based run."
            )
        self.sampler, self.batch_size, self.samples_per_class = sampler, batch_size, samples_per_class
        self.classes_per_batch = batch_size // samples_per_class
        labels = read_labels(sampler.dataset, "ClassPairBatchSampler")
        counts = np.bincount(labels)
        self.classes = np.flatnonzero(counts)
        self._order = np.argsort(labels, kind="stable")  # images by class
        self._counts = counts
        self._starts = np.cumsum(counts) - counts
        self._check_classes(allow_single_images)
        self._num_batches = len(labels) // (batch_size * getattr(sampler, "world_size", 1))
        if not self._num_batches:
            raise ValueError(
                f"ClassPairBatchSampler: batch_size={batch_size} in each of {getattr(sampler, 'world_size', 1)} "
                f"process(es) is more than the {len(labels)} images of the training set: make it smaller."
            )

    def __len__(self) -> int:
        """Batches an epoch and process."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch, rank = self.sampler.epoch, getattr(self.sampler, "rank", 0)
        random = np.random.Generator(np.random.PCG64(derive_seed("class pairs", int(self.sampler.seed), epoch, rank)))
        for _ in range(len(self)):
            classes = random.permutation(self.classes)[: self.classes_per_batch]
            yield self._draw_images(random, classes).flatten().tolist()

    def _draw_images(self, random: np.random.Generator, classes: np.ndarray) -> np.ndarray:
        """Draw the images of some classes, (classes, samples_per_class), different ones where a class has enough."""
        counts = self._counts[classes]
        shares = random.random((len(classes), self.samples_per_class))
        enough = counts >= self.samples_per_class
        drawn = np.empty(shares.shape, dtype=np.int64)
        for index in range(self.samples_per_class):
            # One of those that are left, counted without those that were taken before.
            place = (shares[:, index] * (counts - index * enough)).astype(np.int64)
            for taken in np.sort(drawn[:, :index], axis=1).T:
                place += enough & (place >= taken)
            drawn[:, index] = place
        return self._order[self._starts[classes, None] + drawn]

    def _check_classes(self, allow_single_images: bool) -> None:
        if self.classes_per_batch > len(self.classes):
            raise ValueError(
                f"ClassPairBatchSampler: batch_size={self.batch_size} with samples_per_class={self.samples_per_class} "
                f"needs {self.classes_per_batch} classes and the training set has {len(self.classes)}: make "
                f"samples_per_class at least {-(-self.batch_size // len(self.classes))}, or batch_size at most "
                f"{self.samples_per_class * len(self.classes)}."
            )
        alone = np.flatnonzero(self._counts == 1)
        if len(alone) and not allow_single_images:
            raise ValueError(
                f"ClassPairBatchSampler: class {alone[0]} has a single image ({len(alone)} classes have), so there is "
                "no other to compare it with: leave such classes out, or set allow_single_images=True to pair the "
                "image with itself."
            )
