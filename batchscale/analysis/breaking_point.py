"""Breaking point of one mode in its three currencies: the batch size up to which a larger one still pays.

    in_accuracy(losses, threshold)                       # where the curve of final accuracy falls below the threshold
    in_updates(runs, critical_batch_size(runs))          # the end of perfect scaling
    in_time(runs, seconds, critical_batch_size(runs))    # the knee: no larger B saves a tenth of the time to target

Pure functions on the frames of `tables` and `accuracies`. Each is a number on a continuous axis, with a 95 % interval
and the two recorded batch sizes that it lies between.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.crossing import Crossing, Level, crossing
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK, at_least
from batchscale.analysis.tables import stems
from batchscale.analysis.threshold import Threshold

CURRENCIES = ("accuracy", "updates", "time")
# Of B_crit: there S(B) = S_min·(1 + B_crit/B) has the local slope −3/4, where tables.regime ends perfect scaling.
PERFECT_SHARE = 1 / 3
SAVING = 0.1  # a larger batch size pays while it saves this share of the time or more
_DRAWS = 400  # of the noise of measured times; fixed, so that the same records give the same verdict


@dataclass(frozen=True)
class BreakingPoint:
    """A batch size on a continuous axis, or None where the records cannot say."""

    estimate: float | None
    low: float | None = None  # 95 % interval; None at an open end, or where there is none (`reasons` say which)
    high: float | None = None
    between: tuple[int | None, int | None] = (None, None)  # recorded: the last that pays, the first that does not
    reasons: tuple[Reason, ...] = ()  # why there is no estimate or interval, or what the verdict does not cover
    records: tuple[str, ...] = ()  # names of the records that it rests on
    curve: Crossing | None = None  # in accuracy: the curve that crosses the threshold

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """`low` and `high`."""
        return self.low, self.high

    @classmethod
    def unknown(cls, reason: Reason, records: Collection[str] = ()) -> "BreakingPoint":
        """No verdict, for one reason."""
        return cls(None, reasons=(reason,), records=tuple(records))

    def but(self, reason: Reason) -> "BreakingPoint":
        """The same verdict with one more reason in front."""
        return replace(self, reasons=(reason, *self.reasons))


def losses(cells: pd.DataFrame, threshold: Threshold | None) -> pd.DataFrame:
    """What the batch sizes of a curve lose to the best reference accuracy.

    Args:
        cells: rows of `accuracies.accuracies`, of one curve.
        threshold: whose `best` they are compared with; None: no losses.

    Returns:
        The cells with `loss` (best − accuracy), `loss_low` and `loss_high` (95 % interval by the moderated errors; NaN
        where there is none). A batch size of which every run diverged has an infinite loss.
    """
    table = cells.sort_values("batch_size", ignore_index=True)
    if threshold is None:
        return table.assign(loss=np.nan, loss_low=np.nan, loss_high=np.nan)
    loss = threshold.best - table["accuracy"]
    error = np.hypot(table["error"], threshold.error)
    half = stats.t.ppf(0.975, np.maximum(table["freedom"], 1)) * error
    table = table.assign(loss=loss, loss_low=loss - half, loss_high=loss + half)
    table.loc[table["seeds"] == 0, ["loss", "loss_low", "loss_high"]] = np.inf
    return table


def in_accuracy(table: pd.DataFrame, threshold: Threshold | None, records: Collection[str] = ()) -> BreakingPoint:
    """The B at which the curve of final accuracy over log B falls below the threshold; see `crossing.crossing`.

    A batch size with a run that diverged does not keep the accuracy, whatever its other runs reach; the curve ends
    there, each such run counting as an accuracy of 0. Without errors (one seed throughout) the verdict rests on the
    means and has no interval.

    Args:
        table: of `losses`, one row per batch size.
        threshold: where its best batch size is a row of the table, the curve begins there: it is the reference itself.
        records: names of the records of this mode and of the threshold.
    """
    if threshold is None:
        return BreakingPoint.unknown(Reason.of("no reference"), records)
    if table.empty:
        return BreakingPoint.unknown(Reason.of("no finished run"), records)
    sizes = table["batch_size"].to_numpy()
    failed = table["diverged"].to_numpy() > 0
    count = int(failed.argmax()) + 1 if failed.any() else len(sizes)
    share = table["seeds"] / (table["seeds"] + table["diverged"])
    means = (table["accuracy"].fillna(0) * share).to_numpy()
    means = np.where(failed, np.minimum(means, threshold.accuracy - 10 * SLACK), means)
    errors = np.where(failed, 0.0, table["error"])
    is_reference = (table["experiment"] == threshold.from_mode) & (sizes == threshold.from_batch_size)
    is_tied = bool(is_reference[:count].any()) and not failed[:count][is_reference[:count]].any()
    # It begins at the reference's best; without a reference, at its own.
    first = int(is_reference.argmax()) if is_tied else 0 if failed[0] else int(np.argmax(means[:count]))
    if is_tied:
        means[first], errors[first] = threshold.best, threshold.error
    drop = threshold.best - threshold.accuracy if is_tied else None
    level = Level(threshold.accuracy, drop=drop, error=0.0 if is_tied else threshold.error)
    freedom = np.median(table["freedom"].dropna()) if table["freedom"].notna().any() else 1
    found = crossing(sizes[first:count], means[first:count], errors[first:count], freedom, level)
    high = found.high
    if failed.any() and table["error"].notna().any():
        high = min(float(sizes[count - 1]), math.inf if high is None else high)
    curve = found if len(found.sizes) > 1 else None
    point = BreakingPoint(found.estimate, found.low, high, records=tuple(records), curve=curve)
    return _between(_explained(point, table, threshold, found), sizes)


def _explained(point: BreakingPoint, table: pd.DataFrame, threshold: Threshold, found: Crossing) -> BreakingPoint:
    """With the reasons for what is open."""
    first = table.iloc[0]
    if point.estimate is None and not at_least(found.values[0], threshold.accuracy):
        size = int(first["batch_size"])
        if first["diverged"]:
            return point.but(Reason.of("smallest diverges", size=size))
        return point.but(Reason.of("smallest loses", size=size, loss=first["loss"]))
    reasons = []
    if point.estimate is None:
        reasons.append(Reason.of("largest still pays"))
    if table["error"].isna().all():
        reasons.append(Reason.of("one seed throughout"))
    elif point.estimate is not None and point.high is None:
        reasons.append(Reason.of("may lie above", size=int(table["batch_size"].iloc[-1])))
    elif point.estimate is not None and point.low is None:
        reasons.append(Reason.of("may lie below", size=int(found.sizes[0])))
    return replace(point, reasons=(*point.reasons, *reasons))


def _between(point: BreakingPoint, sizes: Sequence[int]) -> BreakingPoint:
    """With the recorded batch sizes around it; of a verdict without an estimate, those at its known end."""
    at = point.estimate
    if at is None:
        is_below = any(reason.kind in ("smallest loses", "smallest diverges") for reason in point.reasons)
        return replace(point, between=(None, int(sizes[0])) if is_below else (int(sizes[-1]), None))
    kept = [int(size) for size in sizes if size <= at * (1 + SLACK)]
    lost = [int(size) for size in sizes if size > at * (1 + SLACK)]
    return replace(point, between=(kept[-1] if kept else None, lost[0] if lost else None))


def in_updates(runs: pd.DataFrame, critical: CriticalBatchSize) -> BreakingPoint:
    """The end of perfect scaling: where the fitted curve's slope reaches −3/4, at B_crit/3.

    The fit rather than the slope between two neighbours, which two or three seeds leave very uncertain.

    Args:
        runs: rows of `tables.to_target` that the fit was made with.
        critical: the fit.
    """
    estimate, low, high = (
        None if end is None else end * PERFECT_SHARE for end in (critical.estimate, critical.low, critical.high)
    )
    reasons = critical.reasons
    sizes = sorted({int(size) for size in runs["batch_size"]})
    if estimate is not None and sizes and estimate < sizes[0]:
        reasons = (Reason.of("ends below", size=sizes[0]), *(each for each in reasons if each.kind != "extrapolated"))
    point = BreakingPoint(estimate, low, high, reasons=reasons, records=tuple(stems(runs)))
    return point if estimate is None else _between(point, sizes)


def in_time(runs: pd.DataFrame, seconds: pd.DataFrame, critical: CriticalBatchSize) -> BreakingPoint:
    """The knee of the time to target T(B) = t(B)·S(B): the smallest B beyond which no larger one saves a tenth of it.

    t(B) is the measured time of an update, linear in B between recorded batch sizes; S(B) = S_min·(1 + B_crit/B) is the
    fitted number of updates, whose S_min cancels. So times that are known as bounds only, of runs that reach the target
    within their first epoch or never, are not compared with others. Where T still falls by a tenth from half the
    largest recorded batch size to the largest, the knee lies beyond: the verdict is open above.

    The interval takes B_crit from its own interval, and t(B) from the spread of its runs.

    Args:
        runs: rows of `tables.to_target` that the fit was made with.
        seconds: of `tables.seconds_per_update`: `batch_size`, `seconds`, `error` (of log seconds, NaN if unknown).
        critical: the fit.
    """
    records = tuple(stems(runs))
    seconds = seconds[seconds["batch_size"].between(runs["batch_size"].min(), runs["batch_size"].max())]
    if seconds.empty:
        return BreakingPoint.unknown(Reason.of("no times"), records)
    if len(seconds) == 1:
        return BreakingPoint.unknown(Reason.of("nothing to compare", size=int(seconds["batch_size"].iloc[0])), records)
    if critical.estimate is None and critical.low is None and critical.high is None:
        return BreakingPoint(None, reasons=critical.reasons, records=records)
    sizes, times = seconds["batch_size"].to_numpy(dtype=float), seconds["seconds"].to_numpy()
    errors = seconds["error"].to_numpy()
    noise = np.random.default_rng(0).normal(size=(_DRAWS, len(sizes))) * np.where(np.isnan(errors), 0, errors)
    estimate, is_open = (None, False) if critical.estimate is None else knee(sizes, times, critical.estimate)
    low, high = _knee_interval(sizes, times * np.exp(noise), critical)
    reasons = () if critical.estimate is not None else critical.reasons
    if estimate is not None and estimate <= sizes[0] * (1 + SLACK):
        reasons = (Reason.of("none saves", size=int(sizes[0])),)
    if is_open:
        reasons = (Reason.of("largest still saves", size=int(sizes[-1])),)
        low, estimate = min(low, estimate) if low is not None else estimate, None
    point = BreakingPoint(estimate, low, high, reasons=reasons, records=records)
    if estimate is None:
        return _between(point, sizes) if is_open else point
    point = replace(
        point, low=None if low is None else min(low, estimate), high=None if high is None else max(high, estimate)
    )
    return _between(point, sizes)


def knee(sizes: np.ndarray, seconds: np.ndarray, critical: float) -> tuple[float, bool]:
    """The smallest B beyond which no larger recorded one saves a tenth of t(B)·(1 + B_crit/B), and whether time still
    falls that fast at the end: from half the largest batch size to the largest.

    Args:
        sizes: rising, two or more.
        seconds: t, time of an update at each.
        critical: B_crit.
    """
    grid = np.geomspace(sizes[0], sizes[-1], 400)
    time = np.interp(grid, sizes, seconds) * (1 + critical / grid)
    best_from = np.minimum.accumulate(time[::-1])[::-1]
    at = int(np.argmax(~at_least((1 - SAVING) * time, best_from)))
    half = np.interp(sizes[-1] / 2, grid, time)
    return float(grid[at]), bool(sizes[-1] / 2 >= sizes[0] and time[-1] < (1 - SAVING) * half)


def _knee_interval(
    sizes: np.ndarray, seconds: np.ndarray, critical: CriticalBatchSize
) -> tuple[float | None, float | None]:
    """Ends of the knee's interval: B_crit over its own, on a scale of normal quantiles, and a row of times each."""
    quantiles = stats.norm.ppf((np.arange(len(seconds)) + 0.5) / len(seconds))
    middle = critical.estimate or np.sqrt((critical.low or critical.high) * (critical.high or critical.low))
    ends = [np.log((end or middle) / middle) / 1.96 for end in (critical.low, critical.high)]
    drawn = middle * np.exp(np.where(quantiles < 0, -ends[0], ends[1]) * quantiles)
    found = [knee(sizes, times, of) for times, of in zip(seconds, drawn, strict=True)]
    knees = np.array([np.inf if is_open else at for at, is_open in found])
    low, high = np.quantile(knees, [0.025, 0.975], method="nearest")
    low = None if critical.low is None or not np.isfinite(low) else float(low)
    return low, None if critical.high is None or not np.isfinite(high) else float(high)
