"""Random networks: prune, compact, and compare with the pruned network; equal or refused, never wrong.

    PYTHONPATH=. python tests/random_networks.py 3000                 # seeds 0 to 2999, a line for each network
    PYTHONPATH=. python tests/random_networks.py 100 --first 500 --out outcomes.jsonl

The comparison here is one of its own: in double precision, on images of several scales and two sizes, and through one
training step of both networks.
"""

import argparse
import collections
import copy
import dataclasses
import json
import random
import time
import types
import warnings
from pathlib import Path
from typing import Any

import random_blocks_unusual  # noqa: F401
import torch
from random_blocks import BLOCKS, conv_norm
from torch import nn

from mmkdprune.pruning import CompactionError, FilterPruner, compact

SIZE = 8
SCALES = (1.0, 20.0, 0.05)
# In training mode these draw random numbers that depend on the number of channels.
DRAWS = {"Dropout", "Dropout2d", "DropPath"}


@dataclasses.dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor


class Bag:
    """A plain object."""

    def __init__(self, logits):
        self.logits = logits


OUTPUTS = {
    "logits": lambda x, y: y,
    "features": lambda x, y: x,
    "tuple": lambda x, y: (x, y),
    "dictionary": lambda x, y: {"features": x, "logits": [y, None]},
    "dataclass": lambda x, y: Output(x, y),
    "namespace": lambda x, y: types.SimpleNamespace(logits=y),
    "object": lambda x, y: Bag(y),
    "user dictionary": lambda x, y: collections.UserDict(logits=y),
    "set": lambda x, y: {y},
    "generator": lambda x, y: (one for one in (y, x.mean((2, 3)))),
    "classes": lambda x, y: y.argmax(1),
    "saturated": lambda x, y: (y * 1000).sigmoid(),
    "softmax": lambda x, y: y.softmax(1),
    "signs": lambda x, y: y > 0,
    "array": lambda x, y: y.detach().numpy(),
    "number": lambda x, y: float(y.detach().mean()),
    "pooled": lambda x, y: x.mean((2, 3)),
    "none": lambda x, y: None,
    "iterator": lambda x, y: iter([y]),
}
# The ordinary ones more often.
_OUTPUTS = ["logits"] * 12 + [name for name in OUTPUTS if name != "logits"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """A network, and how it is pruned."""

    blocks: tuple[str, ...]
    output: str = "logits"
    width: int = 8
    coupling: str = "group"
    bn_policy: str = "follow"
    rate: float = 0.4
    by_chance: bool = False  # filters are zeroed at random, without a pruner
    seed: int = 0


def random_spec(seed: int) -> Spec:
    """The network of a seed."""
    draw = random.Random(seed)
    return Spec(
        tuple(draw.choice(sorted(BLOCKS)) for _ in range(draw.randint(1, 3))),
        draw.choice(_OUTPUTS),
        draw.choice([8, 12]),
        draw.choice(["group", "independent"]),
        draw.choice(["follow"] * 4 + ["hard_only", "none"]),
        draw.choice([0.25, 0.4, 0.6]),
        draw.random() < 0.2,
        seed,
    )


class Network(nn.Module):
    """Stem, blocks and a classifier."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stem = conv_norm(3, spec.width)
        self.blocks = nn.Sequential(*(BLOCKS[name](spec.width) for name in spec.blocks))
        self.fc = nn.Linear(spec.width, 5)
        self.output = spec.output

    def forward(self, images):
        features = self.blocks(self.stem(images))
        return OUTPUTS[self.output](features, self.fc(features.mean((2, 3))))


def build(spec: Spec) -> nn.Module:
    """The network with random weights and statistics, in evaluation mode."""
    torch.manual_seed(spec.seed)
    network = Network(spec)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def prune(network: nn.Module, spec: Spec) -> None:
    """Leave zeros in the network."""
    if not spec.by_chance:
        try:
            pruner = FilterPruner(
                network, spec.rate, coupling=spec.coupling, bn_policy=spec.bn_policy, example_input=(1, 3, SIZE, SIZE)
            )
        except ValueError as error:
            if "nothing is left to prune" not in str(error):
                raise
        else:
            pruner.finalize()
            return
    generator = torch.Generator().manual_seed(spec.seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters:
            chosen = torch.rand(module.out_channels, generator=generator) < spec.rate
            for value in (module.weight, module.bias):
                if value is not None:
                    value.data[chosen] = 0


def outcome(spec: Spec) -> dict[str, Any]:
    """Prune, compact and compare: ``equal``, ``refused``, ``wrong`` or ``crash``, and why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network = build(spec)
            prune(network, spec)
            small, plan = compact(network, (3, SIZE, SIZE))
        except CompactionError as error:
            return {"outcome": "refused", "reason": str(error)}
        except Exception as error:
            return {"outcome": "crash", "reason": f"{type(error).__name__}: {error}"}
        wrong = difference(network, small, plan, spec)
    removed = {f"{layer} {side}": entry[side]["of"] - len(entry[side]["kept"]) for layer, entry in plan.layers.items()
               for side in entry}  # fmt: skip
    return {"outcome": "wrong" if wrong else "equal", "reason": wrong, "removed": removed}


def difference(dense: nn.Module, small: nn.Module, plan: Any, spec: Spec) -> str:
    """How the networks differ; empty if they are equal."""
    dense, small = double(dense), double(small)
    generator = torch.Generator().manual_seed(1000 + spec.seed)
    for size in (SIZE, 12):
        for scale in SCALES:
            images = scale * torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                expected, found = values(dense(images)), values(small(images))
            if error := _unequal(expected, found):
                return f"outputs at {size} px, scale {scale}: {error}"
    if not expected:
        return "returns nothing that could be compared"
    return training_difference(dense, small, plan, spec)


def double(network: nn.Module) -> nn.Module:
    for module in network.modules():  # computed by old-style weight norm
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                module.__dict__[name] = value.detach()
    with torch.no_grad():
        return copy.deepcopy(network).double()


def training_difference(dense: nn.Module, small: nn.Module, plan: Any, spec: Spec) -> str:
    """Compare losses, gradients of what was kept, and running statistics after one training step of both."""
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    losses = []
    for network in (dense, small):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.training = False
        network.output = "tuple" if spec.output not in ("tuple", "dataclass", "features", "pooled") else spec.output
        if spec.output not in ("tuple", "dataclass", "features", "pooled"):
            network.output = "logits"
        torch.manual_seed(0)
        try:
            outputs = [one for one in values(network(images)) if one.requires_grad]
            loss = sum((one.double() ** 2).mean() for one in outputs)
            loss.backward()
        except Exception as error:
            if network is dense:
                return ""  # it cannot be trained either
            return f"training fails: {type(error).__name__}: {error}"
        losses.append(float(loss.detach()))
    if not abs(losses[0] - losses[1]) <= 1e-9 * abs(losses[0]):
        return f"loss {losses[0]:.12g} and {losses[1]:.12g}" if losses[0] == losses[0] else ""
    known = dict(dense.named_parameters()) | dict(dense.named_buffers())
    # A bias in front of a BatchNorm has a gradient of zero, but for the rounding of its layer's much larger ones.
    largest_gradients: dict[str, float] = {}
    for name, parameter in dense.named_parameters():
        layer = name.rpartition(".")[0]
        if parameter.grad is not None:
            largest_gradients[layer] = max(largest_gradients.get(layer, 0), _largest(parameter.grad))
    for name, value in [*small.named_parameters(), *small.named_buffers()]:
        layer, _, attribute = name.rpartition(".")
        expected = known[name]
        if isinstance(value, nn.Parameter):
            if expected.grad is None and value.grad is None:
                continue
            if (expected.grad is None) != (value.grad is None):
                return f"gradient of {name} is missing in one"
            expected, value = expected.grad, value.grad
        expected = kept(expected, plan, layer, attribute, dense)
        if not expected.isfinite().all():
            return ""
        if expected.shape != value.shape:
            return f"{name} has shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
        scale = max(_largest(expected), largest_gradients.get(layer, 0), 1e-6)
        if _largest(expected.double() - value.double()) > 1e-7 * scale:
            return f"gradient or statistic {name} differs"
    return ""


def _largest(value: torch.Tensor) -> float:
    return float(value.double().abs().max()) if value.numel() else 0.0


def kept(value: torch.Tensor, plan: Any, layer: str, attribute: str, dense: nn.Module) -> torch.Tensor:
    """The part of a dense tensor that a plan keeps."""
    out, read = plan.kept(layer), plan.kept(layer, "in")
    module = dense.get_submodule(layer)
    if out is not None and value.ndim and len(value) == plan.layers[layer]["out"]["of"]:
        value_out = out
    else:
        value_out = None
    if read is not None and value.ndim > 1 and attribute == "weight":
        groups = getattr(module, "groups", 1)
        size = value.shape[1]
        rows = value.unflatten(0, (groups, -1))
        own = [[index - group * size for index in read if index // size == group] for group in range(groups)]
        value = torch.stack([rows[group][:, own[group]] for group in range(groups)]).flatten(0, 1)
    return value if value_out is None else value[value_out]


def values(outputs: Any) -> list[torch.Tensor]:
    """All tensors and numbers in an output of the kinds above."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, (Output, Bag, types.SimpleNamespace)):
        return values(list(vars(outputs).values()))
    if isinstance(outputs, collections.UserDict | dict):
        return values(list(outputs.values()))
    if outputs is None or isinstance(outputs, str):
        return []
    if isinstance(outputs, float) or type(outputs).__module__ == "numpy":
        return [torch.as_tensor(outputs)]
    return [one for part in outputs for one in values(part)]


def _unequal(expected: list[torch.Tensor], found: list[torch.Tensor]) -> str:
    if len(expected) != len(found):
        return "another number of tensors"
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"shapes {tuple(one.shape)} and {tuple(other.shape)}"
        if not one.is_floating_point():
            if not torch.equal(one, other):
                return "integers differ"
            continue
        if not torch.equal(one.isfinite(), other.isfinite()):
            return "infinite at other places"
        one, other = one[one.isfinite()], other[other.isfinite()]
        error = float((one - other).abs().max()) if one.numel() else 0.0
        if error > 1e-9 * float(one.abs().max() if one.numel() else 0):
            return f"difference {error:.2g}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="how many networks")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--out", type=Path, help="file for one JSON line per network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    start = time.process_time()
    lines = []
    for seed in range(args.first, args.first + args.number):
        spec = random_spec(seed)
        found = outcome(spec)
        counts[found["outcome"]] += 1
        if found["outcome"] == "refused":
            reasons[summary(found["reason"])] += 1
        elif found["outcome"] != "equal":
            print(seed, spec, found, flush=True)
        lines.append(json.dumps({"spec": dataclasses.asdict(spec), **found}))
        if args.out and (seed % 50 == 0 or seed == args.first + args.number - 1):
            args.out.write_text("\n".join(lines) + "\n")
    print(dict(counts), f"{time.process_time() - start:.0f} s of processor time")
    for reason, number in reasons.most_common(15):
        print(f"{number:6d}  {reason}")


def summary(reason: str) -> str:
    """A reason without names and numbers."""
    import re

    inner = re.search(r"removed \((.*?)(; |\)\. )", reason)
    text = inner.group(1) if inner else reason
    text = re.sub(r"^\d+ of \S+: ", "", text)
    return re.sub(r"(blocks|stem|fc)[\w.]*|\d[\d.e-]*", "_", text)[:120]


if __name__ == "__main__":
    main()
