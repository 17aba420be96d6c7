"""Networks and data sets that tests refer to by name."""

import random
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from models import CNN


def linear(num_classes: int) -> nn.Module:
    """A linear network, for which an update takes a fraction of a millisecond."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


class InDouble(nn.Module):
    """The study's network in float64, where rounding errors stay small for longer."""

    def __init__(self, width: float = 0.25):
        super().__init__()
        self.cnn = CNN(width).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.cnn(images.double())


class DrawsFromEveryGenerator(nn.Module):
    """Its output in training depends on torch's, NumPy's and Python's global random generators."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.linear(images.flatten(1))
        if self.training:
            logits = logits * (0.5 + random.random()) * (0.5 + np.random.rand()) * (0.5 + torch.rand(()))  # noqa: NPY002
        return logits


def drawn_from_every_generator(num_classes: int) -> nn.Module:
    """Its initial weights depend on torch's, NumPy's and Python's global random generators."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
    nn.init.constant_(model[1].bias, random.random() * np.random.rand())  # noqa: NPY002
    return model


class NeedsMemory(nn.Module):
    """Fails like a device with room for `train_room` images at once in training and `eval_room` in evaluation."""

    train_room, eval_room = 100, 10_000
    updates_with_room = 0  # number of updates that succeed at any size
    error: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
    seen: ClassVar[list[int]] = []

    def __init__(self, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.1)
        self.linear = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.linear(self.drop(self.norm(images)).flatten(1))
        if len(images) > (self.train_room if self.training else self.eval_room) and (
            len(self.seen) >= self.updates_with_room
        ):
            raise self.error
        if self.training:
            self.seen.append(len(images))
        return logits


def fails_in_training(num_classes: int) -> nn.Module:
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 32 * 32, num_classes)

        def forward(self, images):
            if self.training:
                raise ValueError("too much of a good thing\nand a second line")
            return self.linear(images.flatten(1))

    return Fails()


def cannot_be_built(num_classes: int) -> nn.Module:
    raise ZeroDivisionError("cannot build")


def one_class_too_many(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes + 1))


def not_a_network(num_classes: int) -> dict:
    return {"classes": num_classes}


# Data sets


def data_that_fails():
    raise FileNotFoundError("[Errno 2] No such file or directory: 'images.npy'")


def data_of_words():
    return "train images", "train labels", "test images", "test labels"


def data_with_negative_labels():
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    return images, torch.tensor([0, 1, -1, 2]), images, torch.tensor([0, 1, 2, 3])
