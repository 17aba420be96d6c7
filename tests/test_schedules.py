"""The schedule against values computed by hand, torch's schedulers, and its invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from batchscale.experiment import Experiment
from batchscale.schedules import decay_factor, learning_rate, scaling_factor


@pytest.mark.parametrize(
    ("batch_size", "rule", "expected"),
    [
        (8, "linear", 1),
        (16, "linear", 2),
        (8192, "linear", 1024),
        (12, "linear", 1.5),
        (128, "sqrt", 4),
        (16, "sqrt", math.sqrt(2)),
        (8192, "none", 1),
        (2, "linear", 1),  # a rule acts only on minibatches larger than the reference
        (2, "sqrt", 1),
    ],
)
def test_scaling_factor(batch_size, rule, expected):
    assert scaling_factor(batch_size, 8, rule) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, "linear"), "batch_size is 0 and reference_batch_size is 8; both must be 1 or more"),
        ((8, 0, "none"), "batch_size is 8 and reference_batch_size is 0; both must be 1 or more"),
        ((8, 8, "cubic"), "lr_scaling is 'cubic'; it must be one of none, linear, sqrt"),
    ],
)
def test_scaling_factor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        scaling_factor(*arguments)


# η = 0.002, k = 128 (B = 1024, B_ref = 8), T_w = 96 (two epochs of 48 updates)
@pytest.mark.parametrize(
    ("warmup", "update", "expected"),
    [
        ("none", 0, 0.256),
        ("none", 1000, 0.256),
        ("constant", 0, 0.002),
        ("constant", 95, 0.002),
        ("constant", 96, 0.256),
        ("gradual", 0, 0.002),
        ("gradual", 1, 0.002 + 0.254 / 96),
        ("gradual", 48, 0.129),
        ("gradual", 95, 0.256 - 0.254 / 96),
        ("gradual", 96, 0.256),
        ("gradual", 97, 0.256),
    ],
)
def test_by_hand(warmup, update, expected):
    experiment = Experiment(batch_size=1024, lr_scaling="linear", warmup=warmup, warmup_epochs=2)
    assert experiment.learning_rate(update, updates_per_epoch=48) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", ["constant", "gradual"])
@pytest.mark.parametrize(
    ("epochs", "updates_per_epoch", "base"),
    [
        (0, 48, 0),
        (0.5, 1, 1),  # half an update
        (0.01, 48, 1),
        (1, 1, 1),
        (0.5, 3, 2),  # one and a half
        (0.5, 4, 2),
        (2, 48, 96),
    ],
)
def test_a_warmup_has_at_least_one_update_unless_it_has_no_length(warmup, epochs, updates_per_epoch, base):
    """`base`: the updates before the scaled rate."""
    experiment = Experiment(batch_size=1024, lr_scaling="linear", warmup=warmup, warmup_epochs=epochs)
    rates = [experiment.learning_rate(update, updates_per_epoch) for update in range(base + 1)]
    assert all(rate < 0.256 for rate in rates[:base])
    assert rates[0] == (0.002 if base else 0.256)
    assert rates[base] == 0.256


@pytest.mark.parametrize("decay", ["none", "linear", "cosine", "step"])
@pytest.mark.parametrize("warmup_updates", [0, 1, 7, 37])
@pytest.mark.parametrize("warmup", ["none", "constant", "gradual"])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch 2.4 warns of itself
def test_equals_torch_stepped_per_update(warmup, warmup_updates, decay):
    base_lr, k, total = 0.002, 16, 120
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=k * base_lr)
    ramp_updates = 0 if warmup == "none" else warmup_updates
    rest = total - ramp_updates
    after = {
        "none": lambda: ConstantLR(optimizer, factor=1, total_iters=0),
        "linear": lambda: LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=rest),
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=rest),
        "step": lambda: MultiStepLR(optimizer, [each - ramp_updates for each in (40, 80, 107)]),  # 106⅔ updates
    }[decay]()
    scheduler = after
    if ramp_updates:
        ramp = {
            "constant": lambda: ConstantLR(optimizer, factor=1 / k, total_iters=warmup_updates),
            "gradual": lambda: LinearLR(optimizer, start_factor=1 / k, end_factor=1, total_iters=warmup_updates),
        }[warmup]()
        scheduler = SequentialLR(optimizer, [ramp, after], milestones=[warmup_updates])
    for update in range(total):
        ours = learning_rate(
            update,
            base_lr=base_lr,
            scale=k,
            warmup=warmup,
            warmup_updates=warmup_updates,
            decay=decay,
            total_updates=total,
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), update
        optimizer.step()
        scheduler.step()


# T = 90 updates, of which the first 18 warm up
@pytest.mark.parametrize(
    ("decay", "update", "factor"),
    [
        ("none", 89, 1),
        ("linear", 17, 1),
        ("linear", 18, 1),
        ("linear", 36, 0.75),
        ("linear", 89, 1 / 72),
        ("linear", 90, 0),
        ("cosine", 18, 1),
        ("cosine", 42, 0.75),  # τ = 1/3, (1 + ½)/2
        ("cosine", 54, 0.5),
        ("cosine", 66, 0.25),
        ("cosine", 89, (1 + math.cos(math.pi * 71 / 72)) / 2),
        ("cosine", 90, 0),
        ("step", 29, 1),  # of all 90, whatever the warm-up
        ("step", 30, 0.1),
        ("step", 59, 0.1),
        ("step", 60, 0.01),
        ("step", 79, 0.01),
        ("step", 80, 0.001),
        ("step", 89, 0.001),
    ],
)
def test_decay_by_hand(decay, update, factor):
    ours = decay_factor(update, decay=decay, total_updates=90, warmup_updates=18)
    assert ours == pytest.approx(factor, rel=1e-12, abs=0)


def test_a_step_waits_for_the_end_of_the_warmup():
    """A warm-up of half the training passes the first step; the rate is a tenth of the target when it ends."""
    rates = [
        learning_rate(t, base_lr=1, scale=5, warmup="gradual", warmup_updates=6, decay="step", total_updates=12)
        for t in range(12)
    ]
    assert rates == pytest.approx([1 + 4 * t / 6 for t in range(6)] + [0.5, 0.5, 0.05, 0.05, 0.05, 0.005])


@given(
    decay=st.sampled_from(["linear", "cosine", "step"]),
    total=st.integers(1, 3000),
    warmup=st.integers(0, 3000),
    update=st.integers(0, 2998),
)
def test_a_decay_never_rises_and_is_above_zero_until_the_end(decay, total, warmup, update):
    update, warmup = min(update, total - 1), min(warmup, total)

    def factor(t):
        return decay_factor(t, decay=decay, total_updates=total, warmup_updates=warmup)

    assert 1 >= factor(update) >= factor(update + 1)
    assert factor(update) > 0
    assert factor(warmup) == 1 or decay == "step" or warmup == total


def test_up_to_the_reference_batch_size_every_mode_has_the_same_schedule():
    """Nothing warms up there, so that a decay begins with the first update."""
    plain = Experiment(batch_size=8, decay="linear", epochs=4)
    scaled = Experiment(batch_size=8, decay="linear", epochs=4, lr_scaling="linear", warmup="gradual")
    rates = [each.learning_rate(t, updates_per_epoch=5) for each in (plain, scaled) for t in range(20)]
    assert rates[:20] == rates[20:] == pytest.approx([0.002 * (1 - t / 20) for t in range(20)])
    larger = Experiment(batch_size=16, decay="linear", epochs=4, warmup="gradual")
    assert [larger.learning_rate(t, 5) for t in (0, 9, 10, 15)] == pytest.approx([0.002, 0.002, 0.002, 0.001])


@given(
    base_lr=st.floats(1e-6, 10),
    scale=st.floats(1, 1e4),
    warmup_updates=st.integers(0, 1000),
    update=st.integers(0, 2000),
)
def test_gradual_rises_from_base_to_target(base_lr, scale, warmup_updates, update):
    def rate(t):
        return learning_rate(t, base_lr=base_lr, scale=scale, warmup="gradual", warmup_updates=warmup_updates)

    assert rate(update) <= rate(update + 1) * (1 + 1e-12)
    assert rate(warmup_updates) == scale * base_lr
    if warmup_updates:
        assert rate(0) == base_lr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update": -1, "base_lr": 1.0}, "update is -1"),
        ({"update": 0, "base_lr": 0.0}, "base_lr is 0.0"),
        ({"update": 0, "base_lr": math.nan}, "base_lr is nan"),
        ({"update": 0, "base_lr": 1.0, "scale": math.inf}, "scale is inf"),
        ({"update": 0, "base_lr": 1.0, "warmup_updates": -3}, "warmup_updates is -3"),
        ({"update": 0, "base_lr": 1.0, "warmup": "slow"}, "'slow'"),
        (
            {"update": 0, "base_lr": 1.0, "decay": "steep", "total_updates": 9},
            "decay is 'steep'; it must be one of none",
        ),
        (
            {"update": 0, "base_lr": 1.0, "decay": "linear"},
            "total_updates is None; a decay needs the number of updates",
        ),
        ({"update": 9, "base_lr": 1.0, "decay": "linear", "total_updates": 8}, "update is 9, total_updates is 8"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rate(**arguments)
