"""The command line: quick help, one line of error, exit codes, the rule that belongs to a name."""

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import pandas as pd
import pytest
import synthetic
import torch
from conftest import PROJECT

from batchscale import cli
from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.records.tables import load
from batchscale.sweeps import notebooks
from batchscale.training import datasets
from batchscale.training.loop import Training

TINY = ["--dataset", "digits", "--width", "0.1", "--train-size", "256", "--epochs", "2"]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "batchscale", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sweep"], ["study"], ["analyse"], ["project"], ["import"], ["noise-scale"]]
)
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
    for command in (cli.Train, cli.Sweep, cli.Study, cli.Analyse, cli.Explore, cli.Project, cli.Import, cli.NoiseScale):
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


def test_contracted_flags_of_analyse():
    shown = run("analyse", "--help").stdout
    contract = "reference threshold tolerance target final-epochs compare where json"
    assert [flag for flag in contract.split() if not re.search(rf"--{flag}\b", shown)] == []


@pytest.mark.slow
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


def test_study_hands_on_what_is_given(monkeypatch):
    given = []
    monkeypatch.setattr(notebooks, "execute", lambda out, parameters, **sizes: given.append((out, parameters, sizes)))
    monkeypatch.setattr(cli.Analyse, "__call__", lambda self: given.append(self.data_dir))
    assert cli.main(["study", "--out", "runs/a"]) == 0
    assert given.pop() == "runs/a"  # whose verdicts are printed
    assert given.pop() == ("runs/a", {}, {"small": None, "large": None})
    settings = """--dataset digits --train-size 256 --width 0.5 --seeds 0 1 --epochs 3 --optimizer adamw --momentum 0.8
        --weight-decay 0.1 --augment flip --base-lr 0.01 --reference-batch-size 4 --warmup-epochs 1 --decay cosine
        --workers 2"""
    assert cli.main(["study", "--out", "runs/a", "--small", "4", "--large", "8", "16", *settings.split()]) == 0
    assert given.pop() == "runs/a"
    parameters = {
        **{"dataset": "digits", "train_size": 256, "width": 0.5, "seeds": [0, 1], "epochs": 3},
        **{"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "augment": "flip"},
        **{"base_lr": 0.01, "reference_batch_size": 4, "warmup_epochs": 1, "decay": "cosine", "workers": 2},
    }
    assert given.pop() == ("runs/a", parameters, {"small": (4,), "large": (8, 16)})


def test_study_of_another_network_has_its_width(monkeypatch):
    """The notebooks' width is that of the study's network."""
    given = []
    monkeypatch.setattr(notebooks, "execute", lambda out, parameters, **sizes: given.append(parameters))
    monkeypatch.setattr(cli.Analyse, "__call__", lambda self: None)
    assert cli.main(["study", "--out", "a", "--model", "networks:Net"]) == 0
    assert cli.main(["study", "--out", "a", "--model", "networks:Net", "--width", "2"]) == 0
    assert given == [{"model": "networks:Net", "width": width} for width in (None, 2)]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        (
            "OPTIMIZER=adamw MOMENTUM=0 WEIGHT_DECAY=0.1 AUGMENT=flip-crop DECAY=step",
            {"optimizer": "adamw", "momentum": 0, "weight_decay": 0.1, "augment": "flip-crop", "decay": "step"},
        ),
        ("", {"model": None, "width": 0.125, "optimizer": None, "momentum": None, "base_lr": 0.004, "decay": "linear"}),
        ("MODEL=networks:Net", {"model": "networks:Net", "width": None}),
        ("MODEL=networks:Net WIDTH=2", {"model": "networks:Net", "width": 2}),
    ],
)
def test_make_study_hands_on_what_is_given(variables, settings):
    command = ["make", "-n", "-o", ".venv/.study", "study", *variables.split()]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.replace("\\\n", " ").splitlines() if "-m batchscale" in line]
    study = cli._parse(shlex.split(line)[3:])
    assert {name: getattr(study, name) for name in settings} == settings


def test_shards_of_a_sweep_are_the_sweep():
    sweep = ["sweep", "--small", "2", "4", "--large", "128", "--seeds", "0", "1"]
    shards = [commanded(*sweep, "--shard", f"{i}/3", "--workers", "2") for i in (1, 2, 3)]
    assert [len(part) for part in shards] == [4, 3, 3]
    assert {run for part in shards for run in part} == set(commanded(*sweep))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {train, sweep, find, study"),
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
    for names in (["baseline_small"], ["baseline_large", "scaled_lr"]):  # in one folder they would be one run
        command = ["sweep", "--names", *names, "--small", "64", "--large", "64", *TINY]
        assert cli.main([*command, "--data-dir", str(tmp_path / names[0])]) == 0
    table = pd.concat(map(load, tmp_path.iterdir())).pivot_table("test_loss", "epoch", "experiment")
    assert (table["baseline_small"] == table["baseline_large"]).all()
    assert (table["scaled_lr"] != table["baseline_large"]).any()


MODES = ("baseline_small", "baseline_large", "scaled_lr")
EPOCHS = synthetic.study(seeds=(0, 1), small=(8, 32), large=(128, 256, 512), modes=MODES, epochs=10)


def written(epochs, folder):
    """The CSVs of some runs, without sidecars."""
    for (name, size, seed), rows in epochs.groupby(["experiment", "batch_size", "seed"]):
        rows.to_csv(folder / f"{name}_bs{size}_seed{seed}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return written(EPOCHS, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def renamed(tmp_path_factory):
    """The same runs under names of the user's own: none is the reference by its name."""
    names = {"baseline_small": "few", "baseline_large": "many"}
    return written(EPOCHS.replace({"experiment": names}), tmp_path_factory.mktemp("renamed"))


@pytest.fixture
def analysed(capsys, answers={}):  # noqa: B006, what was asked before is remembered
    """What `analyse … --json` prints."""

    def analyse(folder, *flags) -> dict:
        asked = (folder, *flags)
        if asked not in answers:
            assert cli.main(["analyse", str(folder), *flags, "--json"]) == 0
            answers[asked] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        return answers[asked]

    return analyse


def mean_of_last(name: str, size: int, epochs: int = 1) -> float:
    """Final accuracy by hand."""
    of_size = EPOCHS[(EPOCHS["experiment"] == name) & (EPOCHS["batch_size"] == size)]
    return of_size[of_size["epoch"] > 10 - epochs]["accuracy"].mean()


def estimate(result: dict, name: str) -> float | None:
    return result["modes"][name]["breaking_point"]["accuracy"]["estimate"]


def test_threshold_that_is_given(records, analysed, capsys):
    """A number is the accuracy itself: the tolerance is not subtracted, and no run is behind it."""
    result = analysed(records, "--threshold", "0.76", "--tolerance", "0.03")
    found = result["threshold"]
    assert (found["accuracy"], found["best"], found["tolerance"]) == (0.76, 0.76, 0)
    assert {found[name] for name in ("from_batch_size", "reference", "mean", "standard_deviation")} == {None}
    assert found["records"] == []
    assert result["modes"]["scaled_lr"]["breaking_point"]["accuracy"]["between"] == [None, 8]  # nothing is that good
    # At 32 the accuracy is 0.656, at 128 with the base rate 0.587: less is kept for longer.
    points = [
        analysed(records, "--threshold", of)["modes"]["baseline_large"]["breaking_point"]["accuracy"]
        for of in ("0.60", "0.65")
    ]
    assert [point["between"] for point in points] == [[32, 128]] * 2
    assert points[0]["estimate"] > points[1]["estimate"]
    assert cli.main(["analyse", str(records), "--threshold", "0.76"]) == 0
    assert "threshold 76.0 %, as given" in " ".join(capsys.readouterr().out.split())


def test_threshold_of_the_mean_or_the_best(records, analysed):
    means = [mean_of_last("baseline_small", size) for size in (8, 32)]
    found = analysed(records, "--threshold", "mean", "--tolerance", "0.02")["threshold"]
    assert found["accuracy"] == pytest.approx(sum(means) / 2 - 0.02)
    assert (found["from_batch_size"], found["reference"]) == (None, "baseline_small")
    assert len(found["records"]) == 4
    best = analysed(records, "--threshold", "best", "--tolerance", "0.02")["threshold"]
    assert best == analysed(records, "--tolerance", "0.02")["threshold"]
    assert best["from_batch_size"] == 8
    assert best["mean"] == pytest.approx(max(means))
    assert best["best"] == pytest.approx(max(means) - best["optimism"])
    assert best["accuracy"] == pytest.approx(best["best"] - 0.02)


def test_reference_of_another_name(records, renamed, analysed):
    """Without baseline_small the mode that alone has the smallest batch size is the reference, and that is said."""
    ours, named, chosen = (analysed(*of) for of in ((records,), (renamed, "--reference", "few"), (renamed,)))
    for result in (named, chosen):
        assert result["threshold"]["reference"] == "few"
        assert result["threshold"]["accuracy"] == pytest.approx(ours["threshold"]["accuracy"])
        assert estimate(result, "scaled_lr") == pytest.approx(estimate(ours, "scaled_lr"))
    assert estimate(ours, "scaled_lr") is not None
    (remark,) = [said for said in chosen["missing"] if "reference" in said]
    assert re.search(r"\bfew\b.*batch size, 8\b", remark)
    assert not [said for said in named["missing"] if "reference" in said]


def test_reference_of_several_names(renamed, analysed):
    """The best of all their batch sizes; a mode of the reference itself gets a verdict too."""
    result = analysed(renamed, "--reference", "few", "many")
    assert result["threshold"]["reference"] == ["few", "many"]
    assert result["threshold"]["from_batch_size"] == 8
    assert set(result["modes"]) == {"few", "many", "scaled_lr"}


def test_compare_is_that_effect_alone(records, analysed):
    large, scaled = MODES[1:]
    assert [(each["of"], each["over"]) for each in analysed(records)["effects"]] == [(scaled, large)]
    (effect,) = analysed(records, "--compare", large, scaled)["effects"]  # the other way round
    assert (effect["of"], effect["over"]) == (large, scaled)
    assert [row["batch_size"] for row in effect["batch_sizes"]] == [128, 256, 512]
    for row in effect["batch_sizes"]:
        by_hand = mean_of_last(large, row["batch_size"]) - mean_of_last(scaled, row["batch_size"])
        assert row["difference"] == pytest.approx(by_hand)
        assert row["low"] < row["difference"] < row["high"]
    nothing, again = analysed(records, "--compare", "baseline_small", large, large, scaled)["effects"]
    assert again == effect
    assert nothing["batch_sizes"] == []
    assert nothing["reason"] == f"no batch size has finished runs of both baseline_small and {large}"


def test_final_epochs_are_averaged(records, analysed):
    result = analysed(records, "--final-epochs", "3")
    assert result["final_epochs"] == 3
    rows = {row["batch_size"]: row["accuracy"] for row in result["modes"]["scaled_lr"]["batch_sizes"]}
    for size in (128, 256, 512):
        assert rows[size] == pytest.approx(mean_of_last("scaled_lr", size, 3))
        assert rows[size] < mean_of_last("scaled_lr", size)  # accuracy rises throughout
    best = max(mean_of_last("baseline_small", size, 3) for size in (8, 32))
    assert result["threshold"]["mean"] == pytest.approx(best)
    assert analysed(records)["final_epochs"] == 1
    whole = analysed(records, "--final-epochs", "99")  # as many as there are
    assert whole["threshold"]["mean"] == pytest.approx(
        max(mean_of_last("baseline_small", size, 10) for size in (8, 32))
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "worst"], "threshold is 'worst'; it must be best, mean, or a fraction above 0 and at most 1"),
        (["--threshold", "76"], "threshold is 76.0; it must be best, mean, or a fraction above 0 and at most 1"),
        (["--threshold", "0"], "threshold is 0.0; it must be"),
        (["--threshold", "nan"], "threshold is nan; it must be"),
        (["--threshold"], "--threshold"),
        (["--tolerance", "1"], "tolerance is 1.0; it must be a fraction, from 0 to below 1"),
        (["--tolerance", "nan"], "tolerance is nan; it must be a fraction, from 0 to below 1"),
        (["--target", "71"], "target is 71.0; it must be a fraction, above 0 and at most 1"),
        (["--final-epochs", "0"], "final_epochs is 0; it must be at least 1"),
        (["--final-epochs", "1.5"], "Error parsing --final-epochs"),
        (
            ["--reference", "nobody"],
            "there is no run of nobody in {}; there is baseline_small, baseline_large and scaled_lr",
        ),
        (["--reference", "scaled_lr", "nobody"], "there is no run of nobody in {}"),
        (["--compare", "scaled_lr", "nobody"], "there is no run of nobody in {}"),
        (["--compare", "scaled_lr"], "compare names 1 modes, scaled_lr; give pairs of two"),
        (["--compare", "scaled_lr", "baseline_large", "scaled_lr"], "compare names 3 modes"),
        (["--where", "width"], "where is 'width'; it must have the form setting=value"),
    ],
)
def test_errors_of_analyse_are_one_line(records, capsys, flags, message):
    assert cli.main(["analyse", str(records), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message.replace("{}", records.name) in captured.err
    assert captured.err.count("\n") == 1


def test_names_that_are_wanted_of_an_empty_folder(tmp_path, capsys):
    assert cli.main(["analyse", str(tmp_path), "--reference", "few"]) == 2
    assert "there is no run of few in " in capsys.readouterr().err
