"""Comparisons that rounding does not decide, intervals of differences, and medians of censored values."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

# Accuracies are multiples of 1/n of a test set, and so are their means over seeds of 1/(seeds·n), which is far more.
# Rounding errors of sums and differences of fractions are near 1e-16, which is far less.
SLACK = 1e-9


def at_least(value, bound):
    """Whether value ≥ bound, as exact for decimals as if they had been worked out by hand.

    0.787 + 0.01 is 0.797 here, although the floats differ in their last digit: a value counts as equal to a bound that
    is higher by `SLACK` or less. Every comparison of an accuracy or loss with a threshold, target or tolerance, or with
    another accuracy, is this one. `not at_least(b, a)` is a > b. Times are compared by their logarithms or ratios.

    Args:
        value, bound: numbers or arrays; NaN is not at least anything.

    >>> 0.787 >= 0.797 - 0.01, at_least(0.787, 0.797 - 0.01), at_least(0.7869, 0.797 - 0.01)
    (False, True, False)
    """
    return value >= bound - SLACK


def first_best(values: pd.Series):
    """Label of the highest value, of equals the first; see `at_least`."""
    return values.index[at_least(values, values.max())][0]


def difference_interval(
    ours: Collection[float], theirs: Collection[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Difference of two means, ours − theirs, with its Welch t interval; NaN bounds where either has one value.

    An infinite value makes the difference infinite and certain. Two infinite means give NaN.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if np.isinf(ours.mean()) or np.isinf(theirs.mean()):
        difference = np.nan if np.isinf(ours.mean()) and np.isinf(theirs.mean()) else ours.mean() - theirs.mean()
        return difference, difference, difference
    difference = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return difference, np.nan, np.nan
    parts = np.array([ours.var(ddof=1) / len(ours), theirs.var(ddof=1) / len(theirs)])
    if parts.sum() == 0:
        return difference, difference, difference
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(parts.sum()))
    return difference, difference - half, difference + half


def censored_median(values: Collection[float]) -> float:
    """Median of values where NaN is one above all others, of unknown size; NaN where it depends on that size."""
    values = np.asarray(values, dtype=float)
    median = np.median(np.where(np.isnan(values), np.inf, values))
    return float(median) if np.isfinite(median) else np.nan
