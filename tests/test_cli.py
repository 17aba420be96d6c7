"""The command line: quick help, one line of error, exit codes, the rule that belongs to a name."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import PROJECT

from batchscale import cli
from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.records.tables import load
from batchscale.training import datasets
from batchscale.training.loop import Training

TINY = ["--dataset", "digits", "--width", "0.1", "--train-size", "256", "--epochs", "2"]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "batchscale", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [[], ["train"], ["sweep"], ["study"], ["analyse"], ["project"], ["noise-scale"]])
def test_help_needs_no_torch(command):
    """That is what makes it quick; the time itself is measured in benchmarks."""
    code = (
        "import sys\nfrom batchscale.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    assert not {'torch', 'pandas', 'matplotlib', 'ray'} & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "usage: python -m batchscale" in shown.stdout


def test_no_flag_has_its_help_broken_into_lines():
    """tyro keeps the line breaks of a docstring, so that one of two lines would be cut in the middle of a sentence."""
    for command in (cli.Train, cli.Sweep, cli.Study, cli.Analyse, cli.Project, cli.NoiseScale):
        for owner in command.__mro__[:-1]:
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner)))):
                if isinstance(node, ast.ClassDef):
                    texts = [inner.value.value for inner in node.body[1:] if isinstance(inner, ast.Expr)]
                    assert not [text for text in texts if "\n" in text], owner


def test_contracted_flags_of_train():
    shown = run("train", "--help").stdout
    contract = """name batch-size seed epochs base-lr reference-batch-size lr-scaling warmup warmup-epochs momentum
        weight-decay dataset train-size model width micro-batch-size precision device data-dir data-root"""
    assert [flag for flag in contract.split() if f"--{flag} " not in shown] == []


def test_trains_once(tmp_path):
    command = ["train", "--batch-size", "64", "--data-dir", str(tmp_path), *TINY]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert "baseline_small B=64 seed 0: complete, 2 epochs, accuracy" in first.stdout
    assert "epoch 2/2: accuracy" in first.stderr  # no terminal: a line an epoch
    second = run(*command)
    assert second.returncode == 0
    assert second.stdout == "1 of 1 recorded already\n"
    assert second.stderr == ""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a run stopped after an epoch, and the record that it left."""
    folder = tmp_path_factory.mktemp("unfinished")
    experiment = Experiment(batch_size=64, dataset="digits", width=0.25, train_size=640, epochs=3, precision="bf16")
    training, kept = Training(experiment, datasets.load("digits")), Record(experiment, folder)
    kept.start()
    record = next(training.epochs())
    kept.add(record, training.state_dict())
    torch.save(training.model.state_dict(), folder / "weights.pt")
    return kept.checkpoint, record


def noise_scale(capsys, *arguments) -> dict:
    assert cli.main(["noise-scale", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_noise_scale_of_a_checkpoint_is_the_recorded_one(checkpoint, capsys):
    path, record = checkpoint
    found = noise_scale(capsys, path)
    # With blocks the same sums are added in another order.
    assert found["noise_scale"] == pytest.approx(record.noise_scale, rel=1e-5)
    assert found["noise_scale"] == found["trace_covariance"] / found["squared_gradient_norm"]
    assert (found["updates"], found["big_batch_size"]) == (10, 80)
    precise = noise_scale(capsys, path, "--images", 640)
    assert precise["big_batch_size"] == 640
    assert precise["standard_error"] < found["standard_error"] / 2


def test_noise_scale_in_words(checkpoint, capsys):
    assert cli.main(["noise-scale", str(checkpoint[0])]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"gradient noise scale: {checkpoint[1].noise_scale:.1f} ± ")
    assert said.endswith("from 10 micro-batches of 8 images\n")


def test_noise_scale_of_weights_alone(checkpoint, capsys):
    """Their first epoch's images, as nobody knows how they were trained."""
    path, _ = checkpoint
    found = noise_scale(capsys, path.with_name("weights.pt"), "--dataset", "digits", "--width", "0.25")
    assert found["updates"] == 0
    training = Training(Experiment(batch_size=1, dataset="digits", width=0.25), datasets.load("digits"))
    training.model.load_state_dict(torch.load(path.with_name("weights.pt"), weights_only=True))
    assert found["noise_scale"] == pytest.approx(training.measure_noise_scale().noise_scale, rel=1e-5)


def commanded(*arguments) -> list:
    """The experiments that a command would run."""
    command = cli._parse(list(arguments))
    ran = []
    object.__setattr__(command, "run", lambda experiments, **how: ran.extend(experiments))
    command()
    return ran


def test_the_rule_follows_from_the_name_unless_it_is_given():
    (run_of,) = commanded("train", "--name", "gradual_warmup_scaled_lr", "--batch-size", "64")
    assert (run_of.lr_scaling, run_of.warmup) == ("linear", "gradual")
    (run_of,) = commanded("train", "--name", "scaled_lr", "--batch-size", "64", "--lr-scaling", "sqrt")
    assert (run_of.lr_scaling, run_of.warmup) == ("sqrt", "none")
    (run_of,) = commanded("train", "--name", "mine", "--batch-size", "64")
    assert (run_of.lr_scaling, run_of.warmup) == ("none", "none")


def test_sweep_is_the_study():
    runs = commanded("sweep", "--small", "2", "4", "--large", "128", "--seeds", "0", "1", "--epochs", "7")
    assert [(run.name, run.batch_size, run.seed) for run in runs[:5]] == [
        ("baseline_small", 2, 0),
        ("baseline_small", 4, 0),
        ("baseline_large", 128, 0),
        ("scaled_lr", 128, 0),
        ("gradual_warmup_scaled_lr", 128, 0),
    ]
    assert len(runs) == 10
    assert {run.epochs for run in runs} == {7}
    assert runs[4].warmup == "gradual"


def test_shards_of_a_sweep_are_the_sweep():
    sweep = ["sweep", "--small", "2", "4", "--large", "128", "--seeds", "0", "1"]
    shards = [commanded(*sweep, "--shard", f"{i}/3", "--workers", "2") for i in (1, 2, 3)]
    assert [len(part) for part in shards] == [4, 3, 3]
    assert {run for part in shards for run in part} == set(commanded(*sweep))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {train, sweep, study"),
        (["fly"], "Unrecognized options: fly"),
        (["train"], "--batch-size"),
        (["train", "--batch-size", "abc"], "Error parsing --batch-size"),
        (["train", "--batch-size", "2.5"], "Error parsing --batch-size"),
        (["train", "--batch-size", "0"], "batch_size is 0; it must be a whole number of at least 1"),
        (["train", "--batch-size", "8", "--warmup", "slow"], "invalid choice 'slow'"),
        (["train", "--batch-size", "8", "--bose-lr", "1"], "--bose-lr"),
        (["train", "--batch-size", "8", "--base-lr", "nan"], "base_lr is nan"),
        (["train", "--batch-size", "8", "--dataset", "imagenet"], "dataset is 'imagenet'"),
        (["train", "--batch-size", "8", "--dataset", "digits", "--model", "models:RNN"], "models.py has no RNN"),
        (["train", "--batch-size", "8", "--dataset", "digits", "--device", "gpu"], "device is 'gpu'"),
        (["train", "--batch-size", "1501", "--dataset", "digits"], "an epoch would have no update"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    where = ["--data-dir", str(tmp_path)] if arguments and arguments[0] == "train" else []
    assert cli.main([*arguments, *where]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_same_numbers_from_a_study_name(tmp_path):
    """A run is what its settings are, not what it is called."""
    sizes = ["--small", "64", "--large", "64"]
    assert cli.main(["sweep", *sizes, "--data-dir", str(tmp_path), *TINY]) == 0
    table = load(tmp_path).pivot_table("test_loss", "epoch", "experiment")
    assert (table["baseline_small"] == table["baseline_large"]).all()
    assert (table["scaled_lr"] != table["baseline_large"]).any()
