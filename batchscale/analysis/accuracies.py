"""Final accuracy of every mode and batch size, with an error of its mean that borrows strength from the others.

    cells = accuracies(tables.final(study), study.diverged)
    cells[["experiment", "batch_size", "accuracy", "error", "freedom"]]

Pure functions on the frames of `tables.final`.
"""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import optimize, special

from batchscale.records.study import Run

_LEAST_VARIANCE = 1e-12  # runs that agree to the last image still leave an error of 1e-6
_KERNEL = 0.7  # bandwidth in log(1 + loss / 1 point): cells that lose one and three points count for 0.6 of each other
_LOST_POINT = 0.01


def accuracies(finals: pd.DataFrame, diverged: Collection[Run] = ()) -> pd.DataFrame:
    """Mean final accuracy by mode and batch size, its deviation over seeds, and the moderated error of the mean.

    `error` is √(s̃²/n) of n runs, where s̃² is the `moderated` variance; `freedom` are its degrees of freedom. Both are
    NaN where no mode has two seeds at any batch size. A batch size with one seed has the error that its neighbours
    suggest.

    Args:
        finals: rows of `tables.final`, of any modes; those without an accuracy are left out.
        diverged: runs that diverged. A batch size of which every run diverged has no accuracy.

    Returns:
        `experiment`, `batch_size`, `seeds` (finished runs), `accuracy`, `standard_deviation` (NaN for one seed),
        `error`, `freedom`, `diverged` (number of runs).
    """
    keys = ["experiment", "batch_size"]
    table = finals.dropna(subset="accuracy").groupby(keys)["accuracy"].agg(["size", "mean", "std"])
    table.columns = ["seeds", "accuracy", "standard_deviation"]
    failed = pd.Series([run[:2] for run in diverged], dtype=object).value_counts()
    failed.index = pd.MultiIndex.from_tuples(failed.index, names=keys) if len(failed) else table.index[:0]
    table = table.reindex(table.index.union(failed.index))
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["diverged"] = failed.reindex(table.index).fillna(0).astype(int)
    return with_errors(table.reset_index())


def with_errors(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with `error` and `freedom`, from their `seeds`, `accuracy` and `standard_deviation`."""
    has_runs = (cells["seeds"] > 0).to_numpy()
    known = cells[has_runs]
    best = known["accuracy"].max() if len(known) else np.nan
    deviations = known["standard_deviation"].to_numpy()
    freedom = np.where(np.isnan(deviations), 0, known["seeds"].to_numpy() - 1)  # unknown for seeds to come, too
    variance, freedom = moderated(deviations**2, freedom, best - known["accuracy"].to_numpy())
    columns = np.full((2, len(cells)), np.nan)
    columns[:, has_runs] = np.sqrt(variance / known["seeds"].to_numpy()), freedom
    return cells.assign(error=columns[0], freedom=columns[1])


def moderated(variances: np.ndarray, freedom: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances of small groups, shrunken towards those of groups that lose about as much accuracy.

    s̃² = (d₀·s₀² + d·s²) / (d₀ + d) with d₀ + d degrees of freedom (Smyth 2004, doi:10.2202/1544-6115.1027, eq. 2 and
    theorem 1; the prior depends on a covariate as in limma's eBayes with trend). The prior s₀² is a kernel average over
    groups with similar losses, because training that fails at the edge varies more: log(1 + loss / 1 point), bandwidth
    0.7. d₀ is estimated from the spread of log s² about the prior (ibid., section 6.2) among the same
    groups, and is at most the degrees of freedom that the average rests on.

    Args:
        variances: s², of each group; NaN or anything for a group with no degrees of freedom.
        freedom: d, degrees of freedom of each, 0 for a single value.
        losses: accuracy, 0-1, that each group loses to the best one; below 0 counts as 0.

    Returns:
        s̃² and its degrees of freedom, at most those that the average rests on. NaN and 0 where no group has any.
    """
    variances, freedom = np.maximum(variances, _LEAST_VARIANCE), np.asarray(freedom, dtype=float)
    known = freedom > 0
    if not known.any():
        return np.full(len(freedom), np.nan), np.zeros(len(freedom))
    place = np.log1p(np.maximum(losses, 0) / _LOST_POINT)
    alike = np.exp(-0.5 * ((place[:, None] - place[known]) / _KERNEL) ** 2)
    weights = alike * freedom[known]
    weights /= weights.sum(axis=1, keepdims=True)
    prior = weights @ variances[known]
    behind = 1 / (weights**2 / freedom[known]).sum(axis=1)  # degrees of freedom of the average
    prior_freedom = np.minimum(_prior_freedom(variances, freedom, prior, alike, weights), behind)
    own = np.where(known, variances, 0)
    moderate = (prior_freedom * prior + freedom * own) / (prior_freedom + freedom)
    return moderate, np.minimum(prior_freedom + freedom, np.maximum(behind, freedom))


def _prior_freedom(
    variances: np.ndarray, freedom: np.ndarray, prior: np.ndarray, alike: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """d₀ of each group, from the spread of log s² about the prior among the groups that are alike."""
    known = freedom > 0
    # Groups without any spread, such as dead networks, say nothing of how others spread.
    spread = variances[known] > _LEAST_VARIANCE
    half = freedom[known][spread] / 2
    deviations = np.log(variances[known][spread] / prior[known][spread]) - special.digamma(half) + np.log(half)
    alike = alike[:, spread]
    left = alike @ (1 - np.diag(weights[known])[spread])
    total = np.maximum(alike.sum(axis=1), 1e-9)
    middle, by_chance = (alike @ deviations) / total, (alike @ special.polygamma(1, half)) / total
    squares = (alike * (deviations - middle[:, None]) ** 2).sum(axis=1)
    # Too few groups to tell: a prior worth two degrees of freedom.
    return np.array(
        [
            2 * _trigamma_inverse(square / count - chance) if count >= 1 else 2.0
            for square, count, chance in zip(squares, left, by_chance, strict=True)
        ]
    )


def _trigamma_inverse(value: float) -> float:
    """x with ψ′(x) = value; infinite for a value of 0 or less."""
    if value < 1e-6:
        return math.inf
    return math.exp(optimize.brentq(lambda log: special.polygamma(1, math.exp(log)) - value, -20, 20))
