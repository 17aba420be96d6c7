"""Measure for minutes what a batch size would do: throughput, branches from a few checkpoints, noise scale.

advice = advise(Experiment(batch_size=8, lr_scaling="linear", warmup="gradual"), minutes=10)
advice.recommended.batch_size
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from numbers import Real
from typing import TYPE_CHECKING

from batchscale import streams
from batchscale.analysis import json_object, local_critical_batch_size
from batchscale.analysis.advice import Advice, Measured, NoiseScaleAt, update_seconds
from batchscale.analysis.advice import advise as conclude
from batchscale.analysis.words import count, duration, number
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.paths import typed
from batchscale.records import advice as kept
from batchscale.records.files import require_writable
from batchscale.schedules import LRScaling

if TYPE_CHECKING:
    from batchscale.training.branches import Branch, Reference
    from batchscale.training.throughput import Throughput

CHECKPOINTS = (1, 2, 4)  # epochs
ORDERS = 2
_TIMING = 0.15, 60.0  # share of the time for the throughput, and the most seconds
_TRAINING = 0.4  # share of the rest for the reference's own training
_WIDE = 0.5  # of an epoch; later checkpoints, and the other rules, are left out where the window would be shorter
_LEAST_MINIBATCHES = 20  # of a window: two updates of the smallest branches that could tell anything


def advise(
    experiment: Experiment,
    *,
    minutes: float = 10.0,
    data_dir: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Advice:
    """Throughput, local critical batch sizes and noise scale of an experiment, and what follows from them.

    The reference (its batch size and base rate) is trained to checkpoints after 1, 2 and 4 epochs, or as far as the
    time allows. At each, copies go on with larger minibatches over the same images, see `training.branches`: a window
    of at most an epoch, which the time shortens. Nothing is recorded but `advice.json`, which `find` reads.

    Args:
        experiment: network, data, optimizer, and the rule that is asked for. Its name and batch size do not matter.
        minutes: what all of it may take.
        data_dir: folder in which to keep the advice; None keeps nothing.
        data_root: folder of the images.
        clock: seconds.

    Raises:
        UserError: the time is too short, the reference does not train, or not even one image fits on the device.
    """
    started = clock()
    if not (isinstance(minutes, Real) and 0 < minutes < math.inf):
        raise UserError(f"minutes is {minutes!r}; it must be a number above 0")
    folder = None if data_dir is None else typed(data_dir, "data_dir")
    if folder is not None:
        require_writable(folder)
    from batchscale.training import branches, datasets, memory, throughput

    data = datasets.load(experiment.dataset, data_root)
    deadline = started + 60 * minutes
    _require_reference(experiment, len(data.first(experiment.train_size).train_images))
    share, most = _TIMING
    speeds = throughput.measure(experiment, data, seconds=min(most, share * 60 * minutes), clock=clock)
    _say(_throughput(speeds))
    _require_room(experiment, speeds)
    with memory.memory_kept():
        reference = branches.Reference(experiment, data)
        measuring = _Measuring(reference, speeds, experiment, deadline, clock)
        measuring.run()
    found = conclude(
        Measured(
            experiment=experiment,
            train_images=len(reference.training.data.train_images),
            device=speeds.device,
            throughput=[asdict(speed) for speed in speeds.speeds],
            largest=speeds.largest,
            limit=speeds.limit,
            evaluation_seconds=speeds.evaluation_seconds,
            locals=local_critical_batch_size.of(measuring.rows),
            noise_scales=tuple(measuring.noise_scales),
            window=measuring.window,
            orders=ORDERS,
            seconds=clock() - started,
        )
    )
    if folder is not None:
        kept.write(folder, json_object.advice_object(found))
    return found


def _require_reference(experiment: Experiment, images: int) -> None:
    if images // experiment.reference_batch_size < _LEAST_MINIBATCHES:
        raise UserError(
            f"reference_batch_size is {experiment.reference_batch_size} and there are {images} training images; "
            f"branches need at least {_LEAST_MINIBATCHES} minibatches: lower reference_batch_size, or use more images"
        )


def _require_room(experiment: Experiment, speeds: "Throughput") -> None:
    size, largest = experiment.reference_batch_size, speeds.speeds[-1]
    if largest.batch_size < size:
        why = {
            "memory": f"only {largest.batch_size} fit; lower reference_batch_size, or use a smaller network",
            "time": f"an update of {largest.batch_size} takes {largest.seconds:.2g} s already; give it more minutes",
        }
        raise UserError(f"reference_batch_size is {size}, but on this device {why[speeds.limit]}")


class _Measuring:
    """The reference's training, and the branches at its checkpoints."""

    def __init__(
        self,
        reference: "Reference",
        speeds: "Throughput",
        experiment: Experiment,
        deadline: float,
        clock: Callable[[], float],
    ):
        self.reference, self.experiment, self.deadline, self.clock = reference, experiment, deadline, clock
        self.speeds, self.times = speeds, [(speed.batch_size, speed.seconds) for speed in speeds.speeds]
        self.rows: list[Branch] = []
        self.noise_scales: list[NoiseScaleAt] = []
        self.window = 0
        before = clock()
        reference.loss()
        self._evaluation = clock() - before  # seconds, after every branch
        self._pace = 1.0  # seconds that branches took, over those that were planned

    def run(self) -> None:
        """Train to each checkpoint that the time allows, and branch off."""
        reference, size = self.reference, self.experiment.reference_batch_size
        per_epoch = reference.training.updates_per_epoch
        epoch_seconds = per_epoch * update_seconds(self.times, size)
        left = self.deadline - self.clock()
        half = self._seconds(len(self.reference.training.data.train_images) // 2 // size * size, self._rules()[:1])
        epochs = [
            epoch
            for number, epoch in enumerate(CHECKPOINTS, start=1)
            if epoch * epoch_seconds <= _TRAINING * left
            and epoch < max(2, self.experiment.epochs)
            and (number == 1 or epoch * epoch_seconds + number * half <= left)
        ]
        end = math.inf if epochs else self.clock() + _TRAINING * left
        for place, epoch in enumerate(epochs or [1]):
            reference.train(epoch * per_epoch, lambda: self.clock() >= end)
            self._require_trained()
            self._measure_noise_scale()
            ahead = (epochs[-1] - epoch) * epoch_seconds if epochs else 0.0
            checkpoints = max(1, len(epochs) - place)
            seconds = (self.deadline - self.clock() - ahead) / checkpoints
            if not self._branch(seconds, is_first=place == 0):
                return

    def _require_trained(self) -> None:
        if not self.reference.training.updates:
            raise UserError("the time was over before the reference's first update; give it more minutes")
        loss = self.reference.loss()
        if not loss < self.reference.begin:
            raise UserError(
                f"the reference does not train: its loss was {number(self.reference.begin)} and is {number(loss)} "
                f"after {count(self.reference.training.updates, 'update')}, with base_lr {self.experiment.base_lr:g} "
                f"at batch size {self.experiment.reference_batch_size}; choose another base_lr, or more minutes"
            )

    def _measure_noise_scale(self) -> None:
        found = self.reference.training.measure_noise_scale(with_standard_error=True)
        if found is not None:
            self.noise_scales.append(
                NoiseScaleAt(self.reference.training.updates, found.noise_scale, found.standard_error)
            )

    def _branch(self, seconds: float, *, is_first: bool) -> bool:
        """Branch off within these seconds; False if they do not suffice."""
        window, factors = self._plan(seconds / self._pace)
        if not window or window < self.window / 2:  # a short one says less than the time is worth
            if is_first:
                needed = self._seconds(_LEAST_MINIBATCHES * self.experiment.reference_batch_size, self._rules()[:1])
                raise UserError(
                    f"{duration(max(0.0, seconds))} are left for branches, which need {duration(needed)} at least; "
                    f"give it {count(math.ceil((needed / (1 - _TRAINING) + 30) / 60), 'minute')} or more"
                )
            return False
        self.window = max(self.window, window)
        before = self.clock()
        for row in self.reference.branches(window, factors, ORDERS):
            self.rows.append(row)
            if self.clock() > self.deadline:
                break
        self._pace = max(1.0, (self.clock() - before) / self._seconds(window, list(factors)))
        _say(
            f"epoch {self.reference.epochs:.3g}: branches over {number(window)} images, "
            f"{duration(max(0, self.deadline - self.clock()))} left"
        )
        return True

    def _rules(self) -> list[LRScaling]:
        """The rule that was asked for, then the others; by default the linear one first."""
        from batchscale.training.branches import RULES

        wanted = self.experiment.lr_scaling
        return [wanted, *(rule for rule in RULES if rule != wanted)] if wanted != "none" else list(RULES)

    def _plan(self, seconds: float) -> tuple[int, Mapping[LRScaling, list[int]]]:
        """The longest window that fits, and how far the minibatch grows under each rule; 0 if none fits."""
        size, images = self.experiment.reference_batch_size, len(self.reference.training.data.train_images)
        for rules in (self._rules(), self._rules()[:1]):
            for window in _shrinking(images // size * size, size):
                if self._seconds(window, rules) <= seconds and (len(rules) == 1 or window >= _WIDE * images):
                    return window, self._factors(window, rules)
        return 0, {}

    def _factors(self, window: int, rules: list[LRScaling]) -> dict[LRScaling, list[int]]:
        """For every rule, up to what fits on the device."""
        from batchscale.training.branches import factors_of

        size = self.experiment.reference_batch_size
        return dict.fromkeys(rules, factors_of(window // size, self.speeds.largest / size))

    def _seconds(self, window: int, rules: list[LRScaling]) -> float:
        """What branches over such a window take."""
        size = self.experiment.reference_batch_size
        factors = [factor for of_rule in self._factors(window, rules).values() for factor in (*of_rule, *of_rule[:1])]
        per_image = [1.5 * update_seconds(self.times, size) / size]  # half a window, and a whole one
        per_image += [update_seconds(self.times, factor * size) / (factor * size) for factor in factors]
        return ORDERS * (window * sum(per_image) + (len(factors) + 2) * self._evaluation)


def _shrinking(images: int, size: int) -> Iterator[int]:
    """Windows of whole minibatches, each shorter by a sixth, down to the least."""
    while images >= _LEAST_MINIBATCHES * size:
        yield images // size * size
        images = images * 5 // 6


def _throughput(found: "Throughput") -> str:
    fastest = max(found.speeds, key=lambda speed: speed.batch_size / speed.seconds)
    limits = {
        "memory": "larger ones do not fit into memory",
        "images": "all training images",
        "time": "larger ones were not timed",
    }
    return (
        f"{found.device}: {number(round(fastest.batch_size / fastest.seconds))} images/s at batch size "
        f"{fastest.batch_size}; timed up to {found.largest}, {limits[found.limit]}"
    )


def _say(line: str) -> None:
    print(line, file=streams.ERR, flush=True)
