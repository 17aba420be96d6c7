"""Intervals of means and of their differences, and medians of censored values."""

from collections.abc import Collection

import numpy as np
from scipy import stats


def mean_interval(values: Collection[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean; (NaN, NaN) for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


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
