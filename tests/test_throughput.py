"""Seconds and memory of updates by batch size, on a clock that the updates themselves advance."""

from itertools import groupby

import pytest
import torch
from networks import NeedsMemory
from torch import nn

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.training import datasets, memory, throughput
from batchscale.training.loop import Training
from batchscale.training.network import build_model
from batchscale.training.throughput import measure

EACH, PER_IMAGE = 0.0041, 0.0005  # seconds of an update


def pooled(num_classes: int) -> nn.Module:
    """Its batch norm has one value per image and channel, which is too few for one image."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, num_classes))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def experiment(**fields) -> Experiment:
    fixed = {"batch_size": 1, "dataset": "digits", "train_size": 100, "width": 1, "model": "networks:linear"}
    return Experiment(**{**fixed, **fields})


class Clock:
    """Seconds that pass as updates and measurements take them."""

    def __init__(self):
        self.now, self.sizes, self.trainings = 0.0, [], []

    def __call__(self) -> float:
        return self.now

    def seconds(self, size: int) -> float:
        return EACH + PER_IMAGE * size


@pytest.fixture
def clock(monkeypatch):
    clock, update = Clock(), Training.update

    def timed(training, minibatch, learning_rate=None):
        update(training, minibatch, learning_rate)
        clock.sizes.append(len(minibatch))
        clock.trainings.append(training)
        clock.now += clock.seconds(len(minibatch))

    def evaluate(training, images, labels):
        clock.now += 0.001 * len(images)

    def measure_noise_scale(training, images):  # 7 s for the 80 images of every record
        clock.now += 7 * images / 80

    monkeypatch.setattr(Training, "update", timed)
    monkeypatch.setattr(Training, "evaluate", evaluate)
    monkeypatch.setattr(Training, "measure_noise_scale", measure_noise_scale)
    return clock


def test_seconds_are_those_of_the_updates(digits, clock):
    found = measure(experiment(), digits, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == [1, 2, 4, 8, 16, 32, 64, 100]
    for speed in found.speeds:
        assert speed.seconds == pytest.approx(EACH + PER_IMAGE * speed.batch_size, rel=1e-9)
        assert speed.error == pytest.approx(0, abs=1e-12)
        assert speed.bytes >= 0
    assert (found.largest, found.limit, found.device) == (100, "images", "cpu")
    assert found.evaluation_seconds == pytest.approx(0.001 * (100 + 297) + 7)


@pytest.mark.parametrize(("largest", "sizes"), [(16, [1, 2, 4, 8, 16]), (20, [1, 2, 4, 8, 16, 20]), (1, [1])])
def test_no_larger_minibatch_than_asked_for(digits, clock, largest, sizes):
    found = measure(experiment(), digits, largest=largest, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == sizes
    assert (found.largest, found.limit) == (largest, "images")


def test_rounds_are_interleaved(digits, clock):
    """A try, one update to find the length of the blocks of 50 ms, and five rounds."""
    measure(experiment(), digits, clock=clock)
    sizes = [1, 2, 4, 8, 16, 32, 64, 100]
    assert clock.sizes[:16] == 2 * sizes
    blocks = [(size, len(list(group))) for size, group in groupby(clock.sizes[16:])]
    assert blocks == 5 * [(size, max(1, round(0.05 / clock.seconds(size)))) for size in sizes]


def test_a_batch_size_is_timed_until_it_is_known(digits, clock):
    """Times of 1 ± 0.2 with a relative standard error of 0.2·√(n/(n−1))/√n = 0.2/√(n − 1): n = 46 are below 3 %."""
    clock.seconds = lambda size: 0.1 * (1 + (0.2 * (-1) ** len(clock.sizes) if size == 4 else 0))

    found = measure(experiment(), digits, largest=4, clock=clock)
    sizes = clock.sizes[6:]
    counts = {size: sizes.count(size) for size in (1, 2, 4)}
    assert counts[1] == counts[2] == 5
    assert found.speeds[2].error < 0.03 * found.speeds[2].seconds
    assert 40 <= counts[4] <= 48
    assert found.speeds[2].seconds == pytest.approx(0.1, rel=0.02)


def test_time_ends_the_rounds_and_two_samples_are_the_least(digits, clock):
    """Updates of 70 and 105 ms in turn, which 46 of each size would tell well enough, in a time for a few."""
    clock.seconds = lambda size: 0.07 * (1 + 0.5 * (len(clock.sizes) % 2))
    found = measure(experiment(), digits, seconds=3.0, largest=16, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == [1, 2, 4, 8, 16]
    evaluation = 0.001 * 297 + 7 * 24 / 80  # of the fewest images
    assert 3.0 <= clock.now - evaluation < 3.0 + 5 * 0.105  # the round in progress is completed
    clock.now, clock.sizes = 0.0, []
    found = measure(experiment(), digits, seconds=1e-9, clock=clock)
    assert clock.sizes == [1] * 5  # two tries, as the first of a process takes long, a first one, and two samples
    assert (found.largest, found.limit) == (1, "time")
    assert found.speeds[0].error > 0


def test_slow_updates_end_the_series(digits, clock):
    """A twentieth of 0.4 s is 20 ms, which 32 images take first."""
    found = measure(experiment(), digits, seconds=0.4, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == [1, 2, 4, 8, 16, 32]
    assert (found.largest, found.limit) == (32, "time")


def test_weights_stay_as_they_are(digits, clock):
    for fields in ({}, {"optimizer": "adamw", "weight_decay": 0.1}, {"model": "models:CNN", "width": 0.05}):
        of = experiment(**fields)
        measure(of, digits, largest=8, clock=clock)
        fresh = build_model(of, digits)
        found = dict(clock.trainings[-1].model.named_parameters())
        for name, expected in fresh.named_parameters():
            torch.testing.assert_close(found[name].detach(), expected.detach(), rtol=0, atol=1e-20)
        assert clock.trainings[-1].updates >= 7 * 4


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr(NeedsMemory, "seen", [])
    return lambda images: monkeypatch.setattr(NeedsMemory, "train_room", images)


@pytest.mark.parametrize(("images", "largest"), [(40, 32), (64, 64), (99, 64), (1, 1)])
def test_a_device_without_room_ends_the_series(digits, clock, room, images, largest):
    room(images)
    found = measure(experiment(model="networks:NeedsMemory"), digits, clock=clock)
    assert (found.largest, found.limit) == (largest, "memory")
    assert [speed.batch_size for speed in found.speeds][-1] == largest


def test_a_device_that_is_full_at_the_smallest_size(digits, clock, room):
    room(0)
    with pytest.raises(UserError) as refused:
        measure(experiment(model="networks:NeedsMemory"), digits, clock=clock)
    assert str(refused.value) == (
        "the device is full at batch size 1 (CUDA out of memory. Tried to allocate 2.00 GiB.); use a smaller network, "
        "a lower precision or another device"
    )


def test_two_images_where_batch_norm_needs_them(digits, clock):
    found = measure(experiment(model="test_throughput:pooled"), digits, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == [2, 4, 8, 16, 32, 64, 100]


def test_a_network_that_fails_is_one_line(digits, clock):
    with pytest.raises(UserError, match="fails_in_training failed in training, after update 0: ValueError: too much"):
        measure(experiment(model="networks:fails_in_training"), digits, clock=clock)


def test_what_would_not_fit_is_not_tried(digits, clock, monkeypatch):
    """1 kB an image and 1 kB: after 16 images, 17 kB, the next 16 need 16 kB more, and 0.8 of 19 kB are 15.2 kB."""

    class Gauge:
        def __init__(self, device):
            pass

        def peak(self):
            return 1000 * (1 + clock.sizes[-1])

        def room(self):
            return 36_000 - self.peak()

    monkeypatch.setattr(throughput.memory, "Gauge", Gauge)
    found = measure(experiment(), digits, clock=clock)
    assert [speed.batch_size for speed in found.speeds] == [1, 2, 4, 8, 16]
    assert [speed.bytes for speed in found.speeds] == [2000, 3000, 5000, 9000, 17_000]
    assert found.limit == "memory"
    assert memory.Gauge is Gauge
