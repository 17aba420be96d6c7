"""Epochs to tables: final accuracies, updates and time to a target, differences between modes. Pure functions.

study = Study.load("data")
over_seeds(final(study), "accuracy")         # mean, lowest and highest over the seeds, per mode and batch size
runs = to_target(study, 0.74)                # epochs, updates and seconds until each run reaches an accuracy
curve(runs, study.modes["baseline_large"])   # the runs of one mode, from the smallest batch size on
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK, at_least, difference_interval, mean_interval
from batchscale.modes import REFERENCE, Mode
from batchscale.records.study import RUN, Study, is_any

AMOUNTS = {"epochs": "epochs_trained", "updates": "updates_trained", "running_time": "time_trained"}


def stems(runs: pd.DataFrame) -> list[str]:
    """The names of records, without their endings: `scaled_lr_bs128_seed0`; each run once, in order."""
    distinct = runs[RUN].drop_duplicates().sort_values(RUN)
    return [f"{name}_bs{int(size)}_seed{int(seed)}" for name, size, seed in distinct.itertuples(index=False)]


def planned_epochs(epochs: pd.DataFrame) -> pd.Series:
    """Epochs after which the runs of a mode are compared: the commonest length of its runs, the longest of equals.

    The CSVs do not say how many epochs were planned. By this rule one run that was extended does not make all others
    look unfinished, nor one that was killed look finished. A series by mode.
    """
    lengths = epochs.groupby(RUN)["epoch"].max()
    return lengths.groupby("experiment").agg(lambda of_mode: of_mode.mode().max())


def final(study: Study) -> pd.DataFrame:
    """The row of every run at its mode's `planned_epochs`; runs that diverged or are under way have none."""
    epochs = _not_diverged(study)
    return epochs[epochs["epoch"] == epochs["experiment"].map(planned_epochs(epochs))].reset_index(drop=True)


def unfinished(study: Study) -> pd.DataFrame:
    """The last row of every run that did not diverge and that `final` leaves out."""
    epochs = _not_diverged(study)
    last = epochs.sort_values([*RUN, "epoch"]).drop_duplicates(RUN, keep="last")
    return last[last["epoch"] < last["experiment"].map(planned_epochs(epochs))].reset_index(drop=True)


def _not_diverged(study: Study) -> pd.DataFrame:
    return study.epochs[~is_any(study.epochs, study.diverged)]


def over_seeds(table: pd.DataFrame, column: str, by: tuple[str, ...] = ("experiment", "batch_size")) -> pd.DataFrame:
    """Mean, lowest and highest value of a column over the seeds, and their number: one row per group of `by`."""
    groups = table.groupby(list(by))[column]
    return groups.agg(mean="mean", low="min", high="max", deviation="std", seeds="count").reset_index()


def to_target(study: Study, target: float) -> pd.DataFrame:
    """Epochs, updates and running time until every run first reaches an accuracy, one row per run.

    The first epoch whose accuracy is at least the target and the epoch recorded before it are interpolated linearly. A
    run is censored where the records do not hold that moment:

    - `right`: it never reached the target. `epochs`, `updates` and `running_time` are NaN: all that is known is that
      they exceed `epochs_trained`, `updates_trained` and `time_trained`, which every run has.
    - `left`: its first recorded epoch is above the target already. No accuracy is measured before the first update, so
      nothing can be interpolated; the three are those at the end of that epoch, and upper bounds.
    - `no`: otherwise.

    An unfinished run is known as far as it goes. One that diverged before the target is right-censored and marked,
    since it would never have reached it; with no epoch at all it has trained zero of everything.

    Args:
        study: of CSVs with the study's five columns alone, `updates` is NaN and stays so.
        target: accuracy, 0-1.

    Returns:
        The columns RUN, `censored`, `diverged`, `epochs`, `updates`, `running_time`, and the three of what was trained.
    """
    epochs = study.epochs.sort_values([*RUN, "epoch"])
    names, sizes, seeds = (epochs[key].to_numpy() for key in RUN)
    accuracies = epochs["accuracy"].to_numpy(dtype=float)
    amounts = epochs[["epoch", "updates", "running_time"]].to_numpy(dtype=float)
    is_first = np.ones(len(epochs), dtype=bool)
    is_first[1:] = (names[1:] != names[:-1]) | (sizes[1:] != sizes[:-1]) | (seeds[1:] != seeds[:-1])
    starts = [*np.flatnonzero(is_first), len(epochs)]
    rows = []
    for start, end in pairwise(starts):
        accuracy, amount = accuracies[start:end], amounts[start:end]
        reached = np.flatnonzero(at_least(accuracy, target))
        at_target, censored = np.full(3, np.nan), "right"
        if len(reached):
            at, censored = reached[0], "no" if reached[0] else "left"
            at_target = amount[at]
            if at and accuracy[at - 1] < target:  # not NaN
                share = (target - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
                at_target = amount[at - 1] + share * (amount[at] - amount[at - 1])
        rows.append((names[start], sizes[start], seeds[start], censored, *at_target, *amount[-1]))
    seen = {row[:3] for row in rows}
    rows += [(*run, "right", *(3 * [np.nan]), 0.0, 0.0, 0.0) for run in study.diverged if run not in seen]
    table = pd.DataFrame(rows, columns=[*RUN, "censored", *AMOUNTS, *AMOUNTS.values()])
    table.insert(4, "diverged", is_any(table, study.diverged))
    return table.sort_values(RUN, ignore_index=True)


def curve(runs: pd.DataFrame, mode: Mode) -> pd.DataFrame:
    """The rows of a table of runs that make up a mode's curve over batch size.

    The curve of the base rate begins with the runs of the reference: it is one rule, the base rate, at smaller batch
    sizes. Where both have a batch size and seed, the mode's own run counts.
    """
    own = runs[runs["experiment"] == mode.name]
    if not mode.is_base_rate or mode.role == "reference":
        return own
    small = runs[runs["experiment"] == REFERENCE.name]
    twice = pd.MultiIndex.from_frame(small[RUN[1:]]).isin(pd.MultiIndex.from_frame(own[RUN[1:]]))
    joined = pd.concat([small[~twice], own]) if len(own) else small[~twice]
    return joined.sort_values(["batch_size", "seed"], ignore_index=True)


def means_to_target(runs: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over the seeds of `to_target`, per mode and batch size; NaN where a run is right-censored.

    The mean of those that did reach the target would be one of the lucky ones. `runs` and `reached` count them.
    """
    amounts = list(AMOUNTS)
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
    (Shallue et al. 2019). The regimes are told apart at −3/4 and −1/4, which for S = S_min·(1 + B_crit/B) are B_crit/3
    and 3·B_crit. Without updates, epochs/B stand in for them: the slope is the same.

    Args:
        runs: rows of `to_target`, of one mode.

    Returns:
        One row per pair: `from_batch_size`, `to_batch_size`, `slope`, `low`, `high` (95 % Welch t interval over the
        seeds; NaN with one), `regime`. Where a run never reached the target the slope is NaN and its regime empty; what
        is known of a pair whose larger batch is censored is a lower bound, in `low`.
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


def frontier(finals: pd.DataFrame, least: float = 0.0) -> pd.DataFrame:
    """The Pareto frontier of accuracy against running time, and what lies below it.

    One row per mode and batch size, from fast to slow, by their means over the seeds: `accuracy`, `running_time`,
    `seeds`, `dominated`, and `dominated_by` (the most accurate that is no slower; as a tuple of mode and batch size,
    None on the frontier). Of equals none is dominated. Assumes that all times are of one device.

    Args:
        finals: rows of `final`; those without accuracy or time are left out.
        least: accuracy that a combination has to exceed, or else it is left out: one that learned nothing may be fast.
    """
    finals = finals.dropna(subset=["accuracy", "running_time"])
    table = finals.groupby(["experiment", "batch_size"], as_index=False).agg(
        accuracy=("accuracy", "mean"), running_time=("running_time", "mean"), seeds=("seed", "count")
    )
    table = table[~at_least(least, table["accuracy"])]
    table = table.sort_values(["running_time", "accuracy"], ascending=[True, False], ignore_index=True)
    times, accuracies = table["running_time"].to_numpy(), table["accuracy"].to_numpy()
    best = []  # the place of the most accurate up to each place, of equals the fastest
    for place, accuracy in enumerate(accuracies):
        best.append(best[-1] if place and at_least(accuracies[best[-1]], accuracy) else place)
    no_slower = np.searchsorted(times, times * (1 + SLACK), "right")  # how many are, itself included
    faster = np.searchsorted(times, times * (1 - SLACK), "left")
    names, by = list(zip(table["experiment"], table["batch_size"].tolist(), strict=True)), []
    for accuracy, some, fewer in zip(accuracies, no_slower, faster, strict=True):
        better = best[some - 1]
        if at_least(accuracy, accuracies[better]):  # none is more accurate; one as accurate may be faster
            better = best[fewer - 1] if fewer and at_least(accuracies[best[fewer - 1]], accuracy) else None
        by.append(None if better is None else names[better])
    table["dominated"] = [place is not None for place in by]
    table["dominated_by"] = pd.Series(by, dtype=object)
    return table


def paired_differences(finals: pd.DataFrame, ours: str, theirs: str, column: str = "accuracy") -> pd.DataFrame:
    """Mean difference, ours − theirs, of runs with the same seed and batch size, per batch size that both have.

    `difference`, `low`, `high` (95 % t interval over the pairs), `pairs`. With fewer than two pairs all three are NaN
    and `reason` says so. Runs that diverged or are unfinished are in no pair.

    Args:
        finals: rows of `final`.
        ours, theirs: names of modes.
        column: what is compared.
    """
    keys = ["batch_size", "seed"]
    both = [finals.loc[finals["experiment"] == name, [*keys, column]] for name in (ours, theirs)]
    pairs = both[0].merge(both[1], on=keys, suffixes=("", "_theirs"))
    rows = []
    for size in sorted(set(both[0]["batch_size"]) & set(both[1]["batch_size"])):
        of_size = pairs[pairs["batch_size"] == size]
        values = (of_size[column] - of_size[f"{column}_theirs"]).dropna()
        is_known = len(values) >= 2
        reason = None if is_known else Reason.of("too few pairs", pairs=len(values))
        rows.append((size, values.mean() if is_known else np.nan, *mean_interval(values), len(values), reason))
    return pd.DataFrame(rows, columns=["batch_size", "difference", "low", "high", "pairs", "reason"])


def noise_scales(epochs: pd.DataFrame) -> pd.DataFrame:
    """Gradient noise scale B_simple of every run that measured it, in images, to stand beside the critical batch size.

    One row per run: RUN, `median`, `low` and `high` over its epochs (it grows while the loss falls, McCandlish et al.
    2018, so the range is part of the answer), `epochs`, and of these `measured`, the number that have one. In a run
    with any, NaN is an epoch where it was not measurable (𝒢² ≤ 0): the noise hides the gradient, so it is large rather
    than small. It counts as +∞, or else the median would be too low; a median or a `high` that would be infinite is
    NaN. A run that never measured it has no row.
    """
    scales = epochs["noise_scale"].astype(float)
    groups = epochs[RUN].assign(scale=scales.fillna(np.inf), is_measured=scales.notna()).groupby(RUN)
    table = groups["scale"].agg(["median", "min", "max", "size"]).set_axis(["median", "low", "high", "epochs"], axis=1)
    table["measured"] = groups["is_measured"].sum()
    return table[table["measured"] > 0].replace(np.inf, np.nan).reset_index()
