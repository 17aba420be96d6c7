"""Folders of records: each file is read once, a run is in one file, and what may not be read is said."""

import contextlib
import errno
import io
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from permissions import as_any_user
from test_records import experiment, keep, row

from batchscale import cli
from batchscale.epoch import COLUMNS
from batchscale.records import tables
from batchscale.records.record import Record
from batchscale.records.study import Study
from batchscale.records.tables import UnreadableRecord, digest, load, sidecars, to_csv
from report import build

FIVE = "batch_size,epoch,accuracy,generalization_error,running_time\n"


def test_every_file_of_a_folder_is_opened_once(tmp_path, monkeypatch):
    """Its rows and its digest are of the same bytes, also while a sweep writes there."""
    for seed in range(5):
        keep(tmp_path, [row(1, seed=seed), row(2, seed=seed)], seed=seed)
    (tmp_path / "notes.txt").touch()
    opened = []
    monkeypatch.setattr(tables, "read_whole", lambda path: opened.append(path.name) or path.read_bytes())
    study = Study.load(tmp_path)
    assert sorted(opened) == sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".txt")
    assert len(study.epochs) == 10
    assert study.digest == digest(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "baseline_small_bs8_seed0 (1).csv",
        "baseline_small_bs8_seed0(1).csv",
        "baseline_small_bs8_seed0 - Copy.csv",
        "Copy of baseline_small_bs8_seed0.csv",
        "baseline_small_bs8_seed0 copy 2.csv",
        "baseline_small_bs8_seed0 2.csv",
        "baseline_small_bs8_seed0 – Kopie.csv",
        "Kopie von baseline_small_bs8_seed0.csv",
        "baseline_small_bs8_seed0 (Anna's conflicted copy 2026-11-25).csv",
        "baseline_small_bs8_seed0.sync-conflict-20261125-190000-ABCDEFG.csv",
        "baseline_small_bs8_seed0 [Conflict].csv",
    ],
)
@pytest.mark.parametrize("columns", ["all", "five", "no seed"])
def test_a_copy_is_no_further_run(tmp_path, name, columns):
    """Its columns say which run it holds, or else its name says that it is a copy."""
    content = to_csv([row(1), row(2)])
    if columns != "all":
        left = list(COLUMNS[:5] if columns == "five" else COLUMNS[:6])
        content = read_csv_text(content)[left].to_csv(index=False)
    original, copy = tmp_path / "baseline_small_bs8_seed0.csv", tmp_path / name
    copy.write_text(content)
    load(tmp_path)  # alone it is a record
    original.write_text(content)
    (tmp_path / "other_bs8_seed1.csv").write_text(FIVE + "8,1,0.5,0.1,1\n")
    with pytest.raises(UnreadableRecord) as refused:
        load(tmp_path)
    message = str(refused.value)
    assert str(original) in message
    assert str(copy) in message
    assert ("hold the same run" if columns == "all" else "is named as a copy of") in message
    assert "\n" not in message
    assert len(Record(experiment(epochs=2), tmp_path).rows) == 2  # sweeps read a record by its own name


def read_csv_text(content: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(content))


def test_a_run_is_in_one_file_whatever_the_files_are_called(tmp_path):
    (tmp_path / "a.csv").write_text(to_csv([row(1, seed=1), row(2, seed=1), row(1, seed=2)]))
    (tmp_path / "baseline_small_bs8_seed3.csv").write_text(FIVE + "8,1,0.5,0.1,1\n")
    (tmp_path / "baseline_small_bs8_seed1.csv.replaced").write_text(to_csv([row(1, seed=1)]))
    assert len(load(tmp_path)) == 4
    for seed, place in ((2, "a.csv"), (3, "baseline_small_bs8_seed3.csv")):
        (tmp_path / "z.csv").write_text(to_csv([row(1, seed=seed, accuracy=0.125)]))  # other numbers
        same_run = f"{tmp_path / place} and {tmp_path / 'z.csv'} hold the same run, baseline_small B=8 seed {seed}"
        with pytest.raises(UnreadableRecord, match=f"^{re.escape(same_run)}; keep one and move the other away$"):
            load(tmp_path)
    (tmp_path / "z.csv").write_text(to_csv([row(1, seed=4), row(1, seed=4)]))
    with pytest.raises(UnreadableRecord, match=r"z\.csv has the epochs 1, 1; they must be 1, 2, 3"):
        load(tmp_path)


def test_logs_of_ones_own_have_names_of_all_kinds(tmp_path):
    """Where another file has none of a name's words, or the words say no copy, a log is a run of its own."""
    names = ["run", "run 50", "run 50 wd", "mine_bs8_seed0", "mine_bs8_seed0_lr0.1", "other (1)", "photocopy", "photo"]
    for name in names:
        (tmp_path / f"{name}.csv").write_text(FIVE + "8,1,0.5,0.1,1\n")
    assert sorted(set(load(tmp_path)["experiment"])) == sorted({*names, "mine"} - {"mine_bs8_seed0"})
    for copy in ("run (2)", "run - Copy", "Copy of run", "run 50 (1)"):
        path = tmp_path / f"{copy}.csv"
        path.write_text(FIVE + "8,1,0.5,0.1,1\n")
        with pytest.raises(UnreadableRecord, match=r"is named as a copy of .*run.*; move one"):
            load(tmp_path)
        path.unlink()


def test_two_sidecars_of_one_run_are_refused(tmp_path):
    record = keep(tmp_path, [row(1)])
    copy = tmp_path / "baseline_small_bs8_seed0 (1).json"
    copy.write_bytes(record.sidecar.read_bytes())
    with pytest.raises(UnreadableRecord) as refused:
        sidecars(tmp_path)
    same_run = f"{copy} and {record.sidecar} hold the same run, baseline_small B=8 seed 0; keep one"
    assert str(refused.value) == f"{same_run} and move the other away"


NAMELESS = '{"status": "x", "experiment": {"name": 1, "batch_size": 8, "seed": 0}}'


@pytest.mark.parametrize("content", ["[" * 100_000, NAMELESS])
def test_what_is_no_sidecar_is_left_out(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").symlink_to(tmp_path / "nowhere")
    infinite = content.replace("1,", '"x",').replace("8", "Infinity")
    (tmp_path / "d.json").write_text(infinite)
    assert sidecars(tmp_path) == []


def test_a_row_without_its_seed_is_refused(tmp_path):
    text = to_csv([row(1), row(2)]).replace("baseline_small,0,", "baseline_small,,")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UnreadableRecord, match=r"a\.csv, line 2: seed is '', which is not a number"):
        load(tmp_path)


def forbidden(path: Path) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("ending", ["", ".csv", ".json"])
@pytest.mark.parametrize("really", [True, False])
def test_what_may_not_be_read_is_said(tmp_path, monkeypatch, capsys, ending, really):
    """The folder or a file in it: never "no records", and no sidecar that is left out without a word."""
    folder = tmp_path / "theirs"
    keep(folder, [row(1)])
    path = folder / f"baseline_small_bs8_seed0{ending}" if ending else folder
    if really:
        path.chmod(0)
    else:
        listing, reading = Path.iterdir, Path.read_bytes

        def refusing(function):
            def refused(asked):
                if asked == path:
                    raise forbidden(path)
                return function(asked)

            return refused

        monkeypatch.setattr(Path, "iterdir", refusing(listing))
        monkeypatch.setattr(Path, "read_bytes", refusing(reading))
    with as_any_user() if really else contextlib.nullcontext():
        codes = [
            cli.main(["analyse", str(folder)]),
            cli.main(["analyse", str(folder), "--json"]),
            cli.main(["project", str(folder), "--latency", "1", "--bandwidth", "1"]),
            build.main([str(folder), str(tmp_path / "report.pdf")]),
        ]
    path.chmod(0o700)
    captured = capsys.readouterr()
    line = f"error: {path} cannot be read (Permission denied); ask its owner for permission"
    assert [each.startswith(line) for each in captured.err.splitlines()] == [True] * 4
    assert (codes, captured.out) == ([2] * 4, "")


def test_a_folder_in_a_folder_that_may_not_be_searched(tmp_path, capsys):
    folder = tmp_path / "home" / "data"
    keep(folder, [row(1)])
    folder.parent.chmod(0)
    with as_any_user():
        assert cli.main(["analyse", str(folder)]) == 2
    folder.parent.chmod(0o700)
    assert capsys.readouterr().err.startswith(f"error: {folder} cannot be read (Permission denied); ask its owner")
