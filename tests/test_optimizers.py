"""Optimizers by name, on networks of every kind: what they get, what they train, and what is refused.

That they compute what torch and timm compute is in test_training, against the plain loop.
"""

import copy
import math

import pytest
import torch
from torch import nn

from batchscale.errors import UserError
from batchscale.experiment import OPTIMIZERS, Experiment
from batchscale.training import datasets
from batchscale.training.loop import Training
from batchscale.training.network import logits_of
from batchscale.training.optimizers import build_optimizer

ALL = [*OPTIMIZERS, "torch.optim:RMSprop", "timm.optim:Lars", "timm.optim:Lamb"]


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def experiment(**fields) -> Experiment:
    return Experiment(**{"batch_size": 32, "dataset": "digits", "epochs": 1, "train_size": 320, "width": 1, **fields})


# What a user might write


def plain_function(params, lr):
    return torch.optim.SGD(params, lr=lr)


def with_keywords(params, **keywords):
    return torch.optim.SGD(params, lr=keywords.pop("lr"), **keywords)


def with_its_own_rate(params):
    return torch.optim.SGD(params, lr=0.5)


def head_ten_times_faster(params, lr, weight_decay):
    *body, weight, bias = params
    return torch.optim.SGD([{"params": body}, {"params": [weight, bias], "lr": 10 * lr}], lr=lr)


def only_weights(params, lr):
    return torch.optim.SGD([each for each in params if each.ndim > 1], lr=lr)


def only_trained(params, lr):
    return torch.optim.SGD([each for each in params if each.requires_grad], lr=lr)


def no_optimizer(params, lr):
    return {"lr": lr}


def fails(params, lr):
    raise ValueError("no such thing\nand more")


def without_a_rate(params):
    optimizer = torch.optim.SGD(params, lr=0.1)
    del optimizer.param_groups[0]["lr"]
    return optimizer


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class FailsInStep(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("the step failed")


def test_every_named_optimizer_can_be_built():
    for name in OPTIMIZERS:
        optimizer = build_optimizer(nn.Linear(2, 2), experiment(optimizer=name))
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert optimizer.defaults["fused"]
        assert OPTIMIZERS[name] == type(optimizer).__name__


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("sgd", [(4, 0.1)]),
        ("nesterov", [(4, 0.1)]),
        ("adamw", [(1, 0.1), (3, 0)]),
        ("torch.optim:SGD", [(1, 0.1), (3, 0)]),
        ("timm.optim:Lars", [(1, 0.1), (3, 0)]),
        ("test_optimizers:head_ten_times_faster", [(2, 0), (2, 0)]),  # a function groups as it likes
    ],
)
def test_on_which_parameters_weight_decay_acts(name, groups):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = build_optimizer(model, experiment(optimizer=name, weight_decay=0.1))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == groups
    if len(groups) == 2 and groups[0][1]:
        assert optimizer.param_groups[0]["params"] == [model[0].weight]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["LeNet", "linear", "Frozen", "Tied", "StochasticDepth"])
def test_every_optimizer_trains_every_network_and_continues_exactly(digits, name, model):
    """Without batch norm, lazy, with frozen and tied parameters, and with parameters that have no gradient at times."""
    of = experiment(optimizer=name, model=f"networks:{model}", weight_decay=0.01, decay="linear", epochs=2)
    run = Training(of, digits)
    before = copy.deepcopy(run.model.state_dict())
    epochs = run.epochs(with_noise_scale=False)
    first = next(epochs)
    state = copy.deepcopy(run.state_dict())
    last = next(epochs)
    assert math.isfinite(last.train_loss)
    after = run.model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = {"first.weight", "first.bias"} if model == "Frozen" else set()
    assert moved == {key for key in before if key not in frozen}
    if model == "Tied":
        assert run.model.third.weight is run.model.second.weight
    resumed = Training(of, digits)
    resumed.load_state_dict(state)
    (again,) = resumed.epochs(with_noise_scale=False)
    assert (again.accuracy, again.train_loss) == (last.accuracy, last.train_loss)
    assert again.learning_rate == pytest.approx(0.002 * 1 / 20)
    assert first.learning_rate == pytest.approx(0.002 * 11 / 20)
    for ours, theirs in zip(resumed.model.state_dict().values(), after.values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("test_optimizers:plain_function", [0.004]),
        ("test_optimizers:with_keywords", [0.004]),
        ("test_optimizers:with_its_own_rate", [0.004]),
        ("test_optimizers:head_ten_times_faster", [0.004, 0.04]),
    ],
)
def test_the_schedule_sets_the_rate_of_every_group(digits, name, rates):
    """The third of four updates, with a linear decay from k·η = 0.008."""
    of = experiment(model="networks:LeNet", optimizer=name, lr_scaling="linear", decay="linear", train_size=128)
    run = Training(of, digits)
    for _ in range(3):
        run.update(torch.arange(32))
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "nowhere:Adam"}, "optimizer is 'nowhere:Adam' but nowhere cannot be imported"),
        ({"optimizer": "torch.optim:Adan"}, r"optimizer is 'torch.optim:Adan' but .* has no Adan"),
        ({"optimizer": "test_optimizers:fails"}, "fails failed for this network: ValueError: no such thing"),
        ({"optimizer": "test_optimizers:no_optimizer"}, "it returned a dict, which is no torch.optim.Optimizer"),
        ({"optimizer": "test_optimizers:without_a_rate"}, "it has a parameter group without lr, which the"),
        ({"optimizer": "test_optimizers:NeedsClosure"}, "NeedsClosure, whose step needs a closure"),
        ({"optimizer": "torch.optim:LBFGS"}, "torch.optim:LBFGS, whose step needs a closure"),
        (
            {"optimizer": "timm.optim:Lamb", "momentum": 0.5},
            "momentum is 0.5 but timm.optim:Lamb takes no momentum; omit",
        ),
        (
            {"optimizer": "test_optimizers:plain_function", "weight_decay": 0.1},
            "weight_decay is 0.1 but test_optimizers:plain_function takes no weight_decay; omit the weight decay",
        ),
    ],
)
def test_refused_in_one_line(digits, fields, message):
    with pytest.raises(UserError, match=message) as refused:
        Training(experiment(model="networks:linear", **fields), digits)
    assert "\n" not in str(refused.value)


def test_an_optimizer_that_fails_in_its_step_is_named(digits):
    run = Training(experiment(model="networks:linear", optimizer="test_optimizers:FailsInStep"), digits)
    with pytest.raises(
        UserError,
        match="optimizer test_optimizers:FailsInStep failed in training, after update 0: RuntimeError: the step",
    ):
        next(run.epochs())


def test_parameters_that_the_optimizer_leaves_out_are_named(digits):
    run = Training(experiment(model="networks:LeNet", optimizer="test_optimizers:only_weights"), digits)
    (line,) = [line for line in run.remarks if "only_weights" in line]
    assert line.startswith("test_optimizers:only_weights does not train 2 of the network's parameters")
    assert "such as conv.bias" in line
    frozen = experiment(model="networks:Frozen", optimizer="test_optimizers:only_trained")
    assert not Training(frozen, digits).remarks


# Outputs that hold the logits


@pytest.mark.parametrize("model", ["ReturnsNamedTuple", "ReturnsDataclass", "ReturnsDict", "ReturnsFeatures"])
def test_the_loss_takes_the_logits(digits, model):
    """The same weights as the network that returns its logits alone, and a line that says so."""
    run, plain = Training(experiment(model=f"networks:{model}"), digits), _plain(digits)
    (row,), (expected,) = run.epochs(), plain.epochs()
    assert (row.accuracy, row.train_loss, row.noise_scale) == (
        expected.accuracy,
        expected.train_loss,
        expected.noise_scale,
    )
    assert torch.equal(run.model.last.weight, plain.model.last.weight)
    assert any("the loss takes the logits and nothing else" in line for line in run.remarks)


def _plain(digits) -> Training:
    from networks import Returns

    of = experiment(model="networks:ReturnsDict")
    named = Training(of, digits)

    class Alone(Returns):
        def wrapped(self, logits, aside):
            return logits

    alone = Alone(10)
    alone.load_state_dict(named.model.state_dict())
    return Training(of, digits, model=alone)


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (None, "NoneType"),
        ((), "tuple"),
        ({"scores": torch.zeros(2, 3)}, "dict"),
        ((torch.zeros(2, 4), torch.zeros(3)), "tuple with tensors of shape (2, 4) and (3,)"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), "tuple with tensors of shape (2, 3) and (2, 3)"),
        ({"logits": [1, 2]}, "dict"),
    ],
)
def test_logits_that_are_not_certain(output, what):
    with pytest.raises(UserError) as refused:
        logits_of(output, 3, "my:Net")
    assert str(refused.value) == (
        f"model my:Net returns an object of type {what}, in which the logits of 3 classes are not certain; wrap it in "
        f"a module that returns the logits alone"
    )


def test_a_network_with_two_outputs_alike(digits):
    with pytest.raises(
        UserError, match="model networks:ReturnsTwoAlike returns an object of type tuple with tensors of shape"
    ):
        Training(experiment(model="networks:ReturnsTwoAlike"), digits)


def test_logits_of():
    logits, other = torch.rand(2, 3), torch.rand(2, 5)
    assert logits_of(logits, 3, "my:Net") is logits
    assert logits_of(other, 3, "my:Net") is other  # `prepare` says that its shape is wrong
    assert logits_of([other, logits], 3, "my:Net") is logits
    assert logits_of({"logits": other}, 3, "my:Net") is other
