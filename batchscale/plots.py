"""Analysis to figures. The functions only draw: axes come first, no result is computed here.

    figure, ax = plt.subplots()
    against_batch_size(ax, over_seeds(final(records), "accuracy"), "accuracy")
    threshold_line(ax, threshold(records))

One colour a mode throughout, from a palette that colour-blind readers can tell apart (Okabe & Ito 2008); batch sizes on
a log₂ axis; in figures of one mode, batch sizes from light to dark.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from batchscale.analysis import Threshold
from batchscale.experiment import MODES

_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MODE_LABELS = {
    "baseline_small": "small batches, base rate",
    "baseline_large": "base rate",
    "scaled_lr": "linearly scaled rate",
    "gradual_warmup_scaled_lr": "scaled rate, gradual warm-up",
}
COLUMN_LABELS = {
    "accuracy": "test accuracy",
    "generalization_error": "generalization error\n(train − test accuracy)",
    "running_time": "running time (s)",
    "learning_rate": "learning rate",
}
LOGARITHMIC = ("running_time", "learning_rate")  # columns whose values span powers of ten over the batch sizes


def mode_label(experiment: str) -> str:
    """How a mode is called in figures; a name of the user's own stays as it is."""
    return _MODE_LABELS.get(experiment, experiment)


def mode_style(experiment: str, experiments: Iterable[str] = ()) -> dict:
    """Colour and marker of a mode; names of the user's own, in `experiments`, take the next ones in turn."""
    own = sorted(set(experiments) - set(MODES))
    place = [*MODES, *own].index(experiment) if experiment in MODES or experiment in own else len(MODES)
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def in_order(names: Iterable[str]) -> list[str]:
    """Modes in the study's order, then the user's own by name."""
    names = set(names)
    return [name for name in MODES if name in names] + sorted(names - set(MODES))


def against_batch_size(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """A column at the end of training against batch size: a line a mode through the means, the seeds' range as a band.

    `table` is that of `analysis.over_seeds`: experiment, batch_size, mean, low, high.
    """
    names = in_order(table["experiment"])
    for name in names:
        mode = table[table["experiment"] == name].sort_values("batch_size")
        style = mode_style(name, names)
        ax.plot(mode["batch_size"], mode["mean"], label=mode_label(name), markersize=5, **style)
        ax.fill_between(mode["batch_size"], mode["low"], mode["high"], color=style["color"], alpha=0.2, linewidth=0)
    _log2_axis(ax, table["batch_size"])
    _value_axis(ax, column)


def against_epoch(ax: Axes, table: pd.DataFrame, column: str, batch_sizes: Sequence[int] | None = None) -> None:
    """A column of one mode against the epoch: a line a batch size, from light to dark, the seeds' range as a band.

    `table` is that of `analysis.over_seeds` by batch_size and epoch. `batch_sizes` fixes the shades where several axes
    share them.
    """
    sizes = sorted(set(table["batch_size"]) if batch_sizes is None else set(batch_sizes))
    shades = dict(zip(sizes, plt.get_cmap("viridis_r")(np.linspace(0.2, 1, len(sizes))), strict=True))
    for size, run in table.groupby("batch_size"):
        run = run.sort_values("epoch")
        marker = "o" if len(run) == 1 else None
        ax.plot(run["epoch"], run["mean"], color=shades[size], marker=marker, label=f"B = {size}")
        ax.fill_between(run["epoch"], run["low"], run["high"], color=shades[size], alpha=0.2, linewidth=0)
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    _value_axis(ax, column)


def threshold_line(ax: Axes, threshold: Threshold | None) -> None:
    """The accuracy to keep, as a dashed line with its value in the legend's label; nothing where it is not known."""
    if threshold is not None:
        label = f"threshold {threshold.accuracy:.3f} (B = {threshold.from_batch_size} less {threshold.tolerance:g})"
        ax.axhline(threshold.accuracy, color="0.4", linestyle="--", linewidth=1, zorder=0, label=label)


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
    if column in LOGARITHMIC:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        # Within a power of ten, 1-2-5 may leave a single number on the axis.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(5))
        ax.yaxis.set_minor_locator(LogLocator(subs="auto") if high > 10 * low else NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _log2_axis(ax: Axes, batch_sizes: Iterable[int]) -> None:
    sizes = sorted(set(batch_sizes))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    ax.tick_params(axis="x", labelrotation=45 if len(sizes) > 7 else 0)
    ax.set_xlabel("batch size")
