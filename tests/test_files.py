"""Files are written whole or not at all; a lock has one holder and a name; copies never keep the training waiting."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import faults
import pytest
from filelock import SoftFileLock
from permissions import as_any_user

from batchscale.records import files
from batchscale.records.files import (
    Busy,
    Copies,
    SaveError,
    forget_dead,
    lock,
    require_writable,
    scratch_of,
    write_whole,
)

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writes_whole_and_keeps_what_was_there(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "file.previous"
    write_whole(path, b"one", keep=kept)
    assert contents(tmp_path) == {"file": b"one"}
    write_whole(path, b"two", keep=kept)
    write_whole(path, b"three", keep=kept)
    assert contents(tmp_path) == {"file": b"three", "file.previous": b"two"}


@needs_proc
def test_synced_before_the_rename_and_after_it(tmp_path):
    with faults.at_step(tmp_path, 99, faults.disk_full) as steps:
        write_whole(tmp_path / "file", b"content")
    assert steps == ["open", "write", "flush", "fsync", "rename", "fsync"]


@needs_proc
@pytest.mark.parametrize("at", range(1, 8))
def test_whatever_fails_one_of_the_two_is_whole(tmp_path, at):
    path, kept = tmp_path / "file", tmp_path / "kept"
    path.write_bytes(b"old")
    with (
        pytest.raises(SaveError, match=r"file cannot be written \(No space left on device\); .* run again to continue"),
        faults.at_step(tmp_path, at, faults.disk_full),
    ):
        write_whole(path, b"new", keep=kept)
    # before the first rename, between the two, and when only the folder could not be synced
    assert contents(tmp_path) == (
        {"file": b"old"} if at <= 5 else {"kept": b"old"} if at == 6 else {"file": b"new", "kept": b"old"}
    )


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SaveError, match="cannot be written"):
            require_writable(folder)


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o000])
def test_a_folder_of_another_user(tmp_path, mode):
    """It may not be written, or not be listed, or neither."""
    folder = tmp_path / "data"
    folder.mkdir(mode)
    message = f"{folder} cannot be written (Permission denied); ask its owner for permission or choose another data_dir"
    with as_any_user(), pytest.raises(SaveError) as refused:
        require_writable(folder)
    assert str(refused.value) == message
    with as_any_user(), pytest.raises(SaveError, match=r"file cannot be written \(Permission denied\)"):
        write_whole(folder / "file", b"new")
    folder.chmod(0o700)


def test_writable_folder_is_left_as_it_was(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_one_holder_at_a_time_and_no_file_afterwards(tmp_path):
    path = tmp_path / ".run.lock"
    with lock(path, "process 1 on here"):
        with pytest.raises(Busy) as busy, lock(path, "process 2 on here"):
            pytest.fail("two hold it")
        assert busy.value.holder == "process 1 on here"
    assert list(tmp_path.iterdir()) == []
    with lock(path, "process 2 on here"):
        pass


def test_a_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    path = tmp_path / ".run.lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom batchscale.records.files import lock\n"
        "with lock(Path(sys.argv[1]), 'the dead'):\n    print('held', flush=True)\n    time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="held by the dead"), lock(path, "the living"):
            pytest.fail("two hold it")
        process.send_signal(signal.SIGKILL)
    with lock(path, "the living"):
        assert path.read_text() == "the living"


def test_a_lock_of_a_dead_machine_where_the_file_system_knows_none(tmp_path, monkeypatch):
    path = tmp_path / ".run.lock"
    monkeypatch.setattr(files, "FileLock", SoftFileLock)
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "node7")
        with SoftFileLock(path):
            left = path.read_text()
    path.write_text(left)
    for process, machine in [(os.getpid(), "node8"), (os.getpid() + 1, "node7"), (0, "")]:
        forget_dead(path, process, machine)
        with pytest.raises(Busy), lock(path, "the living"):
            pytest.fail("a lock of somebody else is gone")
    forget_dead(path, os.getpid(), "node7")
    with lock(path, "the living"):
        pass
    forget_dead(path, os.getpid(), "node7")  # nothing there


def test_whoever_waits_for_a_lock_never_shares_it(tmp_path):
    """The file is removed by its holder while others are opening it."""
    path, inside, most = tmp_path / ".run.lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(30):
            try:
                with lock(path, "somebody"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    inside -= 1
            except Busy:
                time.sleep(0.0005)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def wait_until(condition, seconds=10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def folders(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


@pytest.fixture
def copying():
    """Makes `Copies` whose threads end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda folder, notice: stack.enter_context(Copies(folder, notice))


def test_copies_follow(folders, copying):
    here, there = folders
    said = []
    copies = copying(there, said.append)
    files = (here / "a.csv", here / "a.ckpt")
    files[0].write_bytes(b"1")
    copies.request(files)
    wait_until(lambda: contents(there) == {"a.csv": b"1"})
    files[0].write_bytes(b"2")
    files[1].write_bytes(b"weights")
    copies.request(files)
    copies.finish()
    assert contents(there) == contents(here) == {"a.csv": b"2", "a.ckpt": b"weights"}
    files[1].unlink()
    copies.request(files, move=True)
    copies.finish()
    assert contents(there) == {"a.csv": b"2"}
    assert contents(here) == {}
    assert said == []


def test_a_folder_that_vanishes_is_no_failure_and_is_caught_up_with(folders, copying):
    here, there = folders
    said = []
    copies = copying(there, said.append)
    files, others = (here / "a.csv",), (here / "b.csv",)
    files[0].write_bytes(b"a")
    others[0].write_bytes(b"b")
    there.rmdir()
    copies.request(files, move=True)
    copies.finish()
    assert not there.exists()  # a mount point that is gone must not become an ordinary folder
    assert contents(here) == {"a.csv": b"a", "b.csv": b"b"}
    copies.request(others)
    assert "not copied" in said[-1]
    there.mkdir()
    copies.request(others)
    copies.finish()
    assert contents(there) == {"a.csv": b"a", "b.csv": b"b"}
    assert contents(here) == {"b.csv": b"b"}
    copies.request(others)
    assert said[-1] == f"{there} can be written again"
    assert len(said) == 3  # the end of the first part, the failure, its end


def test_a_copy_that_fails_after_the_next_request_is_retried_at_once(folders, copying, monkeypatch):
    here, there = folders
    said, began, release = [], threading.Event(), threading.Event()
    write_whole = files.write_whole

    def lost_once(path, content):
        monkeypatch.setattr(files, "write_whole", write_whole)
        began.set()
        release.wait(10)
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(files, "write_whole", lost_once)
    copies = copying(there, said.append)
    for name in "ab":
        (here / f"{name}.csv").write_bytes(name.encode())
        copies.request((here / f"{name}.csv",))
        began.wait(10)
    release.set()
    copies.finish()
    assert contents(there) == {"a.csv": b"a", "b.csv": b"b"}
    assert said == []


def test_a_slow_folder_delays_nobody(folders, copying, monkeypatch):
    here, there = folders
    said, written, release = [], [], threading.Event()

    def slow(path, content):
        release.wait(10)
        written.append(content)

    monkeypatch.setattr(files, "write_whole", slow)
    copies = copying(there, said.append)
    started = time.monotonic()
    for number in range(50):
        (here / "a.csv").write_bytes(b"%d" % number)
        copies.request((here / "a.csv",))
    copies.finish(seconds=0.1)
    assert time.monotonic() - started < 5
    assert f"{there} lacks the newest files (not finished after 0.1 s); they are intact in {here}" in said[-1]
    release.set()
    copies.finish()
    assert len(written) <= 2  # those that had not begun are one
    assert written[-1] == b"49"


def test_the_thread_ends_with_the_context(folders):
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if str(folders[1]) in thread.name]

    with Copies(folders[1], print):
        assert len(threads()) == 1
    wait_until(lambda: not threads())


def test_scratch_of_google_drive(monkeypatch, tmp_path):
    drive = tmp_path / "drive"
    monkeypatch.setattr(files, "COLAB_DRIVE", drive)
    monkeypatch.setattr(files, "COLAB_SCRATCH", tmp_path / "scratch")
    assert scratch_of(tmp_path / "data", None) is None
    assert scratch_of(Path("data"), Path("mine")) == Path("mine")
    with pytest.raises(SaveError, match="Google Drive is not mounted; set mount_drive = True"):
        scratch_of(drive / "MyDrive" / "data", None)
    (drive / "MyDrive").mkdir(parents=True)
    assert scratch_of(drive / "MyDrive" / "data", None) == tmp_path / "scratch" / "MyDrive" / "data"
    assert scratch_of(drive / "MyDrive" / "data", tmp_path / "mine") == tmp_path / "mine"
