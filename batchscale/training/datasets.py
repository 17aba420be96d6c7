"""Data sets as tensors that stay on the device and are normalised there.

    data = load("cifar10", data_root="datasets").to("cuda")
    images, labels = data.batch(indices)  # float32 (b, 3, 32, 32), zero mean and unit variance per channel

`cifar10` is torchvision's: checked by MD5, and downloaded from mirrors if it is missing. `digits` is part of
scikit-learn and needs no download. `module:callable` names your own: a function that returns images and labels, or a
class like those of torchvision. `of` takes the same objects in Python, for `Training(experiment, data)`.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from batchscale.errors import UserError, failure
from batchscale.paths import typed
from batchscale.training.arrays import AT_ONCE, as_images, as_labels, four_arrays
from batchscale.training.by_name import find_callable

TRAIN_ACCURACY_IMAGES = 10_000  # size of the fixed subset for train accuracy


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, on one device.

    Attributes:
        train_images, test_images: `(n, h, w, channels)`, both uint8, or both float32 in 0-1. Convolutions are fastest
            with channels last in memory, so a gathered batch needs no reordering.
        train_labels, test_labels: int64 `(n,)`, in 0 ... len(classes) - 1.
        classes: names of the classes.
        mean, std: float32 `(channels,)`, of the training images in their own units, 0-255 or 0-1; used by `normalised`.
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
        """Images `(b, h, w, c)` -> new float32 `(b, c, h, w)`, channels last in memory: (x - mean) / std of each."""
        # One mean per pixel, although they are equal: the CPU would process the three values of a pixel one by one.
        mean, std = (values.expand(images.shape[1:]).contiguous() for values in (self.mean, self.std))
        return images.to(torch.float32, copy=True).sub_(mean).div_(std).permute(0, 3, 1, 2)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Training images and labels at `indices` (int64, on the device): float32 `(b, c, h, w)` and int64 `(b,)`."""
        return self.normalised(self.train_images.index_select(0, indices)), self.train_labels.index_select(0, indices)


def load(name: str, data_root: str | os.PathLike | None = None, *, progress: bool = True) -> Dataset:
    """Load a complete data set on the CPU.

    Args:
        name: `cifar10`, `digits`, or `module:callable`. The callable is a function without arguments that returns what
            `of` takes, or a class like those of torchvision, such as `torchvision.datasets:CIFAR100`: it has an
            argument `train` (True or False) or `split` ("train" or "test"), and is called for each. It is given
            `root`, the data root, if it has that argument. If it has `download`, that is True only after a call with
            False has failed.
        data_root: folder for `cifar-10-batches-py`, and `root` of such a class. None: the environment variable
            BATCHSCALE_DATA_ROOT, or else `datasets` in the working directory.
        progress: show a progress bar while downloading.

    Raises:
        UserError: the name is unknown, the download failed, a file cannot be read, the callable failed, or `of` refuses
            what it gives.
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
        return _load_own(name, find_data_root(data_root))
    raise UserError(f"dataset is {name!r}; it must be cifar10, digits, or module:callable for your own (see README)")


def of(name: str, parts: Sequence) -> Dataset:
    """Make a complete data set, on the CPU, of arrays or of other data sets.

    Images and labels are converted where their meaning is certain, and refused otherwise. The result and its digest do
    not depend on the form in which they came. The originals are never changed; writable uint8 arrays are shared.

    Args:
        name: name of the data set, for messages and records.
        parts: (train_images, train_labels, test_images, test_labels) as arrays, tensors or lists; arrays as Keras pairs
            them, ((train_images, train_labels), (test_images, test_labels)); or a pair (train, test) of map-style data
            sets, which have a length and items (image, label).

            Images have the shape `(n, h, w, channels)`, `(n, channels, h, w)`, or, with one channel, `(n, h, w)`; that
            of training and test images is the same. Of the two dimensions that may hold the channels, the one of size
            1-4 does. If both or neither are so small, it is the one whose removal leaves a square, or the last one of
            three equal ones. Without a square, it is the last one, unless both are small, which is refused.

            Integers in 0-255 become uint8, also as floats with a maximum above 1. False and True become 0 and 255.
            Floats in 0-1 become uint8 if all are k / 255 up to rounding, as from torchvision's `ToTensor`. Otherwise
            they are kept as float32, and the other part becomes float32 in 0-1 as well.

            Whole numbers from 0 are labels of the classes 0 ... highest, of which some may never occur. If all are
            above 0, or if they are strings, the sorted distinct values of both parts become the classes. The `classes`
            of a training set names numbered classes if it is a list of as many strings.

            Map-style data sets are read by index, with their transforms. Their images are PIL images, arrays or tensors
            of one shape. The first 32 items of each are read twice, to notice transforms that draw random numbers.

    Raises:
        UserError: anything else was given, or reading an item failed.
    """
    return _dataset(name, *four_arrays(name, parts))


def find_data_root(data_root: str | os.PathLike | None = None) -> Path:
    """Folder of the images: the argument, or BATCHSCALE_DATA_ROOT, or `datasets` in the working directory."""
    if data_root:
        return typed(data_root, "data_root")
    return typed(os.environ.get("BATCHSCALE_DATA_ROOT") or "datasets", "BATCHSCALE_DATA_ROOT")


def is_available(name: str, data_root: str | os.PathLike | None = None) -> bool:
    """Whether the files are present, so that `load` needs no download. Their MD5 is checked when they are loaded.

    Data of your own count as present: only their callable knows.
    """
    return name != "cifar10" or os.access(find_data_root(data_root) / "cifar-10-batches-py" / "test_batch", os.R_OK)


def blank(name: str) -> Dataset:
    """CIFAR-10 without its files: two black images each for training and test, where shapes are all that is wanted.
    Other data sets are loaded, as they need no download."""
    if name != "cifar10":
        return load(name)
    images, labels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    classes = tuple(map(str, range(10)))
    return Dataset(name, images, labels, images, labels, classes, torch.zeros(3), torch.ones(3))


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


def _load_own(name: str, root: Path) -> Dataset:
    function = find_callable(name, "dataset")
    calls = _calls(function, root)
    try:
        parts = [_call(function, arguments, root) for arguments in calls]
    except Exception as error:  # the user's function may raise anything, and only the user can fix it
        place = f"; data_root is {root}, where its files belong" if "root" in calls[0] else ""
        raise UserError(f"dataset {name} failed: {failure(error)}{place}") from error
    return of(name, parts if len(parts) > 1 else parts[0])


def _calls(function: Callable, root: Path) -> list[dict]:
    """Arguments of each call: two if the function chooses between training and test images, as torchvision's do."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some built-in functions
        return [{}]
    for name, choices in (("train", (True, False)), ("split", ("train", "test"))):
        default = parameters[name].default if name in parameters else None
        if default is inspect.Parameter.empty or isinstance(default, type(choices[0])):
            given = {"root": str(root), "download": False}
            given = {key: value for key, value in given.items() if key in parameters}
            return [given | {name: choice} for choice in choices]
    return [{}]


def _call(function: Callable, arguments: dict, root: Path):
    """Call, and if that fails, with download=True if the function has it; one process at a time downloads."""
    try:
        return function(**arguments)
    except (RuntimeError, OSError):  # as torchvision's classes report missing files
        if "download" not in arguments:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):
        try:
            return function(**arguments)  # another process may have downloaded them meanwhile
        except (RuntimeError, OSError):
            return function(**arguments | {"download": True})


def _dataset(name: str, arrays: Sequence, classes: Sequence[str] | None = None) -> Dataset:
    """Make a data set of (train_images, train_labels, test_images, test_labels), see `of`."""
    train_images, test_images = as_images(name, arrays[0], arrays[2])
    counts = len(train_images), len(test_images)
    (train_labels, test_labels), classes = as_labels(name, arrays[1], arrays[3], counts, classes)
    mean, std = _channel_statistics(train_images)
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes, mean, std)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 `(channels,)`."""
    mean, variance = (_moments_of_floats if images.is_floating_point() else _moments_of_bytes)(images)
    std = variance.clamp_min(0).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()  # a constant channel becomes zero


def _moments_of_bytes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel in float64: exact sums, from counts of the 256 values."""
    channels = images.shape[-1]
    counts = torch.stack([torch.bincount(images[..., c].flatten(), minlength=256) for c in range(channels)]).double()
    values = torch.arange(256, dtype=torch.float64)
    total = counts.sum(dim=1)
    mean = counts @ values / total
    return mean, counts @ values.square() / total - mean.square()


def _moments_of_floats(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel in float64, from distances to the first pixel: 0 in a constant channel."""
    first, total, squares = images[0, 0, 0].double(), 0, 0
    for part in images.split(AT_ONCE):
        distances = part.double() - first
        total, squares = total + distances.sum(dim=(0, 1, 2)), squares + distances.square().sum(dim=(0, 1, 2))
    count = images[..., 0].numel()
    return first + total / count, squares / count - (total / count).square()
