"""Networks and data sets that tests refer to by name."""

import random
import time
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
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
        if self.training and torch.is_grad_enabled():  # not the check before training
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


def data_with_missing_labels():
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    return images, torch.tensor([0, 1, torch.nan, 2]), images, torch.tensor([0, 1, 2, 3])


def data_with_negative_labels():
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    return images, torch.tensor([0, 1, -1, 2]), images, torch.tensor([0, 1, 2, 3])


class Downloaded:
    """A data set like those of torchvision, with one file in `root`, which cannot be downloaded twice."""

    classes = ("dark", "bright")

    def __init__(self, root: str, train: bool = True, transform=None, download: bool = False):
        file, new = Path(root, "images.npy"), Path(root, "new.npy")
        if download:
            with new.open("xb") as stream:
                np.save(stream, np.arange(6 * 32 * 32, dtype=np.uint8).reshape(6, 32, 32))
                time.sleep(0.3)  # for another process to come between
            file.hardlink_to(new)
        if not file.exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.images = np.load(file)[:4] if train else np.load(file)[4:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], index % 2


def split_in_memory(split: str):
    """It names `split`, and neither `root` nor `download`."""
    images = torch.arange(6 * 32 * 32).remainder(256).byte().reshape(6, 1, 32, 32) / 255
    images, labels = {"train": (images[:4], [0, 1, 0, 1]), "test": (images[4:], [0, 1])}[split]
    return torch.utils.data.TensorDataset(images, torch.tensor(labels))


class StochasticDepth(nn.Module):
    """A block with batch norm that half of the micro-batches skip, so that it has no gradient in some updates."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.first(images)
        if not self.training or torch.rand(()) < 0.5:
            values = values + self.block(values)
        return self.last(values.mean(dim=(2, 3)))


class Awkward(StochasticDepth):
    """It also has a norm in eval mode, one that is used twice, a head without a gradient, and an int16 buffer."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.frozen, self.twice, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.instance = nn.InstanceNorm2d(8, track_running_stats=True)
        nn.init.constant_(self.frozen.running_mean, 0.5)
        nn.init.constant_(self.frozen.running_var, 2)
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int16))
        self.double()

    def train(self, mode: bool = True) -> None:  # as many override it: without a result
        super().train(mode)
        self.frozen.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.twice(self.twice(self.first(self.frozen(images.double()))))
        if not self.training or torch.rand(()) < 0.5:
            values = values + self.block(self.instance(values))
        return self.last(values.mean(dim=(2, 3)))


class JoinsLate(nn.Module):
    """A block that takes part from the sixth update on; the passes of an evaluation do not count."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.passes, self.block, self.last = 0, nn.Linear(3072, num_classes), nn.Linear(3072, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        images = images.flatten(1)
        return self.last(images) + (self.block(images) if self.passes > 5 else 0)


class Remembers(nn.Module):
    """Replaces a buffer, keeps tensors of earlier passes, and counts in attributes and in a list."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.last, self.seen, self.cache = nn.Linear(3072, num_classes), [], {}
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.scale = self.scale * 0.99
        self.seen.append(len(images))
        if len(images) not in self.cache:
            self.cache[len(images)] = torch.full((len(images), 1), 1 + 0.1 * len(self.seen))
        return self.last(images.flatten(1)) * self.scale * self.cache[len(images)]


class LeNet(nn.Module):
    """The network of a hundred tutorials, with `view`."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 5), nn.Linear(6 * 14 * 14, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = nn.functional.max_pool2d(self.conv(images).relu(), 2)
        return self.last(values.view(len(images), -1))


class ViewInTraining(LeNet):
    """`view` in a branch that only training takes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(images)
        return self.last(nn.functional.max_pool2d(self.conv(images).relu(), 2).flatten(1))


class Volume(nn.Module):
    """A three-dimensional convolution, whose weights have no channels-last layout."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv, self.last = nn.Conv3d(1, 2, 3), nn.LazyLinear(num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(images[:, None]).mean(dim=2).flatten(1))


class PlainList(nn.Module):
    """Layers that no module has registered."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layers = [nn.Flatten(), nn.Linear(3072, num_classes)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            images = layer(images)
        return images


class HalfRegistered(PlainList):
    """One layer is registered, and one is not."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.layers, self.first = [nn.Linear(3072, num_classes), nn.ReLU()], nn.Flatten()
        self.last = nn.Linear(num_classes, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(self.first(images)))


class Frozen(nn.Module):
    """A first layer that is not trained."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first, self.last = nn.Linear(3072, 16), nn.Linear(16, num_classes)
        self.first.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(images.flatten(1)).tanh())


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first, self.second = nn.Linear(3072, 16), nn.Linear(16, 16)
        self.third, self.last = nn.Linear(16, 16), nn.Linear(16, num_classes)
        self.third.weight = self.second.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.third(self.second(self.first(images.flatten(1)).tanh()).tanh()).tanh())


class Returns(nn.Module):
    """It returns something other than logits; in training only, unless `always`."""

    always = False

    def __init__(self, num_classes: int):
        super().__init__()
        self.last, self.aside = nn.Linear(3072, num_classes), nn.Linear(3072, num_classes)

    def forward(self, images: torch.Tensor):
        logits = self.last(images.flatten(1))
        return self.wrapped(logits, self.aside(images.flatten(1))) if self.training or self.always else logits


class ReturnsNamedTuple(Returns):
    """As torchvision's GoogLeNet and Inception do in training."""

    def wrapped(self, logits, aside):
        return namedtuple("Outputs", ["aside", "logits"])(aside, logits)


class ReturnsDataclass(Returns):
    """As Hugging Face's classifiers do, always: a dataclass that is also a dict."""

    always = True

    def wrapped(self, logits, aside):
        @dataclass
        class ImageClassifierOutput(OrderedDict):
            loss: torch.Tensor | None = None
            logits: torch.Tensor | None = None

        return ImageClassifierOutput(logits=logits)


class ReturnsDict(Returns):
    def wrapped(self, logits, aside):
        return {"features": aside, "logits": logits}


class ReturnsFeatures(Returns):
    """A plain tuple in which only one tensor can be the logits."""

    def wrapped(self, logits, aside):
        return aside[:, :3], logits


class ReturnsTwoAlike(Returns):
    def wrapped(self, logits, aside):
        return logits, aside


class SparseGradient(nn.Module):
    """An embedding of brightness whose gradient is sparse."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.levels, self.last = nn.Embedding(8, 2, sparse=True), nn.Linear(2 * 64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = nn.functional.avg_pool2d(images.mean(dim=1), 4)
        return self.last(self.levels((2 * brightness).long() % 8).flatten(1))


class ComplexWeights(nn.Module):
    """A filter in the frequency domain."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(32, 17, dtype=torch.complex64))
        self.last = nn.Linear(1024, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.fft.irfft2(torch.fft.rfft2(images.mean(dim=1)) * self.filter).flatten(1))


class Shares(nn.Module):
    """Passes one layer twice, and has parameters of its own beside its layers."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Linear(3 * 32 * 32, 10), nn.Linear(10, 10)
        self.tanh, self.scale = nn.Tanh(), nn.Parameter(torch.ones(10))

    def forward(self, images):
        return self.twice(self.tanh(self.twice(self.first(images.flatten(1))))) * self.scale
