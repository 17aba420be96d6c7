"""The noise scale against known covariances, per-example gradients and plain loops, and the state it restores."""

import copy
import doctest
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from batchscale.training import datasets, noise_scale
from batchscale.training.noise_scale import Estimate, estimate, measure, two_batch_estimates
from models import CNN


class Quadratic(nn.Module):
    """L(w; x) = |w − x|²/2 at w = 0: an example's gradient is −x, so G = −E x and Σ is the covariance of x."""

    def __init__(self, dimensions):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dimensions, dtype=torch.float64))

    def forward(self, examples):
        return (self.weight - examples).square().sum(dim=1).mean() / 2


def in_blocks(gradients, blocks) -> list:
    """Consecutive blocks, as equal as possible: 13 in 10 blocks are 2, 1, 1, 2, 1, 1, 2, 1, 1, 1."""
    block = np.arange(len(gradients)) * blocks // len(gradients)
    return [gradients[block == number] for number in range(blocks)]


def of_gradients(gradients, micro_batch_size, blocks=None) -> Estimate:
    """`estimate` of micro-batch gradients (M, P) in that many blocks, by default one per micro-batch."""
    parts = in_blocks(np.asarray(gradients), blocks or len(gradients))
    sums = np.stack([part.sum(axis=0) for part in parts])
    return estimate(
        [np.square(part).sum() for part in parts],
        np.square(sums).sum(axis=1),
        sums @ sums.sum(axis=0),
        [len(part) for part in parts],
        micro_batch_size=micro_batch_size,
    )


def test_doctest():
    assert doctest.testmod(noise_scale).failed == 0


def test_by_hand():
    """Gradients (3, 1), (1, 1), (2, 4) of two images each: mean (2, 2), mean squared norm (10 + 2 + 20)/3 = 32/3.

    B_s = 2, B_b = 6: 𝒢² = (6·8 − 2·32/3)/4 = 20/3, 𝒮 = (32/3 − 8)/(1/2 − 1/6) = 8, B = 1.2.
    Pairs: 3 + 1, 6 + 4, 2 + 4: mean 20/3. Without the first, second, third: 𝒢² 6, 10, 4; |G_s|² 11, 15, 6, and
    |G_b|² (9 + 25)/4, (25 + 25)/4, (16 + 4)/4, so that with 1/2 − 1/4, 𝒮 = 10, 10, 4. 𝒮 − 1.2·𝒢² = 2.8, −2, −0.8,
    with mean 0 and mean square (7.84 + 4 + 0.64)/3 = 4.16; the standard error is √(2·4.16)/(20/3).
    """
    found = of_gradients([[3, 1], [1, 1], [2, 4]], micro_batch_size=2)
    assert found.squared_gradient_norm == pytest.approx(20 / 3, rel=1e-14)
    assert found.trace_covariance == pytest.approx(8, rel=1e-14)
    assert found.noise_scale == pytest.approx(1.2, rel=1e-14)
    assert found.standard_error == pytest.approx(math.sqrt(8.32) / (20 / 3), rel=1e-12)
    assert (found.small_batch_size, found.big_batch_size) == (2, 6)


@settings(deadline=None)  # a busy machine is not a failure
@given(
    squared_gradient_norm=st.floats(-10, 1e3),
    trace_covariance=st.floats(0, 1e3),
    small=st.integers(1, 64),
    more=st.integers(1, 500),
)
def test_two_batch_estimates_solve_their_equations(squared_gradient_norm, trace_covariance, small, more):
    big = small + more
    found = two_batch_estimates(
        squared_gradient_norm + trace_covariance / small,
        squared_gradient_norm + trace_covariance / big,
        small_batch_size=small,
        big_batch_size=big,
    )
    assert found == pytest.approx((squared_gradient_norm, trace_covariance), rel=1e-6, abs=1e-6)


def test_two_batch_estimates_of_arrays():
    found = two_batch_estimates(np.array([5.0, 1.0]), np.array([2.0, 1.0]), small_batch_size=2, big_batch_size=8)
    np.testing.assert_allclose(found, ([1, 1], [8, 0]))


# Relative standard errors of B near 7 %, where the delta method holds. Blocks of one micro-batch and of several, even
# and uneven. Noise equal in all directions, or largest in one of the directions of G.
@pytest.mark.parametrize(
    ("micro_batches", "micro_batch_size", "deviations"),
    [(10, 40, [1.0] * 20), (23, 18, [1.0] * 20), (20, 32, [2.5, *[0.8] * 19])],
)
def test_recovers_a_known_covariance_within_its_standard_error(micro_batches, micro_batch_size, deviations):
    generator = torch.Generator().manual_seed(0)
    deviations = torch.tensor(deviations, dtype=torch.float64)
    mean = torch.full_like(deviations, math.sqrt(2 / len(deviations)))  # |G|² = 2
    trace = deviations.square().sum().item()
    images = micro_batches * micro_batch_size
    found = []
    for _ in range(200):
        x = mean + deviations * torch.randn(images, len(deviations), dtype=torch.float64, generator=generator)
        model = Quadratic(len(deviations))
        found.append(
            measure(
                model,
                lambda part, model=model, x=x: model(x[part]),
                torch.arange(images),
                random_seed=0,
                micro_batches=micro_batches,
                micro_batch_size=micro_batch_size,
                with_standard_error=True,
            )
        )
    for values, truth in (
        ([one.squared_gradient_norm for one in found], 2),
        ([one.trace_covariance for one in found], trace),
        ([one.noise_scale for one in found], trace / 2),
    ):
        assert abs(np.mean(values) - truth) < 3 * np.std(values, ddof=1) / math.sqrt(200)
    noise_scales = np.array([one.noise_scale for one in found])
    standard_errors = np.array([one.standard_error for one in found])
    assert 0.85 < math.sqrt(np.mean(standard_errors**2)) / noise_scales.std(ddof=1) < 1.2
    assert 0.57 < np.mean(np.abs(noise_scales - trace / 2) < standard_errors) < 0.77  # 68 % for many blocks


def test_where_noise_swamps_the_gradient():
    """B = 400, B_b = 80: both estimates stay unbiased, and the ratio is NaN whenever 𝒢² ≤ 0."""
    generator = np.random.default_rng(0)
    found = [of_gradients(0.05 + generator.normal(size=(40, 100)) / math.sqrt(2), 2, blocks=10) for _ in range(1000)]
    squared_gradient_norms = np.array([one.squared_gradient_norm for one in found])
    traces = np.array([one.trace_covariance for one in found])
    assert abs(squared_gradient_norms.mean() - 0.25) < 3 * squared_gradient_norms.std() / math.sqrt(1000)
    assert abs(traces.mean() - 100) < 3 * traces.std() / math.sqrt(1000)
    not_measurable = squared_gradient_norms <= 0
    assert 0.02 < not_measurable.mean() < 0.2
    for one, hidden in zip(found, not_measurable, strict=True):
        assert one.is_measurable == (not hidden)
        assert math.isnan(one.noise_scale) == math.isnan(one.standard_error) == hidden
        assert hidden or one.noise_scale > 0
    # the jackknife of 𝒮 − B·𝒢² is conservative here, see its docstring
    residuals = traces - 400 * squared_gradient_norms
    claimed = [one.standard_error * one.squared_gradient_norm for one in found if abs(one.noise_scale / 400 - 1) < 0.1]
    assert 1 < math.sqrt(np.mean(np.square(claimed))) / residuals.std() < 1.5


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_not_measurable(value):
    assert not Estimate(value, 8.0 if value <= 0 else value, math.nan, 1, 2).is_measurable
    assert math.isnan(Estimate(value, 8.0 if value <= 0 else value, math.nan, 1, 2).noise_scale)


def test_gradients_whose_sum_overflows_are_not_measurable():
    """|Σg|² grows with M² and overflows before Σ|g|² does: 𝒢² is infinite, 𝒮 is not."""
    products = [math.inf] * 3
    assert math.isnan(estimate([1.0, 1.0, 1.0], products, products, [1, 1, 1], micro_batch_size=1).noise_scale)
    assert not Estimate(math.inf, 0.0, math.nan, 1, 2).is_measurable


def test_gradients_that_cancel_are_not_measurable():
    found = of_gradients([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], micro_batch_size=5)
    assert found.squared_gradient_norm == pytest.approx(-1 / 3, rel=1e-14)
    assert found.trace_covariance == pytest.approx(5 * 4 / 3, rel=1e-14)
    assert math.isnan(found.noise_scale)
    assert math.isnan(found.standard_error)


@pytest.mark.parametrize(
    ("square", "product"), [(math.nan, math.nan), (math.inf, math.inf), (math.inf, -math.inf), (1, math.inf)]
)
def test_gradients_that_are_not_finite_are_not_measurable(square, product):
    """Without a warning, which would fail the test."""
    found = estimate([square, 1, 1], [square, 1, 1], [product, product, 3], [1, 1, 1], micro_batch_size=1)
    assert math.isnan(found.noise_scale)
    assert math.isnan(found.standard_error)


@pytest.mark.parametrize("seed", range(20))
def test_no_noise(seed):
    """Rounding does not make the noise scale negative, although it takes 𝒮 below zero for one seed in four."""
    gradient = np.random.default_rng(seed).normal(size=3)
    found = of_gradients([gradient] * 7, micro_batch_size=3)
    assert found.squared_gradient_norm == pytest.approx(np.square(gradient).sum(), rel=1e-12)
    assert 0 <= found.noise_scale < 1e-12
    assert 0 <= found.standard_error < 1e-12


def test_two_micro_batches_have_no_standard_error():
    found = of_gradients([[1.0, 2.0], [2.0, 1.0]], micro_batch_size=3)
    assert (found.squared_gradient_norm, found.noise_scale) == pytest.approx((4, 0.75))
    assert math.isnan(found.standard_error)
    assert math.isnan(of_gradients(np.eye(4) + 1, 1, blocks=1).standard_error)


gradient_lists = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed)).map(
    lambda generator: 1 + generator.normal(size=(generator.integers(3, 12), generator.integers(1, 6)))
)  # fmt: skip


@settings(deadline=None)  # a busy machine is not a failure
@given(
    gradients=gradient_lists, micro_batch_size=st.integers(1, 9), factor=st.floats(0.01, 100), seed=st.integers(0, 9)
)
def test_properties(gradients, micro_batch_size, factor, seed):
    found = of_gradients(gradients, micro_batch_size)
    # 𝒮 is B_s times the trace of the sample covariance of the micro-batch gradients, 𝒢² the mean over pairs
    count = len(gradients)
    gram = gradients @ gradients.T
    trace = micro_batch_size * np.atleast_2d(np.cov(gradients.T)).trace()
    assert found.trace_covariance == pytest.approx(trace, rel=1e-9, abs=1e-9)
    pairs = (gram.sum() - gram.trace()) / (count * (count - 1))
    assert found.squared_gradient_norm == pytest.approx(pairs, rel=1e-9, abs=1e-9)
    # neither the order, with one block per micro-batch, nor the unit of the loss matters
    order = np.random.default_rng(seed).permutation(count)
    other = of_gradients(factor * gradients[order], micro_batch_size)
    if found.squared_gradient_norm > 1e-6:
        assert other.noise_scale == pytest.approx(found.noise_scale, rel=1e-6)
        assert other.standard_error == pytest.approx(found.standard_error, rel=1e-6, abs=1e-9)
    # B and its standard error are proportional to the images per micro-batch
    double = of_gradients(gradients, 2 * micro_batch_size)
    if found.squared_gradient_norm > 1e-6:
        assert double.noise_scale == pytest.approx(2 * found.noise_scale, rel=1e-9)
        assert double.standard_error == pytest.approx(2 * found.standard_error, rel=1e-9)


@settings(deadline=None)  # a busy machine is not a failure
@given(gradients=gradient_lists, micro_batch_size=st.integers(1, 9), blocks=st.integers(2, 12))
def test_standard_error_is_the_delta_methods_with_a_plain_jackknife(gradients, micro_batch_size, blocks):
    blocks = min(blocks, len(gradients))
    found = of_gradients(gradients, micro_batch_size, blocks)
    parts = in_blocks(gradients, blocks)
    if len(gradients) - max(map(len, parts)) < 2 or not found.squared_gradient_norm > 1e-3:
        return
    residuals = []
    for left_out in range(blocks):
        kept = np.concatenate([part for number, part in enumerate(parts) if number != left_out])
        trace = micro_batch_size * kept.var(axis=0, ddof=1).sum()
        squared_gradient_norm = np.square(kept.mean(axis=0)).sum() - trace / (len(kept) * micro_batch_size)
        residuals.append(trace - found.noise_scale * squared_gradient_norm)
    expected = math.sqrt((blocks - 1) / blocks * np.square(residuals - np.mean(residuals)).sum())
    assert found.standard_error == pytest.approx(expected / found.squared_gradient_norm, rel=1e-6, abs=1e-9)


@pytest.fixture(scope="module")
def small_network():
    """A network without batch norm in float64, its data, and the gradient of each example (12, P) by torch.func."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.randint(0, 3, (12,))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def example_loss(parameters, x, y):
        return functional.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    by_name = vmap(grad(example_loss), in_dims=(None, 0, 0))(parameters, x, y)
    per_example = torch.cat([by_name[name].flatten(1) for name in parameters], dim=1).numpy()
    return model, lambda part: functional.cross_entropy(model(x[part]), y[part]), per_example


def of_order(small_network, order, micro_batch_size) -> Estimate:
    model, loss, _ = small_network
    return measure(
        model,
        loss,
        torch.tensor(order),
        random_seed=0,
        micro_batches=len(order) // micro_batch_size,
        micro_batch_size=micro_batch_size,
        with_standard_error=True,
    )


def test_one_example_per_micro_batch_gives_the_per_example_covariance(small_network):
    per_example = small_network[2]
    found = of_order(small_network, range(12), 1)
    trace = np.cov(per_example.T).trace()
    assert found.trace_covariance == pytest.approx(trace, rel=1e-6)
    assert found.squared_gradient_norm == pytest.approx(np.square(per_example.mean(0)).sum() - trace / 12, rel=1e-6)


@pytest.mark.parametrize("micro_batch_size", [2, 3, 4, 6])
def test_micro_batches_and_per_example_gradients_add_up(small_network, micro_batch_size):
    """Analysis of variance: (N − 1)·tr Σ̂ = (M − 1)·𝒮 + M·(B_s − 1)·tr Σ̂_within, and 𝒢² = |ḡ|² − 𝒮/N."""
    per_example = small_network[2]
    order = np.random.default_rng(micro_batch_size).permutation(12)
    found = of_order(small_network, order.tolist(), micro_batch_size)
    groups = per_example[order].reshape(12 // micro_batch_size, micro_batch_size, -1)
    within = groups.var(axis=1, ddof=1).sum(axis=1).mean()
    total = per_example.var(axis=0, ddof=1).sum()
    count = 12 // micro_batch_size
    expected = (11 * total - count * (micro_batch_size - 1) * within) / (count - 1)
    assert found.trace_covariance == pytest.approx(expected, rel=1e-6)
    squared_norm = np.square(per_example.mean(axis=0)).sum()
    assert found.squared_gradient_norm == pytest.approx(squared_norm - found.trace_covariance / 12, rel=1e-6)


def test_mean_over_all_splits_is_the_per_example_estimate(small_network):
    """The 35 splits of eight examples into two micro-batches of four: exactly unbiased."""
    per_example = small_network[2][:8]
    halves = [(0, *rest) for rest in itertools.combinations(range(1, 8), 3)]
    found = [of_order(small_network, [*half, *(set(range(8)) - set(half))], 4) for half in halves]
    trace = per_example.var(axis=0, ddof=1).sum()
    assert np.mean([one.trace_covariance for one in found]) == pytest.approx(trace, rel=1e-6)
    squared_gradient_norm = np.square(per_example.mean(axis=0)).sum() - trace / 8
    assert np.mean([one.squared_gradient_norm for one in found]) == pytest.approx(squared_gradient_norm, rel=1e-6)


def test_mean_over_all_draws_from_a_finite_training_set(small_network):
    """The 70 draws of four from n = 8 examples: 𝒮 is unbiased, and 𝒢² is |G_n|² − tr(Σ)/n on average."""
    per_example = small_network[2][:8]
    found = [of_order(small_network, draw, 1) for draw in itertools.combinations(range(8), 4)]
    trace = per_example.var(axis=0, ddof=1).sum()
    assert np.mean([one.trace_covariance for one in found]) == pytest.approx(trace, rel=1e-6)
    expected = np.square(per_example.mean(axis=0)).sum() - trace / 8
    assert np.mean([one.squared_gradient_norm for one in found]) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture
def cnn():
    """The study's network, with batch norm and dropout."""
    torch.manual_seed(0)
    return CNN(width=0.25)


def loss_of(model, data):
    def loss(part):
        images, labels = data.batch(part)
        return functional.cross_entropy(model(images), labels)

    return loss


@pytest.mark.parametrize("micro_batches", [4, 13])
def test_equals_a_plain_loop_in_train_mode(cnn, digits, micro_batches):
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(1))
    found = measure(
        cnn.eval(),
        loss_of(cnn, digits),
        order,
        random_seed=7,
        micro_batches=micro_batches,
        micro_batch_size=16,
        with_standard_error=True,
    )
    plain = copy.deepcopy(cnn).train()
    torch.manual_seed(7)
    gradients = []
    for number in range(micro_batches):
        plain.zero_grad()
        loss_of(plain, digits)(order[16 * number : 16 * (number + 1)]).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in plain.parameters()]).double())
    expected = of_gradients(torch.stack(gradients).numpy(), 16, blocks=min(micro_batches, 10))
    assert found.trace_covariance == pytest.approx(expected.trace_covariance, rel=1e-4)
    assert found.squared_gradient_norm == pytest.approx(expected.squared_gradient_norm, rel=1e-4)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-3)
    assert found.big_batch_size == 16 * micro_batches


class Fails(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_restores_everything(cnn, digits, fails):
    optimizer = torch.optim.SGD(cnn.parameters(), lr=0.01, momentum=0.9)
    loss_of(cnn, digits)(torch.arange(32)).backward()
    optimizer.step()
    cnn.train()
    cnn.features[1].eval()  # a frozen batch norm stays frozen
    calls = 0

    def loss(part):
        nonlocal calls
        calls += 1
        if fails and calls == 3:
            raise Fails
        return loss_of(cnn, digits)(part)

    def everything():
        return copy.deepcopy(
            {
                "weights, running statistics": cnn.state_dict(),
                "gradients": [parameter.grad for parameter in cnn.parameters()],
                "optimizer": optimizer.state_dict()["state"],
                "modes": {name: module.training for name, module in cnn.named_modules()},
                "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
                "graphs": torch.is_grad_enabled(),
            }
        )

    before = everything()
    with pytest.raises(Fails) if fails else torch.no_grad():
        measure(cnn, loss, torch.arange(1500), random_seed=3)
    assert calls == (3 if fails else 10)
    torch.testing.assert_close(
        {name: value for name, value in everything().items() if name != "generators"},
        {name: value for name, value in before.items() if name != "generators"},
        rtol=0,
        atol=0,
    )
    ours, theirs = everything()["generators"], before["generators"]
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    np.testing.assert_array_equal(ours[2][1], theirs[2][1])


def test_bits_do_not_depend_on_earlier_draws(cnn, digits):
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(1))
    first = measure(cnn, loss_of(cnn, digits), order, random_seed=3)
    torch.rand(11)
    again = copy.deepcopy(cnn).eval()
    assert measure(again, loss_of(again, digits), order, random_seed=3) == first
    assert measure(again, loss_of(again, digits), order, random_seed=4) != first  # dropout
    assert measure(again, loss_of(again, digits), order.flip(0), random_seed=3) != first


# one training image in forty over ten micro-batches, and at least eight in each if there are enough
@pytest.mark.parametrize(("images", "expected"), [(50_000, 125), (49_999, 124), (1500, 8), (64, 6), (10, 1)])
def test_default_micro_batches(images, expected):
    seen = []
    model = Quadratic(2)

    def loss(part):
        seen.append(part)
        return model(part[:, None].double() + torch.arange(2))

    order = torch.randperm(images)
    found = measure(model, loss, order, random_seed=0)
    assert (found.small_batch_size, found.big_batch_size) == (expected, 10 * expected)
    assert torch.equal(torch.cat(seen), order[: 10 * expected])


def test_parameters_that_are_frozen_or_unused_do_not_count():
    model = Quadratic(3)
    examples = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1

    def measured():
        return measure(
            model, lambda part: model(examples[part]), torch.arange(40), random_seed=0, with_standard_error=True
        )

    alone = measured()
    model.unused = nn.Linear(2, 2)
    model.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    assert measured().noise_scale == pytest.approx(alone.noise_scale, rel=1e-12)
    assert measured().standard_error == pytest.approx(alone.standard_error, rel=1e-9)


def test_half_precision_is_summed_in_single():
    model = Quadratic(3).to(torch.bfloat16)
    examples = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) + 1
    found = measure(model, lambda part: model(examples[part].bfloat16()), torch.arange(40), random_seed=0)
    gradients = torch.stack([-part.bfloat16().mean(dim=0) for part in examples.split(4)]).double().numpy()
    assert found.squared_gradient_norm == pytest.approx(of_gradients(gradients, 4).squared_gradient_norm, rel=0.02)


@pytest.mark.parametrize(("small", "big"), [(8, 8), (8, 4), (0, 4), (-1, 4)])
def test_refuses_batch_sizes(small, big):
    with pytest.raises(ValueError, match=f"small_batch_size is {small} and big_batch_size is {big}"):
        two_batch_estimates(1.0, 1.0, small_batch_size=small, big_batch_size=big)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0], [1.0], [1]), r"micro_batches is \[1\]"),
        (([1.0, 0.0], np.ones(2), np.ones(2), [2, 0]), r"micro_batches is \[2, 0\]"),
        (([1.0, 1.0], np.ones(2), np.ones((2, 2)), [1, 1]), r"inner_products \(2, 2\)"),
        (([1.0], np.ones(2), np.ones(2), [1, 1]), r"squared_norms \(1,\)"),
    ],
)
def test_refuses_sums(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(*arguments, micro_batch_size=2)
    with pytest.raises(ValueError, match="small_batch_size is 0"):
        estimate([1.0, 1.0], np.ones(2), np.ones(2), [1, 1], micro_batch_size=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batches": 1}, "micro_batches is 1"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"micro_batches": 41}, "micro_batch_size is 0; 41 micro-batches of 40 images"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"micro_batch_size": 5}, "micro_batch_size is 5; 10 micro-batches of 40 images have from 1 to 4"),
    ],
)
def test_refuses_micro_batches(fields, message):
    model = Quadratic(3)
    with pytest.raises(ValueError, match=message):
        measure(model, lambda part: model(torch.ones(len(part), 3)), torch.arange(40), random_seed=0, **fields)
