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

from batchscale.analysis import plots, sentences
from batchscale.analysis.findings import Findings
from batchscale.analysis.words import goal
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES
from batchscale.sweeps.notebooks import FINDING, RESULTS, TRAINING
from report.build import build, read
from report.contents import built_from, verdicts

PROJECT = Path(__file__).parents[1]
FIGURE = "docs/study.png"
START, END = "<!-- {} -->\n", "<!-- end of {} -->\n"  # what is made anew in README stands between these


def sections(found: Findings) -> dict[str, str]:
    """What README says of the study and of a folder of records, in Markdown, by the name of the section."""
    return {"notebooks": _notebooks(), "study": _headline(found)}


def _notebooks() -> str:
    """The table of notebooks, from the table of modes."""
    study = Experiment(batch_size=1)
    rows = [["notebook", "batch sizes", "learning rate"], ["---"] * 3]
    for mode in MODES.values():
        sizes = SMALL_BATCH_SIZES if mode.role == "reference" else LARGE_BATCH_SIZES
        rate = mode.summary.format(**vars(study))
        rows.append([f"`{mode.notebook}`", f"{sizes[0]} … {sizes[-1]}", rate])
    rows.append([f"`{RESULTS}`", "", "none: it loads the records, plots them, and states the breaking points"])
    rows.append([f"`{FINDING}`", "", "any, for a network of your own: a prediction in minutes, the answer in hours"])
    return _table(rows)


def _headline(found: Findings) -> str:
    """The verdicts, and which records they were made from."""
    head = ["", "accuracy", "updates", "time", "critical batch size", "noise scale"]
    rows = [
        [label, *(f"{value} ({interval})" if interval else value for value, interval in cells)]
        for label, *cells in verdicts(found)
    ]
    said = [  # a paragraph each
        sentences.threshold(found.threshold),
        *([sentences.accuracy(mode, found.threshold)] for mode in found.modes.values()),
        sentences.comparison(found),
        sentences.best_rates(found),
        sentences.rule_or_size(found),
    ]
    lines = [
        f"![Final accuracy, updates and time to target against batch size, one line per learning-rate rule]({FIGURE})",
        "",
        *(f"- {' '.join(about)}" for about in said if about),
        "",
        _table([head, ["---"] * len(head), *rows]),
        f"*{sentences.settings(found.study)}. {built_from(found.trained)}; SHA-256 of the CSVs `{found.study.digest}`. "
        f"Updates and time count to {goal(found.target)}.*",
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


def draw(found: Findings, path: Path) -> None:
    """The answer in three currencies, as wide as GitHub shows it, with two pixels for each of the page's."""
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, 3, figsize=(plots.README, 3.6), layout="constrained")
        plots.currencies(axes, found, columns=3)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=2 * 96)
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
    found, text = read(data_dir), page.read_text(encoding="utf-8")
    build(data_dir, PROJECT / "report.pdf", found)
    for name, section in sections(found).items():
        before, rest = text.split(START.format(name))
        text = before + START.format(name) + section + END.format(name) + rest.split(END.format(name))[1]
    page.write_text(text, encoding="utf-8")
    draw(found, PROJECT / FIGURE)


if __name__ == "__main__":
    main()
