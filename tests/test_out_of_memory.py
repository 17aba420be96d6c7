"""A device without room: exact micro-batches, reported and recorded, or an error that names the size that fits."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import PROJECT
from networks import NeedsMemory
from test_kills import TIMES, lines

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.records.tables import load
from batchscale.sweeps import sweep
from batchscale.training import datasets
from batchscale.training.loop import Training
from batchscale.training.memory import OutOfMemory, largest_that_fits

TINY = {"dataset": "digits", "train_size": 640, "epochs": 3, "width": 1.0}


def needy(**fields) -> Experiment:
    return Experiment(**{"batch_size": 128, "model": NeedsMemory, **TINY, **fields})


MEASURE_NOISE_SCALE = Training.measure_noise_scale


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Room for 100 images in training unless a test changes it; `seen` excludes noise-scale measurements."""
    monkeypatch.setattr(NeedsMemory, "seen", [])
    monkeypatch.setattr(Training, "measure_noise_scale", lambda self: None)
    return lambda **fields: [monkeypatch.setattr(NeedsMemory, name, value) for name, value in fields.items()]


def sidecar(folder) -> dict:
    return json.loads(next(folder.glob("*.json")).read_text())


def test_split_equals_the_run_with_that_micro_batch_size(tmp_path, capsys):
    sweep.run([needy()], data_dir=tmp_path / "split")
    said = capsys.readouterr().out
    assert set(NeedsMemory.seen) == {64}
    assert (
        "B=128 seed 0: no room for 128 images at once in training (CUDA out of memory. Tried to allocate 2.00 GiB.): "
        "continuing from the last save with at most 64 images at once, "
        "and batch norm sees each micro-batch separately\n"
    ) in said
    sweep.run([needy(micro_batch_size=64)], data_dir=tmp_path / "asked")
    assert lines(tmp_path / "split") == lines(tmp_path / "asked")
    assert sidecar(tmp_path / "split")["ghost_batch"] == [{"from_update": 0, "images": 64}]
    assert sidecar(tmp_path / "split")["experiment"]["micro_batch_size"] is None
    assert sidecar(tmp_path / "asked")["ghost_batch"] == [{"from_update": 0, "images": 64}]


def test_split_again_into_parts_as_equal_as_possible(tmp_path, device, capsys):
    device(train_room=40)
    sweep.run([needy(batch_size=125)], data_dir=tmp_path)  # three parts of at most 42, then of at most 21
    assert NeedsMemory.seen[:6] == [21, 21, 21, 21, 21, 20]
    assert capsys.readouterr().out.count("no room for") == 2


def test_within_a_run_it_continues_from_the_last_save(tmp_path, device):
    device(updates_with_room=7)  # five updates an epoch
    sweep.run([needy()], data_dir=tmp_path)
    assert Record(needy(), tmp_path).status == "complete"
    assert sidecar(tmp_path)["ghost_batch"] == [{"from_update": 0, "images": 128}, {"from_update": 5, "images": 64}]
    assert NeedsMemory.seen == [128] * 7 + [64] * 20


def test_split_persists_when_the_run_is_resumed(tmp_path, device):
    run = Training(needy(), datasets.load("digits"))
    run.limit({"training": 64})
    epochs = run.epochs()
    next(epochs)
    device(train_room=10_000)  # on a larger device
    resumed = Training(needy(), datasets.load("digits"))
    resumed.load_state_dict(run.state_dict())
    list(resumed.epochs())
    assert set(NeedsMemory.seen) == {64}


def test_evaluation_uses_smaller_batches_and_training_does_not(tmp_path, device, capsys):
    sweep.run([needy(batch_size=64)], data_dir=tmp_path / "whole")
    device(eval_room=130)
    sweep.run([needy(batch_size=64)], data_dir=tmp_path / "parts", on_out_of_memory="stop")
    said = capsys.readouterr().out
    assert "no room for 250 images at once in evaluation" in said
    assert "at most 125 images at once\n" in said
    assert set(NeedsMemory.seen) == {64}
    tables = [load(tmp_path / name).drop(columns=[column.decode() for column in TIMES]) for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    assert (tables[0]["accuracy"] == tables[1]["accuracy"]).all()


def test_stop_names_the_largest_batch_that_fits_and_the_sweep_continues(tmp_path):
    experiments = [needy(), needy(batch_size=32)]
    with pytest.raises(UserError) as stopped:
        sweep.run(experiments, data_dir=tmp_path, on_out_of_memory="stop")
    assert "the device has no room for 128 images at once in training (CUDA out of" in str(stopped.value)
    largest = int(re.search(r"the largest batch that fits is (\d+): use", str(stopped.value))[1])
    assert 96 < largest <= 100
    assert Record(experiments[1], tmp_path).finished
    assert not Record(experiments[0], tmp_path).rows


@pytest.mark.parametrize("room", [0, 1, 99, 500, 767, 799])
def test_largest_that_fits_is_found_to_within_1_in_32(room):
    def attempt(images):
        assert 0 < images < 800
        if images > room:
            raise MemoryError

    found = largest_that_fits(attempt, 800)
    assert found <= room <= found + max(1, (found + 1) // 31)
    assert largest_that_fits(attempt, 1) == 0


def test_other_errors_end_the_search():
    def attempt(images):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        largest_that_fits(attempt, 800)


def test_not_even_one_image(tmp_path, device):
    device(train_room=0)
    with pytest.raises(UserError, match="has no room for 1 images at once"):
        sweep.run([needy()], data_dir=tmp_path)


@pytest.mark.parametrize(("room", "seen"), [(100, [8] * 10), (7, [4] * 20), (2, [2] * 40), (1, [])])
def test_noise_scale_from_more_and_smaller_micro_batches(device, room, seen):
    """The number of images stays the same. A single image has no variance for batch norm, so None is returned."""
    device(train_room=room)
    training = Training(needy(), datasets.load("digits"))
    found = MEASURE_NOISE_SCALE(training)
    assert NeedsMemory.seen == seen
    assert (found is not None) == bool(seen)
    if seen:
        assert (found.small_batch_size, found.big_batch_size) == (seen[0], 80)


def test_noise_scale_of_a_network_that_fails(device):
    device(train_room=7, error=RuntimeError("shapes do not match"))
    with pytest.raises(UserError, match="failed in noise-scale measurement, after update 0: RuntimeError: shapes"):
        MEASURE_NOISE_SCALE(Training(needy(), datasets.load("digits")))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 17179869184 bytes."),  # Windows
        RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
    ids=str,
)
def test_messages_of_other_libraries(device, error):
    device(error=error)
    with pytest.raises(OutOfMemory, match="no room for 128 images at once"):
        next(Training(needy(), datasets.load("digits")).epochs())


def test_other_errors_are_not_mistaken_for_it(device):
    device(error=RuntimeError("shapes do not match"))
    with pytest.raises(UserError, match="failed in training, after update 0: RuntimeError: shapes do not match"):
        next(Training(needy(), datasets.load("digits")).epochs())


def test_choice_is_one_of_two(tmp_path):
    with pytest.raises(UserError, match="on_out_of_memory is 'hope'; it must be split or stop"):
        sweep.run([needy()], data_dir=tmp_path, on_out_of_memory="hope")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space that the system keeps")
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="torch 2.4, 2.6 and 2.11 crash in a convolution's backward pass when memory runs out; 2.14 raises an error",
)
def test_real_shortage_on_the_cpu(tmp_path):
    """The allocator itself fails, somewhere in a forward or backward pass of the study's network."""
    code = f"""
import re, resource, sys
from batchscale import cli
train = ["train", "--dataset", "digits", "--width", "0.25", "--train-size", "1024", "--epochs", "1", "--data-dir"]
cli.main([*train, {str(tmp_path / "first")!r}, "--batch-size", "8"])  # all libraries loaded
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
sys.exit(cli.main([*train, {str(tmp_path / "second")!r}, "--batch-size", "1024"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no room for 1024 images at once" in done.stdout
    assert sidecar(tmp_path / "second")["ghost_batch"][0]["images"] <= 512
