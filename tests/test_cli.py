"""The command line: quick help, one line of error, exit codes, the rule that belongs to a name."""

import subprocess
import sys

import pytest
from conftest import PROJECT

from batchscale import cli
from batchscale.records import load

TINY = ["--dataset", "digits", "--width", "0.1", "--train-size", "256", "--epochs", "2"]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "batchscale", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [[], ["train"], ["sweep"], ["study"], ["analyse"]])
def test_help_needs_no_torch(command):
    """That is what makes it quick; the time itself is measured in benchmarks."""
    code = (
        "import sys\nfrom batchscale.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "usage: python -m batchscale" in shown.stdout


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


def commanded(*arguments) -> list:
    """The experiments that a command would run."""
    command = cli._parse(list(arguments))
    ran = []
    object.__setattr__(command, "run", lambda experiments, workers=1: ran.extend(experiments))
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
        (["train", "--batch-size", "8", "--dataset", "digits", "--model", "models:RNN"], "models has no RNN"),
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
