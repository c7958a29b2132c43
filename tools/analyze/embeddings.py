"""Draw the features of a checkpoint's backbone in two dimensions, coloured by class.

    python tools/analyze/embeddings.py work_dirs/<run>/epoch_20.pth --data digits-16px --out embeddings.png
    python tools/analyze/embeddings.py work_dirs/<run>/epoch_6.pth --data omniglot --classes 20 --out embeddings.png

t-SNE is scikit-learn's; UMAP needs umap-learn. Beside the picture a JSON file of the same name holds the points.
"""

import argparse
from typing import Any

import numpy as np

from mmkdprune.cli.arguments import add_evaluation_arguments, add_feature_arguments
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.config.shipped import LINEAR
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.features import FeatureSet


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_evaluation_arguments(parser, LINEAR)
    add_feature_arguments(parser)
    parser.add_argument("--method", choices=["tsne", "umap"], default="tsne", help="default: tsne")
    parser.add_argument("--images", type=int, default=1000, help="at most so many points a network (default: 1000)")
    parser.add_argument("--classes", type=int, help="only so many classes, drawn at random (default: all)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the method (default: 0)")
    return parser.parse_args()


def choose(features: FeatureSet, images: int, classes: int | None, seed: int) -> np.ndarray:
    """Choose images, the same for every network."""
    random = np.random.default_rng(seed)
    labels = features.labels.numpy()
    rows = np.arange(len(labels))
    if classes is not None:
        present = np.unique(labels)
        if not 2 <= classes <= len(present):
            raise UsageError(f"--classes {classes}: choose 2 to {len(present)}, which the data set has")
        rows = rows[np.isin(labels, random.choice(present, classes, replace=False))]
    return np.sort(random.permutation(rows)[:images])


def embed(features: np.ndarray, method: str, perplexity: float, seed: int) -> np.ndarray:
    """Points in two dimensions, (N, 2), of features scaled to length 1, (N, D)."""
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if method == "umap":
        try:
            import umap
        except ImportError:
            raise UsageError("--method umap needs umap-learn: pip install umap-learn, or take --method tsne") from None
        return umap.UMAP(random_state=seed, metric="cosine").fit_transform(features)
    from sklearn.manifold import TSNE

    if not 1 < perplexity < len(features):
        raise UsageError(f"--perplexity {perplexity}: it must lie between 1 and the number of images, {len(features)}")
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def draw(panels: list[dict[str, Any]], method: str) -> Any:
    """One scatter plot a network, colours by class."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = np.unique([label for panel in panels for label in panel["labels"]])
    names = panels[0]["classes"]
    shown = len(labels) <= 20
    figure = Figure(figsize=(5.2 * len(panels) + (2.2 if shown else 0.3), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    colours = colormaps["tab10" if len(labels) <= 10 else "tab20" if shown else "gist_rainbow"]
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        points, classes = np.asarray(panel["points"]), np.asarray(panel["labels"])
        for number, label in enumerate(labels):
            chosen = points[classes == label]
            colour = colours(number if shown else number / len(labels))
            name = str(names[label] if names is not None else label)
            axes.scatter(*chosen.T, s=12, color=colour, linewidths=0, label=name if shown else None)
        axes.set_title(panel["title"], fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    if shown:
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", fontsize=7, frameon=False, markerscale=2)
    kind = {"tsne": "t-SNE", "umap": "UMAP"}[method]
    figure.suptitle(
        f"{kind} of pooled features, {len(panels[0]['labels'])} images of {len(labels)} classes", fontsize=10
    )
    return figure


def main() -> None:
    """Do what the command line asks."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        files = shared.picture_files(args, "embeddings.png")
        config = shared.read_labelled_data(args)
        panels: list[dict[str, Any]] = []
        for network in shared.evaluated_backbones(args):
            features = shared.compute_features(network, config, "test_dataloader", args)
            rows = choose(features, args.images, args.classes, args.seed)
            points = embed(features.features.numpy()[rows], args.method, args.perplexity, args.seed)
            described = network.describe()
            panels.append(
                {
                    "title": described.get("run", described["checkpoint"]),
                    "network": described,
                    "classes": features.classes,
                    "labels": features.labels.numpy()[rows].tolist(),
                    "points": np.asarray(points, float).round(4).tolist(),
                }
            )
        numbers = {"method": args.method, "data": shared.data_name(args.data), "panels": panels}
        shared.write_picture(files, draw(panels, args.method), numbers)


if __name__ == "__main__":
    main()
