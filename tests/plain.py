"""The textbook training loop, with which the package's is compared, and what is trained in it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchscale.training import augmentation
from batchscale.training.datasets import Dataset
from batchscale.training.randomness import epoch_seed, micro_batch_seed, permutation
from models import CNN


def random_images() -> Dataset:
    """On a uniform background max-pooling would have ties, which rounding breaks either way."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (700, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (700,), generator=generator)
    return Dataset(
        "noise", images, labels, images[640:], labels[640:], tuple("0123456789"), torch.zeros(3), torch.ones(3)
    )


class InDouble(nn.Module):
    """The study's network in float64."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.cnn = CNN(width=0.125).double()

    def forward(self, images):
        return self.cnn(images.double())


def sgd(parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def plain_loop(
    data: Dataset,
    model: nn.Module,
    *,
    updates: int,
    size: int,
    rate: Callable[[int], float],
    seed: int = 0,
    micro: int | None = None,
    optimizer: Callable = sgd,
    change: Callable[[Tensor, list[int]], Tensor] | None = None,
) -> nn.Module:
    """Train one epoch; `rate(t)` is the learning rate of update t, `change` an image `(3, h, w)` after its draws."""
    pixels = data.train_images[: updates * size].permute(0, 3, 1, 2).contiguous()
    order = permutation(len(pixels), seed, epoch=1)
    mean, std = (
        getattr(pixels.double(), name)(dim=(0, 2, 3), keepdim=True, **options).float()
        for name, options in (("mean", {}), ("std", {"correction": 0}))
    )
    if change is not None:
        pixels = pixels.clone()
        for index, *draws in augmentation.drawn(order, "flip-crop", (32, 32), seed, epoch=1).tolist():
            pixels[index] = change(pixels[index], draws)
    images = (pixels.float() - mean) / std
    model.train()
    optimizer = optimizer(model.parameters(), lr=rate(0))
    torch.manual_seed(epoch_seed(seed, 1))
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = rate(update)
        optimizer.zero_grad()
        batch = order[update * size : (update + 1) * size]
        for number, start in enumerate(range(0, size, micro or size), start=1):
            if micro:
                torch.manual_seed(micro_batch_seed(seed, update, number))
            part = batch[start : start + (micro or size)]
            loss = functional.cross_entropy(model(images[part]), data.train_labels[part]) * len(part) / size
            loss.backward()
        optimizer.step()
    return model
