import mmpretrain.datasets.transforms  # noqa: F401
import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset, CustomDataset
from mmpretrain.structures import DataSample
from PIL import Image
from testing_helpers import run_two_processes
from torch.utils.data import DataLoader

from mmkdprune.datasets import BatchedDataset, Digits, StratifiedSubset
from mmkdprune.datasets.batched import batched_collate

PACK = {"type": "PackInputs"}
CROP = {"type": "RandomCrop", "crop_size": 16, "padding": 2}
FLIP = {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}
COLLATE = {"type": "mmkdprune.batched_collate"}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


def digits(*transforms, **options):
    return {"type": "mmkdprune.Digits", "pipeline": [*transforms, PACK], **options}


def build(*transforms, **options) -> BatchedDataset:
    return DATASETS.build({"type": "mmkdprune.BatchedDataset", "dataset": digits(*transforms), **options})


def loader(dataset, seed=0, **options):
    settings = {"batch_size": 32, "sampler": {"type": "DefaultSampler", "shuffle": True}, **options}
    return Runner.build_dataloader({"dataset": dataset, **settings}, seed=seed)


def fields(sample: DataSample) -> tuple[dict, dict]:
    return dict(sample.metainfo_items()), {key: value.tolist() for key, value in sample.items()}


def test_batches_are_those_of_the_ordinary_loader():
    ordinary = loader(digits(), collate_fn={"type": "default_collate"})
    batched = loader({"type": "mmkdprune.BatchedDataset", "dataset": digits()}, collate_fn=COLLATE)
    assert len(ordinary) == len(batched)
    for first, second in zip(ordinary, batched, strict=True):
        assert first.keys() == second.keys()
        assert torch.equal(first["inputs"], second["inputs"])
        assert second["inputs"].dtype == torch.uint8
        assert second["inputs"].is_contiguous()
        assert [fields(sample) for sample in first["data_samples"]] == [
            fields(sample) for sample in second["data_samples"]
        ]


def test_samples_are_complete_data_samples():
    sample = build(CROP)[3]["data_samples"]
    made = DataSample(metainfo={"sample_idx": 3, "img_shape": (16, 16)}).set_gt_label(sample.gt_label)
    assert vars(sample) == vars(made)
    assert "gt_label" in sample
    sample.set_pred_label(2).set_gt_label(sample.gt_label.clone())  # what heads and preprocessors do to them
    assert sample.to_dict().keys() == {"sample_idx", "img_shape", "gt_label", "pred_label"}


def place_of(image, source):
    """Where a crop of a padded image comes from, by its pixels."""
    padded = np.pad(source, ((2, 2), (2, 2), (0, 0)))
    for top in range(5):
        for left in range(5):
            if np.array_equal(padded[top : top + 16, left : left + 16], image):
                return top, left
    raise AssertionError("the crop is none of the image")


def test_distribution_is_that_of_the_per_image_pipeline():
    np.random.seed(0)  # noqa: NPY002 (what the per-image transforms draw from)
    torch.manual_seed(0)
    source = np.random.default_rng(0).integers(1, 256, (16, 16, 3), np.uint8)
    counts = []
    pipeline = [{"type": "RandomCrop", "crop_size": 16, "padding": 2}, PACK]
    for batched in (False, True):
        dataset = Digits(pipeline=pipeline, indices=64)
        dataset.get_data_info = lambda index: {"img": source.copy(), "gt_label": index}
        images = []
        if batched:
            whole = BatchedDataset(dataset)
            for _ in range(16):
                images += list(whole.__getitems__(range(64)).batch["inputs"])
        else:
            images = [dataset[index]["inputs"] for _ in range(16) for index in range(64)]
        places = [place_of(image.permute(1, 2, 0).numpy(), source) for image in images]
        counts.append(np.bincount([5 * top + left for top, left in places], minlength=25))
    # chi-square of two samples with 24 degrees of freedom: 51.2 is its 99.9 % quantile
    first, second = counts
    assert ((first - second) ** 2 / (first + second)).sum() < 51.2


def test_every_image_of_a_batch_has_its_own_numbers_and_a_seed_determines_them():
    dataset = build({"type": "RandomCrop", "crop_size": 16, "padding": 8})
    torch.manual_seed(3)
    first, second = (dataset.__getitems__([5] * 64).batch["inputs"] for _ in range(2))
    assert len({image.numpy().tobytes() for image in first}) > 50
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(dataset.__getitems__([5] * 64).batch["inputs"], first)


def test_a_batch_takes_one_number_from_the_global_stream_and_none_without_augmentation():
    augmented, plain = build(CROP, FLIP), build()
    torch.manual_seed(0)
    torch.randint(2**62, (), dtype=torch.int64)
    expected = torch.rand(2)
    torch.manual_seed(0)
    augmented.__getitems__(range(10))
    assert torch.equal(torch.rand(2), expected)
    state = torch.get_rng_state()
    plain.__getitems__(range(10))
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_draw_different_numbers(monkeypatch):
    dataset, batches = build(CROP), []
    for rank in (0, 1):
        monkeypatch.setattr("mmkdprune.datasets.batched.dataset.get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        batches.append(dataset.__getitems__(range(64)).batch["inputs"])
    assert not torch.equal(*batches)


def test_two_processes_share_the_images_and_augment_them_differently(tmp_path):
    run_two_processes("batched_ranks.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert sorted(first["indices"] + second["indices"]) == list(range(96))
    assert torch.equal(first["seeds"], second["seeds"])  # the shared stream stays the same in both
    whole = Digits(indices=96, pipeline=[])
    places = []
    for part in (first, second):
        padded = [np.pad(whole[index]["img"], ((8, 8), (8, 8), (0, 0))) for index in part["indices"]]
        chosen = []
        for image, source in zip(part["images"], padded, strict=True):
            windows = torch.from_numpy(source).permute(2, 0, 1).unfold(1, 16, 1).unfold(2, 16, 1)[0]
            chosen.append((windows == image[0]).all(-1).all(-1).nonzero().tolist())
        places.append(chosen)
    same = [
        bool({tuple(place) for place in one} & {tuple(place) for place in other})
        for one, other in zip(*places, strict=True)
    ]
    assert sum(same) < 10  # of 48


def test_wrapped_data_sets_and_their_annotations():
    subset = {"type": "mmkdprune.StratifiedSubset", "ratio": 0.25, "dataset": digits(CROP)}
    dataset = DATASETS.build({"type": "mmkdprune.BatchedDataset", "dataset": subset})
    inner = dataset.dataset
    assert isinstance(inner, StratifiedSubset)
    assert len(dataset) == len(inner) == len(dataset.get_gt_labels())
    assert dataset.metainfo == inner.metainfo
    assert dataset.get_cat_ids(7) == inner.get_cat_ids(7)
    assert dataset.get_data_info(7)["gt_label"] == dataset[7]["data_samples"].gt_label.item()
    assert dataset[7]["data_samples"].sample_idx == inner.chosen[7]


def test_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        folder = tmp_path / ("a" if index % 2 else "b")
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{index}.png")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (12, 10)}, PACK]
    ordinary = CustomDataset(data_prefix=str(tmp_path), pipeline=pipeline)
    dataset = BatchedDataset(CustomDataset(data_prefix=str(tmp_path), pipeline=pipeline))
    assert dataset.images.shape == (6, 3, 10, 12)
    for index in range(6):
        assert torch.equal(dataset[index]["inputs"], ordinary[index]["inputs"])
        assert fields(dataset[index]["data_samples"]) == fields(ordinary[index]["data_samples"])


class Images(BaseDataset):
    """Images given one by one."""

    def __init__(self, images, labels=None, pipeline=(PACK,)):
        self.given = images, labels
        super().__init__(ann_file="", pipeline=list(pipeline))

    def load_data_list(self):
        images, labels = self.given
        labels = [{}] * len(images) if labels is None else [{"gt_label": label} for label in labels]
        return [{"img": image, **label} for image, label in zip(images, labels, strict=True)]


def pixels(height=8, width=8, dtype=np.uint8):
    return np.zeros((height, width, 3), dtype)


def test_soft_labels_are_refused():
    dataset = Images([pixels()] * 2, [0, 1])
    dataset.get_data_info = lambda index: {"img": pixels(), "gt_score": np.array([0.5, 0.5])}
    with pytest.raises(ValueError, match=r"soft labels \(gt_score\)"):
        BatchedDataset(dataset)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="no CUDA GPU is visible: set device='auto'"):
        BatchedDataset(Images([pixels()]), device="cuda")


def test_wrappers_that_repeat_images():
    repeated = RepeatDataset(Digits(pipeline=[PACK], indices=10), times=3)
    dataset = BatchedDataset(repeated)
    assert len(dataset) == 30
    assert dataset.get_gt_labels().tolist() == 3 * dataset.get_gt_labels()[:10].tolist()
    assert dataset[25]["data_samples"].sample_idx == 5


def test_without_labels():
    dataset = BatchedDataset(Images([pixels()] * 3))
    with pytest.raises(ValueError, match="has no labels"):
        dataset.get_gt_labels()
    batch = dataset.__getitems__([0, 2]).batch
    assert [fields(sample) for sample in batch["data_samples"]] == [({"sample_idx": 0}, {}), ({"sample_idx": 2}, {})]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (lambda: Images([pixels(), pixels(8, 9)]), {}, r"image 0 is \(8, 8, 3\) and image 1 is \(8, 9, 3\): add dict"),
        (lambda: Images([pixels()] * 4), {"memory_limit": 500}, "raise memory_limit.*Use the ordinary data set"),
        (lambda: Images([pixels(dtype=np.float32)]), {}, "must be bytes"),
        (lambda: Images([pixels()], [[1, 2]]), {}, "exactly one class index"),
        (lambda: Images([pixels()] * 2, [1, None]), {}, "image 1 has None"),
        (lambda: Images([pixels()], [1.5]), {}, "image 0 has 1.5"),
        (lambda: BatchedDataset(Images([pixels()])), {}, "a BatchedDataset itself"),
        (lambda: Images([pixels()]), {"memory_limit": "4GB"}, "memory_limit must be a number, got '4GB'"),
        (lambda: Images([pixels()], pipeline=[dict(CROP, crop_size=13)]), {}, "larger than the padded image"),
        (lambda: Images([pixels()], pipeline=[{"type": "ColorJitter"}]), {}, "ColorJitter has no counterpart"),
        (
            lambda: Images([pixels()], pipeline=[FLIP, {"type": "Resize", "scale": 8}]),
            {},
            "Resize comes after a random",
        ),
        (lambda: Images([pixels()], pipeline=[dict(PACK, algorithm_keys=["x"])]), {}, "more than images and labels"),
        (lambda: Images([pixels()]), {"device": "gpu"}, "device must be one of"),
        (lambda: [1, 2], {}, "list has no pipeline"),
    ],
)
def test_refuses_what_is_not_one_tensor(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        BatchedDataset(dataset(), **options)


def test_refuses_workers_and_other_collate_functions():
    dataset = build()
    with pytest.raises(ValueError, match="num_workers=0 and persistent_workers=False"):
        next(iter(DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=batched_collate)))
    for collate in ("default_collate", "pseudo_collate"):
        with pytest.raises(TypeError, match=r"mmkdprune\.batched_collate"):
            next(iter(loader(dataset, collate_fn={"type": collate})))
    with pytest.raises(TypeError, match="remove collate_fn"):
        next(iter(loader(digits(), collate_fn=COLLATE)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_on_a_gpu_are_those_of_the_host():
    host, device = (build(CROP, FLIP, device=name) for name in ("cpu", "cuda"))
    batches = []
    for dataset in (host, device):
        torch.manual_seed(1)
        batches.append(dataset.__getitems__(range(50)).batch)
    assert batches[1]["inputs"].is_cuda
    assert batches[1]["data_samples"][0].gt_label.is_cuda
    assert torch.equal(batches[0]["inputs"], batches[1]["inputs"].cpu())
