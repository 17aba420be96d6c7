"""The whole result: known answers recovered, the paper's verdicts, and what is said when records are missing."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic
from test_analysis import NOTHING, more, table

from batchscale import cli
from batchscale.analysis import json_object, sentences
from batchscale.analysis.breaking_point import CURRENCIES
from batchscale.analysis.findings import analyse, to_target
from batchscale.analysis.tables import curve
from batchscale.analysis.terminal import text
from batchscale.epoch import COLUMNS, STUDY_COLUMNS
from batchscale.modes import MODES
from batchscale.records.study import Study

EPOCHS = synthetic.study()
STUDY = Study.of(EPOCHS)
WARM = "gradual_warmup_scaled_lr"


def result_of(study: Study | pd.DataFrame, **options) -> dict:
    """All findings as JSON has them."""
    return json_object.json_object(analyse(Study.of(study) if isinstance(study, pd.DataFrame) else study, **options))


def of(result: dict, name: str, what: str = "breaking_point") -> dict:
    return result["modes"][name][what]


@pytest.fixture(scope="module")
def known() -> dict:
    return result_of(STUDY, target=synthetic.TARGET)


def test_a_known_study_is_recovered(known):
    result = known
    assert result["threshold"]["best"] == pytest.approx(0.76, abs=0.004)
    assert result["threshold"]["accuracy"] == result["threshold"]["best"] - 0.01
    assert result["threshold"]["low"] < 0.76 < result["threshold"]["high"]
    for name, (steps_min, critical, _) in synthetic.MODES.items():
        found = of(result, name, "critical_batch_size")
        assert found["low"] < critical < found["high"]
        assert found["steps_min"] == pytest.approx(steps_min, rel=0.35)
    # 3 points lost with every doubling: one point is exceeded at limit·2^(1/3) = 378 and 1512, base rate 81
    assert of(result, "scaled_lr")["accuracy"] == 256
    assert of(result, "baseline_large")["accuracy"] is None
    assert result["modes"][WARM]["breaking_point"]["updates"] in (128, 256)  # B_crit/3 = 300
    low, high = of(result, WARM)["intervals"]["updates"]
    assert low <= 256 <= high
    assert of(result, "baseline_large")["updates"] == 32  # B_crit/3 = 33: its curve begins with the small batches
    assert result["missing"] == []
    assert set(result["modes"]) == set(synthetic.MODES)


def test_the_target_is_the_threshold_unless_given():
    study = STUDY.where(batch_size=8)
    result = result_of(study)
    assert result["target"] == result["threshold"]["accuracy"]
    assert result_of(study, target=0.5)["target"] == 0.5
    assert analyse(study, target=0.5).target == 0.5


def test_each_verdict_names_its_records(known):
    result = known
    records = of(result, "scaled_lr")["records"]
    size = result["threshold"]["from_batch_size"]
    assert result["threshold"]["records"] == [f"baseline_small_bs{size}_seed{seed}" for seed in range(3)]
    assert set(records["accuracy"]) > set(result["threshold"]["records"])
    assert len(records["accuracy"]) == 3 + 7 * 3
    assert len(records["updates"]) == len(records["time"]) == 7 * 3
    assert "baseline_small_bs2_seed0" in of(result, "baseline_large")["records"]["updates"]
    assert len(of(result, "baseline_large", "critical_batch_size")["records"]) == (5 + 7) * 3


def test_the_small_batches_begin_the_base_rates_curve_once():
    runs = pd.DataFrame(
        [
            ("baseline_small", 8, 0, 1),
            ("baseline_small", 32, 0, 2),
            ("baseline_large", 32, 0, 3),
            ("scaled_lr", 8, 0, 4),
        ],
        columns=["experiment", "batch_size", "seed", "updates"],
    )
    assert curve(runs, MODES["baseline_large"])["updates"].tolist() == [1, 3]
    assert curve(runs, MODES["scaled_lr"])["updates"].tolist() == [4]
    assert curve(runs, MODES["baseline_small"])["updates"].tolist() == [1, 2]


def spread(mean: float, deviation: float, runs: int = 5) -> np.ndarray:
    """Values with exactly this mean and sample standard deviation."""
    values = np.linspace(-1, 1, runs)
    return mean + deviation * values / values.std(ddof=1)


def test_goyal_et_al_2017():
    """ImageNet, ResNet-50, top-1 error (tables 1 and 2, figure 1), as mean ± deviation of five runs."""
    errors = {
        ("baseline_small", 256): (23.60, 0.12),
        ("scaled_lr", 8192): (24.84, 0.37),
        ("constant_warmup_scaled_lr", 8192): (25.88, 0.56),
        (WARM, 8192): (23.74, 0.09),
        (WARM, 16384): (24.79, 0.27),
        (WARM, 32768): (27.55, 0.28),
        (WARM, 65536): (33.96, 0.80),
    }
    rows = [
        {"experiment": name, "batch_size": size, "seed": seed, "epoch": 90, "accuracy": 1 - error / 100}
        for (name, size), (mean, deviation) in errors.items()
        for seed, error in enumerate(spread(mean, deviation))
    ]
    result = result_of(pd.DataFrame(rows).reindex(columns=list(COLUMNS)))
    assert of(result, WARM)["accuracy"] == 8192
    assert of(result, WARM)["intervals"]["accuracy"] == [8192, 16384]  # 1.19 ± 0.37 points at 16k: not surely above 1
    assert of(result, "scaled_lr")["accuracy"] is None
    assert of(result, "constant_warmup_scaled_lr")["accuracy"] is None
    assert result["modes"][WARM]["sentence"] == (
        "Up to 8192 the linear rule with gradual warm-up keeps the small-batch accuracy (76.3 ± 0.1 % against 76.4 %); "
        "at 16384 it loses 1.2 points (95 % interval 0.9 to 1.5)."
    )
    assert result["modes"]["scaled_lr"]["sentence"] == (
        "Already at 8192, the smallest recorded, the linear rule without warm-up loses 1.2 points "
        "(75.2 ± 0.4 % against 76.4 %; 95 % interval 0.8 to 1.7)."
    )
    scaling, warm_up = result["effects"]
    assert scaling["reason"] == "no batch size has finished runs of both scaled_lr and baseline_large"
    (row,) = warm_up["batch_sizes"]
    assert row["difference"] == pytest.approx(0.011)
    assert row["low"] > 0


def without_modes(*names: str) -> Study:
    return STUDY.only([run for run in STUDY.runs.drop(columns="status").itertuples(index=False) if run[0] not in names])


def unfinished(epochs: pd.DataFrame) -> pd.DataFrame:
    """All runs of the last mode at B = 512 end after three epochs."""
    is_cut = (epochs["experiment"] == WARM) & (epochs["batch_size"] == 512) & (epochs["epoch"] > 3)
    return epochs[~is_cut]


LITTLE = {
    "nothing": (NOTHING, "there are no records"),
    "one mode missing": (without_modes("scaled_lr"), "there are no records of scaled_lr"),
    "one seed": (
        STUDY.where(seed=0),
        "a single seed, and so no interval, at 26 of 26 combinations of mode and batch size",
    ),
    "one batch size": (Study.of(EPOCHS[EPOCHS["batch_size"].isin([8, 256])]), None),
    "two batch sizes": (Study.of(EPOCHS[EPOCHS["batch_size"].isin([8, 256, 512])]), None),
    "no small runs": (without_modes("baseline_small"), "without a threshold, updates and time to target need a target"),
    "small runs only": (
        without_modes(*synthetic.MODES),
        "there are no records of baseline_large, scaled_lr and gradual_warmup_scaled_lr",
    ),
    "unfinished": (
        Study.of(unfinished(EPOCHS)),
        f"the run {WARM} B=512 seed 2 ended after epoch 3; its accuracy does not count",
    ),
    "no accuracies": (
        Study.of(EPOCHS.assign(accuracy=np.nan)),
        "no run of baseline_small is finished, so there is no threshold",
    ),
    "own name": (
        Study.of(EPOCHS.replace({"experiment": {"scaled_lr": "mine"}})),
        "there are no records of scaled_lr",
    ),
}


SENTENCES = (
    lambda found: sentences.threshold(found.threshold),
    sentences.comparison,
    sentences.effects,
    sentences.updates,
    sentences.critical_batch_sizes,
    sentences.noise_scales,
    sentences.breaking_points,
    sentences.smallest,
    sentences.time,
    sentences.frontier,
)


@pytest.mark.parametrize("case", LITTLE)
@pytest.mark.parametrize("target", [None, synthetic.TARGET])
def test_little_gives_what_it_can_and_says_what_is_missing(case, target):
    study, words = LITTLE[case]
    found = analyse(study, target=target)
    result = json_object.json_object(found)
    json.dumps(result, allow_nan=False)
    if words and not (target and "target" in words):
        assert words in result["missing"]
    for mode in result["modes"].values():
        breaking, critical = mode["breaking_point"], mode["critical_batch_size"]
        assert mode["sentence"].endswith(".")
        assert all(breaking[currency] is not None or breaking["reasons"][currency] for currency in CURRENCIES)
        assert critical["estimate"] is not None or critical["reason"]
    for width in (60, 80):
        assert max(len(line) for line in text(found, width).splitlines()) <= width
    for write in SENTENCES:  # of the report; each can say something, or nothing, about every study
        for said in write(found):
            assert said.endswith(".")
            assert not {"nan", "None", "NaN"} & set(said.replace(".", " ").replace(",", " ").split())


def test_small_records_say_what_they_can():
    one = result_of(LITTLE["one batch size"][0], target=synthetic.TARGET)
    assert of(one, WARM)["accuracy"] == 256
    assert of(one, WARM)["reasons"]["time"] == "there is no batch size to compare 256 with"
    assert "the fit needs three" in of(one, WARM, "critical_batch_size")["reason"]
    bare = result_of(LITTLE["no small runs"][0], target=synthetic.TARGET)
    assert bare["threshold"] is None
    assert of(bare, WARM, "critical_batch_size")["estimate"] is not None
    assert "reaches 7" in bare["modes"][WARM]["sentence"]
    of_one_seed = analyse(LITTLE["one seed"][0], target=synthetic.TARGET)
    single = json_object.json_object(of_one_seed)
    assert of(single, WARM)["accuracy"] is not None
    assert of(single, WARM)["intervals"]["accuracy"] == [None, None]
    assert "one seed" in of(single, WARM)["reasons"]["accuracy"]
    assert of(single, WARM, "critical_batch_size")["low"] is not None  # the batch sizes are there to say
    assert single["effects"][0]["batch_sizes"][0]["reason"] == "1 pair of equal seeds, where two are needed"
    assert text(of_one_seed, width=1000).count("two are needed") == len(single["effects"])  # once, not at every size
    assert result_of(EPOCHS[EPOCHS["seed"] < 2])["missing"] == []  # two are enough for an interval


def test_diverged_runs():
    failed = [(WARM, 512, 1), (WARM, 8192, 0)]
    of_run = {run: synthetic.is_run(EPOCHS, run) for run in failed}
    gone, short = of_run[failed[1]], of_run[failed[0]] & (EPOCHS["epoch"] > 2)
    result = result_of(Study.of(EPOCHS[~gone & ~short], diverged=failed), target=synthetic.TARGET)
    assert of(result, WARM)["accuracy"] == 256
    assert "at 512 it diverges in 1 of 3 runs." in result["modes"][WARM]["sentence"]
    assert f"the run {WARM} B=512 seed 1 diverged; it counts as a failure" in result["missing"]
    assert not [remark for remark in result["missing"] if "ended after" in remark]
    # One that diverged in its last epoch has an accuracy, which does not count.
    last = Study.of(EPOCHS[EPOCHS["batch_size"] <= 256], diverged=[(WARM, 256, 1)])
    last = result_of(last, target=synthetic.TARGET)
    assert [(row["seeds"], row["diverged"]) for row in of(last, WARM, "batch_sizes")] == [(3, 0), (2, 1)]
    everything = result_of(Study.of(NOTHING.epochs, diverged=[("mine", 8, 0)]))
    assert everything["modes"]["mine"]["sentence"] == "Every run of “mine” diverges."
    json.dumps(everything, allow_nan=False)


def test_five_columns_are_enough_for_all_but_the_updates_themselves(known):
    five = EPOCHS[[*STUDY_COLUMNS, "experiment", "seed"]].reindex(columns=list(COLUMNS))
    whole, bare = known, result_of(five, target=synthetic.TARGET)
    for name in synthetic.MODES:
        assert of(bare, name)["accuracy"] == of(whole, name)["accuracy"]
        assert of(bare, name)["time"] == of(whole, name)["time"]
        found, expected = (of(result, name, "critical_batch_size") for result in (bare, whole))
        assert found["estimate"] == pytest.approx(expected["estimate"], rel=0.05)
        assert found["steps_min"] is None
    assert [remark for remark in bare["missing"] if "no column updates" in remark]


def test_noise_scale_stands_beside_the_critical_batch_size(known):
    noise = of(known, WARM, "noise_scale")
    assert noise["runs"] == 21
    assert noise["low"] < noise["median"] < noise["high"]
    assert noise["reason"] is None
    assert of(result_of(EPOCHS.assign(noise_scale=np.nan)), WARM, "noise_scale") is None


def test_other_targets_are_those_of_an_analysis_with_that_target():
    found = {target: to_target(STUDY, target) for target in (0.5, 0.7)}
    for target, at in found.items():
        assert at.target == target
        assert list(at.critical) == list(at.noise_scales) == list(at.curves) == list(synthetic.MODES)
        whole = analyse(STUDY, target=target)
        for name in synthetic.MODES:
            assert at.critical[name] == whole.modes[name].critical == whole.to_target.critical[name]
            pd.testing.assert_frame_equal(at.curves[name], whole.modes[name].curve)
            # The way to the target: epochs that end below it; the base rate's curve begins with the small minibatches.
            names = [name, *(["baseline_small"] if name == "baseline_large" else [])]
            way = EPOCHS[EPOCHS["experiment"].isin(names) & (EPOCHS["accuracy"] < target)]["noise_scale"]
            assert (at.noise_scales[name].low, at.noise_scales[name].high) == (way.min(), way.max())
        assert len(at.drawn) == sum(map(len, at.curves.values())) == len(at.runs)
        assert list(at.drawn["experiment"].unique()) == list(synthetic.MODES)
        assert at.means[["experiment", "batch_size"]].value_counts().max() == 1
    assert found[0.7].noise_scales[WARM].median > found[0.5].noise_scales[WARM].median  # it grows as the loss falls
    gone = to_target(without_modes("baseline_small", "baseline_large", WARM), 0.01)
    assert gone.noise_scales == {"scaled_lr": None}  # every epoch ends above it


def test_an_epoch_that_ends_at_the_target_is_not_below_it():
    records = table(("mine", 8, 0, [0.3, 0.4906])).assign(noise_scale=[10.0, 99.0])
    assert to_target(Study.of(records), 0.5006 - 0.01).noise_scales["mine"].high == 10  # as floats it is below
    assert to_target(Study.of(records), 0.4907).noise_scales["mine"].high == 99


def test_noise_scale_that_is_not_always_measurable():
    """Seeds' medians by hand: 20, 40 and unknown, then 20 and unknown twice."""
    run = ["mine", 8]
    records = table(*[(*run, seed, [0.1] * 3) for seed in range(3)])
    records["noise_scale"] = [10.0, 20.0, np.nan, 30.0, 40.0, 50.0, np.nan, 60.0, np.nan]
    found = analyse(Study.of(records))
    assert of(json_object.json_object(found), "mine", "noise_scale") == {
        "median": 40,
        "low": 10,
        "high": None,
        "runs": 3,
        "reason": "not measurable in 3 of 9 epochs",
    }
    said = "noise scale: median 40 images, from 10 upwards over epochs and runs; not measurable in 3 of 9 epochs"
    assert said in text(found, 200)
    assert sentences.noise_scales(found) == [
        "Under “mine” the gradient noise scale has a median of 40 images and ranges from 10 upwards over the epochs "
        "and runs; it was not measurable in 3 of 9 epochs."
    ]
    records.loc[3:4, "noise_scale"] = np.nan
    found = analyse(Study.of(records))
    assert of(json_object.json_object(found), "mine", "noise_scale")["median"] is None
    said = "noise scale: no median, from 10 upwards over epochs and runs; not measurable in 5 of 9 epochs"
    assert said in text(found, 200)
    assert sentences.noise_scales(found) == [
        "Under “mine” the gradient noise scale has no median; it was not measurable in 5 of 9 epochs, where the noise "
        "hides the gradient; the smallest measured is 10 images."
    ]


def test_what_is_listed_has_an_end():
    """Of many runs, batch sizes and combinations the text names some, and says how many there are."""
    runs = [("mine", 512, seed, [0.1, 0.2]) for seed in range(30)] + [("mine", 8, seed, [0.1]) for seed in range(20)]
    sizes = range(10, 110)
    accuracies = [("baseline_large", size, seed, [0, size / 200]) for size in sizes for seed in (0, 1)]
    runs += [*accuracies, *[("scaled_lr", size, seed, [*values[:1], 0.9]) for _, size, seed, values in accuracies]]
    epochs = table(*runs).assign(running_time=lambda rows: rows["batch_size"])
    failed = [("mine", 16, seed) for seed in range(30)]
    found = analyse(Study.of(epochs, diverged=failed), target=0.05)
    said = text(found, width=10_000).splitlines()
    assert len(json_object.json_object(found)["effects"][0]["batch_sizes"]) == 100
    (effect,) = [line for line in said if line.startswith("Effect of scaling")]
    assert effect.startswith(
        "Effect of scaling in points of accuracy; 16 of 100 shown: 10: +85.0 (+85.0 to +85.0); 17: "
    )
    assert effect.endswith("; 109: +35.5 (+35.5 to +35.5)")
    (diverged,) = [line for line in said if "diverged" in line]
    assert diverged.startswith("Note: 30 runs diverged and count as failures: mine B=16 seed 0, mine B=16 seed 1, ")
    assert diverged.endswith(", … and mine B=16 seed 29 (30 in all)")
    (ended,) = [line for line in said if "ended" in line]
    assert ended.startswith("Note: 20 runs ended early and their accuracies do not count: mine B=8 seed 0, ")


def test_different_lengths_are_said():
    study = more(table(("baseline_small", 8, 0, [0.5])), table(("mine", 8, 0, [0.5, 0.6])))
    words = "the modes were trained for different numbers of epochs (baseline_small 1, mine 2); compare with care"
    assert words in result_of(study)["missing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of records, one of them diverged in its first epoch."""
    path = tmp_path_factory.mktemp("records with a space")
    epochs = synthetic.study(small=(8, 32), large=(128, 256, 512, 2048), seeds=(0, 1))
    for (name, size, seed), run in epochs.groupby(["experiment", "batch_size", "seed"]):
        run.to_csv(path / f"{name}_bs{size}_seed{seed}.csv", index=False)
    (path / "mine_bs8_seed0.csv").write_text(",".join(COLUMNS) + "\n")
    experiment = {"name": "mine", "batch_size": 8, "seed": 0}
    (path / "mine_bs8_seed0.json").write_text(json.dumps({"status": "diverged", "experiment": experiment}))
    (path / "torn.json").write_text("{")
    return path


def test_command_prints_the_same_numbers_twice(folder, capsys, monkeypatch):
    assert cli.main(["analyse", str(folder), "--json", "--target", "0.7"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # no NaN, no Infinity
    study = Study.load(folder)
    assert study.diverged == [("mine", 8, 0)]
    assert result == result_of(study, target=0.7)
    assert result == json.loads(json.dumps(result_of(study, target=0.7)))
    for columns in ("60", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.main(["analyse", str(folder), "--target", "0.7"]) == 0
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert max(map(len, lines)) <= int(columns)
        for name, mode in result["modes"].items():
            breaking, critical = mode["breaking_point"], mode["critical_batch_size"]
            numbers = [*(breaking[currency] for currency in CURRENCIES), critical["estimate"]]
            shown = lines[lines.index(name) + 1].split()
            assert shown == ["–" if number is None else f"{number:.0f}" for number in numbers]
        assert " ".join(result["modes"][WARM]["sentence"].split()) in " ".join(printed.split())


def test_command_takes_tolerance_and_threshold(folder, capsys):
    for flags, tolerance, source in ((["--tolerance", "0.05"], 0.05, 8), (["--threshold", "mean"], 0.01, None)):
        assert cli.main(["analyse", str(folder), "--json", *flags]) == 0
        found = json.loads(capsys.readouterr().out)["threshold"]
        assert (found["tolerance"], found["from_batch_size"]) == (tolerance, source)


def test_command_on_an_empty_folder(tmp_path, capsys):
    assert cli.main(["analyse", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 runs; no threshold\nNote: there are no records\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing from python -m batchscale analyse: DIR"),
        (["nowhere"], "there is no folder nowhere; name the one that holds the CSVs"),
        ([".", "--tolerance", "1"], "tolerance is 1.0; it must be a fraction, from 0 to below 1"),
        ([".", "--tolerance", "nan"], "tolerance is nan"),
        ([".", "--target", "76"], "target is 76.0; it must be a fraction, above 0 and at most 1"),
        ([".", "--threshold", "median"], "invalid choice 'median'"),
    ],
)
def test_command_errors_are_one_line(arguments, message, capsys):
    assert cli.main(["analyse", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
