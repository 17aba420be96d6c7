"""Every random number of a run, derived from (seed, epoch): the order of the images, and what the network draws.

with preserved(device):  # restores all generators on exit
    seed_generators(epoch_seed(seed, epoch))
    ...  # dropout, and anything else that a network draws
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of all random generators in a 1-based epoch; epoch 0 stands for the initial weights."""
    return _seed(seed, epoch)


def micro_batch_seed(seed: int, update: int, number: int) -> int:
    """Seed of the generators for micro-batch `number` of the 0-based `update`, whichever worker computes it."""
    return _seed(seed, update, number, 1)  # the 1 distinguishes it from an epoch's seed, which ends in zeros


def augmentation_seed(seed: int, epoch: int) -> int:
    """Seed of the random changes of the images in a 1-based epoch."""
    return _seed(seed, epoch, 0, 2)  # the 2 distinguishes it from all others


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Order of the n training images in a 1-based epoch: int64 `(n,)` on the CPU, the same for every device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch (on every device), Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a user's network may draw from the global generator)


def generators_state(device: torch.device) -> dict:
    """State of these generators, on the CPU and on `device`; loads with `torch.load(weights_only=True)`."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_generators(state: dict, device: torch.device) -> None:
    """Restore a `generators_state`.

    A state from another type of device lacks the generator of `device`, which then keeps its own state. Such a run
    could not repeat the other device's rounding either.
    """
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """Restore all generators on exit, whatever was drawn inside."""
    before = generators_state(device)
    try:
        yield
    finally:
        set_generators(before, device)
