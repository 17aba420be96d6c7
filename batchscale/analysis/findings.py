"""Everything that the records of a study say, as one frozen value that keeps the frames behind it.

    found = analyse(Study.load("data"))
    found.modes["scaled_lr"].breaking_points["accuracy"].batch_size
    print(terminal.text(found, width=80))         # words; figures and JSON are made from the same value

Pure functions: no files, no clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.breaking_point import (
    BreakingPoint,
    accuracy_losses,
    in_accuracy,
    in_time,
    in_updates,
)
from batchscale.analysis.critical_batch_size import CriticalBatchSize, critical_batch_size
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import at_least, censored_median
from batchscale.analysis.threshold import Threshold, threshold
from batchscale.analysis.words import MOST
from batchscale.experiment import CLASSES
from batchscale.modes import MODES, Mode, comparisons
from batchscale.records.study import AGREEING, MADE_OF, Study


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
        noise_scales: by name, over the epochs of its curve that end below the target; None where none was measured.
    """

    target: float | None
    runs: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    critical: dict[str, CriticalBatchSize]
    noise_scales: dict[str, NoiseScale | None]

    @property
    def drawn(self) -> pd.DataFrame:
        """All curves in one table, every row under its curve's mode."""
        named = [curve.assign(experiment=name) for name, curve in self.curves.items() if len(curve)]
        return pd.concat(named, ignore_index=True) if named else self.runs.iloc[:0]

    @property
    def means(self) -> pd.DataFrame:
        """Geometric means over the seeds of all curves, see `tables.means_to_target`."""
        return tables.means_to_target(self.drawn)


@dataclass(frozen=True, eq=False)
class ModeFindings:
    """What the records say about one compared mode.

    Attributes:
        losses: final accuracy and loss by batch size, see `breaking_point.accuracy_losses`.
        curve: rows of `tables.to_target`.
        breaking_points: by currency: accuracy, updates, time.
        critical: the fit to the curve.
        regimes: slopes between neighbouring batch sizes, see `tables.local_slopes`.
        noise_scale: over all epochs of its runs; None where it was not measured.
    """

    mode: Mode
    losses: pd.DataFrame
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
        threshold: None where the reference has no finished run.
        to_target: updates and time to the target, which is the threshold unless another was asked for.
        modes: by name, without the reference.
        effects: of scaling and of warm-up.
        frontier: rows of `tables.frontier`, without what has hardly more than the accuracy of guessing.
        remarks: what was left out, and why.
    """

    study: Study
    finals: pd.DataFrame
    threshold: Threshold | None
    to_target: ToTarget
    modes: dict[str, ModeFindings]
    effects: tuple[Effect, ...]
    frontier: pd.DataFrame
    remarks: tuple[Reason, ...]

    @property
    def target(self) -> float | None:
        """Accuracy that updates and time are counted to, 0-1."""
        return self.to_target.target

    @property
    def pareto(self) -> pd.DataFrame:
        """The rows of `frontier` that no other combination dominates."""
        return self.frontier[~self.frontier["dominated"].astype(bool)]

    @property
    def batch_sizes(self) -> list[int]:
        """All recorded ones, from small to large."""
        return sorted(map(int, self.study.runs["batch_size"].unique()))


def analyse(study: Study, *, tolerance: float = 0.01, target: float | None = None, of: str = "best") -> Findings:
    """Threshold, breaking points, critical batch sizes, effects and frontier of a study.

    Only runs whose settings agree can be compared: of the study's `groups` the largest is analysed, and the remarks
    name the others. Use `Study.where` to choose another.

    Args:
        study: possibly without runs.
        tolerance, of: of the threshold, see `threshold.threshold`.
        target: accuracy, 0-1, that updates and time are counted to; None: the threshold.
    """
    group, *others = study.groups()
    timed = group.timed()
    finals, found = tables.final(timed), threshold(group, tolerance, of)
    at = to_target(timed, found.accuracy if target is None and found is not None else target)
    noise = tables.noise_scales(group.epochs)
    compared = {name: mode for name, mode in group.modes.items() if mode.role == "compared"}
    return Findings(
        study=group,
        finals=finals,
        threshold=found,
        to_target=at,
        modes={name: _mode(mode, group, finals, noise, found, at) for name, mode in compared.items()},
        effects=tuple(_effect(mode, other, finals) for mode, other in comparisons(group.modes)),
        frontier=tables.frontier(finals, _guessing(group)),
        remarks=(*_excluded(group, others), *_remarks(group, timed, finals, found, target)),
    )


def to_target(study: Study, target: float | None) -> ToTarget:
    """Updates and time until an accuracy, with the fit of every compared mode.

    The critical batch size is a property of the way to a target. McCandlish et al. 2018 predict it to be near the
    gradient noise scale on that way, which grows as the loss falls.
    """
    runs = tables.to_target(study, math.inf if target is None else target)
    below = study.epochs if target is None else study.epochs[~at_least(study.epochs["accuracy"], target)]
    noise = tables.noise_scales(below)
    modes = [mode for mode in study.modes.values() if mode.role == "compared"]
    curves = {mode.name: tables.curve(runs, mode) for mode in modes}
    critical = {name: critical_batch_size(curve) for name, curve in curves.items()}
    if target is None:  # nothing was looked for, so nothing was found
        critical = {name: replace(fit, reasons=(Reason.of("no target"),)) for name, fit in critical.items()}
    return ToTarget(
        target=target,
        runs=runs,
        curves=curves,
        critical=critical,
        noise_scales={mode.name: NoiseScale.of(tables.curve(noise, mode)) for mode in modes},
    )


def _mode(
    mode: Mode, study: Study, finals: pd.DataFrame, noise: pd.DataFrame, found: Threshold | None, at: ToTarget
) -> ModeFindings:
    own, failed = finals[finals["experiment"] == mode.name], [run for run in study.diverged if run[0] == mode.name]
    losses = accuracy_losses(own, found, failed)
    behind = pd.concat([own[tables.RUN], pd.DataFrame(failed, columns=tables.RUN)] if failed else [own[tables.RUN]])
    curve, critical = at.curves[mode.name], at.critical[mode.name]
    time = in_time(curve)
    points = {
        "accuracy": in_accuracy(losses, found, [*(found.records if found else ()), *tables.stems(behind)]),
        "updates": in_updates(curve, critical),
        "time": time if at.target is not None else BreakingPoint.unknown(Reason.of("no target"), time.records),
    }
    return ModeFindings(
        mode=mode,
        losses=losses,
        curve=curve,
        breaking_points=points,
        critical=critical,
        regimes=tables.local_slopes(curve),
        noise_scale=NoiseScale.of(noise[noise["experiment"] == mode.name]),
    )


def _effect(mode: Mode, other: Mode, finals: pd.DataFrame) -> Effect:
    differences = tables.paired_differences(finals, mode.name, other.name)
    reason = None if len(differences) else Reason.of("no common size", ours=mode.name, theirs=other.name)
    return Effect(mode.effect, mode, other, differences, reason)


def _excluded(group: Study, others: Sequence[Study]) -> list[Reason]:
    """What is not analysed because its settings differ."""
    remarks = []
    for other in others:
        made_of = _differing_settings(MADE_OF, other, group)
        known = tuple(each for each in made_of if None not in each)
        differing = _differing_settings(AGREEING, other, group) or known
        if differing:
            remarks.append(Reason.of("other settings", runs=len(other.runs), differing=differing))
        else:  # the rule of one mode, of which the group has others
            (name,) = other.rules
            differing = _differing(other.rules[name], group.rules[name])
            differing = tuple(each for each in differing if None not in each)  # the length of no warm-up
            remarks.append(Reason.of("other rule", runs=len(other.runs), of=name, differing=differing))
    unknown = len(group.runs) - len(group.sidecars)
    if group.sidecars and unknown:
        remarks.append(Reason.of("settings unknown", runs=unknown, of=len(group.runs)))
    return remarks


def _differing_settings(fields: Sequence[str], there: Study, here: Study) -> tuple[tuple, ...]:
    return _differing(*({field: study.setting(field) for field in fields} for study in (there, here)))


def _differing(there: dict, here: dict) -> tuple[tuple, ...]:
    return tuple((field, there[field], here[field]) for field in there if there[field] != here[field])


def _remarks(
    study: Study, timed: Study, finals: pd.DataFrame, found: Threshold | None, target: float | None
) -> list[Reason]:
    if study.runs.empty:
        return [Reason.of("no records")]
    remarks = []
    absent = [name for name in MODES if name not in study.modes]
    if absent:
        remarks.append(Reason.of("no records of", names=absent))
    if found is None:
        remarks.append(Reason.of("no threshold"))
        if target is None:
            remarks.append(Reason.of("target needed"))
    diverged = [f"{name} B={size} seed {seed}" for name, size, seed in sorted(study.diverged)]
    ended = {
        f"{run.experiment} B={run.batch_size} seed {run.seed}": int(run.epoch)
        for run in tables.unfinished(study).itertuples()
    }
    if len(diverged) > MOST:
        remarks.append(Reason.of("runs diverged", named=diverged))
    else:
        remarks += [Reason.of("run diverged", run=run) for run in diverged]
    if len(ended) > MOST:
        remarks.append(Reason.of("runs ended", named=list(ended)))
    else:
        remarks += [Reason.of("run ended", run=run, epoch=epoch) for run, epoch in ended.items()]
    lengths = {name: int(epoch) for name, epoch in finals.groupby("experiment")["epoch"].first().items()}
    if len(set(lengths.values())) > 1:
        remarks.append(Reason.of("lengths differ", lengths=tuple(lengths.items())))
    alone = finals.groupby(["experiment", "batch_size"])["seed"].count() == 1
    if alone.any():
        remarks.append(Reason.of("seeds missing", single=int(alone.sum()), sizes=len(alone)))
    if study.epochs["updates"].isna().any():
        remarks.append(Reason.of("updates missing"))
    if timed is not study:
        usual = study.devices.most_common(1)[0][1]
        remarks.append(Reason.of("times of others", runs=study.devices.total() - usual))
    return remarks


def _guessing(study: Study) -> float:
    """Accuracy up to which a network may have learned nothing: one and a half times that of guessing; 0 if unknown."""
    classes = CLASSES.get(study.setting("dataset"))
    return 1.5 / classes if classes else 0.0


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
