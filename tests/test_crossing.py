"""Where a falling curve crosses a level: Fieller's closed forms, brute-force least squares, properties."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import interpolate, optimize, stats

from batchscale.analysis.crossing import Crossing, Level, crossing
from batchscale.analysis.statistics import at_least

SIZES = (8, 16, 32, 64, 128, 256)


def ends(found: Crossing) -> tuple[float | None, float | None, float | None]:
    return found.estimate, found.low, found.high


# Closed forms -------------------------------------------------------------------------------------------------------


def test_on_a_straight_line_the_estimate_is_on_it():
    found = crossing([8, 16, 32, 64], [0.80, 0.79, 0.78, 0.77], [0.001] * 4, 20, Level(0.787))
    assert found.estimate == pytest.approx(8 * 2**1.3)
    assert found.low < found.estimate < found.high


# The errors of the first mean and of the second.
PAIRS = [(0.004, 0.004), (0.006, 0.002), (0.002, 0.005)]


@pytest.mark.parametrize("errors", PAIRS)
@pytest.mark.parametrize("error", [0.0, 0.002, 0.005])
def test_two_sizes_and_a_level_have_fiellers_lower_end(errors, error):
    """The level lies on the line through both means, up to noise: at a share a of the octave the contrast
    (1 − a)·y₀ + a·y₁ − L has the variance (1 − a)²·e₀² + a²·e₁² + σ². Beyond the line a concave curve may bend down at
    once, so that the upper end is the second batch size itself."""
    freedom = 10
    t = stats.t.ppf(0.975, freedom)
    found = crossing([128, 256], [0.76, 0.72], errors, freedom, Level(0.74, error=error))

    def excess(a):
        variance = ((1 - a) * errors[0]) ** 2 + (a * errors[1]) ** 2 + error**2
        return (0.02 * (1 - a) - 0.02 * a) ** 2 - t**2 * variance

    low = optimize.brentq(excess, 0, 0.5)
    assert found.estimate == pytest.approx(128 * math.sqrt(2))
    assert found.low == pytest.approx(128 * 2**low, rel=2e-3)
    assert found.high == pytest.approx(256, rel=2e-3)


@pytest.mark.parametrize("errors", PAIRS)
def test_two_sizes_and_a_drop_have_a_closed_lower_end(errors):
    """The curve falls by the drop at a share a of the octave: y₀ − y₁ − drop/a has the variance e₀² + e₁². So the error
    of the curve's own beginning counts, as that of a level does."""
    freedom, drop = 10, 0.02
    found = crossing([128, 256], [0.76, 0.72], errors, freedom, Level(0.74, drop=drop))
    low = drop / (0.04 + stats.t.ppf(0.975, freedom) * math.hypot(*errors))
    assert found.estimate == pytest.approx(128 * math.sqrt(2))
    assert found.low == pytest.approx(128 * 2**low, rel=2e-3)
    assert found.high == pytest.approx(256, rel=2e-3)


def test_student_quantile_has_the_degrees_of_freedom_of_the_errors():
    few, many = (
        crossing([128, 256], [0.76, 0.72], [0.003] * 2, freedom, Level(0.74, drop=0.02)).low for freedom in (4, 1000)
    )
    for found, freedom in ((few, 4), (many, 1000)):
        t = stats.t.ppf(0.975, freedom)
        assert found == pytest.approx(128 * 2 ** (0.02 / (0.04 + t * 0.003 * math.sqrt(2))), rel=2e-3)
    assert few < many


def test_the_shape_between_two_sizes_is_uncertain_too():
    """Means that are all but certain, with slopes of −0.5, −1.5 and −4 points an octave, half way down the second.

    A concave curve crosses between the chord, at 0.5, and the line that the third extends, at 1 − 0.75/4 of the octave.
    To this distance from the estimate that of the noise is added in quadrature: a curve that ends at 32, where it is
    surely below, may bend down just before.
    """
    means = [0.800, 0.795, 0.780, 0.740]
    found = crossing([8, 16, 32, 64], means, [1e-4] * 4, 1000, Level(0.7875))
    assert found.sizes == (8, 16, 32)
    pchip = interpolate.PchipInterpolator([3, 4, 5], means[:3])
    estimate = optimize.brentq(lambda x: pchip(x) - 0.7875, 4, 5)
    assert math.log2(found.estimate) == pytest.approx(estimate, abs=1e-4)
    assert math.log2(found.low) == pytest.approx(4.5, abs=0.02)
    assert math.log2(found.high) == pytest.approx(estimate + math.hypot(4.8125 - estimate, 5 - 4.8125), abs=0.02)


# Least squares by brute force ---------------------------------------------------------------------------------------


def brute_force(x, y, errors, at=None, value=None, drop=None, error=0.0) -> tuple[np.ndarray, float]:
    """Falling concave curve of least squares, by a general solver: values at x, and the sum of squares."""
    places = np.sort(np.append(x, [] if at is None else [at]))
    own = np.searchsorted(places, x)

    def squares(v):
        total = (((v[own] - y) / errors) ** 2).sum()
        if at is not None and error:
            total += ((v[np.searchsorted(places, at)] - value) / error) ** 2
        return total

    rules = [{"type": "ineq", "fun": lambda v: -(v[1] - v[0])}]
    rules += [
        {
            "type": "ineq",
            "fun": lambda v, i=i: (
                (v[i] - v[i - 1]) / (places[i] - places[i - 1]) - (v[i + 1] - v[i]) / (places[i + 1] - places[i])
            ),
        }
        for i in range(1, len(places) - 1)
    ]
    if at is not None and not error:
        spot = np.searchsorted(places, at)
        rules.append({"type": "eq", "fun": lambda v: v[spot] - (value if drop is None else v[own[0]] - drop)})
    start = np.interp(places, x, np.linspace(y.max(), y.min(), len(y)))
    found = optimize.minimize(
        squares, start, method="SLSQP", constraints=rules, options={"maxiter": 500, "ftol": 1e-12}
    )
    return found.x[own], float(found.fun)


Y = 100 * np.array([0.790, 0.7905, 0.7850, 0.7800, 0.7790, 0.7500])  # in points, so that the solver has steps of size 1
E = 100 * np.array([0.002, 0.001, 0.002, 0.003, 0.002, 0.003])


def test_the_curve_is_that_of_least_squares_among_falling_concave_ones():
    x = np.log2(SIZES)
    expected, squares = brute_force(x, Y, E)
    found = crossing(SIZES, Y / 100, E / 100, 20, Level(0.76))
    assert found.sizes == SIZES
    np.testing.assert_allclose(100 * np.array(found.values), expected, atol=2e-3)
    slopes = np.diff(expected)
    assert (np.diff(slopes) < 1e-3).all()  # it is not the means themselves, which rise, fall and fall more slowly
    assert squares > 1


@pytest.mark.parametrize("level", [Level(0.77), Level(0.77, drop=0.0195), Level(0.77, error=0.002)])
def test_the_interval_is_where_the_sum_of_squares_grows_by_t_squared(level):
    """Noise alone: on a straight line the chord and the extended lines meet at the estimate."""
    x, y = np.log2(SIZES[:4]), 100 * np.array([0.785, 0.778, 0.771, 0.764])
    y, errors, t = y + 0.0, 100 * np.array([0.002, 0.0015, 0.003, 0.002]), stats.t.ppf(0.975, 15)
    level = Level(level.value, None if level.drop is None else 0.785 - level.value, level.error)
    found = crossing(SIZES[:4], y / 100, errors / 100, 15, level)
    scaled = {
        "value": 100 * level.value,
        "drop": None if level.drop is None else 100 * level.drop,
        "error": 100 * level.error,
    }
    assert found.estimate == pytest.approx(2 ** (3 + 1.5 / 0.7))
    _, least = brute_force(x, y, errors)
    for end, inner, outer in ((found.low, 5.1, 3.2), (found.high, 5.2, 6.0)):
        if end == pytest.approx(64, rel=1e-3):  # up to the last batch size it may bend at will
            continue
        edge = optimize.brentq(lambda at: brute_force(x, y, errors, at, **scaled)[1] - least - t**2, inner, outer)
        assert math.log2(end) == pytest.approx(edge, abs=0.01)
    assert found.low > 8


def clipped(y, errors, level, kept) -> float:
    """Sum of squares of the best falling curve that is above the level at the first `kept` sizes, and below it beyond:
    isotonic regression, clipped on either side."""
    fit = optimize.isotonic_regression(-y, weights=1 / errors**2).x
    sides = [
        -optimize.isotonic_regression(-part, weights=1 / of**2).x
        for part, of in ((y[:kept], errors[:kept]), (y[kept:], errors[kept:]))
        if len(part)
    ]
    bounds = [bound for bound, part in ((np.maximum, y[:kept]), (np.minimum, y[kept:])) if len(part)]
    best = np.concatenate([bound(side, level) for bound, side in zip(bounds, sides, strict=True)])
    return float((((best - y) / errors) ** 2).sum() - (((-fit - y) / errors) ** 2).sum())


def test_means_that_are_surely_not_concave_give_recorded_sizes_as_ends():
    """They fall, and then hardly any more. Then all that is known of the shape is that it falls."""
    y, e, t = np.array([0.80, 0.79, 0.770, 0.7695, 0.7690, 0.7685]), np.full(6, 0.0006), stats.t.ppf(0.975, 20)
    level = 0.7693
    found = crossing(SIZES, y, e, 20, Level(level))
    np.testing.assert_allclose(found.values, y, atol=1e-6)
    pchip = interpolate.PchipInterpolator(np.log2(SIZES), y)
    assert found.estimate == pytest.approx(2 ** optimize.brentq(lambda x: pchip(x) - level, 6, 7), rel=1e-4)
    fits = [kept for kept in range(1, 6) if clipped(y, e, level, kept) <= t**2]
    assert fits == [2, 3, 4, 5]  # of so many sizes it may be above
    assert (found.low, found.high) == (SIZES[fits[0] - 1], None)  # at 256 it is not surely below
    sure = crossing(SIZES, y, e / 10, 20, Level(level))
    assert [kept for kept in range(1, 6) if clipped(y, e / 10, level, kept) <= t**2] == [4]
    assert (sure.low, sure.high) == (64, 128)


# Open ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "error", "level", "expected"),
    [
        ([0.787, 0.787, 0.787], 0.001, Level(0.777, drop=0.01), (None, 256, None)),  # above throughout, surely
        ([0.757, 0.747, 0.700], 0.001, Level(0.777), (None, None, 64)),  # below from the start, surely
        ([0.757, 0.747, 0.700], 0.001, Level(0.777, error=0.001), (None, None, 64)),
        ([0.787, 0.786, 0.777], 0.010, Level(0.776), (None, None, None)),  # anything may be
    ],
)
def test_open_ends(means, error, level, expected):
    assert ends(crossing([64, 128, 256], means, [error] * 3, 20, level)) == expected


def test_below_from_the_start_but_not_surely():
    estimate, low, high = ends(crossing([64, 128, 256], [0.776, 0.74, 0.70], [0.002] * 3, 20, Level(0.777)))
    assert (estimate, low) == (None, None)
    assert 64 < high < 128


def test_above_throughout_but_not_surely():
    estimate, low, high = ends(crossing([64, 128, 256], [0.80, 0.795, 0.778], [0.002] * 3, 20, Level(0.777)))
    assert (estimate, high) == (None, None)
    assert 128 < low < 256


def test_one_size():
    nan = math.nan
    assert ends(crossing([8], [0.7], [0.01], 2, Level(0.69, drop=0.01))) == (None, 8, None)
    assert ends(crossing([8], [0.7], [0.001], 20, Level(0.6))) == (None, 8, None)
    assert ends(crossing([8], [0.7], [0.001], 20, Level(0.8))) == (None, None, 8)
    assert ends(crossing([8], [0.7], [nan], 20, Level(0.6))) == (None, None, None)
    assert np.isnan(crossing([8], [0.7], [0.01], 2, Level(0.6)).curve(np.array([8.0]))).all()


def test_without_errors_there_is_an_estimate_and_no_interval():
    """Equal means are what is left of a rise: 0.78 and 0.79 become 0.785 twice."""
    found = crossing([8, 16, 32, 64], [0.80, 0.78, 0.79, 0.76], [math.nan] * 4, 1, Level(0.785))
    assert found.values == pytest.approx((0.80, 0.785, 0.785, 0.76))
    assert ends(found) == (32, None, None)
    fit = [0.80, 0.785, 0.785, 0.76]
    pchip = interpolate.PchipInterpolator(np.log2([8, 16, 32, 64]), fit)
    lower = crossing([8, 16, 32, 64], [0.80, 0.78, 0.79, 0.76], [math.nan] * 4, 1, Level(0.77))
    assert lower.estimate == pytest.approx(2 ** optimize.brentq(lambda x: pchip(x) - 0.77, 5, 6))
    np.testing.assert_allclose(lower.curve(np.array([8, 20.0, 64])), pchip(np.log2([8, 20, 64])))
    assert np.isnan(lower.curve(np.array([7.9, 64.1]))).all()


@pytest.mark.parametrize(("best", "value"), [(0.7587, 0.7487), (0.797, 0.787), (0.5006, 0.4906), (0.1 + 0.2, 0.29)])
@pytest.mark.parametrize("error", [math.nan, 0.0, 1e-5])
def test_a_tie_is_kept(best, value, error):
    """A mean that is lower by exactly the tolerance is on the level, whatever the last digit of the floats says."""
    level = best - 0.01
    for sizes, means, of in (
        ([8, 128, 256], [best, value, value - 0.02], Level(level, drop=0.01)),
        ([128, 256], [value, value - 0.02], Level(level)),
    ):
        assert crossing(sizes, means, [error] * len(sizes), 20, of).estimate == pytest.approx(128, rel=1e-6)
        less = [value - 1e-4 if mean == value else mean for mean in means]
        lost = crossing(sizes, less, [error] * len(sizes), 20, of).estimate
        assert lost is None or lost < 127


def test_what_is_surely_lost_ends_the_curve():
    """What accuracy does after the collapse changes nothing but how steep the curve may be before it."""
    means = [0.800, 0.799, 0.795, 0.70]
    one, other = (
        crossing([*SIZES[:4], *more], [*means, *values], [0.002] * (4 + len(more)), 20, Level(0.78))
        for more, values in (((), ()), ((128, 256), (0.69, 0.60)))
    )
    assert one.sizes == other.sizes == SIZES[:4]
    assert ends(one) == ends(other)


def test_a_precise_mean_counts_more_than_a_vague_one():
    means = [0.80, 0.79, 0.80, 0.76]
    near = [
        crossing(SIZES[:4], means, errors, 20, Level(0.77)).values[2]
        for errors in ([0.001, 0.001, 0.01, 0.001], [0.01, 0.01, 0.001, 0.01])
    ]
    assert near[0] < 0.792
    assert near[1] > 0.798


# Properties ---------------------------------------------------------------------------------------------------------

falls = st.lists(st.integers(-3, 12).map(lambda thousandths: thousandths / 1000), min_size=1, max_size=5)
small_errors = st.integers(5, 60).map(lambda value: value / 1e4)
PROPERTY = settings(deadline=None, max_examples=40)


def curve_of(steps: list[float]) -> list[float]:
    """Means from 0.8 downwards, by the falls from size to size."""
    return [0.8, *(0.8 - np.cumsum(steps)).tolist()]


@given(falls, small_errors, st.booleans(), st.integers(2, 30))
@PROPERTY
def test_what_always_holds(steps, error, is_own, freedom):
    means = curve_of(steps)
    sizes, level = SIZES[: len(means)], Level(0.79, drop=0.01 if is_own else None)
    found = crossing(sizes, means, [error] * len(means), freedom, level)
    estimate, low, high = ends(found)
    assert (np.diff(found.values) <= 1e-9).all()
    assert found.sizes == sizes[: len(found.sizes)]
    assert all(end is None or math.isfinite(end) for end in (estimate, low, high))
    if estimate is not None:
        assert sizes[0] <= estimate <= found.sizes[-1]
        assert found.curve(np.array([estimate])) == pytest.approx(0.79, abs=1e-8)
        assert low is None or low <= estimate * (1 + 1e-9)
        assert high is None or high >= estimate * (1 - 1e-9)
    elif at_least(found.values[0], 0.79):
        assert high is None
    else:
        assert low is None
    assert low is None or high is None or low <= high
    if is_own:
        assert low is not None
        assert low >= sizes[0]


@given(falls, small_errors, st.booleans(), st.sampled_from([0.5, 2, 16]), st.integers(-40, 15))
@PROPERTY
def test_units_do_not_matter(steps, error, is_own, factor, shift):
    """All batch sizes doubled, or all accuracies a few points higher."""
    means, shift = curve_of(steps), shift / 100
    sizes, drop = SIZES[: len(means)], 0.01 if is_own else None
    one = crossing(sizes, means, [error] * len(means), 12, Level(0.79, drop))
    doubled = crossing([factor * size for size in sizes], means, [error] * len(means), 12, Level(0.79, drop))
    shifted = crossing(sizes, np.add(means, shift), [error] * len(means), 12, Level(0.79 + shift, drop))
    for other, scale in ((doubled, factor), (shifted, 1)):
        for ours, theirs in zip(ends(one), ends(other), strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or theirs == pytest.approx(scale * ours, rel=3e-3)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=5), st.integers(8, 30), st.booleans())
@PROPERTY
def test_more_precise_means_give_an_interval_that_is_no_wider(steps, error, is_own):
    """Of concave means, which are their own fit, however precise they are; none is surely lost before the last."""
    means = curve_of([step / 1000 for step in sorted(steps)])
    assume(all(mean > 0.787 for mean in means[:-1]))
    sizes, errors = SIZES[: len(means)], np.full(len(means), error / 1e4)
    level = Level(0.79, drop=0.01 if is_own else None)
    vague, precise = (crossing(sizes, means, each, 20, level) for each in (errors, errors / 1.5))
    if precise.sizes == vague.sizes and vague.estimate is not None:
        assert precise.estimate == pytest.approx(vague.estimate, rel=1e-6)
    if precise.sizes == vague.sizes:
        assert (precise.low or 0) >= (vague.low or 0) * (1 - 2e-3)
        assert (precise.high or math.inf) <= (vague.high or math.inf) * (1 + 2e-3)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=10)
def test_the_interval_mostly_holds_a_known_crossing(random):
    """Of ten intervals at 95 % fewer than six hold the truth with a probability below 10⁻⁴."""
    generator, x = np.random.default_rng(random), np.log2(SIZES)
    truth = generator.uniform(4.5, 7.5)
    true = 0.8 - 0.01 * 2.0 ** (2 * (x - truth))  # falls by a point at the truth
    held = 0
    for _ in range(10):
        means = true + generator.normal(0, 0.001, len(x))
        _, low, high = ends(crossing(SIZES, means, [0.001] * len(x), 60, Level(0.79)))
        held += (low or 0) <= 2**truth <= (high or math.inf)
    assert held >= 6


@pytest.mark.parametrize("error", [0.0, 1e-6, 1e-5])
@pytest.mark.parametrize("drop", [None, 0.0147])
def test_means_that_are_certain_have_a_closed_interval(error, drop):
    """0.7853 is crossed within an octave, between two of the places at which the sum of squares is looked at."""
    found = crossing([8, 16, 32, 64], [0.80, 0.79, 0.78, 0.76], [error] * 4, 8, Level(0.7853, drop=drop))
    assert 16 < found.estimate < 32
    assert found.high is not None
    assert found.high <= 32
