"""What has to be said about the records themselves: what is missing, what is left out, and why. Values, not words."""

from collections.abc import Sequence

import pandas as pd

from batchscale.analysis import tables
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import at_least
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import MOST, any_of
from batchscale.modes import MODES
from batchscale.records.study import AGREEING, MADE_OF, Study


def excluded(group: Study, others: Sequence[Study]) -> list[Reason]:
    """What is not analysed because its settings differ."""
    remarks = []
    for other in others:
        made_of = _differing_settings(MADE_OF, other, group)
        known = tuple(each for each in made_of if None not in each)
        differing = _differing_settings(AGREEING, other, group) or known
        if differing:
            remarks.append(Reason.of("other settings", runs=len(other.runs), differing=differing))
        else:  # the rule of one mode, or the length of its decay, of which the group has others
            (name,) = other.rules
            differing = _differing(other.rules[name], group.rules[name]) or _differing_decays(name, other, group)
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


def _differing_decays(name: str, there: Study, here: Study) -> tuple[tuple, ...]:
    """The decay of a mode with its numbers of epochs, at the batch sizes that it has there."""
    sizes = {run[1] for run in there.settings if run[0] == name}
    decays = [
        f"{study.setting('decay')} over "
        + any_of(
            [each["epochs"] for run, each in study.settings.items() if run[0] == name and run[1] in sizes], "epoch"
        )
        for study in (there, here)
    ]
    return (("decay", *decays),)


def of(
    study: Study,
    timed: Study,
    finals: pd.DataFrame,
    cells: pd.DataFrame,
    threshold: Threshold | None,
    target: float | None,
) -> list[Reason]:
    """What the records of a study lack, and what does not count, each once.

    Args:
        study: the runs that are analysed.
        timed: the same with the times of one device alone.
        finals, cells: of `tables.final` and `accuracies.accuracies`.
        threshold, target: None where there is none.
    """
    elsewhere = [Reason.of("elsewhere", folders=tuple(study.elsewhere.items()))] if study.elsewhere else []
    if study.runs.empty:
        return [Reason.of("no records"), *elsewhere]
    remarks = []
    absent = [name for name in MODES if name not in study.modes]
    known = {name for name in study.modes if name in MODES}
    if absent and (known == set(study.modes) or any(MODES[name].role == "compared" for name in known)):
        remarks.append(Reason.of("no records of", names=absent))
    if threshold is None and len(study.epochs):
        remarks.append(Reason.of("no threshold"))
        if target is None:
            remarks.append(Reason.of("target needed"))
    remarks += _smaller(cells, threshold)
    remarks += _failed(study)
    lengths = tables.planned_epochs(study).dropna()
    for name, of_mode in lengths.groupby("experiment"):
        if of_mode.nunique() > 1:
            sizes = of_mode.groupby(of_mode).agg(lambda alike: tuple(int(size) for _, size in alike.index))
            remarks.append(Reason.of("lengths differ within", name=name, lengths=tuple(sizes.items())))
    by_mode = {name: int(of_mode.max()) for name, of_mode in lengths.groupby("experiment")}
    if len(set(by_mode.values())) > 1:
        remarks.append(Reason.of("lengths differ", lengths=tuple(by_mode.items())))
    alone = finals.groupby(["experiment", "batch_size"])["seed"].count() == 1
    if alone.any():
        remarks.append(Reason.of("seeds missing", single=int(alone.sum()), sizes=len(alone)))
    remarks += _columns_missing(study)
    if timed is not study:
        usual = study.devices.most_common(1)[0][1]
        remarks.append(Reason.of("times of others", runs=study.devices.total() - usual))
    if _is_quantised(study, target):
        remarks.append(Reason.of("quantised"))
    return remarks + elsewhere


def _smaller(cells: pd.DataFrame, threshold: Threshold | None) -> list[Reason]:
    """Reference batch sizes below the best one that lose more than the tolerance: no curve begins with them."""
    if threshold is None or threshold.from_batch_size is None:
        return []
    below = (cells["experiment"] == threshold.from_mode) & (cells["batch_size"] < threshold.from_batch_size)
    lost = cells[below & ~at_least(cells["accuracy"], threshold.accuracy)]
    sizes = sorted(set(map(int, lost["batch_size"])))
    return [Reason.of("smaller is worse", sizes=sizes, best=threshold.from_batch_size)] if sizes else []


def _failed(study: Study) -> list[Reason]:
    """Runs that a search gave up, runs that diverged, and runs that ended early."""
    remarks = [
        Reason.of("run lost", run=f"{name} B={size} seed {seed}", epoch=epoch, most=most)
        for (name, size, seed), (epoch, most) in sorted(study.lost.items())
    ]
    diverged = [f"{name} B={size} seed {seed}" for name, size, seed in sorted(study.diverged)]
    ended = {
        f"{run.experiment} B={run.batch_size} seed {run.seed}": run.epoch
        for run in tables.unfinished(study).itertuples()
    }
    if len(diverged) > MOST:
        remarks.append(Reason.of("runs diverged", named=diverged))
    else:
        remarks += [Reason.of("run diverged", run=run) for run in diverged]
    if len(ended) > MOST:
        remarks.append(Reason.of("runs ended", named=list(ended)))
    else:
        remarks += [Reason.of("run ended", run=run, epoch=float(epoch)) for run, epoch in ended.items()]
    return remarks


def _columns_missing(study: Study) -> list[Reason]:
    """Columns that the records lack, and what cannot be said without them; each once."""
    by_run = study.epochs.groupby(tables.RUN)[["generalization_error", "running_time", "updates"]].count() == 0
    counts = {column: int(missing) for column, missing in by_run.sum().items() if missing}
    remarks = []
    if "updates" in counts and study.epochs["epoch"].notna().any():
        remarks.append(Reason.of("updates missing"))
    for column in ("generalization_error", "running_time"):
        if column in counts:
            remarks.append(Reason.of("column missing", column=column, runs=counts[column], of=len(by_run)))
    return remarks


def _is_quantised(study: Study, target: float | None) -> bool:
    """Whether most runs reach the target in the epoch after their learning rate fell to a half or less."""
    if target is None:
        return False
    epochs = study.epochs
    is_first = at_least(epochs["accuracy"], target)
    is_first &= is_first.groupby([epochs[key] for key in tables.RUN]).cumsum() == 1
    before = epochs.groupby(tables.RUN)["learning_rate"].shift()
    reached = epochs[is_first]
    stepped = reached["learning_rate"] <= before[reached.index] / 2
    return len(reached) > 0 and bool(stepped.mean() > 0.5)
