"""What the evaluations share: the networks and features that their arguments ask for, and the report."""

import argparse
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch.utils.data import DataLoader

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.config.shipped import FEW_SHOT, LINEAR, known_data
from mmkdprune.deploy.backbone import EvaluatedBackbone, load_trained_backbone, with_random_weights
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.features import FeatureSet, extract_features, make_preprocessor
from mmkdprune.metadata.class_names import class_names, difference
from mmkdprune.metadata.label_ranges import check_labels
from mmkdprune.metadata.seen_images import FLAGS, differences, loader_colours, preprocessing_of

from .data import build_evaluation_loader, read_data_config
from .report import evaluation_report, markdown_table, refuse_existing, write_report

NORMALISATION = ("mean", "std", *FLAGS)


def device_of(args: argparse.Namespace) -> str:
    """The device that the command line asks for, else a GPU where there is one."""
    return args.device or get_device()


def evaluated_backbones(args: argparse.Namespace) -> Iterator[EvaluatedBackbone]:
    """Load one network after the other."""
    for number, checkpoint in enumerate(args.checkpoints):
        network = load_trained_backbone(checkpoint, args.weights, args.peer, args.config)
        network.meta["run"] = run_name(Path(checkpoint))
        yield network
        if number == 0 and args.random_init is not None:
            yield with_random_weights(network, args.random_init)


def run_name(checkpoint: Path) -> str:
    """Name of a checkpoint in a table: that of its work dir, with ``seed<N>`` folders left out."""
    folder = checkpoint.resolve().parent
    return (folder.parent if folder.name.removeprefix("seed").isdigit() else folder).name


def preprocessor_settings(config: Config, network: EvaluatedBackbone, choice: str) -> dict[str, Any]:
    """Normalisation of the images; says so when it is not the one of the network's training.

    Args:
        config (Config): Of the data.
        network (EvaluatedBackbone): Whose backbone is evaluated.
        choice (str): ``'data'`` or ``'checkpoint'``.

    Returns:
        dict[str, Any]: Config of a data preprocessor.

    Raises:
        UsageError: If the checkpoint does not know its normalisation.
    """
    own = {key: value for key, value in (network.preprocessor or {}).items() if key in NORMALISATION}
    given = config.get("data_preprocessor")
    loader = loader_colours((config.get("val_dataloader") or config.get("test_dataloader") or {}).get("dataset"))
    if own and network.images is not None:
        flag = replace(network.images, loader=loader).flag_for(network.images.colours)
        if flag is not None:  # the same images may be arrays there and files here
            own = {key: value for key, value in own.items() if key not in FLAGS} | {"to_rgb": flag}
    if choice == "checkpoint":
        if not own:
            raise UsageError(
                f"--normalisation checkpoint: {network.source} does not say how its images were normalised"
            )
        return own
    if given is None:
        return own
    wanted = {key: given[key] for key in NORMALISATION if key in given}
    here = replace(preprocessing_of(given), loader=loader)
    if own and network.images is not None and not network.noted_normalisation and differences(here, network.images):
        network.noted_normalisation = True
        print(
            f"note: {network.source} was trained on other images: {network.images.describe()}; by the data config it "
            f"gets {here.describe()}. --normalisation checkpoint gives it images as in its training ({own})"
        )
    return wanted


def checked_loaders(config: Config, fields: Sequence[str], args: argparse.Namespace) -> dict[str, DataLoader]:
    """Build the loaders of an evaluation, and compare their classes and labels before anything is computed.

    Args:
        config (Config): Of the data.
        fields (Sequence[str]): Which dataloaders; the first one's classes count.
        args (argparse.Namespace): ``allow_other_classes``, where sets of other classes may be compared.

    Returns:
        dict[str, DataLoader]: By field; see :func:`build_evaluation_loader`.

    Raises:
        ClassMismatchError: If names are malformed or a label has no name.
        UsageError: If the classes of two sets differ.
    """
    loaders = {field: build_evaluation_loader(config, field) for field in fields}
    names = {field: class_names(loader.dataset, f"{field}.dataset") for field, loader in loaders.items()}
    accepted = getattr(args, "allow_other_classes", False)
    first, *others = fields
    for field in others:
        ours, theirs = names[first], names[field]
        found = difference(ours, theirs, first, field) if ours is not None and theirs is not None else None
        if found is not None and not accepted:
            raise UsageError(
                f"the classes of {first} and {field} differ: {found}. A label is the position of its name: give both "
                "the same names in the same order (metainfo=dict(classes=(...)); for a data set of folders an empty "
                "folder stands for a class without images), or accept the difference with --allow-other-classes"
            )
        if found is not None:
            print(f"note: accepted (--allow-other-classes): {found}")
    for field, loader in loaders.items():
        limit = names[field] or names[first]
        if limit is not None and not accepted:
            check_labels(loader.dataset, f"set of {field}", len(limit), f"{field}.dataset.metainfo.classes")
    return loaders


def compute_features(
    network: EvaluatedBackbone,
    config: Config,
    field: str,
    args: argparse.Namespace,
    loaders: Mapping[str, DataLoader] | None = None,
) -> FeatureSet:
    """Features of a data set, from the cache where it has them.

    Args:
        network (EvaluatedBackbone): Whose features.
        config (Config): Of the data.
        field (str): Which dataloader.
        args (argparse.Namespace): ``device``, ``normalisation``, ``cache``.
        loaders (Mapping[str, DataLoader], optional): Loaders that were built before, by field. Defaults to None.

    Returns:
        FeatureSet: On the CPU.
    """
    settings = preprocessor_settings(config, network, args.normalisation)
    file = None
    if args.cache is not None:
        file = args.cache / f"features-{_digest(network, config, field, settings)}.pth"
        if file.is_file():
            stored = load_checkpoint_file(file)
            classes = stored["classes"]
            return FeatureSet(stored["features"], stored["labels"], None if classes is None else tuple(classes))
    loader = loaders[field] if loaders is not None else build_evaluation_loader(config, field)
    network.backbone.to(device_of(args))
    features = extract_features(network.backbone, loader, make_preprocessor(settings))
    if file is not None:
        stored = {"features": features.features, "labels": features.labels}
        classes = None if features.classes is None else list(features.classes)
        with atomic_write(file) as stream:
            torch.save({**stored, "classes": classes}, stream)
    return features


def read_labelled_data(args: argparse.Namespace) -> Config:
    """The data of a picture: of linear evaluation or of few-shot episodes, whichever has the name."""
    few_shot = args.data not in known_data(LINEAR) and args.data in known_data(FEW_SHOT)
    return read_data_config(args.data, FEW_SHOT if few_shot else LINEAR, args.cfg_options)


def picture_files(args: argparse.Namespace, default: str) -> tuple[Path, Path]:
    """Files of a picture and of its numbers; refuses to replace one before anything is computed."""
    picture = (args.out or Path(default)).with_suffix(".png")
    numbers = picture.with_suffix(".json")
    for file in (picture, numbers):
        refuse_existing(file, args.overwrite)
    return picture, numbers


def write_picture(files: tuple[Path, Path], figure: Any, numbers: Mapping[str, Any]) -> None:
    """Write a picture and its numbers, and print where."""
    picture, numbers_file = files
    with atomic_write(picture) as stream:
        figure.savefig(stream, format="png", dpi=130)
    with atomic_write(numbers_file, "w", "utf-8") as stream:
        json.dump(numbers, stream)
    print(f"{picture}\n{numbers_file}")


def finish(args: argparse.Namespace, entries: Sequence[Mapping[str, Any]]) -> None:
    """Print the table and write the report."""
    print(f"\n{markdown_table(entries)}", end="")
    if args.out is not None:
        write_report(args.out, evaluation_report(entries, command_text()), args.overwrite)
        print(f"\n{args.out}")


def check_out(args: argparse.Namespace) -> None:
    """Refuse to replace a report before anything is computed."""
    refuse_existing(args.out, args.overwrite)


def command_text() -> str:
    """The command as it was typed, without the folders of this machine."""
    arguments = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join([*sys.argv[0].split(), *arguments])


def data_name(name: str) -> str:
    """How a data set is called in a report: its short name, or the stem of its config."""
    return Path(name.split("::")[-1]).stem if name.endswith(".py") else name


def _digest(network: EvaluatedBackbone, config: Config, field: str, settings: Mapping[str, Any]) -> str:
    """A name for features that changes with everything they depend on, but the content of the image files."""
    with io.BytesIO() as buffer:
        torch.save(dict(network.backbone.cpu().state_dict()), buffer)
        digest = hashlib.sha256(buffer.getvalue())
    pipeline = config.get("val_dataloader") or config.get("test_dataloader")
    for part in (network.settings, config[field].dataset, pipeline.dataset, dict(settings)):
        digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
