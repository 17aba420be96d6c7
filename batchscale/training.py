"""The loop: updates, evaluation, timing. It writes nothing: it yields one record an epoch.

    training = Training(Experiment(batch_size=128, dataset="digits"), datasets.load("digits"))
    for record in training.records():
        print(record.epoch, record.accuracy)

A `Training` can be stopped between any two updates and goes on from its `state_dict` exactly as if it had not been:
every random number of an epoch comes from (seed, epoch), and the learning rate from the global number of the update.
"""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from batchscale.datasets import TRAIN_ACCURACY_IMAGES, Dataset
from batchscale.experiment import Experiment, Record, UserError, find_callable

EVALUATION_BATCH_SIZE = 500
PULSE_SECONDS = 0.25  # training time between two calls of `between_updates`


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is a GPU, else Apple's MPS, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device is {name!r}, which cannot be used here ({reason}); try --device auto or cpu"
        ) from error
    return device


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of every random generator in a 1-based epoch; epoch 0 stands for the initial weights."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Order of the training images in a 1-based epoch: int64 `(n,)` on the CPU, the same on every device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))


def build_model(experiment: Experiment, data: Dataset) -> nn.Module:
    """The experiment's network with its initial weights, which depend on the seed alone.

    The callable gets those of `width`, `in_channels` and `num_classes` that its signature names; one that takes
    `**keywords` (torchvision's models) gets `num_classes`.

    Raises:
        UserError: it cannot be imported or built, takes no width although one is asked for, or its output for a batch
            of images does not have shape `(b, number of classes)`.
    """
    factory = find_callable(experiment.model, "model")
    arguments = {"width": experiment.width, "in_channels": data.channels, "num_classes": len(data.classes)}
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters = {"num_classes": None, **parameters}
    if "width" not in parameters and experiment.width != 1:
        raise UserError(f"width is {experiment.width} but {experiment.model} takes no width")
    try:
        with torch.random.fork_rng():
            torch.manual_seed(epoch_seed(experiment.seed, 0))
            model = factory(**{name: value for name, value in arguments.items() if name in parameters})
            with torch.no_grad():
                logits = model.eval()(data.normalised(data.test_images[:2].cpu()))
    except Exception as error:  # whatever somebody else's network raises, it is theirs to mend
        raise UserError(f"model {experiment.model} failed for width {experiment.width}: {error}") from error
    if logits.shape != (min(2, len(data.test_images)), len(data.classes)):
        raise UserError(
            f"model {experiment.model} gives logits of shape {tuple(logits.shape)} for two images of {data.name}; "
            f"they must have shape {(2, len(data.classes))}"
        )
    return model


@dataclass(frozen=True)
class Progress:
    """Where a training stands between two updates."""

    epoch: int  # 1-based, the one in progress
    images: int  # training images used since the start of the run
    total_images: int  # ... and when it is finished
    loss: float  # mean over the epoch's updates so far
    images_per_second: float  # of this epoch, in training time


class Training:
    """One experiment in progress: network, optimizer, position and clock.

    Args:
        experiment: what to run.
        data: its data set, whole (`train_size` is applied here), on any device.
        model: a network to train in place of the one that `experiment.model` names; trained as it is given.

    Attributes:
        updates: optimizer updates completed.
        running_time: seconds of training so far; evaluation and whatever happens between records is excluded.
        diverged: a loss was not finite; no further record comes.

    Raises:
        UserError: an epoch would have no update, or see `build_model`, `select_device` and `Dataset.first`.
    """

    def __init__(self, experiment: Experiment, data: Dataset, *, model: nn.Module | None = None):
        data = data.first(experiment.train_size)
        self.experiment = experiment
        self.device = select_device(experiment.device)
        self.updates_per_epoch = len(data.train_images) // experiment.batch_size
        if self.updates_per_epoch == 0:
            raise UserError(
                f"batch_size is {experiment.batch_size} but {data.name} has {len(data.train_images)} training images "
                f"here: an epoch would have no update; take a smaller batch"
            )
        model = build_model(experiment, data) if model is None else model
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.data = data.to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=experiment.base_lr,
            momentum=experiment.momentum,
            weight_decay=experiment.weight_decay,
        )
        self.updates = 0
        self.running_time = 0.0
        self.diverged = False
        self._epoch_time = 0.0
        self._loss_sum = torch.zeros((), device=self.device)  # over the updates of the epoch in progress
        self._random_state: dict[str, Tensor] | None = None  # generators in the middle of an epoch

    def records(self, between_updates: Callable[[Progress], None] | None = None) -> Iterator[Record]:
        """Train to the end of the experiment, one record an epoch, from wherever the training stands.

        `between_updates` is called a few times a second between two updates, the clock stopped; it may raise to stop
        the training, which goes on from there when `records` or a `state_dict` is used again. The iterator ends early,
        with `diverged` set, when a loss is not finite; the epoch in which that happens has no record.
        """
        while not self.diverged and self.updates < self.experiment.epochs * self.updates_per_epoch:
            epoch = self.updates // self.updates_per_epoch + 1
            self._train_epoch(epoch, between_updates)
            record = None if self.diverged else self._record(epoch)
            self.diverged = record is None or not math.isfinite(record.train_loss + record.test_loss)
            if self.diverged:
                return
            self._epoch_time = 0.0
            self._loss_sum.zero_()
            yield record

    def state_dict(self) -> dict:
        """Everything that the rest of the run depends on; loads with `torch.load(weights_only=True)`.

        Valid between two updates: inside `between_updates`, and after a record.
        """
        return {
            "updates": self.updates,
            "running_time": self.running_time,
            "epoch_time": self._epoch_time,
            "loss_sum": self._loss_sum,
            "random_state": self._random_state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict` of the same experiment, possibly with more epochs or on another device."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self.running_time = state["running_time"]
        self._epoch_time = state["epoch_time"]
        self._loss_sum = state["loss_sum"].to(self.device)
        self._random_state = state["random_state"]

    def _train_epoch(self, epoch: int, between_updates: Callable[[Progress], None] | None) -> None:
        """The rest of an epoch: ⌊n/B⌋ updates on a fresh permutation, the incomplete last batch dropped."""
        experiment, size = self.experiment, self.experiment.batch_size
        order = permutation(len(self.data.train_images), experiment.seed, epoch).to(self.device)
        self.model.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if self._random_state is None:
                torch.manual_seed(epoch_seed(experiment.seed, epoch))
            else:
                self._set_random_state(self._random_state)
            started = self._clock()
            while self.updates < epoch * self.updates_per_epoch:
                first = self.updates % self.updates_per_epoch * size
                self._update(order[first : first + size])
                if time.perf_counter() - started > PULSE_SECONDS and self.updates % self.updates_per_epoch:
                    started = self._pause(started)
                    loss = float(self._loss_sum) / (self.updates % self.updates_per_epoch)
                    if not math.isfinite(loss):
                        self.diverged = True
                        return
                    if between_updates is not None:
                        self._random_state = self._get_random_state()
                        between_updates(self._progress(epoch, loss))
                    started = self._clock()
            self._pause(started)
            self._random_state = None
        self.diverged = not math.isfinite(float(self._loss_sum))

    def _update(self, indices: Tensor) -> None:
        """One optimizer step on the minibatch `indices`, its gradient summed exactly over micro-batches."""
        learning_rate = self.experiment.learning_rate(self.updates, self.updates_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        for part in indices.split(self.experiment.micro_batch_size or len(indices)):
            images, labels = self.data.batch(part)
            with self._precision():
                loss = functional.cross_entropy(self.model(images), labels, reduction="sum") / len(indices)
            loss.backward()
            self._loss_sum += loss.detach()
        self.optimizer.step()
        self.updates += 1

    def _record(self, epoch: int) -> Record:
        images = self.updates_per_epoch * self.experiment.batch_size
        train_accuracy, train_loss = self.evaluate(
            self.data.train_images[:TRAIN_ACCURACY_IMAGES], self.data.train_labels[:TRAIN_ACCURACY_IMAGES]
        )
        accuracy, test_loss = self.evaluate(self.data.test_images, self.data.test_labels)
        return Record(
            batch_size=self.experiment.batch_size,
            epoch=epoch,
            accuracy=accuracy,
            generalization_error=train_accuracy - accuracy,
            running_time=self.running_time,
            experiment=self.experiment.name,
            seed=self.experiment.seed,
            updates=self.updates,
            learning_rate=self.experiment.learning_rate(self.updates - 1, self.updates_per_epoch),
            train_accuracy=train_accuracy,
            train_loss=train_loss,
            test_loss=test_loss,
            epoch_time=self._epoch_time,
            images_per_second=images / self._epoch_time,
        )

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy in 0-1 and mean cross-entropy of uint8 images `(n, h, w, c)`, with the network in eval mode."""
        self.model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        with torch.inference_mode():
            for part, target in zip(
                images.split(EVALUATION_BATCH_SIZE), labels.split(EVALUATION_BATCH_SIZE), strict=True
            ):
                with self._precision():
                    logits = self.model(self.data.normalised(part))
                    loss += functional.cross_entropy(logits, target, reduction="sum").to(loss)
                correct += (logits.argmax(dim=1) == target).sum()
        return correct.item() / len(labels), loss.item() / len(labels)

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.experiment.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _progress(self, epoch: int, loss: float) -> Progress:
        size = self.experiment.batch_size
        return Progress(
            epoch=epoch,
            images=self.updates * size,
            total_images=self.experiment.epochs * self.updates_per_epoch * size,
            loss=loss,
            images_per_second=self.updates % self.updates_per_epoch * size / self._epoch_time,
        )

    def _clock(self) -> float:
        """Seconds on a monotonic clock, once the device has done all that was asked of it."""
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()
        return time.perf_counter()

    def _pause(self, started: float) -> float:
        """Add the training time since `started` to the epoch and the run."""
        now = self._clock()
        self._epoch_time += now - started
        self.running_time += now - started
        return now

    def _get_random_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            state["mps"] = torch.mps.get_rng_state()
        return state

    def _set_random_state(self, state: dict[str, Tensor]) -> None:
        # On another kind of device than before there is no such state: dropout then goes on with whatever numbers the
        # device has. Such a run could not repeat the other device's rounding either.
        torch.set_rng_state(state["cpu"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        elif self.device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])
