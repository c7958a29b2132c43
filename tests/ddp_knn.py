"""k-NN evaluation in two processes against the one in one; started as a script by test_knn_hook.py."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as torch_dist
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from testing_helpers import build_model, network

from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.evaluation import KNNEvaluationHook


def loader(split: str, number: int) -> dict:
    """Loader of some digits; the numbers are not multiples of the processes."""
    dataset = {"type": "mmkdprune.Digits", "split": split, "indices": number, "pipeline": [{"type": "PackInputs"}]}
    return {"batch_size": 32, "dataset": dataset}


def evaluate() -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Accuracies of a network whose running statistics differ between the processes, and its state afterwards."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = build_model("ImageClassifier", data_preprocessor={"mean": [77.8] * 3, "std": [81.2] * 3}, **network(8))
    model.init_weights()
    rank = torch_dist.get_rank() if torch_dist.is_initialized() else 0
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1 + 9 * rank)
            module.running_mean.fill_(rank)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hook = KNNEvaluationHook(loader("train", 301), loader("test", 77), topk=(1, 5))
    runner = SimpleNamespace(model=model, iter=1, build_dataloader=Runner.build_dataloader)
    hook.before_train(runner)
    accuracies = hook.evaluate(runner)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return accuracies, before


def main(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    expected, _ = evaluate()
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found, _ = evaluate()
    assert found == expected, (found, expected)
    assert 20 < found["accuracy/knn_top1"] < found["accuracy/knn_top5"] <= 100
    leave_finished_process()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
