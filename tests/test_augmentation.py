"""Random changes of images: equal to torchvision's for the same draws, even, and the same however a run is split.

That training uses them as the plain loop does, and resumes exactly, is in test_training.
"""

from itertools import product

import pytest
import torch
from torch import nn
from torchvision.transforms import functional as transforms

from batchscale.experiment import Experiment
from batchscale.training import datasets
from batchscale.training.augmentation import changed, drawn
from batchscale.training.loop import Training
from batchscale.training.randomness import permutation


@pytest.mark.parametrize(
    ("shape", "padding"),
    [((32, 32, 3), (4, 4)), ((28, 28, 1), (3, 3)), ((16, 24, 3), (2, 3)), ((7, 9, 2), (0, 1))],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_equals_torchvisions_crop_and_flip(shape, padding, dtype):
    """Every shift and both orientations."""
    (height, width, channels), (down, right) = shape, padding
    changes = torch.tensor(list(product((0, 1), range(-down, down + 1), range(-right, right + 1))))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (len(changes), height, width, channels), generator=generator).to(dtype)
    before = images.clone()
    ours = changed(images, changes)
    assert ours.dtype == dtype
    assert torch.equal(images, before)
    for image, (mirrored, rows, columns), result in zip(images, changes.tolist(), ours, strict=True):
        padded = transforms.pad(image.permute(2, 0, 1), [right, down])
        expected = transforms.crop(padded, down + rows, right + columns, height, width)
        expected = transforms.hflip(expected) if mirrored else expected
        assert torch.equal(result.permute(2, 0, 1), expected)


def test_draws_are_even_and_depend_on_seed_and_epoch_alone():
    order = permutation(20_000, seed=0, epoch=1)
    both = drawn(order, "flip-crop", (32, 16), seed=0, epoch=1)
    assert torch.equal(both[:, 0], order)
    for column, values in ((1, [0, 1]), (2, list(range(-4, 5))), (3, list(range(-2, 3)))):
        found, counts = both[:, column].unique(return_counts=True)
        assert found.tolist() == values
        expected = len(order) / len(values)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()
    assert abs(torch.corrcoef(both.double().T)).fill_diagonal_(0).max() < 0.04  # 5.6 standard errors
    flip = drawn(order, "flip", (32, 16), seed=0, epoch=1)
    assert torch.equal(flip[:, 1], both[:, 1])
    assert not flip[:, 2:].any()
    assert drawn(order, "none", (32, 16), seed=0, epoch=1) is order
    torch.manual_seed(123)
    assert torch.equal(both, drawn(order, "flip-crop", (32, 16), seed=0, epoch=1))
    for seed, epoch in ((0, 2), (1, 1), (1, 0)):
        assert not torch.equal(both[:, 1:], drawn(order, "flip-crop", (32, 16), seed, epoch)[:, 1:])


class Sums(nn.Module):
    """Keeps the sum of every image that it is trained on."""

    def __init__(self):
        super().__init__()
        self.last, self.seen = nn.Linear(3072, 10), []

    def forward(self, images):
        if torch.is_grad_enabled():
            self.seen += images.sum(dim=(1, 2, 3)).tolist()
        return self.last(images.flatten(1))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_only_training_and_the_noise_scale_see_changed_images(digits):
    """The noise scale is that of the gradient of an update, with the changes of the images as part of the noise."""
    sums = {}
    for augment in ("none", "flip", "flip-crop"):
        of = Experiment(batch_size=32, dataset="digits", epochs=1, train_size=320, augment=augment)
        run = Training(of, digits, model=Sums())
        run.model.train()
        for part in run.order(1).split(32):
            run._accumulate_gradient(part)
        sums[augment] = run.model.seen
        assert len(sums[augment]) == 320
    assert sums["flip"] == pytest.approx(sums["none"], abs=0.05)  # mirrored, the same pixels
    assert sum(abs(a - b) > 1 for a, b in zip(sums["flip-crop"], sums["none"], strict=True)) > 250
    rows = {}
    for augment in sums:
        torch.manual_seed(0)
        of = Experiment(batch_size=32, dataset="digits", epochs=1, train_size=320, augment=augment, base_lr=1e-12)
        run = Training(of, digits, model=Sums())
        rows[augment] = (run.measure_noise_scale(), run.evaluate(run.data.train_images, run.data.train_labels))
    noise = [each.trace_covariance for each, _ in rows.values()]
    assert len(set(noise)) == 3
    assert len({evaluated for _, evaluated in rows.values()}) == 1


@pytest.mark.parametrize("augment", ["flip", "flip-crop"])
def test_changes_do_not_depend_on_how_a_minibatch_is_split(digits, augment):
    weights = []
    for micro in (None, 8, 5):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).double()
        of = Experiment(
            batch_size=32, dataset="digits", epochs=2, train_size=320, augment=augment, micro_batch_size=micro
        )
        run = Training(of, digits, model=nn.Sequential(ToDouble(), model))
        list(run.epochs(with_noise_scale=False))
        weights.append(model[1].weight.detach())
    torch.testing.assert_close(weights[1], weights[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(weights[2], weights[0], atol=1e-12, rtol=0)


class ToDouble(nn.Module):
    def forward(self, images):
        return images.double()
