"""Data sets as tensors that stay on the device and are normalised there.

    data = load("cifar10", data_root="datasets").to("cuda")
    images, labels = data.batch(indices)  # float32 (b, 3, 32, 32), zero mean and unit variance per channel

`cifar10` is torchvision's: checked by MD5, and downloaded from mirrors if it is missing. `digits` is part of
scikit-learn and needs no download. `module:function` names your own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from batchscale.errors import UserError, failure
from batchscale.training.by_name import find_callable

TRAIN_ACCURACY_IMAGES = 10_000  # size of the fixed subset for train accuracy


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, on one device.

    Attributes:
        train_images, test_images: uint8 `(n, h, w, channels)`. Convolutions are fastest with channels last in memory,
            so a gathered batch needs no reordering.
        train_labels, test_labels: int64 `(n,)`, in 0 ... len(classes) - 1.
        classes: names of the classes.
        mean, std: float32 `(channels,)`, of the training images in units of 0-255; used by `normalised`.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        return self.train_images.shape[-1]

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`. Shares the tensors that are already there."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def first(self, train_size: int | None) -> "Dataset":
        """The same data with the first `train_size` training images, normalised by their own mean and variance.

        Raises:
            UserError: there are fewer training images.
        """
        if train_size is None:
            return self
        if train_size > len(self.train_images):
            raise UserError(f"train_size is {train_size} but {self.name} has {len(self.train_images)} training images")
        images = self.train_images[:train_size]
        mean, std = _channel_statistics(images)
        return replace(self, train_images=images, train_labels=self.train_labels[:train_size], mean=mean, std=std)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 `(b, h, w, c)` -> float32 `(b, c, h, w)` in channels-last memory, (x - mean) / std per channel."""
        # One mean per pixel, although they are equal: the CPU would process the three values of a pixel one by one.
        mean, std = (values.expand(images.shape[1:]).contiguous() for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std).permute(0, 3, 1, 2)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Training images and labels at `indices` (int64, on the device): float32 `(b, c, h, w)` and int64 `(b,)`."""
        return self.normalised(self.train_images.index_select(0, indices)), self.train_labels.index_select(0, indices)


def load(name: str, data_root: str | os.PathLike | None = None, *, progress: bool = True) -> Dataset:
    """Load a complete data set on the CPU.

    Args:
        name: `cifar10`, `digits`, or `module:function`. The function returns (train_images, train_labels, test_images,
            test_labels): uint8 arrays or tensors `(n, h, w, channels)` and integers `(n,)` from 0.
        data_root: folder for `cifar-10-batches-py`. None: the environment variable BATCHSCALE_DATA_ROOT, or else
            `datasets` in the working directory.
        progress: show a progress bar while downloading.

    Raises:
        UserError: the name is unknown, the download failed, or the arrays do not fit together.
    """
    if name == "cifar10":
        return _load_cifar10(find_data_root(data_root), progress)
    if name == "digits":
        return _load_digits()
    if ":" in name:
        return _load_own(name)
    raise UserError(f"dataset is {name!r}; it must be cifar10, digits, or module:function for your own (see README)")


def find_data_root(data_root: str | os.PathLike | None = None) -> Path:
    """Folder of the images: the argument, or BATCHSCALE_DATA_ROOT, or `datasets` in the working directory."""
    return Path(data_root or os.environ.get("BATCHSCALE_DATA_ROOT") or "datasets").expanduser()


def is_available(name: str, data_root: str | os.PathLike | None = None) -> bool:
    """Whether the files are present, so that `load` needs no download. Their MD5 is checked when they are loaded."""
    return name != "cifar10" or (find_data_root(data_root) / "cifar-10-batches-py" / "test_batch").is_file()


@lru_cache(maxsize=1)
def _load_cifar10(root: Path, progress: bool) -> Dataset:
    from torchvision.datasets import CIFAR10

    if root.exists() and not root.is_dir():
        raise UserError(f"data_root is {root}, which is a file; it must be the folder with cifar-10-batches-py")
    try:
        parts = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    except RuntimeError:  # missing or damaged: torchvision does not distinguish these
        from batchscale.training.downloads import DownloadError, download_cifar10

        try:
            download_cifar10(root, progress=progress)
        except DownloadError as error:
            if (root / "cifar-10-batches-py").is_dir():
                raise UserError(f"{root / 'cifar-10-batches-py'} is incomplete or damaged; {error}") from error
            raise
        parts = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    arrays = [array for part in parts for array in (part.data, part.targets)]
    return _dataset("cifar10", arrays, tuple(parts[0].classes))


@lru_cache(maxsize=1)
def _load_digits() -> Dataset:
    """scikit-learn's 1 797 digits, 8x8 in 0-16, bilinearly resized to 32x32x3: the first 1 500 train, 297 test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = large.round().byte().permute(0, 2, 3, 1).repeat(1, 1, 1, 3)
    split = 1500  # the digits are ordered by writer, so the test set contains other hands
    arrays = images[:split], digits.target[:split], images[split:], digits.target[split:]
    return _dataset("digits", arrays, tuple(str(name) for name in digits.target_names))


def _load_own(name: str) -> Dataset:
    function = find_callable(name, "dataset")
    try:
        arrays = function()
    except Exception as error:  # the user's function may raise anything, and only the user can fix it
        raise UserError(f"dataset {name} failed: {failure(error)}") from error
    if not (isinstance(arrays, tuple) and len(arrays) == 4):
        raise UserError(f"{name} must return (train_images, train_labels, test_images, test_labels)")
    try:
        tensors = [torch.as_tensor(array) for array in arrays]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} must return arrays of numbers: {error}") from error
    highest = max(int(labels.max()) if labels.numel() else 0 for labels in (tensors[1], tensors[3]))
    return _dataset(name, tensors, classes=tuple(str(number) for number in range(highest + 1)))


def _dataset(name: str, arrays: Sequence, classes: tuple[str, ...]) -> Dataset:
    """Check (train_images, train_labels, test_images, test_labels) and make a data set of them."""
    tensors = []
    for part, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise UserError(
                f"{name}: the {part} images are {images.dtype} of shape {tuple(images.shape)}; "
                f"they must be uint8 of shape (n, height, width, channels)"
            )
        if labels.is_floating_point() or labels.shape != images.shape[:1]:
            raise UserError(
                f"{name}: the {part} labels are {labels.dtype} of shape {tuple(labels.shape)}; "
                f"they must be {len(images)} whole numbers"
            )
        if labels.min() < 0:
            raise UserError(f"{name}: the lowest {part} label is {labels.min()}; labels must start at 0")
        tensors += [images.contiguous(), labels.long()]
    if tensors[0].shape[1:] != tensors[2].shape[1:]:
        shapes = ", ".join(str(tuple(images.shape[1:])) for images in tensors[::2])
        raise UserError(f"{name}: train and test images differ in shape: {shapes}")
    mean, std = _channel_statistics(tensors[0])
    return Dataset(name, *tensors, classes=classes, mean=mean, std=std)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 `(channels,)`: exact sums, from counts of the 256 values."""
    channels = images.shape[-1]
    counts = torch.stack([torch.bincount(images[..., c].flatten(), minlength=256) for c in range(channels)]).double()
    values = torch.arange(256, dtype=torch.float64)
    total = counts.sum(dim=1)
    mean = counts @ values / total
    std = (counts @ values.square() / total - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()  # a constant channel becomes zero
