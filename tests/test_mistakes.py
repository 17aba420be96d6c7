"""Weights that are kept, and what the networks get wrong."""

import os
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from batchscale import sweeps
from batchscale.analysis import plots
from batchscale.errors import UserError
from batchscale.records import Study
from batchscale.records.record import Record
from batchscale.training import datasets

TINY = {"dataset": "digits", "width": 0.1, "train_size": 300, "epochs": 2, "warmup_epochs": 1, "base_lr": 0.01}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    runs = [*sweeps.grid("baseline_small", 8, 0, **TINY), *sweeps.grid("scaled_lr", [32, 64], 0, **TINY)]
    sweeps.run(runs, data_dir=folder, keep_weights=True)
    return folder, runs


def test_predictions_have_the_recorded_accuracy(kept):
    """Of the smallest and the largest minibatch: the weights are those of the last row."""
    folder, runs = kept
    found = sweeps.mistakes(Study.load(folder), folder)
    data = datasets.load("digits")
    assert [run.batch_size for run in found.runs] == [8, 64]
    assert np.array_equal(found.labels, data.test_labels.numpy())
    assert found.images.shape == (297, 32, 32, 3)
    for run, predicted in zip((runs[0], runs[2]), (found.small, found.large), strict=True):
        assert np.mean(predicted == found.labels) == pytest.approx(Record(run, folder).rows[-1].accuracy, abs=1e-9)
    assert np.mean(found.small == found.large) < 1


def test_weights_are_small_and_plain(kept):
    folder, runs = kept
    path = Record(runs[0], folder).weights
    state = torch.load(path, weights_only=True)
    parameters = sum(value.numel() for value in state.values())
    assert 4 * parameters <= path.stat().st_size < 4 * parameters + 30_000


def test_nothing_is_kept_unless_asked_for(tmp_path):
    runs = sweeps.grid("baseline_small", [8, 16], 0, **TINY | {"epochs": 1})
    sweeps.run(runs, data_dir=tmp_path)
    assert not list(tmp_path.glob("*.pt"))
    assert sweeps.mistakes(Study.load(tmp_path), tmp_path) is None


def test_weights_follow_the_record(tmp_path):
    """More epochs replace them, also if nobody asks again; the files go where the others go."""
    (run,) = sweeps.grid("baseline_small", 64, 0, **TINY)
    scratch = tmp_path / "scratch"
    sweeps.run([run], data_dir=tmp_path / "data", scratch_dir=scratch, keep_weights=True, keep_state=True)
    record = Record(run, tmp_path / "data")
    assert record.weights in record.files
    before = record.weights.read_bytes()
    assert not list(scratch.glob("*.pt"))
    sweeps.run([replace(run, epochs=3)], data_dir=tmp_path / "data")
    assert record.weights.read_bytes() != before
    state = torch.load(record.weights, weights_only=True)
    final = torch.load(record.final, weights_only=True)["state"]["model"]
    assert all(torch.equal(state[name], final[name]) for name in final)


def test_weights_of_another_network_are_refused(kept, tmp_path):
    folder, runs = kept
    for path in folder.iterdir():
        if path.is_file():
            os.link(path, tmp_path / path.name)
    weights = Record(runs[0], tmp_path).weights
    weights.unlink()
    torch.save({"weight": torch.ones(3)}, weights)
    with pytest.raises(UserError, match="does not fit the network"):
        sweeps.mistakes(Study.load(tmp_path), tmp_path)


def test_without_images(kept, tmp_path, monkeypatch):
    folder, _ = kept
    monkeypatch.setattr(datasets, "is_available", lambda name, root: False)
    assert sweeps.mistakes(Study.load(folder), folder) is None


def test_the_figure_shows_what_only_one_gets_wrong():
    """Three classes, six images: the small one is wrong at 1 and 2, the large one at 2, 3 and 4."""
    labels = np.array([0, 1, 2, 0, 1, 2])
    small, large = np.array([0, 2, 0, 0, 1, 2]), np.array([0, 1, 1, 2, 0, 2])
    runs = [SimpleNamespace(batch_size=size) for size in (8, 64)]
    images, classes = np.zeros((6, 4, 4, 3), dtype=np.uint8), ("cat", "dog", "ship")
    found = SimpleNamespace(images=images, labels=labels, small=small, large=large, classes=classes, runs=runs)
    figure = plots.mistakes(found, columns=2)
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["only B = 8 wrong\n1 of 6", "only B = 64 wrong\n2 of 6"]
    assert [ax.get_title() for ax in figure.axes] == ["dog\n→ ship", "", "cat\n→ ship", "dog\n→ cat"]
    assert [len(ax.images) for ax in figure.axes] == [1, 0, 1, 1]
    plt.close(figure)
