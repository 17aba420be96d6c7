"""Builds report.pdf from the records of a folder.

    python -m report.build data report.pdf        # in the project's folder; or make report DATA=data REPORT=report.pdf

The same records give the same bytes. Needs typst (`pip install ".[report]"`) and no network.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale import records
from batchscale.analysis import findings, plots, tables
from batchscale.errors import UserError
from batchscale.records.files import SaveError, write_whole
from report.contents import contents, learning_rates, lower_targets

HERE = Path(__file__).parent
DISCUSSION = "discussion.typ"  # of the records whose digest its first line names
CHECK = "learning_rate_check"  # a folder of the records' own, with runs that are no part of the study
TEXT_WIDTH = 6.3  # inches, as in report.typ: figures keep their size, and letters theirs
_STYLE = ["default", {"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 1.2, "svg.hashsalt": "batchscale"}]


def build(data_dir: str | Path, pdf: str | Path) -> None:
    """Write the report on the records of a folder.

    Raises:
        UserError: there is no folder or no record, a record cannot be read, typst is not installed, or the PDF cannot
            be written.
    """
    try:
        import typst
    except ModuleNotFoundError:
        raise UserError("typst is not installed, which makes the PDF; install it with pip install typst") from None
    with tempfile.TemporaryDirectory() as folder:
        source = prepare(Path(data_dir).expanduser(), Path(folder))
        content = typst.compile(str(source), ignore_system_fonts=True)
    try:
        write_whole(Path(pdf).expanduser(), content)
    except SaveError as error:
        raise UserError(f"{pdf} cannot be written ({error.__cause__.strerror}); name another place") from error


def prepare(data_dir: Path, folder: Path) -> Path:
    """Everything that the report is compiled from, written to a folder; the path of the document in it."""
    if not data_dir.is_dir():
        raise UserError(f"there is no folder {data_dir}; name the one that holds the CSVs")
    table, diverged = records.load(data_dir), records.diverged(data_dir)
    if table.empty and not diverged:
        raise UserError(f"{data_dir} holds no records; run one of the training notebooks first")
    result = findings.analyse(table, diverged=diverged)
    name = data_dir.resolve().name
    said = contents(table, records.sidecars(data_dir), result, diverged, folder=name)
    said |= {"digest": records.digest(data_dir), "figures": [], "check": None}
    lower = findings.by_target(table, tenths_below(result["target"])[-3:], diverged)
    said["targets"] = lower_targets(lower)
    # What somebody wrote about certain records is not printed about others.
    said["is_discussed"] = said["digest"] in (HERE / DISCUSSION).read_text(encoding="utf-8").splitlines()[0]
    check = data_dir / CHECK
    checked, check_diverged = records.load(check), records.diverged(check)
    if len(checked) or check_diverged:
        rows = learning_rates(checked, check_diverged)
        said["check"] = {"folder": f"{name}/{CHECK}", "digest": records.digest(check), "rows": rows}
    for figure, (size, draw) in _figures(table, result, lower if said["targets"] else [], diverged).items():
        _save(draw, size, folder / f"{figure}.svg")
        said["figures"].append(figure)
    (folder / "report.json").write_text(json.dumps(said, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    for file in ("report.typ", DISCUSSION, "references.bib"):
        shutil.copy(HERE / file, folder)
    return folder / "report.typ"


def tenths_below(target: float | None) -> list[float]:
    """The accuracies 0.1, 0.2, … below a target, which more runs reach; none below none."""
    return [tenth / 10 for tenth in range(1, 10) if tenth / 10 < (target or 0)]


def _figures(
    table: pd.DataFrame, result: dict, lower: list[dict], diverged: list[tables.Run]
) -> dict[str, tuple[tuple[float, float], Callable[[Axes], None]]]:
    """Sizes in inches, and what draws them, of the figures that have something to show."""
    final = tables.over_seeds(tables.final(tables.without(table, diverged)), "accuracy")
    modes, target = result["modes"], result["target"]

    def accuracy(ax: Axes) -> None:
        plots.against_batch_size(ax, final, "accuracy")
        plots.threshold_line(ax, tables.threshold(table, diverged=diverged))
        plots.label_lines(ax)

    def to_target(ax: Axes, column: str, target: float) -> None:
        curves = findings.curves(tables.to_target(table, target, diverged), modes)
        plots.to_target(ax, curves, tables.means_to_target(curves), column, target)

    def updates(ax: Axes, target: float, fits: dict[str, dict]) -> None:
        to_target(ax, "updates", target)
        for name, fit in fits.items():
            plots.critical_batch_size(ax, name, fit, modes)
        legend_beside(ax)

    def effects(ax: Axes) -> None:
        plots.effects(ax, result["effects"])
        legend_beside(ax)

    def frontier(ax: Axes) -> None:
        plots.frontier(ax, result["frontier"])
        legend_beside(ax)

    def legend_beside(ax: Axes) -> None:  # in axes this low it would hide what it explains
        if ax.get_legend():
            ax.get_legend().remove()
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)

    figures = {}
    if len(final):
        figures["accuracy"] = (TEXT_WIDTH, 2.5), accuracy
    if any(row["difference"] is not None for effect in result["effects"] for row in effect["batch_sizes"]):
        figures["effects"] = (TEXT_WIDTH, 2.3), effects
    if target is not None and modes:
        fits = {name: mode["critical_batch_size"] for name, mode in modes.items()}
        figures["updates"] = (TEXT_WIDTH, 2.5), lambda ax: updates(ax, target, fits)
        figures["time"] = (TEXT_WIDTH, 2.1), lambda ax: to_target(ax, "running_time", target)
    if lower:
        highest = lower[-1]["target"]
        of_highest = {row["experiment"]: row["critical_batch_size"] for row in lower if row["target"] == highest}
        figures["lower_target"] = (TEXT_WIDTH, 2.4), lambda ax: updates(ax, highest, of_highest)
    if any(mode["critical_batch_size"]["estimate"] or mode["noise_scale"] for mode in modes.values()):
        figures["noise_scales"] = (TEXT_WIDTH, 0.9 + 0.4 * len(modes)), lambda ax: plots.noise_scales(ax, modes)
    verdicts = [mode["breaking_point"] for mode in modes.values()]
    if any(verdict[currency] for verdict in verdicts for currency in findings.CURRENCIES):
        height = min(0.4 + 0.95 * len(modes), 8)
        figures["breaking_points"] = (TEXT_WIDTH, height), lambda ax: plots.breaking_points(ax, modes)
    if result["frontier"]:
        figures["frontier"] = (TEXT_WIDTH, 2.1), frontier
    return figures


def _save(draw: Callable[[Axes], None], size: tuple[float, float], path: Path) -> None:
    """A figure of its own as SVG, the same bytes whenever and with whatever settings it is drawn."""
    with plt.style.context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 2 for what the user can mend (one line on standard error)."""
    try:
        if len(arguments) != 2:
            raise UserError("name the folder of the records and the PDF: python -m report.build data report.pdf")
        build(*arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
