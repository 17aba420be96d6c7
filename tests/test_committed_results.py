"""What is committed as a result was made from the committed records: notebooks, report, README."""

import json
import re
import shutil

import matplotlib.pyplot as plt
import pytest
from conftest import FIRST_EDITION, PROJECT

from batchscale import cli, records
from batchscale.records.study import LANDSCAPE
from batchscale.sweeps import notebooks
from report import build, committed

DATA = PROJECT / "data"


def outputs(name: str) -> list[dict]:
    cells = json.loads((PROJECT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", [*notebooks.TRAINING, notebooks.RESULTS])
def test_notebooks_were_executed_on_the_committed_records(name):
    cells = json.loads((PROJECT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))  # all of them, from top to bottom
    assert {output["output_type"] for output in outputs(name)} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs(name) if output.get("name") == "stderr"]
    printed = "".join(line for output in outputs(name) for line in output.get("text", []))
    assert f"SHA-256 of all CSVs in data_dir: {records.digest(DATA)}" in printed
    assert not re.search(r"(^|\s)/\w+/", printed)  # where it was executed is nobody's business
    assert any("image/png" in output.get("data", {}) for output in outputs(name))


def test_the_report_was_built_from_the_committed_records():
    content = (PROJECT / "report.pdf").read_bytes()
    for folder in (DATA, DATA / LANDSCAPE):
        assert f"sha256:{records.digest(folder)}".encode() in content


def test_the_discussion_was_written_for_the_committed_records():
    source = PROJECT / "report" / build.DISCUSSION
    assert records.digest(DATA) in source.read_text(encoding="utf-8").splitlines()[0]


def test_the_readme_says_what_the_committed_records_say():
    page = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name, section in committed.sections(build.read(DATA)).items():
        start, end = committed.START.format(name), committed.END.format(name)
        assert page.split(start)[1].split(end)[0] == section
    assert (PROJECT / committed.FIGURE).is_file()


@pytest.mark.parametrize(("folder", "marks"), [(DATA, set()), (FIRST_EDITION, {"diverged here"})])
def test_the_readmes_figure_says_what_each_mark_is(folder, marks, tmp_path, monkeypatch):
    monkeypatch.setattr(committed.plt, "close", lambda figure: None)
    committed.draw(build.read(folder), tmp_path / "study.png")
    (legend,) = plt.gcf().legends
    monkeypatch.undo()
    plt.close()
    said = [text.get_text() for text in legend.get_texts()]
    assert len(said) == len(set(said))
    assert {"base rate", "target not reached: at least this", *marks} < set(said)


@pytest.mark.slow
def test_the_study_on_the_committed_records_trains_nothing(tmp_path, capfd):
    """make study DATASET=cifar10 OUT=data, on a copy and where there are no images."""
    out = tmp_path / "data"
    shutil.copytree(DATA, out)
    before = {path.name: path.read_bytes() for path in out.glob("*_bs*")}
    command = ["study", "--out", str(out), "--dataset", "cifar10", "--data-root", str(tmp_path / "nothing here")]
    assert cli.main(command) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*_bs*")} == before
    assert "images/s" not in capfd.readouterr().out
    assert not (tmp_path / "nothing here").exists()


def test_every_record_is_whole():
    """Each CSV, in the subfolders too, lies beside a sidecar that says it is complete, or that it diverged."""
    runs = list(DATA.rglob("*_bs*.csv"))
    assert {path.parent for path in runs} > {DATA, DATA / LANDSCAPE}
    for path in runs:
        assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["status"] in ("complete", "diverged")
