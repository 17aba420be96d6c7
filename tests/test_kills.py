"""Training processes killed with SIGKILL at any moment, started again, and compared with one that nobody killed.

KILLS=200 .venv/bin/python -m pytest tests/test_kills.py -s        # more of them; 26 by default
"""

import os
import random
from itertools import cycle
from pathlib import Path

import faults
import pytest
from kills import Run, workers

from batchscale.records.tables import load

KILLS = int(os.environ.get("KILLS", "26"))
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

TIMES = [b"running_time", b"epoch_time", b"images_per_second"]
SMALL = ["--dataset", "digits", "--width", "0.1", "--save-seconds", "0"]
LONG = [*SMALL, "--train-size", "1200", "--epochs", "4"]  # two or three saves an epoch
MEDIUM = [*SMALL, "--train-size", "600", "--epochs", "3"]
SHORT = [*SMALL, "--train-size", "160", "--epochs", "2"]  # a fraction of a second
WARMUP = ["--name", "gradual_warmup_scaled_lr", "--batch-size", "16", "--warmup-epochs", "1.5"]
ADAMW = [*WARMUP, *("--optimizer", "adamw", "--weight-decay", "0.1", "--decay", "cosine", "--augment", "flip-crop")]


def lines(folder: Path) -> dict[str, list[list[bytes]]]:
    """Every CSV, byte for byte but for the columns of times."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        content = path.read_bytes()
        assert content.endswith(b"\n")
        rows = [line.split(b",") for line in content[:-1].split(b"\n")]
        times = [rows[0].index(column) for column in TIMES]
        found[path.name] = [[text for place, text in enumerate(row) if place not in times] for row in rows]
    return found


def assert_begins(folder: Path, whole: Path) -> None:
    """What is recorded so far can be read and is the beginning of what nobody killed."""
    load(folder)
    expected = lines(whole)
    for name, found in lines(folder).items():
        assert found == expected[name][: len(found)]


def assert_complete(folder: Path, whole: Path) -> None:
    assert lines(folder) == lines(whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json"}


def recorded(folder: Path, arguments: list[str]) -> Path:
    """The folder with the records of a run that is left alone."""
    run = Run([*arguments, "--data-dir", str(folder)], folder.with_suffix(".log"))
    assert run.ended() == 0, run.said()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("settings", [WARMUP, ADAMW], ids=["sgd", "adamw"])
def test_killed_at_random_moments(tmp_path, settings):
    command = ["train", *LONG, *settings]
    whole = recorded(tmp_path / "whole", command)
    moments, killed = random.Random(1), 0
    while killed < KILLS // 4:
        folder = tmp_path / f"run{killed}"
        code = None
        while code != 0:
            run = Run([*command, "--data-dir", str(folder)], tmp_path / "log")
            if moments.random() < 0.2:
                run.kill(moments.uniform(0, 0.5))  # while it starts, or loads what was saved
            else:
                run.kill_once_saved(moments.uniform(0, 0.8))
            code = run.ended()
            assert code in (0, -9), run.said()
            killed += code == -9
            assert_begins(folder, whole)
        assert_complete(folder, whole)
    assert "Traceback" not in (tmp_path / "log").read_text()
    print(f"{killed} kills of single runs")


@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    """Before each step of saving (the quick test takes some of them), once and then once more in what goes on."""
    command = ["train", *SHORT, *WARMUP]
    whole = recorded(tmp_path / "whole", command)
    alone = Run([*command, "--data-dir", str(tmp_path / "alone")], tmp_path / "alone.log", 10**6, faults.kill)
    assert alone.ended() == 0
    steps = range(1, int(alone.said().split()[-2]) + 1)
    assert len(steps) > 40
    moments, killed = random.Random(2), 0
    for step in steps if len(steps) < KILLS else sorted(moments.sample(steps, KILLS // 4)):
        folder = tmp_path / f"step{step}"
        arguments = [*command, "--data-dir", str(folder)]
        for at in (step, moments.choice(steps)):
            code = Run(arguments, tmp_path / "log", at, faults.kill).ended()
            assert code in (0, -9)
            killed += code == -9
            assert_begins(folder, whole)
        recorded(folder, command)
        assert_complete(folder, whole)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert killed >= KILLS // 4
    print(f"{killed} kills while saving")


@pytest.mark.slow
def test_sweep_with_two_workers_killed(tmp_path):
    """All of it, the parent alone, one worker alone: nothing stays behind, nothing is lost, the rest goes on."""
    command = ["sweep", *MEDIUM, "--names", "baseline_small", "--small", "8", "16", "--seeds", "0"]
    whole = recorded(tmp_path / "whole", command)
    command += ["--workers", "2"]
    moments, killed = random.Random(3), 0
    victims = cycle([None, lambda run: [run.process.pid], lambda run: workers(run)[:1]])
    while killed < KILLS // 8:
        folder = tmp_path / f"sweep{killed}"
        code = None
        while code != 0:
            run = Run([*command, "--data-dir", str(folder)], tmp_path / "log")
            hit = run.kill_once_saved(moments.uniform(0, 0.8), next(victims))
            code = run.ended()
            killed += hit and code != 0
            assert_begins(folder, whole)
            assert code in (0, -9) or "1 of 2 processes ended with exit code -9; run again to continue" in run.said()
        assert_complete(folder, whole)
    assert "Traceback" not in (tmp_path / "log").read_text()
    print(f"{killed} kills of sweeps")
