"""`find` on digits: ordinary records, a budget that is kept, and the same verdict whatever happens meanwhile."""

import json
import random
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from kills import Run

from batchscale import cli, sweeps
from batchscale.analysis.search import known
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import Study, advice
from batchscale.records.files import lock
from batchscale.sweeps.cost import Cost
from batchscale.sweeps.options import Options
from batchscale.sweeps.searching import Searching

TINY = {"dataset": "digits", "width": 0.1, "train_size": 400, "epochs": 2, "base_lr": 0.01}
NAMES = ("scaled_lr",)
WITHIN = 10.0
ASKED = {"names": NAMES, "small": (8, 16), "largest": 100, "noise_scale": False, "tolerance": 0.1}
FLAGS = [
    *("find", "--dataset", "digits", "--width", "0.1", "--train-size", "400", "--epochs", "2", "--base-lr", "0.01"),
    *("--names", "scaled_lr", "--small", "8", "16", "--largest", "100", "--no-noise-scale", "--tolerance", "0.1"),
    *("--decay", "none"),
]
TIMES = [{"batch_size": size, "seconds": 0.01 + 0.0002 * size, "error": 0, "bytes": 0} for size in (1, 16, 256)]


def noted(folder: Path, **changes) -> Path:
    """A folder in which the times of updates are measured already, so that every search in it decides alike."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = asdict(Experiment(batch_size=1, **TINY))
    advice.write(folder, {"experiment": experiment, "throughput": TIMES, "evaluation_seconds": 0.1} | changes)
    return folder


@pytest.fixture(autouse=True)
def times_are_measured_for_a_second(monkeypatch):
    monkeypatch.setattr(sys.modules["batchscale.sweeps.find"], "MEASURING", 1)


def recorded(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.csv")}


def accuracies(folder: Path) -> dict:
    rows = Study.load(folder).epochs
    return {
        tuple(row[:4]): row[4] for row in rows[["experiment", "batch_size", "seed", "epoch", "accuracy"]].to_numpy()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nobody disturbed."""
    folder = noted(tmp_path_factory.mktemp("whole"))
    found = sweeps.find(TINY, **ASKED, within=WITHIN, data_dir=folder)
    return folder, found


def test_it_ends_with_ordinary_records_and_goes_on_for_nothing(whole, capsys):
    folder, found = whole
    assert set(found.study.modes) == {"baseline_small", "scaled_lr"}
    point = found.modes["scaled_lr"].breaking_points["accuracy"]
    assert (point.high or 100) / (point.low or 8) <= WITHIN
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json"}
    assert cli.main(["analyse", str(folder), "--tolerance", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["modes"]["scaled_lr"]["breaking_point"]["accuracy"]
    assert (told["low"], told["high"]) == (point.low, point.high)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = sweeps.find(TINY, **ASKED, within=WITHIN, data_dir=folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert again.modes["scaled_lr"].breaking_points["accuracy"].interval == point.interval
    said = capsys.readouterr().out
    assert said.startswith("small batches, base rate: threshold ")
    assert "linearly scaled rate: " in said


def test_a_sweep_skips_what_was_found(whole):
    folder, found = whole
    sizes = found.study.runs.query("experiment == 'scaled_lr' and seed == 0")["batch_size"].tolist()
    settings = TINY | {"lr_scaling": "linear"}
    assert sweeps.pending(sweeps.grid("scaled_lr", sizes, **settings), folder) == []


@pytest.mark.slow
def test_killed_at_random_moments_it_trains_the_same_runs(whole, tmp_path):
    folder, kills, moments = noted(tmp_path / "killed"), 0, random.Random(1)
    arguments = [*FLAGS, "--within", f"{WITHIN}", "--save-seconds", "0", "--data-dir", str(folder)]
    code, lives = None, 0
    while code != 0:
        lives += 1
        assert lives < 60
        run = Run(arguments, tmp_path / "log")
        if kills < 6:
            run.kill_once_saved(moments.uniform(0, 0.6)) if moments.random() < 0.8 else run.kill(moments.uniform(0, 1))
        code = run.ended()
        kills += code == -9
        assert code in (0, -9), run.said()
    assert kills == 6
    assert accuracies(folder) == accuracies(whole[0])
    assert not list(folder.glob("*.replaced*"))  # nothing was trained twice
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json"}
    assert "Traceback" not in run.said()


@pytest.mark.slow
def test_two_processes_share_a_search(tmp_path):
    folder = noted(tmp_path / "shared")
    arguments = [*FLAGS, "--within", f"{WITHIN}", "--data-dir", str(folder)]
    both = [Run(arguments, tmp_path / f"log{number}") for number in range(2)]
    assert [run.ended() for run in both] == [0, 0]
    ended = [re.findall(r"^\[\d+\] (.*): complete", run.said(), re.MULTILINE) for run in both]
    assert all(ended)
    assert len({*ended[0], *ended[1]}) == len(ended[0]) + len(ended[1]) == len(recorded(folder))
    searching = _searching(folder)
    assert known(searching.search, searching.runs()).left == []


@pytest.mark.slow
def test_workers(tmp_path):
    folder = noted(tmp_path / "workers")
    run = Run([*FLAGS, "--within", f"{WITHIN}", "--workers", "2", "--data-dir", str(folder)], tmp_path / "log")
    assert run.ended() == 0, run.said()
    assert "linearly scaled rate: " in run.said()
    assert {path.suffix for path in folder.iterdir()} == {".csv", ".json"}


def _searching(folder: Path) -> Searching:
    from batchscale.sweeps.find import _searching

    options = Options(data_dir=folder)
    return _searching(TINY, options, NAMES, (8, 16), 100, WITHIN, 0.1, 1e9)


class Clock:
    """Hardly any time passes until the condition holds, and then the budget is over."""

    def __init__(self, budget: float, is_due):
        self.now, self.budget, self.is_due = 0.0, budget, is_due

    def __call__(self) -> float:
        self.now += 0.01
        if self.is_due():
            self.now = max(self.now + 0.01, self.budget)
        return self.now


@pytest.mark.slow
def test_a_budget_is_kept_and_what_was_begun_goes_on_with_more_hours(tmp_path, capsys, whole):
    folder = noted(tmp_path)
    clock = Clock(180 * 0.99, lambda: len(list(folder.glob("*.json"))) == 6)  # in the fifth run
    sweeps.find(TINY, **ASKED, hours=0.05, within=WITHIN, data_dir=folder, clock=clock, save_seconds=0)
    assert clock.now < 180 * 1.05
    assert len(list(folder.glob("*.ckpt"))) == 1  # saved in the middle of a run
    assert "threshold" in capsys.readouterr().out
    sweeps.find(TINY, **ASKED, within=WITHIN, data_dir=folder)
    assert not list(folder.glob("*.ckpt"))
    assert accuracies(folder) == accuracies(whole[0])


def test_while_a_run_fits_no_longer_one_is_begun(tmp_path):
    searching = _searching(noted(tmp_path))
    searching.cost = lambda name, size: float(size)
    searching.deadline = searching.clock() + 12
    assert [each.batch_size for each in searching.offers()[:2]] == [8, 16]
    searching.deadline = searching.clock() + 1  # none fits: the best one is begun
    assert searching.offers()[0].batch_size == 16


def test_what_others_train_is_under_way_and_waited_for(tmp_path):
    searching = _searching(noted(tmp_path))
    first, second, *_ = searching.offers()
    with lock(searching.options.lock_file(first), "somebody"):
        assert searching.runs().under_way == ((first.name, first.batch_size, first.seed),)
        assert searching.offers()[0] == second
        with lock(searching.options.lock_file(second), "somebody"):
            offers = searching.offers()
            assert first in offers[-2:]
            assert second in offers[-2:]
    assert searching.offers()[0] == first
    searching.fail(first)
    assert first not in searching.offers()


def test_cost_of_a_run():
    cost = Cost(((1, 0.01), (100, 0.1)), evaluation=5, epochs=3, images=1000)
    assert cost("", 10) == pytest.approx(3 * (100 * 0.01 * 10**0.5 + 5))
    assert cost("", 200) == pytest.approx(3 * (5 * 0.2 + 5))


def test_advice_is_a_prior_and_that_of_another_experiment_is_not_used(tmp_path, capsys):
    rules = {"linear": {"estimate": 60.0, "low": 50.0, "high": 90.0}, "sqrt": None}
    searching = _searching(noted(tmp_path, rules=rules))
    assert (searching.search.priors["scaled_lr"].estimate, searching.search.priors["scaled_lr"].factor) == (60, 2)
    other = asdict(Experiment(batch_size=1, **TINY | {"width": 0.2}))
    searching = _searching(noted(tmp_path, rules=rules, experiment=other))
    assert searching.search.priors == {}
    assert "is of another experiment (width): times are measured anew" in capsys.readouterr().out
    assert advice.read(tmp_path)["experiment"]["width"] == 0.1
    other = asdict(Experiment(batch_size=1, **TINY | {"base_lr": 0.02}))
    assert _searching(noted(tmp_path, rules=rules, experiment=other)).search.priors == {}
    assert "is for another experiment (base_lr): it is not used" in capsys.readouterr().out
    (tmp_path / "advice.json").write_text('{"throughput": []}')  # of no use
    assert _searching(tmp_path).cost("", 8) > 0


@pytest.mark.slow
def test_live_lines_calls_and_a_figure(tmp_path, capsys, monkeypatch):
    seen, shown = [], []
    output = SimpleNamespace(update=shown.append)
    monkeypatch.setattr("IPython.display.display", lambda image, **how: shown.append(image) or output)
    sweeps.find(
        TINY, **ASKED | {"small": (8,)}, within=50, data_dir=noted(tmp_path), on_change=seen.append, figure=True
    )
    said = capsys.readouterr().out
    assert "linearly scaled rate: above 8, no interval yet, 0 runs" in said
    assert len(seen) == len(recorded(tmp_path))
    assert seen[-1].threshold is not None
    assert len(shown) == len(seen)
    assert all(image.data.startswith(b"\x89PNG") for image in shown)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither hours nor within is given"),
        ({"hours": 0}, "hours is 0; it must be a number above 0"),
        ({"within": 1}, "within is 1; it must be a number above 1"),
        ({"within": 2, "names": ("baseline_small",)}, "name a mode to compare with baseline_small"),
        ({"within": 2, "small": ()}, "small is empty"),
        ({"within": 2, "largest": 8}, "largest is 8; it must be a batch size above 8"),
        ({"within": 2, "largest": 401}, "at most 400, the number of training images"),
        ({"within": 2, "tolerance": 0}, "tolerance is 0"),
        ({"hours": 1e-4}, "hours is 0.0001, but the shortest run of the reference"),
    ],
)
def test_bad_input(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        sweeps.find(TINY, **ASKED | given, data_dir=noted(tmp_path))
    assert not list(tmp_path.glob("*.csv"))


def test_a_reference_that_does_not_train_ends_the_search(tmp_path):
    with pytest.raises(UserError, match=r"the reference does not train: .* choose a lower base_lr") as raised:
        sweeps.find(TINY | {"base_lr": 1e9}, **ASKED, within=2, data_dir=noted(tmp_path))
    assert "diverges at every batch size, with base_lr 1e+09" in str(raised.value)


def test_a_run_that_fails_is_not_chosen_again(tmp_path, capsys, monkeypatch):
    from batchscale.sweeps.process import Process

    train, tried = Process._train, []

    def failing(self, experiment, record):
        tried.append(experiment)
        if experiment.name == "scaled_lr" and len(tried) == 3:
            raise UserError("it fails")
        return train(self, experiment, record)

    monkeypatch.setattr(Process, "_train", failing)
    with pytest.raises(UserError, match="it fails"):
        sweeps.find(TINY, **ASKED, within=10, data_dir=noted(tmp_path))
    assert len(set(tried)) == len(tried) > 3
    assert "failed, it fails" in capsys.readouterr().out


def test_records_of_another_experiment_are_refused(whole, tmp_path):
    with pytest.raises(UserError, match=r"belongs to another experiment: base_lr is 0.01 there but 0.02 was asked for"):
        sweeps.find(TINY | {"base_lr": 0.02}, **ASKED, within=2, data_dir=whole[0])


@pytest.mark.slow
def test_without_advice_the_times_are_measured_and_kept(tmp_path):
    sweeps.find(TINY, **ASKED | {"small": (16,)}, hours=0.01, within=50, data_dir=tmp_path)
    kept = advice.read(tmp_path)
    assert kept["evaluation_seconds"] > 0
    assert {"batch_size", "seconds"} <= kept["throughput"][0].keys()


FOUR = TINY | {"epochs": 4}


class Row:
    """An epoch of which the accuracy alone counts."""

    def __init__(self, accuracy: float):
        self.accuracy = accuracy


def test_what_a_run_can_still_reach(tmp_path, monkeypatch):
    """Of three complete runs one gained 0.2 after the second of four epochs, and others less; 0.3 is 1.5 times that."""
    from batchscale.sweeps.find import _searching

    searching = _searching(FOUR, Options(data_dir=noted(tmp_path)), NAMES, (8, 16), 100, WITHIN, 0.1, 1e9)
    searching._curves = {
        ("baseline_small", 8, 0): [0.3, 0.6, 0.7, 0.8],
        ("baseline_small", 16, 0): [0.5, 0.7, 0.8, 0.85],
    }
    searching._ended = {run: curve[-1] for run, curve in searching._curves.items()}
    experiment = searching.experiment(("scaled_lr", 100, 0))
    low = [Row(0.1), Row(0.3)]
    assert searching.at_most(experiment, low) is None  # nobody asked for it
    searching.gives_up = True
    assert searching.at_most(experiment, low) is None  # two runs say too little
    searching._curves["scaled_lr", 32, 0] = [0.2, 0.5, 0.6, 0.6]
    searching._ended["scaled_lr", 32, 0] = 0.6
    assert searching.at_most(experiment, low) == pytest.approx(0.6)  # below 0.85 - 0.1 - 0.1 by more than a tolerance
    assert searching.at_most(experiment, [Row(0.1), Row(0.36)]) is None  # 0.66 is not
    assert searching.at_most(experiment, low[:1]) is None  # before half of the epochs
    assert searching.at_most(experiment, [Row(0.1)] * 3) == pytest.approx(0.1 + 1.5 * 0.1)


@pytest.mark.slow
def test_a_run_that_is_given_up_counts_and_could_be_continued(tmp_path, monkeypatch, capsys):
    folder = noted(tmp_path)
    monkeypatch.setattr(
        Searching, "at_most", lambda self, experiment, rows: 0.25 if experiment.batch_size == 100 else None
    )
    asked = ASKED | {"stop_lost": True, "data_dir": folder}
    found = sweeps.find(TINY, **asked, within=3.0)
    assert "scaled_lr B=100 seed 0: given up, at most 0.2500, 1 epoch" in capsys.readouterr().out
    assert found.study.lost[("scaled_lr", 100, 0)] == (1, 0.25)
    row = found.cells.query("experiment == 'scaled_lr' and batch_size == 100")
    assert row["accuracy"].tolist() == [0.25]
    assert any("was given up after epoch 1; it counts with 25.0 %" in str(remark) for remark in found.remarks)
    assert not any("ended" in str(remark) for remark in found.remarks)
    before = {path: path.read_bytes() for path in folder.glob("*seed0.csv")}
    again = sweeps.find(TINY, **asked, within=3.0)
    assert {path: path.read_bytes() for path in before} == before
    assert again.modes["scaled_lr"].breaking_points["accuracy"] == found.modes["scaled_lr"].breaking_points["accuracy"]
    (given_up,) = sweeps.grid("scaled_lr", 100, **TINY)
    sweeps.run([given_up], data_dir=folder, noise_scale=False)
    assert Study.load(folder).lost == {}
    assert len(Study.load(folder).epochs.query("batch_size == 100 and seed == 0")) == 2


def test_with_ray_no_run_is_given_up(tmp_path):
    with pytest.raises(UserError, match="stop_lost is set but engine is ray"):
        sweeps.find(TINY, **ASKED, within=2, data_dir=tmp_path, engine="ray", stop_lost=True)
