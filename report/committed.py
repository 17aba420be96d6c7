"""Everything that is committed as a result, made anew from the records of data/.

    python -m report.committed         # in the project's folder; or make results

The five notebooks are executed where they lie, report.pdf is built, and README's headline and its figure are replaced.
What was made before and from other records is overwritten; `tests/test_committed_results.py` sees whether it was.
"""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from nbclient import NotebookClient
from PIL import Image

from batchscale import records
from batchscale.analysis import findings, plots, tables
from batchscale.sweeps.notebooks import RESULTS, TRAINING
from report.build import build, tenths_below
from report.contents import contents

PROJECT = Path(__file__).parents[1]
FIGURE = "docs/study.png"
START, END = "<!-- study -->\n", "<!-- end of study -->\n"


def headline(data_dir: Path) -> str:
    """What README says of the records of a folder, in Markdown: verdicts, and which records they were made from."""
    table, diverged = records.load(data_dir), records.diverged(data_dir)
    result = findings.analyse(table, diverged=diverged)
    lower = tenths_below(result["target"])[-1]
    said = contents(table, records.sidecars(data_dir), result, diverged, folder=data_dir.name)
    settings = dict(said["settings"])
    runs = " ".join(said["built_from"].split())
    head = ["", "accuracy", "updates", "time", "critical batch size", "noise scale"]
    rows = [
        [label, *(f"{value} ({interval})" if interval else value for value, interval in cells)]
        for label, *cells in said["verdicts"]
    ]
    lines = [
        f"![accuracy, updates to target and time to target against batch size, a line a learning-rate rule]({FIGURE})",
        "",
        f"*{settings['data set']}, width {settings['width']}, device {settings['device']}. {runs}, whose CSVs have the "
        f"SHA-256 digest `{records.digest(data_dir)}`.*",
        "",
        *said["threshold"],
        *said["accuracy"],
        f"Updates and time in the figure are to {100 * lower:.0f} %, which more runs reach; the breaking points are "
        "those of the threshold.",
        "",
        *("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)),
        "",
    ]
    return "\n".join(lines)


def draw(data_dir: Path, path: Path) -> None:
    """The three currencies side by side, against batch size: final accuracy, and updates and time to a lower accuracy,
    which more runs reach."""
    table, diverged = records.load(data_dir), records.diverged(data_dir)
    result = findings.analyse(table, diverged=diverged)
    modes, target = result["modes"], tenths_below(result["target"])[-1]
    final = tables.over_seeds(tables.final(tables.without(table, diverged)), "accuracy")
    curves = findings.curves(tables.to_target(table, target, diverged), modes)
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    plots.against_batch_size(axes[0], final, "accuracy")
    plots.threshold_line(axes[0], tables.threshold(table, diverged=diverged))
    for ax, column in zip(axes[1:], ("updates", "running_time"), strict=True):
        plots.to_target(ax, curves, tables.means_to_target(curves), column, target)
    shown = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def execute(path: Path) -> None:
    """Run a notebook from top to bottom and keep its outputs in it, pictures in 256 colours: a third of the bytes.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(PROJECT)}},
    ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture, smaller = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))), io.BytesIO()
                picture.convert("RGB").quantize().save(smaller, "png", optimize=True)
                output.data["image/png"] = base64.b64encode(smaller.getvalue()).decode()
    nbformat.write(notebook, path)


def main() -> None:
    data_dir, page = PROJECT / "data", PROJECT / "README.md"
    for name in (*TRAINING, RESULTS):
        print(f"{name}.ipynb", flush=True)
        execute(PROJECT / f"{name}.ipynb")
    build(data_dir, PROJECT / "report.pdf")
    before, rest = page.read_text(encoding="utf-8").split(START)
    page.write_text(before + START + headline(data_dir) + END + rest.split(END)[1], encoding="utf-8")
    draw(data_dir, PROJECT / FIGURE)


if __name__ == "__main__":
    main()
