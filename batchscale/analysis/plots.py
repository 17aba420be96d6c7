"""Findings to figures. The functions only draw: axes come first, and no result is computed here.

    figure, ax = plt.subplots()
    against_batch_size(ax, found, "accuracy")        # found: of `findings.analyse`
    threshold_line(ax, found.threshold)
    crossings(ax, found)
    label_lines(ax)

Each mode has one colour and one marker throughout, see `modes.py`; a line begins with the runs of the reference that
belong to its mode, which keep the reference's marks. A triangle means "beyond here", a tick an estimate, a bar its
interval. Accuracies are in percent. Batch sizes are on a log₂ axis; in figures of one mode they run from light to dark.
Axes with nothing to show say so.
"""

import itertools
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from batchscale.analysis.advice import Advice
from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import steps_to_target
from batchscale.analysis.findings import Effect, Findings, ToTarget
from batchscale.analysis.landscape import Landscape
from batchscale.analysis.projection import ModeProjection
from batchscale.analysis.reasons import together
from batchscale.analysis.tables import over_seeds
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import (
    MOST,
    UNDETERMINED,
    count,
    goal,
    images,
    interval,
    minus,
    percent,
    points,
    spread,
    verdict_size,
)
from batchscale.experiment import Experiment
from batchscale.modes import MODES, REFERENCE, Mode
from batchscale.schedules import STEPS, scaling_factor

# Where figures are read, and how wide they are there, in inches. No text is smaller than 7 points at that size.
NOTEBOOK = 11.6  # JupyterLab shows 1186 pixels, at 100 per inch
README = 8.75  # GitHub shows 840 pixels, at 96 per inch
PAGE = 6.3  # of the report

_COLOURS = (*(mode.colour for mode in MODES.values()), "#009E73", "#56B4E9", "#AA4499")
_MARKERS = (*(mode.marker for mode in MODES.values()), "*", "h", "d")
_INK = "0.2"  # of words beside marks
_TICK = {"marker": "|", "markersize": 9, "markeredgewidth": 2}  # an estimate of a batch size
_ROWS = 2.4  # zorder of the breaking points below the lines: above these, below the axes
_DASHES = ("-", "--", "-.", ":")  # of interconnects
COLUMN_LABELS = {
    "accuracy": "test accuracy (%)",
    "updates": "updates to target",
    "time_to_target": "training time to target (s)",
    "generalization_error": "generalization error\n(train − test accuracy, points)",
    "running_time": "running time (s)",
    "learning_rate": "learning rate",
}
_WORST = 0.1  # loss of accuracy up to which a combination is shown beside the frontier
_LOST = 0.2  # loss of accuracy from which all cells of a landscape look the same
_MOST_IMAGES = 8  # times those of the reference; what needs more is off the scale of `advice`
PERCENT = ("accuracy", "generalization_error")  # which records have as fractions
# Columns whose values span powers of ten over the batch sizes.
LOGARITHMIC = ("running_time", "learning_rate", "updates", "time_to_target")


def mode_style(name: str, names: Iterable[str] = ()) -> dict:
    """Colour and marker of a mode; those of the user's own, in `names`, take the next ones in turn, 49 pairs in all.
    The reference, whose runs other modes begin with, lies on top."""
    own = sorted(set(names) - set(MODES))
    place = [*MODES, *own].index(name) if name in MODES or name in own else len(MODES)
    turn, colour = divmod(place, len(_COLOURS))
    style = {"color": _COLOURS[colour], "marker": _MARKERS[(colour + turn) % len(_MARKERS)]}
    return style | ({"zorder": 3} if name == REFERENCE.name else {})


def against_batch_size(ax: Axes, found: Findings, column: str, names: Collection[str] | None = None) -> None:
    """A column at the end of training against batch size: one line per mode through the means over the seeds, with
    their range as a band. Lines begin with the runs of the reference that belong to them.

    `names` are the modes to draw; None draws all.
    """
    drawn, sizes = [name for name in found.study.modes if names is None or name in names], []
    for name in drawn:
        finals = found.finals_of(name).dropna(subset=column)
        table = over_seeds(finals.assign(experiment=name), column)
        sizes += table["batch_size"].tolist()
        if table.empty or not (found.finals["experiment"] == name).any():
            continue
        style = mode_style(name, found.study.modes)
        ax.plot(table["batch_size"], table["mean"], label=found.study.modes[name].label, markersize=5, **style)
        _band(ax, table["batch_size"], table["low"], table["high"], style["color"])
    if not sizes:
        has_runs = found.finals["experiment"].isin(drawn).any()
        _nothing(ax, "not recorded" if has_runs else "no finished runs")
    _log2_axis(ax, sizes)
    _value_axis(ax, column)


def crossings(ax: Axes, found: Findings, names: Collection[str] | None = None) -> None:
    """Where the curves of final accuracy fall below the threshold, over `against_batch_size`.

    The fitted curve of each mode is thin and dashed. A dotted line leads from its crossing down to the axis, where a
    row of `breaking_points_below` has the estimate.
    """
    points = {name: mode.breaking_points["accuracy"] for name, mode in found.modes.items()}
    shown = {name: point for name, point in points.items() if point.curve and (names is None or name in names)}
    if not shown or not ax.has_data():
        return
    places = breaking_points_below(ax, shown, found.study.modes)
    for name, point in shown.items():
        colour = mode_style(name, found.study.modes)["color"]
        sizes = np.geomspace(point.curve.sizes[0], point.curve.sizes[-1], 200)
        ax.plot(sizes, point.curve.curve(sizes), "--", color=colour, linewidth=0.8)
        if point.estimate is not None:
            ax.vlines(point.estimate, places[name], found.threshold.accuracy, color=colour, linestyle=":", linewidth=1,
                      zorder=_ROWS)  # fmt: skip
    _key(ax, "fitted curve", linestyle="--")


def breaking_points_below(ax: Axes, points: Mapping[str, BreakingPoint], names: Iterable[str] = ()) -> dict[str, float]:
    """Breaking points below the lines of the axes, a row per mode: a bar for the 95 % interval, a tick with a number
    for the estimate. A bar that is open ends in a triangle.

    Args:
        ax: axes with lines, linear or logarithmic; the lower limit makes room.
        points: by name of a mode. One of which nothing is known has no row.
        names: all modes, for the colours.

    Returns:
        The height of every row.
    """
    shown = {name: at for name, at in points.items() if at.curve or at.between != (None, None) or at.high}
    if not shown or not ax.has_data():
        return {}
    scale, limits = ax.yaxis.get_transform(), ax.get_xlim()
    low, high = scale.transform(np.array(ax.get_ylim()))
    room = _row(ax) * (high - low)
    heights = scale.inverted().transform(low - room * (np.arange(len(shown)) + 0.4))
    bottom, above, top = map(float, scale.inverted().transform(np.array([low - room * len(shown), low, high])))
    ax.set_ylim(bottom, top)
    ax.axhspan(bottom, above, color=ax.get_facecolor(), linewidth=0, zorder=_ROWS - 0.1)  # over lines that go on below
    for height, (name, point) in zip(heights, shown.items(), strict=True):
        _interval(ax, point, height, mode_style(name, names or points)["color"], limits)
    ax.set_xlim(limits)
    has_interval = any(point.interval != (None, None) for point in shown.values())
    _key(ax, f"breaking point{', 95 % interval' if has_interval else ''}", **_TICK, linestyle="none")
    return dict(zip(shown, map(float, heights), strict=True))


def _row(ax: Axes) -> float:
    """Height of a row of bars, as a share of the axes: a line of text, in small axes more of it."""
    return max(0.055, 12 / (72 * ax.get_position().height * ax.figure.get_figheight()))


def _interval(ax: Axes, point: BreakingPoint, place: float, colour, limits: tuple[float, float]) -> None:
    """A breaking point on a row: its interval as a bar, with triangles at open ends, and its estimate as a tick with a
    number."""
    left, right = limits
    kept, lost = point.between
    start, end = point.low, point.high
    if (start, end) == (None, None) and point.estimate is None:  # all that is known is on which side it lies
        start, end = kept, lost
    is_open = [start is None and end is not None, end is None and start is not None]
    if start is not None or end is not None:
        ax.hlines(place, left if start is None else start, right if end is None else end, color=colour, alpha=0.35,
                  linewidth=6, zorder=_ROWS)  # fmt: skip
    for is_end_open, edge, marker in zip(is_open, limits, "<>", strict=True):
        if is_end_open:
            ax.plot(edge, place, marker=marker, color=colour, markersize=6, clip_on=False, zorder=_ROWS)
    if point.estimate is not None:
        ax.plot(point.estimate, place, color=colour, zorder=_ROWS, **_TICK)
        word, at = images(point.estimate), max(point.estimate, end or 0)
    else:
        word = interval(start, end) if verdict_size(point) == UNDETERMINED else verdict_size(point)
        at = end or start
    if at is not None:
        beyond = at if end is not None or point.estimate is not None else start
        is_left = math.log(beyond / left) > 0.75 * math.log(right / left)
        at = min(filter(None, (start, point.estimate, end))) if is_left else beyond
        _beside(ax, word, at, place, is_left=is_left)


def against_epoch(ax: Axes, epochs: pd.DataFrame, column: str, batch_sizes: Sequence[int] | None = None) -> None:
    """A column of one mode against the epoch: one line per batch size through the means over the seeds, from light to
    dark, with their range as a band. Of very many batch sizes some are drawn, from the smallest to the largest.

    `epochs` are rows of one mode. `batch_sizes` fixes the shades where several axes share them.
    """
    own = sorted(set(epochs["batch_size"]))
    drawn, sizes = spread(own), own if batch_sizes is None else sorted(set(batch_sizes))
    across = "epoch" if epochs["epoch"].notna().any() else "updates"
    epochs = epochs[epochs["batch_size"].isin(drawn)].dropna(subset=[across, column])
    if epochs.empty:
        _nothing(ax, "not recorded" if own else "no runs")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    shades = _shades(sizes)
    for size, table in over_seeds(epochs, column, by=("batch_size", across)).groupby("batch_size"):
        marker = "o" if len(table) == 1 else None
        ax.plot(table[across], table["mean"], color=shades[size], marker=marker, label=f"B = {size}")
        _band(ax, table[across], table["low"], table["high"], shades[size])
    ax.set_xlabel(across if len(drawn) == len(own) else f"{across} ({len(drawn)} of {len(own)} batch sizes)")
    _value_axis(ax, column)


def schedules(ax: Axes, experiments: Iterable[Experiment], train_images: float | None) -> None:
    """The learning rate of every update of the runs of one mode, against completed epochs: one line per schedule, named
    by its batch sizes, from light to dark. The seed has no part in it.

    Update t is at t/u epochs, with u updates per epoch. Batch sizes share a line if their rates would be equal with
    equally many updates per epoch. A line has some 500 points at most and shows every corner exactly; where it shows
    every update, it has steps. The axis is logarithmic if rates differ by more than a factor of 4. A linear or cosine
    decay then leaves it at the bottom, since its way to 0 does not count as a difference.

    Args:
        experiments: with the same epochs and images, in any order. Where the images do not suffice for an update, there
            is no line.
        train_images: size of the training set, of which `train_size` may use a part. None or NaN: unknown; the axes say
            so.
    """
    by_size = {each.batch_size: each for each in sorted(experiments, key=lambda each: each.batch_size)}
    known = train_images is not None and math.isfinite(train_images)
    lines: dict[tuple, list[Experiment]] = {}
    for each in by_size.values():
        if known and _updates_per_epoch(each, train_images):
            lines.setdefault(tuple(_schedule(each, 1000)[1]), []).append(each)
    if not lines:
        _nothing(ax, "no updates" if known else "number of training images unknown")
        return
    drawn, shades, levels = spread(list(lines.values())), _shades(by_size), []
    for alike in drawn:
        first, middle, per_epoch = alike[0], alike[len(alike) // 2], _updates_per_epoch(alike[0], train_images)
        updates, rates = _schedule(first, per_epoch)
        label = f"B = {_listed([each.batch_size for each in alike], list(by_size))}"
        is_whole = len(updates) == first.epochs * per_epoch
        style = {"drawstyle": "steps-post" if is_whole else "default", "marker": "o" if len(updates) == 1 else None}
        ax.plot(updates / per_epoch, rates, color=shades[middle.batch_size], label=label, **style)
        levels += rates if first.decay in ("none", "step") else rates[: rates.index(max(rates)) + 1]
    part = f" ({len(drawn)} of {len(lines)} schedules)" if len(drawn) < len(lines) else ""
    ax.set_xlabel(f"completed epochs{part}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel(COLUMN_LABELS["learning_rate"])
    low, high = min(levels), max(levels)
    if high > 4 * low:
        ax.set_yscale("log")
        falls = any(each.decay in ("linear", "cosine") for each in by_size.values())
        ax.set_ylim(low / (10 if falls else 1.5), 1.5 * high)
        _few_numbers(ax.yaxis, ax.get_ylim())
    else:
        ax.set_ylim(0, 1.1 * high)
        _few_numbers(ax.yaxis, (low, high))


def _updates_per_epoch(experiment: Experiment, train_images: float) -> int:
    return int(min(train_images, experiment.train_size or train_images)) // experiment.batch_size


def _schedule(experiment: Experiment, updates_per_epoch: int) -> tuple[np.ndarray, list[float]]:
    """Updates of a run in order, and the rate of each: those before and at every corner, and up to 100 between two."""
    total = experiment.epochs * updates_per_epoch
    corners = [1, round(experiment.warmup_epochs * updates_per_epoch)]
    corners += [-(-part * total // whole) for part, whole in STEPS]
    kept = sorted({min(max(update, 0), total - 1) for end in (*corners, total) for update in (end - 1, end)})
    between = [np.linspace(*ends, 100).round().astype(int) for ends in itertools.pairwise(kept)]
    updates = np.unique(np.concatenate([kept, *between]))
    return updates, [experiment.learning_rate(int(update), updates_per_epoch) for update in updates]


def _listed(sizes: list[int], among: list[int]) -> str:
    """A range, of three or more that follow one another among all of them."""
    start = among.index(sizes[0])
    if len(sizes) > 2 and sizes == among[start : start + len(sizes)]:
        return f"{sizes[0]}–{sizes[-1]}"
    return ", ".join(map(str, sizes))


def _shades(batch_sizes: Iterable[int]) -> dict[int, np.ndarray]:
    """A colour for each batch size, from light to dark."""
    sizes = sorted(set(batch_sizes))
    return dict(zip(sizes, plt.get_cmap("plasma_r")(np.linspace(0.1, 1, len(sizes))), strict=True))


def batch_size_legend(ax: Axes) -> None:
    """Name the lines of `against_epoch` or `schedules` beside the axes, in the order of their ends; nothing without
    lines."""
    named = [line for line in ax.get_lines() if line.get_label().startswith("B = ")]
    if named:
        named.sort(key=lambda line: -line.get_ydata()[-1])
        ax.legend(handles=named, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def batch_sizes_beside(figure: Figure, batch_sizes: Sequence[int]) -> None:
    """One legend for all axes of a figure whose `against_epoch` shares these batch sizes, to their right."""
    shades = _shades(batch_sizes)
    lines = [Line2D([], [], color=shades[size], label=f"B = {size}") for size in spread(sorted(shades))]
    if lines:
        figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)


def threshold_line(ax: Axes, threshold: Threshold | None) -> None:
    """The accuracy to keep, as a grey line with its value in the legend's label.

    Nothing where it is not known, or where the axes have no line to compare with it.
    """
    if threshold is not None and ax.has_data():
        size = threshold.from_batch_size
        source = f"{points(threshold.tolerance)} below {'the reference' if size is None else f'B = {size}'}"
        label = f"threshold {percent(threshold.accuracy)} ({'given' if threshold.is_given else source})"
        ax.axhline(threshold.accuracy, color="0.6", linewidth=1, zorder=0, label=label)


def label_lines(ax: Axes) -> None:
    """Name the lines directly, if those that end on the right are far enough apart there, or else in a legend.

    A single line that ends earlier is named above it (the value axis must be linear); several are too many. Keys (the
    threshold, and lines without points) are always in a legend. Call it last: where the ends are depends on the limits
    of the axes.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    named = [line for line in lines if line.get_transform() == ax.transData and len(line.get_xdata())]
    right = max((max(line.get_xdata()) for line in named), default=0)
    ending = [line for line in named if max(line.get_xdata()) == right]
    heights = sorted(ax.transData.transform((1, line.get_ydata()[-1]))[1] for line in ending)
    near = min(np.diff(heights), default=np.inf) < 11 * ax.figure.dpi / 72  # a line of text of 8 points
    if near or len(named) > len(ending) + 1:
        _legend(ax, handles=lines)
        return
    for line in named:
        x, y = line.get_xydata().T
        at = {"text": line.get_label(), "fontsize": 8, "color": _INK, "textcoords": "offset points"}
        if line in ending:
            ax.annotate(xy=(1, y[-1]), xytext=(4, 0), xycoords=("axes fraction", "data"), va="center", **at)
        else:
            ax.annotate(xy=(x[0], y.max()), xytext=(-3, 6), **at)
            ax.set_ylim(top=max(ax.get_ylim()[1], y.max() + 0.1 * np.diff(ax.get_ylim())[0]))
    if len(lines) > len(named):
        ax.legend(handles=[line for line in lines if line not in named], fontsize=8)


def to_target(ax: Axes, at: ToTarget, column: str, modes: Mapping[str, Mode]) -> None:
    """Updates or running time to the target against batch size: a marker per run, a line through the seeds' means.

    A run that never reached the target is an open triangle that points up, at what it made without reaching it: its
    value lies somewhere above. One that points down reached it within its first epoch: its value lies below.
    One that diverged is a cross, at the lower edge if it never finished an epoch.

    Args:
        at: runs of several modes, and the curves that they make up.
        column: "updates" or "running_time".
        modes: by name, those of the study.
    """
    trained = {"updates": "updates_trained", "running_time": "time_trained"}[column]
    runs, means, target = at.runs, at.means, at.target
    runs = runs.assign(value=runs[column].fillna(runs[trained]))
    reason = None if (runs["value"] > 0).any() else "not recorded" if len(runs) else "no runs"
    if target is None and at.reason is None:
        reason = "no target: there is no threshold, and none was given"
    if reason:
        _nothing(ax, reason)
        runs = runs.iloc[:0]
    else:
        of = "each mode's own goal" if target is None else goal(target)
        ax.set_title(f"target: {of}{' accuracy' if target is not None and target <= 1 else ''}", fontsize="medium")
        runs = runs.dropna(subset="value")
    names = [name for name in modes if name in set(runs["experiment"])]
    for place, name in enumerate(names):
        mode = runs[runs["experiment"] == name]
        style = mode_style(name, modes)
        # Side by side, or else they would hide each other; all modes together within half a power of two.
        aside = mode["batch_size"] * 2 ** (min(0.12, 0.5 / len(names)) * (place - (len(names) - 1) / 2))
        started, censored = mode["value"] > 0, mode["censored"] == "right"
        line = means[means["experiment"] == name].dropna(subset=column)
        ax.plot(line["batch_size"], line[column], label=modes[name].label, markersize=5, **style)
        exact = mode["censored"] == "no"
        ax.scatter(aside[exact], mode.loc[exact, "value"], s=12, color=style["color"], alpha=0.6, linewidths=0)
        within = mode["censored"] == "left"
        edges = {"facecolors": "none", "edgecolors": style["color"]}
        ax.scatter(aside[within], mode.loc[within, "value"], s=28, marker="v", **edges)
        for diverged, marker in ((False, "^"), (True, "x")):
            missed = censored & started & (mode["diverged"] == diverged)
            face = {"color": style["color"]} if diverged else edges
            ax.scatter(aside[missed], mode.loc[missed, "value"], s=28, marker=marker, **face)
        if not started.all():  # an unclipped line without points would stretch the layout
            on_edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "markersize": 5}
            ax.plot(aside[~started], np.zeros((~started).sum()), "x", color=style["color"], **on_edge)
    right, diverged = runs["censored"] == "right", runs["diverged"]
    if (right & ~diverged).any():
        _key(ax, "target not reached: at least this", marker="^", linestyle="none", markerfacecolor="none")
    if (runs["censored"] == "left").any():
        _key(ax, "within the first epoch: at most this", marker="v", linestyle="none", markerfacecolor="none")
    if (right & diverged).any():
        _key(ax, "diverged here", marker="x", linestyle="none")
    _log2_axis(ax, runs["batch_size"])
    _value_axis(ax, "time_to_target" if column == "running_time" else column)


def critical_batch_sizes(ax: Axes, at: ToTarget, *, named: bool = True) -> None:
    """The fitted curves S(B), dashed, over `to_target`; unless `named` is False, on each of them B_crit as a tick, with
    its interval as a bar.

    A curve begins at the smallest batch size at which the target is reached, or at B_crit if that is smaller; above the
    largest, the runs that never reached the target speak for it. Where B_crit is undetermined, or the records have no
    updates, nothing is drawn.
    """
    for name, fit in at.critical.items():
        if fit.estimate is None or fit.steps_min is None:
            continue
        colour = mode_style(name, at.critical)["color"]
        low, high = ax.get_xlim()
        sizes = np.geomspace(min(fit.batch_sizes[0], fit.estimate), high, 100)
        ax.plot(sizes, steps_to_target(sizes, fit.steps_min, fit.estimate), "--", color=colour, linewidth=0.8)
        if named:
            middle = steps_to_target(fit.estimate, fit.steps_min, fit.estimate)
            ax.hlines(middle, fit.low, fit.high, color=colour, alpha=0.35, linewidth=6)
            ax.plot(fit.estimate, middle, color=colour, **_TICK)
        ax.set_xlim(low, high)
    if any(line.get_linestyle() == "--" for line in ax.get_lines()):
        _key(ax, "fitted curve", linestyle="--")
        if named:
            _key(ax, "critical batch size, 95 % interval", **_TICK, linestyle="none")


def currencies(axes: Sequence[Axes], found: Findings, columns: int = 4) -> None:
    """The answer in three axes: final accuracy, and updates and time to the target, against batch size, each with its
    fitted curves and with the breaking points below; `columns` are those of the legend."""
    against_batch_size(axes[0], found, "accuracy")
    threshold_line(axes[0], found.threshold)
    crossings(axes[0], found)
    at, modes = found.to_target, found.study.modes
    for ax, column, verdicts in ((axes[1], "updates", at.in_updates), (axes[2], "running_time", at.in_time)):
        to_target(ax, at, column, modes)
        if column == "updates":
            critical_batch_sizes(ax, at, named=False)
        breaking_points_below(ax, verdicts, modes)
    legend_below(axes, columns)


def effects(ax: Axes, effects: Sequence[Effect], names: Iterable[str] = ()) -> None:
    """What scaling and warm-up add to the accuracy, in points, against batch size, with intervals as bands.

    Each effect has the colour of the mode that has it; `names` are all modes, or else colours of the user's own may
    differ from those in other figures. One that no batch size shows has its reason in the legend. The scale is that of
    the differences; a band that is much wider goes on beyond it.
    """
    names = [*names, *(effect.of.name for effect in effects)]
    drawn, heights, reasons = [], [0.0], []
    for effect in effects:
        known = effect.differences.dropna(subset="difference")
        style = mode_style(effect.of.name, names)
        if len(known):
            label = f"{effect.name}: {effect.of.label}\nminus {effect.over.label}"
            ax.plot(known["batch_size"], 100 * known["difference"], label=label, markersize=5, **style)
            _band(ax, known["batch_size"], 100 * known["low"], 100 * known["high"], style["color"])
        else:
            reason = effect.reason or effect.differences["reason"].iloc[0]
            reasons.append(textwrap.fill(f"{effect.name}: {reason}", 60))
        drawn += known["batch_size"].tolist()
        heights += (100 * known["difference"]).tolist()
    if drawn:
        ax.axhline(0, color="0.4", linewidth=1, zorder=0)
        room = max(5, 0.5 * (max(heights) - min(heights)))
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, min(heights) - room), min(top, max(heights) + room))
        for reason in reasons:
            _key(ax, reason, linestyle="none")
        _legend_above(ax)
    else:
        _nothing(ax, "\n".join(reasons))
    _log2_axis(ax, drawn)
    ax.set_ylabel("difference of\ntest accuracy (points)")


def breaking_points(ax: Axes, found: Findings) -> None:
    """The breaking points of every mode in the three currencies, a row each: the estimate as a tick with a number, the
    95 % interval as a bar.

    A triangle shows an interval that is open on that side. Where nothing is known, the row gives the reason.
    """
    names = list(found.modes)
    runs = found.study.runs
    sizes = sorted(map(int, runs.loc[runs["experiment"].isin(names), "batch_size"].unique()))
    if not sizes:
        _nothing(ax, "no runs of large minibatches")
        return
    points = [mode.breaking_points[currency] for mode in found.modes.values() for currency in CURRENCIES]
    known = [end for point in points for end in (point.low, point.estimate, point.high) if end is not None]
    powers = _powers([*sizes, *(end for end in known if end < 64 * sizes[-1])])
    _log2_axis(ax, powers)
    left, right = powers[0] / 1.5, powers[-1] * 1.5
    ax.set_xlim(left, right)
    places = [-(row + row // 3) for row in range(len(points))]  # a gap between modes
    for row, (place, point) in enumerate(zip(places, points, strict=True)):
        colour = mode_style(names[row // 3], names)["color"]
        if point.interval == (None, None) and point.estimate is None and point.between == (None, None):
            _beside(ax, textwrap.fill(together(point.reasons), 72), left, place)
            continue
        beyond = replace(point, high=None) if point.high is not None and point.high > right else point
        _interval(ax, beyond, place, colour, (left, right))
    ax.set_yticks(places, list(CURRENCIES) * len(names))
    for row, mode in enumerate(found.modes.values()):
        _beside(ax, mode.mode.label, left, places[3 * row] + 0.75, weight="bold")
    ax.set_ylim(min(places) - 0.7, 1.2)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


def landscape(ax: Axes, found: Landscape) -> None:
    """Final accuracy by batch size and learning rate: a cell for every pair that was tried, with its accuracy in
    percent, and the best rate of each batch size in a frame; over them the rates of the rules, and the line through the
    peaks.

    A cross is a rate at which a run diverged. Colours end twenty points below the best accuracy.
    """
    cells, best = found.cells, found.best.set_index("batch_size")
    sizes, tried = sorted(set(cells["batch_size"])), sorted(set(cells["learning_rate"]))
    half = math.sqrt(min([2.0, *(b / a for a, b in itertools.pairwise(tried) if b / a > 1.2)]))  # of a cell's height
    wide = math.sqrt(min([4.0, *(b / a for a, b in itertools.pairwise(sizes))])) ** 0.94
    top = cells["accuracy"].max()
    colours = plt.get_cmap("viridis")
    for row in cells.itertuples():
        size, rate, works = row.batch_size, row.learning_rate, not row.diverged
        shade = colours(1 - min(1.0, (top - row.accuracy) / _LOST)) if works else (1.0, 1.0, 1.0, 1.0)
        is_best = size in best.index and best["learning_rate"][size] == rate
        frame = {"edgecolor": "black" if is_best else "white", "linewidth": 1.5 if is_best else 0.5}
        corner, width, height = (size / wide, rate / half), size * (wide - 1 / wide), rate * (half - 1 / half)
        ax.add_patch(Rectangle(corner, width, height, facecolor=shade, zorder=1.5 + is_best / 10, **frame))
        is_dark = np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.5
        words = {"color": "white" if is_dark else "black", "fontsize": 7.5, "ha": "center", "va": "center", "zorder": 4}
        shown = f"{100 * row.accuracy:.1f}" if works else "×"
        ax.text(size, rate, shown, bbox={"facecolor": shade, "edgecolor": "none", "pad": 0.6}, **words)
    line = np.geomspace(found.reference_batch_size, sizes[-1], 50)
    colour = next(mode.colour for mode in MODES.values() if mode.lr_scaling == "linear")
    for rule, label, style in (
        ("linear", "linear rule", {"color": colour}),
        ("sqrt", "square-root rule", {"color": "0.4", "linestyle": ":"}),
    ):
        rates = [found.base_lr * scaling_factor(size, found.reference_batch_size, rule) for size in line]
        ax.plot(line, rates, linewidth=1.5, zorder=3, label=label, **style)
    if found.exponent is not None:
        (low, high), span = found.interval, np.geomspace(found.fitted[0], found.fitted[-1], 50)
        label = f"best rate ∝ $B^{{{minus(found.exponent)}}}$ ({minus(low)} to {minus(high)})"
        ax.plot(span, found.level * span**found.exponent, "k--", linewidth=1.5, zorder=3, label=label)
    _log2_axis(ax, sizes)
    ax.set_xlim(sizes[0] / wide, sizes[-1] * wide)
    ax.set_yscale("log", base=2)
    ax.set_ylim(tried[0] / half / 1.1, tried[-1] * half * 1.1)
    _few_numbers(ax.yaxis, ax.get_ylim())
    ax.set_ylabel(COLUMN_LABELS["learning_rate"])
    ax.legend(fontsize=8, loc="upper left", frameon=False)


def noise_scales(ax: Axes, found: Findings) -> None:
    """Fitted critical batch size (filled, interval as a bar) beside the gradient noise scale (open, range as a line).

    The noise scale is the median of the runs' medians on the way to the target; its range is over those epochs, and it
    ends in a triangle where it was not measurable in some. What is missing is said in its place.
    """
    names = list(found.modes)
    fits = [mode.critical for mode in found.modes.values() if mode.critical.estimate is not None]
    noises = [mode.noise_scale for mode in found.modes.values() if mode.noise_scale is not None]
    if not fits and not noises:
        _nothing(ax, "neither a critical batch size is determined\nnor a noise scale measured")
        return
    powers = _powers(end for value in (*fits, *noises) for end in (value.low, value.high))
    right = powers[-1] * 1.5

    def say(missing: str, place: float) -> None:
        ax.annotate(missing, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=_INK)

    for place, (name, mode) in enumerate(found.modes.items()):
        fit, noise, style = mode.critical, mode.noise_scale, mode_style(name, names)
        if fit.estimate is not None:
            ax.hlines(-place + 0.13, fit.low, fit.high, color=style["color"], alpha=0.3, linewidth=7)
            ax.plot(fit.estimate, -place + 0.13, markersize=7, **style)
        else:
            say("critical batch size undetermined", -place + 0.13)
        if noise is None:
            say("noise scale not measured", -place - 0.13)
            continue
        ax.hlines(-place - 0.13, noise.low, noise.high or right, color=style["color"], linewidth=1)
        if noise.high is None:
            ax.plot(right, -place - 0.13, marker=">", color=style["color"], markersize=6, clip_on=False)
        if noise.median is not None:
            ax.plot(noise.median, -place - 0.13, markersize=7, markerfacecolor="white", **style)
        else:
            say(f"noise scale {together(noise.reasons)}", -place - 0.32)
    for of_any, label, face in (
        (fits, "critical batch size of the fit", None),
        (noises, "gradient noise scale", "white"),
    ):
        if of_any:
            ax.plot([], [], "o", color="0.3", markerfacecolor=face, label=label)
    labels = [textwrap.fill(mode.mode.label, 16) for mode in found.modes.values()]
    ax.set_yticks([-place for place in range(len(names))], labels, fontsize=None if len(names) <= 8 else 8)
    ax.set_ylim(-len(names) + 0.4, 0.6)
    _log2_axis(ax, powers)
    ax.set_xlim(powers[0] / 1.5, right)
    ax.set_xlabel("images")
    _legend_above(ax)


def frontier(ax: Axes, found: Findings) -> None:
    """Final accuracy against running time, a marker per mode and batch size; the Pareto frontier is joined.

    The others, which another beats in both, are pale. What is ten points or more below the best and not on the frontier
    is outside the axes, which say how many there are.
    """
    table, modes, best = found.frontier, found.study.modes, found.pareto
    for name in modes:
        of_mode = table[table["experiment"] == name]
        for is_below in (True, False):
            points = of_mode[of_mode["dominated"].astype(bool) == is_below]
            style = mode_style(name, modes) | {"linestyle": "none", "alpha": 0.3 if is_below else 1, "markersize": 6}
            ax.plot(points["running_time"], points["accuracy"], **style)
        if len(of_mode):
            ax.plot([], [], label=modes[name].label, **mode_style(name, modes) | {"linestyle": "none"})
    ax.set_xlabel(COLUMN_LABELS["running_time"])
    if best.empty:
        _nothing(ax, "no finished runs" if found.finals.empty else "no times of runs that do better than guessing")
        ax.set_ylabel(COLUMN_LABELS["accuracy"])
        return
    ax.plot(best["running_time"], best["accuracy"], color="0.6", linewidth=1, zorder=0, label="Pareto frontier")
    shown = table[table["accuracy"] >= min(best["accuracy"].max() - _WORST, best["accuracy"].min())]
    low, high = shown["accuracy"].min(), shown["accuracy"].max()
    room = 0.15 * max(high - low, 0.01)
    ax.set_ylim(low - (2 if len(shown) < len(table) else 1) * room, high + 2 * room)
    ax.set_xscale("log")
    ax.set_xlim(shown["running_time"].min() / 1.4, shown["running_time"].max() * 1.15)
    if len(shown) < len(table):
        below = f"{count(len(table) - len(shown), 'combination')} below"
        ax.annotate(below, (0.01, 0.02), xycoords="axes fraction", fontsize=8, color=_INK)
    _value_axis(ax, "accuracy")
    _few_numbers(ax.xaxis, ax.get_xlim())


def label_frontier(ax: Axes, found: Findings) -> None:
    """Batch sizes of the Pareto frontier above its points or on their left, or else higher above with a line: no two
    numbers overlap, and one that finds no room in the axes is left out. Call it last: where the points are depends on
    legends beside the axes."""
    ax.figure.draw_without_rendering()  # now it is known
    frame, point = ax.get_window_extent(), ax.figure.dpi / 72
    markers, taken = ax.transData.transform(found.pareto[["running_time", "accuracy"]]), []
    # The best rate tried may be a run of another mode, which has the same number.
    points = found.pareto.drop_duplicates(["batch_size", "running_time", "accuracy"])
    for row in points.sort_values("accuracy", ascending=False).itertuples():
        at, words = (row.running_time, row.accuracy), f"B = {row.batch_size}"
        half, (x, y) = 0.33 * 8 * len(words), ax.transData.transform(at)
        beside, above = [(0, 7), (-half - 6, -3), (-half - 6, -14)], [(0, 11 * line + 7) for line in range(1, 30)]
        for aside, up in [*beside, *above]:
            left, right, low, high = aside - half, aside + half, up - 3, up + 8  # in points from the marker
            text = Bbox.from_extents(x + point * left, y + point * low, x + point * right, y + point * high)
            with_line = text if (aside, up) in beside else Bbox.union([text, Bbox.from_extents(text.x0, y, text.x1, y)])
            is_inside = frame.count_contains(text.corners()) == 4
            if is_inside and not text.count_contains(markers) and not with_line.count_overlaps(taken):
                taken.append(with_line)
                line = None if with_line is text else {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6}
                where = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": _INK}
                ax.annotate(words, at, (aside, up), arrowprops=line, **where).set_in_layout(False)
                break


def projection(ax: Axes, mode: ModeProjection | None, names: Iterable[str] = ()) -> None:
    """Time to target of a mode against the number of workers: a line per interconnect, a marker where they stop paying.

    A line is pale where a worker has fewer images than any recorded minibatch. An interconnect that cannot be projected
    shows its reason in the legend. None: there is no mode.
    """
    reason = "no records of large minibatches" if mode is None else mode.reason
    if reason is not None:
        _nothing(ax, textwrap.fill(str(reason), 40))
    else:
        style = mode_style(mode.mode.name, names)
        dashes = dict(zip(mode.scalings, _DASHES * len(mode.scalings), strict=False))
        for label, scaling in mode.scalings.items():
            if not scaling.workers:
                _key(ax, textwrap.fill(f"{label}: {together(scaling.reasons)}", 40), linestyle="none")
                continue
            line = {"color": style["color"], "linestyle": dashes[label]}
            workers, seconds = [each.workers for each in scaling.workers], [each.seconds for each in scaling.workers]
            measured = [math.nan if each.extrapolated else each.seconds for each in scaling.workers]
            ax.plot(workers, measured, label=label, **line)
            ax.plot(workers, seconds, alpha=0.35, **line)
            stop = scaling.pays_up_to
            ax.plot(stop.workers, stop.seconds, linestyle="none", markersize=7, **style)
        label = "more workers stop paying"
        ax.plot([], [], linestyle="none", color="0.4", marker=style["marker"], label=label)
        drawn = [each for scaling in mode.scalings.values() for each in scaling.workers]
        if any(each.extrapolated for each in drawn):
            ax.plot([], [], color=style["color"], alpha=0.35, label="extrapolated to few images per worker")
        ax.legend(fontsize=8, title="interconnect", title_fontsize=8)
        _log2_axis(ax, [each.workers for each in drawn])
        ax.set_yscale("log")
        _few_numbers(ax.yaxis, ax.get_ylim())
    ax.set_title("" if mode is None else mode.mode.label, fontsize=10)
    ax.set_xlabel("workers")
    ax.set_ylabel(COLUMN_LABELS["time_to_target"])


def advice(ax: Axes, advice: Advice) -> None:
    """Images to the same loss, relative to the reference, against the batch size: a line per checkpoint.

    Where a line crosses 2, half of the images are wasted: the local critical batch size. The shaded part is the 95 %
    interval of the prediction over all checkpoints; a vertical line marks the recommended batch size.
    """
    main = advice.main
    known = [local for local in main.locals if local.curve is not None] if main else []
    if not known:
        _nothing(ax, textwrap.fill(together(advice.reasons) or "no branches", 40))
        return
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.8, len(known)))
    for local, shade in zip(known, shades, strict=True):
        epoch = local.updates / advice.measured.updates_per_epoch
        ax.plot(*_until(local.measured, _MOST_IMAGES), "o", markersize=4, color=shade, label=f"after epoch {epoch:.2g}")
        grid = np.geomspace(*local.curve.sizes[:: len(local.curve.sizes) - 1], 100)
        ax.plot(*_until([(size, local.images(size)) for size in grid], _MOST_IMAGES), color=shade)
    ax.axhline(2, color="0.4", linewidth=1, linestyle="--", label="twice the images")
    _log2_axis(ax, [size for local in known for size, _ in local.losses])
    if main.low is not None or main.high is not None:
        limits = ax.get_xlim()
        ends = (main.low or limits[0], main.high or limits[1])
        ax.axvspan(*ends, color="0.5", alpha=0.15, linewidth=0, label="prediction, 95 % interval")
        ax.set_xlim(*limits)
    if advice.recommended is not None:
        ax.axvline(advice.recommended.batch_size, color="#D55E00", linewidth=1, label="recommended")
    ax.set_ylabel("images to the same loss,\nrelative to the reference")
    _legend(ax)


def _until(points: Iterable[tuple[float, float]], most: float) -> tuple[list[float], list[float]]:
    """Places and heights of the points up to a height."""
    kept = [point for point in points if point[1] <= most]
    return [place for place, _ in kept], [height for _, height in kept]


def image_grid(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = 10) -> Figure:
    """The first two images of each class: uint8 or floats in 0-1 `(n, h, w, c)`, and integers `(n,)`. Without three
    channels the first is shown."""
    chosen = [np.flatnonzero(labels == number)[:2] for number in range(min(columns, len(classes)))]
    figure, axes = plt.subplots(2, len(chosen), figsize=(len(chosen), 2.4), squeeze=False)
    for column, places in enumerate(chosen):
        axes[0, column].set_title(classes[column], fontsize="small")
        for row in range(2):
            axes[row, column].axis("off")
            if row < len(places):
                _image(axes[row, column], images[places[row]])
    figure.tight_layout(pad=0.3)
    return figure


def mistakes(found, columns: int = 8) -> Figure:
    """Test images that one of two networks gets wrong and the other right, a row for each: the true class, and the one
    that is predicted. The first ones are shown, and their number is said.

    Args:
        found: a `sweeps.mistakes.Mistakes`.
    """
    sizes = [run.batch_size for run in found.runs]
    is_wrong = [predicted != found.labels for predicted in (found.small, found.large)]
    figure, axes = plt.subplots(2, columns, figsize=(NOTEBOOK, 3.8), squeeze=False, layout="constrained")
    for row, wrong, right, predicted, size in zip(
        axes, is_wrong, is_wrong[::-1], (found.small, found.large), sizes, strict=True
    ):
        places = np.flatnonzero(wrong & ~right)
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(f"only B = {size} wrong\n{len(places)} of {len(found.labels)}", fontsize=10)
        for ax, place in zip(row, places[:columns], strict=False):
            _image(ax, found.images[place])
            ax.set_title(f"{found.classes[found.labels[place]]}\n→ {found.classes[predicted[place]]}", fontsize=10)
    return figure


def _image(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")


def _value_axis(ax: Axes, column: str) -> None:
    ax.set_ylabel(COLUMN_LABELS.get(column, column))
    if column in LOGARITHMIC and ax.has_data():
        ax.set_yscale("log")
        _few_numbers(ax.yaxis, ax.get_ylim())
    elif column in PERCENT and ax.has_data():
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}".replace("-", "−")))


def _few_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    """Plain numbers on an axis. A logarithmic one has at least four, as round as they can be within its limits."""
    low, high = limits
    choices = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)) if axis.get_scale() == "log" else ()
    for steps in choices:
        ticks = LogLocator(subs=steps, numticks=99).tick_values(low, high)
        if sum((low <= ticks) & (ticks <= high)) >= 4:
            axis.set_major_locator(LogLocator(subs=steps, numticks=99))
            axis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
            break
    else:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _band(ax: Axes, places: Sequence[float], low: Sequence[float], high: Sequence[float], color) -> None:
    """An interval along a line; of a single point, which has no width to fill, a bar."""
    ax.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    if len(places) == 1:
        ax.vlines(places, low, high, color=color, alpha=0.5)


def _beside(ax: Axes, words: str, x: float, y: float, *, is_left: bool = False, **how) -> None:
    """Words to the right of a point, or to the left."""
    place = {"xytext": (-7 if is_left else 7, 0), "textcoords": "offset points", "ha": "right" if is_left else "left"}
    ax.annotate(words, (x, y), va="center", fontsize=8, color=_INK, **place, **how)


def _key(ax: Axes, label: str, **style) -> None:
    """An entry of the legend that belongs to no single line."""
    ax.plot([], [], label=label, color="0.4", linewidth=1, **style)


def _legend(ax: Axes, **how) -> None:
    """Within the axes, or beside them if it is long enough to hide what they show."""
    count = len(how.get("handles", ax.get_legend_handles_labels()[0]))
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False, "ncols": math.ceil(count / 24)}
    ax.legend(fontsize=8, **how, **(beside if count > MOST else {}))


def legend_below(axes: Iterable[Axes], columns: int = 4) -> None:
    """One legend for several axes, below their figure; a label that they share is there once."""
    axes = list(axes)
    shown = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if shown:
        axes[0].figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )


def _legend_above(ax: Axes) -> None:
    """Where it hides nothing."""
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _nothing(ax: Axes, reason: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.annotate(reason, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color="0.4", fontsize=9)


def _powers(values: Iterable[float | None]) -> list[int]:
    """The powers of two from just below the least to just above the greatest value."""
    values = [value for value in values if value is not None]
    return [2**power for power in range(int(np.floor(np.log2(min(values)))), int(np.ceil(np.log2(max(values)))) + 1)]


def _log2_axis(ax: Axes, batch_sizes: Iterable[int]) -> None:
    sizes = sorted(set(batch_sizes))
    ax.set_xscale("log", base=2)
    if len(sizes) == 1:  # or else the axis would end at the next floats
        ax.set_xlim(sizes[0] / 2, sizes[0] * 2)
    ax.xaxis.set_major_locator(_Apart(sizes))
    ax.xaxis.set_minor_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.10g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("batch size")


class _Apart(FixedLocator):
    """Of these sizes, in order, those whose numbers have room beside one another in the axes as they are drawn. Where
    three or more are powers of two, only these have numbers; the others are sizes that a search added."""

    def __call__(self) -> list[int]:
        ax, sizes = self.axis.axes, [int(size) for size in self.locs]
        if not sizes:
            return []
        size = FontProperties(size=mpl.rcParams["xtick.labelsize"]).get_size_in_points() * ax.figure.dpi / 72
        room = 0.64 * size * (max(len(str(each)) for each in sizes) + 0.7)
        powers = [each for each in sizes if each.bit_count() == 1]
        named = powers if len(powers) >= 3 else sizes
        places = ax.transData.transform([(each, 1) for each in named])[:, 0]
        kept = [0]
        for place in range(1, len(named)):
            if places[place] - places[kept[-1]] >= room:
                kept.append(place)
        return [named[place] for place in kept]
