"""N-way K-shot episodes: which images are learnt from, and which are recognised."""

from dataclasses import dataclass

import numpy as np

from mmkdprune.arguments import checked


@checked
@dataclass(frozen=True)
class EpisodeShape:
    """How large an episode is.

    Args:
        num_ways (int): Classes of an episode, N; at least 2.
        num_shots (int): Labelled images (support) of each class, K; at least 1.
        num_queries (int): Images of each class to recognise. Defaults to 15.

    Raises:
        ValueError: If a number is too small.
    """

    num_ways: int
    num_shots: int
    num_queries: int = 15

    def __post_init__(self) -> None:
        for name, least in (("num_ways", 2), ("num_shots", 1), ("num_queries", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"few-shot episodes: {name} must be an integer of at least {least}, got {value!r}.")

    @property
    def name(self) -> str:
        """Such as ``5way_1shot``."""
        return f"{self.num_ways}way_{self.num_shots}shot"


class EpisodeSampler:
    """Draw episodes from the images of a labelled set, all at once.

    In an episode all classes are different, each has the same number of support and of query images, and no image is
    both. A seed gives the same episodes everywhere, whatever the size of the chunks.

    Args:
        labels (np.ndarray): Class of each image, (N,).
        shape (EpisodeShape): Size of the episodes.
        num_episodes (int): How many. Defaults to 600.
        seed (int): Of the draws. Defaults to 0.

    Raises:
        ValueError: If there are fewer classes, or fewer images of a class, than an episode needs.
    """

    @checked
    def __init__(self, labels: np.ndarray, shape: EpisodeShape, num_episodes: int = 600, seed: int = 0) -> None:
        if not isinstance(num_episodes, int) or num_episodes < 1:
            raise ValueError(f"few-shot episodes: num_episodes must be a positive integer, got {num_episodes!r}.")
        labels = np.asarray(labels)
        self.shape, self.num_episodes = shape, num_episodes
        self.classes, counts = np.unique(labels, return_counts=True)
        self._check(counts)
        # Images of each class in a row, filled up with -1.
        order = np.argsort(labels, kind="stable")
        positions = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.table = np.full((len(self.classes), counts.max()), -1)
        self.table[np.repeat(np.arange(len(self.classes)), counts), positions] = order
        self._generator = np.random.Generator(np.random.PCG64(seed))
        keys = self._generator.random((num_episodes, len(self.classes)))
        self._chosen = np.argsort(keys, axis=1, kind="stable")[:, : shape.num_ways]
        self._drawn = 0

    def __len__(self) -> int:
        """Episodes that are not drawn yet."""
        return self.num_episodes - self._drawn

    def draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next episodes.

        Args:
            number (int): How many at most; E in the shapes is how many are left of them.

        Returns:
            tuple[np.ndarray, np.ndarray]: Indices of the support images, (E, num_ways, num_shots), and of the queries,
            (E, num_ways, num_queries); the second axis are the classes of the episode.
        """
        chosen = self._chosen[self._drawn : self._drawn + number]
        self._drawn += len(chosen)
        rows = self.table[chosen]
        keys = self._generator.random(rows.shape)
        keys[rows < 0] = 2  # what only fills up comes last
        wanted = self.shape.num_shots + self.shape.num_queries
        drawn = np.take_along_axis(rows, np.argsort(keys, axis=2, kind="stable")[..., :wanted], axis=2)
        return drawn[..., : self.shape.num_shots], drawn[..., self.shape.num_shots :]

    def _check(self, counts: np.ndarray) -> None:
        shape = self.shape
        if len(self.classes) < shape.num_ways:
            raise ValueError(
                f"few-shot episodes of num_ways={shape.num_ways} need as many classes, but the data set has "
                f"{len(self.classes)}: lower num_ways to {len(self.classes)} or use more classes."
            )
        wanted = shape.num_shots + shape.num_queries
        if counts.min() < wanted:
            label = self.classes[int(counts.argmin())]
            raise ValueError(
                f"few-shot episodes need num_shots + num_queries = {shape.num_shots} + {shape.num_queries} = {wanted} "
                f"images of every class, but class {label} has {counts.min()}: lower num_queries to "
                f"{counts.min() - shape.num_shots}, or leave out small classes."
                if counts.min() > shape.num_shots
                else f"few-shot episodes with num_shots={shape.num_shots} need more than {shape.num_shots} images of "
                f"every class, but class {label} has {counts.min()}: lower num_shots, or leave out small classes."
            )
