"""Breaking point of one mode in its three currencies: the batch size up to which a larger one still pays.

    losses = accuracy_losses(finals_of_mode, threshold(study))
    in_accuracy(losses, threshold(study))                # last B that, with all smaller ones, keeps the threshold
    in_updates(runs, critical_batch_size(runs))          # last B in perfect scaling
    in_time(runs)                                        # last B at which the time to target still falls

Pure functions on the frames of `tables`. Every verdict scans the batch sizes of a mode upwards, by the means over
seeds. Its interval starts at the last B that surely pays, as all smaller ones do, and ends at the last one before a B
that surely does not. "Surely" means by the 95 % interval at that batch size.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK, at_least, difference_interval
from batchscale.analysis.tables import stems
from batchscale.analysis.threshold import Threshold
from batchscale.records.study import Run

CURRENCIES = ("accuracy", "updates", "time")
# Of B_crit: there S(B) = S_min·(1 + B_crit/B) has the local slope −3/4, where tables.regime ends perfect scaling.
PERFECT_SHARE = 1 / 3


@dataclass(frozen=True)
class BreakingPoint:
    """A recorded batch size, or None where the records cannot say."""

    batch_size: int | None
    low: int | None  # None: below the smallest recorded, or there is no interval (`reasons` say which)
    high: int | None
    reasons: tuple[Reason, ...]  # why there is no batch size or no interval, or what the verdict does not cover
    records: tuple[str, ...]  # names of the records that it rests on

    @property
    def interval(self) -> tuple[int | None, int | None]:
        """`low` and `high`."""
        return self.low, self.high

    @classmethod
    def unknown(cls, reason: Reason, records: Collection[str]) -> "BreakingPoint":
        """No verdict, for one reason."""
        return cls(None, None, None, (reason,), tuple(records))

    def but(self, reason: Reason) -> "BreakingPoint":
        """The same verdict with one more reason in front."""
        return replace(self, reasons=(reason, *self.reasons))


def accuracy_losses(finals: pd.DataFrame, threshold: Threshold | None, diverged: Collection[Run] = ()) -> pd.DataFrame:
    """Final accuracy of one mode by batch size, and what it loses to the small batch sizes' accuracy.

    Args:
        finals: rows of `tables.final`, of one mode.
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
    """Last B that loses no more than the tolerance, as all smaller recorded ones do; a diverged run is a failure.

    With a single seed the verdict rests on the means alone and has no interval.

    Args:
        losses: of `accuracy_losses`.
        records: names of the records of this mode and of the threshold.
    """
    if threshold is None:
        return BreakingPoint.unknown(Reason.of("no reference"), records)
    if losses.empty:
        return BreakingPoint.unknown(Reason.of("no finished run"), records)
    broken = losses["diverged"].to_numpy() > 0
    estimate, low, high = (
        np.where(broken, np.inf, losses[column] - threshold.tolerance - SLACK)
        for column in ("loss", "loss_low", "loss_high")
    )
    sizes = losses["batch_size"].tolist()
    verdict = _scan(sizes, estimate, low, high, records)
    if verdict.batch_size is None:
        if broken[0]:
            return verdict.but(Reason.of("smallest diverges", size=sizes[0]))
        return verdict.but(Reason.of("smallest loses", size=sizes[0], loss=losses["loss"].iloc[0]))
    return verdict


def in_updates(runs: pd.DataFrame, critical: CriticalBatchSize) -> BreakingPoint:
    """Last B in perfect scaling, of those that reach the target: the fitted curve's slope is ≤ −3/4, B ≤ B_crit/3.

    The fit rather than the slope between two neighbours, which two or three seeds leave very uncertain.

    Args:
        runs: rows of `tables.to_target` that the fit was made with.
        critical: the fit.
    """
    records = tuple(stems(runs))
    if critical.low is None and critical.high is None:
        return BreakingPoint(None, None, None, critical.reasons, records)
    sizes, reached = sorted({int(size) for size in runs["batch_size"]}), critical.batch_sizes

    def last(of: Collection[int], bound: float | None) -> int | None:
        return None if bound is None else max((size for size in of if size <= bound * PERFECT_SHARE), default=None)

    low, point = last(reached, critical.low), last(reached, critical.estimate)
    high = sizes[-1] if critical.high is None else last(sizes, critical.high)
    reasons: tuple[Reason, ...] = ()
    if high is None:
        reasons = (Reason.of("ends below", size=sizes[0]),)
    elif low == reached[-1]:
        point, reasons = low, (Reason.of("perfect throughout"),)
    elif critical.estimate is None:
        reasons = critical.reasons
    elif point is None:
        reasons = (Reason.of("probably ends below", size=sizes[0]),)
    elif low is None:
        reasons = (Reason.of("may lie below", size=sizes[0]),)
    return BreakingPoint(point, low, high, reasons, records)


def in_time(runs: pd.DataFrame) -> BreakingPoint:
    """Last B at which the time to target still falls: the first B from which the next larger one is not faster.

    Times are compared in their logarithms; an equal one is not faster. The scan starts at the smallest batch size all
    of whose runs reach the target. A larger one with a censored run counts as slower if its runs have already taken as
    long, or if one diverged; otherwise the step is unknown, and the scan ends there. The times of runs that reach the
    target within their first epoch are upper bounds and are used as such; a reason names them.

    Args:
        runs: rows of `tables.to_target`, of one mode.
    """
    records = tuple(stems(runs))
    right = runs["censored"] == "right"
    seconds = runs["running_time"].where(~right, runs["time_trained"]).where(~(right & runs["diverged"]), np.inf)
    usable = runs[seconds > 0]
    if usable.empty:
        return BreakingPoint.unknown(Reason.of("no times"), records)
    complete = (usable["censored"] != "right").groupby(usable["batch_size"]).all()
    if not complete.any():
        return BreakingPoint.unknown(Reason.of("never reached"), records)
    logs = {size: np.log(seconds[index]) for size, index in usable.groupby("batch_size").groups.items()}
    sizes = [int(size) for size in complete.index if size >= complete.idxmax()]
    if len(sizes) == 1:
        return BreakingPoint.unknown(Reason.of("nothing to compare", size=sizes[0]), records)
    estimate, low, high = [-np.inf], [-np.inf], [-np.inf]
    for smaller, larger in pairwise(sizes):
        difference, least, most = difference_interval(logs[larger], logs[smaller])
        if not complete[smaller]:
            difference, least, most = np.nan, -np.inf, np.inf
        elif not complete[larger]:
            # What the runs are known to exceed: the difference is at least this.
            difference, most = (difference if at_least(difference, 0) else np.nan), np.inf
        # A step of 0 would pay in the scan, but an equal time saves nothing.
        estimate.append(difference + SLACK), low.append(least + SLACK), high.append(most + SLACK)
    verdict = _scan(sizes, np.array(estimate), np.array(low), np.array(high), records)
    following = sizes.index(verdict.batch_size) + 1
    if following < len(sizes) and np.isnan(estimate[following]):
        return verdict.but(Reason.of("ends before target", size=sizes[following]))
    left = set(usable.loc[usable["censored"] == "left", "batch_size"])
    within = [size for size in sizes[: following + 1] if size in left]
    return verdict.but(Reason.of("within first epoch", sizes=within)) if within else verdict


def _scan(
    sizes: list[int], estimate: np.ndarray, low: np.ndarray, high: np.ndarray, records: Collection[str]
) -> BreakingPoint:
    """Scan from the smallest batch size on: a step pays where its value is 0 or less; NaN is unknown."""

    def last(pays: np.ndarray) -> int | None:
        count = len(sizes) if pays.all() else int(np.argmin(pays))
        return sizes[count - 1] if count else None

    point = last(estimate <= 0)
    used = slice(0, (sizes.index(point) if point is not None else -1) + 2)
    reasons = [Reason.of("largest still pays")] if point == sizes[-1] else []
    if np.isnan([low[used], high[used]]).any():
        single = [size for size, bound in zip(sizes[used], low[used], strict=True) if np.isnan(bound)]
        reasons.append(Reason.of("single seeds", sizes=single))
        return BreakingPoint(point, None, None, tuple(reasons), tuple(records))
    sure, possible = last(high <= 0), last(~(low > 0))
    if sure is None and point is not None:
        reasons.append(Reason.of("may lie below", size=sizes[0]))
    return BreakingPoint(point, sure, possible, tuple(reasons), tuple(records))
