"""The schedule against values computed by hand, torch's schedulers, and its invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR

from batchscale.experiment import Experiment
from batchscale.schedules import learning_rate, scaling_factor


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


@pytest.mark.parametrize("warmup_updates", [0, 1, 7, 50])
@pytest.mark.parametrize("warmup", ["none", "constant", "gradual"])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch 2.4 warns of itself
def test_equals_torch_stepped_per_update(warmup, warmup_updates):
    base_lr, k = 0.002, 16
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=k * base_lr)
    after = ConstantLR(optimizer, factor=1, total_iters=0)
    if warmup == "none" or warmup_updates == 0:
        scheduler = after
    else:
        ramp = {
            "constant": lambda: ConstantLR(optimizer, factor=1 / k, total_iters=warmup_updates),
            "gradual": lambda: LinearLR(optimizer, start_factor=1 / k, end_factor=1, total_iters=warmup_updates),
        }[warmup]()
        scheduler = SequentialLR(optimizer, [ramp, after], milestones=[warmup_updates])
    for update in range(120):
        ours = learning_rate(update, base_lr=base_lr, scale=k, warmup=warmup, warmup_updates=warmup_updates)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), update
        optimizer.step()
        scheduler.step()


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
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rate(**arguments)
