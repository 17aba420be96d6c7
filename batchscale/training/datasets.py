"""Data sets as tensors that stay on the device and are normalised there.

    data = load("cifar10", data_root="datasets").to("cuda")
    images, labels = data.batch(indices)  # float32 (b, 3, 32, 32), zero mean and unit variance per channel

`cifar10` is torchvision's: checked by MD5, and downloaded from mirrors if it is missing. `digits` is part of
scikit-learn and needs no download. `module:function` names your own.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from batchscale.errors import UserError, failure, first_line
from batchscale.paths import typed
from batchscale.training.by_name import find_callable

TRAIN_ACCURACY_IMAGES = 10_000  # size of the fixed subset for train accuracy
MOST_CLASSES = 1_000_000  # a higher label is a mark, such as -1 in an unsigned type, or no label at all


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, on one device.

    Attributes:
        train_images, test_images: uint8 `(n, h, w, channels)`. Convolutions are fastest with channels last in memory,
            so a gathered batch needs no reordering.
        train_labels, test_labels: int64 `(n,)`, in 0 ... len(classes) - 1.
        classes: names of the classes.
        mean, std: float32 `(channels,)`, of the training images in units of 0-255; used by `normalised`.
        complete: the data set of which this is a part or a copy on another device; None for a complete one.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    complete: "Dataset | None" = None

    @property
    def channels(self) -> int:
        return self.train_images.shape[-1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the complete data set, in hexadecimal: dtypes, shapes and bytes of images and labels.

        A part of a data set and a copy on another device have the same digest. Names of classes do not count.
        """
        if self.complete is not None:
            return self.complete.digest
        digest = hashlib.sha256()
        for values in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.cpu().contiguous().numpy())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`. Shares the tensors that are already there."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved, complete=self.complete or self)

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
        labels, complete = self.train_labels[:train_size], self.complete or self
        return replace(self, train_images=images, train_labels=labels, mean=mean, std=std, complete=complete)

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
            test_labels): uint8 arrays or tensors `(n, h, w, channels)` and whole numbers `(n,)` from 0.
        data_root: folder for `cifar-10-batches-py`. None: the environment variable BATCHSCALE_DATA_ROOT, or else
            `datasets` in the working directory.
        progress: show a progress bar while downloading.

    Raises:
        UserError: the name is unknown, the download failed, a file cannot be read, or the arrays do not fit together.
    """
    if name == "cifar10":
        root = find_data_root(data_root)
        try:
            return _load_cifar10(root, progress)
        except OSError as error:  # of permissions, or of the disk
            raise UserError(
                f"{error.filename or root} cannot be read ({error.strerror}); ask its owner for permission or choose "
                f"another data_root"
            ) from error
    if name == "digits":
        return _load_digits()
    if ":" in name:
        return _load_own(name)
    raise UserError(f"dataset is {name!r}; it must be cifar10, digits, or module:function for your own (see README)")


def find_data_root(data_root: str | os.PathLike | None = None) -> Path:
    """Folder of the images: the argument, or BATCHSCALE_DATA_ROOT, or `datasets` in the working directory."""
    if data_root:
        return typed(data_root, "data_root")
    return typed(os.environ.get("BATCHSCALE_DATA_ROOT") or "datasets", "BATCHSCALE_DATA_ROOT")


def is_available(name: str, data_root: str | os.PathLike | None = None) -> bool:
    """Whether the files are present, so that `load` needs no download. Their MD5 is checked when they are loaded."""
    return name != "cifar10" or os.access(find_data_root(data_root) / "cifar-10-batches-py" / "test_batch", os.R_OK)


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
    if not (isinstance(arrays, tuple | list) and len(arrays) == 4):
        raise UserError(f"{name} must return (train_images, train_labels, test_images, test_labels)")
    return _dataset(name, arrays)


def _dataset(name: str, arrays: Sequence, classes: tuple[str, ...] | None = None) -> Dataset:
    """Check (train_images, train_labels, test_images, test_labels) and make a data set of them.

    Without `classes`, they are the numbers up to the highest label.
    """
    tensors = []
    for part, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        images = _array(images, f"{name}: the {part} images")
        if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
            raise UserError(
                f"{name}: the {part} images are {images.dtype} of shape {images.shape}; "
                f"they must be uint8 of shape (n, height, width, channels), with at least one image"
            )
        labels = _whole_numbers(_array(labels, f"{name}: the {part} labels"), len(images), f"{name}: the {part} labels")
        tensors += [torch.from_numpy(np.require(each, requirements=("C", "W"))) for each in (images, labels)]
    if classes is None:
        classes = tuple(map(str, range(1 + max(int(labels.max()) for labels in tensors[1::2]))))
    if tensors[0].shape[1:] != tensors[2].shape[1:]:
        shapes = ", ".join(str(tuple(images.shape[1:])) for images in tensors[::2])
        raise UserError(f"{name}: train and test images differ in shape: {shapes}")
    mean, std = _channel_statistics(tensors[0])
    return Dataset(name, *tensors, classes=classes, mean=mean, std=std)


def _array(values, what: str) -> np.ndarray:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, types that NumPy lacks
        raise UserError(f"{what} must be an array of numbers: {first_line(error)}") from error


def _whole_numbers(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """Labels as int64 `(count,)`, from any type of number and also from a column, if each is a class for certain."""
    if labels.dtype.kind not in "biuf" or labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{what} are {labels.dtype} of shape {labels.shape}; they must be {count} whole numbers, from 0 on"
        )
    labels = labels.reshape(count)
    numbers = labels.astype(np.float64)  # float16 does not reach MOST_CLASSES
    wrong = ~((numbers >= 0) & (numbers < MOST_CLASSES) & (numbers == np.floor(numbers)))  # NaN is wrong as well
    if wrong.any():
        place = int(wrong.argmax())
        raise UserError(
            f"{what} have {labels[place]} at index {place}; they must be whole numbers from 0 to below {MOST_CLASSES}"
        )
    return labels.astype(np.int64)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 `(channels,)`: exact sums, from counts of the 256 values."""
    channels = images.shape[-1]
    counts = torch.stack([torch.bincount(images[..., c].flatten(), minlength=256) for c in range(channels)]).double()
    values = torch.arange(256, dtype=torch.float64)
    total = counts.sum(dim=1)
    mean = counts @ values / total
    std = (counts @ values.square() / total - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()  # a constant channel becomes zero
