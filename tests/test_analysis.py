"""Records to results: tables worked out by hand, SciPy's own intervals, properties."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from batchscale.analysis import statistics, tables
from batchscale.analysis.reasons import Reason
from batchscale.analysis.tables import final, over_seeds, planned_epochs, to_target, unfinished
from batchscale.analysis.threshold import threshold
from batchscale.epoch import COLUMNS, STUDY_COLUMNS
from batchscale.records.study import Study


def table(*runs) -> pd.DataFrame:
    """Runs of (experiment, batch_size, seed, accuracies by epoch)."""
    rows = [
        {"experiment": name, "batch_size": size, "seed": seed, "epoch": epoch, "accuracy": accuracy}
        for name, size, seed, accuracies in runs
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


EPOCHS = table(
    ("baseline_small", 2, 0, [0.3, 0.60]),
    ("baseline_small", 2, 1, [0.3, 0.70]),
    ("baseline_small", 8, 0, [0.4, 0.66]),
    ("baseline_small", 8, 1, [0.4, 0.68]),
    ("scaled_lr", 128, 0, [0.2, 0.5]),
)
STUDY = Study.of(EPOCHS)
RUNS = [*STUDY.runs[tables.RUN].itertuples(index=False, name=None)]
NOTHING = Study.of(pd.DataFrame(columns=list(COLUMNS)))


def more(*tables: pd.DataFrame, **facts) -> Study:
    """Tables of epochs as one study."""
    return Study.of(pd.concat(tables, ignore_index=True), **facts)


def test_over_seeds():
    assert over_seeds(final(STUDY), "accuracy").values.tolist() == [
        ["baseline_small", 2, pytest.approx(0.65), 0.60, 0.70, pytest.approx(0.05 * math.sqrt(2)), 2],
        ["baseline_small", 8, pytest.approx(0.67), 0.66, 0.68, pytest.approx(0.01 * math.sqrt(2)), 2],
        ["scaled_lr", 128, 0.5, 0.5, 0.5, pytest.approx(math.nan, nan_ok=True), 1],
    ]


def test_threshold_is_the_best_mean_less_the_tolerance():
    found = threshold(STUDY)
    assert (found.from_batch_size, found.seeds, found.tolerance) == (8, 2, 0.01)
    assert found.best == pytest.approx(0.67)
    assert found.accuracy == pytest.approx(0.66)
    assert threshold(STUDY, tolerance=0.1).accuracy == pytest.approx(0.57)
    assert found.records == ("baseline_small_bs8_seed0", "baseline_small_bs8_seed1")
    renamed = EPOCHS.replace({"experiment": {"baseline_small": "baseline_large", "scaled_lr": "baseline_small"}})
    assert threshold(Study.of(renamed)).from_batch_size == 128
    assert threshold(STUDY.without([run for run in RUNS if run[0] == "baseline_small"])) is None


def test_a_killed_run_is_not_final_and_an_extended_one_makes_no_other_unfinished():
    records = more(EPOCHS, table(("scaled_lr", 256, 0, [0.9]), ("scaled_lr", 512, 0, [0.1, 0.2, 0.9])))
    # 1, 2 and 3 are equally common
    assert planned_epochs(records.epochs).to_dict() == {"baseline_small": 2, "scaled_lr": 3}
    records = more(records.epochs, table(("scaled_lr", 1024, 0, [0.1, 0.3])))
    assert planned_epochs(records.epochs)["scaled_lr"] == 2
    of_mode = final(records).query("experiment == 'scaled_lr'")
    assert of_mode[["batch_size", "accuracy"]].values.tolist() == [[128, 0.5], [512, 0.2], [1024, 0.3]]
    assert unfinished(records)[["batch_size", "epoch"]].values.tolist() == [[256, 1]]


def test_threshold_of_the_mean_and_its_spread():
    best, mean = threshold(STUDY), threshold(STUDY, of="mean")
    assert best.standard_deviation == pytest.approx(0.01 * math.sqrt(2))
    assert sorted(best.by_seed) == pytest.approx([0.66, 0.68])
    assert (mean.from_batch_size, mean.seeds, mean.best) == (None, 2, pytest.approx(0.66))
    assert sorted(mean.by_seed) == pytest.approx([0.63, 0.69])  # seed 0: (0.60 + 0.66)/2, seed 1: (0.70 + 0.68)/2
    one_more = more(EPOCHS, table(("baseline_small", 2, 2, [0.3, 0.8])))
    mean = threshold(one_more, of="mean")  # batch sizes count once: (0.70 + 0.67)/2
    assert mean.best == pytest.approx(0.685)
    assert sorted(mean.by_seed)[2] == pytest.approx(0.685 + 0.1)  # only at B = 2, and 0.1 above the others there
    single = threshold(one_more.where(seed=0))
    assert np.isnan(single.standard_deviation)
    assert np.isnan(single.interval).all()
    with pytest.raises(ValueError, match="best or mean"):
        threshold(STUDY, of="median")


def test_threshold_without_a_diverged_run():
    # Both runs of B = 8 were to go on: their rows are no final ones.
    failed = Study.of(EPOCHS, diverged=[("baseline_small", 8, 0), ("baseline_small", 8, 1)])
    assert threshold(failed).from_batch_size == 2
    assert {*zip(final(failed)["experiment"], final(failed)["batch_size"], strict=True)} == {
        ("baseline_small", 2),
        ("scaled_lr", 128),
    }
    assert unfinished(failed).empty  # they are failures, which is more than unfinished


def timed(*runs) -> pd.DataFrame:
    """`table`, with ten updates and two seconds an epoch."""
    records = table(*runs)
    return records.assign(updates=10 * records["epoch"], running_time=2.0 * records["epoch"])


def test_to_target():
    records = timed(
        ("mine", 8, 0, [0.2, 0.6, 0.8]),  # half way between epochs 2 and 3
        ("mine", 8, 1, [0.2, 0.7, 0.1]),  # exactly there, and gone again
        ("mine", 8, 2, [0.2, 0.6]),  # never
        ("mine", 8, 3, [0.9, 0.1]),  # before the first measurement
        ("mine", 8, 4, [0.5, math.nan, 0.9]),  # nothing to interpolate with
        ("mine", 8, 5, [math.nan, math.nan]),
    )
    found = to_target(Study.of(records, diverged=[("mine", 8, 2), ("mine", 16, 0)]), 0.7)
    assert found["censored"].tolist() == ["no", "no", "right", "left", "no", "right", "right"]
    assert found["diverged"].tolist() == [False, False, True, False, False, False, True]
    expected = [2.5, 2.0, math.nan, 1.0, 3.0, math.nan, math.nan]
    for column, factor in (("epochs", 1), ("updates", 10), ("running_time", 2)):
        np.testing.assert_allclose(found[column], np.multiply(expected, factor))
    for column, factor in (("epochs_trained", 1), ("updates_trained", 10), ("time_trained", 2)):
        np.testing.assert_allclose(found[column], np.multiply([3, 3, 2, 2, 3, 2, 0], factor))


def test_means_to_target_are_of_whole_groups():
    records = timed(*[("mine", 8, seed, [0.0] * length + [1.0]) for seed, length in enumerate([1, 7])])
    records = more(records, timed(("mine", 16, 0, [0.0, 1.0]), ("mine", 16, 1, [0.0, 0.5])))
    means = tables.means_to_target(to_target(records, 1.0))
    assert means["updates"].tolist() == [pytest.approx(40), pytest.approx(np.nan, nan_ok=True)]  # √(20·80)
    assert means["running_time"].iloc[0] == pytest.approx(8)
    assert means[["runs", "reached"]].values.tolist() == [[2, 2], [2, 1]]


def test_to_target_from_the_five_columns():
    records = timed(("mine", 8, 0, [0.2, 0.6, 0.8]))
    alone = records[list(STUDY_COLUMNS)].reindex(columns=list(COLUMNS)).assign(experiment="mine", seed=0)
    (run,) = to_target(Study.of(alone), 0.7).to_dict("records")
    assert (run["epochs"], run["running_time"]) == (pytest.approx(2.5), pytest.approx(5.0))
    assert np.isnan([run["updates"], run["updates_trained"]]).all()
    steps, relative = tables.updates_or_bounds(to_target(Study.of(alone), 0.7))
    assert (steps.tolist(), relative) == ([pytest.approx(2.5 / 8)], True)


fractions = st.integers(0, 10_000).map(lambda images: images / 10_000)
accuracies = st.lists(fractions, min_size=1, max_size=8)


@given(accuracies, fractions.filter(bool), fractions.filter(bool))
@settings(deadline=None)
def test_a_higher_target_takes_longer(values, one, other):
    low, high = sorted([one, other])
    study = Study.of(timed(("mine", 8, 0, values)))
    runs = [to_target(study, target).iloc[0] for target in (low, high)]
    for run, target in zip(runs, (low, high), strict=True):
        assert (run["censored"] == "right") == (max(values) < target)
        if run["censored"] == "no":
            before = math.ceil(run["epochs"]) - 1
            assert max(values[:before], default=0) < target  # not reached earlier
            assert run["updates"] == pytest.approx(10 * run["epochs"])
    if runs[1]["censored"] != "right":
        assert runs[0]["epochs"] <= runs[1]["epochs"] + 1e-9


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
@settings(deadline=None)
def test_comparisons_are_those_of_whole_images(ours, best, tolerance):
    """Rounding decides nothing: not when a tolerance is subtracted, nor when the loss is, nor of a mean over seeds."""
    expected = ours >= best - tolerance
    ours, best, tolerance = (images / 10_000 for images in (ours, best, tolerance))
    assert statistics.at_least(ours, best - tolerance) == expected
    assert statistics.at_least(tolerance, best - ours) == expected
    assert statistics.at_least(np.mean([ours, ours, ours]), np.mean([best] * 7) - tolerance) == expected


@given(st.integers(100, 10_000))
@example(5006)  # 0.5006 − 0.01 is more than 0.4906 as a float
@settings(deadline=None)
def test_a_target_is_reached_by_an_accuracy_that_is_equal_to_it(images):
    """The target is a threshold: the best accuracy less the tolerance."""
    equal, less = (images - 100) / 10_000, max(images - 101, 0) / 10_000
    runs = to_target(Study.of(timed(("mine", 8, 0, [0, equal]), ("mine", 8, 1, [less]))), images / 10_000 - 0.01)
    if images > 100:
        assert runs["censored"].tolist() == ["no", "right"]
        assert runs["epochs"].iloc[0] == pytest.approx(2)


def test_of_equal_means_the_smallest_batch_size_is_the_reference():
    """Whatever the order in which the seeds are added up."""
    one, other = (0.7871, 0.7913, 0.7902), (0.7871, 0.7902, 0.7913)  # the float of the second mean is higher
    for first, second in ((one, other), (other, one)):
        runs = [
            ("baseline_small", size, seed, [value])
            for size, of in ((4, first), (16, second))
            for seed, value in enumerate(of)
        ]
        assert threshold(Study.of(table(*runs))).from_batch_size == 4
    assert statistics.first_best(pd.Series([0.1 + 0.2, 0.3, 0.3001], index=[8, 16, 32])) == 32
    assert statistics.first_best(pd.Series([0.3, 0.1 + 0.2], index=[8, 16])) == 8


def test_intervals_are_students_and_welchs():
    one, other = [0.61, 0.63, 0.60], [0.70, 0.65, 0.66, 0.71]
    expected = stats.t.interval(0.95, 2, np.mean(one), stats.sem(one))
    assert statistics.mean_interval(one) == pytest.approx(expected)
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert statistics.difference_interval(one, other)[1:] == pytest.approx((welch.low, welch.high))
    assert np.isnan(statistics.mean_interval([1.0])).all()
    assert np.isnan(statistics.difference_interval([1.0], other)[1:]).all()
    assert statistics.difference_interval([1, 1], [2, 2]) == (-1, -1, -1)
    assert statistics.difference_interval([1, math.inf], [2, 2]) == (math.inf,) * 3
    assert np.isnan(statistics.difference_interval([math.inf], [math.inf])).all()


def test_local_slopes():
    # 8 → 16 halves the updates; 16 → 64 divides them by 2, and at 128 one of two runs never gets there.
    runs = to_target(
        Study.of(
            timed(
                *[("mine", 8, seed, [0.0] * 7 + [1.0]) for seed in (0, 1)],
                *[("mine", 16, seed, [0.0] * 3 + [1.0]) for seed in (0, 1)],
                *[("mine", 64, seed, [0.0, 1.0]) for seed in (0, 1)],
                ("mine", 128, 0, [0.0, 1.0]),
                ("mine", 128, 1, [0.0] * 8),
                ("mine", 256, 0, [0.0, 1.0]),
            )
        ),
        1.0,
    )
    slopes = tables.local_slopes(runs)
    assert slopes[["from_batch_size", "to_batch_size"]].values.tolist() == [[8, 16], [16, 64], [64, 128], [128, 256]]
    assert slopes["slope"].tolist()[:2] == [pytest.approx(-1), pytest.approx(-0.5)]
    assert slopes["regime"].tolist()[:2] == ["perfect scaling", "diminishing returns"]
    assert slopes["low"].tolist()[:3] == [pytest.approx(-1), pytest.approx(-0.5), pytest.approx(1)]  # log₂ √(20·80)/20
    assert np.isnan(slopes["slope"].iloc[2:]).all()
    assert np.isnan(slopes["low"].iloc[3])  # of two bounds nothing is known
    assert slopes["regime"].isna().tolist() == [False, False, True, True]
    assert tables.regime(-0.75) == "perfect scaling"
    assert tables.regime(-0.25) == "maximal data parallelism"


def reference_frontier(points: list[tuple[float, float]]) -> list[bool]:
    """Dominated: another is at least as good in both and better in one."""
    return [
        any(a >= accuracy and t <= time and (a, t) != (accuracy, time) for a, t in points) for accuracy, time in points
    ]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
@settings(deadline=None)
def test_frontier(points):
    finals = pd.DataFrame(points, columns=["accuracy", "running_time"])
    finals = finals.assign(experiment="mine", batch_size=range(len(points)), seed=0)
    found = tables.frontier(finals)
    assert len(found) == len(points)
    assert found["running_time"].is_monotonic_increasing
    assert found.sort_values("batch_size")["dominated"].tolist() == reference_frontier(points)
    for row in found[found["dominated"]].itertuples():
        accuracy, time = points[row.dominated_by[1]]
        assert accuracy >= row.accuracy
        assert time <= row.running_time
        assert not any(a > accuracy and t <= row.running_time for a, t in points)  # the most accurate of these


def test_equals_on_the_frontier_are_equals_in_decimals():
    """0.1 + 0.2 and 0.3 are one accuracy and one time; a hundredth of an image more or a microsecond less is better."""
    columns = ["accuracy", "running_time", "experiment", "batch_size", "seed"]

    def dominated(*points: tuple[float, float]) -> list[bool]:
        finals = pd.DataFrame([(*point, "mine", place, 0) for place, point in enumerate(points)], columns=columns)
        return tables.frontier(finals).sort_values("batch_size")["dominated"].tolist()

    assert dominated((0.1 + 0.2, 0.3), (0.3, 0.1 + 0.2)) == [False, False]
    assert dominated((0.3, 0.1 + 0.2), (0.1 + 0.2, 0.1 + 0.2), (0.3, 0.3)) == [False, False, False]
    assert dominated((0.3, 0.3), (0.300001, 0.1 + 0.2)) == [True, False]
    assert dominated((0.3, 0.3), (0.1 + 0.2, 0.299999)) == [True, False]
    guessing = pd.DataFrame([(0.1 + 0.05, 1.0, "mine", 8, 0)], columns=columns)
    assert tables.frontier(guessing, least=0.15).empty


def test_frontier_without_what_has_learned_nothing():
    finals = pd.DataFrame(
        [("fast", 8, 0, 0.1, 1.0), ("fast", 16, 0, 0.15, 1.0), ("slow", 8, 0, 0.4, 9.0), ("slow", 16, 0, 0.1, 9.0)],
        columns=["experiment", "batch_size", "seed", "accuracy", "running_time"],
    )
    assert tables.frontier(finals)["dominated"].tolist() == [False, True, False, True]
    found = tables.frontier(finals, least=0.15)  # it has to be more than that
    assert found[["experiment", "batch_size", "dominated"]].values.tolist() == [["slow", 8, False]]
    assert tables.frontier(finals, least=0.5).empty


def test_paired_differences():
    ours, theirs = [0.60, 0.64, 0.66, 0.50], [0.50, 0.60, 0.61]
    records = table(
        *[("scaled_lr", 128, seed, [value]) for seed, value in enumerate(ours)],
        *[("baseline_large", 128, seed, [value]) for seed, value in enumerate(theirs)],
        ("scaled_lr", 256, 0, [0.5]),
        ("baseline_large", 256, 0, [0.4]),
        ("scaled_lr", 512, 0, [0.5]),
    )
    first, second = tables.paired_differences(records, "scaled_lr", "baseline_large").to_dict("records")
    paired = stats.ttest_rel(ours[:3], theirs).confidence_interval(0.95)
    assert (first["batch_size"], first["pairs"]) == (128, 3)
    assert (first["low"], first["high"]) == pytest.approx((paired.low, paired.high))
    assert first["difference"] == pytest.approx(np.mean(np.subtract(ours[:3], theirs)))
    assert (second["batch_size"], second["pairs"]) == (256, 1)
    assert np.isnan(second["difference"])
    assert first["reason"] is None
    assert second["reason"] == Reason.of("too few pairs", pairs=1)
    assert str(second["reason"]) == "1 pair of equal seeds, where two are needed"


def test_noise_scales():
    """An epoch that is not measurable lies above all others; a run that never measured is not there."""
    records = timed(
        ("mine", 8, 0, [0.1] * 3), ("mine", 8, 1, [0.1]), ("mine", 8, 2, [0.1] * 4), ("mine", 8, 3, [0.1] * 3)
    )
    nan = math.nan
    records["noise_scale"] = [20.0, 10.0, 40.0, nan, nan, 10.0, nan, 30.0, 10.0, nan, 20.0]
    rows = tables.noise_scales(records).drop(columns=tables.RUN[:2])
    expected = pd.DataFrame(
        # seed 2: between 30 and +∞ the median is not known
        [(0, 20.0, 10.0, 40.0, 3, 3), (2, nan, 10.0, nan, 4, 2), (3, 20.0, 10.0, nan, 3, 2)],
        columns=["seed", "median", "low", "high", "epochs", "measured"],
    )
    pd.testing.assert_frame_equal(rows, expected)


@pytest.mark.parametrize(
    ("values", "median"),
    [([3, 1], 2), ([math.nan, 1, 2], 2), ([1, math.nan], None), ([math.nan, 1, math.nan], None), ([math.nan], None)],
)
def test_censored_median(values, median):
    assert statistics.censored_median(values) == pytest.approx(math.nan if median is None else median, nan_ok=True)


def test_stems_and_without():
    assert tables.stems(EPOCHS) == [
        *[f"baseline_small_bs{size}_seed{seed}" for size in (2, 8) for seed in (0, 1)],
        "scaled_lr_bs128_seed0",
    ]
    left = STUDY.without([("baseline_small", 2, 1), ("scaled_lr", 128, 0)])
    assert (
        tables.stems(left.epochs)
        == tables.stems(left.runs)
        == [f"baseline_small_bs{run}" for run in ("2_seed0", "8_seed0", "8_seed1")]
    )


def test_no_records():
    assert final(NOTHING).empty
    assert to_target(NOTHING, 0.5).empty
    assert tables.local_slopes(to_target(NOTHING, 0.5)).empty
    assert tables.means_to_target(to_target(NOTHING, 0.5)).empty
    assert tables.frontier(NOTHING.epochs).empty
    assert tables.paired_differences(NOTHING.epochs, "scaled_lr", "baseline_large").empty
    assert tables.noise_scales(NOTHING.epochs).empty
    assert unfinished(NOTHING).empty
    assert over_seeds(NOTHING.epochs, "accuracy").empty
    assert threshold(NOTHING) is None


def test_analysis_and_plots_need_no_torch():
    rooms = ["batchscale.records.study", "batchscale.schedules", "batchscale.modes"]
    rooms += [f"batchscale.analysis.{path.stem}" for path in Path(tables.__file__).parent.glob("[a-z]*.py")]
    assert "batchscale.analysis.findings" in rooms
    assert "batchscale.analysis.plots" in rooms
    code = f"import sys, {', '.join(rooms)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
