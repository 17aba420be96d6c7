"""The learning-rate landscape: best rates, their slope, and the mode "tuned rate", on landscapes of known shape."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from batchscale.analysis import findings, plots, sentences
from batchscale.analysis.landscape import landscape, with_tuned
from batchscale.modes import MODES, TUNED, comparisons
from batchscale.records.study import Study

ETA = 0.002
SIZES = (8, 32, 128, 512, 2048)
FACTORS = (0.25, 0.5, 1, 2, 4)


def epochs_of(name: str, size: int, seed: int, accuracy: float, epochs: int = 2) -> pd.DataFrame:
    """A run that has this accuracy in the end."""
    rows = [
        {"batch_size": size, "epoch": epoch, "accuracy": accuracy * epoch / epochs, "generalization_error": 0.0}
        | {"running_time": 1.0 * epoch, "experiment": name, "seed": seed, "updates": epoch * 1000 // size}
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows).reindex(columns=list(synthetic.COLUMNS))


def study_of(runs: dict, diverged=(), **settings) -> Study:
    """Runs by (name, batch size, seed), each with its accuracy and the settings in which it differs."""
    frames, sidecars = [], []
    for run, (accuracy, own) in runs.items():
        status = "diverged" if run in diverged else "complete"
        sidecars.append(synthetic.sidecar(*run, status, **{"epochs": 2, "base_lr": ETA} | settings | own))
        frames.append(epochs_of(*run, accuracy))
    return Study.of(pd.concat(frames), sidecars=sidecars)


def rate_name(factor: float) -> str:
    return f"base_lr_{factor * ETA:g}"


def rates_of(accuracy, sizes=SIZES, factors=FACTORS, seeds=(0,), **how) -> Study:
    """Runs at several base rates under the linear rule with gradual warm-up; `accuracy` takes batch size and rate."""
    rule = MODES["gradual_warmup_scaled_lr"].rule
    return study_of(
        {
            (rate_name(factor), size, seed): (accuracy(size, factor * ETA * size / 8), {"base_lr": factor * ETA} | rule)
            for factor in factors
            for size in sizes
            for seed in seeds
        },
        **how,
    )


def parabola(exponent: float, width: float = 0.01):
    """Accuracy that falls with the square of the distance from a best rate ∝ B^p, in octaves."""
    return lambda size, rate: 0.8 - width * math.log2(rate / (1.1 * ETA * (size / 8) ** exponent)) ** 2


SMALL = study_of({("baseline_small", 4, seed): (0.8, {}) for seed in (0, 1)})  # at 4 there is no landscape


@pytest.mark.parametrize("exponent", [1, 0.8])
def test_the_slope_of_a_landscape_that_follows_a_power_law(exponent):
    """On exact parabolas the peaks and the line are exact; the best rate tried is the one nearest to the peak."""
    found = landscape(rates_of(parabola(exponent)), SMALL)
    known = found.best.set_index("batch_size")
    assert found.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.interval == pytest.approx((exponent, exponent), abs=1e-6)
    assert found.level * 8**exponent == pytest.approx(1.1 * ETA)
    assert known["peak"][128] == pytest.approx(1.1 * ETA * 16**exponent)
    assert found.reasons == ()
    nearest = min(FACTORS, key=lambda factor: abs(math.log(factor * 256 / (1.1 * 256**exponent))))
    assert known["learning_rate"][2048] == pytest.approx(nearest * ETA * 256)


def test_the_interval_is_students():
    bends = dict(zip(SIZES, (0.1, -0.2, 0.15, 0.05, -0.1), strict=True))
    found = landscape(rates_of(lambda size, rate: parabola(1)(size, rate * math.exp(bends[size]))), SMALL)
    x, y = np.log(SIZES), np.log([1.1 * ETA * size / 8 * math.exp(-bends[size]) for size in SIZES])
    slope, level = np.polyfit(x, y, 1)
    error = math.sqrt(((y - level - slope * x) ** 2).sum() / 3 / ((x - x.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, 3) * error
    assert (found.exponent, *found.interval) == pytest.approx((slope, slope - half, slope + half))


def test_cells_and_best_rates_by_hand():
    """Two seeds are averaged, a rate at which a run diverged is not among the best, and an edge has no peak."""
    table = {0.002: 0.7, 0.004: 0.795, 0.008: 0.8, 0.016: 0.6, 0.032: 0.9}
    runs = {
        (f"base_lr_{rate / 4:g}", 32, seed): (accuracy + 0.001 * seed, {"base_lr": rate / 4, "lr_scaling": "linear"})
        for rate, accuracy in table.items()
        for seed in (0, 1)
    }
    rising = {(f"base_lr_{rate:g}", 8, 0): (0.76 + 10 * rate, {"base_lr": rate}) for rate in (0.001, 0.002, 0.004)}
    few = {(f"base_lr_{rate:g}", 64, 0): (0.5, {"base_lr": rate}) for rate in (0.001, 0.002)}
    found = landscape(study_of(runs | rising | few, diverged=[("base_lr_0.008", 32, 1)]), SMALL)
    cells = found.cells.set_index(["batch_size", "learning_rate"])
    assert [*cells.index.unique("batch_size")] == [8, 32]
    assert cells.loc[(32, 0.032)].tolist() == [0.9, 1, 1]
    assert cells.loc[(32, 0.004)].tolist() == [pytest.approx(0.7955), 2, 0]
    of_32, of_8 = (found.best.set_index("batch_size").loc[size] for size in (32, 8))
    assert (of_32["learning_rate"], of_32["accuracy"], of_32["seeds"]) == (0.008, pytest.approx(0.8005), 2)
    assert (of_32["low"], of_32["high"]) == (0.004, 0.008)
    assert found.at_rule(32, "linear")["accuracy"] == pytest.approx(0.8005)
    assert found.at_rule(32, "sqrt")["accuracy"] == pytest.approx(0.7955)
    assert found.at_rule(64, "linear") is None
    logs, three = np.log([0.5, 1, 2]), np.array([0.795, 0.8, 0.6])
    a, b, _ = np.polyfit(logs, three, 2)
    assert of_32["peak"] == pytest.approx(0.008 * math.exp(-b / (2 * a)))
    assert of_8["learning_rate"] == 0.004
    assert math.isnan(of_8["peak"])
    assert found.exponent is None
    assert [reason.kind for reason in found.reasons] == ["best at the edge", "too few peaks"]


@pytest.mark.parametrize(("loss", "fitted"), [(0.049, (8, 32, 128, 512, 2048)), (0.051, (8, 32, 128, 512))])
def test_where_every_rate_fails_the_best_of_them_says_nothing(loss, fitted):
    """At 2048 the best rate is a sixteenth of that of the line through the others."""

    def truth(size, rate):
        return parabola(1)(size, rate * 16) - loss if size == 2048 else parabola(1)(size, rate)

    found = landscape(rates_of(truth, factors=(1 / 32, 1 / 16, 0.125, *FACTORS)), SMALL)
    assert found.fitted == fitted
    assert (found.exponent == pytest.approx(1)) == (2048 not in fitted)
    assert [reason.kind for reason in found.reasons] == ([] if 2048 in fitted else ["every rate fails"])


def test_a_rate_beside_the_best_that_diverged_leaves_no_peak():
    rates = rates_of(parabola(1), diverged=[(rate_name(2), 512, 0)])
    found = landscape(rates, SMALL)
    assert math.isnan(found.best.set_index("batch_size")["peak"][512])
    assert found.exponent == pytest.approx(1)
    assert str(found.reasons[0]) == "at 512 the rates tried do not enclose the best one"
    assert sentences.landscape(findings.analyse(SMALL, rates=rates))[1] == (
        "At 512 the rates tried do not enclose the best one; the exponent rests on the other batch sizes."
    )


def test_runs_of_the_study_belong_to_it():
    """Those of the same warm-up, those at the base rate and those of the reference; each run counts once."""
    own = study_of(
        {("baseline_small", 8, 0): (0.8, {}), ("baseline_large", 128, 0): (0.3, {})}
        | {("scaled_lr", 128, 0): (0.99, {}), ("gradual_warmup_scaled_lr", 128, 0): (0.7, {})}
        | {("gradual_warmup_scaled_lr", 128, 1): (0.6, {})}
    )
    found = landscape(rates_of(lambda size, rate: 0.5, sizes=(128,)), own)
    cells = found.cells.set_index("learning_rate")
    assert cells.index.tolist() == pytest.approx([0.002, 0.008, 0.016, 0.032, 0.064, 0.128])
    assert cells.loc[0.002, "accuracy"] == 0.3
    assert (cells.loc[0.032, "accuracy"], cells.loc[0.032, "seeds"]) == (pytest.approx(0.65), 2)


@pytest.mark.parametrize("differing", [{"width": 0.5}, {"decay": "linear"}, {"optimizer": "adamw"}, {"epochs": 4}])
def test_runs_with_other_settings_do_not_count(differing):
    assert landscape(rates_of(parabola(1), **differing), SMALL) is None


def test_every_run_diverged():
    runs = [(rate_name(factor), size, 0) for factor in FACTORS for size in SIZES]
    assert landscape(rates_of(parabola(1), diverged=runs), SMALL) is None


def test_nothing_recorded():
    empty = Study.of(pd.DataFrame(columns=list(synthetic.COLUMNS)))
    assert landscape(empty, SMALL) is None
    assert landscape(rates_of(parabola(1)).only([]), SMALL) is None


def test_the_tuned_mode_keeps_the_accuracy_where_the_rule_loses_it():
    """Best rate ∝ √B: the linear rule falls, its best rate does not, and a mode "tuned rate" has the verdict."""
    sizes = (16, 32, 64, 128, 256)
    truth = parabola(0.5, 0.004)
    rule = {
        ("gradual_warmup_scaled_lr", size, seed): (truth(size, ETA * size / 8), {}) for size in sizes for seed in (0, 1)
    }
    small = {("baseline_small", size, seed): (truth(8, ETA), {}) for size in (4, 8) for seed in (0, 1)}
    study = study_of(small | rule)
    rates = rates_of(truth, sizes=(8, *sizes), factors=(0.125, *FACTORS))
    found = landscape(rates, study)
    assert sorted(set(found.tuned.runs["batch_size"])) == list(sizes)  # below, the reference's are everybody's
    both = findings.analyse(with_tuned(study, found))
    assert list(both.modes) == ["gradual_warmup_scaled_lr", "tuned rate"]
    assert both.modes["tuned rate"].mode == TUNED
    linear, tuned = (both.modes[name].breaking_points["accuracy"] for name in both.modes)
    assert linear.estimate < 150
    assert tuned.between == (256, None)
    assert both.finals_of("tuned rate")["batch_size"].unique().tolist() == [4, 8, *sizes]
    effect = both.effects[-1]
    assert (effect.name, effect.differences["batch_size"].tolist()) == ("tuning the rate", list(sizes))
    assert both.study.setting("base_lr") == ETA
    assert findings.analyse(study, rates=rates).trained.runs.equals(study.runs)
    alone = findings.analyse(study).modes["gradual_warmup_scaled_lr"].breaking_points["accuracy"]
    assert linear.estimate == pytest.approx(alone.estimate, rel=0.2)


def test_a_run_at_the_rate_of_the_rule_is_no_pair_with_itself():
    """At 16 the rule's own rate is best. At 64 it is half of it, in one seed: there is no interval."""

    def truth(size, rate):
        return 0.8 if round(8 * rate / (ETA * size), 3) == (0.5 if size == 64 else 1) else 0.7

    small = {("baseline_small", 8, seed): (0.8, {}) for seed in (0, 1)}
    rule = {
        ("gradual_warmup_scaled_lr", size, seed): (truth(size, ETA * size / 8), {})
        for size in (16, 64)
        for seed in (0, 1)
    }
    found = findings.analyse(study_of(small | rule), rates=rates_of(truth, sizes=(16, 64)))
    assert sorted(found.landscape.taken) == [("gradual_warmup_scaled_lr", 16, 0), ("gradual_warmup_scaled_lr", 16, 1)]
    (row,) = found.effects[-1].differences.to_dict("records")
    assert (row["batch_size"], row["pairs"]) == (64, 1)
    assert row["difference"] == pytest.approx(0.1)
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])


def test_a_landscape_changes_nothing_of_the_study_beside_it():
    """The runs that both have say once how much the seeds vary."""
    sizes, truth = (16, 64, 256), parabola(0.9)
    small = {("baseline_small", 8, seed): (0.8 + 0.004 * seed, {}) for seed in (0, 1)}
    rule = {
        ("gradual_warmup_scaled_lr", size, seed): (truth(size, ETA * size / 8) + seed * size / 20_000, {})
        for size in sizes
        for seed in (0, 1)
    }
    alone, beside = (findings.analyse(study_of(small | rule), rates=each) for each in (None, rates_of(truth, sizes)))
    assert beside.landscape.taken
    for name, mode in alone.modes.items():
        assert beside.modes[name].breaking_points["accuracy"] == mode.breaking_points["accuracy"]
    assert beside.cells[beside.cells["experiment"] != TUNED.name].equals(alone.cells)


def test_tuned_is_compared_with_the_rule_that_it_tunes():
    modes = {name: MODES[name] for name in ("scaled_lr", "gradual_warmup_scaled_lr")} | {TUNED.name: TUNED}
    assert (TUNED, MODES["gradual_warmup_scaled_lr"]) in comparisons(modes)


def test_in_sentences():
    """Best rate ∝ √B and a batch size too large for all: what breaks is named at each size."""

    def truth(size, rate):
        return parabola(0.5, 0.003)(size, rate) - (0.2 if size == 2048 else 0)

    rates = rates_of(truth, factors=(1 / 32, 1 / 16, 0.125, *FACTORS), diverged=[(rate_name(1), 2048, 0)])
    found = findings.analyse(SMALL, rates=rates)
    assert sentences.landscape(found) == [
        "From 8 to 512 images the best learning rate grows as B^0.50 (95 % interval 0.50 to 0.50); the exponent of "
        "the linear rule is 1, that of the square-root rule 0.5.",
        "At 2048 the best rate tried loses more than 5 points; the exponent rests on the other batch sizes.",
        "At 32 the rate of the linear rule is within 1 point of the best rate tried.",
        "At 128 the linear rule reaches 79.0 %, and 1/4 of its rate, the best tried, 80.0 %.",
        "At 512 the linear rule reaches 77.5 %, and 1/8 of its rate, the best tried, 80.0 %.",
        "At 2048 the linear rule diverges, and 1/16 of its rate, the best tried, 60.0 %.",
        "At 128 and 512 the best rate keeps the accuracy and the linear rule loses it: there the rule breaks, and "
        "not the batch size.",
        "At 2048 no rate tried keeps the accuracy: there the batch size itself is too large for this optimizer.",
    ]
    assert len(sentences.landscape(replace(found, threshold=None))) == 6


@pytest.mark.parametrize("loss", [0.0095, 0.0105, 0.0115])
def test_a_size_within_the_interval_is_not_called_too_large(loss):
    """At 128 the best rate loses as much as the tolerance: on which side of it, chance decides."""
    small = study_of({("baseline_small", 8, seed): (0.7985 + 0.0015 * seed, {}) for seed in (0, 1, 2)})

    def truth(size, rate):
        return parabola(1, 0.003)(size, rate) - {128: loss, 512: 0.2, 2048: 0.5}.get(size, 0)

    found = findings.analyse(small, rates=rates_of(truth))
    low, high = found.modes[TUNED.name].breaking_points["accuracy"].interval
    assert 32 < low < 128 < high < 512
    assert sentences.rule_or_size(found)[-2:] == [
        "At 128 the records do not tell whether the best rate tried keeps the accuracy.",
        "At 512 and 2048 no rate tried keeps the accuracy: there the batch size itself is too large for this "
        "optimizer.",
    ]


def test_without_a_slope_in_sentences():
    found = findings.analyse(SMALL, rates=rates_of(parabola(1), sizes=(8, 32)))
    assert sentences.landscape(found)[0] == (
        "How the best learning rate grows with the batch size is undetermined: the best rate is enclosed at 2 "
        "batch sizes; three are needed."
    )


def test_the_figure_shows_every_cell_and_the_line():
    found = landscape(rates_of(parabola(0.8), diverged=[(rate_name(4), 2048, 0)]), SMALL)
    figure, ax = plt.subplots()
    plots.landscape(ax, found)
    shown = [text.get_text() for text in ax.texts]
    assert len(shown) == len(found.cells) == len(SIZES) * len(FACTORS)
    assert shown.count("×") == 1
    assert sorted(word for word in shown if word != "×") == sorted(
        f"{100 * accuracy:.1f}" for accuracy in found.cells.loc[found.cells["diverged"] == 0, "accuracy"]
    )
    framed = [patch for patch in ax.patches if patch.get_edgecolor()[:3] == (0, 0, 0)]
    for patch, row in zip(framed, found.best.itertuples(), strict=True):
        assert patch.get_x() < row.batch_size < patch.get_x() + patch.get_width()
        assert patch.get_y() < row.learning_rate < patch.get_y() + patch.get_height()
    lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    assert list(lines) == ["linear rule", "square-root rule", "best rate ∝ $B^{0.80}$ (0.80 to 0.80)"]
    assert lines["linear rule"][-1] == pytest.approx((2048, ETA * 256))
    assert lines["square-root rule"][-1] == pytest.approx((2048, ETA * 16))
    assert lines["best rate ∝ $B^{0.80}$ (0.80 to 0.80)"][-1] == pytest.approx((2048, 1.1 * ETA * 256**0.8))
    plt.close(figure)
