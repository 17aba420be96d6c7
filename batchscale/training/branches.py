"""Branched training: at a checkpoint, copies of a network go on with larger minibatches and are compared.

In a training script of your own, with a network, an optimizer and a data loader:

    from itertools import islice
    from batchscale.analysis import local_critical_batch_size as local
    from batchscale.training.branches import branch

    def loss(model, batch):
        images, labels = batch
        return torch.nn.functional.cross_entropy(model(images), labels)

    # … after an epoch or two of training:
    rows = branch(model, optimizer, loss, list(islice(loader, 1024)), list(islice(test_loader, 32)), batch_size=32)
    for each in local.of(rows):
        print(each)

Network and optimizer are left as they are. `Reference` does the same with an `Experiment`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from batchscale import schedules
from batchscale.errors import UserError, failure
from batchscale.experiment import Experiment
from batchscale.schedules import LRScaling
from batchscale.training import randomness
from batchscale.training.datasets import Dataset
from batchscale.training.loop import Training
from batchscale.training.network import unchanged

LEAST_UPDATES = 5  # of a window; a minibatch that leaves fewer is not tried
EVALUATED = 2000  # training images on which copies are compared
RULES: tuple[LRScaling, ...] = ("linear", "sqrt", "none")


@dataclass(frozen=True)
class Branch:
    """How one copy ended its window."""

    updates: int
    """of the reference before the switch"""
    rule: LRScaling
    batch_size: int
    images: int
    """that it was trained on: the window Δ, or half of it"""
    order: int
    """0, 1 …: the copies of one order saw the same images one after another"""
    learning_rate: float
    """at the first update of the window; it falls to zero"""
    start: float
    """loss at the switch"""
    loss: float
    """at the end of the window; infinite if it is not finite"""


def factors_of(minibatches: int, largest: float = math.inf) -> list[int]:
    """By how many times a minibatch may grow in a window of so many: every second doubling, down from the largest that
    leaves five updates.

    >>> factors_of(100), factors_of(660), factors_of(660, largest=40)
    ([4, 16], [2, 8, 32, 128], [2, 8, 32])
    """
    most = min(minibatches // LEAST_UPDATES, largest)
    powers = range(int(math.log2(most)), 0, -2) if most >= 2 else ()
    return [2**power for power in powers][::-1]


def compare(
    train: Callable[[LRScaling, int, Sequence], float],
    window: Sequence,
    start: float,
    *,
    updates: int,
    batch_size: int,
    base_lr: float,
    factors: Mapping[LRScaling, Sequence[int]],
    orders: int = 2,
) -> Iterator[Branch]:
    """One row per copy: the reference over half a window and a whole one, and larger minibatches over the whole one.

    All copies of an order use the same images one after another. The copies of a rule grow until one ends with a
    higher loss than it began with: there the rate of the rule is too high for the network, and larger ones are worse.
    Between the last that does at least as well as the reference with half of the images, and the first that does not,
    one more is trained.

    Args:
        train: trains a copy by a rule, with minibatches a number of times as large, on some of the window's
            minibatches, while its rate falls linearly to zero; returns its loss.
        window: the reference's minibatches.
        start: loss before.
        updates: of the reference before.
        batch_size, base_lr: of the reference.
        factors: by rule, by how many times the minibatch grows, rising.
        orders: number of orders of the minibatches.
    """
    for order in range(orders):
        places = torch.randperm(len(window), generator=torch.Generator().manual_seed(order)).tolist()
        minibatches = [window[place] for place in places]

        def row(rule: LRScaling, factor: int, part: Sequence, order: int = order) -> Branch:
            count = len(part) // factor * factor
            rate = base_lr * schedules.scaling_factor(factor * batch_size, batch_size, rule)
            loss = train(rule, factor, part[:count])
            loss = loss if math.isfinite(loss) else math.inf
            return Branch(updates, rule, factor * batch_size, count * batch_size, order, rate, start, loss)

        half, whole = row("none", 1, minibatches[: len(window) // 2]), row("none", 1, minibatches)
        for rule in factors:
            yield from (replace(half, rule=rule), replace(whole, rule=rule))
            kept, lost = 1, None
            for factor in factors[rule]:
                found = row(rule, factor, minibatches)
                yield found
                if found.loss <= half.loss:
                    kept = factor
                lost = factor if lost is None and found.loss > half.loss else lost
                if not found.loss <= start:
                    break
            if lost is not None and lost >= 4 * kept:
                yield row(rule, 2 ** round(math.log2(kept * lost) / 2), minibatches)


def branch(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[nn.Module, object], Tensor],
    window: Sequence,
    held_out: Sequence,
    *,
    batch_size: int,
    rules: Sequence[LRScaling] = ("linear",),
    orders: int = 2,
) -> list[Branch]:
    """Branched training in a training script of one's own; see `compare` for what is trained.

    A larger minibatch is several of `window` joined along the first dimension of their tensors. Every copy begins with
    the optimizer's groups and options, but without its state (momenta are those of the small minibatch, whose noise a
    higher rate would multiply), and its rates fall to zero over the window, so that the last loss has little noise.

    Args:
        model, optimizer: as they are in training; they are not changed. The optimizer's present rates are the
            reference's.
        loss: mean loss of a network on a minibatch.
        window: Δ, the minibatches that every copy trains on: tensors, or tuples, lists or dicts of them. 64 times as
            many as the largest minibatch is large gives 64 updates there. The same number of images in each.
        held_out: minibatches on which the copies are compared, in eval mode.
        batch_size: images of a minibatch.
        rules: of the learning rate, see `schedules.scaling_factor`.
        orders: number of orders of the window, 2 or more for an interval.

    Raises:
        UserError: the window is too short, or a minibatch cannot be joined with another.
    """
    window, held_out = list(window), list(held_out)
    if len(window) < 2 * LEAST_UPDATES or not held_out:
        raise UserError(
            f"window has {len(window)} minibatches and held_out {len(held_out)}; "
            f"give at least {2 * LEAST_UPDATES} and 1"
        )

    def evaluated(network: nn.Module) -> float:
        with unchanged(network), torch.no_grad():
            network.eval()
            return sum(float(loss(network, batch)) for batch in held_out) / len(held_out)

    def train(rule: LRScaling, factor: int, minibatches: Sequence) -> float:
        network, stepper = copy.deepcopy((model, optimizer))  # together, so that one has the other's parameters
        stepper.state.clear()
        network.train()
        rates = [group["lr"] * schedules.scaling_factor(factor, 1, rule) for group in stepper.param_groups]
        for minibatch, remaining in _annealed(minibatches, factor, joined):
            for group, rate in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = rate * remaining
            stepper.zero_grad(set_to_none=True)
            value = loss(network, minibatch)
            value.backward()
            stepper.step()
        return evaluated(network)

    rate = float(optimizer.param_groups[0]["lr"])
    device = next(model.parameters()).device
    with randomness.preserved(device):
        return list(
            compare(
                train,
                window,
                evaluated(model),
                updates=0,
                batch_size=batch_size,
                base_lr=rate,
                factors=dict.fromkeys(rules, factors_of(len(window))),
                orders=orders,
            )
        )


class Reference:
    """A training with the reference's minibatch at the base rate, from which branches start.

    Args:
        experiment: its reference batch size and base rate are used; its own batch size, rule and decay are not.
        data: the complete data set.

    Raises:
        UserError: as `Training`.
    """

    def __init__(self, experiment: Experiment, data: Dataset):
        self._micro_batch_size = experiment.micro_batch_size
        plain = {"lr_scaling": "none", "warmup": "none", "decay": "none"}
        self._experiment = replace(experiment, **plain, **self._sizes(experiment.reference_batch_size))
        self.training = Training(self._experiment, data)
        self.begin = self.loss()
        self._epoch, self._minibatches = 0, ()
        self._random_state: dict | None = None  # of the generators within an epoch

    def _sizes(self, batch_size: int) -> dict:
        """The batch size with the micro-batch size that was asked for, where this is not larger."""
        micro = self._micro_batch_size
        return {"batch_size": batch_size, "micro_batch_size": micro if micro and micro <= batch_size else None}

    @property
    def epochs(self) -> float:
        """Trained so far."""
        return self.training.updates / self.training.updates_per_epoch

    def train(self, updates: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """Train up to this number of updates since the beginning, or until `is_over`."""
        training = self.training
        with randomness.preserved(training.device):
            if self._random_state is not None:
                randomness.set_generators(self._random_state, training.device)
            training.model.train()
            while training.updates < updates and not is_over():
                epoch, place = divmod(training.updates, training.updates_per_epoch)
                if epoch + 1 != self._epoch:
                    randomness.seed_generators(randomness.epoch_seed(self._experiment.seed, epoch + 1))
                    self._epoch = epoch + 1
                    self._minibatches = training.order(epoch + 1).split(training.experiment.batch_size)
                training.update(self._minibatches[place])
            self._random_state = randomness.generators_state(training.device)

    def loss(self, training: Training | None = None) -> float:
        """Mean loss over fixed training images, in eval mode; infinite if it is not finite."""
        training = training or self.training
        images, labels = training.data.train_images[:EVALUATED], training.data.train_labels[:EVALUATED]
        loss = training.evaluate(images, labels)[1]
        return loss if math.isfinite(loss) else math.inf

    def branches(self, images: int, factors: Mapping[LRScaling, Sequence[int]], orders: int) -> Iterator[Branch]:
        """The copies that branch off here, see `compare`; the training itself stays as it is.

        Args:
            images: Δ, those of the next epoch in its order, at most all of them.
        """
        size = self._experiment.batch_size
        order = self.training.order(int(self.epochs) + 2)  # not the rest of the epoch in progress
        return compare(
            self._train_copy,
            order[: images // size * size].split(size),
            self.loss(),
            updates=self.training.updates,
            batch_size=size,
            base_lr=self._experiment.base_lr,
            factors=factors,
            orders=orders,
        )

    def _train_copy(self, rule: LRScaling, factor: int, minibatches: Sequence[Tensor]) -> float:
        """Loss of a copy after its window; infinite where it diverges."""
        sizes = self._sizes(factor * self._experiment.batch_size)
        experiment = replace(self._experiment, **sizes, lr_scaling=rule)
        training = Training(experiment, self.training.data, model=copy.deepcopy(self.training.model))
        training.scaler.load_state_dict(self.training.scaler.state_dict())
        rate = experiment.scale * experiment.base_lr
        with randomness.preserved(training.device):
            randomness.seed_generators(randomness.epoch_seed(experiment.seed, int(self.epochs) + 2))
            training.model.train()
            for minibatch, remaining in _annealed(minibatches, factor, torch.cat):
                training.update(minibatch, rate * remaining)
        return self.loss(training)


def _annealed(minibatches: Sequence, factor: int, join: Callable[[Sequence], object]) -> Iterator[tuple]:
    """Minibatches that are `factor` times as large, each with the share of the rate that its update has."""
    updates = len(minibatches) // factor
    for update in range(updates):
        part = minibatches[update * factor : (update + 1) * factor]
        yield join(part), schedules.decay_factor(update, decay="linear", total_updates=updates)


def joined(parts: Sequence):
    """Minibatches as one: their tensors joined along the first dimension, also within tuples, lists and dicts.

    Raises:
        UserError: they hold something else, or do not fit together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    try:
        if isinstance(first, Tensor):
            return torch.cat(list(parts))
        if isinstance(first, Mapping):
            return {key: joined([part[key] for part in parts]) for key in first}
        if isinstance(first, tuple | list):
            fields = [joined(each) for each in zip(*parts, strict=True)]
            return type(first)(*fields) if hasattr(first, "_fields") else type(first)(fields)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"two minibatches of the window cannot be joined: {failure(error)}") from error
    raise UserError(
        f"a minibatch of the window holds an object of type {type(first).__name__}, which cannot be joined; "
        f"use tensors, or tuples, lists or dicts of tensors"
    )
