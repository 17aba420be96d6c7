"""Real runs on digits: recorded once, resumed exactly, shared out among workers, and stopped without loss."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import networks
import pandas as pd
import pytest
import torch
from conftest import PROJECT
from kills import Run, workers
from permissions import as_any_user
from test_files import wait_until
from torch import nn

from batchscale import sweeps
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import files, provenance
from batchscale.records.files import lock
from batchscale.records.record import Record
from batchscale.records.tables import load, read_csv
from batchscale.sweeps import display
from batchscale.sweeps.grid import grid
from batchscale.training import datasets, loop
from batchscale.training.loop import Training

TIMES = ["running_time", "epoch_time", "images_per_second"]
TINY = {"dataset": "digits", "width": 0.1, "train_size": 256, "epochs": 2}


def tiny(sizes=(16, 64), name="baseline_small", **fields) -> list[Experiment]:
    return grid(name, sizes, **(TINY | fields))


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


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("model name\t: A CPU @ 2 GHz\nflags\t: fpu\n\nmodel name\t: A CPU @ 2 GHz\n", "A CPU @ 2 GHz"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", "arm64"),  # ARM's kernel has no names
        (None, "arm64"),  # another system
    ],
)
def test_the_record_names_the_cpu(monkeypatch, told, name):
    class Read:
        def read_text(self, encoding):
            if told is None:
                raise FileNotFoundError
            return told

    monkeypatch.setattr(provenance, "Path", lambda path: Read())
    monkeypatch.setattr(provenance.platform, "processor", str)
    monkeypatch.setattr(provenance.platform, "machine", lambda: "arm64")
    assert provenance.cpu() == name


def test_only_what_is_missing(tmp_path):
    sweeps.run(tiny([16]), data_dir=tmp_path)
    assert sweeps.pending(tiny([16, 64]), tmp_path) == tiny([64])
    assert sweeps.pending(tiny([64]) * 2, tmp_path) == tiny([64])  # named twice, trained once


@pytest.mark.slow
def test_workers_record_the_same(tmp_path):
    experiments = tiny(seeds=[0, 1])
    sweeps.run(experiments, data_dir=tmp_path / "one")
    # Told to leave what others train: a worker of the same sweep is no other.
    sweeps.run(experiments, data_dir=tmp_path / "two", workers=2, when_locked="leave")
    assert_same_records(tmp_path / "one", tmp_path / "two")
    assert not [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The record of four epochs, trained at once."""
    folder = tmp_path_factory.mktemp("long")
    sweeps.run(tiny([64], epochs=4), data_dir=folder)
    return folder


def test_more_epochs_train_again_and_say_so_before(tmp_path, long, capsys, monkeypatch):
    (path,) = [Record(each, tmp_path).csv for each in tiny([64])]
    short = sweeps.run(tiny([64]), data_dir=tmp_path)
    before = path.read_bytes()
    assert sweeps.pending(tiny([64], epochs=4), tmp_path) == tiny([64], epochs=4)
    capsys.readouterr()
    said = []
    update = Training.update
    monkeypatch.setattr(
        Training, "update", lambda run, indices: said.append(capsys.readouterr().out) or update(run, indices)
    )
    table = sweeps.run(tiny([64], epochs=4), data_dir=tmp_path)
    assert said[0] == (
        "baseline_small B=64 seed 0: the record is complete at 2 epochs, but its last state was not kept; training "
        "starts again from epoch 1, and the CSV recorded so far is kept as baseline_small_bs64_seed0.csv.replaced\n"
    )
    assert len(said) == 16
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    assert_same_records(tmp_path, long)
    assert path.with_name(f"{path.name}.replaced").read_bytes() == before
    assert short["running_time"].tolist() != table["running_time"].tolist()[:2]
    assert sweeps.pending(tiny([64], epochs=4), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_more_epochs_go_on_from_a_kept_state(tmp_path, long, monkeypatch, capsys, workers):
    experiments = tiny([64]) + tiny([128])[: workers - 1]
    short = sweeps.run(experiments, data_dir=tmp_path, keep_state=True, workers=workers)
    final = Record(experiments[0], tmp_path).final
    assert final.exists()
    assert sweeps.pending(experiments, tmp_path) == []
    assert sweeps.pending(tiny([64], epochs=4), tmp_path) == tiny([64], epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "PULSE_SECONDS", 0)
        update = Training.update

        def update_or_die(run, indices):
            if run.updates == 10:  # in the third epoch, from the kept state and before the next save
                raise SystemExit
            update(run, indices)

        patch.setattr(Training, "update", update_or_die)
        with pytest.raises(SystemExit):
            sweeps.run(tiny([64], epochs=4), data_dir=tmp_path)
    assert sweeps.recorded(tiny([64], epochs=4), tmp_path)["epoch"].tolist() == [1, 2]
    resumed = counted_updates(monkeypatch)
    table = sweeps.run(tiny([64], epochs=4), data_dir=tmp_path)
    assert resumed == [*range(8, 16)]
    assert table["running_time"].tolist()[:2] == short["running_time"].tolist()[:2]
    assert table["running_time"].is_monotonic_increasing
    for path in tmp_path.glob("*bs128*"):
        path.unlink()
    assert_same_records(tmp_path, long)
    assert final.exists()
    assert "starts again" not in capsys.readouterr().out


def test_rows_recorded_so_far(tmp_path):
    """Of whatever state, with nothing trained, locked or changed."""
    (begun,) = tiny([16])
    add = Record.add

    def add_or_die(record, row, state):
        add(record, row, state)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "add", add_or_die)
        with pytest.raises(SystemExit):
            sweeps.run([begun], data_dir=tmp_path)
    sweeps.run(tiny([64]), data_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with lock(tmp_path / f".{begun.stem}.lock", "somebody"):
        table = sweeps.recorded(tiny([64, 16, 32, 64]), tmp_path)
    assert table[["batch_size", "epoch"]].values.tolist() == [[64, 1], [64, 2], [16, 1]]
    assert sweeps.recorded(tiny([32]), tmp_path / "none").empty
    assert list(sweeps.recorded([], tmp_path).columns) == list(table.columns)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_divergence_is_a_result_and_the_sweep_goes_on(tmp_path, capsys):
    experiments = tiny([16], base_lr=1e30) + tiny([64])
    sweeps.run(experiments, data_dir=tmp_path)
    assert "B=16 seed 0: diverged in the first epoch" in capsys.readouterr().out
    assert Record(experiments[0], tmp_path).status == "diverged"
    assert Record(experiments[1], tmp_path).status == "complete"
    assert sweeps.pending(experiments, tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_does_not_end_the_sweep(tmp_path, capsys, workers):
    """Nor does another process of the sweep try it again."""
    experiments = tiny([999]) + tiny([64])
    with pytest.raises(UserError, match="batch_size is 999 but digits has 256 training images"):
        sweeps.run(experiments, data_dir=tmp_path, workers=workers)
    assert Record(experiments[1], tmp_path).finished
    said = capsys.readouterr().out.splitlines()
    assert sorted(line.partition("]")[0] for line in said) == ["[1/2", "[2/2"]
    assert sum(": failed, " in line for line in said) == 1


SCRIPT = """
import os

from batchscale import sweeps

# One write, so that lines of several processes stay whole.
os.write(1, b"begins\\n")
runs = sweeps.grid("baseline_small", [64, 128], dataset="digits", width=0.1, train_size=128, epochs=1)
{}sweeps.run(runs, data_dir="data", workers=2)
"""


def run_script(folder: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_script_without_a_guard(tmp_path):
    """Its processes run it again, up to the sweep."""
    (tmp_path / "script.py").write_text(SCRIPT.format(""))
    ended = run_script(tmp_path, "script.py")
    assert (ended.returncode, ended.stdout) == (1, "begins\n" * 3)
    assert ended.stderr.splitlines()[-1] == (
        "batchscale.errors.UserError: workers is 2, and each process begins by running this script; write "
        '`if __name__ == "__main__": sweeps.run(experiments, workers=2)`, so that only the first one calls it'
    )
    assert ended.stderr.count("Traceback") == 1
    assert not list((tmp_path / "data").iterdir())


def test_a_script_that_is_no_file(tmp_path):
    ended = run_script(tmp_path, stdin=SCRIPT.format(""))
    assert ended.stdout == "begins\n"
    assert ended.stderr.splitlines()[-1].endswith(
        "but <stdin> is not a file; save the script as a file, or use workers=1"
    )


def test_a_script_that_fails_in_its_processes(tmp_path):
    """Again and again, as it would if it were started again."""
    text = 'import sys\nif __name__ != "__main__":\n    sys.exit(7)\n' + SCRIPT.format('if __name__ == "__main__": ')
    (tmp_path / "script.py").write_text(text)
    said = run_script(tmp_path, "script.py").stderr.splitlines()
    assert said[-1].endswith("none of 2 processes could start (exit code 7); what they printed above says why")


@pytest.mark.slow
def test_an_interpreter_needs_no_guard(tmp_path):
    """Nothing can be run again there; the same holds for `python -c` and notebooks."""
    ended = run_script(tmp_path, "-i", "-q", stdin=SCRIPT.format(""))
    assert "Traceback" not in ended.stderr, ended.stderr
    assert sweeps.pending(tiny([64, 128], train_size=128, epochs=1), tmp_path / "data") == []


def test_a_process_of_a_pool_starts_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    with pytest.raises(UserError, match="workers is 2, but this process belongs to a pool and cannot start others"):
        sweeps.run(tiny(), data_dir=tmp_path, workers=2)


def test_another_experiment_is_refused_before_anything_is_trained(tmp_path):
    sweeps.run(tiny([64]), data_dir=tmp_path)
    with pytest.raises(UserError, match=r"base_lr is 0\.002 there but 0\.01 was asked for"):
        sweeps.run(tiny([16, 64], base_lr=0.01), data_dir=tmp_path)
    assert not (tmp_path / "baseline_small_bs16_seed0.csv").exists()


@pytest.fixture
def own(monkeypatch):
    """Arrays that `networks:load` returns, and that a test may change."""
    digits = datasets.load("digits")
    arrays = [digits.train_images[:128], digits.train_labels[:128], digits.test_images, digits.test_labels]
    monkeypatch.setattr(networks, "load", lambda: tuple(arrays), raising=False)
    return arrays


OWN = {"dataset": "networks:load", "model": "networks:linear", "width": 1, "train_size": None}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def begun(experiment, folder, monkeypatch) -> None:
    """Train its first epoch."""
    add = Record.add

    def add_or_die(record, row, state):
        add(record, row, state)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", add_or_die)
        with pytest.raises(SystemExit):
            sweeps.run([experiment], data_dir=folder)


@pytest.mark.parametrize("begin", ["an epoch", "all epochs", "another run"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays[0].roll(1, 0), "digest"),
        (lambda arrays: arrays[0].tile(2, 1, 1, 1), "128 train images there but 256 now"),
    ],
)
def test_own_data_that_changed_are_refused(tmp_path, own, monkeypatch, capsys, begin, change, message):
    """The numbers of a run, and of the runs that are compared with it, are of one data set."""
    (experiment,) = tiny([64], **OWN)
    if begin == "an epoch":
        begun(experiment, tmp_path, monkeypatch)
        asked = [experiment]
    else:
        sweeps.run([experiment], data_dir=tmp_path)
        asked = tiny([64], **OWN | {"epochs": 3}) if begin == "all epochs" else tiny([32, 64], **OWN)
    before, images = contents(tmp_path), own[0]
    own[0], own[1] = change(own), own[1].repeat(len(change(own)) // len(own[1]))
    with pytest.raises(UserError, match=f"bs64_seed0.csv belongs to other data: networks:load has .*{message}"):
        sweeps.run(asked, data_dir=tmp_path)
    assert contents(tmp_path) == before
    own[0], own[1] = images, own[1][:128]
    sweeps.run(asked, data_dir=tmp_path)
    assert sweeps.pending(asked, tmp_path) == []
    own[0] = images.roll(1, 0)
    sweeps.run(asked, data_dir=tmp_path)  # nothing is trained, so nothing is compared
    assert "recorded already" in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_network_that_changed_is_refused(tmp_path, own, monkeypatch, epochs):
    def net(hidden: int):
        return lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, hidden), nn.Linear(hidden, num_classes))

    monkeypatch.setattr(networks, "net", net(84), raising=False)
    (experiment,) = tiny([64], **OWN | {"model": "networks:net"})
    begun(experiment, tmp_path, monkeypatch)
    if epochs == 3:
        sweeps.run([experiment], data_dir=tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(networks, "net", net(120))
    with pytest.raises(UserError, match=r"another network: parameter 1\.weight is 84x3072 there but 120x3072 now"):
        sweeps.run([replace(experiment, epochs=epochs)], data_dir=tmp_path)
    assert contents(tmp_path) == before


def test_a_sitting_with_other_threads_says_so(tmp_path, own, monkeypatch, capsys):
    (experiment,) = tiny([64], **OWN)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        begun(experiment, tmp_path, monkeypatch)
        torch.set_num_threads(2)
        sweeps.run([experiment], data_dir=tmp_path)
    finally:
        torch.set_num_threads(threads)
    said = (
        "continuing after update 2 under other conditions (threads: 2 instead of 1): sums are rounded in another order"
    )
    assert capsys.readouterr().out.count(said) == 1
    first, second = Record(experiment, tmp_path).noted["parts"]
    assert (first["from_update"], first["device"]["threads"], first["workers"]) == (0, 1, 1)
    assert (second["from_update"], second["device"]["threads"], second["workers"]) == (2, 2, 1)


def test_a_micro_batch_that_remains_is_noted_and_told(tmp_path, capsys):
    (experiment,) = tiny([129], model="networks:linear", width=1, micro_batch_size=128, epochs=1)
    sweeps.run([experiment], data_dir=tmp_path)
    assert Record(experiment, tmp_path).noted["ghost_batch"] == [{"from_update": 0, "images": 128, "last": 1}]
    assert "the last micro-batch of every update has 1 of 128 images" in capsys.readouterr().out


class Remembers(nn.Module):
    """Has something besides tensors in its state, from its first training update on if `late`."""

    def __init__(self, state, late: bool = False, num_classes: int = 10):
        super().__init__()
        self.linear = networks.linear(num_classes)
        self.state, self.late = state, late

    def forward(self, images):
        self.late = self.late and not self.training
        return self.linear(images)

    def get_extra_state(self):
        return 0 if self.late else self.state

    def set_extra_state(self, state):
        pass


class Forgets(Remembers):
    set_extra_state = nn.Module.set_extra_state


class Fails(Remembers):
    def get_extra_state(self):
        raise KeyError("nothing there")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda: Remembers({1: SimpleNamespace()}),
            'model state "_extra_state.1" holds a SimpleNamespace, which no check',
        ),
        (lambda: Forgets(7), "networks:net does not take back the state that it saves .* add the set_extra_state that"),
        (lambda: Fails(7), "networks:net does not take back the state that it saves .'nothing there'."),
    ],
)
def test_a_network_whose_state_could_not_be_loaded_is_not_trained(tmp_path, own, monkeypatch, network, message):
    (experiment,) = tiny([64], **OWN | {"model": "networks:net"})
    monkeypatch.setattr(networks, "net", lambda num_classes: Remembers(7), raising=False)
    begun(experiment, tmp_path, monkeypatch)
    before = contents(tmp_path)
    monkeypatch.setattr(networks, "net", lambda num_classes: network())
    trained = counted_updates(monkeypatch)
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            sweeps.run([experiment], data_dir=tmp_path)
        assert contents(tmp_path) == before  # nothing is set aside
    assert trained == []


def test_a_state_that_cannot_be_loaded_is_not_saved_later_either(tmp_path, own, monkeypatch):
    (experiment,) = tiny([64], **OWN | {"model": "networks:net"})
    monkeypatch.setattr(networks, "net", lambda num_classes: Remembers({1, object()}, late=True), raising=False)
    for _ in range(2):
        with pytest.raises(UserError, match='model state "_extra_state" holds a set, which no checkpoint gives back'):
            sweeps.run([experiment], data_dir=tmp_path)
        assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_a_lock_file_of_another_user(tmp_path):
    (experiment,) = tiny([64], **OWN | {"dataset": "digits"})
    held = tmp_path / f".{experiment.stem}.lock"
    held.touch(0o000)
    message = f"{held} cannot be written (Permission denied); ask its owner for permission or choose another data_dir"
    with as_any_user(), pytest.raises(UserError, match=re.escape(message)):
        sweeps.run([experiment], data_dir=tmp_path)


def test_a_lock_file_beside_a_finished_record(tmp_path):
    """Left by a process that was killed just then, it goes; one that is held stays, and is not waited for."""
    (experiment,) = tiny([16])
    sweeps.run([experiment], data_dir=tmp_path)
    left = tmp_path / f".{experiment.stem}.lock"
    left.write_text("process 7 on here", encoding="utf-8")
    sweeps.run([experiment], data_dir=tmp_path)
    assert not left.exists()
    with lock(left, "process 8 on here"):
        sweeps.run([experiment], data_dir=tmp_path)
        assert left.read_text(encoding="utf-8") == "process 8 on here"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be a whole number of at least 1"),
        ({"when_locked": "push"}, "when_locked is 'push'; it must be wait or leave"),
        ({"keep_state": 1}, "keep_state is 1; it must be True or False"),
        ({"cores_per_run": 2}, "require engine ray, but engine is processes"),
    ],
)
def test_options_are_checked_before_anything_is_trained(tmp_path, option, message):
    with pytest.raises(UserError, match=message):
        sweeps.run(tiny(), data_dir=tmp_path, **option)
    assert list(tmp_path.iterdir()) == []


SWEEP = ["sweep", "--names", "baseline_small", "--dataset", "digits", "--width", "0.1", "--epochs", "4"]
SWEEP += ["--train-size", "800", "--small", "4", "8", "--seeds", "0"]
SWEEP += ["--optimizer", "nesterov", "--decay", "cosine", "--augment", "flip-crop"]
AS_SWEEP = {"train_size": 800, "epochs": 4, "optimizer": "nesterov", "decay": "cosine", "augment": "flip-crop"}
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def started(folder, *flags) -> Run:
    """A sweep in a process group of its own, as a terminal starts it, once it has recorded an epoch."""
    run = Run([*SWEEP, "--data-dir", str(folder), *flags], folder.with_suffix(".log"))
    while run.process.is_alive() and not list(folder.glob("*.csv")):
        time.sleep(0.02)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of SWEEP when nobody stops it."""
    folder = tmp_path_factory.mktemp("whole")
    sweeps.run(tiny([4, 8], **AS_SWEEP), data_dir=folder)
    return folder


def assert_goes_on(folder, whole) -> None:
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]  # no lock, nothing half-written
    experiments = tiny([4, 8], **AS_SWEEP)
    assert list(folder.glob("*.ckpt"))
    assert sweeps.pending(experiments, folder)
    sweeps.run(experiments, data_dir=folder)
    assert_same_records(folder, whole)
    assert not list(folder.glob("*.ckpt*"))


@pytest.mark.parametrize(("save_seconds", "saves"), [(0, 9), (1e9, 0)])
def test_a_long_epoch_is_saved_in_the_middle(tmp_path, monkeypatch, save_seconds, saves):
    """Killed before its tenth update, the first epoch goes on after the ninth, or begins again."""
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0)
    update = Training.update

    def update_or_die(run, indices):
        if run.updates == 9:
            raise SystemExit
        update(run, indices)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", update_or_die)
        with pytest.raises(SystemExit):
            sweeps.run(tiny([16]), data_dir=tmp_path, save_seconds=save_seconds)
    resumed = counted_updates(monkeypatch)
    sweeps.run(tiny([16]), data_dir=tmp_path)
    assert resumed == [*range(saves, 32)]


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(
    ("number", "send", "flags"),
    [
        (signal.SIGINT, os.killpg, []),  # as a terminal does: to all of them
        (signal.SIGTERM, os.kill, []),  # as kill does: to the one that was started
        (signal.SIGINT, os.killpg, ["--workers", "2"]),
        (signal.SIGTERM, os.kill, ["--workers", "2"]),
        (signal.SIGTERM, os.killpg, ["--workers", "2"]),  # as a cluster does
    ],
    ids=["ctrl-c", "terminate", "ctrl-c with workers", "terminate the parent", "terminate all"],
)
def test_stopped_and_started_again(tmp_path, whole, number, send, flags):
    folder = tmp_path / "stopped"
    run = started(folder, *flags)
    send(run.process.pid, number)
    assert run.ended(timeout=60) == 128 + number
    assert run.said().splitlines()[-1] == "stopped; everything is saved: run again to continue"
    assert "Traceback" not in run.said()
    assert_goes_on(folder, whole)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("delay", [0.3, 1, 2])
def test_ctrl_c_while_workers_start(tmp_path, delay):
    """They import for seconds, and a Ctrl-C reaches them as well."""
    run = Run([*SWEEP, "--data-dir", str(tmp_path / "data"), "--workers", "2"], tmp_path / "log")
    time.sleep(delay)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.ended(timeout=60) == 130
    assert run.said().splitlines()[-1] in ("stopped; everything is saved: run again to continue", "interrupted")
    assert "Traceback" not in run.said()


@pytest.mark.slow
@needs_proc
def test_workers_end_when_their_parent_is_gone(tmp_path, whole):
    run = started(tmp_path / "orphans", "--workers", "2")
    run.kill(0, lambda run: [run.process.pid])
    assert run.ended() == -9  # and the whole group is gone
    assert "Traceback" not in run.said()
    assert_goes_on(tmp_path / "orphans", whole)


@pytest.mark.slow
@needs_proc
def test_a_worker_that_is_gone_is_told_and_the_others_take_its_run(tmp_path, whole):
    run = started(tmp_path / "data", "--workers", "2")
    run.kill(0, lambda run: workers(run)[:1])
    assert run.ended() == 2
    assert run.said().endswith("error: 1 of 2 processes ended with exit code -9; run again to continue\n")
    assert_same_records(tmp_path / "data", whole)


@pytest.mark.slow
@needs_proc
def test_one_trains_and_the_other_waits_or_says_who_holds_it(tmp_path, whole):
    folder = tmp_path / "data"
    holder = started(folder)
    name = f"process {holder.process.pid} on {socket.gethostname()}"
    leaving = Run([*SWEEP, "--small", "4", "--data-dir", str(folder), "--when-locked", "leave"], tmp_path / "leaving")
    assert leaving.ended() == 2
    assert (
        leaving.said() == f"error: baseline_small B=4 seed 0: {name} is training it; run again once it has finished\n"
    )
    waiting = Run([*SWEEP, "--small", "4", "--data-dir", str(folder)], tmp_path / "waiting")
    assert waiting.ended() == holder.ended() == 0
    assert waiting.said() == f"waiting for baseline_small B=4 seed 0, which {name} is training\n"
    assert_same_records(folder, whole)


@pytest.mark.slow
@needs_proc
def test_who_waits_takes_over_from_the_dead(tmp_path, whole):
    folder = tmp_path / "data"
    holder = started(folder)
    waiting = Run([*SWEEP, "--data-dir", str(folder)], tmp_path / "waiting")
    time.sleep(1)
    holder.kill(0)
    assert holder.ended() == -9
    assert waiting.ended() == 0
    assert_same_records(folder, whole)


@pytest.mark.slow
@needs_proc
def test_two_sweeps_on_one_folder_share_out_the_work(tmp_path, whole):
    runs = [Run([*SWEEP, "--data-dir", str(tmp_path / "data")], tmp_path / f"log{number}") for number in (1, 2)]
    assert [run.ended() for run in runs] == [0, 0]
    assert [run.said().count("complete, 4 epochs") for run in runs] == [1, 1]
    assert_same_records(tmp_path / "data", whole)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Colab's folders: the records are asked for on the Drive, and the scratch folder follows from that."""
    monkeypatch.setattr(files, "COLAB_DRIVE", tmp_path / "drive")
    monkeypatch.setattr(files, "COLAB_SCRATCH", tmp_path / "scratch")
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    return tmp_path / "drive" / "MyDrive" / "data", tmp_path / "scratch" / "MyDrive" / "data"


def die_after_two_epochs(there, monkeypatch) -> None:
    """Train B = 4 and end as a virtual machine does that is taken away, once two epochs are on the Drive."""
    add = Record.add

    def add_or_die(record, row, state):
        if row.epoch > 2:
            raise SystemExit
        add(record, row, state)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", add_or_die)
        with pytest.raises(SystemExit):
            sweeps.run(tiny([4], **AS_SWEEP), data_dir=there)
    wait_until(lambda: len(load(there)) == 2 and not list(there.glob(".*")))


@pytest.mark.slow
def test_google_drive_is_written_through_the_virtual_machine(drive, whole):
    there, here = drive
    table = sweeps.run(tiny([4, 8], **AS_SWEEP), data_dir=there)
    assert_same_records(there, whole)
    assert {path.suffix for path in there.iterdir()} == {".csv", ".json"}
    assert list(here.iterdir()) == []
    assert len(table) == 8
    pd.testing.assert_frame_equal(sweeps.run(tiny([4, 8], **AS_SWEEP), data_dir=there), table)


def test_a_kept_state_and_what_is_replaced_reach_the_drive(drive, long):
    there, here = drive
    with_state, without = tiny([64])[0], tiny([64], name="mine")[0]
    sweeps.run([with_state], data_dir=there, keep_state=True)
    sweeps.run([without], data_dir=there)
    replaced = Record(without, there).csv.read_bytes()
    sweeps.run([replace(each, epochs=4) for each in (with_state, without)], data_dir=there)
    assert list(here.iterdir()) == []
    assert Record(with_state, there).final.exists()
    assert (there / f"{without.stem}.csv.replaced").read_bytes() == replaced
    for path in there.glob("mine*"):
        path.unlink()
    assert_same_records(there, long)


def test_another_virtual_machine_goes_on_from_the_drive(drive, whole, monkeypatch):
    there, here = drive
    die_after_two_epochs(there, monkeypatch)
    shutil.rmtree(here)
    assert len(sweeps.pending(tiny([4], **AS_SWEEP), there)) == 1
    resumed = counted_updates(monkeypatch)
    sweeps.run(tiny([4], **AS_SWEEP), data_dir=there)
    assert len(resumed) == 2 * 200
    assert_same_records(there, only(whole, 4))


def test_a_drive_that_vanishes_stops_nothing_and_is_caught_up_with(drive, whole, monkeypatch, capsys):
    there, here = drive
    unmounted = there.parents[2] / "unmounted"
    add = Record.add

    def add_and_lose_the_drive(record, row, state):
        if row.epoch == 2:
            there.parents[1].rename(unmounted)
        add(record, row, state)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", add_and_lose_the_drive)
        table = sweeps.run(tiny([4], **AS_SWEEP), data_dir=there)
    assert len(table) == 4
    said = capsys.readouterr().out
    assert f"not copied ({there}" in said
    assert f"{there} lacks the newest files" in said
    assert f"they are intact in {here}" in said
    assert not there.exists()
    unmounted.rename(there.parents[1])
    assert len(load(there)) == 1
    resumed = counted_updates(monkeypatch)
    sweeps.run(tiny([4], **AS_SWEEP), data_dir=there)
    assert resumed == []  # it was only copied
    assert_same_records(there, only(whole, 4))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("damaged", ["csv", "ckpt"])
def test_what_is_whole_on_the_virtual_machine_goes_before_what_is_torn_on_the_drive(drive, whole, monkeypatch, damaged):
    there, _ = drive
    die_after_two_epochs(there, monkeypatch)
    (path,) = there.glob(f"*.{damaged}")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="cannot be used|continuing from the files in"):
        sweeps.run(tiny([4], **AS_SWEEP), data_dir=there)
    assert_same_records(there, only(whole, 4))


def counted_updates(monkeypatch) -> list[int]:
    updates = []
    update = Training.update
    monkeypatch.setattr(Training, "update", lambda run, indices: updates.append(run.updates) or update(run, indices))
    return updates


def only(whole, size) -> Path:
    """A folder with the record of one batch size."""
    folder = whole.parent / f"only{size}"
    folder.mkdir(exist_ok=True)
    for path in whole.glob(f"*_bs{size}_*"):
        shutil.copy(path, folder)
    return folder


def test_terminal_shows_bars_that_fit(monkeypatch, capsys):
    """tqdm cuts them to the terminal's width; what matters most comes first."""
    from batchscale.training.loop import Progress

    experiment = Experiment(name="gradual_warmup_scaled_lr", batch_size=1024)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for width in (60, 80, 150):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")
        with display.Display([experiment]) as shown_runs:
            shown_runs.show("progress", experiment, Progress(1, 0, 500_000, 2.3, 0.0))
            shown_runs.show("epoch", experiment, SimpleNamespace(accuracy=0.512))
            shown_runs.show("progress", experiment, Progress(2, 75_000, 500_000, 1.234, 2134.5))
        lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
        shown = [line for line in lines if " 15%" in line]
        assert shown
        assert max(map(len, lines)) <= width
        for part in ["B=1024", "epoch 2 of 10" if width == 150 else "2/10", "loss 1.234", "acc", "0.512", "2134"]:
            assert part in shown[-1], shown[-1]
        assert ("run 1 of 1: gradual_warmup" in shown[-1]) == (width == 150)


def test_a_notebook_shows_runs_and_the_time_for_all_in_narrow_lines(monkeypatch):
    """Two runs of 500 images in 100 s: five times as many, at the same pace, are left of each, and two more runs."""
    from batchscale.training.loop import Progress

    now, shown = [0.0], []
    monkeypatch.setattr(display, "in_notebook", lambda: True)
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(display.time, "strftime", lambda form: "09:41:05")
    monkeypatch.setattr(display.Display, "_update_output", lambda self: shown.append(self._lines()))
    name = "gradual_warmup_scaled_lr"
    runs = [Experiment(name=name, batch_size=size, seed=seed) for seed in (0, 1) for size in (1024, 8192)]
    with display.Display(runs) as progress:
        assert shown == [["starting: the first numbers take some seconds"]]
        for run in runs[:2]:
            progress.show("progress", run, Progress(1, 0, 3000, 2.3, 0.0))
        now[0] = 100.0
        for run in runs[:2]:
            progress.show("progress", run, Progress(2, 500, 3000, 1.234, 98765.4))
        assert shown[-1] == [
            f"run 1 of 4: {name} B=1024 seed 0, epoch 2 of 10",
            "  ██············  16 % done, about 8 min left, loss 1.234, 98765 images/s",
            f"run 2 of 4: {name} B=8192 seed 0, epoch 2 of 10",
            "  ██············  16 % done, about 8 min left, loss 1.234, 98765 images/s",
            "0 of 4 runs ended, about 18 min left, at 09:41:05",  # (2 · 500 s + 2 · 600 s) / 2
        ]
        progress.show("epoch", runs[0], SimpleNamespace(accuracy=0.712))
        progress.show("finish", runs[1], "complete")
        progress.show("progress", runs[0], Progress(10, 3000, 3000, 0.1, 98765.4))
        assert shown[-1] == [
            f"run 1 of 4: {name} B=1024 seed 0, epoch 10 of 10",
            "  ██████████████ 100 % done, about 0 s left, accuracy 71.2 %, 98765 images/s",
            "1 of 4 runs ended, about 12 min left, at 09:41:05",  # 0 s, and 600 s at 0.033 and 0.2 s per image
        ]
        progress.show("progress", runs[2], Progress(1, 0, 3000, 2.3, 0.0))
        assert shown[-1][2].startswith("run 3 of 4: ")
    assert max(len(line) for lines in shown for line in lines) <= 78


@pytest.mark.parametrize(
    ("model", "remark"),
    [
        ("LeNet", "networks:LeNet cannot take images with channels last in memory; it gets contiguous ones"),
        ("HalfRegistered", "networks:HalfRegistered has layers in a plain list or dict, layers, which are not trained"),
    ],
)
def test_what_is_remarkable_about_a_network_is_said_once(tmp_path, capsys, model, remark):
    sweeps.run(tiny(model=f"networks:{model}", width=1.0), data_dir=tmp_path)
    assert capsys.readouterr().out.count(remark) == 1


def test_without_the_noise_scale(tmp_path, capsys):
    """A run that measured it before says what its further epochs will count as."""
    (first,) = tiny([32], epochs=1)
    sweeps.run([first], data_dir=tmp_path, keep_state=True)
    rows = sweeps.run([replace(first, epochs=2)], data_dir=tmp_path, noise_scale=False)
    assert rows["noise_scale"].isna().tolist() == [False, True]
    assert "the noise scale is not measured any more; analysis counts further epochs" in capsys.readouterr().out
    with pytest.raises(UserError, match="noise_scale is 1; it must be True or False"):
        sweeps.run([first], data_dir=tmp_path, noise_scale=1)
