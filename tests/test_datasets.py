"""Data sets as tensors: complete, ordered, normalised, and rejected if images and labels do not match."""

import errno
import hashlib

import numpy as np
import pytest
import torch
import torchvision
from conftest import CIFAR10, needs_cifar10

from batchscale.errors import UserError
from batchscale.training import datasets


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
        (own_data(dtype=np.float32), "train images are float32 of shape"),
        (own_data()[:3], "must return"),
        ((own_data()[0], np.arange(5), *own_data()[2:]), "must be 6 whole numbers"),
        ((own_data()[0], np.arange(6) - 1, *own_data()[2:]), "train labels have -1 at index 0; they must be whole"),
        ((own_data()[0], np.arange(6).astype("uint32") - 1, *own_data()[2:]), "have 4294967295 at index 0"),
        ((own_data()[0], np.arange(6) + 0.5, *own_data()[2:]), "have 0.5 at index 0"),
        ((own_data()[0], [0, 1, float("nan"), 1, 0, 1], *own_data()[2:]), "have nan at index 2"),
        ((*own_data()[:3], np.array([0, np.inf, 1, 2])), "test labels have inf at index 1"),
        ((own_data()[0], np.eye(6), *own_data()[2:]), r"float64 of shape \(6, 6\); they must be 6 whole numbers"),
        ((own_data()[0], [], *own_data()[2:]), r"of shape \(0,\); they must be 6 whole numbers"),
        ((own_data()[0], [[1], [2, 3]], *own_data()[2:]), "train labels must be an array of numbers: "),
        ((own_data()[0], list("abcabc"), *own_data()[2:]), "train labels are <U1 of shape"),
        ((own_data()[0], None, *own_data()[2:]), "train labels are object of shape"),
        ((own_data()[0][:0], [], *own_data()[2:]), "with at least one image"),
        ((own_data()[0][0], *own_data()[1:]), "of shape"),
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
    with pytest.raises(UserError, match=r"'imagenet'; it must be cifar10, digits, or module:function"):
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
