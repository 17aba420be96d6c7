"""Verdicts in the three currencies, where they can be worked out by hand, and what holds of each."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from test_analysis import table

from batchscale.analysis.accuracies import accuracies
from batchscale.analysis.breaking_point import BreakingPoint, in_accuracy, in_time, in_updates, knee, losses
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.reasons import Reason, together
from batchscale.analysis.threshold import Threshold, threshold

NAN = math.nan


def said(verdict: BreakingPoint) -> str:
    """Its reasons in one line; none are an empty one."""
    return together(verdict.reasons) or ""


# Accuracy -----------------------------------------------------------------------------------------------------------


def cells(means: dict[int, float], error: float = 0.001, freedom: float = 20.0, diverged: dict[int, int] | None = None):
    """One curve: three finished runs at each batch size, none where the mean is NaN, and so many that diverged."""
    failed = diverged or {}
    rows = [
        {
            "experiment": "mine",
            "batch_size": size,
            "seeds": 0 if math.isnan(mean) else 3,
            "accuracy": mean,
            "standard_deviation": 0.002,
            "error": NAN if math.isnan(mean) else error,
            "freedom": NAN if math.isnan(mean) or math.isnan(error) else freedom,
            "diverged": failed.get(size, 0),
        }
        for size, mean in means.items()
    ]
    return pd.DataFrame(rows)


def reference(best: float = 0.76, size: int | None = 8, tolerance: float = 0.01, error: float = 0.001) -> Threshold:
    """Of one batch size, with which a curve may begin."""
    return Threshold(
        accuracy=best - tolerance,
        best=best,
        tolerance=tolerance,
        from_batch_size=size,
        from_mode=None if size is None else "mine",
        reference=("mine",),
        mean=best,
        standard_deviation=0.002,
        seeds=3,
        error=error,
        freedom=20.0,
    )


def verdict_of(means: dict[int, float], found: Threshold | None = None, **settings) -> BreakingPoint:
    found = found or reference()
    return in_accuracy(losses(cells(means, **settings), found), found, ["a", "b"])


def test_losses_have_the_error_of_both_means():
    found = reference(0.76, error=0.003)
    rows = losses(cells({256: 0.74, 128: 0.755, 512: NAN}, error=0.004, freedom=9.0, diverged={512: 2}), found)
    assert rows["batch_size"].tolist() == [128, 256, 512]
    half = stats.t.ppf(0.975, 9) * 0.005
    assert rows["loss"].tolist() == [pytest.approx(0.005), pytest.approx(0.02), math.inf]
    assert rows["loss_low"].tolist() == [pytest.approx(0.005 - half), pytest.approx(0.02 - half), math.inf]
    assert rows["loss_high"].tolist() == [pytest.approx(0.005 + half), pytest.approx(0.02 + half), math.inf]
    assert losses(rows[["experiment", "batch_size", "accuracy"]], None)[["loss", "loss_low"]].isna().all(axis=None)


def test_a_loss_between_two_cells_is_students_where_all_vary_alike():
    """Plain case: deviations that are equal are pooled over all cells, as in the analysis of variance."""
    runs = table(
        *[
            ("mine", size, seed, [value + 0.002 * (seed - 1)])
            for size, value in ((8, 0.76), (128, 0.7599))  # nearly alike, or else the kernel weighs them differently
            for seed in range(3)
        ]
    )
    of = accuracies(runs)
    found = threshold(runs, of[of["batch_size"] == 8], ["mine"])
    row = losses(of, found).iloc[1]
    expected = stats.ttest_ind([0.758, 0.76, 0.762], [0.7579, 0.7599, 0.7619]).confidence_interval(0.95)
    assert (row["loss_low"], row["loss_high"]) == pytest.approx((expected.low, expected.high), rel=1e-3)


@pytest.mark.parametrize(
    ("means", "estimate", "between", "words"),
    [
        # on a straight line in log B: a quarter, a half of the octave
        ({128: 0.755, 256: 0.735}, 128 * 2**0.25, (128, 256), ""),
        ({128: 0.765, 256: 0.755, 512: 0.745, 1024: 0.735}, 256 * 2**0.5, (256, 512), ""),
        ({8: 0.76, 16: 0.754, 32: 0.748, 64: 0.742}, 8 * 2 ** (1 / 0.6), (16, 32), ""),  # from the reference on
        ({64: 0.72, 128: 0.76, 256: 0.74}, 128 * 2**0.5, (128, 256), ""),  # from its own best on
        ({128: 0.76, 256: 0.759}, None, (256, None), "the largest recorded batch size still keeps the accuracy"),
        ({128: 0.70, 256: 0.69}, None, (None, 128), "the smallest recorded, 128, already loses 6 points"),
        ({128: 0.7499, 256: 0.70}, None, (None, 128), "the smallest recorded, 128, already loses 1 point"),
    ],
)
def test_accuracy(means, estimate, between, words):
    verdict = verdict_of(means)
    assert verdict.estimate == (None if estimate is None else pytest.approx(estimate, rel=1e-6))
    assert verdict.between == between
    assert said(verdict) == words
    assert verdict.interval == (verdict.low, verdict.high)
    assert verdict.records == ("a", "b")
    if estimate is not None:
        assert verdict.low < estimate < verdict.high


def test_open_ends_of_the_interval_are_said():
    inside = verdict_of({128: 0.7505, 256: 0.70})
    assert (inside.low, said(inside)) == (None, "the 95 % interval extends below 128")
    assert 128 < inside.estimate < inside.high <= 256
    beyond = verdict_of({128: 0.76, 256: 0.7495})
    assert (beyond.high, said(beyond)) == (None, "the 95 % interval extends beyond 256, the largest recorded")
    assert 128 < beyond.low < beyond.estimate < 256
    surely = verdict_of({128: 0.76, 256: 0.759})
    assert surely.interval == (256, None)
    maybe = verdict_of({128: 0.7495, 256: 0.70})  # below the threshold, by half an error
    assert (maybe.estimate, maybe.low) == (None, None)
    assert 128 < maybe.high < 256


def test_a_curve_from_the_reference_cannot_break_before_it():
    """The same means: with the reference as its beginning the curve starts above the threshold by definition."""
    means = {8: 0.76, 16: 0.7505, 32: 0.70}
    own, other = (verdict_of(means, reference(size=size, error=0.009), error=0.009) for size in (8, 4))
    assert own.estimate == pytest.approx(other.estimate)
    assert 8 <= own.low < own.estimate
    assert (other.low, said(other)) == (None, "the 95 % interval extends below 8")
    assert said(own) == ""
    # The optimism of the reference is taken off its beginning as well.
    less = verdict_of({8: 0.77, 16: 0.7505, 32: 0.70}, reference(0.76, size=8, error=0.009), error=0.009)
    assert (less.estimate, less.low, less.high) == (own.estimate, own.low, own.high)


def test_the_batch_size_of_the_reference_under_another_rule_is_not_the_reference():
    means, found = {8: 0.7505, 16: 0.75, 32: 0.70}, reference(size=8, error=0.004)
    own, other = (
        verdict_of(means, found, error=0.004),
        verdict_of(means, replace(found, from_mode="other"), error=0.004),
    )
    assert own.low is not None  # for its beginning counts as what the reference reaches, whatever the row says
    assert (other.low, said(other)) == (None, "the 95 % interval extends below 8")


def test_of_a_given_threshold_the_curve_alone_is_uncertain():
    given = Threshold(accuracy=0.75, best=0.75, error=0.0, freedom=math.inf)
    means = {128: 0.76, 256: 0.74}
    exact, vague = verdict_of(means, given), verdict_of(means, reference(size=None, error=0.003))
    assert [exact.estimate, vague.estimate] == pytest.approx([128 * math.sqrt(2)] * 2)
    assert exact.low > vague.low
    assert said(verdict_of({128: 0.74, 256: 0.73}, given)) == "the smallest recorded, 128, already loses 1 point"


def test_a_loss_of_the_tolerance_keeps_the_accuracy():
    found = reference(0.75, tolerance=0.25)
    assert verdict_of({128: 0.5, 256: 0.4}, found).between == (128, 256)


@pytest.mark.parametrize("images", [7587, *range(4430, 10_001, 30)])
@pytest.mark.parametrize("first", [8, 128])
def test_exactly_the_tolerance_is_no_loss_and_an_image_more_is(images, first):
    """Rounding would lose many of these accuracies: 0.797 − 0.787 is more than 0.01 as a float, and so is
    0.7587 − 0.7487."""
    best, below = images / 10_000, (images - 100) / 10_000
    start = {8: best} if first == 8 else {}
    found = reference(best)
    verdict = verdict_of(start | {128: below, 256: below - 1e-2}, found, error=1e-5)
    assert verdict.estimate == pytest.approx(128)
    assert verdict.between == (128, 256)
    verdict = verdict_of(start | {128: below - 1e-4, 256: below - 1e-2}, found, error=1e-5)
    assert verdict.between == ((8, 128) if first == 8 else (None, 128))
    alone = verdict_of(start | {128: below}, found, error=NAN)
    assert (alone.estimate, alone.between) == (None, (128, None))


def test_accuracy_of_one_seed_has_no_interval():
    verdict = verdict_of({128: 0.76, 256: 0.74}, reference(error=NAN), error=NAN)
    assert (verdict.estimate, verdict.interval) == (pytest.approx(128 * math.sqrt(2)), (None, None))
    assert said(verdict) == "no interval: no mode has two seeds at any batch size"
    kept = verdict_of({128: 0.76, 256: 0.76}, reference(error=NAN), error=NAN)
    assert (kept.estimate, kept.interval, kept.between) == (None, (None, None), (256, None))
    failed = verdict_of({128: NAN}, reference(error=NAN), error=NAN, diverged={128: 1})
    assert (failed.estimate, failed.interval, failed.between) == (None, (None, None), (None, 128))
    assert said(kept) == (
        "the largest recorded batch size still keeps the accuracy; no interval: no mode has two seeds at any batch size"
    )


def test_a_diverged_run_bounds_the_breaking_point():
    whole = verdict_of({128: 0.76, 256: 0.76, 512: 0.76})
    assert whole.between == (512, None)
    for means in ({128: 0.76, 256: 0.76, 512: 0.76}, {128: 0.76, 256: NAN, 512: 0.76}):
        verdict = verdict_of(means, diverged={256: 1})
        assert 128 < verdict.estimate < 256
        assert verdict.between == (128, 256)
        assert 128 <= verdict.low <= verdict.estimate <= verdict.high <= 256.1
        assert verdict.curve.sizes == (128, 256)
    first = verdict_of({128: 0.76, 256: 0.76}, diverged={128: 1})
    assert (first.estimate, first.low, first.high, first.between) == (None, None, 128, (None, 128))
    assert said(first) == "the smallest recorded, 128, diverges already"
    # One that is a failure already does not become a success because most of its runs are good.
    low = reference(best=0.3)
    assert verdict_of({128: 0.76, 256: 0.76}, low, diverged={256: 1}).between == (128, 256)


def test_accuracy_without_threshold_or_runs():
    found = reference()
    of = cells({8: 0.5})
    unknown = in_accuracy(losses(of, None), None, ["a"])
    assert said(unknown) == "no run of the reference is finished, so there is no accuracy to keep"
    assert (unknown.estimate, unknown.between, unknown.records) == (None, (None, None), ("a",))
    assert said(in_accuracy(losses(of.iloc[:0], found), found)) == "no run is finished"


def test_but_puts_a_reason_in_front():
    point = BreakingPoint.unknown(Reason.of("no times"), ["a"]).but(Reason.of("no target"))
    assert [reason.kind for reason in point.reasons] == ["no target", "no times"]
    assert point.records == ("a",)


means_of = st.lists(st.integers(700, 765).map(lambda value: value / 1000), min_size=1, max_size=6)
failures = st.dictionaries(st.sampled_from([8, 16, 32, 64, 128, 256]), st.integers(1, 2), max_size=2)
errors = st.one_of(st.just(NAN), st.integers(3, 50).map(lambda value: value / 1e4))
starts = st.sampled_from([8, 4, None])


@given(means_of, errors, failures, starts, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_what_holds_of_every_verdict_in_accuracy(values, error, diverged, start, random):
    means = {8 * 2**place: value for place, value in enumerate(values)}
    found = reference(size=start, error=error)
    of = cells(means, error, diverged=diverged)
    verdict = in_accuracy(losses(of, found), found)
    estimate, (low, high), (kept, lost) = verdict.estimate, verdict.interval, verdict.between
    assert all(end is None or math.isfinite(end) for end in (estimate, low, high))
    assert low is None or high is None or low <= high
    assert (kept, lost) != (None, None)
    assert {kept, lost} <= {None, *means}
    if estimate is None:
        assert None in (kept, lost)
        assert verdict.reasons
    else:
        assert kept <= estimate * (1 + 1e-9)
        assert estimate < lost
        assert low is None or low <= estimate * (1 + 1e-9)
        assert high is None or high >= estimate * (1 - 1e-9)
        assert (low is not None and high is not None) or verdict.reasons
    failed = [size for size in diverged if size in means]
    if failed:
        assert lost is not None
        assert lost <= min(failed)
    # The order of the rows does not matter, nor the units of the axes.
    order = list(range(len(of)))
    random.shuffle(order)
    assert in_accuracy(losses(of.iloc[order], found), found) == verdict


@given(
    means_of, st.integers(3, 50).map(lambda value: value / 1e4), starts, st.sampled_from([2, 8]), st.integers(-30, 20)
)
@settings(deadline=None, max_examples=40)
def test_units_do_not_matter(values, error, start, factor, shift):
    means, shift = {8 * 2**place: value for place, value in enumerate(values)}, shift / 100
    one = verdict_of(means, reference(size=start), error=error)
    scaled = {factor * size: value for size, value in means.items()}
    doubled = verdict_of(scaled, reference(size=start and factor * start), error=error)
    moved = {size: value + shift for size, value in means.items()}
    shifted = verdict_of(moved, reference(0.76 + shift, size=start), error=error)
    for other, scale in ((doubled, factor), (shifted, 1)):
        assert other.between == tuple(size and scale * size for size in one.between)
        assert [reason.kind for reason in other.reasons] == [reason.kind for reason in one.reasons]
        for ours, theirs in ((one.estimate, other.estimate), (one.low, other.low), (one.high, other.high)):
            assert theirs == (None if ours is None else pytest.approx(scale * ours, rel=3e-3))


def test_a_mode_that_loses_throughout_is_said_to_lose_at_one_batch_size():
    verdict = verdict_of({64: 0.70, 128: 0.72, 256: 0.71})
    (reason,) = verdict.reasons
    assert verdict.between == (None, dict(reason.values)["size"])


# Updates ------------------------------------------------------------------------------------------------------------

OPEN = Reason.of("no target")
FAR = Reason.of("extrapolated", first=128, last=512)


def fit(estimate, low, high, *reasons) -> CriticalBatchSize:
    return CriticalBatchSize(
        estimate,
        low,
        high,
        reasons if estimate or reasons else (OPEN,),
        1.0,
        1.0,
        0.1,
        (128, 256, 512),
        runs=12,
        right_censored=3,
        left_censored=0,
        records=("a", "b"),
    )


RUNS = pd.DataFrame({"experiment": "mine", "batch_size": [128, 256, 512, 1024], "seed": 0})


@pytest.mark.parametrize(
    ("critical", "expected", "between", "words"),
    [
        (fit(900, 480, 1710), (300, 160, 570), (256, 512), ""),  # thirds of B_crit
        (fit(768, 384, 1536), (256, 128, 512), (256, 512), ""),  # on a batch size, which still pays
        (fit(384, 90, 1536), (128, 30, 512), (128, 256), ""),
        (fit(9000, 5100, 18000, FAR), (3000, 1700, 6000), (1024, None), str(FAR)),
        (fit(300, 150, 900), (100, 50, 300), (None, 128), "perfect scaling ends below the smallest recorded, 128"),
        (fit(90, 51, 180, FAR), (30, 17, 60), (None, 128), "perfect scaling ends below the smallest recorded, 128"),
        (fit(None, 600, None), (None, 200, None), (None, None), str(OPEN)),
        (fit(None, None, 900), (None, None, 300), (None, None), str(OPEN)),
        (fit(None, None, None), (None, None, None), (None, None), str(OPEN)),
    ],
)
def test_updates(critical, expected, between, words):
    verdict = in_updates(RUNS, critical)
    assert (verdict.estimate, verdict.low, verdict.high) == tuple(
        None if value is None else pytest.approx(value) for value in expected
    )
    assert verdict.between == between
    assert said(verdict) == words
    assert verdict.records == tuple(f"mine_bs{size}_seed0" for size in (128, 256, 512, 1024))


def test_the_end_of_perfect_scaling_is_where_the_slope_is_three_quarters():
    """Of log S = log(1 + B_crit/B) in log B, by differences."""
    critical = 900.0
    at = in_updates(RUNS, fit(critical, 480, 1710)).estimate
    above, below = (math.log1p(critical / (at * factor)) for factor in (1.001, 0.999))
    assert (above - below) / math.log(1.001 / 0.999) == pytest.approx(-0.75, abs=1e-4)


# Time ---------------------------------------------------------------------------------------------------------------

SIZES = 2.0 ** np.arange(3, 14)


def seconds_of(times: dict[int, float], error: float = NAN) -> pd.DataFrame:
    return pd.DataFrame({"batch_size": list(times), "seconds": list(times.values()), "error": error})


def time_verdict(times: dict[int, float], critical: CriticalBatchSize, error: float = NAN) -> BreakingPoint:
    runs = pd.DataFrame({"experiment": "mine", "batch_size": list(times), "seed": 0})
    return in_time(runs, seconds_of(times, error), critical)


def closed_knee(fixed: float, per_image: float, critical: float) -> float:
    """Of T = (a + cB)·(1 + K/B), which is least at √(aK/c), with √T = √a + √(cK): the smaller B at which T is a ninth
    more than that."""
    rest = (math.sqrt(fixed) + math.sqrt(per_image * critical)) ** 2 / 0.9 - fixed - per_image * critical
    return (rest - math.sqrt(rest**2 - 4 * per_image * fixed * critical)) / (2 * per_image)


@pytest.mark.parametrize(
    ("fixed", "per_image", "critical"),
    [(0.004, 2e-5, 600.0), (0.004, 2e-5, 6000.0), (0.001, 1e-6, 300.0), (0.02, 1e-4, 90.0)],
)
def test_knee_of_a_linear_time_per_update(fixed, per_image, critical):
    at, is_open = knee(SIZES, fixed + per_image * SIZES, critical)
    assert not is_open
    assert at == pytest.approx(closed_knee(fixed, per_image, critical), rel=0.02)
    grid = np.geomspace(at, SIZES[-1], 2000)
    times = (fixed + per_image * grid) * (1 + critical / grid)
    assert times.min() > 0.895 * times[0]  # nothing beyond saves a tenth
    before = 0.9 * at
    assert times.min() < 0.9 * (fixed + per_image * before) * (1 + critical / before)


def test_knee_of_a_constant_time_per_update():
    """On a device with room to spare, T ∝ 1 + K/B falls throughout: by a tenth from half the largest batch size b to
    b where K > b/8."""
    constant = np.full(len(SIZES), 0.01)
    at, is_open = knee(SIZES, constant, 100.0)
    assert not is_open
    assert at == pytest.approx(100 / ((1 + 100 / SIZES[-1]) / 0.9 - 1), rel=0.02)
    assert [knee(SIZES, constant, share * SIZES[-1])[1] for share in (0.124, 0.126)] == [False, True]


def test_time_lies_at_the_knee():
    times = {int(size): 0.004 + 2e-5 * size for size in SIZES}
    verdict = time_verdict(times, fit(600, 300, 1200))
    assert verdict.estimate == pytest.approx(closed_knee(0.004, 2e-5, 600), rel=0.02)
    assert verdict.between == (128, 256)
    # Without noise in the times the interval is that of B_crit.
    assert verdict.low == pytest.approx(closed_knee(0.004, 2e-5, 300), rel=0.04)
    assert verdict.high == pytest.approx(closed_knee(0.004, 2e-5, 1200), rel=0.04)
    assert said(verdict) == ""
    assert verdict == time_verdict(times, fit(600, 300, 1200))
    noisy = time_verdict(times, fit(600, 599, 601), error=0.2)
    assert noisy.low < 0.9 * verdict.estimate
    assert noisy.high > 1.1 * verdict.estimate
    assert noisy.low <= noisy.estimate <= noisy.high


def test_time_that_still_falls_at_the_end_is_open_above():
    verdict = time_verdict({int(size): 0.01 for size in SIZES}, fit(9000, 8000, 10_000))
    assert (verdict.estimate, verdict.high, verdict.between) == (None, None, (8192, None))
    assert said(verdict) == "8192, the largest recorded, still saves a tenth of the time or more"
    assert verdict.low is None or verdict.low <= 8192


def test_time_that_nothing_saves():
    verdict = time_verdict({int(size): 1e-4 * size for size in SIZES}, fit(600, 300, 1200))  # no room at all
    assert verdict.estimate == pytest.approx(8)
    assert verdict.between == (8, 16)
    assert said(verdict) == "no batch size above 8, where the curve begins, saves a tenth of the time"


def test_time_with_an_unknown_critical_batch_size():
    times = {int(size): 0.004 + 2e-5 * size for size in SIZES}
    verdict = time_verdict(times, fit(None, None, None))
    assert (verdict.estimate, verdict.interval, verdict.between, said(verdict)) == (
        None,
        (None, None),
        (None, None),
        str(OPEN),
    )
    least = time_verdict(times, fit(None, 600, None))
    assert (least.estimate, least.high, said(least)) == (None, None, str(OPEN))
    assert least.low == pytest.approx(closed_knee(0.004, 2e-5, 600), rel=0.04)
    most = time_verdict(times, fit(None, None, 600))
    assert (most.estimate, most.low) == (None, None)
    assert most.high == pytest.approx(closed_knee(0.004, 2e-5, 600), rel=0.04)


def test_times_of_other_batch_sizes_do_not_count():
    """They are those of any mode; a curve has its own beginning and end."""
    runs = RUNS[RUNS["batch_size"] > 128]
    whole = {64: 9.0, 128: 9.0, 256: 0.01, 512: 0.012, 1024: 0.016, 2048: 1e-9}
    own = {size: time for size, time in whole.items() if 256 <= size <= 1024}
    critical = fit(600, 300, 1200)
    assert in_time(runs, seconds_of(whole), critical) == in_time(runs, seconds_of(own), critical)


def test_no_times():
    critical = fit(600, 300, 1200)
    assert said(in_time(RUNS, seconds_of({}), critical)) == "no running times are recorded"
    assert said(in_time(RUNS, seconds_of({256: 0.01}), critical)) == "there is no batch size to compare 256 with"
    assert in_time(RUNS, seconds_of({}), critical).records[0] == "mine_bs128_seed0"


@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=8),
    st.floats(1, 1e5),
    st.floats(1.05, 10),
    st.sampled_from([NAN, 0.02, 0.3]),
)
@settings(deadline=None, max_examples=40)
def test_what_holds_of_every_verdict_in_time(times, critical, ratio, error):
    times = {8 * 2**place: value / 1000 for place, value in enumerate(times)}
    half, last = (times[size] * (1 + critical / size) for size in list(times)[-2:])
    assume(last != pytest.approx(0.9 * half))  # or rounding would decide
    verdict = time_verdict(times, fit(critical, critical / ratio, critical * ratio), error)
    estimate, (low, high), (kept, lost) = verdict.estimate, verdict.interval, verdict.between
    assert all(end is None or math.isfinite(end) for end in (estimate, low, high))
    if estimate is None:
        assert (kept, lost, high) == (max(times), None, None)
        assert [reason.kind for reason in verdict.reasons] == ["largest still saves"]
    else:
        assert kept <= estimate * (1 + 1e-9)
        assert lost is None or estimate < lost
        assert low is None or low <= estimate
        assert high is None or high >= estimate
    # The unit of the time does not matter.
    slower = {size: 60 * time for size, time in times.items()}
    other = time_verdict(slower, fit(critical, critical / ratio, critical * ratio), error)
    assert other.estimate == (None if estimate is None else pytest.approx(estimate, rel=0.02))  # a step of the grid


def test_a_rare_divergence_bounds_the_breaking_point_whatever_larger_sizes_reach():
    """One of a hundred runs diverges at 128, and the others are as good as the reference; 256 is as good again."""
    runs = table(
        *[("baseline_small", 8, seed, [0.76 + 0.001 * (seed - 1)]) for seed in range(3)],
        *[("mine", 128, seed, [0.765]) for seed in range(99)],
        *[("mine", 256, seed, [0.76 + 0.001 * (seed - 1)]) for seed in range(3)],
    )
    cells = accuracies(runs, [("mine", 128, 99)])
    found = threshold(runs, cells, ["baseline_small"])
    verdict = in_accuracy(losses(cells, found), found)
    assert 8 < verdict.estimate <= 128
    assert verdict.high <= 128
