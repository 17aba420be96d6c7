"""Learning rate as a pure function of the update number.

scale = scaling_factor(1024, reference_batch_size=8, lr_scaling="linear")                            # 128.0
learning_rate(0, base_lr=0.002, scale=scale, warmup="gradual", warmup_updates=96)                    # 0.002
learning_rate(96, base_lr=0.002, scale=scale, warmup="gradual", warmup_updates=96)                   # 0.256
"""

import math
from typing import Literal, get_args

LRScaling = Literal["none", "linear", "sqrt"]
Warmup = Literal["none", "constant", "gradual"]


def scaling_factor(batch_size: int, reference_batch_size: int, lr_scaling: LRScaling) -> float:
    """Factor by which a scaling rule multiplies the base learning rate.

    With k = batch_size / reference_batch_size it is 1 for `none`, k for `linear` (Krizhevsky 2014; Goyal et al. 2017,
    §2.1) and √k for `sqrt` (Hoffer et al. 2017). A rule acts only on minibatches larger than the reference: for k ≤ 1
    the factor is 1.

    Raises:
        ValueError: a size is below 1 or the rule is unknown.

    >>> scaling_factor(128, 8, "linear"), scaling_factor(128, 8, "sqrt"), scaling_factor(2, 8, "linear")
    (16.0, 4.0, 1.0)
    """
    if batch_size < 1 or reference_batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size} and reference_batch_size is {reference_batch_size}; both must be 1 or more"
        )
    if lr_scaling not in get_args(LRScaling):
        raise ValueError(f"lr_scaling is {lr_scaling!r}; it must be one of {', '.join(get_args(LRScaling))}")
    k = max(1.0, batch_size / reference_batch_size)
    return {"none": 1.0, "linear": k, "sqrt": math.sqrt(k)}[lr_scaling]


def learning_rate(
    update: int, *, base_lr: float, scale: float = 1.0, warmup: Warmup = "none", warmup_updates: int = 0
) -> float:
    """Learning rate of one optimizer update under a scaling rule with warm-up.

    With η = base_lr and the target η̂ = scale·η, gradual warm-up (Goyal et al. 2017, §2.2) is η + (η̂ − η)·t/T_w for
    update t < T_w = warmup_updates: η at update 0, η̂ from update T_w on. Constant warm-up stays at η until T_w. After
    the warm-up the rate is constant. Without warm-up, or with T_w = 0, it is η̂ from the first update on.

    Args:
        update: optimizer updates already completed (0-based, over the whole run); never micro-batches or epochs.
        base_lr: rate tuned at the reference batch size.
        scale: η̂/η, see `scaling_factor`.
        warmup: kind of warm-up.
        warmup_updates: T_w, updates until the target is reached. With T_w = 1 only update 0 has the base rate η.

    Raises:
        ValueError: a count is negative, a rate is not finite and positive, or the kind of warm-up is unknown.

    >>> [learning_rate(t, base_lr=1.0, scale=5.0, warmup="gradual", warmup_updates=4) for t in (0, 1, 3, 4, 9)]
    [1.0, 2.0, 4.0, 5.0, 5.0]
    """
    if update < 0 or warmup_updates < 0:
        raise ValueError(f"update is {update} and warmup_updates is {warmup_updates}; both must be 0 or more")
    for name, value in (("base_lr", base_lr), ("scale", scale)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and positive")
    if warmup not in get_args(Warmup):
        raise ValueError(f"warmup is {warmup!r}; it must be one of {', '.join(get_args(Warmup))}")
    target = scale * base_lr
    if warmup == "none" or update >= warmup_updates:
        return target
    if warmup == "constant":
        return base_lr
    return base_lr + (target - base_lr) * update / warmup_updates
