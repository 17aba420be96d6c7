"""The fit of S(B): its likelihood against SciPy's, its interval against the F-interval, known answers recovered."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from batchscale.analysis.critical_batch_size import _Likelihood, critical_batch_size, steps_to_target
from batchscale.analysis.reasons import together

SIZES = 2 ** np.arange(6, 13)


def runs(steps: dict[int, list[float]], most: float | None = None, relative: bool = False) -> pd.DataFrame:
    """Rows as of `to_target`: updates of the seeds by batch size; those above `most` (in updates) are censored."""
    rows = []
    for size, of_size in steps.items():
        for seed, needed in enumerate(of_size):
            censored = most is not None and needed > most
            trained = most if censored else needed
            rows.append(
                {
                    "experiment": "mine",
                    "batch_size": size,
                    "seed": seed,
                    "censored": "right" if censored else "no",
                    "epochs": math.nan if censored else needed * size / 50_000,
                    "updates": math.nan if censored or relative else needed,
                    "epochs_trained": trained * size / 50_000,
                    "updates_trained": math.nan if relative else trained,
                }
            )
    return pd.DataFrame(rows)


def simulated(random: int, critical=800.0, steps_min=500.0, seeds=3, run=0.1, size=0.0, sizes=SIZES, most=None):
    generator = np.random.default_rng(random)
    return {
        int(batch_size): list(
            steps_to_target(batch_size, steps_min, critical)
            * np.exp(generator.normal(0, size) + generator.normal(0, run, seeds))
        )
        for batch_size in sizes
    }


def test_exact_data_are_recovered():
    found = critical_batch_size(runs(simulated(0, run=0)))
    assert found.estimate == pytest.approx(800, rel=1e-3)
    assert found.low < 800 < found.high < 810
    assert found.steps_min == pytest.approx(500, rel=1e-3)
    assert found.examples_min == pytest.approx(400_000, rel=1e-3)
    assert found.reasons == ()
    assert found.interval == (found.low, found.high)
    assert found.records[:2] == ("mine_bs64_seed0", "mine_bs64_seed1")
    assert len(found.records) == 21
    assert (found.batch_sizes, found.runs, found.right_censored) == (tuple(SIZES), 21, 0)


def test_likelihood_of_complete_runs_is_the_normal_one():
    sizes, logs = np.array([8.0, 8, 16, 16, 16, 32]), np.array([3.0, 3.2, 2.5, 2.4, 2.7, 2.2])
    likelihood = _Likelihood(sizes, logs, np.array(["no"] * 6))
    mid, between, within = 2.6, 0.3, 0.2
    shape = np.array([0.5, 0.0, -0.4])
    share = between**2 / (between**2 + within**2)
    value = likelihood._log_likelihood(
        shape, mid, 0.5 * math.log(between**2 + within**2), math.log(share / (1 - share))
    )
    covariance = within**2 * np.eye(6) + between**2 * (sizes[:, None] == sizes)
    expected = stats.multivariate_normal.logpdf(logs, mid + np.repeat(shape, [2, 3, 1]), covariance)
    assert value == pytest.approx(expected, abs=1e-9)


def test_likelihood_of_censored_runs_is_the_integral_over_the_batch_sizes_deviation():
    sizes, logs = np.array([8.0, 8, 8, 16, 8]), np.array([3.0, 3.4, 2.7, 2.5, 3.4])  # two end alike
    likelihood = _Likelihood(sizes, logs, np.array(["no", "right", "left", "right", "right"]))
    mid, between, within = 2.6, 0.3, 0.2
    share = between**2 / (between**2 + within**2)
    value = likelihood._log_likelihood(
        np.array([0.5, 0.0]), mid, 0.5 * math.log(between**2 + within**2), math.log(share / (1 - share))
    )

    def first(u):
        at = stats.norm(mid + 0.5 + u, within)
        return stats.norm.pdf(u, 0, between) * at.pdf(3.0) * at.sf(3.4) ** 2 * at.cdf(2.7)

    def second(u):
        return stats.norm.pdf(u, 0, between) * stats.norm.sf(2.5, mid + u, within)

    expected = sum(math.log(integrate.quad(integrand, -3, 3)[0]) for integrand in (first, second))
    assert value == pytest.approx(expected, abs=1e-6)


def test_one_seed_has_the_f_interval_of_nonlinear_regression():
    steps = simulated(3, seeds=1)
    found = critical_batch_size(runs(steps))
    logs = np.log([value for (value,) in steps.values()])

    def squares(c):
        residual = logs - np.log1p(math.exp(c) / SIZES)
        return len(SIZES) * residual.var()

    best = optimize.minimize_scalar(squares, bounds=(0, 12), method="bounded").x
    level = squares(best) * (1 + stats.t.ppf(0.975, len(SIZES) - 2) ** 2 / (len(SIZES) - 2))
    low, high = (optimize.brentq(lambda c: squares(c) - level, best, far) for far in (best - 4, best + 4))
    assert found.estimate == pytest.approx(math.exp(best), rel=1e-3)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=2e-3)
    assert found.scatter == pytest.approx(math.sqrt(squares(best) / len(SIZES)), rel=1e-2)


@given(st.integers(0, 1000), st.sampled_from([1, 4, 0.25]), st.floats(0.01, 100))
@settings(deadline=None, max_examples=5)
def test_units_do_not_matter(random, of_size, of_steps):
    steps = simulated(random, sizes=SIZES[::2])
    scaled = {int(size * of_size): [value * of_steps for value in values] for size, values in steps.items()}
    one, other = critical_batch_size(runs(steps)), critical_batch_size(runs(scaled))
    assert other.estimate == pytest.approx(one.estimate * of_size, rel=0.02)
    assert (other.low, other.high) == pytest.approx((one.low * of_size, one.high * of_size), rel=0.02)


def test_without_updates_the_number_of_images_cancels():
    steps = simulated(1)
    one, other = critical_batch_size(runs(steps)), critical_batch_size(runs(steps, relative=True))
    assert other.estimate == pytest.approx(one.estimate, rel=1e-3)
    assert (other.steps_min, other.examples_min) == (None, None)


def test_censored_runs_count():
    """Small batches need many updates: cut off, dropped, or set to their end, they would flatten the curve."""
    steps = simulated(5, seeds=6, run=0.3, sizes=SIZES)
    whole = critical_batch_size(runs(steps))
    cut = runs(steps, most=2500)
    assert (cut["censored"] == "right").sum() >= 8
    found = critical_batch_size(cut)
    assert found.low < 800 < found.high
    as_if_reached = cut.assign(censored="no", updates=cut["updates"].fillna(cut["updates_trained"]))
    dropped = cut[cut["censored"] == "no"]
    errors = [
        abs(math.log((critical_batch_size(table).estimate or math.inf) / whole.estimate))
        for table in (cut, as_if_reached, dropped)
    ]
    assert errors[0] == min(errors)


def test_left_censored_runs_are_upper_bounds():
    table = runs(simulated(2))
    largest = table["batch_size"] == 4096
    bounds = table.assign(
        censored=np.where(largest, "left", table["censored"]), updates=np.where(largest, 3000.0, table["updates"])
    )
    found = critical_batch_size(bounds)
    assert found.low < 800 < found.high
    assert found.left_censored == 3


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({8: [100.0], 16: [50.0]}, "the target is reached at 2 batch sizes, where the fit needs three"),
        ({8: [100.0]}, "the target is reached at 1 batch size, where the fit needs three"),
    ],
)
def test_too_few_sizes(steps, words):
    found = critical_batch_size(runs(steps))
    assert (found.estimate, found.interval, together(found.reasons)) == (None, (None, None), words)


@pytest.mark.parametrize(
    ("steps", "bound", "kind", "slope"),  # the slope of log S over log B, by hand
    [
        ({8: [800.0, 810], 16: [402.0, 399], 32: [200.0, 198], 64: [99.0, 101]}, "low", "may always fall", -1),
        ({8: [100.0, 103], 16: [101.0, 99], 32: [100.0, 98], 64: [102.0, 100]}, "high", "may never fall", 0),
        # faster than any of the curves, and that surely; and upwards
        ({size: [1e6 / size**2] * 2 for size in range(10, 110)}, "low", "may always fall", -2),
        ({size: [1e-3 * size**2] * 2 for size in range(10, 110)}, "high", "may never fall", 2),
        ({8: [100.0], 16: [20.0], 32: [150.0]}, None, "varies too much", math.log(1.5) / math.log(4)),
    ],
)
def test_not_determined(steps, bound, kind, slope):
    found = critical_batch_size(runs(steps))
    assert found.estimate is None
    assert {name for name in ("low", "high") if getattr(found, name) is not None} == ({bound} if bound else set())
    (reason,) = found.reasons
    values = dict(reason.values)
    assert reason.kind == kind
    assert (values["first"], values["last"]) == (min(steps), max(steps))
    assert values["slope"] == pytest.approx(slope, abs=0.01)
    if bound:
        assert values[bound] == getattr(found, bound)
    assert f"from {min(steps)} to {max(steps)} the updates go as B^" in str(reason)


def test_extrapolation_is_said():
    found = critical_batch_size(runs(simulated(0, run=0.001, critical=10_000)))
    assert found.estimate == pytest.approx(10_000, rel=0.1)
    assert together(found.reasons) == "extrapolated: the target is reached at batch sizes from 64 to 4096 only"


def test_nothing_to_fit():
    empty = runs({8: [100.0]}).iloc[:0]
    assert critical_batch_size(empty).runs == 0
    at_once = runs({8: [100.0], 16: [60.0], 32: [40.0], 64: [30.0]}, most=80)
    at_once.loc[at_once["censored"] == "right", ["updates_trained", "epochs_trained"]] = 0.0  # diverged at once
    assert critical_batch_size(at_once).runs == 3


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_coverage(size):
    """Of 40 intervals fewer than 34 hold the truth with a probability of 0.3 % if 95 % do; benchmarks has 200."""
    truths = np.geomspace(300, 2000, 40)
    held = [
        found.low <= truth <= found.high
        for random, truth in enumerate(truths)
        for found in [critical_batch_size(runs(simulated(random, critical=truth, size=size)))]
        if found.estimate is not None
    ]
    assert len(held) >= 35
    assert np.mean(held) >= 34 / 40


def test_the_interval_narrows_with_seeds():
    ratios = [
        np.mean([math.log(found.high / found.low) for random in range(3) for found in [interval(random, seeds)]])
        for seeds in (1, 3, 9)
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 1.5 * ratios[2]


def interval(random: int, seeds: int):
    return critical_batch_size(runs(simulated(random, seeds=seeds)))
