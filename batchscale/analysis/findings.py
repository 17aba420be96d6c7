"""Everything that the records of a study say, as one frozen value that keeps the frames behind it.

    found = analyse(Study.load("data"))
    found.modes["scaled_lr"].breaking_points["accuracy"].batch_size
    print(terminal.text(found, width=80))         # words; figures and JSON are made from the same value

Pure functions: no files, no clock.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from batchscale.analysis import remarks, tables
from batchscale.analysis import threshold as thresholds
from batchscale.analysis.accuracies import accuracies
from batchscale.analysis.breaking_point import BreakingPoint, in_accuracy, in_time, in_updates, losses
from batchscale.analysis.critical_batch_size import CriticalBatchSize, critical_batch_size
from batchscale.analysis.landscape import Landscape, landscape, with_tuned
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import at_least, censored_median, first_best
from batchscale.analysis.tables import Beginning
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import listed
from batchscale.errors import UserError
from batchscale.experiment import CLASSES
from batchscale.modes import REFERENCE, TUNED, Mode, comparisons
from batchscale.records.study import RUN, Run, Study


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale that the runs of a mode measured, in images."""

    median: float | None  # of the runs' medians; None where it depends on epochs in which it was not measurable
    low: float  # over all epochs and runs
    high: float | None  # None where it was not measurable in some epoch: the noise hides the gradient
    runs: int
    epochs: int
    measured: int  # epochs in which it was measurable

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the median or the upper end may be missing."""
        unknown = self.epochs - self.measured
        return (Reason.of("not always measurable", epochs=unknown, of=self.epochs),) if unknown else ()

    @classmethod
    def of(cls, runs: pd.DataFrame) -> "NoiseScale | None":
        """Over rows of `tables.noise_scales`; None where there are none."""
        if runs.empty:
            return None
        median, high = (_or_none(value) for value in (censored_median(runs["median"]), runs["high"].max(skipna=False)))
        return cls(
            median, float(runs["low"].min()), high, len(runs), int(runs["epochs"].sum()), int(runs["measured"].sum())
        )


@dataclass(frozen=True, eq=False)
class ToTarget:
    """Updates and time until one accuracy, by mode.

    Attributes:
        target: accuracy, 0-1; None where there is none.
        runs: rows of `tables.to_target`, of all modes.
        curves: by name of a compared mode, the rows of its curve, see `tables.curve`.
        critical: by name, the fit to its curve.
        in_updates, in_time: by name, the breaking points.
        noise_scales: by name, over the epochs of its curve that end below the target; None where none was measured.
        reason: why this target; None where it was asked for.
    """

    target: float | None
    runs: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    critical: dict[str, CriticalBatchSize]
    in_updates: dict[str, BreakingPoint]
    in_time: dict[str, BreakingPoint]
    noise_scales: dict[str, NoiseScale | None]
    reason: Reason | None = None

    @property
    def means(self) -> pd.DataFrame:
        """Geometric means over the seeds of all curves, every row under its curve's mode, and of the runs of the
        reference under its own name; see `tables.means_to_target`."""
        named = [curve.assign(experiment=name) for name, curve in self.curves.items() if len(curve)]
        rest = self.runs[~self.runs["experiment"].isin(self.curves)]
        return tables.means_to_target(pd.concat([*named, rest], ignore_index=True))


@dataclass(frozen=True, eq=False)
class ModeFindings:
    """What the records say about one compared mode.

    Attributes:
        beginning: which runs of the reference its curves begin with.
        losses: final accuracy and loss by batch size of its curve, see `breaking_point.losses`.
        smaller: the same, of the batch sizes below the one at which the curve begins.
        curve: rows of `tables.to_target`.
        breaking_points: by currency: accuracy, updates, time.
        critical: the fit to the curve.
        regimes: slopes between neighbouring batch sizes, see `tables.local_slopes`.
        noise_scale: on the way to the target, as the critical batch size is; None where it was not measured there.
    """

    mode: Mode
    beginning: Beginning
    losses: pd.DataFrame
    smaller: pd.DataFrame
    curve: pd.DataFrame
    breaking_points: dict[str, BreakingPoint]
    critical: CriticalBatchSize
    regimes: pd.DataFrame
    noise_scale: NoiseScale | None


@dataclass(frozen=True, eq=False)
class Effect:
    """What a mode adds to the accuracy of another, see `tables.paired_differences`."""

    name: str
    of: Mode
    over: Mode
    differences: pd.DataFrame
    reason: Reason | None  # why there are no differences at all


@dataclass(frozen=True, eq=False)
class Findings:
    """All results of one study.

    Attributes:
        study: the runs that were analysed; their settings agree.
        finals: the last row of every finished run, see `tables.final`.
        cells: final accuracy by mode and batch size, see `accuracies.accuracies`.
        threshold: None where the reference has no finished run, and no accuracy was given.
        to_target: updates and time to the target: the one asked for, or one that the records can answer.
        to_threshold: the same, to the threshold; None without one.
        modes: by name, those compared with the reference.
        effects: of what one mode has and another lacks.
        frontier: rows of `tables.frontier`, without what has hardly more than the accuracy of guessing.
        final_epochs: epochs over which the final accuracy is a mean.
        remarks: what was left out, and why.
        reference: names of the modes whose accuracy is to be kept.
        landscape: of the runs at other learning rates; None where there are none, or too few.
    """

    study: Study
    finals: pd.DataFrame
    cells: pd.DataFrame
    threshold: Threshold | None
    to_target: ToTarget
    to_threshold: ToTarget | None
    modes: dict[str, ModeFindings]
    effects: tuple[Effect, ...]
    frontier: pd.DataFrame
    final_epochs: int
    remarks: tuple[Reason, ...]
    reference: tuple[str, ...] = ()
    landscape: Landscape | None = None

    @property
    def trained(self) -> Study:
        """The study without the mode "tuned rate", whose runs have another name or are in another folder."""
        return self.study if self.landscape is None else self.study.without(self.landscape.tuned.sidecars)

    @property
    def target(self) -> float | None:
        """Accuracy that updates and time are counted to, 0-1."""
        return self.to_target.target

    def finals_of(self, name: str) -> pd.DataFrame:
        """Rows of `finals` on the curve of a mode, from the reference on; of the reference itself, its own."""
        if name not in self.modes:
            return self.finals[self.finals["experiment"] == name]
        return tables.curve(self.finals, self.modes[name].mode, self.modes[name].beginning)

    def epochs_of(self, name: str) -> pd.DataFrame:
        """The epochs of the runs on the curve of a mode, from the reference on; of the reference itself, its own."""
        if name not in self.modes:
            return self.study.epochs[self.study.epochs["experiment"] == name]
        runs = tables.curve(self.study.runs, self.modes[name].mode, self.modes[name].beginning)
        return self.study.epochs.merge(runs[RUN], on=RUN)

    @property
    def pareto(self) -> pd.DataFrame:
        """The rows of `frontier` that no other combination dominates."""
        return self.frontier[~self.frontier["dominated"].astype(bool)]

    @property
    def batch_sizes(self) -> list[int]:
        """All recorded ones, from small to large."""
        return sorted(map(int, self.study.runs["batch_size"].unique()))


def analyse(
    study: Study,
    *,
    reference: Collection[str] = (),
    threshold: str | float = "best",
    tolerance: float = 0.01,
    target: float | None = None,
    final_epochs: int = 1,
    compare: Collection[tuple[str, str]] = (),
    with_target: bool = True,
    rates: Study | None = None,
) -> Findings:
    """Threshold, breaking points, critical batch sizes, effects and frontier of a study.

    Only runs whose settings agree can be compared: of the study's `groups` the largest is analysed, and the remarks
    name the others. Use `Study.where` to choose another.

    Args:
        study: possibly without runs.
        reference: names of the modes whose accuracy is to be kept. By default `baseline_small`; where it is not
            recorded, the modes that have the smallest batch size.
        threshold: accuracy to keep: "best" or "mean" of the reference's batch sizes, or a number, see
            `threshold.threshold`.
        tolerance: absolute loss of accuracy, 0-1, that still counts as keeping it.
        target: accuracy, 0-1, that updates and time are counted to; None: the highest that the records can answer, see
            `answerable_target`.
        final_epochs: m; the final accuracy is the mean over the last m recorded epochs.
        compare: pairs of names whose difference is wanted; by default those of `modes.comparisons`.
        with_target: False leaves updates and time undetermined, which take most of the time.
        rates: runs at other learning rates, see `landscape.landscape`. Where they suffice, the study gets the mode
            "tuned rate", the best rate tried at every batch size.

    Raises:
        UserError: a name is not recorded, or a number is out of range; the message says what there is.
    """
    if final_epochs < 1:
        raise UserError(f"final_epochs is {final_epochs}; it must be at least 1")
    group, *others = study.groups()
    over_rates = None if rates is None else landscape(rates, group, final_epochs)
    if over_rates is not None:
        elsewhere = {folder: number for folder, number in group.elsewhere.items() if folder != rates.folder}
        group = replace(with_tuned(group, over_rates), elsewhere=elsewhere)
    _require_recorded(group, [*reference, *(name for pair in compare for name in pair)])
    timed = group.timed()
    finals = tables.final(timed, final_epochs)
    cells = _cells(finals, group.diverged)
    names, why = _reference(group, reference)
    found = thresholds.threshold(finals, cells, names, tolerance, threshold)
    setting = group.setting("reference_batch_size")
    curves = {
        name: beginning(mode, group.modes, cells, found, names, setting)
        for name, mode in _compared(group, names).items()
    }
    is_asked = target is not None or not with_target
    chosen, reason = (target, None) if is_asked else answerable_target(timed, curves, found)
    at = to_target(timed, chosen, curves, reason)
    is_same = found is None or not with_target or at.target == found.accuracy
    to_threshold = at if is_same else to_target(timed, found.accuracy, curves)
    pairs = [(group.modes[ours], group.modes[theirs]) for ours, theirs in compare]
    taken = frozenset() if over_rates is None else over_rates.taken
    return Findings(
        study=group,
        finals=finals,
        cells=cells,
        threshold=found,
        to_target=at,
        to_threshold=None if found is None else to_threshold,
        modes={name: _mode(group.modes[name], group, finals, cells, found, at, curves[name]) for name in curves},
        effects=tuple(_effect(group, *pair, finals, taken) for pair in pairs or _comparisons(group)),
        frontier=tables.frontier(finals, _guessing(group)),
        final_epochs=final_epochs,
        remarks=(*remarks.excluded(group, others), *why, *remarks.of(group, timed, finals, cells, found, at.target)),
        reference=names,
        landscape=over_rates,
    )


def at_tolerance(found: Findings, tolerance: float) -> tuple[Threshold | None, dict[str, ModeFindings]]:
    """Threshold and modes as `analyse` has them at another tolerance, with the same target as before.

    Without a threshold, or with one that was given as a number, the tolerance plays no part and nothing changes. Where
    the tolerance moves the beginning of a curve, only what concerns accuracy follows: pass the new `beginning` to
    `to_target` for updates and time.

    Args:
        found: of `analyse`.
        tolerance: absolute loss of accuracy, 0-1.
    """
    if found.threshold is None or found.threshold.is_given:
        return found.threshold, found.modes
    moved = replace(found.threshold, accuracy=found.threshold.best - tolerance, tolerance=tolerance)
    study, setting, modes = found.study, found.study.setting("reference_batch_size"), {}
    for name, each in found.modes.items():
        begin = beginning(each.mode, study.modes, found.cells, moved, found.reference, setting)
        kept, smaller, point = _in_accuracy(each.mode, study, found.finals, found.cells, moved, begin)
        points = each.breaking_points | {"accuracy": point}
        modes[name] = replace(each, beginning=begin, losses=kept, smaller=smaller, breaking_points=points)
    return moved, modes


def _require_recorded(study: Study, names: Collection[str]) -> None:
    unknown = [name for name in names if name not in study.modes]
    if unknown:
        there = listed(study.modes) if study.modes else "no run at all"
        raise UserError(f"there is no run of {unknown[0]} in {study.folder or 'these records'}; there is {there}")


def _reference(study: Study, asked: Collection[str]) -> tuple[tuple[str, ...], list[Reason]]:
    """Names of the modes whose accuracy is to be kept, and what has to be said about their choice."""
    if asked:
        return tuple(dict.fromkeys(asked)), []
    if REFERENCE.name in study.modes or study.epochs.empty:
        return (REFERENCE.name,), []
    smallest = study.runs["batch_size"].min()
    holders = sorted(set(study.runs.loc[study.runs["batch_size"] == smallest, "experiment"]))
    return tuple(holders), [Reason.of("reference chosen", names=holders, size=int(smallest))]


def _compared(study: Study, reference: Collection[str]) -> dict[str, Mode]:
    """The modes that get a verdict: all but the study's own reference, and references of a single batch size."""
    sizes = study.runs.groupby("experiment")["batch_size"].nunique()
    candidates = {name: mode for name, mode in study.modes.items() if mode.role == "compared"}
    larger = {name: mode for name, mode in candidates.items() if not (name in reference and sizes[name] == 1)}
    return larger or candidates


def beginning(
    mode: Mode,
    modes: Mapping[str, Mode],
    cells: pd.DataFrame,
    found: Threshold | None,
    reference: Collection[str],
    reference_batch_size: int | None,
) -> Beginning:
    """Where the curve of a mode begins: at the best batch size of the reference that belongs to it.

    At B ≤ B_ref all modes are the same experiment, so that the reference's runs belong to every mode. Above it they
    belong to a mode of the same rule alone. Where no sidecar names B_ref, it is the best reference batch size. A mode
    that is a reference itself begins with its own runs, at the smallest that keeps the accuracy, as all up to its best
    do: which one is best may be chance.
    """
    is_own = mode.name in reference
    names = (mode.name,) if is_own else tuple(name for name in reference if name in modes)
    rules = {(modes[name].lr_scaling, modes[name].warmup) for name in names}
    is_same_rule = rules == {(mode.lr_scaling, mode.warmup)} and mode.lr_scaling is not None
    finished = cells[cells["experiment"].isin(names) & (cells["seeds"] > 0)].sort_values("batch_size")
    accuracies = finished.set_index("batch_size")["accuracy"]
    if accuracies.empty:
        return Beginning()
    best = found.from_batch_size if found is not None and found.from_mode in names else first_best(accuracies)
    largest = math.inf if is_same_rule or is_own else reference_batch_size or best
    shared = accuracies[accuracies.index <= largest]
    if shared.empty:
        return Beginning()
    first = best if best in shared.index else first_best(shared)
    if is_own and found is not None and at_least(shared[first], found.accuracy):
        lost = shared.index[~at_least(shared, found.accuracy) & (shared.index < first)]
        first = shared.index[shared.index > max(lost, default=0)][0]
    return Beginning(names, largest, float(first))


_STEP, _STEPS = 0.01, 30  # of targets that are tried, downwards from the threshold
_ENOUGH = 4  # batch sizes of a mode: a fit of two parameters then has two degrees of freedom
_SPAN = 8  # largest over smallest of them: a shorter piece of the curve does not determine its bend


def answerable_target(
    study: Study, curves: dict[str, Beginning], found: Threshold | None
) -> tuple[float | None, Reason | None]:
    """The highest accuracy that runs of enough batch sizes reach in every mode, and why it is that one.

    Enough are four batch sizes over a factor of eight, or all of a mode that has fewer or over a smaller factor; all of
    their runs reach it after their first recorded epoch. The factor keeps the target where it is when runs are added
    at batch sizes in between. Tried are the threshold, the accuracies one point apart below it, and targets of tables
    of results. Where none is reached by enough, it is the one that most batch sizes reach in the mode that has fewest.
    Where tables of results give every mode a goal of its own, it is None, and each mode counts to its own.
    """
    if found is None and study.goals.empty:
        return None, None
    given = sorted(set(study.goals["target"]), reverse=True)
    steps = [] if found is None else [math.floor(100 * found.accuracy - step) / 100 for step in range(_STEPS)]
    tried = given or [found.accuracy, *(step for step in steps if _STEP <= step < found.accuracy)]
    reached: dict[float, list[list[int]]] = {}
    for target in tried:
        runs = tables.to_target(study, target)
        sizes = [_sizes_reaching(runs, study.modes[name], begin) for name, begin in curves.items()]
        reached[target] = [reaching for reaching, _ in sizes]
        if sizes and all(_is_enough(reaching, every) for reaching, every in sizes):
            break
    else:
        target = max(tried, key=lambda each: (min(_fewest(reached[each]), _ENOUGH), each))
    if found is not None and target == found.accuracy:
        return target, None
    if given and _fewest(reached[target]) == 0:
        return None, Reason.of("own goals", goals=tuple(tables.own_goals(study).items()))
    if given:
        return target, Reason.of("goal", target=target, others=[each for each in given if each != target])
    span = min(map(_span, reached[target]), default=1)
    return target, Reason.of("answerable", target=target, sizes=_fewest(reached[target]), span=span)


def _sizes_reaching(runs: pd.DataFrame, mode: Mode, begin: Beginning) -> tuple[list[int], list[int]]:
    """Batch sizes all of whose runs reach the target after their first epoch, and all batch sizes."""
    exact = (
        tables.curve(runs, mode, begin).groupby("batch_size")["censored"].agg(lambda of_size: (of_size == "no").all())
    )
    return list(exact.index[exact.astype(bool)]), list(exact.index)


def _is_enough(reaching: list[int], every: list[int]) -> bool:
    return len(reaching) >= min(_ENOUGH, len(every)) and _span(reaching) >= min(_SPAN, _span(every))


def _fewest(reached: list[list[int]]) -> int:
    return min(map(len, reached), default=0)


def _span(sizes: list[int]) -> float:
    return max(sizes, default=1) / min(sizes, default=1)


def to_target(
    study: Study, target: float | None, curves: dict[str, Beginning], reason: Reason | None = None
) -> ToTarget:
    """Updates and time until an accuracy, with the fit and the breaking points of every mode that has a curve.

    The critical batch size is a property of the way to a target. McCandlish et al. 2018 predict it to be near the
    gradient noise scale on that way, which grows as the loss falls.
    """
    runs = tables.to_target(study, target)
    below = study.epochs if target is None else study.epochs[~at_least(study.epochs["accuracy"], target)]
    noise = tables.noise_scales(below)
    seconds = tables.seconds_per_update(study.epochs, by_epochs=bool(study.epochs["updates"].isna().any()))
    rows = {name: tables.curve(runs, study.modes[name], begin) for name, begin in curves.items()}
    critical = {name: critical_batch_size(curve) for name, curve in rows.items()}
    if target is None:  # nothing was looked for, so nothing was found, but for goals of tables of results
        without = set(rows) - set(study.goals["experiment"])
        critical |= {name: replace(critical[name], reasons=(Reason.of("no target"),)) for name in without}
    return ToTarget(
        target=target,
        runs=runs,
        curves=rows,
        critical=critical,
        in_updates={name: in_updates(curve, critical[name]) for name, curve in rows.items()},
        in_time={name: in_time(curve, seconds, critical[name]) for name, curve in rows.items()},
        noise_scales={
            name: NoiseScale.of(tables.curve(noise, study.modes[name], begin)) for name, begin in curves.items()
        },
        reason=reason,
    )


def _mode(
    mode: Mode,
    study: Study,
    finals: pd.DataFrame,
    cells: pd.DataFrame,
    found: Threshold | None,
    at: ToTarget,
    begin: Beginning,
) -> ModeFindings:
    rows, smaller, point = _in_accuracy(mode, study, finals, cells, found, begin)
    return ModeFindings(
        mode=mode,
        beginning=begin,
        losses=rows,
        smaller=smaller,
        curve=at.curves[mode.name],
        breaking_points={
            "accuracy": point,
            "updates": at.in_updates[mode.name],
            "time": at.in_time[mode.name],
        },
        critical=at.critical[mode.name],
        regimes=tables.local_slopes(at.curves[mode.name]),
        noise_scale=at.noise_scales[mode.name],
    )


def _in_accuracy(
    mode: Mode, study: Study, finals: pd.DataFrame, cells: pd.DataFrame, found: Threshold | None, begin: Beginning
) -> tuple[pd.DataFrame, pd.DataFrame, BreakingPoint]:
    """Accuracy by batch size of a mode's curve, that of the smaller batch sizes, and the breaking point."""
    whole = losses(tables.curve(cells, mode, replace(begin, first=0)), found)
    is_smaller = whole["batch_size"] < begin.first
    rows, smaller = whole[~is_smaller].reset_index(drop=True), whole[is_smaller]
    if study.epochs.empty and len(study.goals):
        return rows, smaller, BreakingPoint.unknown(Reason.of("no accuracies"))
    failed = pd.DataFrame(study.diverged, columns=tables.RUN)
    behind = tables.curve(pd.concat([finals[tables.RUN], failed]) if len(failed) else finals[tables.RUN], mode, begin)
    names = dict.fromkeys([*(found.records if found else ()), *tables.stems(behind)])
    return rows, smaller, in_accuracy(rows, found, names)


def _comparisons(study: Study) -> list[tuple[Mode, Mode]]:
    """Pairs of modes by what one has and the other lacks; a mode whose rule is unknown is compared with the first other
    one that shares a batch size with it."""
    if study.epochs.empty:
        return []
    pairs = comparisons(study.modes)
    sizes = study.runs.groupby("experiment")["batch_size"].agg(set)
    for mode in study.modes.values():
        if mode.lr_scaling is None and not any(mode in pair for pair in pairs):
            others = [each for each in study.modes.values() if each != mode and sizes[each.name] & sizes[mode.name]]
            pairs += [(mode, other) for other in others[:1]]
    return pairs


def _cells(finals: pd.DataFrame, diverged: Collection[Run]) -> pd.DataFrame:
    """Of every mode. Runs at the best rate tried are in part those of another mode, and so say nothing new of how much
    the seeds of the others vary."""
    cells = accuracies(finals, diverged)
    tuned = cells[cells["experiment"] == TUNED.name]
    if tuned.empty:
        return cells
    others = accuracies(finals[finals["experiment"] != TUNED.name], [run for run in diverged if run[0] != TUNED.name])
    return pd.concat([others, tuned], ignore_index=True)


def _effect(study: Study, mode: Mode, other: Mode, finals: pd.DataFrame, taken: Collection[Run]) -> Effect:
    if TUNED.name in (mode.name, other.name):  # a run is no pair with itself
        one = [(TUNED.name, *run) for name, *run in taken if name in (mode.name, other.name)]
        finals = finals[~pd.MultiIndex.from_frame(finals[tables.RUN]).isin(one)]
    is_known = (mode, other) in comparisons(study.modes) and mode.effect is not None
    differences = tables.paired_differences(finals, mode.name, other.name)
    reason = None if len(differences) else Reason.of("no common size", ours=mode.name, theirs=other.name)
    name = mode.effect if is_known else f"{mode.label} in place of {other.label}"
    return Effect(name, mode, other, differences, reason)


def _guessing(study: Study) -> float:
    """Accuracy up to which a network may have learned nothing: one and a half times that of guessing; 0 if unknown."""
    classes = CLASSES.get(study.setting("dataset"))
    return 1.5 / classes if classes else 0.0


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
