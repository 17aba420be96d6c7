"""Records to results: pure functions on tidy frames, a row an epoch (see `records.load`).

records = load("data")
threshold(records).accuracy                  # what a larger minibatch has to keep
over_seeds(final(records), "accuracy")       # mean, lowest and highest of the seeds, a row a batch size and mode
to_target(records, 0.74)                     # epochs, updates and seconds until each run reaches an accuracy

A CSV does not say that its run diverged. Functions that need to know take `diverged`: the runs that did, as tuples of
experiment, batch size and seed (see `records.diverged`). `breaking_point` and `findings` go on from here.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.modes import MODES

RUN = ["experiment", "batch_size", "seed"]  # what tells one run from another
Run = tuple[str, int, int]

# What is compared with what, over equal batch sizes and seeds: a name, a mode, and the mode that lacks it.
COMPARISONS = (
    ("scaling", "scaled_lr", "baseline_large"),
    ("gradual warm-up", "gradual_warmup_scaled_lr", "scaled_lr"),
)


@dataclass(frozen=True)
class Threshold:
    """The accuracy that a large minibatch has to keep."""

    accuracy: float  # `best` less the tolerance
    best: float  # mean final accuracy of the best small batch size, or of all of them
    from_batch_size: int | None  # the best one; None where it is the mean of all
    tolerance: float
    seeds: int  # behind the mean
    by_seed: tuple[float, ...] = ()  # their final accuracies, which have `best` as their mean

    @property
    def standard_deviation(self) -> float:
        """Of the final accuracy over seeds; NaN with one seed."""
        return float(np.std(self.by_seed, ddof=1)) if self.seeds > 1 else np.nan


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
    """Difference of two means, ours − theirs, and its Welch t interval; NaN bounds where either has one value.

    An infinite value makes the difference infinite, and certain; two of them make it NaN.
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


def in_order(names: Iterable[str]) -> list[str]:
    """Modes in the study's order, then the user's own by name."""
    names = set(names)
    return [name for name in MODES if name in names] + sorted(names - set(MODES))


def without(records: pd.DataFrame, runs: Collection[Run]) -> pd.DataFrame:
    """All rows but those of some runs."""
    return records[~_is_any(records, runs)].reset_index(drop=True)


def stems(runs: pd.DataFrame) -> list[str]:
    """The names of records, without their endings: `scaled_lr_bs128_seed0`; each run once, in order."""
    distinct = runs[RUN].drop_duplicates().sort_values(RUN)
    return [f"{name}_bs{int(size)}_seed{int(seed)}" for name, size, seed in distinct.itertuples(index=False)]


def planned_epochs(records: pd.DataFrame) -> pd.Series:
    """Epochs after which the runs of a mode are compared: the commonest length of its runs, the longest of equals.

    The CSVs do not say how many epochs were planned. By this rule one run that was extended does not make all others
    look unfinished, nor one that was killed look finished. A series by experiment.
    """
    lengths = records.groupby(RUN)["epoch"].max()
    return lengths.groupby("experiment").agg(lambda of_mode: of_mode.mode().max())


def final(records: pd.DataFrame) -> pd.DataFrame:
    """The row of every run at its mode's `planned_epochs`; runs that diverged or are under way have none."""
    return records[records["epoch"] == records["experiment"].map(planned_epochs(records))].reset_index(drop=True)


def unfinished(records: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run that `final` leaves out."""
    last = records.sort_values("epoch").groupby(RUN, as_index=False).tail(1)
    return last[last["epoch"] < last["experiment"].map(planned_epochs(records))].reset_index(drop=True)


def over_seeds(records: pd.DataFrame, column: str, by: tuple[str, ...] = ("experiment", "batch_size")) -> pd.DataFrame:
    """Mean, lowest and highest value of a column over the seeds, and how many there are: a row a group of `by`."""
    table = records.groupby(list(by))[column].agg(mean="mean", low="min", high="max", seeds="count")
    return table.reset_index()


def threshold(
    records: pd.DataFrame,
    tolerance: float = 0.01,
    experiment: str = "baseline_small",
    of: str = "best",
    diverged: Collection[Run] = (),
) -> Threshold | None:
    """Best small batch size's mean final accuracy, less a tolerance (Masters & Luschi 2018 found 2-32 best).

    The best of several means is a little too high: by chance as well as by merit. `of="mean"` is not, and asks less.

    Args:
        records: tidy frame of any modes.
        tolerance: absolute loss of accuracy, in 0-1, that still counts as keeping it.
        experiment: the mode whose batch sizes set it.
        of: "best", or "mean": of the batch sizes' means, each counting once.
        diverged: runs that do not count.

    Returns:
        None where no run of that mode is finished. Of batch sizes with the same mean the smallest counts.

    Raises:
        ValueError: `of` is neither.
    """
    if of not in ("best", "mean"):
        raise ValueError(f"of is {of!r}; it must be best or mean")
    small = final(without(records[records["experiment"] == experiment], diverged)).dropna(subset="accuracy")
    if small.empty:
        return None
    table = small.pivot_table("accuracy", "seed", "batch_size")
    best = int(table.mean().idxmax())
    if of == "best":
        table = table[[best]].dropna()
    # A seed that some batch sizes lack is judged by those it has, less what these have over the others.
    by_seed = (table - table.mean()).mean(axis=1) + table.mean().mean()
    return Threshold(
        accuracy=float(table.mean().mean()) - tolerance,
        best=float(table.mean().mean()),
        from_batch_size=best if of == "best" else None,
        tolerance=tolerance,
        seeds=len(by_seed),
        by_seed=tuple(by_seed.tolist()),
    )


def to_target(records: pd.DataFrame, target: float, diverged: Collection[Run] = ()) -> pd.DataFrame:
    """Epochs, updates and running time until every run first reaches an accuracy, a row a run.

    The first epoch whose accuracy is at least the target, and the one recorded before it, are interpolated linearly.
    A run is censored where the records do not hold the moment itself:

    - `right`: it never reached the target. `epochs`, `updates` and `running_time` are NaN: all that is known is that
      they exceed `epochs_trained`, `updates_trained` and `time_trained`, which every run has.
    - `left`: its first recorded epoch is above the target already. No accuracy is measured before the first update, so
      nothing can be interpolated; the three are those at the end of that epoch, and upper bounds.
    - `no`: otherwise.

    An unfinished run is no different: it is known as far as it goes. One that diverged before is right-censored, and
    marked, since it never would have; with no epoch at all it has zeros for what it trained.

    Args:
        records: tidy frame; in CSVs of the study's five columns `updates` is NaN, and stays so.
        target: accuracy, 0-1.
        diverged: runs that ended with a loss that was not finite.

    Returns:
        Columns of RUN, `censored`, `diverged`, `epochs`, `updates`, `running_time`, and the three of what was trained.
    """
    amounts = {"epochs": "epoch", "updates": "updates", "running_time": "running_time"}
    trained = dict(zip(amounts, ("epochs_trained", "updates_trained", "time_trained"), strict=True))
    rows = []
    for run, epochs in records.sort_values("epoch").groupby(RUN):
        accuracy = epochs["accuracy"].to_numpy(dtype=float)
        reached = np.flatnonzero(accuracy >= target)
        row = dict(zip(RUN, run, strict=True)) | {"censored": "no" if len(reached) else "right"}
        if len(reached) and reached[0] == 0:
            row["censored"] = "left"
        for name, column in amounts.items():
            values = epochs[column].to_numpy(dtype=float)
            row[trained[name]], row[name] = values[-1], np.nan
            if len(reached):
                at = reached[0]
                row[name] = values[at]
                if at and accuracy[at - 1] < target:  # not NaN
                    share = (target - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
                    row[name] = values[at - 1] + share * (values[at] - values[at - 1])
        rows.append(row)
    seen = {tuple(row[key] for key in RUN) for row in rows}
    nothing = {"censored": "right", **dict.fromkeys(amounts, np.nan), **dict.fromkeys(trained.values(), 0.0)}
    rows += [dict(zip(RUN, run, strict=True)) | nothing for run in sorted(set(diverged) - seen)]
    table = pd.DataFrame(rows, columns=[*RUN, "censored", *amounts, *trained.values()])
    table.insert(4, "diverged", _is_any(table, diverged))
    return table.sort_values(RUN, ignore_index=True)


def means_to_target(runs: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over the seeds of `to_target`, a row a mode and batch size; NaN where a run is right-censored.

    The mean of those that did reach the target would be one of the lucky ones. `runs` and `reached` count them.
    """
    amounts = ["epochs", "updates", "running_time"]
    reached = (runs["censored"] != "right").rename("reached")
    logs = np.log(runs[amounts].astype(float).where(runs[amounts] > 0))
    groups = pd.concat([runs[RUN[:2]], logs, reached], axis=1).groupby(RUN[:2])
    table = np.exp(groups[amounts].mean())
    table["runs"], table["reached"] = groups.size(), groups["reached"].sum()
    table.loc[table["reached"] < table["runs"], amounts] = np.nan
    return table.reset_index()


def updates_or_bounds(runs: pd.DataFrame) -> tuple[pd.Series, bool]:
    """Updates to target of rows of `to_target`; of right-censored ones the updates made, which are a lower bound.

    Where any run lacks its updates (a CSV of the study's five columns), all are in units of the number n of training
    images, epochs/B ≈ updates/n, and the second value is True: ratios are right, but for the last, incomplete
    minibatch.
    """
    right = runs["censored"] == "right"
    updates = runs["updates"].where(~right, runs["updates_trained"]).astype(float)
    if updates.isna().any():
        return runs["epochs"].where(~right, runs["epochs_trained"]) / runs["batch_size"], True
    return updates, False


def local_slopes(runs: pd.DataFrame) -> pd.DataFrame:
    """Slope of log updates-to-target over log B between neighbouring batch sizes of one mode, and its regime.

    −1 is perfect scaling (twice the batch, half the updates), 0 maximal data parallelism, between them gains diminish
    (Shallue et al. 2019); the regimes are told apart at −3/4 and −1/4, which for S = S_min·(1 + B_crit/B) are B_crit/3
    and 3·B_crit. Without updates, epochs/B stand in for them: the slope is the same.

    Args:
        runs: rows of `to_target`, of one mode.

    Returns:
        A row a pair: `from_batch_size`, `to_batch_size`, `slope`, `low`, `high` (95 % Welch t interval over the seeds;
        NaN with one), `regime`. Where a run never reached the target the slope is NaN and its regime empty; what is
        known of a pair whose larger batch is censored is a lower bound, in `low`.
    """
    rows, previous = [], None
    steps, _ = updates_or_bounds(runs)
    for size, of_size in runs[steps > 0].groupby("batch_size"):  # a run without an epoch says nothing
        logs, complete = np.log(steps[of_size.index]), bool((of_size["censored"] != "right").all())
        if previous is not None:
            smaller, theirs, known = previous
            slope, low, high = np.array(difference_interval(logs, theirs)) / np.log(size / smaller)
            if not (complete and known):
                slope, low, high = np.nan, slope if known else np.nan, np.nan
            rows.append((smaller, size, slope, low, high, regime(slope)))
        previous = size, logs, complete
    return pd.DataFrame(rows, columns=["from_batch_size", "to_batch_size", "slope", "low", "high", "regime"])


def regime(slope: float) -> str | None:
    """The name of a slope of log updates over log B; None for NaN."""
    if np.isnan(slope):
        return None
    return (
        "perfect scaling" if slope <= -0.75 else "diminishing returns" if slope < -0.25 else "maximal data parallelism"
    )


def frontier(finals: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against running time: which mode and batch size nobody would choose, since another is better in both.

    A row a mode and batch size, from fast to slow, by their means over the seeds: `accuracy`, `running_time`, `seeds`,
    `dominated`, and `dominated_by` (the most accurate that is as fast or faster; as a tuple of mode and batch size,
    None on the frontier). Of equals none is dominated. Assumes that all times are of one device.

    Args:
        finals: rows of `final`; those without accuracy or time are left out.
    """
    finals = finals.dropna(subset=["accuracy", "running_time"])
    table = finals.groupby(["experiment", "batch_size"], as_index=False).agg(
        accuracy=("accuracy", "mean"), running_time=("running_time", "mean"), seeds=("seed", "count")
    )
    table = table.sort_values(["running_time", "accuracy"], ascending=[True, False], ignore_index=True)
    by = []
    for row in table.itertuples():
        as_good = (table["accuracy"] >= row.accuracy) & (table["running_time"] <= row.running_time)
        better = table[as_good & ((table["accuracy"] > row.accuracy) | (table["running_time"] < row.running_time))]
        best = better.loc[better["accuracy"].idxmax()] if len(better) else None
        by.append(None if best is None else (best["experiment"], int(best["batch_size"])))
    table["dominated"] = [place is not None for place in by]
    table["dominated_by"] = pd.Series(by, dtype=object)
    return table


def paired_differences(finals: pd.DataFrame, ours: str, theirs: str, column: str = "accuracy") -> pd.DataFrame:
    """Mean difference, ours − theirs, of runs with the same seed and batch size, a row a batch size that both have.

    `difference`, `low`, `high` (95 % t interval over the pairs), `pairs`; with fewer than two pairs all three are NaN
    and `reason` says so. Runs that diverged or are unfinished are in no pair.

    Args:
        finals: rows of `final`.
        ours, theirs: modes.
        column: what is compared.
    """
    keys = ["batch_size", "seed"]
    both = [finals.loc[finals["experiment"] == name, [*keys, column]] for name in (ours, theirs)]
    pairs = both[0].merge(both[1], on=keys, suffixes=("", "_theirs"))
    rows = []
    for size in sorted(set(both[0]["batch_size"]) & set(both[1]["batch_size"])):
        of_size = pairs[pairs["batch_size"] == size]
        values = (of_size[column] - of_size[f"{column}_theirs"]).dropna()
        known = len(values) >= 2
        reason = (
            None if known else f"{len(values)} pair{'' if len(values) == 1 else 's'} of equal seeds; two are needed"
        )
        rows.append((size, values.mean() if known else np.nan, *mean_interval(values), len(values), reason))
    return pd.DataFrame(rows, columns=["batch_size", "difference", "low", "high", "pairs", "reason"])


def noise_scales(records: pd.DataFrame) -> pd.DataFrame:
    """Gradient noise scale B_simple of every run that measured it, in images, to stand beside the critical batch size.

    A row a run: RUN, `median`, `low` and `high` over its epochs (it grows while the loss falls, McCandlish et al. 2018,
    so the range is part of the answer), `epochs`, and of these `measured`, the number that have one. In a run with any,
    NaN is an epoch where it was not measurable (𝒢² ≤ 0): the noise hides the gradient, so it is large rather than
    small. It counts as +∞, or else the median would be too low; a median or a `high` that would be infinite is NaN. A
    run without any has no row: it did not measure.
    """
    table = records.groupby(RUN)["noise_scale"].agg(
        median=censored_median, low="min", high=lambda epochs: epochs.max(skipna=False), epochs="size", measured="count"
    )
    return table[table["measured"] > 0].reset_index()


def censored_median(values: Collection[float]) -> float:
    """Median of values where NaN is one above all others, of unknown size; NaN where it depends on that size."""
    values = np.asarray(values, dtype=float)
    median = np.median(np.where(np.isnan(values), np.inf, values))
    return float(median) if np.isfinite(median) else np.nan


def _is_any(table: pd.DataFrame, runs: Collection[Run]) -> np.ndarray:
    runs = set(runs)
    return np.array([run in runs for run in table[RUN].itertuples(index=False, name=None)], dtype=bool)
