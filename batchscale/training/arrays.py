"""Other people's images and labels in one form: NumPy arrays, tensors, or data sets that are read item by item.

    arrays, names = four_arrays("mine", (train, test))  # map-style data sets of (image, label)
    images = as_images("mine", arrays[0], arrays[2])  # two tensors: uint8 or float32 (n, h, w, channels)

What could be meant in two ways is refused with a UserError, which names what was found and what is needed.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from batchscale.errors import UserError, failure, first_line

MOST_CLASSES = 1_000_000  # a higher label is a mark, such as -1 in an unsigned type, or no label at all
MOST_CHANNELS = 4  # of a dimension that is taken for the channels by its size alone
READ_TWICE = 32  # items at the beginning of a data set, to notice random transforms
ROUNDING = 2**-22  # relative; k * (1 / 255) in float32 is within 1.5 * 2**-23 of k / 255
AT_ONCE = 1024  # images that are converted at once, to save memory
PARTS = ("train", "test")


def four_arrays(name: str, parts: Sequence) -> tuple[Sequence, Sequence[str] | None]:
    """(train_images, train_labels, test_images, test_labels), and the training set's `classes` if it has any.

    Args:
        parts: these four, which are returned as they are; the same as ((train_images, train_labels), (test_images,
            test_labels)), as Keras gives them; or a pair (train, test) of map-style data sets.

    Raises:
        UserError: parts are neither, an item is no pair (image, label) or cannot be read, two images differ in shape
            or type, or one of the first 32 items of a part is another one when it is read again.
    """
    if isinstance(parts, tuple | list) and len(parts) == 4:
        return parts, None
    if isinstance(parts, tuple | list) and len(parts) == 2 and all(map(_is_pair_of_arrays, parts)):
        return [*parts[0], *parts[1]], None
    if isinstance(parts, tuple | list) and len(parts) == 2 and all(map(_is_map_style, parts)):
        read = [_read(data, f"of {name}'s {part} set") for part, data in zip(PARTS, parts, strict=True)]
        return [*read[0], *read[1]], getattr(parts[0], "classes", None)
    raise UserError(
        f"{name} gives {_kind(parts)}; it must give (train_images, train_labels, test_images, test_labels), or a pair "
        f"(train, test) of data sets with a length and items (image, label)"
    )


def as_images(name: str, train, test) -> list[Tensor]:
    """Training and test images of any accepted form as tensors `(n, h, w, channels)`, both uint8, or float32 in 0-1.

    Raises:
        UserError: the shape, type or range is none that `datasets.of` accepts.
    """
    arrays = [_array(each, f"{name}: the {part} images") for part, each in zip(PARTS, (train, test), strict=True)]
    for part, array in zip(PARTS, arrays, strict=True):
        if array.dtype.kind not in "biuf" or array.ndim not in (3, 4) or array.size == 0:
            raise UserError(
                f"{name}: the {part} images are {array.dtype} of shape {array.shape}; they must be uint8, or floats "
                f"from 0 to 1, of shape (n, height, width, channels), (n, channels, height, width) or (n, height, "
                f"width), with at least one image"
            )
    shape = arrays[0].shape[1:]
    if arrays[1].shape[1:] != shape:
        raise UserError(f"{name}: train and test images differ in shape: {shape}, {arrays[1].shape[1:]}")
    if len(shape) == 2:
        arrays = [array.reshape(*array.shape, 1) for array in arrays]
    else:
        axis = _channel_axis(name, *shape)
        arrays = [np.moveaxis(array, axis, -1) for array in arrays]
    return [_tensor(array) for array in _of_one_type(name, arrays)]


def as_labels(
    name: str, train, test, counts: tuple[int, int], names: Sequence[str] | None = None
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Training and test labels as int64 tensors `(n,)` of classes from 0, and the names of the classes.

    Args:
        counts: numbers of training and test images.
        names: of the classes, in place of the numbers, if these are strings, as many as there are classes.

    Raises:
        UserError: a label is no class for certain, or there is not one per image.
    """
    arrays, whats = [], [f"{name}: the {part} labels" for part in PARTS]
    for what, labels, count in zip(whats, (train, test), counts, strict=True):
        labels = _array(labels, what)
        if labels.dtype.kind not in "biufUSTO" or labels.shape not in ((count,), (count, 1)):
            raise UserError(
                f"{what} are {labels.dtype} of shape {labels.shape}; they must be {count} whole numbers, from 0 on, or "
                f"{count} strings"
            )
        arrays.append(labels.reshape(count))
    are_strings = [labels.dtype.kind in "USTO" for labels in arrays]
    if are_strings[0] != are_strings[1]:
        train, test = ("strings" if each else "numbers" for each in are_strings)
        raise UserError(f"{name}: the train labels are {train} and the test labels are {test}; both must be the same")
    convert = _strings if are_strings[0] else _whole_numbers
    both = np.concatenate([convert(labels, what) for labels, what in zip(arrays, whats, strict=True)])
    if are_strings[0] or both.min() > 0:
        values, both = np.unique(both, return_inverse=True)
    else:
        values = np.arange(both.max() + 1)
    classes = tuple(map(str, values))
    if not are_strings[0] and isinstance(names, list | tuple) and len(names) == len(classes):
        classes = tuple(names) if all(isinstance(each, str) for each in names) else classes
    return [_tensor(labels.astype(np.int64)) for labels in np.split(both, counts[:1])], classes


def _is_pair_of_arrays(part) -> bool:
    return isinstance(part, tuple | list) and len(part) == 2 and all(hasattr(each, "shape") for each in part)


def _is_map_style(data) -> bool:
    try:
        return len(data) >= 0 and hasattr(data, "__getitem__")
    except Exception:  # an IterableDataset has no length
        return False


def _read(data, where: str) -> tuple[np.ndarray, list]:
    """Images and labels of a map-style data set, read by index."""
    images, labels = np.empty(0), []
    for index in range(len(data)):
        image, label = _item(data, index, where)
        if index < READ_TWICE:
            again, label_again = _item(data, index, where)
            if image.tobytes() != again.tobytes() or str(label) != str(label_again):
                raise UserError(
                    f"item {index} {where} differs when it is read again, so its transform draws random numbers; "
                    f"remove it, and use augment"
                )
        if index == 0:
            images = np.empty((len(data), *image.shape), image.dtype)
        if (image.shape, image.dtype) != (images.shape[1:], images.dtype):
            raise UserError(
                f"image {index} {where} is {image.dtype} of shape {image.shape}, but image 0 is {images.dtype} of "
                f"shape {images.shape[1:]}; all must be alike: add a Resize transform, or convert them to one type"
            )
        images[index] = image
        labels.append(label)
    return images, labels


def _item(data, index: int, where: str) -> tuple[np.ndarray, object]:
    """Image and label of one item, without tensors."""
    try:
        item = data[index]
    except Exception as error:  # other people's code may raise anything
        raise UserError(f"item {index} {where} cannot be read: {failure(error)}") from error
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise UserError(f"item {index} {where} is {_kind(item)}; it must be a pair (image, label)")
    image, label = item
    if getattr(image, "mode", None) == "P":  # asarray would give indices into the image's palette
        image = image.convert("RGB")
    if isinstance(label, Tensor):
        label = _array(label, f"label {index} {where}")
    return _array(image, f"image {index} {where}"), label


def _kind(found) -> str:
    """An object in a few words: "a tuple of length 3", "an ndarray of shape (32, 32, 3)"."""
    kind = type(found).__name__
    kind = f"{'an' if kind[0] in 'AEIOUaeiou' or kind == 'ndarray' else 'a'} {kind}"
    if isinstance(found, tuple | list):
        return f"{kind} of length {len(found)}"
    return f"{kind} of shape {tuple(found.shape)}" if hasattr(found, "shape") else kind


def _array(values, what: str) -> np.ndarray:
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has no bfloat16
        array = np.asarray(values)
        if array.dtype.kind in "US" and isinstance(values, list | tuple):
            array = np.asarray(values, dtype=object)  # NumPy makes strings of numbers among strings, such as NaN
        return array
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, types that NumPy lacks
        raise UserError(f"{what} must be an array of numbers: {first_line(error)}") from error


def _tensor(array: np.ndarray) -> Tensor:
    """The array in row-major order with its usual strides; NumPy and torch leave those of a single channel open."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")).ravel().reshape(array.shape))


def _channel_axis(name: str, first: int, second: int, last: int) -> int:
    """Which of the dimensions 1 and 3 of images holds the channels: the small one, or the one that leaves a square."""
    first_is_small, last_is_small = first <= MOST_CHANNELS, last <= MOST_CHANNELS
    if first_is_small != last_is_small:
        return 1 if first_is_small else 3
    if first != second == last:
        return 1
    if first == second or not last_is_small:
        return 3
    raise UserError(
        f"{name}: the images have shape {(first, second, last)}, of which the first or the last dimension may be the "
        f"channels; the height and width of images must be above {MOST_CHANNELS}, or equal"
    )


def _of_one_type(name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The images as bytes if all are bytes in some form, and otherwise as float32 in 0-1."""
    highest_float = max([array.max() for array in arrays if array.dtype.kind == "f"], default=0)
    all_bytes = [
        _bytes(array, highest_float, f"{name}: the {part} images") for part, array in zip(PARTS, arrays, strict=True)
    ]
    if all(found is not None for found in all_bytes):
        return all_bytes
    return [
        array.astype(np.float32, copy=False) if found is None else found.astype(np.float32) / np.float32(255)
        for array, found in zip(arrays, all_bytes, strict=True)
    ]


def _bytes(images: np.ndarray, highest_float: float, what: str) -> np.ndarray | None:
    """Images as uint8, or None for floats in 0-1 that are none.

    Floats are in 0-255 if `highest_float`, the highest of both parts, is above 1: the darker part may only reach 1.
    """
    kind = images.dtype.kind
    if images.dtype == np.uint8 or kind == "b":
        return images if kind == "u" else images * np.uint8(255)
    low, high = images.min(), images.max()  # NaN if there is one
    if low >= 0 and high <= 255 and kind != "f":
        return images.astype(np.uint8)
    if low >= 0 and high <= 255 and highest_float > 1 and all((part == np.rint(part)).all() for part in _parts(images)):
        return images.astype(np.uint8)
    if low >= 0 and high <= 1:
        return _bytes_of_fractions(images)
    has_nan = " and NaN" if np.isnan(low) else ""
    low, high = np.fmin.reduce(images, axis=None), np.fmax.reduce(images, axis=None)  # without NaN
    raise UserError(
        f"{what} are {images.dtype} from {low} to {high}{has_nan}; they must be uint8, or floats from 0 to 1"
    )


def _bytes_of_fractions(images: np.ndarray) -> np.ndarray | None:
    """The bytes of which floats in 0-1 are the 255th parts, up to rounding; None if any is not."""
    fractions = (np.arange(256) / 255).astype(images.dtype)
    found = []
    for part in _parts(images):
        found.append(np.rint(part * 255).astype(np.uint8))
        if (np.abs(part - fractions[found[-1]]) > ROUNDING * part).any():
            return None
    return np.concatenate(found)


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))


def _strings(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels as NumPy strings; bytes, as in HDF5, are decoded."""
    names = [each.decode(errors="backslashreplace") if isinstance(each, bytes) else each for each in labels.tolist()]
    for index, each in enumerate(names):
        if not isinstance(each, str):
            raise UserError(
                f"{what} have {repr(each).splitlines()[0]:.60} at index {index}; if they are no array of numbers, each "
                f"must be a string"
            )
    return np.array(names, dtype=object)


def _whole_numbers(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels as int64, from any type of number, if each is a class for certain."""
    numbers = labels.astype(np.float64)  # float16 does not reach MOST_CLASSES
    wrong = ~((numbers >= 0) & (numbers < MOST_CLASSES) & (numbers == np.floor(numbers)))  # NaN is wrong as well
    if wrong.any():
        place = int(wrong.argmax())
        raise UserError(
            f"{what} have {labels[place]} at index {place}; they must be whole numbers from 0 to below {MOST_CLASSES}"
        )
    return labels.astype(np.int64)
