"""Data sets as tensors: complete, ordered, normalised, and rejected if images and labels do not match."""

import errno
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import CIFAR10, PROJECT, needs_cifar10
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.training import datasets
from batchscale.training.loop import Training


def own_data(n=6, height=32, channels=3, dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 256, (n, height, 32, channels)).astype(dtype)
    return images, np.arange(n) % 3, images[:4], np.arange(4) % 3


def test_digits():
    data = datasets.load("digits")
    assert data.train_images.shape == (1500, 32, 32, 3)
    assert data.test_images.shape == (297, 32, 32, 3)
    assert data.train_images.dtype == torch.uint8
    assert data.classes == tuple("0123456789")
    assert len(data.train_labels.unique()) == len(data.test_labels.unique()) == 10
    from sklearn.datasets import load_digits

    assert data.train_labels.tolist() + data.test_labels.tolist() == load_digits().target.tolist()
    # bilinear: the four pixels in the middle of a 4x4 patch are within a quarter of the way to the patch's neighbours
    small = load_digits().images[0] * 255 / 16
    large = data.train_images[0, :, :, 0].numpy().astype(float)
    middle = (large[1::4, 1::4] + large[1::4, 2::4] + large[2::4, 1::4] + large[2::4, 2::4]) / 4
    padded = np.pad(small, 1, mode="edge")
    smoothed = sum(
        weight_y * weight_x * padded[1 + dy : 9 + dy, 1 + dx : 9 + dx]
        for dy, weight_y in ((-1, 1 / 16), (0, 7 / 8), (1, 1 / 16))
        for dx, weight_x in ((-1, 1 / 16), (0, 7 / 8), (1, 1 / 16))
    )
    np.testing.assert_allclose(middle, smoothed, atol=1)


def test_training_images_have_mean_0_and_variance_1_per_channel():
    images, _ = datasets.load("digits").batch(torch.arange(1500))
    assert images.shape == (1500, 3, 32, 32)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (images.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_batch_holds_the_images_at_the_indices():
    data = datasets.load("digits")
    places = torch.tensor([7, 3, 3, 1499])
    images, labels = data.batch(places)
    pixels = data.train_images.numpy().astype(np.float64)
    expected = (pixels[places.numpy()] - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    assert labels.tolist() == data.train_labels[places].tolist()
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_first_takes_the_first_images_and_their_statistics():
    data = datasets.load("digits")
    part = data.first(100)
    assert torch.equal(part.train_images, data.train_images[:100])
    assert torch.equal(part.test_images, data.test_images)
    assert part.mean[0].item() == pytest.approx(data.train_images[:100].double().mean().item(), rel=1e-6)
    assert data.first(None) is data
    with pytest.raises(UserError, match="train_size is 1501 but digits has 1500"):
        data.first(1501)


def test_a_constant_channel_stays_at_zero(monkeypatch):
    images, labels, *test = own_data()
    images[..., 1] = 200
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: (images, labels, *test))
    normalised, _ = datasets.load("my:data").batch(torch.arange(6))
    assert normalised[:, 1].abs().max() == 0
    assert normalised.isfinite().all()


def test_own_data(monkeypatch):
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: own_data)
    data = datasets.load("my:data")
    assert data.classes == ("0", "1", "2")
    assert data.channels == 3
    np.testing.assert_array_equal(data.train_images, own_data()[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (own_data(dtype=np.complex64), "train images are complex64 of shape"),
        (
            own_data()[:3],
            r"my:data gives a tuple of length 3; it must give \(train_images, train_labels, test_images, ",
        ),
        ((own_data()[0], np.arange(5), *own_data()[2:]), "must be 6 whole numbers"),
        ((own_data()[0], np.arange(6) - 1, *own_data()[2:]), "train labels have -1 at index 0; they must be whole"),
        ((own_data()[0], np.arange(6).astype("uint32") - 1, *own_data()[2:]), "have 4294967295 at index 0"),
        ((own_data()[0], np.arange(6) + 0.5, *own_data()[2:]), "have 0.5 at index 0"),
        ((own_data()[0], [0, 1, float("nan"), 1, 0, 1], *own_data()[2:]), "have nan at index 2"),
        ((*own_data()[:3], np.array([0, np.inf, 1, 2])), "test labels have inf at index 1"),
        ((own_data()[0], np.eye(6), *own_data()[2:]), r"float64 of shape \(6, 6\); they must be 6 whole numbers"),
        ((own_data()[0], [], *own_data()[2:]), r"of shape \(0,\); they must be 6 whole numbers"),
        ((own_data()[0], [[1], [2, 3]], *own_data()[2:]), "train labels must be an array of numbers: "),
        (
            (own_data()[0], list("abcabc"), *own_data()[2:]),
            "the train labels are strings and the test labels are numbers; both must be the same",
        ),
        ((own_data()[0], None, *own_data()[2:]), "train labels are object of shape"),
        ((own_data()[0][:0], [], *own_data()[2:]), "with at least one image"),
        (
            (own_data()[0][0, 0], *own_data()[1:]),
            r"uint8 of shape \(32, 3\); they must be uint8, or floats from 0 to 1",
        ),
        ((own_data()[0][0], *own_data()[1:]), r"differ in shape: \(32, 3\), \(32, 32, 3\)"),
        ((*own_data()[:2], own_data(4, 16)[0], np.arange(4)), "differ in shape"),
    ],
)
def test_own_data_that_does_not_fit(monkeypatch, arrays, message):
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: arrays)
    with pytest.raises(UserError, match=message):
        datasets.load("my:data")


@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "uint32", "uint64", ">i4", "float16", "float64", "bool", "list", "column", "torch"]
)
def test_labels_that_are_classes_for_certain(monkeypatch, kind):
    images, labels, *test = own_data()
    labels = labels % 2
    given = {
        "list": labels.tolist(),
        "column": labels[:, None],
        "torch": torch.from_numpy(labels).to(torch.uint16),
    }
    given = given[kind] if kind in given else labels.astype(kind)
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: (images, given, *test))
    data = datasets.load("my:data")
    assert (data.train_labels.dtype, data.train_labels.tolist()) == (torch.int64, [0, 1, 0, 0, 1, 0])


def test_images_that_are_a_view_of_others(monkeypatch):
    """OpenCV's channels in the other order, and an array that may not be written."""
    images, *others = own_data()
    images.flags.writeable = False
    for view in (images[..., ::-1], images, np.asfortranarray(images)):
        monkeypatch.setattr(datasets, "find_callable", lambda what, field, view=view: lambda: (view, *others))
        np.testing.assert_array_equal(datasets.load("my:data").train_images, view)


FORMS = {
    "channels first": lambda images: images.transpose(0, 3, 1, 2),
    "float32": lambda images: images.astype(np.float32) / 255,
    "float64": lambda images: images / 255,
    "float32 in float64": lambda images: (images / np.float32(255)).astype(np.float64),
    "float16": lambda images: (images / 255).astype(np.float16),
    "times 1/255": lambda images: images * np.float32(1 / 255),
    "one digit below": lambda images: np.nextafter(images / np.float32(255), np.float32(0)),
    "big-endian": lambda images: (images / 255).astype(">f4"),
    "ToTensor": lambda images: torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255,
    "needs gradients": lambda images: (torch.from_numpy(images) / 255).requires_grad_(),
    "whole float32": lambda images: images.astype(np.float32),
    "whole float16": lambda images: torch.from_numpy(images).half(),
    "whole bfloat16": lambda images: torch.from_numpy(images).bfloat16(),
    "int64": lambda images: images.astype(np.int64),
    "uint16": lambda images: images.astype(">u2"),
    "columns first": np.asfortranarray,
    "list": lambda images: list(images),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", [(0, 2), (0,), (2,)])
def test_images_of_every_form_are_the_same_bytes(form, which):
    arrays = list(own_data())
    plain = datasets.of("mine", own_data())
    if form in ("channels first", "ToTensor") and which != (0, 2):
        return  # the shapes of the two parts must agree
    for part in which:
        arrays[part] = FORMS[form](arrays[part])
    data = datasets.of("mine", arrays)
    assert torch.equal(data.train_images, plain.train_images)
    assert data.digest == plain.digest
    assert data.train_images.stride() == plain.train_images.stride()
    assert torch.equal(data.mean, plain.mean)
    assert torch.equal(data.std, plain.std)


@pytest.mark.parametrize("kind", [tuple, list])
def test_arrays_as_keras_pairs_them(kind):
    images, labels, test_images, test_labels = own_data()
    paired = datasets.of("mine", (kind([images, labels]), kind([test_images, test_labels])))
    assert paired.digest == datasets.of("mine", own_data()).digest
    items = [(images[0], 0), (images[1], 1)]  # two items of a data set, and no pair of arrays
    assert len(datasets.of("mine", (items, items)).train_images) == 2


def test_bytes_worked_out_by_hand():
    labels = [0, 1]
    for values, stored in (
        ([0.0, 0.2, 1.0, 1 / 255], [0, 51, 255, 1]),
        ([0.0, 51.0, 255.0, 2.0], [0, 51, 255, 2]),
        ([0.0, 0.0, 0.0, 1.0], [0, 0, 0, 255]),
        ([False, True, True, False], [0, 255, 255, 0]),
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        ([0.0, 0.25, 1.0, 0.5], [0.0, 0.25, 1.0, 0.5]),
    ):
        images = np.reshape(values, (2, 2, 1))
        data = datasets.of("mine", (images, labels, images[:1], labels[:1]))
        assert data.train_images.flatten().tolist() == stored
        assert data.train_images.shape == (2, 2, 1, 1)
        assert data.train_images.dtype == (torch.uint8 if isinstance(stored[2], int) else torch.float32)


def test_floats_of_both_parts_have_one_range():
    """The test images reach 1 only, of 255."""
    train, test = np.float32([0, 1, 2, 255]).reshape(1, 2, 2), np.float32([0, 1, 1, 0]).reshape(1, 2, 2)
    for first, second in ((train, test), (test, train)):
        data = datasets.of("mine", (first, [0], second, [0]))
        assert (data.train_images.flatten().tolist(), data.test_images.flatten().tolist()) == (
            first.flatten().tolist(),
            second.flatten().tolist(),
        )


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), st.sampled_from([np.float16, np.float32, np.float64]))
def test_bytes_survive_any_division(values, dtype):
    images = np.array(values, np.uint8).reshape(1, 2, 2, 1)
    for floats in (
        (images / 255).astype(dtype),
        (images.astype(np.float32) / np.float32(255)).astype(dtype),
        (images * np.float32(1 / 255)).astype(np.float32),
    ):
        data = datasets.of("mine", (floats, [0], floats, [0]))
        assert data.train_images.dtype == torch.uint8
        np.testing.assert_array_equal(data.train_images, images)


@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_other_fractions_are_kept_exactly(values):
    images = np.array([*values, 0.3], np.float32).reshape(1, 1, 5)  # 0.3 is 76.5 / 255
    data = datasets.of("mine", (images, [0], images, [0]))
    assert data.train_images.dtype == torch.float32
    assert data.train_images.flatten().tolist() == images.flatten().tolist()


@given(st.integers(0, 255), st.sampled_from([-1, 1]))
def test_a_fraction_beside_a_byte_is_no_byte(value, sign):
    beside = np.float32((value + sign * 1e-3) / 255)
    if 0 <= beside <= 1:
        images = np.full((1, 5, 5), beside)
        assert datasets.of("mine", (images, [0], images, [0])).train_images.flatten()[0].item() == beside


def test_bytes_beside_fractions_become_float32():
    images, labels, test_images, test_labels = own_data()
    fractions = np.full(test_images.shape, 0.3)
    data = datasets.of("mine", (images, labels, fractions, test_labels))
    np.testing.assert_array_equal(data.train_images, images.astype(np.float32) / np.float32(255))
    assert data.test_images.unique().tolist() == [np.float32(0.3)]
    data = datasets.of("mine", (np.full(images.shape, 0.3), labels, test_images, test_labels))
    np.testing.assert_array_equal(data.test_images, test_images.astype(np.float32) / np.float32(255))


def float_data():
    images = np.random.default_rng(1).random((3000, 5, 6, 2), dtype=np.float32) / 7 + np.float32(0.5)
    return images, np.arange(3000) % 2, images[:2], [0, 1]


def test_float_images_are_normalised_and_never_changed():
    arrays = float_data()
    before = arrays[0].copy()
    data = datasets.of("mine", arrays)
    wide = before.astype(np.float64)
    np.testing.assert_allclose(data.mean, wide.mean(axis=(0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(data.std, wide.std(axis=(0, 1, 2)), rtol=1e-6)
    normalised = data.normalised(data.train_images)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    expected = (wide - wide.mean(axis=(0, 1, 2))) / wide.std(axis=(0, 1, 2))
    np.testing.assert_allclose(normalised.permute(0, 2, 3, 1), expected, atol=1e-5)
    np.testing.assert_array_equal(arrays[0], before)
    np.testing.assert_array_equal(data.train_images, before)
    np.testing.assert_allclose(data.first(50).mean, wide[:50].mean(axis=(0, 1, 2)), rtol=1e-7)


def test_bytes_are_normalised_as_ever():
    data = datasets.load("digits")
    expected = data.train_images[:50].float().sub_(data.mean).div_(data.std).permute(0, 3, 1, 2)
    assert torch.equal(data.batch(torch.arange(50))[0], expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1e-30, 1.0])
def test_a_constant_channel_of_floats_becomes_zero(value):
    arrays = float_data()
    arrays[0][..., 1] = value
    normalised = datasets.of("mine", arrays).batch(torch.arange(3000))[0]
    assert normalised[:, 1].abs().max() == 0
    assert normalised.isfinite().all()


def test_float_images_can_be_trained_on():
    """As well as on the bytes that they are near to."""
    digits = datasets.load("digits")
    images, test_images = (each.float() / 256 for each in (digits.train_images, digits.test_images))
    data = datasets.of("mine", (images, digits.train_labels, test_images, digits.test_labels))
    assert data.train_images.dtype == torch.float32
    before, experiment = data.train_images.clone(), Experiment(batch_size=50, dataset="digits", width=0.1, epochs=1)
    losses = [next(Training(experiment, each).epochs(with_noise_scale=False)).train_loss for each in (data, digits)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert torch.equal(data.train_images, before)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 32, 32), 1),
        ((32, 32, 3), 3),
        ((1, 5, 6), 1),
        ((5, 6, 1), 3),
        ((4, 5, 9), 1),
        ((9, 5, 4), 3),
        ((3, 4, 4), 1),  # both small
        ((4, 4, 3), 3),
        ((3, 3, 3), 3),
        ((9, 8, 8), 1),  # neither small
        ((8, 8, 9), 3),
        ((8, 8, 8), 3),
        ((8, 9, 8), 3),
        ((7, 8, 9), 3),
        ((3, 9, 3), None),
        ((1, 9, 1), None),
        ((2, 3, 4), None),
    ],
)
def test_which_dimension_holds_the_channels(shape, axis):
    images = np.arange(2 * np.prod(shape)).reshape(2, *shape).astype(np.uint8)
    arrays = images, [0, 1], images[:1], [0]
    if axis is None:
        with pytest.raises(UserError, match=f"have shape {re.escape(str(shape))}, of which the first or the last"):
            datasets.of("mine", arrays)
    else:
        data = datasets.of("mine", arrays)
        np.testing.assert_array_equal(data.train_images, np.moveaxis(images, axis, -1))
        np.testing.assert_array_equal(data.test_images, np.moveaxis(images[:1], axis, -1))


def test_grayscale():
    images, labels, test_images, test_labels = own_data(channels=1)
    plain = datasets.of("mine", (images, labels, test_images, test_labels))
    gray = datasets.of("mine", (images[..., 0], labels, test_images[..., 0], test_labels))
    first = datasets.of("mine", (images[:, None, ..., 0], labels, test_images[:, None, ..., 0], test_labels))
    assert plain.digest == gray.digest == first.digest
    assert plain.channels == gray.channels == 1
    assert plain.train_images.stride() == gray.train_images.stride() == first.train_images.stride()


def small(values, dtype=None):
    return np.reshape(np.array(values, dtype), (-1, 2, 1))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            [-1.0, 1.0],
            [0.0, 1.0],
            "the train images are float64 from -1.0 to 1.0; they must be uint8, or floats from 0 to",
        ),
        ([0.0, 1.5], [0.0, 1.0], "the train images are float64 from 0.0 to 1.5; they"),
        ([0.0, 1.0], [0.5, 254.5], "the test images are float64 from 0.5 to 254.5; they"),
        ([0.0, 256.0], [0.0, 1.0], "the train images are float64 from 0.0 to 256.0; they"),
        ([0.0, 254.9999999], [0.0, 1.0], "the train images are float64 from 0.0 to 254.9999999; they"),
        ([0.0, 1.0000001], [0.0, 1.0], "the train images are float64 from 0.0 to 1.0000001; they"),
        ([0.25, np.nan], [0.0, 1.0], "the train images are float64 from 0.25 to 0.25 and NaN; they"),
        ([0.0, 1.0], [np.nan, np.nan], "the test images are float64 from nan to nan and NaN; they"),
        ([0.0, np.inf], [0.0, 1.0], "the train images are float64 from 0.0 to inf; they"),
        ([0, 256], [0, 1], "the train images are int64 from 0 to 256; they"),
        ([0, 255], [-1, 0], "the test images are int64 from -1 to 0; they"),
        (["a", "b"], [0, 1], r"the train images are <U1 of shape \(1, 2, 1\); they must be uint8, or floats"),
    ],
)
def test_images_that_mean_nothing_for_certain(train, test, message):
    with pytest.raises(UserError, match=message) as caught:
        datasets.of("mine", (small(train), [0], small(test), [0]))
    assert "\n" not in str(caught.value)


def labelled(train, test):
    images = np.zeros((max(len(train), len(test)), 2, 2), np.uint8)
    return datasets.of("mine", (images[: len(train)], train, images[: len(test)], test))


@pytest.mark.parametrize(
    ("train", "test", "expected", "classes"),
    [
        ([0, 3, 1], [2], ([0, 3, 1], [2]), "0123"),
        ([0, 5, 5], [0], ([0, 5, 5], [0]), "012345"),  # gaps are allowed
        ([3, 1, 2], [2], ([2, 0, 1], [1]), "123"),
        ([7, 9, 7], [3], ([1, 2, 1], [0]), "379"),  # the test set has a class of its own
        ([1, 2, 1], [0], ([1, 2, 1], [0]), "012"),  # the smallest of both parts counts
        ([7.0, 9.0, 7.0], [9.0], ([0, 1, 0], [1]), "79"),
        (["b", "a", "b"], ["c"], ([1, 0, 1], [2]), "abc"),
        (np.array(["b", "a", "b"]), np.array(["c"]), ([1, 0, 1], [2]), "abc"),
        (np.array([b"b", b"a", b"b"]), np.array([b"c"]), ([1, 0, 1], [2]), "abc"),
        (np.array(["b", "a", "b"], dtype=object), ["c"], ([1, 0, 1], [2]), "abc"),
        (np.array([b"b", b"a", b"b"], dtype=object), ["c"], ([1, 0, 1], [2]), "abc"),
        (np.array([["b"], ["a"], ["b"]]), [["a"]], ([1, 0, 1], [0]), "ab"),
        (pd.Series(["b", "a", "b"]), pd.Series(["c"]), ([1, 0, 1], [2]), "abc"),
        (pd.Series(["b", "a", "b"], dtype="category"), pd.Series(["a"]), ([1, 0, 1], [0]), "ab"),
        (pd.Series([3, 1, 3], index=[9, 8, 7]), pd.Series([1]), ([1, 0, 1], [0]), "13"),
    ],
)
def test_labels_and_classes(train, test, expected, classes):
    data = labelled(train, test)
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == expected
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert data.classes == tuple(classes)
    assert all(type(each) is str for each in data.classes)


@given(st.lists(st.text(), min_size=2, max_size=9), st.integers(1, 8))
def test_classes_name_the_labels(names, cut):
    train, test = names[:cut], names[cut:] or names[:1]
    data = labelled(train, test)
    assert [data.classes[label] for label in data.train_labels] == train
    assert [data.classes[label] for label in data.test_labels] == test
    assert list(data.classes) == sorted(set(train + test))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a", np.nan], ["a"], "train labels have nan at index 1; if they are no array of numbers, each must be a str"),
        (["a", 1], ["a"], "train labels have 1 at index 1; if"),
        (["a"], pd.Series(["a", None]), "test labels have (nan|None) at index 1; if"),
        (np.array([0, 1], dtype=object), ["a"], "train labels have 0 at index 0; if"),
        (
            [torch.zeros(2, 2).numpy(), None],
            ["a"],
            "train labels must be an array of numbers: |train labels are object",
        ),
        (["a"], [0, 1], "the train labels are strings and the test labels are numbers; both must be the same"),
        ([0, 1], ["a"], "the train labels are numbers and the test labels are strings; both must be the same"),
        ([1, -1], [1], "train labels have -1 at index 1"),
        ([5, 1_000_000], [5], "train labels have 1000000 at index 1"),
    ],
)
def test_labels_that_are_no_classes_for_certain(train, test, message):
    with pytest.raises(UserError, match=message) as caught:
        labelled(train, test)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["plain", "channels first", "float32", "whole float32", "int64"])
def test_memory_maps_are_read_only(tmp_path, form):
    arrays = list(own_data())
    if form != "plain":
        arrays[::2] = (np.ascontiguousarray(FORMS[form](each)) for each in arrays[::2])
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for mode in ("r", "r+"):
        data = datasets.of("mine", [np.load(tmp_path / f"{number}.npy", mmap_mode=mode) for number in range(4)])
        data.batch(torch.arange(6))
        data.normalised(data.test_images)
        assert data.digest == datasets.of("mine", own_data()).digest
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_fractions_in_a_memory_map(tmp_path):
    arrays = float_data()
    np.save(tmp_path / "images.npy", arrays[0])
    before = (tmp_path / "images.npy").read_bytes()
    for mode in ("r", "r+"):
        images = np.load(tmp_path / "images.npy", mmap_mode=mode)
        data = datasets.of("mine", (images, *arrays[1:]))
        data.batch(torch.arange(3000))
        assert data.digest == datasets.of("mine", arrays).digest
        del images, data
    assert (tmp_path / "images.npy").read_bytes() == before


class Items(torch.utils.data.Dataset):
    """A map-style data set that counts how often each item is read."""

    def __init__(self, images, labels, transform=None):
        self.images, self.labels, self.transform, self.reads = images, labels, transform, [0] * len(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads[index] += 1
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.labels[index]


def items(transform=None, labels=None):
    images, numbers, test_images, test_numbers = own_data(40)
    name = np.asarray(["a", "b", "c"] if labels is None else labels)
    return Items(images, name[numbers], transform), Items(test_images, name[test_numbers], transform)


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: image,
        Image.fromarray,
        torchvision.transforms.ToTensor(),
        v2.ToImage(),
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: image.astype(np.float64),
        lambda image: image.tolist(),
    ],
)
def test_data_sets_of_items_are_the_same_bytes(transform):
    plain = datasets.of("mine", own_data(40))
    train, test = items(transform)
    data = datasets.of("mine", (train, test))
    assert data.digest == plain.digest
    assert data.classes == ("a", "b", "c")
    assert train.reads == [2] * 32 + [1] * 8  # the first ones twice, to notice random numbers
    half = torch.utils.data.Subset(train, range(20)), torch.utils.data.Subset(train, range(20, 40))
    assert datasets.of("mine", [torch.utils.data.ConcatDataset(half), test]).digest == plain.digest


@pytest.mark.parametrize(
    "kind",
    [
        int,
        float,
        np.int64,
        torch.tensor,
        lambda label: torch.tensor([label]),
        lambda label: torch.tensor(label).bfloat16(),
    ],
)
def test_labels_of_items(kind):
    images, labels, test_images, test_labels = own_data()
    parts = Items(images, [kind(each) for each in labels.tolist()]), Items(test_images, [kind(0)] * 4)
    data = datasets.of("mine", parts)
    assert data.train_labels.tolist() == labels.tolist()
    tensors = [
        torch.utils.data.TensorDataset(torch.from_numpy(each), torch.from_numpy(numbers))
        for each, numbers in ((images, labels), (test_images, test_labels))
    ]
    assert datasets.of("mine", tensors).digest == datasets.of("mine", own_data()).digest


def test_grayscale_and_palette_images():
    images, labels, *_ = own_data(channels=1)
    gray = datasets.of("mine", [Items([Image.fromarray(each[..., 0]) for each in images], labels)] * 2)
    np.testing.assert_array_equal(gray.train_images, images)
    palette = Image.new("P", (6, 5), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    colours = datasets.of("mine", [Items([palette], [0])] * 2).train_images
    assert colours.shape == (1, 5, 6, 3)
    assert colours[0, 0, 0].tolist() == [40, 50, 60]


@pytest.mark.parametrize(
    ("given", "labels", "classes"),
    [
        (["x", "y", "z"], [0, 1, 2], ("x", "y", "z")),
        (("x", "y", "z"), [5, 6, 9], ("x", "y", "z")),
        (["x", "y"], [0, 1, 2], ("0", "1", "2")),
        ("xyz", [0, 1, 2], ("0", "1", "2")),
        ([7, 8, 9], [0, 1, 2], ("0", "1", "2")),
        (["x", "y", "z"], ["b", "a", "c"], ("a", "b", "c")),  # names in the labels are certain
    ],
)
def test_names_of_classes(given, labels, classes):
    train, test = items(labels=labels)
    train.classes = given
    assert datasets.of("mine", (train, test)).classes == classes


def fails(index):
    raise KeyError(f"no {index}\nand a second line")


class Unsized(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(np.zeros((2, 2)), 0)])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            items(v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip()])),
            "differs when it is read again, so its transform draws",
        ),
        (
            items(lambda image: image + np.random.default_rng().integers(1 << 40)),
            "item 0 of mine's train set differs when it",
        ),
        ((items()[0], items(lambda image: image * np.random.default_rng().random())[1]), "of mine's test set differs"),
        (
            (Items([np.zeros((2, 2)), np.zeros((2, 3))], [0, 1]), items()[1]),
            r"image 1 of mine's train set is float64 of shape \(2, 3\), but image 0 is float64 of shape \(2, 2\); all "
            "must be alike: add a Resize transform",
        ),
        (
            (items()[0], Items([np.zeros((2, 2), "u1"), np.zeros((2, 2))], [0, 1])),
            "image 1 of mine's test set is float64",
        ),
        (
            (np.zeros((4, 2, 2)), [0, 1, 0, 1]),
            r"item 0 of mine's train set is an ndarray of shape \(2, 2\); it must be a p",
        ),
        (
            ([(1, 2, 3)], items()[1]),
            r"item 0 of mine's train set is a tuple of length 3; it must be a pair \(image, lab",
        ),
        (([{"image": 0}], items()[1]), "item 0 of mine's train set is a dict; it must be"),
        (({"train": 0}, items()[1]), "item 0 of mine's train set cannot be read: KeyError: 0"),
        ((items()[0], items(fails)[1]), "item 0 of mine's test set cannot be read: KeyError: "),
        (([(np.zeros(3), 0)], items()[1]), r"train images are float64 of shape \(1, 3\); they must be uint8"),
        (([(None, 0)], items()[1]), r"train images are object of shape \(1,\); they must be uint8"),
        (
            ([(np.zeros((32, 32, 3)), None)], items()[1]),
            "train labels have None at index 0; if they are no array of numbers",
        ),
        (([(np.zeros((32, 32, 3)), {"box": torch.zeros(2, 2)})], items()[1]), "train labels have {'box': tensor"),
        (([], items()[1]), "with at least one image"),
        ((Unsized(), items()[1]), "mine gives a tuple of length 2; it must give"),
        (items()[0], "mine gives an Items; it must give"),
        (None, "mine gives a NoneType; it must give"),
        ({"train": 1}, "mine gives a dict; it must give"),
    ],
)
def test_data_sets_that_do_not_fit(parts, message):
    with pytest.raises(UserError, match=message) as caught:
        datasets.of("mine", parts)
    assert "\n" not in str(caught.value)


def test_random_labels_are_noticed_up_to_item_31():
    class Labels(list):
        def __getitem__(self, index):
            return np.random.default_rng().integers(1 << 40) if index == 31 else 0

    with pytest.raises(UserError, match="item 31 of mine's train set differs when it is read again"):
        datasets.of("mine", (Items(own_data(40)[0], Labels()), items()[1]))


@pytest.fixture
def by_name(monkeypatch):
    """`networks` can be imported by its name."""
    monkeypatch.syspath_prepend(str(PROJECT / "tests"))


@pytest.mark.usefixtures("by_name")
def test_classes_like_those_of_torchvision(tmp_path):
    root = tmp_path / "new" / "root"
    with ThreadPoolExecutor(4) as pool:  # a second download would fail
        loaded = list(pool.map(lambda _: datasets.load("networks:Downloaded", root), range(4)))
    images = np.arange(6 * 32 * 32, dtype=np.uint8).reshape(6, 32, 32, 1)
    for data in [*loaded, datasets.load("networks:split_in_memory", tmp_path)]:
        np.testing.assert_array_equal(data.train_images, images[:4])
        np.testing.assert_array_equal(data.test_images, images[4:])
        assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert loaded[0].classes == ("dark", "bright")
    (root / ".download.lock").unlink(missing_ok=True)
    datasets.load("networks:Downloaded", root)
    assert not (root / ".download.lock").exists()  # where nothing is missing, nothing is written


@pytest.mark.usefixtures("by_name")
def test_a_download_that_fails(tmp_path):
    (tmp_path / "new.npy").touch()
    with pytest.raises(
        UserError, match=r"networks:Downloaded failed: FileExistsError: .*; data_root is /.*, where its files"
    ) as caught:
        datasets.load("networks:Downloaded", tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_callable_is_given(tmp_path, monkeypatch):
    arrays, calls = own_data(), []

    def both(part, **given):
        calls.append(given)
        return list(zip(*(arrays[:2] if part in (True, "train") else arrays[2:]), strict=True))

    for function, expected in (
        (lambda train: both(train), [{}] * 2),
        (lambda split="test": both(split), [{}] * 2),
        (lambda root, train=False: both(train, root=root), [{"root": str(tmp_path)}] * 2),
        (lambda *, download=True, split: both(split, download=download), [{"download": False}] * 2),
        (lambda split=0.8, root="mine", train="some": arrays, []),  # these mean something else
    ):
        calls.clear()
        monkeypatch.setattr(datasets, "find_callable", lambda what, field, function=function: function)
        assert datasets.load("my:data", tmp_path).digest == datasets.of("mine", own_data()).digest
        assert calls == expected


def test_one_part_of_torchvision_is_refused():
    with pytest.raises(
        UserError, match=r"torchvision.datasets:FakeData gives a FakeData; it must give \(train_images, "
    ):
        datasets.load("torchvision.datasets:FakeData")


@needs_cifar10
def test_torchvisions_cifar10_is_cifar10():
    data, own = (datasets.load(name, CIFAR10) for name in ("cifar10", "torchvision.datasets:CIFAR10"))
    assert torch.equal(own.train_images, data.train_images)
    assert torch.equal(own.test_labels, data.test_labels)
    assert (own.digest, own.classes) == (data.digest, data.classes)
    part = torchvision.datasets.CIFAR10(CIFAR10, train=False, transform=torchvision.transforms.ToTensor())
    part = torch.utils.data.Subset(part, range(500))
    assert torch.equal(datasets.of("mine", (part, part)).train_images, data.test_images[:500])


def test_digest_is_that_of_dtypes_shapes_and_bytes(monkeypatch):
    arrays = own_data()
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: arrays)
    data = datasets.load("my:data")
    expected = hashlib.sha256()
    for array, dtype in zip(arrays, ["uint8", "int64"] * 2, strict=True):
        expected.update(f"torch.{dtype} {array.shape}\n".encode() + array.astype(dtype).tobytes())
    assert data.digest == expected.hexdigest()
    # A part and a copy are of the same data set; types of labels do not count, since they are converted.
    assert data.first(2).digest == data.first(4).first(2).to("cpu").digest == data.digest
    arrays = (arrays[0], arrays[1].astype(np.uint8), *arrays[2:])
    assert datasets.load("my:data").digest == data.digest


@pytest.mark.parametrize("which", range(4))
def test_digest_changes_with_any_byte_and_order(monkeypatch, which):
    arrays = [np.array(array) for array in own_data()]
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: tuple(arrays))
    digests = {datasets.load("my:data").digest}
    arrays[which].flat[0] += 1
    digests.add(datasets.load("my:data").digest)
    arrays[which] = arrays[which][::-1]
    digests.add(datasets.load("my:data").digest)
    assert len(digests) == 3


def test_data_root_of_another_user(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied", "data_batch_1")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    message = (
        r"data_batch_1 cannot be read \(Permission denied\); ask its owner for permission or choose another data_root"
    )
    with pytest.raises(UserError, match=message):
        datasets.load("cifar10", tmp_path)


def test_unknown_name():
    with pytest.raises(UserError, match=r"'imagenet'; it must be cifar10, digits, or module:callable"):
        datasets.load("imagenet")


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("BATCHSCALE_DATA_ROOT", raising=False)
    assert str(datasets.find_data_root()) == "datasets"
    monkeypatch.setenv("BATCHSCALE_DATA_ROOT", "/elsewhere")
    assert str(datasets.find_data_root()) == "/elsewhere"
    assert datasets.find_data_root(tmp_path) == tmp_path
    assert not datasets.is_available("cifar10", tmp_path)
    assert datasets.is_available("digits", tmp_path)


def test_data_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="which is a file"):
        datasets.load("cifar10", tmp_path / "file")


@needs_cifar10
def test_cifar10_is_the_official_one():
    data = datasets.load("cifar10", CIFAR10)
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    assert data.classes[0] == "airplane"
    assert data.train_labels.bincount().tolist() == [5000] * 10
    # the commonly quoted values of its channels
    assert (data.mean / 255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert (data.std / 255).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
