"""Real runs on digits: recorded once, resumed exactly, shared out among workers, and stopped without loss."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import PROJECT

from batchscale import progress, sweeps
from batchscale.experiment import Experiment, UserError, study
from batchscale.records import Keeper, read_csv

TIMES = ["running_time", "epoch_time", "images_per_second"]
TINY = {"dataset": "digits", "width": 0.1, "train_size": 256, "epochs": 2}


def tiny(sizes=(16, 64), name="baseline_small", **fields) -> list[Experiment]:
    return study(name, sizes, **(TINY | fields))


def without_times(folder) -> dict[str, pd.DataFrame]:
    return {path.name: read_csv(path).drop(columns=TIMES) for path in sorted(folder.glob("*.csv"))}


def assert_same_records(ours, theirs):
    ours, theirs = without_times(ours), without_times(theirs)
    assert list(ours) == list(theirs)
    for name, table in ours.items():
        pd.testing.assert_frame_equal(table, theirs[name], check_exact=True)


def test_records_once(tmp_path, capsys):
    experiments = tiny()
    table = sweeps.run(experiments, data_dir=tmp_path)
    assert table.groupby("batch_size")["epoch"].max().to_dict() == {16: 2, 64: 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline_small_bs16_seed0.csv",
        "baseline_small_bs16_seed0.json",
        "baseline_small_bs64_seed0.csv",
        "baseline_small_bs64_seed0.json",
    ]
    assert "[2/2] baseline_small B=64 seed 0: complete, 2 epochs, accuracy " in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = sweeps.run(experiments, data_dir=tmp_path, workers=2)
    pd.testing.assert_frame_equal(table, again)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert sweeps.pending(experiments, tmp_path) == []


def test_only_what_is_missing(tmp_path):
    sweeps.run(tiny([16]), data_dir=tmp_path)
    assert sweeps.pending(tiny([16, 64]), tmp_path) == tiny([64])
    assert sweeps.pending(tiny([64]) * 2, tmp_path) == tiny([64])  # named twice, trained once


def test_workers_record_the_same(tmp_path):
    experiments = tiny(seeds=[0, 1])
    sweeps.run(experiments, data_dir=tmp_path / "one")
    sweeps.run(experiments, data_dir=tmp_path / "two", workers=2)
    assert_same_records(tmp_path / "one", tmp_path / "two")
    assert not [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]


def test_more_epochs_extend_the_record(tmp_path):
    sweeps.run(tiny([64]), data_dir=tmp_path / "short")
    table = sweeps.run(tiny([64], epochs=4), data_dir=tmp_path / "short")
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    sweeps.run(tiny([64], epochs=4), data_dir=tmp_path / "long")
    assert_same_records(tmp_path / "short", tmp_path / "long")


def test_divergence_is_a_result_and_the_sweep_goes_on(tmp_path, capsys):
    experiments = tiny([16], base_lr=1e30) + tiny([64])
    sweeps.run(experiments, data_dir=tmp_path)
    assert "B=16 seed 0: diverged in the first epoch" in capsys.readouterr().out
    assert Keeper(experiments[0], tmp_path).status == "diverged"
    assert Keeper(experiments[1], tmp_path).status == "complete"
    assert sweeps.pending(experiments, tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_does_not_end_the_sweep(tmp_path, workers):
    experiments = tiny([999]) + tiny([64])
    with pytest.raises(UserError, match="batch_size is 999 but digits has 256 training images"):
        sweeps.run(experiments, data_dir=tmp_path, workers=workers)
    assert Keeper(experiments[1], tmp_path).finished


def test_another_experiment_is_refused_before_anything_is_trained(tmp_path):
    sweeps.run(tiny([64]), data_dir=tmp_path)
    with pytest.raises(UserError, match=r"base_lr is 0\.002 there but 0\.01 was asked for"):
        sweeps.run(tiny([16, 64], base_lr=0.01), data_dir=tmp_path)
    assert not (tmp_path / "baseline_small_bs16_seed0.csv").exists()


def test_workers_is_a_number(tmp_path):
    with pytest.raises(UserError, match="workers is 0"):
        sweeps.run(tiny(), data_dir=tmp_path, workers=0)


SWEEP = [
    *(sys.executable, "-m", "batchscale", "sweep", "--names", "baseline_small", "--dataset", "digits"),
    *("--width", "0.1", "--epochs", "4", "--train-size", "800", "--small", "4", "8"),
]


def started(folder, *flags, **options) -> subprocess.Popen:
    """A sweep in a process group of its own, as a terminal starts it, once it has recorded an epoch."""
    process = subprocess.Popen(
        [*SWEEP, "--data-dir", str(folder), *flags],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    while process.poll() is None and not list(folder.glob("*.csv")):
        time.sleep(0.02)
    return process


def members(group: int) -> list[str]:
    """Processes of a group that are alive, zombies not counted: those are for whoever started them."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux's /proc to see which processes are left")
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        state, _, its_group, *_ = rest.split()
        if int(its_group) == group and state not in "ZX":
            alive.append(name)
    return alive


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of SWEEP when nobody stops it."""
    folder = tmp_path_factory.mktemp("whole")
    sweeps.run(tiny([4, 8], train_size=800, epochs=4), data_dir=folder)
    return folder


@pytest.mark.parametrize(
    ("number", "flags"),
    [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["--workers", "2"]), (signal.SIGKILL, [])],
    ids=["ctrl-c", "terminate", "ctrl-c with workers", "kill"],
)
def test_stopped_and_started_again(tmp_path, whole, number, flags):
    process = started(tmp_path / "stopped", *flags)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "stopped; everything is saved: start again to go on"
        assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []
    assert list((tmp_path / "stopped").glob("*.ckpt"))
    experiments = tiny([4, 8], train_size=800, epochs=4)
    assert sweeps.pending(experiments, tmp_path / "stopped")
    sweeps.run(experiments, data_dir=tmp_path / "stopped")
    assert_same_records(tmp_path / "stopped", whole)
    assert not list((tmp_path / "stopped").glob("*.ckpt"))


def test_two_sweeps_on_one_folder_share_out_the_work(tmp_path):
    processes = [started(tmp_path), started(tmp_path)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(output.count("complete, 4 epochs") for output in outputs) == 2
    assert len(list(tmp_path.glob("*.csv"))) == 2


def test_terminal_shows_bars_that_fit(monkeypatch, capsys):
    """tqdm cuts them to the terminal's width; what matters most comes first."""
    from batchscale.training import Progress

    experiment = Experiment(name="gradual_warmup_scaled_lr", batch_size=1024)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for width in (60, 80, 150):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")
        with progress.Display(1) as display:
            display.show("progress", experiment, Progress(1, 0, 500_000, 2.3, 0.0))
            display.show("record", experiment, SimpleNamespace(accuracy=0.512))
            display.show("progress", experiment, Progress(2, 75_000, 500_000, 1.234, 2134.5))
        lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
        shown = [line for line in lines if " 15%" in line]
        assert shown
        assert max(map(len, lines)) <= width
        for part in ["B=1024", "2/10", "loss 1.234", "acc", "0.512", "2134"]:
            assert part in shown[-1], shown[-1]
        assert ("gradual_warmup" in shown[-1]) == (width == 150)
