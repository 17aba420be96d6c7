"""Small workloads on which predictions are compared with measurements: a part of CIFAR-10, and other networks."""

from functools import cache

import numpy as np
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

TRAINING, TEST = 4_000, 4_000


@cache
def cifar10_part():
    """The first 4 000 training and 4 000 test images of CIFAR-10, which one core trains in seconds per epoch."""
    from batchscale.training.datasets import find_data_root

    root = find_data_root(None)
    train, test = (CIFAR10(root, train=is_train) for is_train in (True, False))
    return (
        (train.data[:TRAINING], np.array(train.targets[:TRAINING])),
        (test.data[:TEST], np.array(test.targets[:TEST])),
    )


class Residual(nn.Module):
    """A small residual network with group norm, which has no statistics over the minibatch."""

    def __init__(self, in_channels: int = 3, num_classes: int = 10, channels: int = 16):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(channels, channels), Block(channels, 2 * channels)])
        self.head = nn.Linear(2 * channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = nn.functional.max_pool2d(block(x), 2)
        return self.head(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions of normalised, rectified maps, added to their input (He et al. 2016)."""

    def __init__(self, channels: int, wider: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, channels), nn.GroupNorm(4, wider)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(channels, wider, 3, padding=1), nn.Conv2d(wider, wider, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(channels, wider, 1) if wider != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(nn.functional.relu(norm(y)))
        return self.shortcut(x) + y


class Perceptron(nn.Sequential):
    """Two hidden layers on the pixels."""

    def __init__(self, in_channels: int = 3, num_classes: int = 10, hidden: int = 128):
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_channels * 1024, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )
