"""Time few-shot episodes on cached features: all at once, against a loop over episodes with scikit-learn.

Features of the size of a ResNet-18's (512 values) that were extracted before; both recognise the same episodes, in
turns. ``cpu`` columns count processor time, which other work on the machine changes little.

    python benchmarks/few_shot.py
    python benchmarks/few_shot.py --out benchmarks/results/few_shot_cpu.json
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from mmkdprune.evaluation import EpisodeSampler, EpisodeShape, evaluate_few_shot

DIM = 512
CLASSES, IMAGES = 20, 600  # of the test classes of CIFAR-FS and miniImageNet


def make_features(seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Clusters of positive features of length 1, about as hard to tell apart as real ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    centres = 0.6 * torch.randn(CLASSES, DIM, generator=generator)
    features = (centres[labels] + 2 * torch.randn(len(labels), DIM, generator=generator)).relu()
    return torch.nn.functional.normalize(features, dim=1), labels.numpy()


def loop(
    features: torch.Tensor, labels: np.ndarray, shape: EpisodeShape, episodes: int, make: Callable[[], Any]
) -> float:
    """One classifier of scikit-learn an episode; the mean accuracy in percent."""
    inputs = features.numpy()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # a single shot has no variance to divide by
    supports, queries = EpisodeSampler(labels, shape, episodes).draw(episodes)
    accuracies = []
    for support, query in zip(supports, queries, strict=True):
        classifier = make().fit(inputs[support.ravel()], labels[support.ravel()])
        accuracies.append(classifier.score(inputs[query.ravel()], labels[query.ravel()]))
    return 100 * float(np.mean(accuracies))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that pass, and seconds of processor time."""
    start = time.process_time()
    wall = record.seconds(work, torch.device("cpu"))
    return wall, time.process_time() - start


def measure(episodes: int, share: int, rounds: int) -> list[dict[str, Any]]:
    """Compare both for several sizes; the loop does one in ``share`` episodes, and its time is multiplied."""
    features, labels = make_features()
    rows = []
    for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)):
        shape = EpisodeShape(ways, shots)
        classifiers: dict[str, Callable[[], Any]] = {
            "nearest_mean": NearestCentroid,
            "logistic_regression": partial(LogisticRegression, max_iter=1000),
        }
        for name, make in classifiers.items():
            number = max(2, episodes // share)
            ours: list[tuple[float, float]] = []
            theirs: list[tuple[float, float]] = []
            for turn in range(rounds + 1):
                own = timed(partial(evaluate_few_shot, features, labels, shape, [name], episodes))
                their = timed(partial(loop, features, labels, shape, number, make))
                if turn:  # the first turn warms up
                    ours.append(own)
                    theirs.append((their[0] * episodes / number, their[1] * episodes / number))
            ratios = [[other[kind] / own[kind] for other, own in zip(theirs, ours, strict=True)] for kind in range(2)]
            (result,) = evaluate_few_shot(features, labels, shape, [name], number)
            rows.append(
                {
                    "episodes": f"{episodes} x {ways}-way {shots}-shot",
                    "classifier": name,
                    "all_at_once_s": round(statistics.median(wall for wall, _ in ours), 3),
                    "all_at_once_cpu_s": round(statistics.median(cpu for _, cpu in ours), 3),
                    "loop_cpu_s": round(statistics.median(cpu for _, cpu in theirs), 2),
                    "loop_over_all_at_once": round(statistics.median(ratios[0]), 1),
                    "loop_over_all_at_once_cpu": round(statistics.median(ratios[1]), 1),
                    # of the episodes that both have done
                    "accuracy": round(result.accuracy, 2),
                    "scikit_learn_accuracy": round(loop(features, labels, shape, number, make), 2),
                }
            )
    return rows


def main() -> None:
    """Run, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--share", type=int, default=10, help="the loop does one in so many episodes (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    record.prepare(args.out)
    torch.set_num_threads(args.threads)
    rows = measure(args.episodes, args.share, args.rounds)
    record.show(rows)
    record.write(args.out, torch.device("cpu"), rows, episodes=args.episodes, threads=args.threads)


if __name__ == "__main__":
    main()
