"""Where a curve that falls with the batch size crosses a level: an estimate on a continuous axis, and its interval.

    found = crossing([8, 128, 256, 512], [0.797, 0.789, 0.784, 0.754], errors, 12, Level(0.787, drop=0.01))
    found.estimate, found.low, found.high               # batch sizes; None at an open end

A pure function of means and their errors, whatever they are means of: final accuracies here, losses of branches
elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import interpolate, optimize, stats

from batchscale.analysis.statistics import SLACK, at_least

_EXACT = 1e4  # weight of a condition that must hold, over that of the most precise mean
_LEAST_ERROR = 1e-6
_STEPS = 8  # of the search between two neighbouring batch sizes
_MISFIT = 0.05  # a concave curve that fits worse than this by chance is given up for one that only falls


@dataclass(frozen=True)
class Level:
    """What is crossed."""

    value: float
    """the level; with a `drop`, the curve's first mean less the drop"""
    drop: float | None = None
    """the level depends on the curve, so that in the interval it is the fitted first value less this; None: it does
    not depend on the curve"""
    error: float = 0.0
    """standard error of a `value` that does not depend on the curve"""


@dataclass(frozen=True)
class Crossing:
    """Where the level is crossed, in units of the batch size."""

    estimate: float | None  # None: above the level throughout, or below it from the first batch size on
    low: float | None  # 95 % interval; None: open, or no errors are known
    high: float | None
    sizes: tuple[float, ...]  # the curve: batch sizes and fitted values, from the first to the first surely below
    values: tuple[float, ...]

    def curve(self, sizes: np.ndarray) -> np.ndarray:
        """The fitted curve: monotone cubic interpolation in log B (Fritsch & Carlson 1980), NaN outside."""
        if len(self.sizes) < 2:
            return np.full(len(sizes), np.nan)
        return _interpolant(np.log2(self.sizes), np.array(self.values))(np.log2(sizes))


def crossing(
    sizes: Sequence[float],
    means: Sequence[float],
    errors: Sequence[float],
    freedom: float,
    level: Level,
    confidence: float = 0.95,
) -> Crossing:
    """Where a falling curve through noisy means crosses a level.

    The curve is fitted by weighted least squares among all that never rise and that fall ever faster in log B
    (concave), which is how accuracy goes from its plateau to the edge; if the means contradict that, among all that
    never rise. It ends at the first batch size that is surely below the level: what collapses beyond is no longer
    concave, and says no more. The estimate is where the monotone cubic interpolant of the fitted values crosses.

    The interval joins two uncertainties. *Noise*: all B at which a curve through the level fits almost as well: the sum
    of squares grows by no more than t², Student's quantile (likelihood ratio under shape constraints). *Shape*: between
    two batch sizes any concave curve lies above the chord, and below the lines that its neighbours extend; so does its
    crossing. Their distances from the estimate add up in quadrature. `benchmarks/coverage.py` measures how often the
    truth is held.

    Args:
        sizes: batch sizes, rising; at least one.
        means, errors: of the curve at each, 0 or more, and the standard error of each. NaN errors mean that none is
            known: then there is an estimate and no interval.
        freedom: degrees of freedom of the errors.
        level: what is crossed; see `Level`.
        confidence: of the interval.

    Returns:
        Open ends are None: `high` where the curve may stay above the level throughout, `low` where it may be below it
        from the start (not with a `drop`, since the curve starts above by definition).
    """
    x, y = np.log2(np.asarray(sizes, dtype=float)), np.asarray(means, dtype=float)
    if np.isnan([*errors, level.error]).any():
        fit = optimize.isotonic_regression(y, increasing=False).x
        return _found(_estimate(x, fit, level.value), None, None, x, fit)
    e = np.maximum(errors, _LEAST_ERROR)
    quantile = stats.t.ppf(0.5 + confidence / 2, max(freedom, 1))
    lost = (level.value - y) / np.hypot(e, level.error) > stats.t.ppf(0.995, max(freedom, 1))
    count = int(lost.argmax()) + 1 if lost.any() else len(x)
    following = (x[count], y[count]) if count < len(x) else None
    curve = _Curve(x[:count], y[:count], e[:count], level)
    if curve.misfit() < _MISFIT:
        curve = _Curve(x[:count], y[:count], e[:count], level, concave=False)
    x, fit = curve.x, curve.values
    estimate = _estimate(x, fit, level.value)
    low, high = curve.interval(quantile**2)
    if estimate is not None and curve.concave:
        first, last = _between(x, fit, level.value, following)
        if low is not None:
            low = estimate - math.hypot(estimate - first, max(0.0, first - low))
            low = max(low, x[0])
        if high is not None:
            high = min(estimate + math.hypot(last - estimate, max(0.0, high - last)), x[-1])
    elif estimate is not None:
        low, high = (None if low is None else min(low, estimate)), (None if high is None else max(high, estimate))
    return _found(estimate, low, high, x, fit)


def _found(estimate: float | None, low: float | None, high: float | None, x: np.ndarray, fit: np.ndarray) -> Crossing:
    as_size = [None if end is None else float(2**end) for end in (estimate, low, high)]
    return Crossing(*as_size, tuple((2**x).tolist()), tuple(fit.tolist()))


def _interpolant(x: np.ndarray, fit: np.ndarray) -> interpolate.PchipInterpolator:
    return interpolate.PchipInterpolator(x, fit, extrapolate=False)


def _estimate(x: np.ndarray, fit: np.ndarray, value: float) -> float | None:
    kept = np.flatnonzero(at_least(fit, value))
    if len(kept) == 0 or kept[-1] == len(x) - 1:
        return None
    last = kept[-1]
    if fit[last] <= value + SLACK:
        return float(x[last])
    curve = _interpolant(x, fit)
    return float(optimize.brentq(lambda at: curve(at) - value, x[last], x[last + 1]))


def _between(
    x: np.ndarray, fit: np.ndarray, value: float, following: tuple[float, float] | None
) -> tuple[float, float]:
    """The first and the last place at which a concave curve with these values may cross: on the chord of the two batch
    sizes around, and where the first of the lines that their neighbours extend crosses."""
    last = int(np.flatnonzero(at_least(fit, value))[-1])
    slopes = np.diff(fit) / np.diff(x)
    chord = x[last] + (value - fit[last]) / slopes[last]
    ends = [x[last + 1]]
    if last and slopes[last - 1] < 0:
        ends.append(x[last] + (value - fit[last]) / slopes[last - 1])
    beyond = slopes[last + 1] if last + 2 < len(x) else None
    if beyond is None and following is not None:
        beyond = (following[1] - fit[last + 1]) / (following[0] - x[last + 1])
    if beyond is not None and beyond <= slopes[last] + SLACK:  # it falls no more slowly, as on a concave curve
        ends.append(x[last + 1] + (value - fit[last + 1]) / beyond)
    return chord, max(chord, min(ends))


class _Curve:
    """Least squares among falling curves, concave or not: values at the batch sizes, and the cost of any crossing.

    A curve is its first value less a sum of hinges (concave) or steps with coefficients of 0 or more, one at each batch
    size; where it has to cross at a given place, also one there.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, errors: np.ndarray, level: Level, *, concave: bool = True):
        self.x, self.y, self.errors, self.level, self.concave = x, y, errors, level, concave
        self.values, self.squares = self._fit(None)

    def misfit(self) -> float:
        """Probability of as bad a fit by chance, if the true curve is of this shape; conservative."""
        return float(stats.chi2.sf(self.squares, max(1, len(self.x) - 1)))

    def cost(self, at: float) -> float:
        """By how much the sum of squares grows if the curve crosses the level there."""
        return self._fit(at)[1] - self.squares

    def interval(self, most: float) -> tuple[float | None, float | None]:
        """The first and the last place with a cost of at most `most`; None at an end that stays open."""
        x = self.x
        if self.concave:
            inner = [np.linspace(start, end, _STEPS, endpoint=False) for start, end in pairwise(x)]
            grid = np.concatenate([*inner, x[-1:]])
        else:  # where it crosses between two batch sizes makes no difference
            grid = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
        grid = grid[1:] if self.level.drop is not None else grid
        grid = np.unique(np.append(grid, self._crossings()))
        costs = np.array([self.cost(at) for at in grid])
        fits = np.flatnonzero(costs <= most)
        if len(fits) == 0:  # below or above the level, beyond doubt
            is_below = not at_least(self.values[0], self.level.value)
            return (None, float(x[0])) if is_below else (float(x[-1]), None)
        first, last = fits[[0, -1]]
        low = self._edge(grid[first], grid[first - 1], most) if first else None
        low = float(x[0]) if low is None and self.level.drop is not None else low
        high = self._edge(grid[last], grid[last + 1], most) if last + 1 < len(grid) else None
        if low is None and not at_least(self.values[0], self.level.value) and high is None:
            return None, None
        return low, high

    def _crossings(self) -> np.ndarray:
        """Where the fitted values, joined by straight lines, cross the level: there the cost is nothing."""
        level = self.level.value if self.level.drop is None else self.values[0] - self.level.drop
        above = at_least(self.values, level)
        if not self.concave or above.all() or not above.any():
            return np.array([])
        last = int(np.flatnonzero(above)[-1])
        return np.interp([-level], -self.values[[last, last + 1]], self.x[[last, last + 1]])

    def _edge(self, inside: float, outside: float, most: float) -> float:
        if not self.concave:  # the batch size between the two
            between = self.x[(self.x >= min(inside, outside)) & (self.x <= max(inside, outside))]
            return float(between[0 if outside < inside else -1])
        return float(optimize.brentq(lambda at: self.cost(at) - most, inside, outside, xtol=1e-3))

    def _fit(self, at: float | None) -> tuple[np.ndarray, float]:
        """Values at the batch sizes, and the weighted sum of squares; with a crossing at this place, if given."""
        knots = self.x[:-1] if at is None else np.unique(np.append(self.x[:-1], at))  # none twice
        falls = self._falls(self.x, knots)
        # Columns: the curve's first value, the level, and how much the curve falls at each knot.
        rows = np.hstack([np.ones((len(self.x), 1)), np.zeros((len(self.x), 1)), -falls]) / self.errors[:, None]
        wanted = self.y / self.errors
        heaviest = _EXACT / self.errors.min()
        level = np.zeros((1, rows.shape[1]))
        level[0, 1] = min(1 / max(self.level.error, _LEAST_ERROR), heaviest)
        rows, wanted = np.vstack([rows, level]), np.append(wanted, self.level.value * level[0, 1])
        if at is not None:
            fall = self._falls(np.array([at]), knots)[0]
            condition = np.append([1.0, -1.0], -fall) if self.level.drop is None else np.append([0.0, 0.0], fall)
            rows = np.vstack([rows, heaviest * condition])
            wanted = np.append(wanted, heaviest * (self.level.drop or 0.0))
        found, distance = optimize.nnls(rows, wanted)
        return found[0] - falls @ found[2:], float(distance**2)

    def _falls(self, places: np.ndarray, knots: np.ndarray) -> np.ndarray:
        beyond = places[:, None] - knots
        return np.maximum(beyond, 0) if self.concave else (beyond > 0).astype(float)
