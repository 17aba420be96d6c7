"""Every random number of a run, from (seed, epoch): the order of the images, and the generators a network draws from.

with kept(device):                  # afterwards all generators are as they were
    seed_generators(epoch_seed(seed, epoch))
    ...                             # dropout, and whatever a network of one's own draws
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of every random generator in a 1-based epoch; epoch 0 stands for the initial weights."""
    return _seed(seed, epoch)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def micro_batch_seed(seed: int, update: int, number: int) -> int:
    """Seed of the generators for a micro-batch, the `number`-th of the 0-based `update`, whoever computes it."""
    return _seed(seed, update, number, 1)  # the 1 sets it apart from an epoch's seed, which ends in zeros


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Order of the training images in a 1-based epoch: int64 `(n,)` on the CPU, the same on every device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def seed_generators(seed: int) -> None:
    """Seed torch's generators, on the CPU and on every device, Python's, and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global generator is what somebody's network would use)


def generators_state(device: torch.device) -> dict:
    """Where these generators stand; loads with `torch.load(weights_only=True)`."""
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
    """Put them where `generators_state` found them.

    On another kind of device than before there is no such state: dropout then goes on with whatever numbers the device
    has. Such a run could not repeat the other device's rounding either.
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
def kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, outside the generators are as they were."""
    before = generators_state(device)
    try:
        yield
    finally:
        set_generators(before, device)
