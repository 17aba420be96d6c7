"""Branched training: what every copy gets, a plain loop that branches, and the reference of an experiment."""

import copy
import math
import random
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.training import datasets
from batchscale.training.branches import EVALUATED, LEAST_UPDATES, Reference, branch, compare, factors_of, joined
from batchscale.training.loop import Training

SCALES = {"linear": lambda k: k, "sqrt": math.sqrt, "none": lambda k: 1}
Pair = namedtuple("Pair", ["images", "labels"])


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_minibatches_grow_while_five_updates_are_left(minibatches, largest):
    """By four each, from 2 or 4 to the largest power of two that leaves five updates and is allowed."""
    factors = factors_of(minibatches, largest)
    most = min(minibatches // LEAST_UPDATES, largest)
    powers = [2**power for power in range(1, 13) if 2**power <= most]
    assert factors == powers[::-1][::2][::-1]


# What every copy gets ------------------------------------------------------------------------------------------------


def compared(loss=lambda rule, factor: 0.5, minibatches=43, **options):
    """Rows of `compare` for minibatches 0, 1 …, and what `train` was given: rule, factor and minibatches."""
    trained = []

    def train(rule, factor, part):
        trained.append((rule, factor, list(part)))
        return loss(rule, factor)

    fixed = {"updates": 7, "batch_size": 8, "base_lr": 0.1, "factors": {"linear": [2, 4, 8], "sqrt": [4]}}
    return list(compare(train, range(minibatches), 1.0, **fixed | options)), trained


def test_copies_of_an_order_see_the_same_images_one_after_another():
    _, trained = compared(orders=3)
    per_order = len(trained) // 3
    orders = []
    for place in range(3):
        (rule, factor, half), (_, _, whole), *larger = trained[place * per_order : (place + 1) * per_order]
        assert (rule, factor) == ("none", 1)
        assert sorted(whole) == list(range(43))
        assert half == whole[:21]
        assert [each[:2] for each in larger] == [("linear", 2), ("linear", 4), ("linear", 8), ("sqrt", 4)]
        assert all(part == whole[: 43 // factor * factor] for _, factor, part in larger)
        orders.append(whole)
    assert len({tuple(order) for order in orders}) == 3
    assert list(range(43)) not in orders
    assert compared(orders=1)[1] == trained[:per_order]  # whatever the number of orders


def test_rows_by_hand():
    rows, _ = compared(orders=2)
    assert {(row.updates, row.start, row.loss) for row in rows} == {(7, 1.0, 0.5)}
    one = [(row.rule, row.batch_size, row.images, row.learning_rate) for row in rows if row.order == 0]
    assert one == [
        ("linear", 8, 21 * 8, 0.1),
        ("linear", 8, 43 * 8, 0.1),
        ("linear", 16, 42 * 8, 0.2),
        ("linear", 32, 40 * 8, 0.4),
        ("linear", 64, 40 * 8, 0.8),
        ("sqrt", 8, 21 * 8, 0.1),
        ("sqrt", 8, 43 * 8, 0.1),
        ("sqrt", 32, 40 * 8, 0.2),
    ]
    assert [(row.rule, row.batch_size, row.images, row.learning_rate) for row in rows if row.order == 1] == one
    assert len(rows) == 2 * len(one)


def test_a_rule_ends_at_the_first_copy_that_is_worse_than_the_start():
    """Each rule for itself; a loss that is equal to the start is not worse."""
    losses = {("linear", 2): 1.0, ("linear", 4): 1.01, ("sqrt", 2): 0.9, ("sqrt", 4): 0.9, ("sqrt", 8): 0.9}
    factors = {"linear": [2, 4, 8], "sqrt": [2, 4, 8]}
    rows, _ = compared(lambda rule, factor: losses.get((rule, factor), 0.5), factors=factors, orders=1)
    assert [row.batch_size for row in rows if row.rule == "linear"] == [8, 8, 16, 32]
    assert [row.batch_size for row in rows if row.rule == "sqrt"] == [8, 8, 16, 32, 64]


# Losses at 2, 8 and 32 times the minibatch, where the reference has 0.6 after half of the window.
BISECTED = {
    "all kept": ((0.5, 0.55, 0.6), [2, 8, 32]),
    "the last is lost": ((0.5, 0.55, 0.61), [2, 8, 32, 16]),
    "as good as half is kept": ((0.5, 0.6, 0.61), [2, 8, 32, 16]),
    "two are lost": ((0.5, 0.61, 0.7), [2, 8, 32, 4]),
    "nothing between": ((0.61, 0.7, 0.8), [2, 8, 32]),
    "up and down": ((0.61, 0.5, 0.8), [2, 8, 32]),
    "destroyed": ((0.5, 1.1, 1.2), [2, 8, 4]),
    "diverged": ((0.5, math.nan, 0.5), [2, 8, 4]),
}


@pytest.mark.parametrize(("losses", "expected"), BISECTED.values(), ids=BISECTED)
def test_one_more_between_the_last_that_is_kept_and_the_first_that_is_lost(losses, expected):
    by_factor = dict(zip((2, 8, 32), losses, strict=True)) | {4: 0.57, 16: 0.57}

    def train(rule, factor, part):
        return by_factor.get(factor, 0.6 if len(part) < 160 else 0.4)

    fixed = {"updates": 0, "batch_size": 8, "base_lr": 0.1, "factors": {"linear": [2, 8, 32]}, "orders": 1}
    half, whole, *rows = compare(train, range(160), 1.0, **fixed)
    assert (half.loss, whole.loss) == (0.6, 0.4)
    assert [row.batch_size // 8 for row in rows] == expected
    if 4 in expected:
        assert (rows[-1].loss, rows[-1].learning_rate) == (0.57, 0.4)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_infinite(loss):
    rows, trained = compared(lambda rule, factor: loss if factor > 2 else 0.5, factors={"linear": [2, 4]}, orders=1)
    assert [row.loss for row in rows] == [0.5, 0.5, 0.5, math.inf]
    assert len(trained) == 4


def test_rows_come_as_they_are_trained():
    trained = []
    rows = compare(
        lambda rule, factor, part: trained.append(factor) or 0.5,
        range(40),
        1.0,
        updates=0,
        batch_size=8,
        base_lr=0.1,
        factors={"linear": [2, 4]},
    )
    assert [next(rows).batch_size for _ in range(3)] == [8, 8, 16]
    assert trained == [1, 1, 2]


# In a training script of one's own -----------------------------------------------------------------------------------


class Layers(nn.Module):
    """Evaluated, it differs from what it is in training."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first = nn.Linear(6, 8, bias=False)  # a bias before a norm has no gradient but rounding
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(dropout)
        self.last = nn.Linear(8, 3)
        self.double()

    def forward(self, values):
        return self.last(self.drop(self.norm(self.first(values)).tanh()))


def cross_entropy(model, batch):
    values, labels = batch
    return functional.cross_entropy(model(values), labels)


OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.03, momentum=0.9),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.03, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.004, weight_decay=0.1),
}


def batches(count: int, size: int = 4, seed: int = 0) -> list[tuple]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, 6, generator=generator, dtype=torch.float64)
    return [(part, (part @ torch.arange(6.0).double()).sign().long() + 1) for part in values]


def trained(optimizer=OPTIMIZERS["momentum"], dropout=0.0, updates=20):
    """A network in the middle of its training, and the optimizer with its momenta."""
    torch.manual_seed(0)
    model = Layers(dropout)
    optimizer = optimizer(model.parameters())
    for batch in batches(updates, seed=1):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    return model, optimizer


def held_out_loss(model: nn.Module, held_out: list[tuple]) -> float:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return float(torch.stack([cross_entropy(model, batch) for batch in held_out]).mean())


def plain_branch(model, make, window, held_out, order, factor, scale, count) -> float:
    """The loss of a copy after its window, by the textbook."""
    places = torch.randperm(len(window), generator=torch.Generator().manual_seed(order)).tolist()[:count]
    model = copy.deepcopy(model).train()
    optimizer = make(model.parameters())
    rate, updates = optimizer.param_groups[0]["lr"], count // factor
    for update in range(updates):
        part = [window[place] for place in places[update * factor : (update + 1) * factor]]
        values, labels = torch.cat([each[0] for each in part]), torch.cat([each[1] for each in part])
        optimizer.param_groups[0]["lr"] = rate * scale * (1 - update / updates)
        optimizer.zero_grad()
        functional.cross_entropy(model(values), labels).backward()
        optimizer.step()
    return held_out_loss(model, held_out)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_equals_a_plain_loop(make):
    model, optimizer = trained(make)
    window, held_out, rules = batches(43, seed=2), batches(5, size=10, seed=3), ("linear", "sqrt", "none")
    rows = branch(model, optimizer, cross_entropy, window, held_out, batch_size=4, rules=rules)
    start = held_out_loss(model, held_out)
    tried = set()
    for row in rows:
        factor = row.batch_size // 4
        count = row.images // 4
        expected = plain_branch(
            model, make, window, held_out, row.order, factor, SCALES[row.rule](factor), count // factor * factor
        )
        assert row.loss == pytest.approx(expected, rel=1e-12)
        assert row.start == pytest.approx(start, rel=1e-12)
        assert row.learning_rate == pytest.approx(optimizer.param_groups[0]["lr"] * SCALES[row.rule](factor))
        tried.add((row.rule, row.order, factor, count))
    assert tried >= {("none", order, *each) for order in (0, 1) for each in [(1, 21), (1, 43), (2, 42), (8, 40)]}


def generators() -> list:
    return [torch.get_rng_state().tolist(), random.getstate(), [part.tolist() for part in np.random.get_state()[1:2]]]  # noqa: NPY002


class Draws(Layers):
    """From every generator, in training."""

    def forward(self, values):
        factor = 1 + random.random() * np.random.rand() if self.training else 1  # noqa: NPY002
        return super().forward(values * factor)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("mode", [True, False])
def test_everything_is_left_as_it_was(make, mode):
    torch.manual_seed(0)
    model = Draws(dropout=0.3).train(mode)
    model.norm.eval()
    optimizer = make(model.parameters())
    for batch in batches(3):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    kept = [model.state_dict(), optimizer.state_dict(), [each.grad for each in model.parameters()]]
    before, drawn = copy.deepcopy(kept), generators()
    modes = [module.training for module in model.modules()]
    parameters = list(map(id, model.parameters()))
    rows = branch(model, optimizer, cross_entropy, batches(24), batches(2), batch_size=4)
    assert rows[0].loss != rows[0].start
    after = [model.state_dict(), optimizer.state_dict(), [each.grad for each in model.parameters()]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert generators() == drawn
    assert [module.training for module in model.modules()] == modes
    assert list(map(id, model.parameters())) == parameters == list(map(id, optimizer.param_groups[0]["params"]))


def as_dict(model, batch):
    return cross_entropy(model, (batch["values"], batch["labels"]))


FORMS = {
    "tensor": (
        lambda values, labels: torch.cat([values, labels[:, None]], dim=1),
        lambda model, batch: cross_entropy(model, (batch[:, :6], batch[:, 6].long())),
    ),
    "list": (lambda values, labels: [values, labels], cross_entropy),
    "dict": (lambda values, labels: {"values": values, "labels": labels}, as_dict),
    "namedtuple": (Pair, lambda model, batch: cross_entropy(model, (batch.images, batch.labels))),
    "nested": (lambda values, labels: ({"values": [values]}, labels), lambda model, batch: (
        cross_entropy(model, (batch[0]["values"][0], batch[1]))
    )),
}  # fmt: skip


@pytest.mark.parametrize(("form", "loss"), FORMS.values(), ids=FORMS)
def test_minibatches_of_every_form(form, loss):
    model, optimizer = trained()
    window, held_out = batches(20, seed=2), batches(3, seed=3)
    expected = branch(model, optimizer, cross_entropy, window, held_out, batch_size=4)
    window, held_out = ([form(*batch) for batch in each] for each in (window, held_out))
    assert branch(model, optimizer, loss, iter(window), iter(held_out), batch_size=4) == expected
    kind = type(window[0])
    assert type(joined(window[:2])) is kind


def test_groups_keep_the_ratio_of_their_rates():
    """The second group's parameters at ten times the rate, as in a plain loop with two optimizers."""
    torch.manual_seed(0)
    model = Layers()
    body, head = [*model.first.parameters(), *model.norm.parameters()], list(model.last.parameters())
    optimizer = torch.optim.SGD([{"params": body}, {"params": head, "lr": 0.1}], lr=0.01)
    window, held_out = batches(20, seed=2), batches(3, seed=3)
    (found,) = [
        row
        for row in branch(model, optimizer, cross_entropy, window, held_out, batch_size=4, orders=1)
        if row.batch_size == 16
    ]
    assert found.learning_rate == 0.04
    places = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    for update in range(5):
        values, labels = joined([window[place] for place in places[4 * update : 4 * update + 4]])
        model.zero_grad()
        functional.cross_entropy(model(values), labels).backward()
        with torch.no_grad():
            for part, rate in ((body, 0.04), (head, 0.4)):
                for each in part:
                    each -= rate * (1 - update / 5) * each.grad
    assert found.loss == pytest.approx(held_out_loss(model, held_out), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values, labels: (values, "words"), "holds an object of type str, which cannot be joined; use tensors"),
        (lambda values, labels: (values, labels.numpy()), "holds an object of type ndarray, which cannot be joined"),
        (
            lambda values, labels: (values[:, : 4 + int(labels[0])], labels),
            "two minibatches of the window cannot be joined: RuntimeError: Sizes of tensors must match",
        ),
        (
            lambda values, labels: (values, labels)[: 1 + int(labels[0]) // 2],
            "two minibatches of the window cannot be joined: ValueError: zip",
        ),
        (
            lambda values, labels: {"values": values, f"labels{int(labels[0])}": labels},
            "two minibatches of the window cannot be joined: KeyError: 'labels",
        ),
    ],
)
def test_minibatches_that_cannot_be_joined(change, message):
    window = [change(*batch) for batch in batches(8, seed=2)]
    with pytest.raises(UserError, match=message) as refused:
        joined(window)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("minibatches", "held_out"), [(9, 1), (0, 1), (20, 0)])
def test_a_window_that_is_too_short(minibatches, held_out):
    model, optimizer = trained()
    with pytest.raises(
        UserError,
        match=f"window has {minibatches} minibatches and held_out {held_out}; give at least 10 and 1",
    ):
        branch(model, optimizer, cross_entropy, batches(minibatches), batches(held_out), batch_size=4)


def test_a_rate_that_destroys_the_network_ends_a_rule():
    model, _ = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    rows = branch(model, optimizer, cross_entropy, batches(80), batches(3), batch_size=4, orders=1)
    worse = [row.batch_size for row in rows if not row.loss <= row.start and row.batch_size > 4]
    assert worse[:1] == [16]  # of 16 and 64
    assert max(row.batch_size for row in rows) == 16


# The reference of an experiment --------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """No dropout, no batch norm, in float64."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first, self.last = nn.Linear(3072, 8), nn.Linear(8, num_classes)
        self.double()

    def forward(self, images):
        return self.last(self.first(images.flatten(1).double()).tanh())


class Overflows(nn.Module):
    """It has no finite output for more than 64 images in training, as if their rate had destroyed it."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.last = nn.Linear(3072, num_classes)

    def forward(self, images):
        return self.last(images.flatten(1)) * (math.nan if self.training and len(images) > 64 else 1)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def experiment(**fields) -> Experiment:
    fixed = {"batch_size": 8, "dataset": "digits", "epochs": 2, "train_size": 160, "width": 1, "base_lr": 0.01}
    return Experiment(**{**fixed, "model": "test_branches:Smooth", **fields})


STOCHASTIC = [{"model": "networks:DrawsFromEveryGenerator"}, {"model": "models:CNN", "width": 0.05}]
STOCHASTIC[1]["augment"] = "flip-crop"


@pytest.mark.parametrize("fields", STOCHASTIC, ids=["draws", "CNN"])
def test_the_reference_trains_as_any_training(digits, fields):
    """Bit for bit, in parts that end within an epoch and at its end; branches come between."""
    torch.manual_seed(5)
    before = generators()
    reference = Reference(experiment(**fields), digits)
    for updates in (7, 20, 33, 40):
        reference.train(updates)
        assert reference.training.updates == updates
        assert reference.epochs == updates / 20
        if updates == 20:
            list(reference.branches(80, {"linear": [2]}, 1))
    assert generators() == before
    plain = Training(experiment(**fields), digits)
    list(plain.epochs(with_noise_scale=False))
    torch.testing.assert_close(reference.training.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)


def test_the_reference_stops_when_time_is_over(digits):
    reference, answers = Reference(experiment(), digits), iter([False] * 5 + [True])
    reference.train(20, lambda: next(answers))
    assert reference.training.updates == 5


def test_branches_leave_the_training_as_it_is(digits):
    reference = Reference(experiment(model="models:CNN", width=0.05, optimizer="adamw"), digits)
    reference.train(10)
    before, drawn = copy.deepcopy(reference.training.state_dict()), generators()
    rows = list(reference.branches(80, {"linear": [2], "none": [2]}, 2))
    assert [row.batch_size for row in rows] == 2 * [8, 8, 16, 8, 8, 16]
    assert {row.updates for row in rows} == {10}
    after = reference.training.state_dict()
    for name in ("model", "optimizer", "updates"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert generators() == drawn
    assert list(reference.branches(80, {"linear": [2], "none": [2]}, 2)) == rows  # and give the same numbers again


@pytest.mark.parametrize("fields", [{}, {"optimizer": "adamw", "weight_decay": 0.1, "base_lr": 0.001}])
def test_agrees_with_a_script_of_ones_own(digits, fields):
    """The same copies by `branch`, from the same weights and over the images of the epoch after the next."""
    reference = Reference(experiment(**fields), digits)
    reference.train(20)
    factors = dict.fromkeys(("linear", "sqrt", "none"), factors_of(20))
    rows = list(reference.branches(163, factors, 2))
    training = reference.training
    window = [training.data.batch(part) for part in training.order(3).split(8)]
    held_out = [training.data.batch(torch.arange(160))]
    expected = branch(
        training.model, training.optimizer, cross_entropy, window, held_out, batch_size=8, rules=tuple(factors)
    )
    assert len(rows) == len(expected) >= 18
    for ours, theirs in zip(rows, expected, strict=True):
        assert replace(ours, updates=0, start=0.0, loss=0.0) == replace(theirs, start=0.0, loss=0.0)
        assert (ours.start, ours.loss) == pytest.approx((theirs.start, theirs.loss), rel=1e-6)
    assert len({row.loss for row in rows}) >= 10


def test_losses_are_means_over_the_first_training_images(digits):
    reference = Reference(experiment(train_size=None), digits)
    assert reference.begin == reference.loss()
    batch = reference.training.data.batch(torch.arange(min(1500, EVALUATED)))
    assert reference.loss() == pytest.approx(held_out_loss(reference.training.model, [batch]), rel=1e-6)


def test_the_rule_of_the_experiment_does_not_matter(digits):
    def rows(**fields):
        reference = Reference(experiment(**fields), digits)
        reference.train(12)
        return list(reference.branches(80, {"linear": [2], "sqrt": [2]}, 1))

    expected = rows()
    other = {"lr_scaling": "linear", "warmup": "gradual", "warmup_epochs": 1, "decay": "cosine"}
    assert rows(batch_size=64, reference_batch_size=8, **other) == expected
    assert rows(batch_size=1, **other) == expected
    assert rows(base_lr=0.02) != expected


@pytest.mark.parametrize("micro", [2, 8, 12, 64])
def test_micro_batches(digits, micro):
    """Without batch norm they change nothing but rounding; they may be larger than the reference's minibatch."""

    def rows(**fields):
        reference = Reference(experiment(batch_size=64, **fields), digits)
        reference.train(20)
        return list(reference.branches(160, {"linear": [2, 4]}, 1))

    for ours, theirs in zip(rows(micro_batch_size=micro), rows(), strict=True):
        assert replace(ours, loss=0.0, start=0.0) == replace(theirs, loss=0.0, start=0.0)
        assert (ours.loss, ours.start) == pytest.approx((theirs.loss, theirs.start), rel=1e-5)


def test_a_copy_that_diverges_has_an_infinite_loss(digits):
    reference = Reference(experiment(model="test_branches:Overflows", train_size=640, base_lr=0.002), digits)
    reference.train(20)
    assert reference.loss() < reference.begin
    rows = list(reference.branches(640, {"linear": [2, 16, 32], "none": [4]}, 2))
    assert [row.batch_size for row in rows if row.loss == math.inf] == [128, 128]  # and 256 is not tried
    assert all(math.isfinite(row.loss) for row in rows if row.batch_size < 128)
    assert reference.loss() == rows[0].start
