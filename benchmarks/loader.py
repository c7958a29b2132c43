"""Time loading and augmenting small images: whole batches against the per-image pipelines.

Images of CIFAR's size, its usual augmentation (random crop of a padded image, mirroring), no worker processes, one
thread. The loaders take turns in one process, each from a random order to a batch of bytes (``uint8``), and on to a
normalised batch of floats (``float32``).

    python benchmarks/loader.py
    python benchmarks/loader.py --device cuda --out benchmarks/results/loader_gpu.json
"""

import argparse
import itertools
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import torchvision.transforms as torchvision_transforms
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mmkdprune.datasets import BatchedDataset

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "_base_" / "datasets" / "cifar100_bs128.py"
LOADERS = ("mmpretrain", "torchvision", "batched")


class Images(BaseDataset):
    """Random images with MMPretrain's pipeline."""

    def __init__(self, images: np.ndarray, **kwargs: Any) -> None:
        self.images = images
        super().__init__(ann_file="", **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return an entry an image."""
        return [{"img": image, "gt_label": index % 100} for index, image in enumerate(self.images)]


class TorchvisionImages(Dataset):
    """The same images as torchvision's CIFAR classes give them."""

    def __init__(self, images: np.ndarray, transform: Callable) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 100

    def __len__(self) -> int:
        return len(self.images)


def make_loaders(images: np.ndarray, batch_size: int, output: str, device: torch.device) -> dict[str, Callable]:
    """Build a function for each loader that starts an epoch and gives its batches."""
    settings = Config.fromfile(CONFIG)
    pipeline = settings.train_dataloader.dataset.pipeline
    crop, flip = pipeline[0], pipeline[1]
    preprocessor = ClsDataPreprocessor(**settings.data_preprocessor).to(device)

    def mmengine_loader(dataset: Any, collate: str) -> Callable[[], Iterator]:
        loader = Runner.build_dataloader(
            {
                "dataset": dataset,
                "batch_size": batch_size,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "collate_fn": {"type": collate},
            },
            seed=0,
        )
        if output == "uint8":
            return lambda: iter(loader)
        return lambda: (preprocessor(batch, training=True) for batch in loader)

    mean, std = (np.array(settings.data_preprocessor[name]) / 255 for name in ("mean", "std"))
    last = [torchvision_transforms.PILToTensor()]
    if output == "float32":
        last = [torchvision_transforms.ToTensor(), torchvision_transforms.Normalize(mean.tolist(), std.tolist())]
    transform = torchvision_transforms.Compose(
        [
            torchvision_transforms.RandomCrop(crop.crop_size, padding=crop.padding),
            torchvision_transforms.RandomHorizontalFlip(flip.prob),
            *last,
        ]
    )
    torchvision_loader = DataLoader(TorchvisionImages(images, transform), batch_size=batch_size, shuffle=True)
    on_device = "cuda" if device.type == "cuda" else "cpu"
    return {
        "mmpretrain": mmengine_loader(Images(images, pipeline=pipeline), "default_collate"),
        "torchvision": lambda: (
            [part.to(device) for part in batch] if output == "float32" else batch for batch in torchvision_loader
        ),
        "batched": mmengine_loader(
            BatchedDataset(Images(images, pipeline=pipeline), device=on_device), "mmkdprune.batched_collate"
        ),
    }


def measure(number: int, batch_size: int, batches: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure all loaders in turns."""
    images = np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), np.uint8)
    rows = []
    for output in ("uint8", "float32"):
        loaders = make_loaders(images, batch_size, output, device)
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for turn in range(rounds + 1):
            for name, start_epoch in loaders.items():
                iterator = start_epoch()
                next(iterator)
                epoch = itertools.islice(iterator, batches)
                spent = record.seconds(lambda epoch=epoch: deque(epoch, maxlen=0), device)  # keeps no batch
                if turn:  # the first turn warms up
                    times[name].append(spent / batches)
        for name in LOADERS:
            ratios = [own / ours for own, ours in zip(times[name], times["batched"], strict=True)]
            seconds = statistics.median(times[name])
            rows.append(
                {
                    "output": output,
                    "loader": name,
                    "ms_a_batch": round(1e3 * seconds, 3),
                    "images_per_s": round(batch_size / seconds),
                    "time_over_batched": round(statistics.median(ratios), 2),
                }
            )
    return rows


def main() -> None:
    """Run, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=30, help="a turn")
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each loader")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; an existing one is not replaced")
    args = parser.parse_args()
    if args.images < (args.batches + 1) * args.batch_size:
        parser.error(
            f"--images must be at least (--batches + 1) * --batch-size = {(args.batches + 1) * args.batch_size}"
        )
    record.prepare(args.out)
    torch.set_num_threads(args.threads)
    init_default_scope("mmpretrain")
    device = torch.device(args.device)
    rows = measure(args.images, args.batch_size, args.batches, args.rounds, device)
    record.show(rows)
    record.write(args.out, device, rows, batch_size=args.batch_size, images=args.images)


if __name__ == "__main__":
    main()
