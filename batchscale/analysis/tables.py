"""Epochs to tables: final accuracies, updates and time to a target, differences between modes. Pure functions.

study = Study.load("data")
over_seeds(final(study), "accuracy")         # mean, lowest and highest over the seeds, per mode and batch size
runs = to_target(study, 0.74)                # epochs, updates and seconds until each run reaches an accuracy
curve(runs, study.modes["scaled_lr"], beginning)   # the runs of one mode, from the reference on
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.accuracies import moderated
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK, at_least, difference_interval
from batchscale.modes import MODES, REFERENCE, Mode
from batchscale.records.study import RUN, Study, is_any

_AVERAGED = ("accuracy", "generalization_error", "train_accuracy", "train_loss", "test_loss")
AMOUNTS = {"epochs": "epochs_trained", "updates": "updates_trained", "running_time": "time_trained"}


def stems(runs: pd.DataFrame) -> list[str]:
    """The names of records, without their endings: `scaled_lr_bs128_seed0`; each run once, in order."""
    distinct = runs[RUN].drop_duplicates().sort_values(RUN)
    return [f"{name}_bs{int(size)}_seed{int(seed)}" for name, size, seed in distinct.itertuples(index=False)]


def planned_epochs(study: Study) -> pd.Series:
    """Epochs after which the runs of a mode and batch size are compared: their commonest length, of equals the longest.

    A series by mode and batch size. Where no epoch is recorded, updates take their place.

    The CSVs do not say how many epochs were planned. By this rule one run that was extended does not make the others
    look unfinished, nor one that was killed look finished. Runs whose sidecar says that they are under way do not count
    beside others. Without sidecars, a batch size whose runs are shorter than those of some smaller and of some larger
    one was not trained to the end: the shorter of these two lengths was planned.
    """
    runs = _lengths(study.epochs).merge(study.runs, on=RUN)
    done = runs[~runs["status"].isin(["running", "diverged"])]
    by_size = _commonest(done, ["experiment", "batch_size"])
    by_mode = _commonest(done, ["experiment"]).combine_first(_commonest(runs, ["experiment"]))
    keys = pd.MultiIndex.from_frame(runs[["experiment", "batch_size"]].drop_duplicates())
    planned = by_size.reindex(keys)
    planned = planned.fillna(pd.Series(by_mode.reindex(keys.get_level_values(0)).to_numpy(), keys)).sort_index()
    certain = set(done.loc[done["status"] == "complete", "experiment"])
    for name, of_mode in planned.groupby("experiment"):
        if name not in certain:
            around = np.minimum(of_mode.cummax(), of_mode[::-1].cummax()[::-1])
            planned[of_mode.index] = np.maximum(of_mode, around)
    return planned


def _lengths(epochs: pd.DataFrame) -> pd.DataFrame:
    """Epochs of each run, or its updates where it has none, in the column `length`; NaN for results alone."""
    last = epochs.groupby(RUN)[["epoch", "updates"]].max()
    return last["epoch"].fillna(last["updates"]).rename("length").reset_index()


def _commonest(runs: pd.DataFrame, by: list[str]) -> pd.Series:
    return runs.groupby(by)["length"].agg(lambda of_group: of_group.mode().max()).astype(float)


def final(study: Study, epochs: int = 1) -> pd.DataFrame:
    """The row of every run after its `planned_epochs`; runs that diverged or are under way have none.

    A run that a search gave up (`Study.lost`) has its last row, with the most that its accuracy could become, and no
    other means.

    Its accuracy, generalization error and losses are means over the last so many recorded epochs, or over as many as
    there are.
    """
    table = _with_length(study)
    reached = table.groupby(RUN)["length"].transform("max") >= table["planned"]
    table = table[(reached & (table["length"] <= table["planned"])) | table["length"].isna()]
    last = table.groupby(RUN).tail(epochs)
    means = last.groupby(RUN)[list(_AVERAGED)].mean().reset_index()
    rows = last.groupby(RUN).tail(1).drop(columns=[*_AVERAGED, "length", "planned"])
    rows = rows.merge(means, on=RUN)[list(study.epochs.columns)]
    if not study.lost:
        return rows.reset_index(drop=True)
    lost = study.epochs[is_any(study.epochs, study.lost)].groupby(RUN).tail(1)
    most = [study.lost[run][1] for run in lost[RUN].itertuples(index=False, name=None)]
    lost = lost.assign(**dict.fromkeys(_AVERAGED, np.nan)).assign(accuracy=most)
    return pd.concat([rows, lost], ignore_index=True).sort_values(RUN, ignore_index=True)


def unfinished(study: Study) -> pd.DataFrame:
    """The last row of every run that did not diverge and that `final` leaves out."""
    table = _with_length(study)
    table = table[~is_any(table, study.lost)]
    last = table.groupby(RUN).tail(1)
    return last[last["length"] < last["planned"]].drop(columns=["length", "planned"]).reset_index(drop=True)


def _with_length(study: Study) -> pd.DataFrame:
    """The epochs of the runs that did not diverge, with `length` so far and the one `planned`."""
    epochs = study.epochs[~is_any(study.epochs, study.diverged)]
    counts_updates = epochs["epoch"].isna().groupby([epochs[key] for key in RUN]).transform("all")
    length = epochs["updates"].where(counts_updates, epochs["epoch"])
    keys = pd.MultiIndex.from_frame(epochs[["experiment", "batch_size"]])
    planned = planned_epochs(study).reindex(keys).to_numpy() if len(epochs) else np.array([])
    table = epochs.assign(length=length.astype(float), planned=planned)
    return table.sort_values([*RUN, "length"], kind="stable")


def over_seeds(table: pd.DataFrame, column: str, by: tuple[str, ...] = ("experiment", "batch_size")) -> pd.DataFrame:
    """Mean, lowest and highest value of a column over the seeds, and their number: one row per group of `by`."""
    groups = table.groupby(list(by))[column]
    return groups.agg(mean="mean", low="min", high="max", deviation="std", seeds="count").reset_index()


def to_target(study: Study, target: float | None) -> pd.DataFrame:
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
        target: accuracy, 0-1; None: no curve reaches it, and of the tables that give the updates to a goal alone, each
            mode's own, see `own_goals`.

    Returns:
        The columns RUN, `censored`, `diverged`, `epochs`, `updates`, `running_time`, and the three of what was trained.
    """
    epochs = study.epochs.sort_values([*RUN, "epoch", "updates"], kind="stable")
    epochs = epochs[epochs[["epoch", "updates"]].notna().any(axis=1)]  # or else a final accuracy alone
    names, sizes, seeds = (epochs[key].to_numpy() for key in RUN)
    accuracies = epochs["accuracy"].to_numpy(dtype=float)
    amounts = epochs[["epoch", "updates", "running_time"]].to_numpy(dtype=float)
    is_first = np.ones(len(epochs), dtype=bool)
    is_first[1:] = (names[1:] != names[:-1]) | (sizes[1:] != sizes[:-1]) | (seeds[1:] != seeds[:-1])
    starts = [*np.flatnonzero(is_first), len(epochs)]
    rows = []
    for start, end in pairwise(starts):
        accuracy, amount = accuracies[start:end], amounts[start:end]
        reached = np.flatnonzero(at_least(accuracy, math.inf if target is None else target))
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
    rows += _goals(study, target)
    table = pd.DataFrame(rows, columns=[*RUN, "censored", *AMOUNTS, *AMOUNTS.values()])
    table.insert(4, "diverged", is_any(table, study.diverged))
    return table.sort_values(RUN, ignore_index=True)


def own_goals(study: Study) -> pd.Series:
    """By mode, of the targets of its tables of results the one with most batch sizes, of equals the highest."""
    sizes = study.goals.groupby(["experiment", "target"])["batch_size"].nunique().reset_index()
    return sizes.sort_values(["batch_size", "target"]).groupby("experiment")["target"].last()


def _goals(study: Study, target: float | None) -> list[tuple]:
    """Rows of `to_target` from tables that give the updates to a target alone."""
    wanted = study.goals["experiment"].map(own_goals(study)) if target is None else target
    goals = study.goals[(study.goals["target"] - wanted).abs() <= SLACK]
    rows = []
    for goal in goals.itertuples():
        amounts = (goal.epochs, goal.updates, goal.running_time)
        trained = (goal.epochs, goal.updates if goal.updates > 0 else goal.updates_trained, goal.running_time)
        censored = "no" if goal.updates > 0 else "right"
        rows.append((goal.experiment, goal.batch_size, goal.seed, censored, *amounts, *trained))
    return rows


@dataclass(frozen=True)
class Beginning:
    """Which runs of the reference belong to the curve of a mode, because there both are one experiment."""

    modes: tuple[str, ...] = ()
    """names of the reference's"""
    largest: float = 0
    """batch size up to which its runs are the mode's as well"""
    first: float = 0
    """batch size at which the curve begins; smaller ones train worse than it"""


def curve(runs: pd.DataFrame, mode: Mode, beginning: Beginning) -> pd.DataFrame:
    """The rows of a table that make up a mode's curve over batch size: its own, and those of the reference that it
    begins with. Where both have a batch size and seed, the mode's own run counts, and the reference's is not a second
    one. Of two rows of `accuracies` for a batch size, the one of more runs counts, of equals the mode's own."""
    keys = [key for key in RUN[1:] if key in runs.columns]
    own = runs[runs["experiment"] == mode.name]
    shared = runs[runs["experiment"].isin(beginning.modes) & (runs["experiment"] != mode.name)]
    shared = shared[shared["batch_size"] <= beginning.largest].drop_duplicates(keys)
    if "seeds" in runs.columns:
        ours, theirs = ((rows["seeds"] + rows["diverged"]).set_axis(rows["batch_size"]) for rows in (own, shared))
        own = own[~(theirs.reindex(ours.index) > ours).to_numpy()]
    twice = pd.MultiIndex.from_frame(shared[keys]).isin(pd.MultiIndex.from_frame(own[keys]))
    parts = [part for part in (shared[~twice], own) if len(part)]
    joined = pd.concat(parts) if parts else own
    return joined[joined["batch_size"] >= beginning.first].sort_values(keys, ignore_index=True)


def seconds_per_update(epochs: pd.DataFrame, *, by_epochs: bool = False) -> pd.DataFrame:
    """Training time of an update by batch size: the median over the epochs of each run, and over the runs.

    Of any mode, since the rule costs nothing. Epochs without times or `updates`, and times of 0, say nothing.

    Args:
        epochs: of a study.
        by_epochs: where records lack their updates, count epochs/B in their place. All times are then in units of the
            number of training images, and only their ratios mean anything.

    Returns:
        `batch_size`, `seconds`, and `error`: the standard error of log seconds over the runs, with the deviation of all
        batch sizes together; NaN where no batch size has two runs.
    """
    epochs = epochs.sort_values([*RUN, "epoch", "updates"], kind="stable")
    runs = [epochs[key] for key in RUN]
    amounts = epochs[["updates", "epoch", "running_time"]].astype(float)
    step = amounts.groupby(runs).diff().fillna(amounts)
    updates = step["epoch"] / epochs["batch_size"] if by_epochs else step["updates"]
    seconds = step["running_time"].fillna(epochs["epoch_time"].astype(float)) / updates
    seconds = seconds.where(np.isfinite(seconds) & (seconds > 0))
    by_run = np.log(seconds.groupby(runs).median().dropna()).rename("log")
    groups = by_run.groupby("batch_size")
    table = groups.agg(["median", "count"])
    freedom = (table["count"] - 1).sum()
    deviation = np.sqrt(((by_run - groups.transform("mean")) ** 2).sum() / freedom) if freedom else np.nan
    table["seconds"], table["error"] = np.exp(table["median"]), deviation / np.sqrt(table["count"])
    return table[["seconds", "error"]].reset_index()


def means_to_target(runs: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over the seeds of `to_target`, per mode and batch size; NaN where a run is censored.

    The mean of those that did reach the target would be one of the lucky ones, and one of upper bounds would rank
    before what it may exceed. `runs` counts all, `reached` those that reached the target, `bounds` those of them that
    did so within their first epoch.
    """
    amounts = list(AMOUNTS)
    reached = (runs["censored"] != "right").rename("reached")
    bounds = (runs["censored"] == "left").rename("bounds")
    logs = np.log(runs[amounts].astype(float).where(runs[amounts] > 0))
    groups = pd.concat([runs[RUN[:2]], logs, reached, bounds], axis=1).groupby(RUN[:2])
    table = np.exp(groups[amounts].mean())
    table["runs"], table["reached"], table["bounds"] = groups.size(), groups["reached"].sum(), groups["bounds"].sum()
    table.loc[(table["reached"] < table["runs"]) | (table["bounds"] > 0), amounts] = np.nan
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
        least: accuracy that every run of a combination has to exceed, or else it is left out: one that learned nothing
            may be fast.
    """
    finals = finals.dropna(subset=["accuracy", "running_time"])
    table = finals.groupby(["experiment", "batch_size"], as_index=False).agg(
        accuracy=("accuracy", "mean"),
        running_time=("running_time", "mean"),
        seeds=("seed", "count"),
        worst=("accuracy", "min"),
    )
    table = table[~at_least(least, table["worst"])].drop(columns="worst")
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

    `difference`, `low`, `high` (95 % interval by the moderated variance of the differences, see
    `accuracies.moderated`), `pairs`, `reason`. Without a pair the difference is NaN; where no batch size has two pairs
    the bounds are NaN. `reason` says so. Runs that diverged or are unfinished are in no pair.

    The base rate trains as the reference does, and may be recorded as the reference alone. Where it lacks a run, that
    of the reference counts, unless it is compared with the reference, or with a run at the same learning rate: at
    B ≤ B_ref both would be one run.

    Args:
        finals: rows of `final`.
        ours, theirs: names of modes.
        column: what is compared.
    """
    keys = ["batch_size", "seed"]
    both = [_base_rate_with_reference(finals, *names)[[*keys, column]] for names in ((ours, theirs), (theirs, ours))]
    pairs = both[0].merge(both[1], on=keys, suffixes=("", "_theirs"))
    pairs = pairs.assign(difference=pairs[column] - pairs[f"{column}_theirs"]).dropna(subset="difference")
    sizes = sorted(set(both[0]["batch_size"]) & set(both[1]["batch_size"]))
    groups = pairs.groupby("batch_size")
    table = pd.DataFrame({"difference": groups["difference"].mean(), "pairs": groups.size()}).reindex(sizes)
    table["pairs"] = table["pairs"].fillna(0).astype(int)
    worse = groups[[column, f"{column}_theirs"]].mean().min(axis=1).reindex(sizes)
    variance, freedom = moderated(
        groups["difference"].var().reindex(sizes).to_numpy(),
        (table["pairs"] - 1).clip(lower=0).to_numpy(),
        (finals[column].max() - worse).fillna(0).to_numpy(),
    )
    half = stats.t.ppf(0.975, np.maximum(freedom, 1)) * np.sqrt(variance / table["pairs"].where(table["pairs"] > 0))
    table["low"], table["high"] = table["difference"] - half, table["difference"] + half
    table["reason"] = [
        None if np.isfinite(low) else Reason.of("too few pairs", pairs=count)
        for low, count in zip(table["low"], table["pairs"], strict=True)
    ]
    table = table.rename_axis("batch_size").reset_index()
    return table[["batch_size", "difference", "low", "high", "pairs", "reason"]]


def _base_rate_with_reference(finals: pd.DataFrame, name: str, other: str) -> pd.DataFrame:
    """The rows of a mode, and those of the reference that stand for its own, see `paired_differences`."""
    own, others = (finals[finals["experiment"] == each] for each in (name, other))
    if REFERENCE.name in (name, other) or not (name in MODES and MODES[name].is_base_rate):
        return own
    found = finals[finals["experiment"] == REFERENCE.name]
    for rows, keys in ((own, RUN[1:]), (others, [*RUN[1:], "learning_rate"])):
        found = found[~pd.MultiIndex.from_frame(found[keys]).isin(pd.MultiIndex.from_frame(rows[keys]))]
    return pd.concat([own, found]) if len(found) else own


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
