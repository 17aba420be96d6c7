"""Breaking point of one mode in its three currencies: the batch size up to which a larger one still pays.

    losses = accuracy_losses(finals_of_mode, threshold(records))
    in_accuracy(losses, threshold(records))              # last B that, with all smaller ones, keeps the threshold
    in_updates(runs, critical_batch_size(runs))          # last B in perfect scaling
    in_time(runs)                                        # last B at which the time to target still falls

Pure functions on the frames of `analysis`. Every verdict goes from the smallest batch size of the mode upwards, by the
means over seeds. Its interval goes from the last B that, with all smaller ones, surely still pays to the last one
before a batch size that surely does not; surely: by the 95 % interval of that batch size.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.tables import Run, Threshold, difference_interval, stems

# Of B_crit: there S(B) = S_min·(1 + B_crit/B) has the local slope −3/4, where analysis.regime ends perfect scaling.
PERFECT_SHARE = 1 / 3


@dataclass(frozen=True)
class BreakingPoint:
    """A recorded batch size, or None where the records cannot say."""

    batch_size: int | None
    low: int | None  # None: below the smallest recorded, or there is no interval (`reason` says which)
    high: int | None
    reason: str | None  # why there is no batch size or no interval, or what the verdict does not cover
    records: tuple[str, ...]  # names of the records that it rests on


def accuracy_losses(finals: pd.DataFrame, threshold: Threshold | None, diverged: Collection[Run] = ()) -> pd.DataFrame:
    """Final accuracy of one mode by batch size, and what it loses to the small batch sizes' accuracy.

    Args:
        finals: rows of `analysis.final`, of one mode and without diverged runs.
        threshold: whose `best` it is compared with; None: no losses.
        diverged: runs of this mode that diverged.

    Returns:
        `batch_size`, `seeds`, `accuracy` (mean), `standard_deviation`, `loss` (best − accuracy), `loss_low` and
        `loss_high` (95 % Welch t interval; NaN where either side has one seed), `diverged` (number of runs). A batch
        size of which every run diverged has no accuracy and an infinite loss.
    """
    failed = pd.Series([size for _, size, _ in diverged], dtype=int).value_counts()
    accuracies = finals.dropna(subset="accuracy").groupby("batch_size")["accuracy"]
    by_size = {size: values.to_numpy() for size, values in accuracies}
    rows = []
    for size in sorted({*by_size, *failed.index}):
        values = by_size.get(size, np.array([]))
        loss = low = high = np.nan
        if threshold is not None and len(values):
            loss, low, high = difference_interval(threshold.by_seed, values)
        elif threshold is not None:
            loss = low = high = np.inf
        mean = values.mean() if len(values) else np.nan
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        rows.append((int(size), len(values), mean, deviation, loss, low, high, int(failed.get(size, 0))))
    columns = ["batch_size", "seeds", "accuracy", "standard_deviation", "loss", "loss_low", "loss_high", "diverged"]
    return pd.DataFrame(rows, columns=columns)


def in_accuracy(losses: pd.DataFrame, threshold: Threshold | None, records: Collection[str] = ()) -> BreakingPoint:
    """Last B that, with all smaller recorded ones, loses no more than the tolerance; a diverged run is a failure.

    With a single seed the verdict is by the means alone, without an interval.

    Args:
        losses: of `accuracy_losses`.
        records: names of the records of this mode and of the threshold.
    """
    if threshold is None:
        return _unknown("no small minibatches are recorded (baseline_small), so there is no accuracy to keep", records)
    if losses.empty:
        return _unknown("no run is finished", records)
    broken = losses["diverged"].to_numpy() > 0
    estimate, low, high = (
        np.where(broken, np.inf, losses[column] - threshold.tolerance) for column in ("loss", "loss_low", "loss_high")
    )
    sizes = losses["batch_size"].tolist()
    verdict = _scan(sizes, estimate, low, high, records)
    if verdict.batch_size is None:
        first = losses.iloc[0]
        what = "diverges" if broken[0] else f"loses {100 * first['loss']:.1f} points"
        return _remark(verdict, f"the smallest recorded, {sizes[0]}, {what} already")
    return verdict


def in_updates(runs: pd.DataFrame, critical: CriticalBatchSize) -> BreakingPoint:
    """Last B in perfect scaling, of those that reach the target: the fitted curve's slope is ≤ −3/4, B ≤ B_crit/3.

    The fit rather than the slope between two neighbours, which two or three seeds leave very uncertain.

    Args:
        runs: rows of `analysis.to_target` that the fit was made with.
        critical: the fit.
    """
    records = tuple(stems(runs))
    if critical.low is None and critical.high is None:
        return _unknown(critical.reason, records)
    sizes, reached = sorted({int(size) for size in runs["batch_size"]}), critical.batch_sizes

    def last(of: Collection[int], bound: float | None) -> int | None:
        return None if bound is None else max((size for size in of if size <= bound * PERFECT_SHARE), default=None)

    low, point = last(reached, critical.low), last(reached, critical.estimate)
    high = sizes[-1] if critical.high is None else last(sizes, critical.high)
    if high is None:
        reason = f"perfect scaling ends below the smallest recorded, {sizes[0]}"
    elif low == reached[-1]:
        point, reason = low, "perfect scaling up to the largest at which the target is reached"
    elif critical.estimate is None:
        reason = critical.reason
    elif point is None:
        reason = f"perfect scaling probably ends below the smallest recorded, {sizes[0]}"
    else:
        reason = f"at 95 % it may lie below {sizes[0]}" if low is None else None
    return BreakingPoint(point, low, high, reason, records)


def in_time(runs: pd.DataFrame) -> BreakingPoint:
    """Last B at which the time to target still falls: the first B from which the next larger one is not faster.

    Times are compared in their logarithms. The scan starts at the smallest batch size all of whose runs reach the
    target. A larger one with a censored run counts as slower if the time that its runs are known to exceed is already
    longer, or if one diverged; otherwise nobody knows, and the verdict goes no further. Times of runs that reach the
    target within their first epoch are upper bounds, and taken as they are; the reason names them.

    Args:
        runs: rows of `analysis.to_target`, of one mode.
    """
    records = tuple(stems(runs))
    right = runs["censored"] == "right"
    seconds = runs["running_time"].where(~right, runs["time_trained"]).where(~(right & runs["diverged"]), np.inf)
    usable = runs[seconds > 0]
    if usable.empty:
        return _unknown("no running times are recorded", records)
    complete = (usable["censored"] != "right").groupby(usable["batch_size"]).all()
    if not complete.any():
        return _unknown("at no batch size does every run reach the target", records)
    logs = {size: np.log(seconds[index]) for size, index in usable.groupby("batch_size").groups.items()}
    sizes = [int(size) for size in complete.index if size >= complete.idxmax()]
    if len(sizes) == 1:
        return _unknown(f"no batch size to compare {sizes[0]} with", records)
    estimate, low, high = [-np.inf], [-np.inf], [-np.inf]
    for smaller, larger in pairwise(sizes):
        difference, least, most = difference_interval(logs[larger], logs[smaller])
        if not complete[smaller]:
            difference, least, most = np.nan, -np.inf, np.inf
        elif not complete[larger]:
            # What the runs are known to exceed: the difference is at least this.
            difference, most = (difference if difference > 0 else np.nan), np.inf
        estimate.append(difference), low.append(least), high.append(most)
    verdict = _scan(sizes, np.array(estimate), np.array(low), np.array(high), records)
    following = sizes.index(verdict.batch_size) + 1
    if following < len(sizes) and np.isnan(estimate[following]):
        return _remark(
            verdict, f"at {sizes[following]} runs end before the target, so whether the time still falls is not known"
        )
    left = set(usable.loc[usable["censored"] == "left", "batch_size"])
    within = ", ".join(str(size) for size in sizes[: following + 1] if size in left)
    if within:
        return _remark(
            verdict, f"at {within} the target is reached within the first epoch: times are upper bounds there"
        )
    return verdict


def _scan(
    sizes: list[int], estimate: np.ndarray, low: np.ndarray, high: np.ndarray, records: Collection[str]
) -> BreakingPoint:
    """From the smallest batch size on: a step pays where its value is 0 or less; NaN as a value: nobody knows."""

    def last(pays: np.ndarray) -> int | None:
        count = len(sizes) if pays.all() else int(np.argmin(pays))
        return sizes[count - 1] if count else None

    point = last(estimate <= 0)
    used = slice(0, (sizes.index(point) if point is not None else -1) + 2)
    reasons = ["the largest recorded pays still"] if point == sizes[-1] else []
    if np.isnan([low[used], high[used]]).any():
        single = [size for size, bound in zip(sizes[used], low[used], strict=True) if np.isnan(bound)]
        reasons.append(f"no interval: one seed at {', '.join(map(str, single))} or at what it is compared with")
        return BreakingPoint(point, None, None, "; ".join(reasons), tuple(records))
    sure, possible = last(high <= 0), last(~(low > 0))
    if sure is None and point is not None:
        reasons.append(f"at 95 % it may lie below {sizes[0]}")
    return BreakingPoint(point, sure, possible, "; ".join(reasons) or None, tuple(records))


def _unknown(reason: str | None, records: Collection[str]) -> BreakingPoint:
    return BreakingPoint(None, None, None, reason, tuple(records))


def _remark(verdict: BreakingPoint, remark: str) -> BreakingPoint:
    reason = "; ".join(filter(None, (remark, verdict.reason)))
    return BreakingPoint(verdict.batch_size, verdict.low, verdict.high, reason, verdict.records)
