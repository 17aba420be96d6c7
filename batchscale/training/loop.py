"""The training loop: updates, measurements and timing of one experiment. It writes no files.

    training = Training(Experiment(batch_size=128, dataset="digits"), datasets.load("digits"))
    for row in training.epochs():
        print(row.epoch, row.accuracy)

A `Training` can stop between any two updates. Another one continues from its `state_dict` with identical results:
random numbers derive from (seed, epoch), and the learning rate from the global update number.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchscale.epoch import Epoch
from batchscale.errors import UserError, failure
from batchscale.experiment import Experiment
from batchscale.training import augmentation, memory, noise_scale, randomness
from batchscale.training.datasets import TRAIN_ACCURACY_IMAGES, Dataset
from batchscale.training.device import autocast, configure, select_device, synchronize
from batchscale.training.network import build_model, logits_of, prepare, unchanged, unregistered
from batchscale.training.optimizers import begin_momentum, build_optimizer, left_out
from batchscale.training.workers import Group, SharedNetwork, WorkerLost, is_lost

EVALUATION_BATCH_SIZE = 250  # as fast as any other from 100 to 1000, or slightly faster
PULSE_SECONDS = 0.25  # training time between two calls of `between_updates`


@dataclass(frozen=True)
class Progress:
    """The state of a training between two updates."""

    epoch: int  # 1-based, the one in progress
    images: int  # training images used since the start of the run
    total_images: int  # ... and at its end
    loss: float  # mean over the epoch's updates so far
    images_per_second: float  # in this epoch, per second of training time


class Training:
    """One experiment in progress: network, optimizer, position and clock.

    Args:
        experiment: what to run.
        data: the complete data set, on the CPU; `train_size` is applied here.
        model: a network to train instead of the one that `experiment.model` names. It keeps its initial weights.
        group: the workers that share every minibatch. All of them make the same calls.

    Attributes:
        updates: optimizer updates completed.
        memory_format, output: layout of the images that the network takes, and what it returns, see `network.prepare`.
        images_at_once: largest number of images in one forward pass, of `training` and of `evaluation`; see `limit`.
        ghost_batches: pairs (update, micro_batch_size): the initial size, and each smaller one with its first update.
        running_time: seconds of training so far, excluding evaluation and everything between two epochs.
        diverged: whether a loss was not finite, which ends the training.

    Raises:
        UserError: the minibatch is larger than the training set or not a multiple of the number of workers, the device
            lacks memory, or the network, device, precision or `train_size` is not available.
    """

    def __init__(
        self, experiment: Experiment, data: Dataset, *, model: nn.Module | None = None, group: Group | None = None
    ):
        self.experiment, self.group = experiment, group or Group()
        data = data.first(experiment.train_size)
        self.updates_per_epoch = _updates_per_epoch(experiment, data, self.group)
        self.device = self.group.own_device(select_device(experiment.device))
        configure(self.device, experiment.precision)
        model = build_model(experiment, data) if model is None else model
        try:
            self.model, self.data = model, data.to(self.device)
            self.model.to(self.device)
            self.memory_format, self.output = prepare(self.model, experiment, self.data)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            raise UserError(
                f"device is {self.device}, which has no room for the network and the images ({memory.reason(error)}); "
                f"use a smaller network or another device"
            ) from None
        self._autocast = functools.partial(autocast, self.device, experiment.precision)
        self._shared = SharedNetwork(self.model, self.group)
        self.optimizer = build_optimizer(self.model, experiment)
        # Groups of a user's optimizer may have rates of their own, which keep their ratio to the others.
        self._rates = [float(group["lr"]) / experiment.base_lr for group in self.optimizer.param_groups]
        # In fp16 small gradients would vanish. An update whose scaled gradients overflow is skipped, but counted.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=experiment.precision == "fp16")
        self._share = experiment.batch_size // self.group.count  # this worker's images of a minibatch
        self.images_at_once = {"training": self._share, "evaluation": EVALUATION_BATCH_SIZE}
        self.ghost_batches = [(0, self.micro_batch_size)]
        self.updates, self.diverged = 0, False
        self.running_time = self._epoch_time = 0.0
        self._loss_sum = torch.zeros((), device=self.device)  # over the updates of the epoch in progress
        self._random_state: dict | None = None  # of the generators within an epoch

    @property
    def remarks(self) -> list[str]:
        """What the user should know about network and optimizer, a line each."""
        name, lines = self.experiment.model, []
        if self.output is not None:
            lines.append(f"{name} returns {self.output}, of which the loss takes the logits and nothing else")
        without = left_out(self.model, self.optimizer)
        if without:
            lines.append(
                f"{self.experiment.optimizer} does not train {len(without)} of the network's parameters that require a "
                f"gradient, such as {without[0]}; set their requires_grad to False if this is intended"
            )
        if self.memory_format != torch.channels_last:
            lines.append(
                f"{name} cannot take images with channels last in memory; it gets contiguous ones, with which "
                f"convolutions may be slower"
            )
        for place in unregistered(self.model):
            lines.append(
                f"{name} has layers in a plain list or dict, {place}, which are not trained; use nn.ModuleList or "
                f"nn.ModuleDict, or set their requires_grad to False if this is intended"
            )
        return lines

    @property
    def micro_batch_size(self) -> int:
        """Number of images in one forward pass of training, over which batch norm computes its statistics.

        Where memory or a worker's share limits it, the minibatch is split into micro-batches as equal as possible.
        """
        size = self.experiment.micro_batch_size or self.experiment.batch_size
        return math.ceil(size / math.ceil(size / self.images_at_once["training"]))

    def limit(self, images_at_once: dict[str, int]) -> None:
        """Lower the number of images at once in `training` or `evaluation`, from now on; a higher limit has no effect.

        Gradients and accuracy stay exact; batch norm's statistics are those of `micro_batch_size` images.
        """
        for where, images in images_at_once.items():
            self.images_at_once[where] = min(images, self.images_at_once[where])
        if self.micro_batch_size != self.ghost_batches[-1][1]:
            self.ghost_batches = [pair for pair in self.ghost_batches if pair[0] < self.updates]
            self.ghost_batches.append((self.updates, self.micro_batch_size))

    def epochs(
        self, between_updates: Callable[[Progress], None] | None = None, *, with_noise_scale: bool = True
    ) -> Iterator[Epoch]:
        """Train from the current position to the end of the experiment, and yield one row per epoch.

        `between_updates` is called a few times per second between two updates, while the clock is stopped. It may raise
        to stop the training, which another call of `epochs` or a `state_dict` continues. Among several workers only
        worker 0 may stop, in `between_updates` or by closing the iterator; the iterators of the others then end. A loss
        that is not finite ends the iterator and sets `diverged`; its epoch yields no row. Without the noise scale the
        rows have NaN in its place, and an epoch needs memory for two gradients less.

        Raises:
            memory.OutOfMemory: in the middle of an update. Discard this object, and continue from a saved state.
            UserError: the network failed (the message names the place) or, as `WorkerLost`, another worker did.
        """
        self._shared.begin()
        while not self.diverged and self.updates < self.experiment.epochs * self.updates_per_epoch:
            epoch = self.updates // self.updates_per_epoch + 1
            self.group.in_step = False
            if not self._train_epoch(epoch, between_updates):
                return
            row = None if self.diverged else self._row(epoch, with_noise_scale)
            self.group.in_step = True
            self.diverged = row is None or not math.isfinite(row.train_loss + row.test_loss)
            if self.diverged:
                return
            self._epoch_time = 0.0
            self._loss_sum.zero_()
            try:
                yield row
            except GeneratorExit:
                self.group.broadcast(False)
                raise
            if not self.group.broadcast(True):
                return

    def state_dict(self) -> dict:
        """Everything that the rest of the run depends on, for `torch.load(weights_only=True)`.

        Valid between two updates: inside `between_updates`, and after an epoch.
        """
        return {
            "updates": self.updates,
            "running_time": self.running_time,
            "epoch_time": self._epoch_time,
            "loss_sum": self._loss_sum,
            "images_at_once": self.images_at_once,
            "ghost_batches": self.ghost_batches,
            "random_state": self._random_state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict` of the same experiment. Number of epochs, device and workers may differ.

        Raises:
            UserError: the state belongs to another network.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            begin_momentum(self.optimizer, self.experiment)  # which an older version did not save for every parameter
            self.scaler.load_state_dict(state.get("scaler", {}))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise UserError(
                f"the saved state does not fit the network {self.experiment.model} ({reason}); "
                f"if you changed the network, undo that, or choose another name or data_dir"
            ) from error
        self.images_at_once = dict(state["images_at_once"])
        self.ghost_batches = [tuple(pair) for pair in state["ghost_batches"]]
        self.updates, self._random_state = state["updates"], state["random_state"]
        self.running_time, self._epoch_time = state["running_time"], state["epoch_time"]
        self._loss_sum = state["loss_sum"].to(self.device)
        self.limit({"training": self._share})  # the state may come from fewer workers

    def _train_epoch(self, epoch: int, between_updates: Callable[[Progress], None] | None) -> bool:
        """Complete an epoch: ⌊n/B⌋ updates on a fresh permutation; the incomplete last batch is dropped.

        Returns False if worker 0 stopped within the epoch, True otherwise; worker 0 itself raises instead.
        """
        seed, end = self.experiment.seed, epoch * self.updates_per_epoch
        order = self.order(epoch)
        self.model.train()
        with randomness.preserved(self.device):
            if self._random_state is None:
                randomness.seed_generators(randomness.epoch_seed(seed, epoch))
            else:
                randomness.set_generators(self._random_state, self.device)
            pulse = self.updates + 1
            while True:
                begun = self.updates
                seconds = self._train_until(end, pulse, order)
                if self.updates == end:
                    break
                loss = float(self._loss_sum) / (self.updates % self.updates_per_epoch)
                if not math.isfinite(loss):
                    self.diverged = True
                    return True
                interval = max(1, round((self.updates - begun) * PULSE_SECONDS / max(seconds, 1e-9)))
                pulse = self._pulse(epoch, loss, between_updates, self.updates + interval)
                if pulse is None:
                    return False
            self._random_state = None
        self.diverged = not math.isfinite(float(self._loss_sum))
        return True

    def _train_until(self, end: int, pulse: int, order: Tensor) -> float:
        """Train to update `end`, or until a pulse is due; return the seconds this takes.

        One process pulses every PULSE_SECONDS; workers, whose clocks differ, pulse together after update `pulse`.
        """
        size, alone, is_due = self.experiment.batch_size, self.group.count == 1, False
        started = self._clock()
        while self.updates < end and not is_due:
            first = self.updates % self.updates_per_epoch * size
            self.update(order[first : first + size])
            is_due = time.perf_counter() - started > PULSE_SECONDS if alone else self.updates == pulse
        return self._pause(started)

    def _pulse(
        self, epoch: int, loss: float, between_updates: Callable[[Progress], None] | None, next_pulse: int
    ) -> int | None:
        """Call `between_updates`; return `next_pulse` of worker 0, or None if it stops."""
        self.group.in_step = True
        try:
            if between_updates is not None:
                self._random_state = randomness.generators_state(self.device)
                size, done = self.experiment.batch_size, self.updates % self.updates_per_epoch
                total = self.experiment.epochs * self.updates_per_epoch * size
                speed = done * size / self._epoch_time
                between_updates(Progress(epoch, self.updates * size, total, loss, images_per_second=speed))
        except BaseException:
            self.group.broadcast(None)
            raise
        next_pulse = self.group.broadcast(next_pulse)
        self.group.in_step = next_pulse is None
        return next_pulse

    def order(self, epoch: int) -> Tensor:
        """The training images in the order of a 1-based epoch, on the device, see `augmentation.drawn`."""
        images, seed = self.data.train_images, self.experiment.seed
        order = randomness.permutation(len(images), seed, epoch).to(self.device)
        return augmentation.drawn(order, self.experiment.augment, tuple(images.shape[1:3]), seed, epoch)

    def _batch(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of a part of an `order`: float32 `(b, c, h, w)` and int64 `(b,)`."""
        if part.ndim == 1:
            return self.data.batch(part)
        images, indices = self.data.train_images, part[:, 0]
        images = augmentation.changed(images.index_select(0, indices), part[:, 1:])
        return self.data.normalised(images), self.data.train_labels.index_select(0, indices)

    def update(self, minibatch: Tensor, learning_rate: float | None = None) -> None:
        """One optimizer step on a minibatch, part of an `order`, its gradient summed exactly over micro-batches.

        The learning rate is the experiment's for this update, unless another one is given.
        """
        if learning_rate is None:
            learning_rate = self.experiment.learning_rate(self.updates, self.updates_per_epoch)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * rate
        try:
            self._accumulate_gradient(minibatch)
        except Exception as error:
            raise self._failure(error, "training", self.micro_batch_size) from error
        try:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except Exception as error:
            who = f"optimizer {self.experiment.optimizer}"
            raise self._failure(error, "training", self.micro_batch_size, who) from error
        self.updates += 1

    def _accumulate_gradient(self, minibatch: Tensor) -> None:
        """Set the parameters' gradients to that of the minibatch's mean loss, and add this loss to `_loss_sum`."""
        self.optimizer.zero_grad(set_to_none=True)
        share = minibatch[self.group.share(len(minibatch))]
        parts = share.split(self.micro_batch_size)
        self._shared.before_update()
        for number, part in enumerate(parts, start=1):
            if len(share) < len(minibatch) or len(parts) > 1:
                # A micro-batch has the same dropout, whichever worker computes it.
                place = self.group.rank * len(parts) + number
                randomness.seed_generators(randomness.micro_batch_seed(self.experiment.seed, self.updates, place))
            images, labels = self._batch(part)
            with self._autocast():
                loss = functional.cross_entropy(self._logits(images), labels, reduction="sum") / len(share)
            self.scaler.scale(loss).backward()
            self._loss_sum += loss.detach()
        self._shared.combine()

    def _logits(self, images: Tensor) -> Tensor:
        output = self.model(images.contiguous(memory_format=self.memory_format))
        if isinstance(output, Tensor):
            return output
        return logits_of(output, len(self.data.classes), self.experiment.model)

    def largest_that_fits(self, images: int) -> int:
        """Largest minibatch below `images` that fits the device; 0 if none does. Discard this object afterwards."""
        order = torch.arange(images, device=self.device)
        self.model.train()
        return memory.largest_that_fits(lambda size: self._accumulate_gradient(order[:size]), images)

    def _failure(self, error: Exception, where: str, images: int, who: str | None = None) -> Exception:
        """What to raise for an error of the network, or of `who`: `memory.OutOfMemory`, or a `UserError` that names the
        place."""
        if isinstance(error, UserError):
            return error
        if self.group.count > 1 and is_lost(error):
            return WorkerLost(error)
        if memory.is_out_of_memory(error):
            return memory.OutOfMemory(images, where, error)
        who = who or f"model {self.experiment.model}"
        return UserError(f"{who} failed in {where}, after update {self.updates}: {failure(error)}")

    def _row(self, epoch: int, with_noise_scale: bool) -> Epoch:
        """Measure what is recorded at the end of an epoch."""
        self.optimizer.zero_grad(set_to_none=True)  # frees the memory
        data, subset = self.data, slice(TRAIN_ACCURACY_IMAGES)
        train_accuracy, train_loss = self.evaluate(data.train_images[subset], data.train_labels[subset])
        accuracy, test_loss = self.evaluate(data.test_images, data.test_labels)
        # Only worker 0's row is kept.
        noise = self.measure_noise_scale() if with_noise_scale and self.group.rank == 0 else None
        return Epoch(
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
            images_per_second=self.updates_per_epoch * self.experiment.batch_size / self._epoch_time,
            noise_scale=math.nan if noise is None else noise.noise_scale,
        )

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy in 0-1 and mean cross-entropy of images `(n, h, w, c)`, in eval mode, over all workers.

        The network is left as it was, see `network.unchanged`.
        """
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        size, own = self.images_at_once["evaluation"], self.group.share(len(labels))
        try:
            # Not inference_mode: what a network keeps of this pass could not be used in a later training update.
            with unchanged(self.model), torch.no_grad():
                self.model.eval()
                for part, target in zip(images[own].split(size), labels[own].split(size), strict=True):
                    with self._autocast():
                        logits = self._logits(self.data.normalised(part))
                        loss += functional.cross_entropy(logits, target, reduction="sum").to(loss)
                    correct += (logits.argmax(dim=1) == target).sum()
                self.group.all_reduce(correct)
                self.group.all_reduce(loss)
        except Exception as error:
            raise self._failure(error, "evaluation", size) from error
        return correct.item() / len(labels), loss.item() / len(labels)

    def predictions(self, images: Tensor) -> Tensor:
        """The most likely class of images `(n, h, w, c)`, int64 `(n,)`, in eval mode; the network is left as it was."""
        with unchanged(self.model), torch.no_grad():
            self.model.eval()
            parts = images.split(self.images_at_once["evaluation"])
            with self._autocast():
                return torch.cat([self._logits(self.data.normalised(part)).argmax(dim=1) for part in parts])

    def measure_noise_scale(
        self, images: int | None = None, *, with_standard_error: bool = False
    ) -> noise_scale.Estimate | None:
        """Gradient noise scale at the current weights, which stay unchanged; see `noise_scale.measure`.

        Uses the number of training `images`, by default one in `noise_scale.ONE_IMAGE_IN` as in every record. Images,
        their changes and dropout masks depend only on the seed and the epoch in progress (after an epoch: the next
        one). A device that has no room for a micro-batch gets smaller ones, and more of them.

        Returns:
            None if a micro-batch would have fewer than the two images that batch norm needs for its statistics: with
            fewer than 20 training images, or too little memory.

        Raises:
            UserError: the network failed (the message names the place), or there are too few or too many `images`.
        """
        n, epoch = len(self.data.train_images), self.updates // self.updates_per_epoch + 1
        random_seed = randomness.epoch_seed(self.experiment.seed, epoch)
        size = noise_scale.default_micro_batch_size(n)
        if images is None:
            images = size * noise_scale.MICRO_BATCHES
        elif not 3 * size <= images <= n:  # two micro-batches have no standard error
            raise UserError(
                f"images is {images}; it must be from {3 * size} (three micro-batches) to {n} (all training images)"
            )

        def loss(part: Tensor) -> Tensor:
            inputs, labels = self._batch(part)
            # In fp16 gradients would vanish without a scaled loss.
            with contextlib.nullcontext() if self.scaler.is_enabled() else self._autocast():
                return functional.cross_entropy(self._logits(inputs), labels)

        while size >= 2:
            try:
                return noise_scale.measure(
                    self.model,
                    loss,
                    self.order(epoch),
                    random_seed=random_seed,
                    micro_batch_size=size,
                    micro_batches=images // size,
                    with_standard_error=with_standard_error,
                )
            except Exception as error:
                problem = self._failure(error, "noise-scale measurement", size)
                if not isinstance(problem, memory.OutOfMemory):
                    raise problem from error
            size //= 2
            memory.free_memory()  # outside the except clause, whose error refers to everything that must be freed
        return None

    def _clock(self) -> float:
        """Seconds on a monotonic clock, read when the device and the slowest worker have finished."""
        synchronize(self.device)
        self.group.barrier()
        return time.perf_counter()

    def _pause(self, started: float) -> float:
        """Count and return the training time since `started`; combine statistics and loss of the workers."""
        seconds = self._clock() - started
        self._epoch_time += seconds
        self.running_time += seconds
        self._shared.share_buffers()
        self.group.all_reduce(self._loss_sum).div_(self.group.count)
        return seconds


def _updates_per_epoch(experiment: Experiment, data: Dataset, group: Group) -> int:
    if experiment.batch_size % group.count:
        raise UserError(
            f"batch_size is {experiment.batch_size} but there are {group.count} workers; "
            f"it must be a multiple of their number"
        )
    updates = len(data.train_images) // experiment.batch_size
    if updates == 0:
        raise UserError(
            f"batch_size is {experiment.batch_size} but {data.name} has {len(data.train_images)} training images "
            f"here: an epoch would have no update; use a smaller batch size"
        )
    return updates
