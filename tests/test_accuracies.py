"""Moderated variances against limma's formula, by hand; the best of several means against known constants."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from test_analysis import table

from batchscale.analysis.accuracies import accuracies, moderated
from batchscale.analysis.threshold import Threshold, best_of, threshold
from batchscale.errors import UserError

ALIKE = 0.0  # what groups lose that are all compared with one another


def variances_of(logs) -> np.ndarray:
    return 1e-5 * np.exp(np.asarray(logs, dtype=float))


# Moderated variances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spread", "prior_freedom"),
    [
        (math.pi**2 / 6 + math.pi**2 / 6 - 1, 4),  # ψ′(2) = π²/6 − 1
        (math.pi**2 / 6 + math.pi**2 / 6, 2),  # ψ′(1) = π²/6
        (math.pi**2 / 6 + math.pi**2 / 2, 1),  # ψ′(1/2) = π²/2
    ],
)
def test_variances_are_limmas(spread, prior_freedom):
    """Two groups of three runs: log s² has by chance the variance ψ′(1) = π²/6, and what it varies more is ψ′(d₀/2).

    Then s̃² = (d₀·s₀² + d·s²)/(d₀ + d), with s₀² the mean of both, since they are alike.
    """
    half = math.sqrt(spread / 2)  # the sample variance of ±half is 2·half²
    variances = variances_of([-half, half])
    found, freedom = moderated(variances, [2, 2], [ALIKE, ALIKE])
    prior = 1e-5 * math.cosh(half)
    np.testing.assert_allclose(found, (prior_freedom * prior + 2 * variances) / (prior_freedom + 2), rtol=1e-6)
    np.testing.assert_allclose(freedom, min(prior_freedom + 2, 4))  # no more than there are


def limma(variances: np.ndarray, freedom: float) -> float:
    """d₀ of limma's fitFDist for groups of equal degrees of freedom: ψ′(d₀/2) is the sample variance of log s², less
    ψ′(d/2)."""
    excess = np.var(np.log(variances), ddof=1) - special.polygamma(1, freedom / 2)
    halves = np.geomspace(1e-3, 1e4, 200_001)
    return 2 * float(halves[np.abs(special.polygamma(1, halves) - excess).argmin()]) if excess > 0 else math.inf


@pytest.mark.parametrize("logs", [[-2, -1, 0, 1, 2.5], [-3, 0.2, 0.1, 3], [-1.5, 1, 1.2, -1.4, 2, -2.2]])
@pytest.mark.parametrize("freedom", [1, 2, 4])
def test_prior_degrees_of_freedom_are_limmas(logs, freedom):
    variances, count = variances_of(logs), len(logs)
    prior_freedom = min(limma(variances, freedom), count * freedom)
    expected = (prior_freedom * variances.mean() + freedom * variances) / (prior_freedom + freedom)
    found, total = moderated(variances, [freedom] * count, [ALIKE] * count)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(total, min(prior_freedom + freedom, count * freedom), rtol=1e-3)


def test_variances_that_differ_by_no_more_than_chance_are_one():
    """The pooled one, with the degrees of freedom of all groups."""
    variances = variances_of([0, 0.1, -0.1])
    found, freedom = moderated(variances, [2, 2, 4], [ALIKE] * 3)
    pooled = (2 * variances[0] + 2 * variances[1] + 4 * variances[2]) / 8
    np.testing.assert_allclose(freedom, 8)
    np.testing.assert_allclose(found, (8 * pooled + np.array([2, 2, 4]) * variances) / (8 + np.array([2, 2, 4])))


def test_a_single_run_has_the_variance_of_its_neighbours():
    found, freedom = moderated([1e-5, 1e-5, math.nan], [2, 2, 0], [ALIKE, ALIKE, ALIKE])
    np.testing.assert_allclose(found, 1e-5)
    assert freedom[2] == 4
    near = [1e-6, 1e-4]
    (_, _, at_plateau, at_edge), _ = moderated([*near, 0, 0], [4, 4, 0, 0], [0, 0.2, 0.001, 0.15])
    assert at_plateau < 3e-6  # which loses next to nothing, and so varies like the first
    assert at_edge > 5e-5


@pytest.mark.parametrize(("first", "second"), [(0.01, 0.03), (0.0, 0.01), (0.2, 0.03)])
def test_likeness_is_a_normal_kernel_in_the_log_of_the_loss(first, second):
    """Of a run alone between two groups of equal degrees of freedom the variance is their average, weighted by
    exp(−½·(difference of log(1 + loss / 1 point) / 0.7)²)."""
    loss = 0.02
    weights = [
        math.exp(-0.5 * (math.log((1 + 100 * loss) / (1 + 100 * other)) / 0.7) ** 2) for other in (first, second)
    ]
    found, _ = moderated([1e-6, 1e-4, math.nan], [3, 3, 0], [first, second, loss])
    assert found[2] == pytest.approx(np.average([1e-6, 1e-4], weights=weights))


def test_what_no_run_repeats_has_no_variance():
    found, freedom = moderated([math.nan, 0.5], [0, 0], [0.0, 0.1])
    assert np.isnan(found).all()
    assert freedom.tolist() == [0, 0]


def test_runs_that_agree_to_the_last_image_leave_an_error():
    found, freedom = moderated([0.0, 0.0], [2, 2], [0.0, 0.0])
    np.testing.assert_allclose(found, 1e-12)
    assert np.isfinite(freedom).all()
    dead, _ = moderated([0.0, 1e-5, 2e-5], [2, 2, 2], [0.6, 0.0, 0.0])  # a network that learns nothing
    np.testing.assert_allclose(dead[1:], moderated([1e-5, 2e-5], [2, 2], [0.0, 0.0])[0], rtol=0.02)


groups = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(0, 5), st.integers(0, 300)), min_size=1, max_size=8
).filter(lambda rows: any(freedom for _, freedom, _ in rows))


@given(groups, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_moderation_lies_between_its_group_and_the_others(rows, random):
    variances, freedom, losses = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    variances, losses = variances / 1e7, losses / 1000
    found, total = moderated(variances, freedom, losses)
    known = variances[freedom > 0]
    assert (found >= known.min() * (1 - 1e-9)).all()
    assert (found <= known.max() * (1 + 1e-9)).all()
    assert (total <= freedom.sum() + 1e-9).all()
    assert (total >= np.minimum(freedom, freedom.sum()) - 1e-9).all()
    # The order does not matter, nor the unit of the accuracies.
    order = list(range(len(rows)))
    random.shuffle(order)
    other, _ = moderated(variances[order], freedom[order], losses[order])
    np.testing.assert_allclose(other, found[order], rtol=1e-6)
    np.testing.assert_allclose(moderated(4 * variances, freedom, losses)[0], 4 * found, rtol=1e-6)


# Cells --------------------------------------------------------------------------------------------------------------


def test_cells():
    epochs = table(
        ("a", 8, 0, [0.70]),
        ("a", 8, 1, [0.72]),
        ("a", 8, 2, [math.nan]),
        ("a", 16, 0, [0.71]),
        ("b", 8, 5, [0.66]),
        ("b", 8, 6, [0.74]),
    )
    found = accuracies(epochs, [("a", 8, 7), ("b", 64, 0), ("b", 64, 1)]).set_index(["experiment", "batch_size"])
    assert found.index.tolist() == [("a", 8), ("a", 16), ("b", 8), ("b", 64)]
    assert found["seeds"].tolist() == [2, 1, 2, 0]
    assert found["diverged"].tolist() == [1, 0, 0, 2]
    np.testing.assert_allclose(found["accuracy"], [0.71, 0.71, 0.70, math.nan])
    np.testing.assert_allclose(
        found["standard_deviation"], [0.01 * math.sqrt(2), math.nan, 0.04 * math.sqrt(2), math.nan]
    )
    variances, freedom = moderated(np.array([2e-4, math.nan, 32e-4]), np.array([1, 0, 1]), np.array([0, 0, 0.01]))
    np.testing.assert_allclose(found["error"], [*np.sqrt(variances / [2, 1, 2]), math.nan])
    np.testing.assert_allclose(found["freedom"], [*freedom, math.nan])


def test_cells_of_single_seeds_or_of_failures_alone():
    found = accuracies(table(("a", 8, 0, [0.7]), ("a", 16, 0, [0.6])))
    assert found["accuracy"].tolist() == [0.7, 0.6]
    assert found["error"].isna().all()
    failed = accuracies(table(("a", 8, 0, [math.nan])), [("a", 8, 0)])
    assert failed[["experiment", "batch_size", "seeds", "diverged"]].values.tolist() == [["a", 8, 0, 1]]
    assert accuracies(table(("a", 8, 0, [math.nan]))).empty


def test_the_best_cell_is_nearly_as_certain_as_all_runs_together():
    """Three seeds at each of twenty batch sizes that vary alike: the error is that of a deviation known from 40 degrees
    of freedom, not of the two of its own runs."""
    generator = np.random.default_rng(0)
    epochs = table(
        *[("a", 2 + size, seed, [0.7 + generator.normal(0, 0.002)]) for size in range(20) for seed in range(3)]
    )
    found = accuracies(epochs)
    own = found["standard_deviation"] / math.sqrt(3)
    assert found["error"].between(0.7 * 0.002 / math.sqrt(3), 1.4 * 0.002 / math.sqrt(3)).all()
    assert own.min() < 0.4 * 0.002 / math.sqrt(3)
    assert (found["freedom"] > 10).all()


# The best of several means ------------------------------------------------------------------------------------------


def best(means, errors):
    return best_of(pd.Series(means, dtype=float), pd.Series(errors, dtype=float))


@pytest.mark.parametrize(
    ("count", "expected", "deviation"),  # of the largest of so many standard normals
    [(2, 0.5642, math.sqrt(1 - 1 / math.pi)), (3, 0.8463, 0.7480), (4, 1.0294, 0.7012), (5, 1.1630, 0.6690)],
)
def test_the_best_of_equal_means_is_too_high_by_the_expected_maximum(count, expected, deviation):
    value, error, top = best([0.75] * count, [0.004] * count)
    assert (0.75 - value) / 0.004 == pytest.approx(expected, abs=1e-3)
    assert error / 0.004 == pytest.approx(deviation, abs=1e-3)
    assert top == 0


def test_means_that_differ_no_more_than_by_chance_are_moved_together():
    """Three means of a standard deviation of one error: their order is chance."""
    value, _, top = best([0.746, 0.750, 0.754], [0.004] * 3)
    assert (0.754 - value) / 0.004 == pytest.approx(0.8463, abs=1e-3)
    assert top == 2


@pytest.mark.parametrize(("lead", "errors"), [(2.0, (1, 1)), (2.5, (1, 1)), (3.0, (1, 1)), (3.0, (1.2, 0.9))])
def test_the_best_of_two_is_clarks(lead, errors):
    """E[max] of two normals is m₁Φ(δ/θ) + m₂Φ(−δ/θ) + θφ(δ/θ) (Clark 1961), and the means are shrunken as by James and
    Stein: here δ by the factor τ²/(τ² + e²), with τ² = δ²/2 − e²."""
    e = 0.004 * np.array(errors)
    means = np.array([0.75 + 0.004 * lead, 0.75])
    between = (means[0] - means[1]) ** 2 / 2 - (e**2).mean()
    common = np.average(means, weights=1 / e**2)
    shrunken = common + between / (between + e**2) * (means - common)
    delta, theta = shrunken[0] - shrunken[1], math.hypot(*e)
    optimism = theta * stats.norm.pdf(delta / theta) - delta * stats.norm.cdf(-delta / theta)
    value, error, _ = best(means, e)
    assert means[0] - value == pytest.approx(optimism, rel=1e-3)
    assert 0 < optimism < 0.3 * e[0]
    assert 0.8 * e.min() < error <= e.max()


def test_what_is_far_below_does_not_compete():
    assert best([0.75, 0.70, 0.30], [0.004] * 3) == (0.75, 0.004, 0)
    value, error, _ = best([0.75, 0.75, 0.30], [0.004] * 3)
    assert (0.75 - value) / 0.004 == pytest.approx(0.5642, abs=1e-3)
    assert error < 0.004


def test_without_errors_the_largest_mean_counts():
    value, error, top = best([0.70, 0.75], [math.nan, 0.004])
    assert (value, top) == (0.75, 1)
    assert math.isnan(error)


def test_the_optimism_is_what_it_is_on_average():
    """Simulated: true means that differ about as much as noise. Uncorrected the best mean is 0.6 errors too high."""
    generator, errors = np.random.default_rng(1), np.full(4, 0.002)
    raw, corrected = [], []
    for _ in range(400):
        true = 0.75 + generator.normal(0, 0.001, 4)
        means = true + generator.normal(0, 0.002, 4)
        value, _, top = best(means, errors)
        raw.append((means[top] - true.max()) / 0.002)
        corrected.append((value - true.max()) / 0.002)
    assert np.mean(raw) > 0.4
    assert abs(np.mean(corrected)) < 0.6 * np.mean(raw)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6, unique_by=lambda row: row[0]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=100)
def test_what_always_holds_of_the_best(rows, random):
    means, errors = np.array([(0.7 + mean / 1000, error / 2000) for mean, error in rows]).T
    value, error, top = best(means, errors)
    assert means[top] == means.max()
    most = errors.max() * 1.3  # E[max] of six
    assert means[top] - most <= value <= means[top] + 1e-9
    assert 0 < error <= errors.max() * 1.01
    order = list(range(len(rows)))
    random.shuffle(order)
    other, other_error, _ = best(means[order], errors[order])
    assert (other, other_error) == pytest.approx((value, error), rel=1e-6)


# The threshold of cells ---------------------------------------------------------------------------------------------


def cells(*rows) -> pd.DataFrame:
    """Cells of (experiment, batch_size, accuracy, error), of three seeds and twelve degrees of freedom."""
    frame = pd.DataFrame(rows, columns=["experiment", "batch_size", "accuracy", "error"])
    return frame.assign(seeds=3, standard_deviation=0.002, freedom=12.0, diverged=0)


RUNS = table(*[("a", size, seed, [0.7]) for size in (8, 16, 32) for seed in (1, 0)])


def test_the_threshold_is_without_optimism():
    of = cells(("a", 8, 0.75, 0.004), ("a", 16, 0.75, 0.004), ("a", 32, 0.60, 0.004), ("b", 4, 0.9, 0.004))
    found = threshold(RUNS, of, ["a"], tolerance=0.02)
    assert found.optimism == pytest.approx(0.5642 * 0.004, rel=1e-3)
    assert found.best == pytest.approx(0.75 - found.optimism)
    assert found.accuracy == pytest.approx(found.best - 0.02)
    assert (found.mean, found.from_batch_size, found.reference, found.seeds) == (0.75, 8, ("a",), 3)
    assert found.error == pytest.approx(0.004 * math.sqrt(1 - 1 / math.pi), rel=1e-3)
    half = stats.t.ppf(0.975, 12) * found.error
    assert found.interval == pytest.approx((found.best - half, found.best + half))
    assert found.records == ("a_bs8_seed0", "a_bs8_seed1")
    assert not found.is_given


def test_the_mean_of_the_reference_has_no_optimism():
    of = cells(("a", 8, 0.75, 0.004), ("a", 16, 0.73, 0.003))
    found = threshold(RUNS, of, ["a"], of="mean")
    assert (found.best, found.optimism, found.from_batch_size) == (pytest.approx(0.74), 0.0, None)
    assert found.error == pytest.approx(0.0025)  # √(0.004² + 0.003²)/2
    assert found.records == ("a_bs8_seed0", "a_bs8_seed1", "a_bs16_seed0", "a_bs16_seed1")


def test_a_given_accuracy_is_the_threshold_itself():
    found = threshold(RUNS, cells(("a", 8, 0.75, 0.004)), ["a"], tolerance=0.02, of=0.8)
    assert found == Threshold(accuracy=0.8, best=0.8, error=0.0, freedom=math.inf)
    assert (found.is_given, found.optimism, found.records) == (True, 0.0, ())
    assert np.isnan(found.interval).all()
    assert threshold(RUNS.iloc[:0], cells(), [], of=0.8).accuracy == 0.8  # without any reference


def test_references_together():
    of = cells(("a", 8, 0.75, 0.001), ("b", 4, 0.78, 0.001))
    both = threshold(RUNS, of, ["a", "b"])
    assert (both.best, both.from_batch_size, both.reference) == (0.78, 4, ("a", "b"))
    assert threshold(RUNS, of, ["a"]).best == 0.75
    assert threshold(RUNS, of, ["c"]) is None
    assert threshold(RUNS, of.assign(diverged=1), ["a"]) is None
    assert threshold(RUNS, of.assign(seeds=0), ["a"]) is None


def test_a_reference_batch_size_with_a_diverged_run_does_not_count():
    of = cells(("a", 8, 0.75, 0.001), ("a", 16, 0.70, 0.001)).assign(diverged=[1, 0])
    assert threshold(RUNS, of, ["a"]).from_batch_size == 16


@pytest.mark.parametrize("of", ["median", "", 0.0, -0.1, 1.01, 76, math.nan])
def test_what_is_no_threshold(of):
    with pytest.raises(UserError, match="it must be best, mean, or a fraction above 0 and at most 1"):
        threshold(RUNS, cells(("a", 8, 0.75, 0.004)), ["a"], of=of)
