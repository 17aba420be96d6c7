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
from batchscale.analysis.accuracies import accuracies as cells_of
from batchscale.analysis.accuracies import moderated
from batchscale.analysis.reasons import Reason
from batchscale.analysis.tables import Beginning, curve, final, over_seeds, planned_epochs, to_target, unfinished
from batchscale.analysis.threshold import Threshold, threshold
from batchscale.epoch import COLUMNS, STUDY_COLUMNS
from batchscale.errors import UserError
from batchscale.modes import MODES
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


def threshold_of(study: Study, tolerance: float = 0.01, of: str | float = "best") -> Threshold | None:
    """That of the small minibatches."""
    finals = final(study)
    return threshold(finals, cells_of(finals, study.diverged), ["baseline_small"], tolerance, of)


def test_threshold_is_the_best_mean_less_optimism_and_tolerance():
    found = threshold_of(STUDY)
    assert (found.from_batch_size, found.seeds, found.tolerance) == (8, 2, 0.01)
    assert found.mean == pytest.approx(0.67)
    assert found.best == pytest.approx(0.67 - found.optimism)
    assert 0 < found.optimism < 0.05  # 2 and 8 differ by no more than their seeds
    assert found.accuracy == pytest.approx(found.best - 0.01)
    assert found.standard_deviation == pytest.approx(0.01 * math.sqrt(2))
    assert threshold_of(STUDY, tolerance=0.1).accuracy == pytest.approx(found.best - 0.1)
    assert found.records == ("baseline_small_bs8_seed0", "baseline_small_bs8_seed1")
    alone = threshold_of(STUDY.without([("baseline_small", 2, 0), ("baseline_small", 2, 1)]))
    assert (alone.best, alone.optimism) == (pytest.approx(0.67), 0)
    assert alone.interval == pytest.approx(stats.t.interval(0.95, 1, 0.67, stats.sem([0.66, 0.68])))
    renamed = EPOCHS.replace({"experiment": {"baseline_small": "baseline_large", "scaled_lr": "baseline_small"}})
    assert threshold_of(Study.of(renamed)).from_batch_size == 128
    assert threshold_of(STUDY.without([run for run in RUNS if run[0] == "baseline_small"])) is None


def test_a_killed_run_is_not_final_and_an_extended_one_makes_no_other_unfinished():
    records = table(
        *[("mine", 128, seed, [0.1, 0.5]) for seed in range(3)],
        ("mine", 128, 3, [0.1, 0.2, 0.9]),  # extended
        ("mine", 128, 4, [0.9]),  # killed
        ("other", 128, 0, [0.1] * 5),
    )
    assert planned_epochs(Study.of(records)).to_dict() == {("mine", 128): 2, ("other", 128): 5}
    of_mode = final(Study.of(records)).query("experiment == 'mine'")
    assert of_mode[["seed", "epoch", "accuracy"]].values.tolist() == [
        [0, 2, 0.5],
        [1, 2, 0.5],
        [2, 2, 0.5],
        [3, 2, 0.2],
    ]
    assert unfinished(Study.of(records))[["experiment", "seed", "epoch"]].values.tolist() == [["mine", 4, 1]]
    equal = table(("mine", 8, 0, [0.1]), ("mine", 8, 1, [0.1, 0.2]))
    assert planned_epochs(Study.of(equal)).tolist() == [2]  # of equally common lengths the longest


def lengths(*runs: tuple[int, int], status: str | None = None) -> dict[int, float]:
    """Planned epochs by batch size, of runs of (batch size, epochs); `status` of all that have a sidecar."""
    epochs = table(*[("mine", size, seed, [0.5] * length) for seed, (size, length) in enumerate(runs)])
    beside = [
        {"status": status, "experiment": {"name": "mine", "batch_size": size, "seed": seed}}
        for seed, (size, _) in enumerate(runs)
        if status
    ]
    planned = planned_epochs(Study.of(epochs, sidecars=beside))
    return {int(size): length for (_, size), length in planned.items()}


def test_each_batch_size_may_have_been_trained_for_another_number_of_epochs():
    """As in studies with a fixed number of updates, or a longer warm-up of the large minibatches."""
    assert lengths((8, 3), (16, 4), (32, 6)) == {8: 3, 16: 4, 32: 6}
    assert lengths((8, 6), (16, 4), (32, 3)) == {8: 6, 16: 4, 32: 3}
    # Shorter than a smaller and a larger one: it was not trained to its end, which was that of the shorter of the two.
    assert lengths((8, 5), (16, 2), (32, 4)) == {8: 5, 16: 4, 32: 4}
    assert lengths((8, 5), (16, 2), (32, 1), (64, 3)) == {8: 5, 16: 3, 32: 3, 64: 3}
    # Where sidecars say that every run is complete, that was so planned.
    assert lengths((8, 5), (16, 2), (32, 4), status="complete") == {8: 5, 16: 2, 32: 4}
    # Where all are under way, the mode's longest of equally common ones is the best guess for each.
    assert lengths((8, 5), (16, 2), (32, 4), status="running") == {8: 5, 16: 5, 32: 5}


def test_runs_under_way_say_nothing_beside_others():
    epochs = table(
        *[("mine", 8, seed, [0.5] * 2) for seed in (0, 1)], ("mine", 8, 2, [0.5] * 5), ("mine", 16, 3, [0.5])
    )
    beside = [
        {
            "status": "complete" if seed == 2 else "running",
            "experiment": {"name": "mine", "batch_size": size, "seed": seed},
        }
        for size, seed in ((8, 0), (8, 1), (8, 2), (16, 3))
    ]
    study = Study.of(epochs, sidecars=beside)
    assert planned_epochs(study).to_dict() == {("mine", 8): 5, ("mine", 16): 5}
    assert final(study)["seed"].tolist() == [2]
    assert unfinished(study)["seed"].tolist() == [0, 1, 3]


def test_updates_take_the_place_of_epochs():
    """In a log without epochs; in a table of final accuracies there is neither, and every row is final."""
    log = table(("mine", 8, 0, [0.5, 0.6]), ("mine", 8, 1, [0.5, 0.7]), ("mine", 8, 2, [0.9]))
    log = log.assign(updates=100.0 * log["epoch"], epoch=math.nan)
    assert planned_epochs(Study.of(log)).tolist() == [200]
    assert final(Study.of(log))["accuracy"].tolist() == [0.6, 0.7]
    results = table(("mine", 8, 0, [0.5]), ("mine", 16, 0, [0.6])).assign(epoch=math.nan)
    assert final(Study.of(results))["accuracy"].tolist() == [0.5, 0.6]
    assert unfinished(Study.of(results)).empty


def test_final_accuracy_is_a_mean_over_the_last_epochs():
    epochs = table(("mine", 8, 0, [0.2, 0.4, 0.6, 0.8]), ("mine", 8, 1, [0.1, 0.2, 0.3, 0.5]), ("mine", 8, 2, [0.3]))
    epochs = epochs.assign(test_loss=10 * epochs["accuracy"], running_time=2.0 * epochs["epoch"])
    study = Study.of(epochs)
    for count, expected in ((1, [0.8, 0.5]), (2, [0.7, 0.4]), (4, [0.5, 0.275]), (9, [0.5, 0.275])):
        rows = final(study, count)
        assert rows["accuracy"].tolist() == pytest.approx(expected)
        assert rows["test_loss"].tolist() == pytest.approx(np.multiply(10, expected))
        # How long it took, and when, is that of the end.
        assert rows[["seed", "epoch", "running_time"]].values.tolist() == [[0, 4, 8], [1, 4, 8]]
    extended = more(epochs, table(("mine", 8, 3, [0.2, 0.4, 0.6, 0.8, 0.0, 0.0])))
    assert final(extended, 2)["accuracy"].tolist() == pytest.approx([0.7, 0.4, 0.7])


def test_threshold_of_the_mean():
    mean = threshold_of(STUDY, of="mean")
    assert (mean.from_batch_size, mean.seeds, mean.best, mean.optimism) == (None, 2, pytest.approx(0.66), 0)
    one_more = more(EPOCHS, table(("baseline_small", 2, 2, [0.3, 0.8])))
    assert threshold_of(one_more, of="mean").best == pytest.approx(0.685)  # batch sizes count once: (0.70 + 0.67)/2
    single = threshold_of(one_more.where(seed=0))
    assert np.isnan(single.standard_deviation)
    assert np.isnan(single.interval).all()
    assert (single.best, single.from_batch_size) == (0.66, 8)
    with pytest.raises(UserError, match="'median'; it must be best, mean, or a fraction"):
        threshold_of(STUDY, of="median")


def test_threshold_without_a_diverged_run():
    # Both runs of B = 8 were to go on: their rows are no final ones.
    failed = Study.of(EPOCHS, diverged=[("baseline_small", 8, 0), ("baseline_small", 8, 1)])
    assert threshold_of(failed).from_batch_size == 2
    assert threshold_of(Study.of(EPOCHS, diverged=[("baseline_small", 8, 7)])).from_batch_size == 2  # one of three
    assert {*zip(final(failed)["experiment"], final(failed)["batch_size"], strict=True)} == {
        ("baseline_small", 2),
        ("scaled_lr", 128),
    }
    assert unfinished(failed).empty  # they are failures, which is more than unfinished


def test_a_curve_begins_with_the_runs_of_the_reference():
    runs = pd.DataFrame(
        [
            ("baseline_small", 2, 0, 0),
            ("baseline_small", 8, 0, 1),
            ("baseline_small", 32, 0, 2),
            ("baseline_small", 32, 1, 3),
            ("baseline_small", 64, 0, 4),
            ("scaled_lr", 4, 0, 5),
            ("scaled_lr", 32, 0, 6),
            ("scaled_lr", 128, 0, 7),
            ("other", 16, 0, 8),
        ],
        columns=["experiment", "batch_size", "seed", "updates"],
    )

    def found(name: str, *beginning) -> list[int]:
        return curve(runs, MODES[name], Beginning(*beginning))["updates"].tolist()

    small = ("baseline_small",)
    assert found("scaled_lr", small, 32, 8) == [1, 6, 3, 7]  # its own run counts where there are two of one seed
    assert found("scaled_lr", small, 32, 2) == [0, 5, 1, 6, 3, 7]
    assert found("scaled_lr", small, math.inf, 32) == [6, 3, 4, 7]
    assert found("scaled_lr") == [5, 6, 7]
    assert found("baseline_large", small, 32, 8) == [1, 2, 3]
    assert found("scaled_lr", ("baseline_small", "other"), 16, 8) == [1, 8, 6, 7]
    assert found("baseline_small", small, 32, 8) == [1, 2, 3, 4]  # of a reference all are its own
    # A table by batch size has no seeds: where the mode has the batch size, its own row counts.
    by_size = runs.drop(columns="seed").drop_duplicates(["experiment", "batch_size"])
    assert curve(by_size, MODES["scaled_lr"], Beginning(small, 32, 8))["updates"].tolist() == [1, 6, 7]
    assert curve(runs.iloc[:0], MODES["scaled_lr"], Beginning(small, 32, 8)).empty


def test_of_two_rows_of_a_curve_for_a_batch_size_the_one_of_more_runs_counts():
    """As where the first seed was recorded as the mode's, and the others are the reference's alone."""
    cells = pd.DataFrame(
        [
            ("baseline_small", 4, 3, 0, 0.1),
            ("baseline_small", 8, 3, 0, 0.2),
            ("baseline_small", 16, 3, 0, 0.3),
            ("baseline_small", 32, 3, 0, 0.4),
            ("baseline_small", 64, 3, 0, 0.5),
            ("scaled_lr", 4, 3, 0, 0.6),
            ("scaled_lr", 8, 1, 0, 0.7),
            ("scaled_lr", 16, 2, 1, 0.8),  # one that diverged is a run as well
            ("scaled_lr", 64, 1, 0, 0.9),  # the reference's are no longer the mode's
        ],
        columns=["experiment", "batch_size", "seeds", "diverged", "accuracy"],
    )
    found = curve(cells, MODES["scaled_lr"], Beginning(("baseline_small",), 32))
    assert found["accuracy"].tolist() == [0.6, 0.2, 0.8, 0.4, 0.9]


def test_seconds_per_update():
    """By hand: the median over the epochs of a run, over its runs the median of the logarithms, and their deviation."""
    first = table(("a", 8, 0, [0.1] * 3)).assign(updates=[10, 20, 30], running_time=[1.0, 21.0, 24.0])
    second = table(("b", 8, 0, [0.1] * 2)).assign(updates=[10, 20], running_time=[2.7, 5.4])
    third = table(("b", 16, 0, [0.1] * 2)).assign(updates=[5, 10], running_time=[4.0, 8.0])
    found = tables.seconds_per_update(more(first, second, third).epochs)
    assert found["batch_size"].tolist() == [8, 16]
    np.testing.assert_allclose(found["seconds"], [math.sqrt(0.3 * 0.27), 0.8])  # epochs of 1, 20 and 3 s: 0.3 s
    deviation = math.log(0.3 / 0.27) / math.sqrt(2)
    np.testing.assert_allclose(found["error"], [deviation / math.sqrt(2), deviation])
    alone = tables.seconds_per_update(more(first, third).epochs)
    assert alone["error"].isna().all()


def test_seconds_per_update_of_incomplete_records():
    first = table(("a", 8, 0, [0.1] * 3)).assign(updates=[10, 20, 30], running_time=[1.0, 2.0, 3.0])
    for unknown in ({"updates": math.nan}, {"running_time": math.nan}, {"running_time": 0.0}):
        assert tables.seconds_per_update(first.assign(**unknown)).empty
    per_epoch = first.assign(running_time=math.nan, epoch_time=2.0)  # divided by what was trained in an epoch
    assert per_epoch["updates"].diff().iloc[1] == 10
    gap = first.drop(index=1)  # an evaluation every other epoch: 2 s for 20 updates
    np.testing.assert_allclose(tables.seconds_per_update(gap)["seconds"], 0.1)
    np.testing.assert_allclose(tables.seconds_per_update(per_epoch)["seconds"], 0.2)
    assert tables.seconds_per_update(NOTHING.epochs).empty


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
        assert threshold_of(Study.of(table(*runs))).from_batch_size == 4
    assert statistics.first_best(pd.Series([0.1 + 0.2, 0.3, 0.3001], index=[8, 16, 32])) == 32
    assert statistics.first_best(pd.Series([0.3, 0.1 + 0.2], index=[8, 16])) == 8


def test_intervals_of_differences_are_welchs():
    one, other = [0.61, 0.63, 0.60], [0.70, 0.65, 0.66, 0.71]
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert statistics.difference_interval(one, other)[1:] == pytest.approx((welch.low, welch.high))
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
    more = pd.concat(
        [finals, finals.iloc[[2]].assign(seed=1, accuracy=0.15)]
    )  # one seed is dead, however good the other
    assert tables.frontier(more, least=0.15).empty


def pairs(differences: dict[int, list[float]], theirs: float = 0.5) -> pd.DataFrame:
    """Runs of two modes whose differences at equal seeds are these."""
    return table(
        *[
            (name, size, seed, [theirs + (difference if name == "scaled_lr" else 0)])
            for size, of_size in differences.items()
            for seed, difference in enumerate(of_size)
            for name in ("scaled_lr", "baseline_large")
        ]
    )


def test_paired_differences_of_one_batch_size_are_students():
    ours, theirs = [0.60, 0.64, 0.66, 0.50], [0.50, 0.60, 0.61]
    records = table(
        *[("scaled_lr", 128, seed, [value]) for seed, value in enumerate(ours)],
        *[("baseline_large", 128, seed, [value]) for seed, value in enumerate(theirs)],
        ("scaled_lr", 512, 0, [0.5]),
    )
    (row,) = tables.paired_differences(records, "scaled_lr", "baseline_large").to_dict("records")
    paired = stats.ttest_rel(ours[:3], theirs).confidence_interval(0.95)
    assert (row["batch_size"], row["pairs"], row["reason"]) == (128, 3, None)
    assert row["difference"] == pytest.approx(np.mean(np.subtract(ours[:3], theirs)))
    assert (row["low"], row["high"]) == pytest.approx((paired.low, paired.high))


def test_paired_differences_share_their_variances():
    """Of batch sizes that lose about as much; a single pair has the deviation of the others."""
    differences = {128: [0.010, 0.014, 0.012], 256: [0.02, 0.024, 0.022], 512: [0.03]}
    records = pairs(differences)
    found = tables.paired_differences(records, "scaled_lr", "baseline_large")
    assert found["difference"].tolist() == pytest.approx([0.012, 0.022, 0.03])
    assert found["pairs"].tolist() == [3, 3, 1]
    variances, freedom = moderated(np.array([4e-6, 4e-6, math.nan]), np.array([2, 2, 0]), np.full(3, 0.03))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variances / [3, 3, 1])
    np.testing.assert_allclose(found["high"] - found["difference"], half)
    np.testing.assert_allclose(found["difference"] - found["low"], half)
    np.testing.assert_allclose(variances, 4e-6)  # all vary alike
    assert found["reason"].tolist() == [None] * 3


def test_paired_differences_without_pairs_or_with_single_ones():
    single = tables.paired_differences(pairs({128: [0.01], 256: [0.02]}), "scaled_lr", "baseline_large")
    assert single["difference"].tolist() == pytest.approx([0.01, 0.02])
    assert single[["low", "high"]].isna().all(axis=None)
    assert single["reason"].tolist() == [Reason.of("too few pairs", pairs=1)] * 2
    assert str(single["reason"].iloc[0]) == "1 pair of equal seeds: no interval"
    apart = table(("scaled_lr", 128, 0, [0.6]), ("baseline_large", 128, 1, [0.5]))
    (row,) = tables.paired_differences(apart, "scaled_lr", "baseline_large").to_dict("records")
    assert (row["batch_size"], row["pairs"], str(row["reason"])) == (128, 0, "0 pairs of equal seeds")
    assert np.isnan([row["difference"], row["low"], row["high"]]).all()
    assert tables.paired_differences(apart, "scaled_lr", "nobody").empty


def test_runs_of_the_reference_stand_for_those_that_the_base_rate_lacks():
    """But at the learning rate of the other mode, as at B = 8, where both are one run; and never against themselves."""
    runs = table(
        *[("baseline_small", size, 0, [0.5]) for size in (8, 16, 32)],
        ("baseline_small", 16, 1, [0.6]),
        ("baseline_large", 16, 0, [0.4]),
        ("baseline_large", 64, 0, [0.4]),
        *[("scaled_lr", size, 0, [0.7]) for size in (8, 16, 32, 64)],
        ("scaled_lr", 16, 1, [0.7]),
    )
    rate = np.where(runs["experiment"] == "scaled_lr", runs["batch_size"] / 8, 1)
    runs = runs.assign(learning_rate=0.002 * rate)
    found = tables.paired_differences(runs, "scaled_lr", "baseline_large")
    assert found[["batch_size", "pairs"]].values.tolist() == [[16, 2], [32, 1], [64, 1]]
    assert found["difference"].tolist() == pytest.approx([(0.3 + 0.1) / 2, 0.2, 0.3])
    other_way = tables.paired_differences(runs, "baseline_large", "scaled_lr")
    assert other_way["difference"].tolist() == pytest.approx([-0.2, -0.2, -0.3])
    assert tables.paired_differences(runs, "baseline_small", "baseline_large")["batch_size"].tolist() == [16]
    assert tables.paired_differences(runs, "scaled_lr", "nobody").empty


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
    assert threshold_of(NOTHING) is None
    assert planned_epochs(NOTHING).empty
    assert tables.seconds_per_update(NOTHING.epochs).empty


def test_analysis_and_plots_need_no_torch():
    rooms = ["batchscale.records.study", "batchscale.schedules", "batchscale.modes"]
    rooms += [f"batchscale.analysis.{path.stem}" for path in Path(tables.__file__).parent.glob("[a-z]*.py")]
    assert "batchscale.analysis.findings" in rooms
    assert "batchscale.analysis.plots" in rooms
    code = f"import sys, {', '.join(rooms)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mean_with_an_upper_bound_in_it_is_none():
    records = timed(("mine", 8, 0, [0.9, 0.9]), ("mine", 8, 1, [0.0, 1.0]), ("mine", 16, 0, [0.0, 1.0]))
    means = tables.means_to_target(to_target(Study.of(records), 0.7))
    assert means[["runs", "reached", "bounds"]].values.tolist() == [[2, 2, 1], [1, 1, 0]]
    assert means["running_time"].isna().tolist() == [True, False]
