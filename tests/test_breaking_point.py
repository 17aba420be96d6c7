"""Verdicts in the three currencies, on tables whose verdict can be read off."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_analysis import table, timed

from batchscale.analysis.breaking_point import BreakingPoint, accuracy_losses, in_accuracy, in_time, in_updates
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.reasons import Reason, together
from batchscale.analysis.tables import to_target
from batchscale.analysis.threshold import threshold
from batchscale.records.study import Study

SMALL = [("baseline_small", 8, seed, [value]) for seed, value in enumerate([0.758, 0.760, 0.762])]
SPREAD = np.array([-0.002, 0, 0.002])


def said(verdict: BreakingPoint) -> str:
    """Its reasons in one line; none are an empty one."""
    return together(verdict.reasons) or ""


def accuracy_verdict(means: dict[int, float], seeds: int = 3, diverged=()):
    """Of a mode whose seeds lie 0.2 points around these means."""
    runs = [("mine", size, seed, [mean + SPREAD[seed]]) for size, mean in means.items() for seed in range(seeds)]
    found = threshold(Study.of(table(*SMALL)))
    losses = accuracy_losses(table(*runs), found, diverged)
    return in_accuracy(losses, found, ["a", "b"]), losses


def test_losses_are_welch_differences():
    _, losses = accuracy_verdict({128: 0.755, 256: 0.74})
    row = losses.iloc[1]
    welch = stats.ttest_ind([0.758, 0.76, 0.762], 0.74 + SPREAD, equal_var=False).confidence_interval(0.95)
    assert row["loss"] == pytest.approx(0.02)
    assert (row["loss_low"], row["loss_high"]) == pytest.approx((welch.low, welch.high))
    assert row["standard_deviation"] == pytest.approx(0.002)
    assert losses["seeds"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("means", "batch_size", "low", "high", "words"),
    [
        ({128: 0.76, 256: 0.758, 512: 0.70, 1024: 0.76}, 256, 256, 256, None),  # with all smaller ones
        ({128: 0.76, 256: 0.752, 512: 0.748, 1024: 0.70}, 256, 128, 512, None),  # 0.8 and 1.2 points are not sure
        ({128: 0.76, 256: 0.77}, 256, 256, 256, "the largest recorded still pays"),
        ({128: 0.70, 256: 0.77}, None, None, None, "the smallest recorded, 128, already loses 6 points"),
        ({128: 0.752, 256: 0.70}, 128, None, 128, "the 95 % interval extends below 128"),
        ({128: 0.748, 256: 0.70}, None, None, 128, "the smallest recorded, 128, already loses 1.2 points"),
    ],
)
def test_accuracy(means, batch_size, low, high, words):
    verdict, _ = accuracy_verdict(means)
    assert (verdict.batch_size, verdict.low, verdict.high) == (batch_size, low, high)
    assert said(verdict) == (words or "")
    assert verdict.interval == (low, high)
    assert verdict.records == ("a", "b")


def test_a_loss_of_the_tolerance_keeps_the_accuracy():
    found = threshold(Study.of(table(("baseline_small", 8, 0, [0.75]))), tolerance=0.25)
    assert in_accuracy(accuracy_losses(table(("mine", 128, 0, [0.5])), found), found).batch_size == 128


@pytest.mark.parametrize("images", range(443, 1001))
def test_exactly_the_tolerance_is_no_loss_and_an_image_more_is(images):
    """Rounding would lose most of these 558 accuracies: 0.797 − 0.787 is more than 0.01 as a float."""
    found = threshold(Study.of(table(*[("baseline_small", 8, seed, [images / 1000]) for seed in range(3)])))
    below = (images - 10) / 1000
    runs = [("mine", size, seed, [value]) for size, value in ((128, below), (256, below - 1e-4)) for seed in range(3)]
    verdict = in_accuracy(accuracy_losses(table(*runs), found), found)
    assert (verdict.batch_size, verdict.low, verdict.high) == (128, 128, 128)


def test_accuracy_of_one_seed_has_no_interval():
    verdict, losses = accuracy_verdict({128: 0.76, 256: 0.70}, seeds=1)
    assert (verdict.batch_size, verdict.low, verdict.high) == (128, None, None)
    assert said(verdict) == "no interval: one seed at 128 and 256 or at what it is compared with"
    assert np.isnan(losses["loss_low"]).all()


def test_a_diverged_run_does_not_keep_the_accuracy():
    verdict, losses = accuracy_verdict({128: 0.76, 256: 0.76}, diverged=[("mine", 256, 7), ("mine", 512, 0)])
    assert (verdict.batch_size, verdict.low, verdict.high) == (128, 128, 128)
    assert losses["diverged"].tolist() == [0, 1, 1]
    assert losses["loss"].tolist()[2] == math.inf
    verdict, _ = accuracy_verdict({256: 0.76}, diverged=[("mine", 128, 7)])
    assert verdict.batch_size is None
    assert said(verdict) == "the smallest recorded, 128, diverges already"


def test_accuracy_without_threshold_or_runs():
    found = threshold(Study.of(table(*SMALL)))
    runs = table(("mine", 8, 0, [0.5]))
    assert said(in_accuracy(accuracy_losses(runs, None), None)) == (
        "no small minibatches are recorded (baseline_small), so there is no accuracy to keep"
    )
    assert said(in_accuracy(accuracy_losses(runs.iloc[:0], found), found)) == "no run is finished"


OPEN = Reason.of("varies too much", first=128, last=512)


def fit(estimate, low, high) -> CriticalBatchSize:
    return CriticalBatchSize(
        estimate,
        low,
        high,
        () if estimate else (OPEN,),
        1.0,
        1.0,
        0.1,
        (128, 256, 512),
        runs=12,
        right_censored=3,
        left_censored=0,
        records=("a", "b"),
    )


@pytest.mark.parametrize(
    ("critical", "expected", "words"),
    [
        (fit(900, 500, 1700), (256, 128, 512), ""),  # a third: 300, 167, 567
        (fit(768, 384, 1536), (256, 128, 512), ""),  # on the batch sizes themselves
        # 1024 is recorded, but does not reach the target
        (
            fit(9000, 5000, 17000),
            (512, 512, 1024),
            "perfect scaling up to the largest batch size at which the target is reached",
        ),
        (fit(6000, 900, 17000), (512, 256, 1024), ""),
        (fit(450, 300, 900), (128, None, 256), "the 95 % interval extends below 128"),
        (fit(300, 100, 900), (None, None, 256), "perfect scaling probably ends below the smallest recorded, 128"),
        (fit(90, 50, 170), (None, None, None), "perfect scaling ends below the smallest recorded, 128"),
        (fit(None, 500, None), (None, 128, 1024), str(OPEN)),
        (
            fit(None, 2000, None),
            (512, 512, 1024),
            "perfect scaling up to the largest batch size at which the target is reached",
        ),
        (fit(None, None, 900), (None, None, 256), str(OPEN)),
        (fit(None, None, None), (None, None, None), str(OPEN)),
    ],
)
def test_updates(critical, expected, words):
    runs = pd.DataFrame({"experiment": "mine", "batch_size": [128, 256, 512, 1024], "seed": 0})
    verdict = in_updates(runs, critical)
    assert (verdict.batch_size, verdict.low, verdict.high) == expected
    assert said(verdict) == words
    assert verdict.reasons or verdict.batch_size
    assert verdict.records == tuple(f"mine_bs{size}_seed0" for size in (128, 256, 512, 1024))


def time_verdict(seconds: dict[int, list[float | None]], trained: float = 100.0, diverged=()):
    """Of runs that reach 0.7 in so many seconds; None: not within `trained` seconds."""
    runs = []
    for size, of_size in seconds.items():
        for seed, needed in enumerate(of_size):
            run = timed(("mine", size, seed, [0.1, 0.1 if needed is None else 0.7]))
            runs.append(run.assign(running_time=[0.0, trained if needed is None else needed]))
    return in_time(to_target(Study.of(pd.concat(runs, ignore_index=True), diverged=diverged), 0.7))


@pytest.mark.parametrize(
    ("seconds", "expected", "words"),
    [
        ({8: [80, 81], 16: [40, 41], 32: [20, 21], 64: [30, 31]}, (32, 32, 32), None),
        ({8: [80, 81], 16: [40, 41], 32: [39, 43], 64: [60, 61]}, (16, 16, 64), None),
        ({8: [80, 81], 16: [40, 41]}, (16, 16, 16), "the largest recorded still pays"),
        ({8: [80, 81], 16: [90, 91]}, (8, 8, 8), None),
        ({8: [80, 80], 16: [80, 80], 32: [80, 80]}, (8, 8, 8), None),  # as long is not faster
        ({8: [0.3, 0.3], 16: [0.1 + 0.2, 0.1 + 0.2]}, (8, 8, 8), None),
        ({8: [0.1 + 0.2, 0.1 + 0.2], 16: [0.3, 0.3]}, (8, 8, 8), None),
        ({8: [100, 100], 16: [None, None]}, (8, 8, 8), None),  # as long already, and not there
        ({8: [None, None], 16: [40, 41], 32: [50, 51]}, (16, 16, 16), None),  # a larger one starts it
        ({8: [80, 81], 16: [None, 99]}, (8, 8, 8), None),  # longer than that already
        (
            {8: [180, 181], 16: [None, 99]},
            (8, 8, 16),
            "at 16 runs end before the target, so that it is unknown whether the time still falls",
        ),
        (
            {8: [180, 181], 16: [None, 99], 32: [70, 71]},
            (8, 8, 32),
            "at 16 runs end before the target, so that it is unknown whether",
        ),
        (
            {8: [80], 16: [40], 32: [50]},
            (16, None, None),
            "no interval: one seed at 16 and 32 or at what it is compared with",
        ),
        ({8: [80, 81]}, (None, None, None), "there is no batch size to compare 8 with"),
        ({8: [None, 80]}, (None, None, None), "at no batch size does every run reach the target"),
    ],
)
def test_time(seconds, expected, words):
    verdict = time_verdict(seconds)
    assert (verdict.batch_size, verdict.low, verdict.high) == expected
    assert (verdict.reasons == ()) if words is None else (words in said(verdict))


def test_time_of_a_diverged_run_is_infinite():
    seconds = {8: [180, 181], 16: [None, 99], 32: [70, 71]}
    verdict = time_verdict(seconds, diverged=[("mine", 16, 0)])
    assert (verdict.batch_size, verdict.low, verdict.high) == (8, 8, 8)


def test_no_times():
    runs = to_target(Study.of(table(("mine", 8, 0, [0.1, 0.7]))), 0.7)
    assert said(in_time(runs)) == "no running times are recorded"


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        ({8: 50, 16: 20, 32: 30}, "8"),  # 8 may have been faster than 16 in truth
        ({8: 50, 16: 60, 32: 30}, "8"),
        ({4: 70, 8: 50, 16: 60, 32: 30}, "8"),
        ({4: 40, 8: 50}, "8"),  # 8 may be faster than 4 in truth
        ({2: 30, 4: 40, 8: 50}, None),  # the scan ends before 8
    ],
)
def test_times_within_the_first_epoch_are_said_to_be_bounds(seconds, named):
    runs = [
        timed(("mine", size, 0, [0.8] if size == 8 else [0, 0.7])).assign(
            running_time=[time] if size == 8 else [1, time]
        )
        for size, time in seconds.items()
    ]
    reason = said(in_time(to_target(Study.of(pd.concat(runs, ignore_index=True)), 0.7)))
    words = f"at {named} the target is reached within the first epoch: times are upper bounds there"
    assert (words in reason) if named else ("first epoch" not in reason)
