"""Which rule, or which size? Final accuracy by batch size and learning rate, and the rate that is best at each size.

    study = Study.load("data")
    found = landscape(Study.load("data/landscape"), study)
    found.exponent                              # of the best rate over the batch size; 1 is the linear rule
    findings.analyse(with_tuned(study, found))  # with the mode "tuned rate": at every batch size its best rate

Where a rule's rate loses the accuracy and the best rate keeps it, the rule broke and not the batch size. Pure
functions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis import tables
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import at_least, first_best
from batchscale.modes import TUNED
from batchscale.records.study import AGREEING, RUN, Run, Study
from batchscale.schedules import LRScaling, scaling_factor

_LEAST_RATES = 3  # at a batch size; the best of fewer says nothing
_LEAST_SIZES = 3  # for a slope with an interval
CLOSE = 0.01  # loss of accuracy up to which a rate is about as good as the best
_FAILS = 0.05  # loss of accuracy at the best rate beyond which that rate says nothing about scaling


@dataclass(frozen=True, eq=False)
class Landscape:
    """What runs at several learning rates say. A learning rate is the one after the warm-up, before any decay.

    Attributes:
        cells: one row per batch size and learning rate, of batch sizes with three rates or more: `batch_size`,
            `learning_rate`, `accuracy` (mean; NaN without a finished run), `seeds` (finished runs), `diverged` (number
            of runs; where there is one, the rate is not among the best).
        best: one row per batch size: the best `learning_rate` that was tried, with its `accuracy` and `seeds`. `low`
            and `high` are the lowest and the highest rate tried that lose a point at most. `peak` is the rate at the
            top of the parabola through the best accuracy and the two beside it, over the logarithm of the rate; NaN
            where the best rate is the lowest or highest tried, or a run beside it diverged.
        fitted: batch sizes with a peak, at which the best rate loses no more than `_FAILS` to the best of all cells.
            Where every rate fails, the best of them is the one that fails least, and follows no rule.
        exponent: p of peak ∝ B^p over these, by least squares on logarithmic axes; None where they are fewer than
            three.
        interval: its 95 % interval, from the scatter about the line; Student's t.
        level: rate of the fitted line at a batch size of 1.
        tuned: the runs at the best rates above the reference batch size, as runs of the mode `modes.TUNED`.
        taken: those of them that are the study's, as runs of the mode that they have there.
        base_lr, reference_batch_size: of the study, for the rates of its rules.
        reasons: why there is no exponent, or what it leaves out.
    """

    cells: pd.DataFrame
    best: pd.DataFrame
    fitted: tuple[int, ...]
    exponent: float | None
    interval: tuple[float, float]
    level: float
    tuned: Study
    taken: frozenset[Run]
    base_lr: float
    reference_batch_size: int
    reasons: tuple[Reason, ...]

    def at_rule(self, batch_size: int, lr_scaling: LRScaling) -> pd.Series | None:
        """The row of `cells` at the rate that a rule has; None where it was not tried."""
        rate = _rate(self.base_lr, batch_size, self.reference_batch_size, lr_scaling)
        found = self.cells[(self.cells["batch_size"] == batch_size) & (self.cells["learning_rate"] == rate)]
        return found.iloc[0] if len(found) else None


def landscape(rates: Study, study: Study, final_epochs: int = 1) -> Landscape | None:
    """The landscape of the runs of `rates`, with those of the study that belong to it.

    Of the study these are the runs that warm up as those of `rates` do, and those at the base rate, which have nothing
    to warm up to. Of `rates`, only the runs count that agree with the study in all but rate, rule and warm-up, epochs
    included. A run without a sidecar does not count, since its rate is not known.

    Args:
        rates: runs at several base rates, or under several rules.
        study: runs whose settings agree, such as `Findings.study`.
        final_epochs: as of `findings.analyse`.

    Returns:
        None where no batch size has three rates, or every run diverged.
    """
    usual = {field: study.setting(field) for field in AGREEING if field != "base_lr"}
    if epochs := study.setting("epochs"):
        usual["epochs"] = epochs
    own = rates.only([run for run, settings in rates.settings.items() if usual.items() <= settings.items()])
    warmups = {_warmup(settings) for settings in own.settings.values()}
    alike = study.only([run for run, settings in study.settings.items() if {_warmup(settings)} <= warmups | {None}])
    sources = (alike, own)
    runs = pd.concat([_runs(each, final_epochs).assign(source=place) for place, each in enumerate(sources)])
    runs = runs.drop_duplicates(["batch_size", "learning_rate", "seed"])  # the study's own come first
    cells = _cells(runs)
    best = _best(cells)
    if best.empty:
        return None
    base_lr, reference = study.setting("base_lr"), study.setting("reference_batch_size")
    chosen = runs.merge(best[best["batch_size"] > reference][["batch_size", "learning_rate"]])
    tuned = [_as_tuned(each, chosen[chosen["source"] == place], base_lr) for place, each in enumerate(sources)]
    taken = frozenset(chosen.loc[chosen["source"] == 0, RUN].itertuples(index=False, name=None))
    works = at_least(best["accuracy"], best["accuracy"].max() - _FAILS)
    known = best[works & best["peak"].notna()]
    fitted = tuple(known["batch_size"].tolist())
    reasons = _reasons(best, works, len(known))
    return Landscape(cells, best, fitted, *_slope(known), _together(*tuned), taken, base_lr, reference, reasons)


def with_tuned(study: Study, found: Landscape) -> Study:
    """The study with the mode "tuned rate" as another one of its modes.

    At every batch size it has the best of several rates, so that its accuracy is higher by chance than that of a rate
    that was chosen beforehand: by about one standard deviation over seeds, with five rates that are equally good.
    """
    return _together(study, found.tuned)


def _warmup(settings: Mapping) -> tuple | None:
    """What tells two ways of warming up to the same rate apart; None where there is nothing to warm up to."""
    k = settings["batch_size"] / settings["reference_batch_size"]
    if k <= 1 or settings["lr_scaling"] == "none":
        return None
    return settings["warmup"], 0.0 if settings["warmup"] == "none" else settings["warmup_epochs"]


def _runs(study: Study, final_epochs: int) -> pd.DataFrame:
    """Run, learning rate and final accuracy of every run that is finished or diverged; NaN for the latter."""
    failed = pd.DataFrame(study.diverged, columns=RUN)
    runs = pd.concat([tables.final(study, final_epochs)[[*RUN, "accuracy"]], failed], ignore_index=True)
    settings = [study.settings[run] for run in runs[RUN].itertuples(index=False, name=None)]
    names = ("base_lr", "batch_size", "reference_batch_size", "lr_scaling")
    return runs.assign(learning_rate=[_rate(*(each[name] for name in names)) for each in settings])


def _rate(base_lr: float, batch_size: int, reference_batch_size: int, lr_scaling: LRScaling) -> float:
    """To nine digits, so that the same rate by two rules is one."""
    return float(f"{base_lr * scaling_factor(batch_size, reference_batch_size, lr_scaling):.9g}")


def _cells(runs: pd.DataFrame) -> pd.DataFrame:
    groups = runs.groupby(["batch_size", "learning_rate"])["accuracy"]
    cells = groups.agg(accuracy="mean", seeds="count", runs="size").reset_index()
    cells["diverged"] = cells.pop("runs") - cells["seeds"]
    rates = cells.groupby("batch_size")["learning_rate"].transform("size")
    return cells[rates >= _LEAST_RATES].reset_index(drop=True)


def _best(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per batch size of which some rate works."""
    rows = []
    for size, at in cells.groupby("batch_size"):
        by_rate = at.set_index("learning_rate")
        accuracies = by_rate["accuracy"].where(by_rate["diverged"] == 0)
        if accuracies.isna().all():
            continue
        rate = first_best(accuracies)
        good = accuracies.index[at_least(accuracies, accuracies[rate] - CLOSE)]
        row = {"batch_size": size, "learning_rate": rate, "accuracy": accuracies[rate], "seeds": by_rate["seeds"][rate]}
        rows.append(row | {"low": good.min(), "high": good.max(), "peak": _peak(accuracies, rate)})
    return pd.DataFrame(rows)


def _peak(accuracies: pd.Series, rate: float) -> float:
    """Rate at the top of the parabola through the best accuracy and its neighbours, over log rate."""
    place = accuracies.index.get_loc(rate)
    three = accuracies.iloc[max(0, place - 1) : place + 2]
    if len(three) < 3 or three.isna().any():
        return math.nan
    logs = np.log(three.index.to_numpy() / rate)
    curvature, slope, _ = np.polyfit(logs, three.to_numpy(), 2)
    return float(rate * np.exp(-slope / (2 * curvature))) if curvature < 0 else float(rate)


def _slope(known: pd.DataFrame) -> tuple[float | None, tuple[float, float], float]:
    """Exponent, its interval, and the level of the line through the peaks."""
    if len(known) < _LEAST_SIZES:
        return None, (math.nan, math.nan), math.nan
    fit = stats.linregress(np.log(known["batch_size"]), np.log(known["peak"]))
    half = float(stats.t.ppf(0.975, len(known) - 2) * fit.stderr)
    return float(fit.slope), (float(fit.slope) - half, float(fit.slope) + half), math.exp(fit.intercept)


def _reasons(best: pd.DataFrame, works: pd.Series, fitted: int) -> tuple[Reason, ...]:
    """Why batch sizes are left out of the fit, or why there is none."""
    failing = best.loc[~works, "batch_size"].tolist()
    without = best.loc[works & best["peak"].isna(), "batch_size"].tolist()
    reasons = [Reason.of("every rate fails", sizes=failing, loss=_FAILS)] if failing else []
    reasons += [Reason.of("best at the edge", sizes=without)] if without else []
    if fitted < _LEAST_SIZES:
        reasons.append(Reason.of("too few peaks", sizes=fitted))
    return tuple(reasons)


def _as_tuned(study: Study, runs: pd.DataFrame, base_lr: float) -> Study:
    """These runs of a study as runs of the mode `TUNED` of a study with this base rate."""
    part = study.only(list(runs[RUN].itertuples(index=False, name=None)))
    as_tuned = {"name": TUNED.name, "base_lr": base_lr} | TUNED.rule
    sidecars = [content | {"experiment": content["experiment"] | as_tuned} for content in part.sidecars.values()]
    return Study.of(part.epochs.assign(experiment=TUNED.name), sidecars=sidecars)


def _together(first: Study, *others: Study) -> Study:
    """All their runs, in the folder of the first."""
    studies = (first, *others)
    epochs = pd.concat([each.epochs for each in studies if len(each.epochs)] or [first.epochs])
    sidecars = [content for each in studies for content in each.sidecars.values()]
    whole = Study.of(epochs.sort_values([*RUN, "epoch"]), sidecars=sidecars, goals=first.goals)
    return replace(first, epochs=whole.epochs, runs=whole.runs, sidecars=whole.sidecars)
