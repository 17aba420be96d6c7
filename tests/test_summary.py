"""The tables of the results notebook, and the file that takes them along."""

import zipfile

import pandas as pd
import pytest
from test_analysis import NOTHING, timed

from batchscale.analysis import findings, summary
from batchscale.records import bundle
from batchscale.records.study import Study

SEEDS = (0, 1)
RUNS = [("baseline_small", 8, seed, [0.4, 0.70 + seed / 100]) for seed in SEEDS]
RUNS += [("mine", 64, seed, [0.3, 0.70]) for seed in SEEDS]
RUNS += [("mine", 512, 0, [0.1, 0.2]), ("scaled_lr", 64, 0, [0.5, 0.71])]
FOUND = findings.analyse(Study.of(timed(*RUNS), diverged=[("mine", 512, 1), ("scaled_lr", 128, 0)]))


def test_accuracies_have_deviation_and_seeds_and_mark_what_diverged():
    """In the study's order, the user's own modes last."""
    shown = summary.accuracies(FOUND)
    assert list(shown) == ["small batches, base rate", "linearly scaled rate", "mine"]
    assert shown.index.tolist() == [8, 64, 128, 512]
    assert shown.loc[8].tolist() == ["70.5 ± 0.7 % (2)", "", ""]
    assert shown.loc[64].tolist() == ["", "71.0 % (1)", "70.0 ± 0.0 % (2)"]
    assert shown.loc[128].tolist() == ["", "1 diverged", ""]
    assert shown.loc[512].tolist() == ["", "", "20.0 % (1); 1 diverged"]


def test_verdicts_in_words_and_in_numbers():
    shown, values = summary.verdicts(FOUND), summary.values(FOUND)["verdicts"]
    assert shown.index.tolist() == ["linearly scaled rate", "mine"]
    point = FOUND.modes["mine"].breaking_points["accuracy"]
    assert point.between == (64, 512)
    assert shown.loc["mine", ("accuracy", "breaking point")] == f"{point.estimate:.0f}"
    assert shown.loc["mine", ("accuracy", "recorded sizes")] == "64 and 512"
    assert shown.loc["mine", ("critical batch size", "estimate")] == "–"
    (row,) = values[(values["experiment"] == "mine") & (values["verdict"] == "accuracy")].itertuples()
    assert (row.estimate, row.last_kept, row.first_lost) == (point.estimate, 64, 512)
    said = dict(summary.reasons(FOUND))
    assert "critical batch size: the target is reached" in said["mine"]
    assert not [word for word in ("baseline_", "scaled_lr") if word in shown.to_string()]


def test_tables_of_nothing():
    nothing = findings.analyse(NOTHING)
    assert summary.verdicts(nothing).empty
    assert summary.accuracies(nothing).empty
    assert summary.reasons(nothing) == []


def test_the_bundle_holds_records_figures_and_tables(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("a_bs8_seed0.csv", "a_bs8_seed0.json", "a_bs8_seed0.ckpt", "figures/time.png", "figures/time.svg"):
        (tmp_path / name).write_text(name)
    tables = {"verdicts": pd.DataFrame({"verdict": ["time"], "estimate": [12.5]})}
    path = bundle.save(tmp_path, tables)
    assert path == tmp_path / "results.zip"
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        wanted = ["a_bs8_seed0.csv", "a_bs8_seed0.json", "figures/time.png", "figures/time.svg", "tables/verdicts.csv"]
        assert archive.namelist() == wanted
        assert archive.read("a_bs8_seed0.csv") == b"a_bs8_seed0.csv"
        assert archive.read("tables/verdicts.csv") == b"verdict,estimate\ntime,12.5\n"
    bundle.save(tmp_path, tables)
    assert path.read_bytes() == first
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix in (".tmp", ".zip")) == ["results.zip"]


def test_a_bundle_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "results.zip").mkdir()
    assert bundle.save(tmp_path, {}) is None
    said = capsys.readouterr().out
    assert said.startswith("results.zip not saved, ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["verdicts", "accuracies", "effects", "frontier"])
def test_values_can_be_read_back(name, tmp_path):
    values = summary.values(FOUND)[name]
    values.to_csv(tmp_path / "table.csv", index=False)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(values) > 0
