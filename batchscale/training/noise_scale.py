"""Gradient noise scale: roughly the batch size up to which a larger minibatch still improves the gradient.

    def loss(part):
        return functional.cross_entropy(model(images[part]), labels[part])

    estimate = measure(model, loss, torch.randperm(len(images)), random_seed=0)
    estimate.noise_scale, estimate.standard_error     # B_simple in images; NaN where it is not measurable

B_simple = tr(Σ)/|G|², where G is the gradient of the loss and Σ the covariance of a single image's gradient (McCandlish
et al. 2018, arXiv:1812.06162, §2.2 and appendix A.1). `measure` computes gradients, `estimate` the noise scale.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from batchscale.training import randomness

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
    squared_norms: ArrayLike, inner_products: ArrayLike, micro_batches: ArrayLike, *, micro_batch_size: int
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
        inner_products: u_a·u_b, where u_a is the sum of g_j over block a, `(K, K)`.
        micro_batches: number of micro-batches in each block, as equal as possible, `(K,)`.
        micro_batch_size: B_s, in images.

    Returns:
        Noise scale and standard error are NaN if 𝒢² ≤ 0 or a gradient is not finite; the standard error also if one
        block holds all micro-batches but one, so that it cannot be left out.

    Raises:
        ValueError: the shapes do not fit, a block is empty, there is one micro-batch, or its size is below 1.
    """
    squared_norms, inner_products = np.asarray(squared_norms, float), np.asarray(inner_products, float)
    counts = np.asarray(micro_batches)
    blocks, count = counts.size, int(counts.sum())
    if counts.ndim != 1 or squared_norms.shape != (blocks,) or inner_products.shape != (blocks, blocks):
        raise ValueError(
            f"micro_batches has shape {counts.shape}, squared_norms {squared_norms.shape} and inner_products "
            f"{inner_products.shape}; they must be (K,), (K,) and (K, K)"
        )
    if count < 2 or counts.min() < 1:
        raise ValueError(f"micro_batches is {counts.tolist()}; it must add up to two or more, with no block empty")

    def estimates(kept) -> tuple[float, float]:
        return two_batch_estimates(
            float(squared_norms[kept].sum()) / int(counts[kept].sum()),
            float(inner_products[np.ix_(kept, kept)].sum()) / int(counts[kept].sum()) ** 2,
            small_batch_size=micro_batch_size,
            big_batch_size=int(counts[kept].sum()) * micro_batch_size,
        )

    with np.errstate(invalid="ignore", over="ignore"):  # gradients that are not finite give NaN
        squared_gradient_norm, trace_covariance = estimates(np.arange(blocks))
    trace_covariance = max(trace_covariance, 0.0)  # negative only by rounding
    found = Estimate(squared_gradient_norm, trace_covariance, math.nan, micro_batch_size, count * micro_batch_size)
    if not found.is_measurable or count - counts.max() < 2:
        return found
    without = [estimates(np.delete(np.arange(blocks), block)) for block in range(blocks)]
    residuals = np.array([part_s - found.noise_scale * part_g for part_g, part_s in without])
    return replace(found, standard_error=math.sqrt((blocks - 1) * residuals.var()) / squared_gradient_norm)


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

    Restored on exit, also when `loss` raises: gradients, buffers, the mode of every module, and the generators of the
    CPU and of the model's device. Memory: at most BLOCKS gradients.

    Args:
        model: the network. Its parameters, on one device, are differentiated if they require gradients.
        loss: maps indices, int64 `(micro_batch_size,)`, to the mean loss of these images, under autocast if wanted.
        order: indices of the n training images in random order, int64 `(n,)`. The first M·B_s are used.
        random_seed: seed of dropout. On a CPU the result depends only on weights, order and seed, to the last bit.
        micro_batch_size, micro_batches: B_s in images (None: `default_micro_batch_size`), and M.

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
    with _as_in_training(model, random_seed), torch.enable_grad():
        sums = _block_sums(model, loss, order[: micro_batches * micro_batch_size].split(micro_batch_size))
    return estimate(*sums, micro_batch_size=micro_batch_size)


def _block_sums(model: nn.Module, loss: Callable[[Tensor], Tensor], parts: tuple[Tensor, ...]):
    """The first three arguments of `estimate`, for a micro-batch gradient of each of the `parts`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size, blocks = sum(parameter.numel() for parameter in parameters), min(BLOCKS, len(parts))
    # Half precision would lose the small differences between micro-batches.
    dtype = torch.promote_types(parameters[0].dtype, torch.float32)
    sums = torch.zeros(blocks, size, dtype=dtype, device=parameters[0].device)
    squared_norms, counts = sums.new_zeros(blocks), [0] * blocks
    for number, part in enumerate(parts):
        gradients = torch.autograd.grad(loss(part), parameters, materialize_grads=True)
        gradient = torch.cat([gradient.flatten() for gradient in gradients]).to(sums.dtype)
        block = number * blocks // len(parts)
        sums[block] += gradient
        squared_norms[block] += torch.dot(gradient, gradient)
        counts[block] += 1
    return squared_norms.cpu().numpy(), (sums @ sums.T).cpu().numpy(), counts


@contextlib.contextmanager
def _as_in_training(model: nn.Module, random_seed: int) -> Iterator[None]:
    """Train mode and seeded generators; on exit modes, buffers and generators are restored."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with randomness.preserved(next(model.parameters()).device):
            randomness.seed_generators(random_seed)
            model.train()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
