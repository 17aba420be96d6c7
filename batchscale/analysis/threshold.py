"""The accuracy that a larger minibatch has to keep: that of the best reference batch size, less a tolerance."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.statistics import first_best
from batchscale.analysis.tables import stems
from batchscale.errors import UserError


@dataclass(frozen=True)
class Threshold:
    """The accuracy to keep, and what it rests on."""

    accuracy: float  # `best` less the tolerance
    best: float  # accuracy of the best reference batch size, or of all of them; without its optimism
    tolerance: float = 0.0
    from_batch_size: int | None = None  # the best one; None for the mean of all, and for a given accuracy
    from_mode: str | None = None  # that of the best one
    reference: tuple[str, ...] = ()  # names of the modes behind it; none for a given accuracy
    mean: float | None = None  # over seeds, of the best one: `best` plus its optimism
    standard_deviation: float = np.nan  # of its final accuracy over seeds; NaN for one seed
    seeds: int = 0
    error: float = np.nan  # standard error of `best`; NaN where no batch size has two seeds, 0 for a given accuracy
    freedom: float = 0.0  # degrees of freedom of the error
    records: tuple[str, ...] = ()  # names of the records that it rests on

    @property
    def optimism(self) -> float:
        """By how much the best of several means is too high by chance, 0-1."""
        return 0.0 if self.mean is None else self.mean - self.best

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `best`; NaN where there is no error."""
        if not self.error > 0:
            return np.nan, np.nan
        half = float(stats.t.ppf(0.975, max(self.freedom, 1)) * self.error)
        return self.best - half, self.best + half

    @property
    def is_given(self) -> bool:
        """Whether it is a plain number rather than an accuracy of recorded runs."""
        return self.mean is None


def threshold(
    finals: pd.DataFrame,
    cells: pd.DataFrame,
    reference: Collection[str],
    tolerance: float = 0.01,
    of: str | float = "best",
) -> Threshold | None:
    """Accuracy of the best reference batch size, less a tolerance (Masters & Luschi 2018 found 2-32 best).

    The best of several noisy means is too high: by chance as well as by merit. What it is expected to be too high by,
    its `optimism`, is subtracted; see `best_of`. `of="mean"`, the mean over the batch sizes, is free of that, and asks
    for less. A number is the accuracy to keep itself: no tolerance is subtracted.

    Args:
        finals: rows of `tables.final`.
        cells: of `accuracies.accuracies`, of these finals; batch sizes with a run that diverged do not count.
        reference: names of modes.
        tolerance: absolute loss of accuracy, 0-1, that still counts as keeping it.
        of: "best", "mean", or an accuracy, 0-1.

    Returns:
        None where no run of the reference is finished. Of batch sizes with the same mean the smallest counts.

    Raises:
        UserError: (a ValueError) `of` is none of these.
    """
    if not isinstance(of, str):
        if not 0 < of <= 1:
            raise UserError(f"threshold is {of}; it must be best, mean, or a fraction above 0 and at most 1")
        return Threshold(accuracy=float(of), best=float(of), error=0.0, freedom=np.inf)
    if of not in ("best", "mean"):
        raise UserError(f"threshold is {of!r}; it must be best, mean, or a fraction above 0 and at most 1")
    is_counted = cells["experiment"].isin(list(reference)) & (cells["seeds"] > 0) & (cells["diverged"] == 0)
    small = cells[is_counted].sort_values(["batch_size", "experiment"], ignore_index=True)
    if small.empty:
        return None
    if of == "best":
        value, error, top = best_of(small["accuracy"], small["error"])
        behind = small.loc[[top]]
        mode, mean, size, deviation = small.loc[top, ["experiment", "accuracy", "batch_size", "standard_deviation"]]
    else:
        behind, size, mode, deviation = small, None, None, np.nan
        mean = value = small["accuracy"].mean()
        error = np.sqrt((small["error"] ** 2).sum(skipna=False)) / len(small)
    keys = ["experiment", "batch_size"]
    return Threshold(
        accuracy=float(value) - tolerance,
        best=float(value),
        tolerance=tolerance,
        from_batch_size=None if size is None else int(size),
        from_mode=mode,
        reference=tuple(sorted(set(small["experiment"]))),
        mean=float(mean),
        standard_deviation=float(deviation),
        seeds=int(behind["seeds"].max()),
        error=float(error),
        freedom=float(behind["freedom"].min()),
        records=tuple(stems(finals.merge(behind[keys], on=keys))),
    )


def best_of(means: pd.Series, errors: pd.Series) -> tuple[float, float, int]:
    """The largest of several true means, its standard error, and the label of the largest noisy mean.

    The largest noisy mean less its optimism E[max m̂] − max m, and the standard deviation of max m̂, for independent
    m̂ᵢ ~ N(mᵢ, eᵢ²). The true mᵢ in it are the means, shrunken towards their common mean as far as their spread is
    that of the errors alone (James & Stein 1961, positive part): means that differ by chance only are moved together,
    and then the optimism is that of a maximum of equals. Means more than three errors below the best do not compete.

    Args:
        means, errors: with the same index; NaN errors: nothing is known about chance, and the largest mean is returned.
    """
    top = first_best(means)
    if errors.isna().any():
        return float(means[top]), np.nan, top
    competes = means >= means[top] - 3 * np.hypot(errors, errors[top])
    m, e = means[competes].to_numpy(), np.maximum(errors[competes].to_numpy(), 1e-9)
    if len(m) == 1:
        return float(means[top]), float(errors[top]), top
    common = np.average(m, weights=1 / e**2)
    between = max(0.0, m.var(ddof=1) - (e**2).mean())
    shrunken = common + between / (between + e**2) * (m - common)
    # Of the distribution function of the maximum, a product, the mean and deviation.
    grid = np.linspace(shrunken.min() - 6 * e.max(), shrunken.max() + 6 * e.max(), 2001)
    share = np.diff(stats.norm.cdf((grid[:, None] - shrunken) / e).prod(axis=1))
    middle = (grid[1:] + grid[:-1]) / 2
    expected = share @ middle
    optimism = max(0.0, expected - shrunken.max())
    return float(means[top] - optimism), float(np.sqrt(share @ (middle - expected) ** 2)), top
