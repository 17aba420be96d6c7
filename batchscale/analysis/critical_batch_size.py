"""Critical batch size: the fit of S(B) = S_min + E_min/B to the updates that runs need to reach one accuracy.

    runs = curve(to_target(study, 0.76), study.modes["scaled_lr"])
    found = critical_batch_size(runs)
    found.estimate, found.low, found.high          # B_crit = E_min/S_min and its 95 % interval; None and found.reasons

Pure functions on the frames of `tables.to_target`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from batchscale.analysis.reasons import Reason
from batchscale.analysis.tables import stems, updates_or_bounds

_LEAST_SCATTER = 1e-3  # of log S: interpolation between epochs is no better than that, and exact data need some end
_DEVIATES = np.linspace(-6, 6, 61)  # grid over a batch size's deviation where censored runs forbid a closed form
_LOG_DENSITY = -(_DEVIATES**2) / 2 - np.logaddexp.reduce(-(_DEVIATES**2) / 2)
_FAR = 20.0  # in log B: the curve is flat, or S ∝ 1/B, to more digits than a float has


@dataclass(frozen=True)
class CriticalBatchSize:
    """B_crit of one mode; None wherever the records cannot say, with the reason beside it."""

    estimate: float | None  # images
    low: float | None  # 95 % interval; a bound may be known where the estimate is not
    high: float | None
    reasons: tuple[Reason, ...]  # why the estimate is None, or that it is extrapolated
    steps_min: float | None  # S_min, updates; None where the records have no updates
    examples_min: float | None  # E_min = S_min · B_crit, images
    scatter: float | None  # standard deviation of log S about the curve, over batch sizes and runs together
    batch_sizes: tuple[int, ...]  # that the fit rests on: at least one run reached the target
    runs: int  # in the fit, censored ones included
    right_censored: int  # of these, never reached the target
    left_censored: int  # of these, reached it within the first recorded epoch
    records: tuple[str, ...]  # names of the records behind it

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """`low` and `high`."""
        return self.low, self.high


def steps_to_target(batch_size: np.ndarray, steps_min: float, critical: float) -> np.ndarray:
    """S(B) = S_min·(1 + B_crit/B), updates to the target; the curve of McCandlish et al. 2018, eq. 2.11."""
    return steps_min * (1 + critical / np.asarray(batch_size, dtype=float))


def critical_batch_size(runs: pd.DataFrame, confidence: float = 0.95) -> CriticalBatchSize:
    """Fit S(B) = S_min·(1 + B_crit/B) in log space to the runs of one mode, with a profile-likelihood interval.

    The model is log S = log S_min + log(1 + B_crit/B) + u + e, with one u ~ N(0, τ²) per batch size and one
    e ~ N(0, σ²) per run (McCandlish et al. 2018, eq. 2.11, with log-normal errors). u allows for a curve that is only
    approximately right: without it, three seeds at one batch size would confirm the curve three times. A run that never
    reached the target enters with the probability of needing more updates than it made, and one that reached it within
    its first epoch with the probability of needing fewer; u is integrated out.

    The interval holds every B_crit whose profile log-likelihood is within K/2·log(1 + t²/(K − 2)) of the best, K being
    the number of batch sizes at which the target was reached and t Student's quantile with K − 2 degrees of freedom.
    With one seed and no censoring this is the F-interval of non-linear regression, exact up to curvature; otherwise it
    it is slightly too wide. `benchmarks/coverage.py` measures it.

    Without a column `updates` (CSVs of the study's five columns) S is known up to the number n of training images:
    S ≈ epochs·n/B. n cancels in B_crit; S_min and E_min are then None.

    Args:
        runs: rows of `tables.to_target`, of one mode and one target.
        confidence: of the interval.

    Returns:
        The estimate is None, with reasons, where fewer than three batch sizes reach the target, or where the interval
        is open on one side, because S ∝ 1/B (B_crit may be infinite) or a constant S (it may be 0) explains the runs as
        well. A closed side is given. Where B_crit lies outside the batch sizes that reach the target, a reason says so.
    """
    censored = runs["censored"].to_numpy()
    steps, relative = updates_or_bounds(runs)
    updates = steps.to_numpy()
    usable = updates > 0  # a run without an epoch (diverged at once) says nothing about S
    sizes, updates, censored = runs["batch_size"].to_numpy(dtype=float)[usable], updates[usable], censored[usable]
    reached = tuple(int(size) for size in np.unique(sizes[censored != "right"]))
    facts = {
        "batch_sizes": reached,
        "runs": len(sizes),
        "right_censored": int((censored == "right").sum()),
        "left_censored": int((censored == "left").sum()),
        "records": tuple(stems(runs)),
    }
    nothing = dict.fromkeys(("estimate", "low", "high", "steps_min", "examples_min", "scatter"))
    exact = len(np.unique(sizes[censored == "no"]))
    if exact < 3:
        reason = Reason.of("too few sizes", sizes=exact, left_censored=facts["left_censored"] > 0)
        return CriticalBatchSize(reasons=(reason,), **nothing, **facts)

    likelihood = _Likelihood(sizes, np.log(updates), censored)
    best, low, high = _profile_interval(likelihood, lambda c: _cutoff(likelihood, c, confidence))
    mid, log_scatter, _ = likelihood.parameters(best)
    known = {
        "low": None if low is None else math.exp(low),
        "high": None if high is None else math.exp(high),
        "scatter": math.exp(log_scatter),
    }
    if low is None or high is None:
        exactly = censored == "no"
        slope = float(np.polyfit(np.log(sizes[exactly]), np.log(updates[exactly]), 1)[0])
        return CriticalBatchSize(reasons=(_why_open(known, reached, slope),), **nothing | known, **facts)
    critical = math.exp(best)
    steps_min = math.exp(mid) / (1 + critical / likelihood.mid_size)
    absolute = {} if relative else {"steps_min": steps_min, "examples_min": steps_min * critical}
    is_inside = reached[0] <= critical <= reached[-1]
    reasons = () if is_inside else (Reason.of("extrapolated", first=reached[0], last=reached[-1]),)
    return CriticalBatchSize(reasons=reasons, **nothing | known | absolute | {"estimate": critical}, **facts)


def _cutoff(likelihood: "_Likelihood", best: float, confidence: float) -> float:
    """By how much the profile log-likelihood may fall, at the estimated share of the deviations over batch sizes."""
    sizes, runs = int((likelihood.count > 0).sum()), int(likelihood.count.sum())
    _, _, logit_share = likelihood.parameters(best)
    share = special.expit(logit_share) if likelihood.repeated else 1.0
    of_mean = share / (share + (1 - share) * sizes / runs)  # share of τ² in the variance τ² + σ²/n of a mean of n runs
    freedom = sizes - 2 + (runs - sizes) * (1 - of_mean)
    t = stats.t.ppf(0.5 + confidence / 2, freedom)
    return (freedom + 2) / 2 * math.log1p(t**2 / freedom)


def _why_open(known: dict, reached: tuple[int, ...], slope: float) -> Reason:
    sizes = {"first": reached[0], "last": reached[-1], "slope": slope, "sizes": len(reached)}
    if known["low"] is None and known["high"] is None:
        return Reason.of("varies too much", **sizes)
    if known["high"] is None:
        return Reason.of("may always fall", **sizes, low=known["low"])
    return Reason.of("may never fall", **sizes, high=known["high"])


class _Likelihood:
    """Log-likelihood of log S, profiled over everything but c = log B_crit.

    Parameters: log S at the geometric middle of the batch sizes (unlike S_min it stays finite for every c), the log of
    the total scatter √(τ² + σ²), and the share of τ² in its square, as a logit.
    """

    def __init__(self, sizes: np.ndarray, log_steps: np.ndarray, censored: np.ndarray):
        self.sizes, self.cell = np.unique(sizes, return_inverse=True)
        self.log_steps, self.exact = log_steps, censored == "no"
        # Needing more (right) or less (left) than was seen: the normal distribution function of ± the distance. Runs of
        # one batch size and length are censored at the same place and count together.
        side = np.where(censored == "right", 1.0, -1.0)
        alike = np.stack([self.cell, self.log_steps, side])[:, ~self.exact]
        (cell, self.bound, self.sign), self.times = np.unique(alike, axis=1, return_counts=True)
        self.censored_cell = cell.astype(int)
        self.count = np.bincount(self.cell[self.exact], minlength=len(self.sizes))
        self.mid_size = math.exp(np.log(self.sizes).mean())
        # One run a batch size cannot tell the two kinds of deviation apart, and need not.
        self.repeated = bool((np.bincount(self.cell) > 1).any())
        self.start = np.array([np.interp(math.log(self.mid_size), *self._means()), math.log(0.2), 0.0])
        self._known: dict[float, tuple[float, np.ndarray]] = {}

    def __call__(self, c: float) -> float:
        return self._maximum(c)[0]

    def parameters(self, c: float) -> np.ndarray:
        return self._maximum(c)[1]

    def _means(self) -> tuple[np.ndarray, np.ndarray]:
        total = np.bincount(self.cell, self.log_steps)
        return np.log(self.sizes), total / np.bincount(self.cell)

    def _maximum(self, c: float) -> tuple[float, np.ndarray]:
        if c not in self._known:
            shape = np.logaddexp(0, c - np.log(self.sizes)) - np.logaddexp(0, c - math.log(self.mid_size))
            nearest = min(self._known, key=lambda other: abs(other - c), default=None)
            starts = [self.start] if nearest is None else [self._known[nearest][1]]
            bounds = [(None, None), (math.log(_LEAST_SCATTER), 5), (-7, 7) if self.repeated else (-30, -30)]
            found = min(
                (
                    optimize.minimize(
                        lambda at: -self._log_likelihood(shape, *at),
                        np.clip(start, *np.array([(-np.inf, np.inf), *bounds[1:]]).T),
                        method="L-BFGS-B",
                        bounds=bounds,
                    )
                    for start in starts
                ),
                key=lambda result: result.fun,
            )
            self._known[c] = (-float(found.fun), found.x)
        return self._known[c]

    def _log_likelihood(self, shape: np.ndarray, mid: float, log_scatter: float, logit_share: float) -> float:
        share = special.expit(logit_share) if self.repeated else 0.0
        between, within = math.exp(2 * log_scatter) * np.array([share, 1 - share])  # τ², σ²
        residual = self.log_steps - (mid + shape)[self.cell]
        exact, cell = residual[self.exact], self.cell[self.exact]
        # Runs that were seen to reach the target: a normal density with covariance σ²I + τ²J in each batch size.
        total = np.bincount(cell, exact, minlength=len(self.sizes))
        spread = within + self.count * between
        value = -0.5 * (
            (exact @ exact - between * (total**2 / spread).sum()) / within
            + len(exact) * math.log(2 * math.pi)
            + (len(exact) - (self.count > 0).sum()) * math.log(within)
            + np.log(np.where(self.count > 0, spread, 1)).sum()
        )
        if len(self.sign):
            # Given these, a batch size's deviation u is normal; the censored runs' probabilities are averaged over it.
            mean, deviation = between * total / spread, np.sqrt(between * within / spread)
            u = mean[:, None] + deviation[:, None] * _DEVIATES
            cell = self.censored_cell
            distance = u[cell] - (self.bound - (mid + shape)[cell])[:, None]
            logs = special.log_ndtr(self.sign[:, None] * distance / math.sqrt(within))
            by_cell = np.zeros_like(u)
            np.add.at(by_cell, cell, self.times[:, None] * logs)
            value += np.logaddexp.reduce(by_cell + _LOG_DENSITY, axis=1).sum()
        return float(value)


def _profile_interval(
    likelihood: _Likelihood, cutoff: Callable[[float], float]
) -> tuple[float, float | None, float | None]:
    """log B_crit at the maximum and where the profile falls by its `cutoff`; None on a side where it never does."""
    first, last = math.log(likelihood.sizes[0]), math.log(likelihood.sizes[-1])
    inside = np.arange(first - 4, last + 5)
    grid = np.concatenate([[first - _FAR], inside, [last + _FAR]])
    values = np.array([likelihood(c) for c in grid])
    top = int(values[1:-1].argmax()) + 1
    around = grid[max(top - 1, 1)], grid[min(top + 1, len(grid) - 2)]
    refined = optimize.minimize_scalar(lambda c: -likelihood(c), bounds=around, method="bounded")
    best = float(refined.x) if -refined.fun > values[top] else float(grid[top])
    level = max(likelihood(best), values.max()) - cutoff(best)
    if likelihood(best) < level:  # the updates fall faster than 1/B, or grow: no curve between the two fits as well
        best = float(grid[values.argmax()])

    def crossing(places: np.ndarray) -> float | None:
        """Going outwards from the maximum."""
        inner = best
        for place in places:
            if likelihood(place) < level:
                return optimize.brentq(lambda c: likelihood(c) - level, inner, place, xtol=1e-4)
            inner = place
        return None

    return best, crossing(grid[grid < best][::-1]), crossing(grid[grid > best])
