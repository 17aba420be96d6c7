"""No room on the disk: the files that were there are whole, the error is one line, and with room again it goes on."""

import os
import shutil
import subprocess
from pathlib import Path

import faults
import pytest
from test_kills import assert_begins, assert_complete

from batchscale import cli
from batchscale.records.tables import load

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")

TRAIN = ["train", "--dataset", "digits", "--model", "networks:linear", "--batch-size", "16", "--train-size", "160"]
TRAIN += ["--epochs", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main([*TRAIN, "--data-dir", str(folder)]) == 0
    return folder


def test_full_at_each_step_of_saving(tmp_path, whole, capsys):
    """From the first step on, from the second, and so on to the last of a whole run."""
    failed = 0
    for step in range(1, 200):
        folder = tmp_path / f"step{step}"
        folder.mkdir()
        command = [*TRAIN, "--data-dir", str(folder)]
        with faults.at_step(folder, step, faults.disk_full) as steps:
            code = cli.main(command)
        if code == 0:
            break
        failed += 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert code == 2
        assert error.startswith("error: ")
        assert "No space left on device" in error
        assert_begins(folder, whole)
        assert not list(folder.glob(".*"))
        assert cli.main(command) == 0
        assert_complete(folder, whole)
    assert failed == len(steps) > 40


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room", [0, 4096, 16_384, 100_000, 150_000])
def test_small_disk(small_disk, whole, capsys, room):
    """A checkpoint takes 250 kB, with two of them the disk is full; with less room it is full earlier."""
    command = [*TRAIN, "--data-dir", str(small_disk / "data")]
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - room)
    assert cli.main(command) == 2
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err.splitlines()[-1]
    assert_begins(small_disk / "data", whole)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert cli.main(command) == 0
    assert_complete(small_disk / "data", whole)


def test_a_full_disk_ends_a_sweep_at_once(tmp_path, capsys):
    """The runs after it could not be saved either: none is trained for nothing."""
    command = ["sweep", *TRAIN[1:], "--names", "baseline_small", "--small", "16", "32", "80", "--seeds", "0"]
    del command[command.index("--batch-size") : command.index("--batch-size") + 2]
    with faults.at_step(tmp_path, 30, faults.disk_full):
        assert cli.main([*command, "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("epoch 1/2") == 1
    assert said.splitlines()[-1].count("No space left on device") == 1
    assert cli.main([*command, "--data-dir", str(tmp_path)]) == 0
    assert len(load(tmp_path)) == 6


def test_folder_without_the_right_to_write(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cli.main([*TRAIN, "--data-dir", str(small_disk)]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: {small_disk} cannot be written (Read-only file system); free some space or choose another data_dir\n"
    )
    assert captured.out == ""
