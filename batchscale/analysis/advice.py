"""What minutes of measurement say about the batch size: a table, a prediction per rule, and one recommendation.

    found = advise(Measured(experiment, images=50_000, ...))
    found.recommended.batch_size, found.predictions["linear"].estimate

Pure functions. `sweeps.advise` measures; `terminal.advice_text` and `json_object.advice_object` are its words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchscale.analysis.breaking_point import SAVING
from batchscale.analysis.local_critical_batch_size import Local
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK
from batchscale.experiment import Experiment
from batchscale.schedules import scaling_factor

_FULL = 0.9  # of the most images per second
_GROWTH = 2.0  # by which the critical batch size has grown, beyond doubt, where a schedule is proposed


@dataclass(frozen=True)
class NoiseScaleAt:
    """Gradient noise scale at one checkpoint, in images; NaN where it was not measurable."""

    updates: int
    noise_scale: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, in numbers alone.

    Attributes:
        experiment: network, data, optimizer and rule; its batch size does not matter.
        train_images: n.
        device: in a few words.
        throughput: rows of batch_size, seconds (of an update), error and bytes, by rising batch size.
        largest, limit: the largest minibatch that was found to fit, and why no larger one was tried: "memory",
            "images" or "time".
        evaluation_seconds: of the measurements after an epoch.
        locals: of `local_critical_batch_size.of`.
        noise_scales: at the checkpoints.
        window: Δ, images that each branch was trained on.
        orders: in how many orders, at most.
        seconds: that all of this took.
    """

    experiment: Experiment
    train_images: int
    device: str
    throughput: Sequence[Mapping]
    largest: int
    limit: str
    evaluation_seconds: float
    locals: tuple[Local, ...]
    noise_scales: tuple[NoiseScaleAt, ...]
    window: int
    orders: int
    seconds: float

    @property
    def times(self) -> list[tuple[int, float]]:
        """Batch sizes and seconds of an update."""
        return [(row["batch_size"], row["seconds"]) for row in self.throughput]

    @property
    def updates_per_epoch(self) -> int:
        """Of the reference."""
        return self.train_images // self.experiment.reference_batch_size


@dataclass(frozen=True)
class Prediction:
    """Up to which batch size one rule keeps what the reference reaches, over all checkpoints."""

    rule: str
    estimate: float | None  # geometric mean of the local critical batch sizes
    low: float | None  # 95 % interval, from the spread over checkpoints and orders; None where there is none
    high: float | None
    is_at_least: bool  # at some checkpoint no batch size that was tried was too large
    destroyed_from: int | None  # the smallest batch size whose rate destroyed the network at some checkpoint
    locals: tuple[Local, ...]
    reasons: tuple[Reason, ...] = ()

    def images(self, batch_size: float) -> float:
        """Images to the same loss relative to the reference, geometric mean over checkpoints; NaN if unknown."""
        found = [local.images(batch_size) for local in self.locals]
        known = [images for images in found if not math.isnan(images)]
        return float(np.exp(np.mean(np.log(known)))) if known else math.nan


@dataclass(frozen=True)
class Row:
    """One batch size under the rule that was asked for."""

    batch_size: int
    images_per_second: float
    bytes: float  # of an update; NaN if unknown
    learning_rate: float
    images: float  # to the same loss, relative to the reference; NaN beyond what was tried
    updates: float  # to the loss that the reference has after the experiment's epochs
    seconds: float  # of these updates
    speedup: float  # over the reference


@dataclass(frozen=True)
class Stage:
    """A part of a schedule of batch sizes: from this epoch on."""

    epoch: float
    batch_size: int


@dataclass(frozen=True)
class Schedule:
    """Batch sizes that grow with the critical one."""

    stages: tuple[Stage, ...]
    saved: float  # share of the time that it saves over the recommended constant batch size


@dataclass(frozen=True)
class Advice:
    """A recommendation, with what it rests on.

    Attributes:
        measured: the numbers.
        predictions: by rule.
        rule: the one that the table and the recommendation are for.
        table: one row per batch size that was timed, from the reference on.
        full_from: the smallest batch size with nine tenths of the most images per second.
        recommended: a row of the table; None where nothing can be said.
        saving_up_to: the largest batch size that still saves a tenth over all smaller ones; None as above.
        schedule: None where the critical batch size did not grow beyond doubt, or no time would be saved.
        reasons: why something is missing.
    """

    measured: Measured
    predictions: Mapping[str, Prediction]
    rule: str
    table: tuple[Row, ...]
    full_from: int
    recommended: Row | None
    saving_up_to: int | None
    schedule: Schedule | None
    reasons: tuple[Reason, ...] = ()

    @property
    def main(self) -> Prediction | None:
        """The prediction for `rule`."""
        return self.predictions.get(self.rule)


def update_seconds(times: Sequence[tuple[float, float]], batch_size: float) -> float:
    """Seconds of an update: log t interpolated in log B; below the smallest batch size t stays, above the largest t/B.

    Args:
        times: pairs of a batch size and its t, by rising batch size.
    """
    sizes, seconds = zip(*times, strict=True)
    known = math.exp(np.interp(math.log(batch_size), np.log(sizes), np.log(seconds)))
    return known * max(1.0, batch_size / sizes[-1])


def advise(measured: Measured) -> Advice:
    """Predictions, table and recommendation.

    The recommended batch size is the smallest one, within the prediction, over which no larger one there saves a tenth
    of the time. Updates to the loss that the reference has after E epochs of n images are E·n·r(B)/B, with r the images
    to the same loss relative to the reference (`Local.images`); their time is that of as many updates.
    """
    rules = dict.fromkeys(local.rule for local in measured.locals)
    predictions = {rule: _predicted(rule, measured) for rule in rules}
    wanted = measured.experiment.lr_scaling
    rule = wanted if wanted in predictions and wanted != "none" else next(iter(predictions), "linear")
    main = predictions.get(rule)
    table = _table(measured, main, rule)
    recommended, saving = _recommended(table, main)
    most = max(row["batch_size"] / row["seconds"] for row in measured.throughput)
    full = next(row["batch_size"] for row in measured.throughput if row["batch_size"] / row["seconds"] >= _FULL * most)
    return Advice(
        measured=measured,
        predictions=predictions,
        rule=rule,
        table=table,
        full_from=full,
        recommended=recommended,
        saving_up_to=saving,
        schedule=_schedule(measured, main, recommended),
        reasons=main.reasons if main else (Reason.of("no branches"),),
    )


def _predicted(rule: str, measured: Measured) -> Prediction:
    locals_ = tuple(local for local in measured.locals if local.rule == rule)
    known = [local for local in locals_ if local.curve is not None]
    lost = [local.destroyed_from for local in locals_ if local.destroyed_from is not None]
    found = {"rule": rule, "destroyed_from": min(lost, default=None), "locals": locals_}
    if not known:
        reasons = tuple(dict.fromkeys(reason for local in locals_ for reason in local.reasons))
        return Prediction(estimate=None, low=None, high=None, is_at_least=False, reasons=reasons, **found)
    # Where nothing that was tried was too large, the largest is a lower bound, which says nothing below the others.
    found_at = [math.log(local.estimate) for local in known if local.estimate is not None]
    bounds = [math.log(local.largest) for local in known if local.estimate is None]
    is_open = [bound > np.mean(found_at) for bound in bounds] if found_at else [True]
    logs = [*found_at, *(bound for bound, is_above in zip(bounds, is_open, strict=False) if is_above)]
    within = [
        (math.log(max(end / local.estimate, local.estimate / end)) / 1.96) ** 2
        for local in known
        if local.estimate is not None
        for end in (local.low, local.high)
        if end is not None
    ]
    between = [float(np.var(logs, ddof=1))] if len(logs) > 1 else []
    centre, variance = float(np.mean(logs)), max([*between, *([np.mean(within)] if within else [])], default=None)
    if not found_at:
        reason = Reason.of("all kept", size=min(local.largest for local in known))
        low = float(min(local.largest for local in known))
        return Prediction(estimate=None, low=low, high=None, is_at_least=True, reasons=(reason,), **found)
    half = None if variance is None else 1.96 * math.sqrt(variance / len(logs))
    low, high = (None, None) if half is None else (math.exp(centre - half), math.exp(centre + half))
    return Prediction(
        estimate=math.exp(centre), low=low, high=None if any(is_open) else high, is_at_least=any(is_open), **found
    )


def _table(measured: Measured, main: Prediction | None, rule: str) -> tuple[Row, ...]:
    experiment, rows = measured.experiment, []
    reference = experiment.reference_batch_size
    total = experiment.epochs * measured.updates_per_epoch * reference
    first = total / reference * update_seconds(measured.times, reference)
    largest, _ = measured.times[-1]
    doubled = [reference * 2**power for power in range(int(math.log2(largest / reference)) + 1)]
    for size in doubled:
        seconds = update_seconds(measured.times, size)
        images = 1.0 if size == reference else main.images(size) if main else math.nan
        images = max(images, 1.0)  # a larger minibatch that needs fewer images is taken for chance
        updates = total * images / size
        rows.append(
            Row(
                batch_size=size,
                images_per_second=size / seconds,
                bytes=_bytes(measured.throughput, size),
                learning_rate=experiment.base_lr * scaling_factor(size, reference, rule),
                images=images,
                updates=updates,
                seconds=updates * seconds,
                speedup=first / (updates * seconds),
            )
        )
    return tuple(rows)


def _bytes(throughput: Sequence[Mapping], size: int) -> float:
    return float(np.interp(size, *([row[name] for row in throughput] for name in ("batch_size", "bytes"))))


def _recommended(table: tuple[Row, ...], main: Prediction | None) -> tuple[Row | None, int | None]:
    """The recommended row, and the batch size from which on no larger one saves a tenth."""
    if main is None or (main.estimate is None and not main.is_at_least):
        return None, None
    known = [row for row in table if not math.isnan(row.images)]
    best = np.minimum.accumulate([row.seconds for row in known[::-1]])[::-1]
    knee = next(row for row, least in zip(known, best, strict=True) if least >= (1 - SAVING) * row.seconds - SLACK)
    most = main.estimate or main.low
    kept = [row for row in known if row.batch_size <= most * (1 + SLACK)] or known[:1]
    least = min(row.seconds for row in kept)
    chosen = next(row for row in kept if least >= (1 - SAVING) * row.seconds - SLACK)
    return chosen, knee.batch_size


def _schedule(measured: Measured, main: Prediction | None, recommended: Row | None) -> Schedule | None:
    """Powers of two times the reference that follow the local critical batch size, from the checkpoint of each on; None
    unless that saves time."""
    if main is None or recommended is None:
        return None
    known = [local for local in main.locals if local.estimate is not None]
    if len(known) < 2:
        return None
    first, last = known[0], known[-1]
    if last.estimate < _GROWTH * first.estimate or (last.low or 0) < first.estimate:
        return None
    reference, stages = measured.experiment.reference_batch_size, []
    for number, local in enumerate(known):
        size = reference * 2 ** int(max(0.0, math.log2(local.estimate / reference)))
        epoch = 0.0 if number == 0 else local.updates / measured.updates_per_epoch
        if epoch >= measured.experiment.epochs:
            continue
        if not stages or size > stages[-1][0].batch_size:
            stages.append((Stage(epoch, size), local))
    if len(stages) < 2:
        return None
    ends = [stage.epoch for stage, _ in stages[1:]] + [float(measured.experiment.epochs)]

    def seconds(size: int, local: Local) -> float:
        """Per image of the reference's."""
        return max(local.images(size), 1.0) / size * update_seconds(measured.times, size)

    pairs = zip(stages, ends, strict=True)
    scheduled = sum((end - stage.epoch) * seconds(stage.batch_size, local) for (stage, local), end in pairs)
    constant = measured.experiment.epochs * recommended.images / recommended.images_per_second
    if scheduled >= constant:
        return None
    return Schedule(tuple(stage for stage, _ in stages), 1 - scheduled / constant)
