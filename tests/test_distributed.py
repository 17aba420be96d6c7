"""Several workers against a single process, and what happens when a worker dies."""

import contextlib
import copy
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from workers import together

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import provenance
from batchscale.records.tables import load
from batchscale.sweeps import torchrun
from batchscale.training import datasets, loop
from batchscale.training import workers as workers_of_training
from batchscale.training.loop import Training
from batchscale.training.workers import Group, SharedNetwork, WorkerLost, is_lost

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def experiment(**fields) -> Experiment:
    return Experiment(**{"batch_size": 24, "dataset": "digits", "width": 0.25, "epochs": 1, "device": "cpu", **fields})


@given(length=st.integers(0, 20_000), count=st.integers(1, 64))
def test_shares_are_disjoint_and_complete(length, count):
    places = range(length)
    shares = [places[Group(rank, count).share(length)] for rank in range(count)]
    assert [place for share in shares for place in share] == list(places)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# 62 updates of 24 images


def train(group: Group, run_of: Experiment, file: Path, pulse: float) -> None:
    loop.PULSE_SECONDS = pulse
    run, shown = Training(run_of, datasets.load("digits"), group=group), []
    rows = list(run.epochs(shown.append if group.rank == 0 else None))
    if group.rank == 0:
        losses = {progress.images: progress.loss for progress in shown}
        torch.save({"rows": [vars(row) for row in rows], "state": run.state_dict(), "losses": losses}, file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "pulse", "micro", "tolerance", "fields"),
    [
        (2, 0.1, 12, 1e-5, {}),
        (3, 0, 4, 1e-9, {"model": "networks:InDouble", "micro_batch_size": 4, "train_size": 480}),
        (2, 0.1, 6, 1e-9, {"model": "networks:Awkward", "micro_batch_size": 6, "width": 1}),
        (
            *(2, 0, 12, 1e-9),
            {
                "model": "networks:InDouble",
                "train_size": 480,
                "optimizer": "adamw",
                "weight_decay": 0.1,
                "decay": "cosine",
                "augment": "flip-crop",
            },
        ),
    ],
)
def test_weights_and_accuracy_equal_those_of_one_process(tmp_path, monkeypatch, count, pulse, micro, tolerance, fields):
    """The single process uses micro-batches of the workers' size. Dropout and batch norm's statistics agree too.

    The sum of three float32 gradients depends on their order, and the kinks of ReLU and max-pooling amplify that.
    """
    run_of = experiment(lr_scaling="linear", warmup="gradual", warmup_epochs=0.5, **fields)
    together(count, train, run_of, tmp_path / "group.pt", pulse)
    group = torch.load(tmp_path / "group.pt", weights_only=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0)
    alone, losses = Training(replace(run_of, micro_batch_size=micro), datasets.load("digits")), {}
    (row,) = alone.epochs(lambda progress: losses.update({progress.images: progress.loss}))
    torch.set_num_threads(threads)
    assert alone.updates == group["state"]["updates"] == (20 if "train_size" in fields else 62)
    assert len(group["losses"]) == 19 if pulse == 0 else 1 < len(group["losses"]) < 61
    assert group["losses"] == pytest.approx({images: losses[images] for images in group["losses"]}, rel=1e-5)
    for (name, ours), theirs in zip(alone.model.state_dict().items(), group["state"]["model"].values(), strict=True):
        torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=10 * tolerance if "running" in name else 0)
    assert group["rows"][0]["accuracy"] == row.accuracy
    assert group["rows"][0]["train_loss"] == pytest.approx(row.train_loss, rel=1e-4)
    assert group["rows"][0]["noise_scale"] == pytest.approx(row.noise_scale, rel=1e-2, nan_ok=True)
    assert group["state"]["ghost_batches"] == [(0, micro)]


def test_resumed_by_more_and_by_fewer_workers():
    data = datasets.load("digits")
    alone = Training(experiment(), data)
    alone.updates = 30
    pair = Training(experiment(), data, group=Group(1, 2))
    pair.load_state_dict(copy.deepcopy(alone.state_dict()))
    assert pair.micro_batch_size == 12
    assert pair.ghost_batches == [(0, 24), (30, 12)]
    alone.load_state_dict(copy.deepcopy(pair.state_dict()))
    assert alone.micro_batch_size == 12


def count_evaluated(group: Group, file: Path) -> None:
    """Evaluate a network that reads the label from the image's first pixel."""
    data = datasets.load("digits")
    images = data.test_images.clone()
    labels = torch.arange(297) % 10
    images[:, 0, 0, 0] = labels.to(torch.uint8)
    labels[::3] = (labels[::3] + 1) % 10  # 99 of 297 wrong
    data = replace(data, test_images=images, test_labels=labels, mean=torch.zeros(3), std=torch.ones(3))

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return nn.functional.one_hot(images[:, 0, 0, 0].long(), 10).float()

    run = Training(experiment(), data, model=Reads(), group=group)
    accuracy, loss = run.evaluate(data.test_images, data.test_labels)
    if group.rank == 1:
        torch.save([accuracy, loss], file)


def test_evaluation_is_shared_exactly(tmp_path):
    together(4, count_evaluated, tmp_path / "evaluated.pt")
    accuracy, loss = torch.load(tmp_path / "evaluated.pt", weights_only=True)
    assert accuracy == 198 / 297
    right = torch.tensor([1.0] + [0.0] * 9).log_softmax(0)
    assert loss == pytest.approx(-(2 * right[0] + right[1]).item() / 3, rel=1e-6)


class InTurn(Group):
    """Workers of one process, each in a thread: `gather` and `all_reduce` wait for all of them."""

    def __init__(self, rank, count, barrier, given):
        super().__init__(rank, count)
        self.wait, self.given = barrier.wait, given

    def gather(self, values):
        self.given[self.rank] = values.clone()
        self.wait()
        everyone = torch.stack([self.given[rank] for rank in range(self.count)])
        self.wait()
        return everyone

    def all_reduce(self, values):
        return values.copy_(self.gather(values).sum(dim=0))


def test_running_statistics_equal_those_of_all_micro_batches_in_turn():
    """Two workers' passes differ in number, from update to update, and one norm is in eval mode now and then."""
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(5, 3, 2, 8, 4, generator=generator, dtype=torch.float64)  # update, worker, micro-batch, ...
    passes = torch.randint(0, 3, (5, 3), generator=generator)
    assert passes.unique().tolist() == [0, 1, 2]
    alone = nn.BatchNorm1d(4, momentum=0.3).double()
    alone(torch.randn(8, 4, generator=generator, dtype=torch.float64))
    norms = [copy.deepcopy(alone) for _ in range(3)]

    def see(norm, update, worker):
        for number, micro_batch in enumerate(batches[update, worker]):
            norm.train(number < int(passes[update, worker]))
            norm(micro_batch)

    def work(group, norm):
        shared = SharedNetwork(norm, group)
        for update in range(5):
            shared.before_update()
            see(norm, update, group.rank)
            shared.combine()

    barrier, given = threading.Barrier(3, timeout=60), {}
    groups = [InTurn(rank, 3, barrier, given) for rank in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, groups, norms))
    for update, worker in itertools.product(range(5), range(3)):
        see(alone, update, worker)
    for norm in norms:
        torch.testing.assert_close(norm.state_dict(), alone.state_dict())


def test_tensors_are_summed_in_few_messages(monkeypatch):
    """Two floats fit a message; one that is larger goes alone, and every kind of number goes by itself."""
    monkeypatch.setattr(workers_of_training, "MESSAGE_BYTES", 8)
    sent = []

    class Doubles(Group):
        def all_reduce(self, values):
            sent.append((values.dtype, values.tolist()))
            return values.mul_(2)

    floats = [torch.tensor([1.0]), torch.tensor(2.0), torch.tensor([[3.0], [4.0], [5.0]]), torch.tensor([6.0])]
    others = [torch.tensor([1 + 2j]), torch.tensor([7.0], dtype=torch.float64), torch.zeros(0)]
    Doubles(0, 2).sum_all([*floats, *others])
    assert sent == [
        (torch.float32, [1.0, 2.0]),
        (torch.float32, [3.0, 4.0, 5.0]),
        (torch.float32, [6.0]),
        (torch.float32, [1.0, 2.0]),
        (torch.float64, [7.0]),
    ]
    assert [tensor.flatten().tolist() for tensor in floats] == [[2.0], [4.0], [6.0, 8.0, 10.0], [12.0]]
    assert others[0].tolist() == [2 + 4j]


def test_the_clock_waits_for_the_slowest_worker(monkeypatch):
    now = [0.0]

    class Waits(Group):
        def barrier(self):
            now[0] += 5

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    run = Training(experiment(), datasets.load("digits"), group=Waits())
    assert run._pause(run._clock()) == 5
    assert run.running_time == 5


@pytest.mark.parametrize(
    ("fields", "group", "message"),
    [
        ({"batch_size": 25}, Group(0, 2), "batch_size is 25 but there are 2 workers; it must be a multiple"),
        ({"device": "cuda:0"}, Group(1, 2), "there are 1 GPUs here but more workers; use --nproc-per-node 1"),
        ({"device": "mps"}, Group(0, 2), "device is mps, which several workers cannot share; use --device cpu"),
    ],
)
def test_workers_that_cannot_share(monkeypatch, fields, group, message):
    monkeypatch.setattr(loop, "select_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=message):
        Training(experiment(**fields), datasets.load("digits"), group=group)


def test_cumulative_averages_cannot_be_shared():
    with pytest.raises(UserError, match="momentum=None, which several workers cannot share"):
        SharedNetwork(nn.BatchNorm1d(3, momentum=None), Group(0, 2))


def test_a_lost_connection_is_distinguished_from_other_errors():
    error = RuntimeError(
        "[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:57. This is"
    )
    assert is_lost(error)
    assert str(WorkerLost(error)).startswith("lost a worker (Connection closed by peer [127.0.0.1]:57); start again")
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    message = "the workers cannot exchange a message: RuntimeError: Invalid scalar type"
    with pytest.raises(UserError, match=message), Group(0, 2).communicating():
        raise RuntimeError("Invalid scalar type")


@pytest.mark.parametrize("say", [lambda ours: ours.broadcast(True), lambda ours: ours.barrier()])
def test_a_worker_lost_while_the_others_wait_is_reported_once(monkeypatch, capsys, say):
    """Between two epochs, where worker 0 would next announce its end."""
    ours = Group(0, 2)

    def gone(*arguments, **keywords):
        raise RuntimeError("Connection closed by peer")

    def command() -> int:
        with pytest.raises(WorkerLost) as error:
            say(ours)
        print(f"error: {error.value}", file=sys.stderr)
        return 3

    monkeypatch.setattr(torchrun, "under_torchrun", lambda: True)
    monkeypatch.setattr(torchrun, "group", lambda: ours)
    for name in ("broadcast_object_list", "all_reduce"):
        monkeypatch.setattr(torch.distributed, name, gone)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as exit:
        torchrun.lead(command)
    assert exit.value.code == 3
    assert capsys.readouterr().err.count("lost a worker") == 1


@pytest.mark.parametrize(("tasks", "code"), [([], 0), ([(experiment(), None, None, {})], 1)])
def test_worker_0_is_lost_between_two_trainings_or_within_one(monkeypatch, tasks, code):
    class Follower(Group):
        def broadcast(self, value):
            if not tasks:
                raise WorkerLost(RuntimeError("Connection closed by peer"))
            return tasks.pop()

    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    assert torchrun._follow(Follower(1, 2)) == code


def test_a_worker_with_other_data_trains_nothing(monkeypatch, capsys):
    data = provenance.data(datasets.load("digits")) | {"digest": "a" * 64}
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(Group, "broadcast", lambda group, value: (experiment(), None, None, {"data": data}))
    assert torchrun._follow(Group(1, 2)) == 2
    assert re.fullmatch(
        r"error: worker 1: worker 0 has other data \(digits has digest a{12} there but \w{12} now, with equal numbers "
        r"of images\); every worker needs the same\n",
        capsys.readouterr().err,
    )


# Variables of torchrun, left over in a shell

SET = {"TORCHELASTIC_RUN_ID": "7", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
SET["MASTER_PORT"] = "29513"


@pytest.fixture
def variables(monkeypatch):
    torchrun.group.cache_clear()
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    yield monkeypatch
    torchrun.group.cache_clear()


@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize("value", [None, ""])
def test_an_incomplete_set_is_a_left_over(variables, name, value):
    variables.setenv(name, value) if value is not None else variables.delenv(name)
    assert not torchrun.under_torchrun()
    assert torchrun.group().count == 1
    assert torchrun.lead(lambda: 5) == 5


def test_one_worker_trains_alone(variables):
    variables.setenv("WORLD_SIZE", "1")
    assert torchrun.under_torchrun()
    assert torchrun.lead(lambda: torchrun.group().count) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": "first"}, "RANK is 'first', which is not a whole number; "),
        ({"RANK": "-1"}, "RANK is '-1', which is not a whole number; "),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is '2.0', which is not a whole number; "),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', which is not a whole number; "),
        ({"MASTER_PORT": "ssh"}, "MASTER_PORT is 'ssh', which is not a whole number; "),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is 99999; it must be from 1 to 65535: "),
        ({"RANK": "2"}, "RANK is 2 but WORLD_SIZE is 2; ranks begin at 0 and are lower: "),
        ({"WORLD_SIZE": "0"}, "RANK is 0 but WORLD_SIZE is 0; ranks begin at 0 and are lower: "),
    ],
)
def test_variables_that_are_nonsense(variables, capsys, changed, message):
    variables.setattr(os, "_exit", sys.exit)
    for name, value in changed.items():
        variables.setenv(name, value)
    with pytest.raises(SystemExit) as exit:
        torchrun.lead(lambda: 0)
    assert exit.value.code == 2
    remedy = "if torchrun did not start this process, run `unset TORCHELASTIC_RUN_ID`, and it trains alone"
    assert capsys.readouterr().err == f"error: {message}{remedy}\n"


@pytest.mark.parametrize("changed", [{}, {"RANK": "1"}, {"TORCHELASTIC_USE_AGENT_STORE": "True"}])
def test_workers_that_never_come(variables, capfd, changed):
    """Worker 0 is the host of the others; worker 1, and all where torchrun itself is the host, find nobody there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_PORT": str(port), **changed}.items():
        variables.setenv(name, value)
    variables.setattr(torchrun, "NOTICE_SECONDS", 0.2)
    variables.setattr(torchrun, "JOIN_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"worker [01] of 2 has waited 0\.5 s for the others at 127\.0\.0\.1:\d+; if"):
        torchrun.group()
    said = capfd.readouterr().err
    assert said.startswith(f"worker {changed.get('RANK', 0)} of 2 waits for the others at 127.0.0.1:{port}; if torch")
    assert said.count("\n") == 1


# The whole program, started by torchrun

RUN = ["train", "--dataset", "digits", "--width", "0.25", "--batch-size", "24", "--decay", "none", "--device", "cpu"]


@contextlib.contextmanager
def started(count: int, *arguments: str, log: Path, **environment: str):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "-m", "batchscale", *arguments],
            cwd=PROJECT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ranks(process: subprocess.Popen) -> dict[int, int]:
    """Process id of every worker, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            variables = dict(part.split(b"=", 1) for part in path.read_bytes().split(b"\0") if b"=" in part)
            parent = int(Path(path.parent, "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"RANK" in variables:
                found[int(variables[b"RANK"])] = int(path.parent.name)
    return found


def until_saved(process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + 100
    while not list(folder.glob("*.csv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_killed_stopped_and_resumed_by_another_number_of_workers(tmp_path):
    """Two workers until one is killed, two until Ctrl-C, then one process: the result equals that of one process."""
    log, records = tmp_path / "log", tmp_path / "records"
    flags = [*RUN, "--data-dir", str(records), "--epochs", "8"]
    with started(2, *flags, log=log) as process:
        until_saved(process, records)
        os.kill(ranks(process)[1], signal.SIGKILL)
        assert process.wait(100) != 0
    said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "lost a worker (" in said[0]
    assert "start again" in said[0]
    before = len(load(records))
    assert 1 <= before < 8
    with started(2, *flags, log=log) as process:
        while len(load(records)) <= before:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(100) != 0
    assert "stopped; everything is saved: run again to continue" in log.read_text(), log.read_text()
    assert len(load(records)) < 8
    sidecar = json.loads((records / "baseline_small_bs24_seed0.json").read_text())
    assert sidecar["workers"] == 2
    assert sidecar["ghost_batch"] == [{"from_update": 0, "images": 12}]
    alone = [sys.executable, "-m", "batchscale", *flags]
    subprocess.run(alone, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    rows = load(records)
    assert len(rows) == 8
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = Training(experiment(epochs=8, micro_batch_size=12), datasets.load("digits"))
    for (_, ours), theirs in zip(rows.iterrows(), expected.epochs(), strict=True):
        assert ours["accuracy"] == pytest.approx(theirs.accuracy, abs=2 / 297)
        assert ours["test_loss"] == pytest.approx(theirs.test_loss, rel=0.02)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_refused_in_one_line(tmp_path):
    log = tmp_path / "log"
    with started(2, *RUN[:-4], "--batch-size", "25", "--data-dir", str(tmp_path), log=log) as process:
        assert process.wait(100) != 0
    assert [line for line in log.read_text().splitlines() if line.startswith("error:")] == [
        "error: baseline_small B=25 seed 0: batch_size is 25 but there are 2 workers; it must be a multiple of "
        "their number"
    ]
