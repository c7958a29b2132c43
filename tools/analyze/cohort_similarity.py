"""Draw how alike the features of networks are, stage by stage: a cohort that trained together, or several checkpoints.

    python tools/analyze/cohort_similarity.py work_dirs/<run of MCL>/epoch_12.pth --data digits-16px --out cohort.png
    python tools/analyze/cohort_similarity.py a.pth b.pth --data digits-16px --out similarity.png

Linear centred kernel alignment (CKA) of pooled features of the same images; of a checkpoint with peers all networks are
compared. Beside the picture a JSON file of the same name holds the numbers.
"""

import argparse
from pathlib import Path
from typing import Any

from mmkdprune.cli.arguments import add_evaluation_arguments
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import build_evaluation_loader
from mmkdprune.config.shipped import LINEAR
from mmkdprune.deploy.backbone import list_peers, load_trained_backbone
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.features import make_preprocessor
from mmkdprune.evaluation.similarity import MEASURES, similarity_matrix
from mmkdprune.evaluation.stages import extract_stage_features


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_evaluation_arguments(parser, LINEAR)
    parser.add_argument("--measure", choices=MEASURES, default="cka", help="default: cka")
    parser.add_argument("--images", type=int, default=1000, help="at most so many (default: 1000)")
    parser.add_argument("--last-only", action="store_true", help="compare the last stages only")
    return parser.parse_args()


def draw(names: list[str], matrix: list[list[float]], measure: str, images: int) -> Any:
    """A heat map with numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = 2.8 + 0.75 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low = 0 if measure == "cka" else -1
    image = axes.imshow(matrix, vmin=low, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "black" if value > low + 0.65 * (1 - low) else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, shrink=0.8)
    title = "linear CKA" if measure == "cka" else "mean cosine similarity"
    axes.set_title(f"{title} of pooled features, {images} images", fontsize=10)
    return figure


def main() -> None:
    """Do what the command line asks."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        files = shared.picture_files(args, "similarity.png")
        config = shared.read_labelled_data(args)
        features: dict[str, Any] = {}
        for checkpoint in args.checkpoints:
            for peer in list_peers(checkpoint, args.weights):
                network = load_trained_backbone(checkpoint, args.weights, peer, args.config)
                settings = shared.preprocessor_settings(config, network, args.normalisation)
                loader = build_evaluation_loader(config, "test_dataloader")
                stages = extract_stage_features(
                    network.backbone.to(shared.device_of(args)), loader, make_preprocessor(settings), args.images
                )
                owner = f"{shared.run_name(Path(checkpoint))}, " if len(args.checkpoints) > 1 else ""
                for number, stage in list(enumerate(stages, start=1))[-1 if args.last_only else 0 :]:
                    features[f"{owner}network {peer}, stage {number}"] = stage
        if len(features) < 2:
            raise UsageError("there is only one set of features to compare: give a cohort, or several checkpoints")
        matrix = similarity_matrix(features, args.measure).tolist()
        images = len(next(iter(features.values())))
        values = [[round(value, 4) for value in row] for row in matrix]
        numbers = {"measure": args.measure, "images": images, "names": list(features), "matrix": values}
        shared.write_picture(files, draw(list(features), matrix, args.measure, images), numbers)


if __name__ == "__main__":
    main()
