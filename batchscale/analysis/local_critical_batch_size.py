"""The largest minibatch to which training may be switched at a checkpoint: branched training, evaluated.

    found = of(rows)                       # of `training.branches`: a checkpoint, or several
    found[0].estimate, found[0].low, found[0].high
    print(found)

Pure functions.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.accuracies import moderated
from batchscale.analysis.crossing import Crossing, Level, crossing
from batchscale.analysis.reasons import Reason, together
from batchscale.analysis.words import images, interval

_GAP = 0.01  # in `moderated`, losses that differ by as much as half the images make spread as points of accuracy do


@dataclass(frozen=True)
class Local:
    """What the branches of one rule at one checkpoint say."""

    rule: str
    updates: int  # of the reference before the switch
    batch_size: int  # of the reference
    estimate: float | None  # local critical batch size; None where it lies beyond what was tried, or is unknown
    low: float | None  # 95 % interval; None at an open end, or where one order gives none
    high: float | None
    largest: int  # batch size that was tried
    destroyed_from: int | None  # the smallest that ended with a higher loss than it began with
    start: float  # loss before
    half: float  # loss of the reference after half of the window, and after all of it
    whole: float
    losses: tuple[tuple[int, float], ...]  # batch sizes and mean losses of all branches; at most the one before
    curve: Crossing | None  # of minus the loss
    reasons: tuple[Reason, ...] = ()

    def images(self, batch_size: float) -> float:
        """Images that the same progress takes, relative to the reference: 2^((L_B − L)/(L_½ − L)).

        L_½ and L are the reference's losses after half of the window and after all of it: a branch with the loss L_½
        has wasted half of its images. NaN beyond the batch sizes that were tried and not clearly lost.
        """
        if self.curve is None:
            return math.nan
        return self._images(-float(self.curve.curve(np.array([float(batch_size)]))[0]))

    @property
    def measured(self) -> list[tuple[int, float]]:
        """Batch sizes and `images` of the branches themselves, without a curve through them."""
        return [(size, self._images(loss)) for size, loss in self.losses]

    def _images(self, loss: float) -> float:
        return 2 ** ((loss - self.whole) / (self.half - self.whole))

    def __str__(self) -> str:
        if self.estimate is None:
            why = together(self.reasons) or f"not below {images(self.largest)}, the largest that was tried"
            return f"{self.rule}: local critical batch size undetermined, {why}"
        within = interval(self.low, self.high)
        shown = f"{images(self.estimate)} ({within})" if within else images(self.estimate)
        return f"{self.rule}: local critical batch size {shown} images"


def of(rows: Iterable) -> tuple[Local, ...]:
    """The local critical batch size of every rule at every checkpoint, in order.

    It is the batch size at which the same loss takes twice the images: where the curve of the losses L_B of the
    branches reaches L_½, the loss that the reference has after half of the window. So is the critical batch size of
    McCandlish et al. 2018, E(B) = E_min·(1 + B/B_crit), and so is ε of Merrill et al. 2025 (arXiv:2505.23971), which is
    the gap L_½ − L here: measured, in the units of this loss, and not chosen. `crossing.crossing` finds the place, with
    the errors over the orders.

    Args:
        rows: of `training.branches.Branch`, or a frame of them.
    """
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame([asdict(row) for row in rows])
    if table.empty:
        return ()
    parts = table.groupby(["updates", "rule"], sort=False)
    # One that ended after the reference's first half window, because time was over, says nothing.
    return tuple(_one(*key, part) for key, part in parts if part["images"].nunique() > 1)


def _one(updates: int, rule: str, table: pd.DataFrame) -> Local:
    first, window = int(table["batch_size"].min()), table["images"].max()
    is_half = (table["batch_size"] == first) & (table["images"] < 0.75 * window)
    start = float(table["start"].iloc[0])
    lost = table[(table["loss"] > table["start"]) & ~is_half]["batch_size"]
    halves, wholes = table[is_half]["loss"], table[~is_half & (table["batch_size"] == first)]["loss"]
    # A loss beyond that at the start says no more than that one.
    cells = table[~is_half].assign(loss=table["loss"].clip(upper=start)).groupby("batch_size")["loss"]
    sizes, means = cells.mean().index.to_numpy(), cells.mean().to_numpy()
    half, whole = float(halves.mean()), float(wholes.mean())
    gap = half - whole
    known = {
        "rule": rule,
        "updates": int(updates),
        "batch_size": first,
        "largest": int(sizes[-1]),
        "destroyed_from": None if lost.empty else int(lost.min()),
        "losses": tuple(zip(sizes.tolist(), means.tolist(), strict=True)),
        "start": start,
        "half": half,
        "whole": whole,
    }
    unknown = {"estimate": None, "low": None, "high": None, "curve": None}
    if not 0 < gap < math.inf:
        return Local(**known, **unknown, reasons=(Reason.of("no progress", half=half, whole=whole),))
    counts = cells.count().to_numpy()
    every = [*cells.var(ddof=1), halves.var(ddof=1)], [*counts - 1, len(halves) - 1], [*means - whole, gap]
    variances, freedom = moderated(*map(np.array, (every[0], every[1], _GAP * np.array(every[2]) / gap)))
    errors = np.sqrt(variances / [*counts, len(halves)])
    if gap < stats.t.ppf(0.95, max(freedom[-1], 1)) * np.hypot(errors[0], errors[-1]):
        return Local(**known, **unknown, reasons=(Reason.of("no progress", half=half, whole=whole),))
    top = max(start, half) + gap  # as a height below it, a loss is above 0, as the crossing's least squares need it
    level = Level(top - half, error=errors[-1])
    found = crossing(sizes, top - means, errors[:-1], float(np.median(freedom)), level)
    found = replace(found, values=tuple(height - top for height in found.values))
    return Local(**known, estimate=found.estimate, low=found.low, high=found.high, curve=found)
