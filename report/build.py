"""Builds report.pdf from the records of a folder.

    python -m report.build data report.pdf        # in the project's folder; or make report DATA=data REPORT=report.pdf

The same records give the same bytes. Needs typst (`pip install ".[report]"`) and no network.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale import streams
from batchscale.analysis import findings, plots
from batchscale.analysis.findings import Findings
from batchscale.analysis.statistics import at_least
from batchscale.errors import UserError
from batchscale.paths import typed
from batchscale.records import Study, advice, digest
from batchscale.records.files import SaveError, write_whole
from batchscale.records.study import LANDSCAPE
from batchscale.records.tables import elsewhere, require_folder
from report.contents import beside, contents, predicted, several_targets

HERE = Path(__file__).parent
DISCUSSION = "discussion.typ"  # of the records whose digest its first line names
SHOWN = 0.15  # accuracy below the threshold that the figure of accuracies has room for
_STYLE = ["default", {"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 1.2, "svg.hashsalt": "batchscale"}]


def build(data_dir: str | Path, pdf: str | Path, found: Findings | None = None) -> None:
    """Write the report on the records of a folder.

    Args:
        data_dir: the folder.
        pdf: file to write.
        found: what `read` gives for this folder, if that is known already.

    Raises:
        UserError: there is no folder or no record, a record cannot be read, typst is not installed, or the PDF cannot
            be written.
    """
    try:
        import typst
    except ModuleNotFoundError:
        raise UserError("typst is not installed, which makes the PDF; install it with pip install typst") from None
    with tempfile.TemporaryDirectory() as folder:
        source = prepare(typed(data_dir, "data_dir"), Path(folder), found)
        content = typst.compile(str(source), ignore_system_fonts=True)
    try:
        write_whole(typed(pdf, "pdf"), content)
    except SaveError as error:
        raise UserError(f"{pdf} cannot be written ({error.__cause__.strerror}); name another place") from error


def read(data_dir: Path) -> Findings:
    """What the records of a folder say."""
    require_folder(data_dir)
    study = Study.load(data_dir)
    if study.runs.empty:
        raise UserError(f"{data_dir} holds no records; run one of the training notebooks first")
    studies = beside_folders(data_dir)
    are_read = {*studies, *(f"{name}/{LANDSCAPE}" for name in studies)}
    not_read = {name: csvs for name, csvs in study.elsewhere.items() if name not in are_read}
    return findings.analyse(replace(study, elsewhere=not_read), rates=Study.load(data_dir / LANDSCAPE))


def beside_folders(data_dir: Path) -> list[str]:
    """The subfolders that hold studies of their own, whose verdicts the report has beside those of the folder."""
    return [name for name in elsewhere(data_dir) if "/" not in name and name != LANDSCAPE]


def prepare(data_dir: Path, folder: Path, found: Findings | None = None) -> Path:
    """Everything that the report is compiled from, written to a folder; the path of the document in it."""
    found = read(data_dir) if found is None else found
    study = found.study
    beginnings = {name: mode.beginning for name, mode in found.modes.items()}
    lower = [findings.to_target(study, target, beginnings) for target in lower_target(found.target)]
    known = [] if found.to_threshold in (None, found.to_target) else [found.to_threshold]
    targets = [*lower, found.to_target, *known] if found.target is not None else []
    said = contents(found)
    said |= {"digest": study.digest, "figures": [], "targets": several_targets(targets, found.study)}
    others = {name: read(data_dir / name) for name in beside_folders(data_dir)}
    said["beside"] = beside({f"{study.folder}/{name}": of for name, of in others.items()})
    said["predicted"] = [
        row for name, of in {"": found, **others}.items() for row in predicted(of, advice.read(data_dir / name), name)
    ]
    said["rates"] = None if found.landscape is None else digest(data_dir / LANDSCAPE)
    # What somebody wrote about certain records is not printed about others.
    said["is_discussed"] = study.digest in (HERE / DISCUSSION).read_text(encoding="utf-8").splitlines()[0]
    for figure, how in figures(found).items():
        _save(drawn(*how), folder / f"{figure}.svg")
        said["figures"].append(figure)
    (folder / "report.json").write_text(json.dumps(said, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    for file in ("report.typ", DISCUSSION, "references.bib"):
        shutil.copy(HERE / file, folder)
    return folder / "report.typ"


def lower_target(target: float | None) -> list[float]:
    """The largest of 0.1, 0.2, … that is five points or more below a target; none where there is none."""
    return [tenth / 10 for tenth in range(1, 10) if at_least((target or 0) - 0.05, tenth / 10)][-1:]


def figures(found: Findings) -> dict[str, tuple[tuple[float, float], Callable[[Axes], None]]]:
    """Sizes in inches, and what draws them, of the figures that have something to show."""
    modes, at = found.modes, found.to_target

    def accuracy(ax: Axes) -> None:
        plots.against_batch_size(ax, found, "accuracy")
        plots.threshold_line(ax, found.threshold)
        if found.threshold is not None:  # where the curves cross it; the table has what is lost beyond
            ax.set_ylim(bottom=max(ax.get_ylim()[0], found.threshold.accuracy - SHOWN))
        plots.crossings(ax, found)
        legend_beside(ax)

    def updates(ax: Axes) -> None:
        plots.to_target(ax, at, "updates", found.study.modes)
        plots.critical_batch_sizes(ax, at)
        legend_beside(ax)

    def time(ax: Axes) -> None:
        plots.to_target(ax, at, "running_time", found.study.modes)
        plots.breaking_points_below(ax, at.in_time, found.study.modes)
        legend_beside(ax)

    def effects(ax: Axes) -> None:
        plots.effects(ax, found.effects, found.study.modes)
        if ax.get_legend():
            ax.get_legend().remove()
        legend_beside(ax)

    def legend_beside(ax: Axes) -> None:  # in axes this low it would hide what it explains
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8)

    def size(height: float) -> tuple[float, float]:  # with room for a line of the legend per mode
        return plots.PAGE, min(max(height, 0.17 * len(found.study.modes)), 8)

    shown = {}
    if len(found.finals):
        shown["accuracy"] = size(2.4), accuracy
    if any(effect.differences["difference"].notna().any() for effect in found.effects):
        shown["effects"] = size(1.9), effects
    if found.landscape is not None:
        shown["landscape"] = (plots.PAGE, 3.4), lambda ax: plots.landscape(ax, found.landscape)
    if found.target is not None and modes:
        shown["updates"] = size(2.0), updates
        shown["time"] = size(1.9), time
    return shown


def drawn(size: tuple[float, float], draw: Callable[[Axes], None]) -> Figure:
    """A figure of its own."""
    with plt.style.context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
    return figure


def _save(figure: Figure, path: Path) -> None:
    """As SVG, the same bytes whenever and with whatever settings it is drawn."""
    with plt.style.context(_STYLE):
        figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 2 for what the user can mend (one line on standard error)."""
    streams.prepare()
    try:
        if len(arguments) != 2:
            raise UserError("name the folder of the records and the PDF: python -m report.build data report.pdf")
        build(*arguments)
    except UserError as error:
        print(f"error: {error}", file=streams.ERR)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
