"""What the explorer shows, as one value that JSON can hold: runs, curves, and verdicts at every place of the sliders.

    contents(Study.load("data"), tolerance=0.01)

Pure: no files, no clock. Every verdict comes from `findings`, so that the page works out nothing but means over the
seeds that it shows.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from batchscale.analysis import findings, sentences, tables
from batchscale.analysis.breaking_point import BreakingPoint
from batchscale.analysis.findings import Findings, ModeFindings
from batchscale.analysis.plots import mode_style
from batchscale.analysis.reasons import together
from batchscale.analysis.tables import Beginning
from batchscale.analysis.words import count, exact, goal, interval, percent, verdict_size
from batchscale.records.study import AGREEING, MADE_OF, RULE, RUN, Study

ROWS = 120_000  # of a group; of more, every second, third, … row of each run is kept, and its last
TOLERANCES = tuple(step / 400 for step in range(21))  # 0 to 5 points
FITS = 60  # one per mode and target; each takes a third of a second, and two where many runs miss the target
FEWEST, MOST = 2, 16  # targets
QUANTITIES = ("accuracy", "generalization_error", "train_loss", "test_loss", "noise_scale")
ALONG = ("epoch", "updates", "running_time")
_SYMBOLS = dict(zip("ospDhP*", ("circle", "square", "pentagon", "diamond", "hexagon", "cross", "star"), strict=True))

Progress = Callable[[Sequence], Iterable]


def contents(study: Study, *, progress: Progress = iter, **options) -> dict:
    """All that the explorer shows of a study: its groups of runs with the same settings, the largest first.

    Args:
        study: possibly without runs.
        progress: is given the steps of work that may take a minute, and gives them back one after another.
        options: of `findings.analyse`. The sliders stand at `tolerance` and `target` at first. A smaller group that
            lacks a mode named in `reference` takes the reference that it has by default.

    Raises:
        UserError: as `findings.analyse` does, for the largest group.
    """
    parts = study.groups()
    labels = _labels(parts)
    of_each = [(study, options), *((part, _suiting(part, options)) for part in parts[1:])]
    groups = [
        _group(label, findings.analyse(part, **its), its.get("tolerance", 0.01), progress)
        for label, (part, its) in zip(labels, of_each, strict=True)
    ]
    return {"title": study.folder or "runs", "groups": groups}


def _suiting(part: Study, options: dict) -> dict:
    """The options that can be asked of a smaller group: those that name none of the modes that it lacks."""
    is_there = set(options.get("reference", ())) <= set(part.modes)
    return options if is_there else {name: value for name, value in options.items() if name != "reference"}


def _labels(parts: Sequence[Study]) -> list[str]:
    """What tells groups apart: the settings in which they differ, and their number of runs."""
    settings = [{field: part.setting(field) for field in (*AGREEING, *MADE_OF)} for part in parts]
    labels = []
    for part, own in zip(parts, settings, strict=True):
        differing = [field for field in own if any(other[field] != own[field] for other in settings)]
        words = [f"{field} {exact(own[field])}" for field in differing]
        alike = [each for each, others in zip(parts, settings, strict=True) if others == own]
        if len(alike) > 1 and part is not alike[0]:  # they differ in the rule of a mode
            words += [f"{name} with {_rule(rule)}" for name, rule in part.rules.items()]
        labels.append(f"{', '.join(words) or 'all settings equal'} ({count(len(part.runs), 'run')})")
    return labels


def _rule(rule: dict) -> str:
    return ", ".join(f"{field} {exact(rule[field])}" for field in RULE if rule[field] is not None)


def _group(label: str, found: Findings, tolerance: float, progress: Progress) -> dict:
    study, modes = found.study, list(found.study.modes)
    runs = study.runs.sort_values(RUN, ignore_index=True)
    place = {run: at for at, run in enumerate(runs[RUN].itertuples(index=False, name=None))}
    tolerances = sorted({*TOLERANCES, tolerance}) if _has_tolerance(found) else [tolerance]
    verdicts = [findings.at_tolerance(found, each) for each in tolerances]
    beginnings = _beginnings(verdicts)
    targets = _targets(found)
    return {
        "label": label,
        "settings": sentences.settings(study) if len(runs) else "no runs",
        "remarks": [str(each) for each in (found.to_target.reason, *found.remarks) if each is not None],
        "modes": [_mode(found, name, place) for name in modes],
        "runs": _runs(found, runs, modes),
        "rows": _rows(study, runs),
        "tolerance": {
            "at": tolerances.index(tolerance),
            "is_fixed": not _has_tolerance(found),
            "steps": [_at_tolerance(*each, beginnings) for each in verdicts],
        },
        "target": {
            "at": targets.index(found.target),
            "steps": [_at_target(found, each, beginnings, place) for each in progress(targets)],
        },
    }


def _has_tolerance(found: Findings) -> bool:
    return found.threshold is not None and not found.threshold.is_given


def _beginnings(verdicts: Sequence[tuple[object, dict[str, ModeFindings]]]) -> dict[str, list[Beginning]]:
    """By mode, where its curve begins at some tolerance; of a mode that is not its own reference, at all of them."""
    return {name: list(dict.fromkeys(modes[name].beginning for _, modes in verdicts)) for name in verdicts[0][1]}


def _targets(found: Findings) -> list[float | None]:
    """Places of the slider: the target of `analyse`, and accuracies around it; goals, if tables of results have any.

    Accuracies are whole points, from the best final accuracy downwards; with many modes fewer of them, further apart.
    """
    goals = set(found.study.goals["target"])
    best = found.finals["accuracy"].max()
    if goals or not found.modes or math.isnan(best):
        given = {found.target, *goals}
    else:
        most = min(max(FITS // len(found.modes), FEWEST), MOST)
        step = max(1, round(MOST / most))
        top = math.floor(100 * best)
        given = {found.target, *(at / 100 for at in range(top, max(0, top - step * most), -step))}
    return sorted(given, key=lambda each: -1 if each is None else each)


def _mode(found: Findings, name: str, place: dict) -> dict:
    """How a mode is called and drawn, and the runs on its curve, which begins with those of the reference."""
    mode, style = found.study.modes[name], mode_style(name, found.study.modes)
    on_curve = found.finals_of(name)[RUN].itertuples(index=False, name=None)
    return {
        "name": name,
        "label": mode.label,
        "color": style["color"],
        "symbol": _SYMBOLS[style["marker"]],
        "is_compared": name in found.modes,
        "curve": [place[run] for run in on_curve],
    }


def _runs(found: Findings, runs: pd.DataFrame, modes: Sequence[str]) -> list[dict]:
    """One entry per run: what it is, and its final values, where it has any."""
    noise = tables.noise_scales(found.study.epochs).set_index(RUN)["median"]
    finals = found.finals.set_index(RUN)
    finals = finals.assign(noise_scale=noise.reindex(finals.index))
    names = [*QUANTITIES, *(name for name in ALONG if name != "epoch")]
    values = dict(zip(finals.index, zip(*(_numbers(finals[name]) for name in names), strict=True), strict=True))
    entries = []
    for name, size, seed, status in runs[[*RUN, "status"]].itertuples(index=False, name=None):
        run = (name, size, seed)
        ending = "diverged" if status == "diverged" else "finished" if run in values else "unfinished"
        final = dict(zip(names, values.get(run, [None] * len(names)), strict=True))
        entries.append({"mode": modes.index(name), "size": int(size), "seed": int(seed), "status": ending} | final)
    return entries


def _rows(study: Study, runs: pd.DataFrame) -> dict:
    """The epochs of all runs, run after run in one list per column, and how many each run has; None: not recorded."""
    columns = [*ALONG, *QUANTITIES]
    epochs = study.epochs.sort_values([*RUN, "epoch", "updates"], kind="stable")
    groups = epochs.groupby(RUN, sort=False)
    every = max(1, math.ceil(len(epochs) / ROWS))
    place, of = groups.cumcount(), groups[columns[0]].transform("size")
    kept = epochs[((of - 1 - place) % every == 0).to_numpy()]
    counts = kept.groupby(RUN).size()
    index = pd.MultiIndex.from_frame(runs[RUN])
    known = {name: _numbers(kept[name]) if kept[name].notna().any() else None for name in columns}
    return known | {"every": every, "counts": [int(each) for each in counts.reindex(index, fill_value=0)]}


def _at_tolerance(threshold, modes: dict[str, ModeFindings], beginnings: dict[str, list[Beginning]]) -> dict:
    """The threshold, and the verdict of every compared mode in accuracy."""
    return {
        "tolerance": None if threshold is None else threshold.tolerance,
        "label": "given" if threshold is None or threshold.is_given else _points(threshold.tolerance),
        "threshold": None if threshold is None else threshold.accuracy,
        "shown": None if threshold is None else percent(threshold.accuracy),
        "modes": {
            name: _point(mode.breaking_points["accuracy"])
            | {
                "sentence": sentences.accuracy(mode, threshold),
                "beginning": beginnings[name].index(mode.beginning),
            }
            for name, mode in modes.items()
        },
    }


def _at_target(found: Findings, target: float | None, beginnings: dict[str, list[Beginning]], place: dict) -> dict:
    """The verdicts of every compared mode in updates and time, for each beginning of its curve, and what runs need."""
    timed = found.study.timed()
    first = found.to_target
    if target != found.target:
        first = findings.to_target(timed, target, {name: mode.beginning for name, mode in found.modes.items()})
    verdicts: dict[str, list[dict]] = {}
    for name, begins in beginnings.items():
        for begin in begins:
            is_first = begin == found.modes[name].beginning
            at = first if is_first else findings.to_target(timed, target, {name: begin})
            points_of = {"updates": at.in_updates[name], "time": at.in_time[name]}
            verdicts.setdefault(name, []).append({key: _point(point) for key, point in points_of.items()})
    needed = first.runs.where(first.runs["censored"] == "no")  # of the others a bound is known, if anything
    at_run = [place.get(run) for run in first.runs[RUN].itertuples(index=False, name=None)]
    return {
        "label": "none" if target is None else goal(target),
        "target": target,
        "modes": verdicts,
        "runs": at_run,
        "updates": _numbers(needed["updates"]),
        "time": _numbers(needed["running_time"]),
    }


def _point(point: BreakingPoint) -> dict:
    kept, lost = point.between
    return {
        "estimate": point.estimate,
        "low": point.low,
        "high": point.high,
        "kept": kept,
        "lost": lost,
        "shown": verdict_size(point),
        "interval": interval(*point.interval),
        "reason": together(point.reasons),
    }


def _points(tolerance: float) -> str:
    shown = exact(round(100 * tolerance, 6))
    return f"{shown} point{'' if shown == '1' else 's'}"


def _numbers(values: pd.Series) -> list[float | int | None]:
    """To six digits, which is more than a screen shows; None for what is not finite."""
    known = values.to_numpy(dtype=float)
    shown = [float(f"{value:.6g}") for value in known.tolist()]
    return [
        None if not is_known else int(value) if value.is_integer() else value
        for value, is_known in zip(shown, np.isfinite(known).tolist(), strict=True)
    ]
