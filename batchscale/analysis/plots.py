"""Analysis to figures. The functions only draw: axes come first, no result is computed here.

    figure, ax = plt.subplots()
    against_batch_size(ax, over_seeds(final(records), "accuracy"), "accuracy")
    threshold_line(ax, threshold(records))
    label_lines(ax)

One colour a mode throughout, from a palette that colour-blind readers can tell apart (Okabe & Ito 2008), and one
marker; batch sizes on a log₂ axis; in figures of one mode, batch sizes from light to dark. Axes with nothing to show
say so.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from batchscale.analysis.critical_batch_size import steps_to_target
from batchscale.analysis.tables import Threshold, in_order
from batchscale.modes import MODES

_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MODE_LABELS = {
    "baseline_small": "small batches, base rate",
    "baseline_large": "base rate",
    "scaled_lr": "linearly scaled rate",
    "gradual_warmup_scaled_lr": "scaled rate, gradual warm-up",
}
_DASHES = ("-", "--", "-.", ":")  # of interconnects
_CURRENCY_MARKERS = {"accuracy": "o", "updates": "s", "time": "^"}
COLUMN_LABELS = {
    "accuracy": "test accuracy",
    "updates": "updates to target",
    "time_to_target": "training time to target (s)",
    "generalization_error": "generalization error\n(train − test accuracy)",
    "running_time": "running time (s)",
    "learning_rate": "learning rate",
}
# Columns whose values span powers of ten over the batch sizes.
LOGARITHMIC = ("running_time", "learning_rate", "updates", "time_to_target")


def mode_label(experiment: str) -> str:
    """How a mode is called in figures; a name of the user's own stays as it is, but for the middle of a long one."""
    short = experiment if len(experiment) <= 32 else f"{experiment[:15]}…{experiment[-16:]}"
    return _MODE_LABELS.get(experiment, short)


def mode_style(experiment: str, experiments: Iterable[str] = ()) -> dict:
    """Colour and marker of a mode; names of the user's own, in `experiments`, take the next ones in turn."""
    own = sorted(set(experiments) - set(MODES))
    place = [*MODES, *own].index(experiment) if experiment in MODES or experiment in own else len(MODES)
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def against_batch_size(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """A column at the end of training against batch size: a line a mode through the means, the seeds' range as a band.

    `table` is that of `analysis.over_seeds`: experiment, batch_size, mean, low, high.
    """
    names = in_order(table["experiment"])
    if not names:
        _nothing(ax, "no finished runs")
    for name in names:
        mode = table[table["experiment"] == name].sort_values("batch_size")
        style = mode_style(name, names)
        ax.plot(mode["batch_size"], mode["mean"], label=mode_label(name), markersize=5, **style)
        _band(ax, mode["batch_size"], mode["low"], mode["high"], style["color"])
    _log2_axis(ax, table["batch_size"])
    _value_axis(ax, column)


def against_epoch(ax: Axes, table: pd.DataFrame, column: str, batch_sizes: Sequence[int] | None = None) -> None:
    """A column of one mode against the epoch: a line a batch size, from light to dark, the seeds' range as a band.

    `table` is that of `analysis.over_seeds` by batch_size and epoch. `batch_sizes` fixes the shades where several axes
    share them.
    """
    sizes = sorted(set(table["batch_size"]) if batch_sizes is None else set(batch_sizes))
    if table.empty:
        _nothing(ax, "no runs")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    shades = dict(zip(sizes, plt.get_cmap("viridis_r")(np.linspace(0.2, 1, len(sizes))), strict=True))
    for size, run in table.groupby("batch_size"):
        run = run.sort_values("epoch")
        marker = "o" if len(run) == 1 else None
        ax.plot(run["epoch"], run["mean"], color=shades[size], marker=marker, label=f"B = {size}")
        _band(ax, run["epoch"], run["low"], run["high"], shades[size])
    ax.set_xlabel("epoch")
    _value_axis(ax, column)


def batch_size_legend(ax: Axes) -> None:
    """Name the lines of `against_epoch` beside the axes, the largest batch size on top; nothing without lines."""
    handles, labels = ax.get_legend_handles_labels()
    named = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label.startswith("B = ")]
    if named:
        ax.legend(
            *zip(*named[::-1], strict=True), fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
        )


def threshold_line(ax: Axes, threshold: Threshold | None) -> None:
    """The accuracy to keep, as a dashed line with its value in the legend's label.

    Nothing where it is not known, or where the axes have no line to compare with it.
    """
    if threshold is not None and ax.has_data():
        size = threshold.from_batch_size
        source = "mean of small B" if size is None else f"B = {size}"
        label = f"threshold {threshold.accuracy:.3f} ({source} less {threshold.tolerance:g})"
        ax.axhline(threshold.accuracy, color="0.4", linestyle="--", linewidth=1, zorder=0, label=label)


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
        ax.legend(handles=lines, fontsize=8)
        return
    for line in named:
        x, y = line.get_xydata().T
        at = {"text": line.get_label(), "fontsize": 8, "color": line.get_color(), "textcoords": "offset points"}
        if line in ending:
            ax.annotate(xy=(1, y[-1]), xytext=(4, 0), xycoords=("axes fraction", "data"), va="center", **at)
        else:
            ax.annotate(xy=(x[0], y.max()), xytext=(-3, 6), **at)
            ax.set_ylim(top=max(ax.get_ylim()[1], y.max() + 0.1 * np.diff(ax.get_ylim())[0]))
    if len(lines) > len(named):
        ax.legend(handles=[line for line in lines if line not in named], fontsize=8)


def to_target(ax: Axes, runs: pd.DataFrame, means: pd.DataFrame, column: str, target: float | None) -> None:
    """Updates or running time to the target against batch size: a marker a run, a line through the seeds' means.

    A run that never reached the target is an open triangle that points up, at what it made without reaching it: its
    value lies somewhere above. One that diverged is a cross, at the lower edge if it never finished an epoch.

    Args:
        runs: of `analysis.to_target`; rows of several modes.
        means: of `analysis.means_to_target`.
        column: "updates" or "running_time".
        target: accuracy, 0-1; None: there is none, and nothing is drawn.
    """
    trained = {"updates": "updates_trained", "running_time": "time_trained"}[column]
    runs = runs.assign(value=runs[column].fillna(runs[trained]))
    reason = None if (runs["value"] > 0).any() else "not recorded" if len(runs) else "no runs"
    if target is None:
        reason = "no target: there is no threshold, and none was given"
    if reason:
        _nothing(ax, reason)
        runs = runs.iloc[:0]
    else:
        ax.set_title(f"target: accuracy {target:.3f}", fontsize=10)
        runs = runs.dropna(subset="value")
    names = in_order(runs["experiment"])
    for place, name in enumerate(names):
        mode = runs[runs["experiment"] == name]
        style = mode_style(name, names)
        aside = mode["batch_size"] * 2 ** (0.12 * (place - (len(names) - 1) / 2))  # or else they would hide each other
        started, censored = mode["value"] > 0, mode["censored"] == "right"
        line = means[means["experiment"] == name].dropna(subset=column)
        ax.plot(line["batch_size"], line[column], label=mode_label(name), markersize=5, **style)
        ax.scatter(aside[~censored], mode.loc[~censored, "value"], s=12, color=style["color"], alpha=0.6, linewidths=0)
        for diverged, marker in ((False, "^"), (True, "x")):
            missed = censored & started & (mode["diverged"] == diverged)
            face = {"color": style["color"]} if diverged else {"facecolors": "none", "edgecolors": style["color"]}
            ax.scatter(aside[missed], mode.loc[missed, "value"], s=28, marker=marker, **face)
        if not started.all():  # an unclipped line without points would stretch the layout
            on_edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "markersize": 5}
            ax.plot(aside[~started], np.zeros((~started).sum()), "x", color=style["color"], **on_edge)
    right, diverged = runs["censored"] == "right", runs["diverged"]
    if (right & ~diverged).any():
        _key(ax, "target not reached: at least this", marker="^", linestyle="none", markerfacecolor="none")
    if (right & diverged).any():
        _key(ax, "diverged here", marker="x", linestyle="none")
    _log2_axis(ax, runs["batch_size"])
    _value_axis(ax, "time_to_target" if column == "running_time" else column)


def critical_batch_size(ax: Axes, name: str, fit: dict, experiments: Iterable[str] = ()) -> None:
    """The fitted curve S(B) of a mode, dashed, over `to_target`; on it B_crit, with its interval as a bar.

    It begins at the smallest batch size at which the target is reached, or at B_crit if that is smaller; above the
    largest, the runs that never reached the target speak for it. `fit` is a mode's `critical_batch_size` in the result
    of `findings.analyse`. Nothing where B_crit is not determined, or where the records have no updates.
    """
    if fit["estimate"] is None or fit["steps_min"] is None:
        return
    colour = mode_style(name, experiments)["color"]
    low, high = ax.get_xlim()
    sizes = np.geomspace(min(fit["batch_sizes"][0], fit["estimate"]), high, 100)
    ax.plot(sizes, steps_to_target(sizes, fit["steps_min"], fit["estimate"]), "--", color=colour, linewidth=1)
    at = steps_to_target(fit["estimate"], fit["steps_min"], fit["estimate"])
    ax.hlines(at, fit["low"], fit["high"], color=colour, alpha=0.3, linewidth=7)
    ax.plot(fit["estimate"], at, "|", color=colour, markersize=12, markeredgewidth=2)
    ax.set_xlim(low, high)
    if "fit S(B), with the critical batch size" not in ax.get_legend_handles_labels()[1]:
        _key(ax, "fit S(B), with the critical batch size", marker="|", linestyle="--", markersize=10)


def effects(ax: Axes, effects: Sequence[dict]) -> None:
    """What scaling and warm-up add to the accuracy, in points, against batch size, with intervals as bands.

    `effects` are those of `findings.analyse`; each has the colour of the mode that has it, and one that no batch size
    shows its reason in the legend.
    """
    drawn, reasons = [], []
    for effect in effects:
        rows = [row for row in effect["batch_sizes"] if row["difference"] is not None]
        sizes = [row["batch_size"] for row in rows]
        style = mode_style(effect["of"])
        if rows:
            label = f"{effect['effect']}: {mode_label(effect['of'])}\nless {mode_label(effect['over'])}"
            ax.plot(sizes, [100 * row["difference"] for row in rows], label=label, markersize=5, **style)
            low, high = ([100 * row[bound] for row in rows] for bound in ("low", "high"))
            _band(ax, sizes, low, high, style["color"])
        else:
            reason = effect["reason"] or effect["batch_sizes"][0]["reason"]
            reasons.append(textwrap.fill(f"{effect['effect']}: {reason}", 60))
        drawn += sizes
    if drawn:
        ax.axhline(0, color="0.4", linewidth=1, zorder=0)
        for reason in reasons:
            _key(ax, reason, linestyle="none")
        _legend_above(ax)
    else:
        _nothing(ax, "\n".join(reasons))
    _log2_axis(ax, drawn)
    ax.set_ylabel("difference of test accuracy (points)")


def breaking_points(ax: Axes, modes: dict[str, dict]) -> None:
    """The breaking points of every mode in the three currencies, a row each, with intervals as bars.

    `modes` are those of `findings.analyse`. An arrow shows an interval that goes below the smallest recorded batch
    size; one of a single batch size is hidden by its marker. Where there is neither, the row gives the reason.
    """
    names = list(modes)
    rows = [(name, currency) for name in names for currency in _CURRENCY_MARKERS]
    sizes = sorted({row["batch_size"] for mode in modes.values() for row in mode["batch_sizes"]})
    if not sizes:
        _nothing(ax, "no runs of large minibatches")
        return
    verdicts = [modes[name]["breaking_point"] for name in names]
    bounds = [bound for verdict in verdicts for interval in verdict["intervals"].values() for bound in interval]
    points = [verdict[currency] for verdict in verdicts for currency in _CURRENCY_MARKERS]
    powers = _powers([*sizes, *bounds, *points])
    _log2_axis(ax, powers)
    left = powers[0] / 1.5
    ax.set_xlim(left, powers[-1] * 1.5)
    for place, (name, currency) in enumerate(rows):
        breaking = modes[name]["breaking_point"]
        size, (low, high) = breaking[currency], breaking["intervals"][currency]
        colour = mode_style(name, names)["color"]
        place = -(place + place // 3)  # a gap between modes
        if high is not None:
            ax.hlines(place, left if low is None else low, high, color=colour, alpha=0.3, linewidth=7)
            if low is None:
                ax.plot(left, place, marker="<", color=colour, markersize=6, clip_on=False)
        if size is not None:
            ax.plot(size, place, marker=_CURRENCY_MARKERS[currency], color=colour, markersize=7)
        elif high is None:
            reason = textwrap.fill(breaking["reasons"][currency], 72)
            ax.annotate(reason, (left, place), (6, 0), textcoords="offset points", va="center", fontsize=7, color="0.3")
        if (size is None) != (high is None):
            end, word = (high, "no estimate") if size is None else (size, "no interval")
            beside = (
                {"xytext": (7, 0), "ha": "left"} if end**2 < left * powers[-1] else {"xytext": (-7, 0), "ha": "right"}
            )
            ax.annotate(word, (end, place), textcoords="offset points", va="center", fontsize=7, color="0.3", **beside)
    places = [-(place + place // 3) for place in range(len(rows))]
    ax.set_yticks(places, [currency for _, currency in rows])
    for number, name in enumerate(names):
        ax.annotate(
            mode_label(name),
            (left, places[3 * number] + 0.75),
            (6, 0),
            textcoords="offset points",
            fontsize=9,
            color=mode_style(name, names)["color"],
            va="center",
        )
    ax.set_ylim(min(places) - 0.7, 1.2)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)


def noise_scales(ax: Axes, modes: dict[str, dict]) -> None:
    """Fitted critical batch size (filled, interval as a bar) beside the gradient noise scale (open, range as a line).

    `modes` are those of `findings.analyse`. The noise scale is the median of the runs' medians; its range is over all
    epochs and runs, and ends in an arrow where some epochs were not measurable. What is missing is said in its place.
    """
    names = list(modes)
    fits = [fit for mode in modes.values() if (fit := mode["critical_batch_size"])["estimate"] is not None]
    noises = [noise for mode in modes.values() if (noise := mode["noise_scale"]) is not None]
    if not fits and not noises:
        _nothing(ax, "neither a critical batch size is determined\nnor a noise scale measured")
        return
    powers = _powers(value[bound] for value in (*fits, *noises) for bound in ("low", "high"))
    right = powers[-1] * 1.5

    def say(missing: str, place: float) -> None:
        ax.annotate(missing, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="0.3")

    for place, name in enumerate(names):
        fit, noise = modes[name]["critical_batch_size"], modes[name]["noise_scale"]
        style = mode_style(name, names)
        if fit["estimate"] is not None:
            ax.hlines(-place + 0.13, fit["low"], fit["high"], color=style["color"], alpha=0.3, linewidth=7)
            ax.plot(fit["estimate"], -place + 0.13, markersize=7, **style)
        else:
            say("B_crit not determined", -place + 0.13)
        if noise is None:
            say("noise scale not measured", -place - 0.13)
            continue
        ax.hlines(-place - 0.13, noise["low"], noise["high"] or right, color=style["color"], linewidth=1)
        if noise["high"] is None:
            ax.plot(right, -place - 0.13, marker=">", color=style["color"], markersize=6, clip_on=False)
        if noise["median"] is not None:
            ax.plot(noise["median"], -place - 0.13, markersize=7, markerfacecolor="white", **style)
        else:
            say(f"noise scale {noise['reason']}", -place - 0.32)
    for of_any, label, face in (
        (fits, "critical batch size of the fit", None),
        (noises, "gradient noise scale", "white"),
    ):
        if of_any:
            ax.plot([], [], "o", color="0.3", markerfacecolor=face, label=label)
    ax.set_yticks([-place for place in range(len(names))], [textwrap.fill(mode_label(name), 16) for name in names])
    ax.set_ylim(-len(names) + 0.4, 0.6)
    _log2_axis(ax, powers)
    ax.set_xlim(powers[0] / 1.5, right)
    ax.set_xlabel("images")
    _legend_above(ax)


def frontier(ax: Axes, rows: Sequence[dict]) -> None:
    """Final accuracy against running time, a marker a mode and batch size; those worth choosing are joined and named.

    `rows` are the frontier of `findings.analyse`; the others, which another beats in both, are pale.
    """
    names = in_order(row["experiment"] for row in rows)
    for name in names:
        for dominated in (False, True):
            points = [row for row in rows if row["experiment"] == name and row["dominated"] is dominated]
            times, accuracies = ([row[column] for row in points] for column in ("running_time", "accuracy"))
            style = mode_style(name, names) | {"linestyle": "none", "alpha": 0.3 if dominated else 1}
            label = mode_label(name) if not dominated or all(row["dominated"] for row in points) else None
            known = label in ax.get_legend_handles_labels()[1]
            ax.plot(times, accuracies, label=None if known or not points else label, markersize=6, **style)
    best = sorted((row for row in rows if not row["dominated"]), key=lambda row: row["running_time"])
    if not best:
        _nothing(ax, "no finished runs")
    else:
        ax.plot(*([row[c] for row in best] for c in ("running_time", "accuracy")), color="0.6", linewidth=1, zorder=0)
    if names:
        ax.legend(fontsize=8, title="number: batch size", title_fontsize=8)
        ax.margins(x=0.16, y=0.12)  # room for the numbers beside the points
    _value_axis(ax, "accuracy")
    ax.set_xlabel(COLUMN_LABELS["running_time"])
    if names:
        ax.set_xscale("log")
        _few_numbers(ax.xaxis, ax.get_xlim())
    placed = []
    for row in best[::-1]:  # the most accurate first: where two numbers would overlap, it keeps its own
        place = ax.transData.transform((row["running_time"], row["accuracy"])) * 72 / ax.figure.dpi
        if all(abs(place[0] - x) > 24 or abs(place[1] - y) > 9 for x, y in placed):
            placed.append(place)
            ax.annotate(
                f"{row['batch_size']}",
                (row["running_time"], row["accuracy"]),
                (-6, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=mode_style(row["experiment"], names)["color"],
            )


def projection(ax: Axes, name: str, mode: dict | None, experiments: Iterable[str] = ()) -> None:
    """Time to target of a mode against the number of workers: a line an interconnect, a marker where they stop paying.

    `mode` is one of those of `projection.project`; None: there is none. A line is pale where a worker has fewer images
    than any recorded minibatch. An interconnect that cannot be projected shows its reason in the legend.
    """
    reason = "no records of large minibatches" if mode is None else mode["reason"]
    if reason is not None:
        _nothing(ax, textwrap.fill(reason, 40))
    else:
        style = mode_style(name, experiments)
        dashes = dict(zip(mode["interconnects"], _DASHES * len(mode["interconnects"]), strict=False))
        for label, found in mode["interconnects"].items():
            rows = found["workers"]
            if not rows:
                _key(ax, textwrap.fill(f"{label}: {found['reason']}", 40), linestyle="none")
                continue
            line = {"color": style["color"], "linestyle": dashes[label]}
            workers, seconds = [row["workers"] for row in rows], [row["seconds"] for row in rows]
            measured = [math.nan if row["extrapolated"] else row["seconds"] for row in rows]
            ax.plot(workers, measured, label=label, **line)
            ax.plot(workers, seconds, alpha=0.35, **line)
            (stop,) = (row for row in rows if row["workers"] == found["pays_up_to"])
            ax.plot(stop["workers"], stop["seconds"], linestyle="none", markersize=7, **style)
        label = "more workers stop paying"
        ax.plot([], [], linestyle="none", color="0.4", marker=style["marker"], label=label)
        drawn = [row for found in mode["interconnects"].values() for row in found["workers"]]
        if any(row["extrapolated"] for row in drawn):
            ax.plot([], [], color=style["color"], alpha=0.35, label="extrapolated to few images a worker")
        ax.legend(fontsize=8, title="interconnect", title_fontsize=8)
        _log2_axis(ax, [row["workers"] for row in drawn])
        ax.set_yscale("log")
        _few_numbers(ax.yaxis, ax.get_ylim())
    ax.set_title(mode_label(name), fontsize=10)
    ax.set_xlabel("workers")
    ax.set_ylabel(COLUMN_LABELS["time_to_target"])


def image_grid(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = 10) -> Figure:
    """The first two images of each class: uint8 `(n, h, w, c)`, with c = 1 or 3, and integers `(n,)`."""
    chosen = [np.flatnonzero(labels == number)[:2] for number in range(min(columns, len(classes)))]
    figure, axes = plt.subplots(2, len(chosen), figsize=(len(chosen), 2.4), squeeze=False)
    for column, places in enumerate(chosen):
        axes[0, column].set_title(classes[column], fontsize="small")
        for row in range(2):
            axes[row, column].axis("off")
            if row < len(places):
                image = images[places[row]]
                axes[row, column].imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")
    figure.tight_layout(pad=0.3)
    return figure


def save(figure: Figure, data_dir: str | Path, name: str) -> None:
    """Write a figure to `figures/` beside the records, as PNG for a screen and as SVG for a page."""
    folder = Path(data_dir).expanduser() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(folder / f"{name}.{ending}", dpi=150, bbox_inches="tight")


def _value_axis(ax: Axes, column: str) -> None:
    ax.set_ylabel(COLUMN_LABELS.get(column, column))
    if column in LOGARITHMIC and ax.has_data():
        ax.set_yscale("log")
        _few_numbers(ax.yaxis, ax.get_ylim())


def _few_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    """Plain numbers on a logarithmic axis. Within a power of ten, 1-2-5 may leave a single one."""
    wide = limits[1] > 10 * limits[0]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
    axis.set_minor_locator(LogLocator(subs="auto") if wide else NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _band(ax: Axes, places: Sequence[float], low: Sequence[float], high: Sequence[float], color) -> None:
    """An interval along a line; of a single point, which has no width to fill, a bar."""
    ax.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    if len(places) == 1:
        ax.vlines(places, low, high, color=color, alpha=0.5)


def _key(ax: Axes, label: str, **style) -> None:
    """An entry of the legend that belongs to no single line."""
    ax.plot([], [], label=label, color="0.4", linewidth=1, **style)


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
    ax.xaxis.set_major_locator(FixedLocator(sizes, nbins=14))  # of more, every second
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.10g}"))
    ax.tick_params(axis="x", labelrotation=45 if len(sizes) > 7 else 0)
    ax.set_xlabel("batch size")
