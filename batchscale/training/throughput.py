"""Seconds and memory of an update by batch size, on this device and with the real step of the loop.

measure(Experiment(batch_size=8), datasets.load("cifar10")).speeds
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.training import memory
from batchscale.training.datasets import TRAIN_ACCURACY_IMAGES, Dataset
from batchscale.training.device import synchronize
from batchscale.training.loop import EVALUATION_BATCH_SIZE, Training
from batchscale.training.noise_scale import MICRO_BATCHES, default_micro_batch_size

PRECISION = 0.03  # relative standard error at which a batch size is timed well enough
_BLOCK_SECONDS = 0.05  # of updates that are timed together, so that reading the clock costs nothing
_LEAST_ROUNDS = 5
_ROOM = 0.8  # of the free memory that an update may be expected to take
_LONGEST = 1 / 20  # of the time for all; a batch size whose update takes longer is not timed


@dataclass(frozen=True)
class Speed:
    """One batch size: mean seconds of an update, their standard error, and the memory of an update in bytes."""

    batch_size: int
    seconds: float
    error: float
    bytes: int


@dataclass(frozen=True)
class Throughput:
    """What a device does with a network."""

    device: str
    speeds: tuple[Speed, ...]  # rising batch sizes
    largest: int  # the largest minibatch that was found to fit
    limit: Literal["memory", "images", "time"]  # why no larger one was tried
    evaluation_seconds: float  # of the measurements after an epoch: accuracies and noise scale


def measure(
    experiment: Experiment,
    data: Dataset,
    *,
    seconds: float = 60.0,
    largest: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Time the update of B = 1, 2, 4 … images, and of the largest minibatch that fits.

    Each batch size is tried once, which warms it up and measures its memory, up to what fits on the device, the number
    of training images, or an update that takes a twentieth of `seconds`. Then rounds of short blocks of updates, one
    block per batch size, until the standard error of every mean is below 3 % or the time is over: interleaved, because
    other work on the machine comes and goes. Learning rates are so low that the weights stay as they are.

    Args:
        experiment: network, optimizer, augmentation, precision and device; its batch size does not matter.
        data: the complete data set.
        seconds: what all of it may take, roughly.
        largest: no larger minibatch than this; None: all training images.

    Raises:
        UserError: not even the smallest minibatch fits, or the network failed.
    """
    started = clock()
    training = _all_at_once(experiment, data)
    with memory.memory_kept():
        order = training.order(1)[:largest]
        peaks, limit = _try_each(training, order, seconds * _LONGEST, clock)
        if limit == "memory" and training.device.type != "cpu":
            largest = training.largest_that_fits(min(2 * max(peaks), len(order)))
            training = _all_at_once(experiment, data)
            peaks |= {largest: peaks[max(peaks)] * largest // max(peaks)} if largest > max(peaks) else {}
        speeds = _timed(training, order, peaks, started + seconds, clock)
        evaluation = _evaluation(training, clock)
    memory.free_memory()
    return Throughput(str(training.device), speeds, max(peaks), limit, evaluation)


def _all_at_once(experiment: Experiment, data: Dataset) -> Training:
    """A training that takes a minibatch of any number of images, at a rate that changes no weight."""
    images = len(data.first(experiment.train_size).train_images)
    still = {"base_lr": 1e-30, "lr_scaling": "none", "warmup": "none", "decay": "none"}
    training = Training(replace(experiment, batch_size=images, **still), data)
    training.model.train()
    return training


def _try_each(
    training: Training, order: Tensor, longest: float, clock: Callable[[], float]
) -> tuple[dict[int, int], Literal["memory", "images", "time"]]:
    """Peak memory in bytes of the batch sizes that fit, and what ended the series."""
    peaks: dict[int, int] = {}
    gauge, size, is_warm = memory.Gauge(training.device), 1, False
    while True:
        before = clock()
        try:
            training.update(order[:size])
            training.optimizer.zero_grad(set_to_none=True)
        except memory.OutOfMemory as problem:
            if not peaks:
                raise UserError(
                    f"the device is full at batch size {size} ({memory.reason(problem.__cause__)}); use a smaller "
                    f"network, a lower precision or another device"
                ) from None
            memory.free_memory()
            return peaks, "memory"
        except UserError:
            if size > 1:
                raise
            size = 2  # batch norm after pooling to one pixel needs two images
            continue
        peaks[size] = gauge.peak()
        if size == len(order):
            return peaks, "images"
        if clock() - before > longest:
            if is_warm:
                return peaks, "time"
            is_warm = True  # the first update of a process takes long
            continue
        is_warm = True
        size = min(2 * size, len(order))
        if _expected(peaks, size) - max(peaks.values()) > _ROOM * gauge.room():
            return peaks, "memory"


def _expected(peaks: dict[int, int], size: int) -> float:
    """Memory at a larger size, from how it grew over the two largest so far."""
    if len(peaks) < 2:
        return 0.0
    (smaller, less), (larger, more) = list(peaks.items())[-2:]
    return more + (more - less) / (larger - smaller) * (size - larger)


def _timed(
    training: Training, order: Tensor, peaks: dict[int, int], end: float, clock: Callable[[], float]
) -> tuple[Speed, ...]:
    """Rounds of blocks of updates, one block per batch size that is not yet known well enough."""
    repeats = {size: max(1, round(_BLOCK_SECONDS / _block(training, order[:size], 1, clock))) for size in peaks}
    samples: dict[int, list[float]] = {size: [] for size in peaks}
    left = list(peaks)
    while left and (clock() < end or len(samples[left[-1]]) < 2):
        for size in left:
            samples[size].append(_block(training, order[:size], repeats[size], clock))
        left = [size for size in left if not _is_known(samples[size])]
    return tuple(Speed(size, float(np.mean(times)), _error(times), peaks[size]) for size, times in samples.items())


def _evaluation(training: Training, clock: Callable[[], float]) -> float:
    """Seconds of the measurements after an epoch, from those on a few of their images."""
    data, images = training.data, len(training.data.train_images)
    evaluated = min(images, TRAIN_ACCURACY_IMAGES) + len(data.test_images)
    few = min(len(data.test_images), 2 * EVALUATION_BATCH_SIZE)
    before = clock()
    training.evaluate(data.test_images[:few], data.test_labels[:few])
    seconds, before = (clock() - before) * evaluated / few, clock()
    training.measure_noise_scale(3 * default_micro_batch_size(images))  # the fewest of which it can be measured
    return seconds + (clock() - before) * MICRO_BATCHES / 3


def _block(training: Training, minibatch: Tensor, updates: int, clock: Callable[[], float]) -> float:
    """Seconds per update."""
    synchronize(training.device)
    before = clock()
    for _ in range(updates):
        training.update(minibatch)
    synchronize(training.device)
    return (clock() - before) / updates


def _error(times: list[float]) -> float:
    return float(np.std(times, ddof=1) / math.sqrt(len(times)))


def _is_known(times: list[float]) -> bool:
    return len(times) >= _LEAST_ROUNDS and _error(times) < PRECISION * float(np.mean(times))
