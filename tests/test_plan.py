"""What a notebook shows before it trains: the network's layers, the plan, and the training step."""

import re
import sys
from dataclasses import replace

import pytest
import torch
from test_notebooks import cells, read
from torch import nn

from batchscale import sweeps
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.sweeps import notebooks
from batchscale.training import datasets, throughput
from batchscale.training.layers import layers
from batchscale.training.loop import Training
from batchscale.training.throughput import Speed, Throughput

TINY = {"dataset": "digits", "width": 0.1, "train_size": 200, "epochs": 2, "warmup_epochs": 1}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


# The network ----------------------------------------------------------------------------------------------------------


def test_the_studys_network(digits):
    """Weights and biases of 3×3 convolutions and linear layers; batch norm has two per channel."""
    table = layers(Experiment(batch_size=8, width=1.0), digits)
    expected = [
        ("Conv2d, BatchNorm2d, ReLU", "32 × 32 × 32", 3 * 32 * 9 + 32 + 64),
        ("Conv2d, ReLU, MaxPool2d", "64 × 16 × 16", 32 * 64 * 9 + 64),
        ("Conv2d, BatchNorm2d, ReLU", "128 × 16 × 16", 64 * 128 * 9 + 128 + 256),
        ("Conv2d, ReLU, MaxPool2d, Dropout2d", "128 × 8 × 8", 128 * 128 * 9 + 128),
        ("Conv2d, BatchNorm2d, ReLU", "256 × 8 × 8", 128 * 256 * 9 + 256 + 512),
        ("Conv2d, ReLU, MaxPool2d, Flatten, Dropout", "4096", 256 * 256 * 9 + 256),
        ("Linear, ReLU", "1024", 4096 * 1024 + 1024),
        ("Linear, ReLU, Dropout", "512", 1024 * 512 + 512),
        ("Linear", "10", 512 * 10 + 10),
    ]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert table["parameters"].sum() == 5_852_170


def test_without_images_the_shapes_are_those_of_cifar10(digits):
    of = Experiment(batch_size=8)
    assert layers(of, datasets.blank("cifar10")).equals(layers(of, digits))  # both 32×32×3, ten classes
    assert datasets.blank("digits") is digits


def test_what_is_shared_or_belongs_to_no_layer_is_counted_once(digits):
    table = layers(Experiment(batch_size=8, model="networks:Shares", width=1.0), digits)
    assert list(table.itertuples(index=False, name=None)) == [
        ("Linear", "10", 3 * 32 * 32 * 10 + 10),
        ("Linear, Tanh, Linear", "10", 110),
        ("other parameters", "", 10),
    ]


# The plan -------------------------------------------------------------------------------------------------------------


def timed(monkeypatch, seconds=((1, 0.01), (64, 0.64)), evaluation=5.0) -> list:
    asked = []

    def measure(experiment, data, *, seconds, largest):
        asked.append((largest, torch.get_num_threads()))
        return Throughput("cpu", tuple(Speed(*pair, 0.0, 0) for pair in known), 64, "images", evaluation)

    known = seconds
    monkeypatch.setattr(throughput, "measure", measure)
    return asked


def test_the_plan_by_hand(tmp_path, monkeypatch):
    """10 ms per image, of 200, and 5 s after an epoch: 7 s per epoch at 8, and 192 images at 64 and 5 s."""
    asked = timed(monkeypatch)
    runs = sweeps.grid("scaled_lr", [64, 16], [0, 1], **TINY, reference_batch_size=8)
    sweeps.run(runs[:1], data_dir=tmp_path)
    table = sweeps.plan(runs, data_dir=tmp_path)
    assert table.index.tolist() == [64, 16, "all"]
    assert table["k"].tolist() == ["8", "2", ""]
    assert table["learning rate"].tolist() == ["0.016", "0.004", ""]
    assert table["updates per epoch"].tolist() == ["3", "12", ""]
    assert table["recorded"].tolist() == ["2 of 4 epochs", "0 of 4 epochs", "2 of 8 epochs"]
    epoch = {64: 3 * 0.64 + 5, 16: 12 * 0.16 + 5}
    wanted = [2 * epoch[64], 4 * epoch[16], 2 * epoch[64] + 4 * epoch[16]]
    assert table["time left"].tolist() == [f"{seconds:.0f} s" for seconds in wanted]
    assert asked == [(64, torch.get_num_threads())]


def test_workers_share_the_cores_and_the_time(tmp_path, monkeypatch):
    asked = timed(monkeypatch)
    monkeypatch.setattr(sys.modules["batchscale.sweeps.plan"], "cores", lambda: 6)
    runs = sweeps.grid("scaled_lr", [16, 32], [0], **TINY)
    threads = torch.get_num_threads()
    table = sweeps.plan(runs, data_dir=tmp_path, workers=2)
    assert asked == [(32, 3)]
    assert torch.get_num_threads() == threads
    longest = 2 * (12 * 0.16 + 5), 2 * (6 * 0.32 + 5)
    assert table["time left"].tolist() == [f"{longest[0]:.0f} s", f"{longest[1]:.0f} s", f"{max(longest):.0f} s"]


def test_what_diverged_is_not_left_and_nothing_is_timed_without_need(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "measure", None)
    (run,) = sweeps.grid("scaled_lr", [16], [0], **TINY | {"train_size": 64, "base_lr": 1e12})
    sweeps.run([run], data_dir=tmp_path)
    assert Record(run, tmp_path).status == "diverged"
    table = sweeps.plan([run], data_dir=tmp_path)
    assert table["recorded"].tolist()[0].endswith("of 2 epochs, 1 run diverged")
    assert table["time left"].tolist() == ["0 s", "0 s"]


def test_up_to_the_reference_the_reference_is_what_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "measure", None)
    sweeps.run(sweeps.grid("baseline_small", [8], [0], **TINY), data_dir=tmp_path)
    table = sweeps.plan(sweeps.grid("scaled_lr", [8], [0], **TINY), data_dir=tmp_path)
    assert table["recorded"].tolist() == ["2 of 2 epochs", "2 of 2 epochs"]


def test_fewer_epochs_than_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "measure", None)
    (run,) = sweeps.grid("scaled_lr", [64], [0], **TINY)
    sweeps.run([run], data_dir=tmp_path)
    assert sweeps.plan([replace(run, epochs=1)], data_dir=tmp_path)["recorded"].tolist() == ["1 of 1 epochs"] * 2


def test_a_record_of_another_experiment_is_refused(tmp_path):
    (run,) = sweeps.grid("scaled_lr", [64], [0], **TINY)
    sweeps.run([run], data_dir=tmp_path)
    with pytest.raises(UserError, match="base_lr"):
        sweeps.plan([replace(run, base_lr=0.1)], data_dir=tmp_path)


# The training step ----------------------------------------------------------------------------------------------------


class InDouble(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.Tanh(), nn.Linear(16, 10))
        self.double()

    def forward(self, images):
        return super().forward(images.double())


@pytest.mark.parametrize("name", notebooks.TRAINING)
def test_the_step_that_is_shown_is_the_one_that_trains(name, digits):
    (shown,) = re.findall(r"```python\n(.*?)```", cells(read(name))["step"].source, re.DOTALL)
    scope = {"torch": torch}
    exec(shown, scope)
    of = Experiment(batch_size=32, lr_scaling="linear", warmup="gradual", decay="linear", **TINY | {"epochs": 3})
    torch.manual_seed(0)
    run, plain = Training(of, digits, model=InDouble()), InDouble()
    plain.load_state_dict(run.model.state_dict())
    parts = [part for epoch in (1, 2, 3) for part in run.order(epoch).split(32) if len(part) == 32]
    minibatches = [run.data.batch(part) for part in parts]
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9)
    scope["train"](plain, optimizer, minibatches, lambda update: of.learning_rate(update, 200 // 32))
    assert len(list(run.epochs())) == 3
    for ours, theirs in zip(run.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
