"""Learning rate as a pure function of the update number.

scale = scaling_factor(1024, reference_batch_size=8, lr_scaling="linear")                            # 128.0
learning_rate(0, base_lr=0.002, scale=scale, warmup="gradual", warmup_updates=96)                    # 0.002
learning_rate(96, base_lr=0.002, scale=scale, warmup="gradual", warmup_updates=96)                   # 0.256
decay_factor(50, decay="cosine", total_updates=100)                                                  # 0.5
"""

import math
from typing import Literal, get_args

LRScaling = Literal["none", "linear", "sqrt"]
Warmup = Literal["none", "constant", "gradual"]
Decay = Literal["none", "linear", "cosine", "step"]

STEPS = ((1, 3), (2, 3), (8, 9))  # fractions of the training after which `step` divides the rate by ten


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
    _require_one_of("lr_scaling", lr_scaling, LRScaling)
    k = max(1.0, batch_size / reference_batch_size)
    return {"none": 1.0, "linear": k, "sqrt": math.sqrt(k)}[lr_scaling]


def decay_factor(update: int, *, decay: Decay, total_updates: int, warmup_updates: int = 0) -> float:
    """Factor by which a decay multiplies the learning rate of one optimizer update, after the warm-up.

    With T = total_updates, T_w = warmup_updates and τ = (t − T_w)/(T − T_w) for update t ≥ T_w it is

        none    1
        linear  1 − τ
        cosine  (1 + cos πτ)/2, half a period and no restart (Loshchilov & Hutter 2017, eq. 5)
        step    10⁻ⁱ, where i of the fractions ⅓, ⅔ and 8⁄9 are at most t/T (Goyal et al. 2017, §5.1: 30, 60 and 80 of
                90 epochs). The steps count from the first update of all, not from the end of the warm-up.

    It is 1 during the warm-up. The last update, t = T − 1, has a small rate above 0; the factor at t = T is the limit
    that no update uses.

    Args:
        update: optimizer updates already completed (0-based, over the whole run).
        decay: kind of decay.
        total_updates: T, updates of the whole run with its warm-up.
        warmup_updates: T_w.

    Raises:
        ValueError: the update is negative or later than T, T_w is negative, or the kind of decay is unknown.

    >>> [decay_factor(t, decay="linear", total_updates=6, warmup_updates=2) for t in (0, 2, 3, 5)]
    [1.0, 1.0, 0.75, 0.25]
    >>> [decay_factor(t, decay="step", total_updates=9) for t in (2, 3, 6, 8)]
    [1.0, 0.1, 0.01, 0.001]
    """
    if not 0 <= update <= total_updates or warmup_updates < 0:
        raise ValueError(
            f"update is {update}, total_updates is {total_updates} and warmup_updates is {warmup_updates}; "
            f"update must be from 0 to total_updates, and warmup_updates 0 or more"
        )
    _require_one_of("decay", decay, Decay)
    if decay == "none" or update < warmup_updates or total_updates == warmup_updates:
        return 1.0
    if decay == "step":  # in whole numbers: a third of the updates is no fraction that rounding could miss
        return 1 / 10 ** sum(update * whole >= part * total_updates for part, whole in STEPS)
    remaining = (total_updates - update) / (total_updates - warmup_updates)  # 1 − τ
    return remaining if decay == "linear" else math.sin(math.pi / 2 * remaining) ** 2  # (1 + cos πτ)/2, exact at τ = 1


def learning_rate(
    update: int,
    *,
    base_lr: float,
    scale: float = 1.0,
    warmup: Warmup = "none",
    warmup_updates: int = 0,
    decay: Decay = "none",
    total_updates: int | None = None,
) -> float:
    """Learning rate of one optimizer update under a scaling rule with warm-up and decay.

    With η = base_lr and the target η̂ = scale·η, gradual warm-up (Goyal et al. 2017, §2.2) is η + (η̂ − η)·t/T_w for
    update t < T_w = warmup_updates: η at update 0, η̂ from update T_w on. Constant warm-up stays at η until T_w. After
    the warm-up the rate is η̂ times `decay_factor`. Without warm-up, or with T_w = 0, that holds from the first update.

    Args:
        update: optimizer updates already completed (0-based, over the whole run); never micro-batches or epochs.
        base_lr: rate tuned at the reference batch size.
        scale: η̂/η, see `scaling_factor`.
        warmup: kind of warm-up.
        warmup_updates: T_w, updates until the target is reached. With T_w = 1 only update 0 has the base rate η.
        decay: kind of decay.
        total_updates: T, updates of the whole run; needed for a decay.

    Raises:
        ValueError: a count is negative, a rate is not finite and positive, the kind of warm-up or decay is unknown, or
            there is a decay without T or an update after T.

    >>> [learning_rate(t, base_lr=1.0, scale=5.0, warmup="gradual", warmup_updates=4) for t in (0, 1, 3, 4, 9)]
    [1.0, 2.0, 4.0, 5.0, 5.0]
    """
    if update < 0 or warmup_updates < 0:
        raise ValueError(f"update is {update} and warmup_updates is {warmup_updates}; both must be 0 or more")
    for name, value in (("base_lr", base_lr), ("scale", scale)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be finite and positive")
    _require_one_of("warmup", warmup, Warmup)
    target = scale * base_lr
    if warmup == "none":
        warmup_updates = 0
    if update >= warmup_updates:
        if decay == "none":
            return target
        if total_updates is None:
            raise ValueError(f"decay is {decay!r} but total_updates is None; a decay needs the number of updates")
        return target * decay_factor(update, decay=decay, total_updates=total_updates, warmup_updates=warmup_updates)
    return base_lr if warmup == "constant" else base_lr + (target - base_lr) * update / warmup_updates


def _require_one_of(name: str, value: str, kind) -> None:
    if value not in get_args(kind):
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}")
