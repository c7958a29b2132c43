"""Randomness that leaves the shared random stream alone, so that a method does not change what its plain twin draws.

MMEngine seeds Python's, NumPy's and PyTorch's global generators once, and everything draws from them in turn:
initialisation, augmentation, dropout. One additional draw anywhere changes all later ones.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The seed that outermost `isolated_random_state` found; inside it, torch.initial_seed() is the seed of the isolation.
_outer_seed: int | None = None


def base_seed() -> int:
    """The seed that the process was given (``torch.initial_seed()``), also inside :func:`isolated_random_state`.

    Returns:
        int: The seed.
    """
    return torch.initial_seed() if _outer_seed is None else _outer_seed


def derive_seed(*parts: int | str) -> int:
    """A 128-bit seed that depends on nothing but its arguments (Python's ``hash`` differs from process to process).

    Args:
        *parts (int | str): Numbers and names.

    Returns:
        int: The seed.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16], "big")


def get_global_state(cuda: bool = True) -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and PyTorch, as plain types and tensors.

    Args:
        cuda (bool): Whether to include the current CUDA device, where CUDA is in use. Defaults to True.

    Returns:
        dict[str, Any]: For :func:`set_global_state`; ``torch.load(weights_only=True)`` reads it.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if cuda and torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_global_state(state: dict[str, Any]) -> None:
    """Restores what :func:`get_global_state` returned, wherever its tensors are now.

    Args:
        state (dict[str, Any]): The states. A CUDA state is ignored where there is no CUDA.
    """
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].cpu().numpy().astype(np.uint32)
    legacy = ("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached_gaussian"])
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextlib.contextmanager
def isolated_random_state(name: str) -> Iterator[None]:
    """Context in which the global CPU generators run from a seed of their own; afterwards they are as before.

    Build the train-only parts of a model in it: the deployable network is then initialised, and trained, with the
    same random numbers as without them. The seed depends on the process's seed and the name only, so the same name
    gives the same numbers again, nested in another context or not. CUDA generators are left alone.

    Args:
        name (str): What is built.

    Yields:
        None.
    """
    global _outer_seed
    outer_seed, state = _outer_seed, get_global_state(cuda=False)
    base = base_seed()
    seed = derive_seed("isolated", base, name)
    _outer_seed = base
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed % 2**63)  # torch.manual_seed would reach CUDA too
        yield
    finally:
        _outer_seed = outer_seed
        set_global_state(state)


class PrivateRandom:
    """A random stream of one module's own: mixing coefficients, permutations, index draws.

    It is seeded at its first use from the process's seed, the distributed rank and its name, and never touches the
    global generators. As an attribute of a module it is saved and resumed by ``RandomStateHook``.

    Args:
        name (str): Tells this stream from others; the same name gives the same numbers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._generator: np.random.Generator | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def generator(self) -> np.random.Generator:
        """np.random.Generator: The generator behind the stream."""
        if self._generator is None:
            from mmengine.dist import get_rank

            self._generator = np.random.Generator(np.random.PCG64(derive_seed(base_seed(), get_rank(), self.name)))
        return self._generator

    def beta(self, a: float, b: float) -> float:
        """Draws from the Beta distribution.

        Args:
            a (float): First parameter, positive.
            b (float): Second parameter, positive.

        Returns:
            float: A number between 0 and 1.
        """
        return float(self.generator.beta(a, b))

    def permutation(self, n: int) -> torch.Tensor:
        """Draws a random order.

        Args:
            n (int): Number of elements.

        Returns:
            torch.Tensor: The numbers 0 to n-1, shape (n,), int64, on the CPU.
        """
        return torch.from_numpy(self.generator.permutation(n))

    def integers(self, low: int, high: int, size: int | tuple[int, ...] = 1) -> torch.Tensor:
        """Draws integers evenly.

        Args:
            low (int): Smallest value.
            high (int): One above the largest value.
            size (int | tuple[int, ...]): Shape of the result. Defaults to 1.

        Returns:
            torch.Tensor: The integers, shape ``size``, int64, on the CPU.
        """
        return torch.from_numpy(self.generator.integers(low, high, size))

    def state_dict(self) -> dict[str, Any]:
        """The stream's state in plain types.

        Returns:
            dict[str, Any]: Empty but for the name while the stream is unused. The 128-bit numbers are hexadecimal
            strings, which every reader takes.
        """
        if self._generator is None:
            return {"name": self.name}
        state: dict[str, Any] = dict(self._generator.bit_generator.state)
        words = {key: f"{value:x}" for key, value in state["state"].items()}
        rest = {key: int(state[key]) for key in ("has_uint32", "uinteger")}
        return {"name": self.name, "words": words, **rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the stream of ``state`` was.

        Args:
            state (dict[str, Any]): From :meth:`state_dict`.
        """
        if "words" not in state:
            self._generator = None
            return
        bit_generator = np.random.PCG64()
        words = state["words"]
        bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": int(words["state"], 16), "inc": int(words["inc"], 16)},
            "has_uint32": state["has_uint32"],
            "uinteger": state["uinteger"],
        }
        self._generator = np.random.Generator(bit_generator)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the host without the host waiting for it.

    Args:
        numbers (Tensor): On the CPU.
        device (torch.device): Where it is needed.

    Returns:
        Tensor: The same numbers there.
    """
    if device.type == "cuda":
        numbers = numbers.pin_memory()  # only from pinned memory the copy runs on its own
    return numbers.to(device, non_blocking=True)
