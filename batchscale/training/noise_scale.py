"""Gradient noise scale: roughly the batch size up to which a larger minibatch still improves the gradient.

    def loss(part):
        return functional.cross_entropy(model(images[part]), labels[part])

    estimate = measure(model, loss, torch.randperm(len(images)), random_seed=0, with_standard_error=True)
    estimate.noise_scale, estimate.standard_error     # B_simple in images; NaN where it is not measurable

B_simple = tr(Σ)/|G|², where G is the gradient of the loss and Σ the covariance of a single image's gradient (McCandlish
et al. 2018, arXiv:1812.06162, §2.2 and appendix A.1). `measure` computes gradients, `estimate` the noise scale.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from batchscale.training import randomness
from batchscale.training.network import unchanged

# Ten micro-batches that together hold one training image in forty cost a fortieth of an epoch where time is
# proportional to images, and at B = 128 (390 updates per epoch) also where kernel launches dominate. LOG.md compares.
MICRO_BATCHES = 10
ONE_IMAGE_IN = 40
LEAST_MICRO_BATCH_SIZE = 8  # for small training sets: batch norm computes its statistics over a micro-batch
BLOCKS = 10  # of micro-batches; the standard error uses the summed gradient of each


@dataclass(frozen=True)
class Estimate:
    """Gradient noise scale at fixed weights, and its terms.

    Attributes:
        squared_gradient_norm: 𝒢², unbiased for |G|²; may be zero or negative by chance where noise hides the gradient.
        trace_covariance: 𝒮, unbiased for tr(Σ), where Σ is the covariance of a single image's gradient.
        standard_error: of `noise_scale`, in images. NaN where that is NaN, and with two micro-batches.
        small_batch_size, big_batch_size: B_s and B_b, in images.
    """

    squared_gradient_norm: float
    trace_covariance: float
    standard_error: float
    small_batch_size: int
    big_batch_size: int

    @property
    def is_measurable(self) -> bool:
        """Whether 𝒢² is positive and both terms are finite."""
        return 0 < self.squared_gradient_norm < math.inf and math.isfinite(self.trace_covariance)

    @property
    def noise_scale(self) -> float:
        """B_simple = 𝒮/𝒢² in images, or NaN where it is not measurable."""
        return self.trace_covariance / self.squared_gradient_norm if self.is_measurable else math.nan

    def __str__(self) -> str:
        return (
            f"𝒮 {self.trace_covariance:.3g} over 𝒢² {self.squared_gradient_norm:.3g}, from "
            f"{self.big_batch_size // self.small_batch_size} micro-batches of {self.small_batch_size} images"
        )


def two_batch_estimates(small_squared_norm, big_squared_norm, *, small_batch_size: int, big_batch_size: int):
    """𝒢² and 𝒮, unbiased for |G|² and tr(Σ), from squared gradient norms at two batch sizes.

    The gradient G_B of the mean loss over B independent images satisfies E|G_B|² = |G|² + tr(Σ)/B. Two batch sizes
    B_s < B_b give two equations (McCandlish et al. 2018, appendix A.1), whose solution is

        𝒢² = (B_b·|G_b|² − B_s·|G_s|²) / (B_b − B_s),    𝒮 = (|G_s|² − |G_b|²) / (1/B_s − 1/B_b)

    Args:
        small_squared_norm, big_squared_norm: |G_s|² and |G_b|², numbers or arrays. Average over micro-batches or
            measurements before dividing 𝒮 by 𝒢²: the mean of ratios is not the ratio of means.
        small_batch_size, big_batch_size: B_s and B_b, in images.

    Returns:
        (𝒢², 𝒮), of the arguments' shape. Each may be negative by chance, but not 𝒮 if G_b is the mean of all G_s.

    Raises:
        ValueError: not 1 ≤ B_s < B_b.

    >>> two_batch_estimates(5.0, 2.0, small_batch_size=2, big_batch_size=8)   # |G|² = 1, tr(Σ) = 8
    (1.0, 8.0)
    """
    if not 1 <= small_batch_size < big_batch_size:
        raise ValueError(
            f"small_batch_size is {small_batch_size} and big_batch_size is {big_batch_size}; "
            f"the small one must be at least 1 and less than the big one"
        )
    squared_gradient_norm = (big_batch_size * big_squared_norm - small_batch_size * small_squared_norm) / (
        big_batch_size - small_batch_size
    )
    trace_covariance = (small_squared_norm - big_squared_norm) / (1 / small_batch_size - 1 / big_batch_size)
    return squared_gradient_norm, trace_covariance


def estimate(
    squared_norms: ArrayLike,
    block_norms: ArrayLike,
    inner_products: ArrayLike,
    micro_batches: ArrayLike,
    *,
    micro_batch_size: int,
) -> Estimate:
    """Noise scale from M micro-batch gradients g_1 … g_M at the same weights, gathered into K blocks.

    B_s is the size of a micro-batch and B_b = M·B_s. |G_s|² is the mean of all |g_j|², and G_b the mean of all g_j, so
    both use the same images. Then, exactly, 𝒮 = B_s·Σ|g_j − ḡ|²/(M − 1) ≥ 0, and 𝒢² is the mean of g_i·g_j over all
    pairs i ≠ j.

    The standard error is the delta method's, Var(B) = Var(𝒮 − B·𝒢²)/𝒢⁴ with B = 𝒮/𝒢². A jackknife over the blocks
    estimates the variance, without dividing by the 𝒢² of a part, which may be near zero. Micro-batches are assumed
    independent. The standard error has itself a relative error of about 1/√(2(K − 1)), and where noise swamps the
    gradient (B ≫ B_b) it is too large, by up to √2. Above about B/3, an interval around B is asymmetric. If some of a
    series of measurements are NaN, the others underestimate B by selection: average 𝒢² and 𝒮, then divide.

    Args:
        squared_norms: sum of |g_j|² over each block, `(K,)`.
        block_norms: |u_a|², where u_a is the sum of g_j over block a, `(K,)`.
        inner_products: u_a·u, where u is the sum of all g_j, `(K,)`. Without block a, |u − u_a|² follows from these.
        micro_batches: number of micro-batches in each block, as equal as possible, `(K,)`.
        micro_batch_size: B_s, in images.

    Returns:
        Noise scale and standard error are NaN if 𝒢² ≤ 0 or a gradient is not finite; the standard error also if one
        block holds all micro-batches but one, so that it cannot be left out.

    Raises:
        ValueError: the shapes do not fit, a block is empty, there is one micro-batch, or its size is below 1.
    """
    sums = {"squared_norms": squared_norms, "block_norms": block_norms, "inner_products": inner_products}
    squared_norms, block_norms, inner_products = arrays = [np.asarray(each, float) for each in sums.values()]
    counts = np.asarray(micro_batches)
    if any(array.ndim != 1 or array.shape != counts.shape for array in arrays):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(sums, arrays, strict=True))
        raise ValueError(f"micro_batches has shape {counts.shape}, {shapes}; all must be (K,)")
    count = int(counts.sum())
    if count < 2 or counts.min() < 1:
        raise ValueError(f"micro_batches is {counts.tolist()}; it must add up to two or more, with no block empty")

    def estimates(squared_norms: float, squared_sum: float, micro_batches: int) -> tuple[float, float]:
        return two_batch_estimates(
            squared_norms / micro_batches,
            squared_sum / micro_batches**2,
            small_batch_size=micro_batch_size,
            big_batch_size=micro_batches * micro_batch_size,
        )

    total, squared_sum = float(squared_norms.sum()), float(inner_products.sum())
    with np.errstate(invalid="ignore", over="ignore"):  # gradients that are not finite give NaN
        squared_gradient_norm, trace_covariance = estimates(total, squared_sum, count)
    trace_covariance = max(trace_covariance, 0.0)  # negative only by rounding
    found = Estimate(squared_gradient_norm, trace_covariance, math.nan, micro_batch_size, count * micro_batch_size)
    if not found.is_measurable or count - counts.max() < 2:
        return found
    without = [
        estimates(total - squares, squared_sum - 2 * product + norm, count - int(left_out))
        for squares, norm, product, left_out in zip(squared_norms, block_norms, inner_products, counts, strict=True)
    ]
    residuals = np.array([part_s - found.noise_scale * part_g for part_g, part_s in without])
    return replace(found, standard_error=math.sqrt((len(counts) - 1) * residuals.var()) / squared_gradient_norm)


def default_micro_batch_size(n: int, micro_batches: int = MICRO_BATCHES) -> int:
    """B_s for n training images: one in ONE_IMAGE_IN over all micro-batches, but LEAST_MICRO_BATCH_SIZE or more in each
    if there are enough images. 0 if there are fewer images than micro-batches."""
    return min(max(n // (ONE_IMAGE_IN * micro_batches), LEAST_MICRO_BATCH_SIZE), n // micro_batches)


def measure(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    order: Tensor,
    *,
    random_seed: int,
    micro_batch_size: int | None = None,
    micro_batches: int = MICRO_BATCHES,
    with_standard_error: bool = False,
) -> Estimate:
    """Gradient noise scale of a network at its current weights.

    G and Σ are those of the gradient of an update. The network is in train mode: dropout masks are noise of the
    minibatch, like its choice of images, and batch norm uses the statistics of each micro-batch. Eval mode would
    measure the gradient of another network (LOG.md: a third of the noise scale). Through batch norm an image's gradient
    depends slightly on its micro-batch, and 𝒢² and 𝒮 on B_s, most for small B_s; the formulas neglect this.

    The images are drawn without replacement. 𝒮 remains unbiased for the covariance over the n training images (divisor
    n − 1), and 𝒢² for the distribution they come from. For the gradient G_n of the n images themselves, the mean of 𝒢²
    is |G_n|² − tr(Σ)/n. Their noise scale is smaller: 1/B_n = 1/B_simple + 1/n. The standard error ignores that the set
    is finite, and for G_n is too large by 1/√(1 − B_b/n), 1.3 % at the default.

    The network is unchanged on exit, also when `loss` raises (see `network.unchanged`), and so are gradients and the
    generators of the CPU and of the model's device. Memory: two gradients, that of a micro-batch and a sum. The
    standard error takes one more, and as much time again.

    Args:
        model: the network. Its parameters, on one device, are differentiated if they require gradients.
        loss: maps a part of `order` to the mean loss of these images, under autocast if wanted.
        order: indices of the n training images in random order, int64 `(n,)`, or a row for each. The first M·B_s are
            used.
        random_seed: seed of dropout. On a CPU the result depends only on weights, order and seed, to the last bit.
        micro_batch_size, micro_batches: B_s in images (None: `default_micro_batch_size`), and M.
        with_standard_error: estimate the standard error too; otherwise it is NaN.

    Raises:
        ValueError: M < 2, B_s < 1, or M·B_s > n.
    """
    if micro_batches < 2:
        raise ValueError(f"micro_batches is {micro_batches}; it must be at least 2 to show noise between micro-batches")
    if micro_batch_size is None:
        micro_batch_size = default_micro_batch_size(len(order), micro_batches)
    if not 1 <= micro_batch_size <= len(order) // micro_batches:
        raise ValueError(
            f"micro_batch_size is {micro_batch_size}; {micro_batches} micro-batches of {len(order)} images "
            f"have from 1 to {len(order) // micro_batches}"
        )
    parts = order[: micro_batches * micro_batch_size].split(micro_batch_size)
    blocks = min(BLOCKS, micro_batches) if with_standard_error else 1
    sums = _block_sums(functools.partial(_each_gradient, model, loss, parts, random_seed), micro_batches, blocks)
    return estimate(*sums, micro_batch_size=micro_batch_size)


def _each_gradient(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    parts: Sequence[Tensor],
    random_seed: int,
    use: Callable[[int, list[Tensor]], None],
) -> None:
    """Call `use` with the number and the gradient of every micro-batch in turn: the same ones each time."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with unchanged(model), randomness.preserved(parameters[0].device), torch.enable_grad():
        randomness.seed_generators(random_seed)
        model.train()
        for number, part in enumerate(parts):
            gradient = torch.autograd.grad(loss(part), parameters, materialize_grads=True)
            use(number, [_in_single(each.to_dense()) for each in gradient])


def _in_single(gradient: Tensor) -> Tensor:
    """Half precision would lose the small differences between micro-batches. Complex numbers become pairs."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _block_sums(each_gradient: Callable[[Callable], None], micro_batches: int, blocks: int):
    """The first four arguments of `estimate`. Several blocks take a second pass, because u is known only at the end."""
    squared_norms, block_norms, inner_products = np.zeros((3, blocks))
    block_of = np.arange(micro_batches) * blocks // micro_batches
    total: list[Tensor] = []
    in_block: list[Tensor] = []

    def add_to_total(number: int, gradient: list[Tensor]) -> None:
        squared_norms[block_of[number]] += _dot(gradient, gradient)
        _add(total, gradient)

    def add_to_block(number: int, gradient: list[Tensor]) -> None:
        _add(in_block, gradient)
        if number + 1 == micro_batches or block_of[number + 1] > block_of[number]:
            block_norms[block_of[number]] = _dot(in_block, in_block)
            inner_products[block_of[number]] = _dot(in_block, total)
            in_block.clear()

    each_gradient(add_to_total)
    if blocks == 1:
        block_norms[0] = inner_products[0] = _dot(total, total)
    else:
        each_gradient(add_to_block)
    return squared_norms, block_norms, inner_products, np.bincount(block_of)


def _add(total: list[Tensor], gradient: list[Tensor]) -> None:
    """Add to a running sum in place, beginning with a copy: a gradient may be a view of fewer numbers."""
    if total:
        torch._foreach_add_(total, gradient)
    else:
        total += [each.clone() for each in gradient]


def _dot(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return float(sum(torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(ours, theirs, strict=True)))
