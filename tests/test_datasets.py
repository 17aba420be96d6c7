"""Data sets as tensors: complete, ordered, normalised, and rejected if images and labels do not match."""

import numpy as np
import pytest
import torch
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
        (own_data(dtype=np.float32), "torch.float32 of shape"),
        (own_data()[:3], "must return"),
        ((own_data()[0], np.arange(5), *own_data()[2:]), "must be 6 whole numbers"),
        ((own_data()[0], np.arange(6) - 1, *own_data()[2:]), "lowest train label is -1"),
        ((own_data()[0], np.arange(6.0), *own_data()[2:]), "whole numbers"),
        ((own_data()[0][0], *own_data()[1:]), "of shape"),
        ((*own_data()[:2], own_data(4, 16)[0], np.arange(4)), "differ in shape"),
    ],
)
def test_own_data_that_does_not_fit(monkeypatch, arrays, message):
    monkeypatch.setattr(datasets, "find_callable", lambda what, field: lambda: arrays)
    with pytest.raises(UserError, match=message):
        datasets.load("my:data")


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
