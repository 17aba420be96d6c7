"""Updates replayed from a CUDA graph, through a stand-in for torch's: without a GPU, and nothing is said of one."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch
from test_training import TIMES

from batchscale import cuda_graph, datasets
from batchscale.experiment import Experiment
from batchscale.training import Training

FIELDS = {"dataset": "digits", "batch_size": 32, "train_size": 320, "width": 0.25, "epochs": 2, "device": "cpu"}
RUN = Experiment(lr_scaling="linear", warmup="gradual", warmup_epochs=1.5, **FIELDS)


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    """What runs while it is recorded leaves no trace, and runs when it is replayed, on the tensors of that time."""

    recording: "Graph | None" = None

    def __init__(self):
        self.step, self.replays = None, 0

    def replay(self):
        self.replays += 1
        self.step()


@pytest.fixture
def graphs(monkeypatch):
    made = []

    @contextlib.contextmanager
    def record(graph):
        made.append(graph)
        Graph.recording = graph
        yield
        Graph.recording = None

    def step(self, indices, original=Training._step):
        if Graph.recording is None:
            return original(self, indices)
        Graph.recording.step = lambda: original(self, indices)

    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr(cuda_graph, "is_wanted", lambda device, batch_size: True)
    for name, fake in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": record,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def eager(digits):
    run = Training(RUN, digits)
    return run, [replace(record, **TIMES) for record in run.records()]


def assert_equal(run: Training, rows: list, eager) -> None:
    """To rounding: the learning rate of a graph is a float32."""
    for ours, theirs in zip(run.model.state_dict().values(), eager[0].model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert [row.updates for row in rows] == [row.updates for row in eager[1]]
    assert [row.learning_rate for row in rows] == [row.learning_rate for row in eager[1]]
    assert [row.train_loss for row in rows] == pytest.approx([row.train_loss for row in eager[1]], rel=1e-4)


def test_equals_the_run_without_a_graph(graphs, digits, eager):
    run = Training(RUN, digits)
    rows = list(run.records())
    assert_equal(run, rows, eager)
    assert [graph.replays for graph in graphs] == [20 - cuda_graph.WARM_UP_UPDATES]
    # A graph reads the rate of each update from the same place.
    assert run.optimizer.param_groups[0]["lr"] is run._learning_rate
    assert run._learning_rate.item() == pytest.approx(rows[-1].learning_rate)


def test_goes_on_from_a_state_with_a_graph_of_its_own(graphs, digits, eager):
    first = Training(RUN, digits)
    records = first.records()
    rows = [next(records)]
    state = copy.deepcopy(first.state_dict())
    resumed = Training(RUN, digits)
    resumed.load_state_dict(state)
    rows += list(resumed.records())
    assert_equal(resumed, rows, eager)
    assert [graph.replays for graph in graphs] == [7, 7]


def test_a_state_loaded_into_a_run_that_has_a_graph(graphs, digits, eager):
    run = Training(RUN, digits)
    records = run.records()
    rows = [next(records)]
    state = copy.deepcopy(run.state_dict())
    next(records)
    run.load_state_dict(state)
    rows += list(run.records())
    assert_equal(run, rows, eager)
    assert [graph.replays for graph in graphs] == [17, 7]


@pytest.mark.parametrize("fields", [{"precision": "fp16"}, {"micro_batch_size": 16}])
def test_what_decides_in_python_is_not_recorded(graphs, digits, fields):
    run = Training(replace(RUN, epochs=2, train_size=128, **fields), digits)
    assert len(list(run.records())) == 2
    assert graphs == []


def test_split_by_memory_after_it_was_recorded(graphs, digits):
    run = Training(RUN, digits)
    records = run.records()
    next(records)
    run.limit({"training": 16})
    next(records)
    assert [graph.replays for graph in graphs] == [7]


@pytest.mark.parametrize(
    ("wanted", "device", "batch_size", "expected"),
    [("1", "cuda", 256, True), ("1", "cuda", 257, False), ("1", "cpu", 8, False), (None, "cuda", 8, False)],
)
def test_only_where_it_is_asked_for(monkeypatch, wanted, device, batch_size, expected):
    monkeypatch.delenv("BATCHSCALE_CUDA_GRAPH", raising=False)
    if wanted:
        monkeypatch.setenv("BATCHSCALE_CUDA_GRAPH", wanted)
    assert cuda_graph.is_wanted(torch.device(device), batch_size) == expected
