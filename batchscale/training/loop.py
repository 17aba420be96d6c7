"""The loop: updates, evaluation, timing. It writes nothing: it yields one record an epoch.

    training = Training(Experiment(batch_size=128, dataset="digits"), datasets.load("digits"))
    for record in training.epochs():
        print(record.epoch, record.accuracy)

A `Training` can be stopped between any two updates and goes on from its `state_dict` exactly as if it had not been:
every random number of an epoch comes from (seed, epoch), and the learning rate from the global number of the update.
"""

import contextlib
import gc
import inspect
import math
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchscale.epoch import Epoch
from batchscale.errors import UserError, failure, first_line
from batchscale.experiment import Experiment
from batchscale.training import noise_scale, randomness
from batchscale.training.by_name import find_callable
from batchscale.training.datasets import TRAIN_ACCURACY_IMAGES, Dataset
from batchscale.training.workers import Group, RunningStatistics, WorkerLost, is_lost

EVALUATION_BATCH_SIZE = 250  # as fast as any other from 100 to 1000, or a little faster
PULSE_SECONDS = 0.25  # training time between two calls of `between_updates`

# How those say it that have no exception of their own: the allocators of the CPU and of Apple's GPU, cuDNN, cuBLAS, and
# oneDNN, which gives no reason at all.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|could not create a primitive", re.IGNORECASE
)


class OutOfMemory(Exception):
    """The device has no room for `images` at once, in `training` or `evaluation`: see `Training.limit`."""

    def __init__(self, images: int, where: str, reason: str):
        super().__init__(f"no room for {images} images at once in {where} ({reason})")
        self.images, self.where = images, where


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is a GPU, else Apple's MPS, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device without values (meta) is none to train on
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device is {name!r}, which cannot be used here ({reason}); try --device auto or cpu"
        ) from error
    return device


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
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"model is {experiment.model!r}, which has no signature: {error}") from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters = {"num_classes": None, **parameters}
    if "width" not in parameters and experiment.width != 1:
        raise UserError(f"width is {experiment.width} but {experiment.model} takes no width")
    wanted = min(2, len(data.test_images)), len(data.classes)
    try:
        with torch.random.fork_rng(), randomness.kept(torch.device("cpu")):
            randomness.seed_generators(randomness.epoch_seed(experiment.seed, 0))
            model = factory(**{name: value for name, value in arguments.items() if name in parameters})
            with torch.no_grad():
                logits = model.eval()(data.normalised(data.test_images[:2].cpu()))
            shape = tuple(logits.shape)
    except Exception as error:  # whatever somebody else's network raises, it is theirs to mend
        raise UserError(f"model {experiment.model} failed for width {experiment.width}: {failure(error)}") from error
    if shape != wanted:
        raise UserError(
            f"model {experiment.model} gives logits of shape {shape} for {wanted[0]} images of {data.name}; "
            f"they must have shape {wanted}"
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
        group: the processes that share out every minibatch; all of them train and evaluate with the same calls.

    Attributes:
        updates: optimizer updates completed.
        images_at_once: most images in `training` and in `evaluation`, see `limit`.
        ghost_batches: the `micro_batch_size` from the start, and from each update on at which it became smaller.
        running_time: seconds of training so far; evaluation and whatever happens between records is excluded.
        diverged: a loss was not finite; no further record comes.

    Raises:
        UserError: an epoch would have no update, the workers cannot share out the minibatch evenly, or see
            `build_model`, `select_device`, `Group.own` and `Dataset.first`.
    """

    def __init__(
        self, experiment: Experiment, data: Dataset, *, model: nn.Module | None = None, group: Group | None = None
    ):
        data = data.first(experiment.train_size)
        self.experiment = experiment
        self.group = group or Group()
        if experiment.batch_size % self.group.count:
            raise UserError(
                f"batch_size is {experiment.batch_size} but there are {self.group.count} workers; "
                f"it must be a multiple of their number"
            )
        self.device = self.group.own(select_device(experiment.device))
        self.updates_per_epoch = len(data.train_images) // experiment.batch_size
        if self.updates_per_epoch == 0:
            raise UserError(
                f"batch_size is {experiment.batch_size} but {data.name} has {len(data.train_images)} training images "
                f"here: an epoch would have no update; take a smaller batch"
            )
        model = build_model(experiment, data) if model is None else model
        try:
            self.model = model.to(self.device, memory_format=torch.channels_last)
            self.data = data.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise UserError(f"{self.device} has no room for the network and the images: {_reason(error)}") from None
        if self.device.type == "cuda":
            _require_precision(experiment.precision, self.device)
            # cuDNN would choose algorithms that round differently every time; a resumed run has to repeat every number.
            torch.backends.cudnn.deterministic = True
            # As cuDNN has it by itself: products of float32 matrices in TF32, on GPUs that know it.
            torch.backends.cuda.matmul.allow_tf32 = True
        self._replica = self.model  # what is trained; of several workers, once all of them are here
        self._statistics = RunningStatistics(self.model, self.group)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=experiment.base_lr,
            momentum=experiment.momentum,
            weight_decay=experiment.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the parameters instead of three
        )
        # In fp16 small gradients would vanish; an update whose scaled gradients overflow is left out, but counts.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=experiment.precision == "fp16")
        self._share = experiment.batch_size // self.group.count  # images of a minibatch that are this worker's
        self.images_at_once = {"training": self._share, "evaluation": EVALUATION_BATCH_SIZE}
        self.ghost_batches = [(0, self.micro_batch_size)]
        self.updates = 0
        self.running_time = 0.0
        self.diverged = False
        self._epoch_time = 0.0
        self._loss_sum = torch.zeros((), device=self.device)  # over the updates of the epoch in progress
        self._random_state: dict | None = None  # generators in the middle of an epoch

    @property
    def micro_batch_size(self) -> int:
        """Images in one forward pass of training, whose statistics batch norm uses; the minibatch, if it is not split.

        Where the device's memory or a worker's share is the limit, a minibatch is split into micro-batches as equal as
        can be.
        """
        size = self.experiment.micro_batch_size or self.experiment.batch_size
        return math.ceil(size / math.ceil(size / self.images_at_once["training"]))

    def limit(self, images_at_once: dict[str, int]) -> None:
        """From here on, take no more images at once in `training` or `evaluation` than that, nor than before.

        Gradients and accuracy stay exact; batch norm sees the `micro_batch_size`.
        """
        for where, images in images_at_once.items():
            self.images_at_once[where] = min(images, self.images_at_once[where])
        if self.micro_batch_size != self.ghost_batches[-1][1]:
            self.ghost_batches = [pair for pair in self.ghost_batches if pair[0] < self.updates]
            self.ghost_batches.append((self.updates, self.micro_batch_size))

    def epochs(self, between_updates: Callable[[Progress], None] | None = None) -> Iterator[Epoch]:
        """Train to the end of the experiment, one record an epoch, from wherever the training stands.

        `between_updates` is called a few times a second between two updates, the clock stopped; it may raise to stop
        the training, which goes on from there when `records` or a `state_dict` is used again. The iterator ends early,
        with `diverged` set, when a loss is not finite; the epoch in which that happens has no record.

        Of several workers the first alone may stop, in `between_updates` or by closing the iterator: then those of the
        others end.

        Raises:
            OutOfMemory: in the middle of an update. This object is then good for nothing; a saved state is.
            UserError: the network failed, naming the place, or (`WorkerLost`) another worker is gone.
        """
        if self._replica is self.model:
            self._replica = self.group.replicated(self.model)
        while not self.diverged and self.updates < self.experiment.epochs * self.updates_per_epoch:
            epoch = self.updates // self.updates_per_epoch + 1
            self.group.in_step = False
            if not self._train_epoch(epoch, between_updates):
                return
            record = None if self.diverged else self._record(epoch)
            self.group.in_step = True
            self.diverged = record is None or not math.isfinite(record.train_loss + record.test_loss)
            if self.diverged:
                return
            self._epoch_time = 0.0
            self._loss_sum.zero_()
            try:
                yield record
            except GeneratorExit:
                self.group.from_first(False)
                raise
            if not self.group.from_first(True):
                return

    def state_dict(self) -> dict:
        """Everything that the rest of the run depends on; loads with `torch.load(weights_only=True)`.

        Valid between two updates: inside `between_updates`, and after a record.
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
        """Go on from a `state_dict` of the same experiment, possibly with more epochs or on another device.

        Raises:
            UserError: the network is not the one that the state was saved with.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state.get("scaler", {}))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise UserError(
                f"what is saved does not fit the network {self.experiment.model} ({reason}); "
                f"if that was changed since, change it back, or choose another name or data_dir"
            ) from error
        self.images_at_once = dict(state["images_at_once"])
        self.ghost_batches = [tuple(pair) for pair in state["ghost_batches"]]
        self.updates = state["updates"]
        self.running_time = state["running_time"]
        self._epoch_time = state["epoch_time"]
        self._loss_sum = state["loss_sum"].to(self.device)
        self._random_state = state["random_state"]
        self.limit({"training": self._share})  # there may have been fewer workers

    def _train_epoch(self, epoch: int, between_updates: Callable[[Progress], None] | None) -> bool:
        """The rest of an epoch: ⌊n/B⌋ updates on a fresh permutation, the incomplete last batch dropped.

        Returns:
            Whether to go on; not if the first worker left it before its end, which for that one is an exception.
        """
        experiment, size = self.experiment, self.experiment.batch_size
        order = randomness.permutation(len(self.data.train_images), experiment.seed, epoch).to(self.device)
        self.model.train()
        with randomness.kept(self.device):
            if self._random_state is None:
                randomness.seed_generators(randomness.epoch_seed(experiment.seed, epoch))
            else:
                randomness.set_generators(self._random_state, self.device)
            self._statistics.part()
            started, begun, next_pulse = self._clock(), self.updates, self.updates + 1
            while self.updates < epoch * self.updates_per_epoch:
                first = self.updates % self.updates_per_epoch * size
                self._update(order[first : first + size])
                # Several workers, whose clocks differ, agree beforehand on when to pause.
                is_due = (
                    time.perf_counter() - started > PULSE_SECONDS
                    if self.group.count == 1
                    else self.updates == next_pulse
                )
                if is_due and self.updates % self.updates_per_epoch:
                    seconds = self._pause(started)
                    loss = float(self._loss_sum) / (self.updates % self.updates_per_epoch)
                    if not math.isfinite(loss):
                        self.diverged = True
                        return True
                    interval = max(1, round((self.updates - begun) * PULSE_SECONDS / max(seconds, 1e-9)))
                    next_pulse = self._pulse(epoch, loss, between_updates, self.updates + interval)
                    if next_pulse is None:
                        return False
                    self._statistics.part()
                    started, begun = self._clock(), self.updates
            self._pause(started)
            self._random_state = None
        self.diverged = not math.isfinite(float(self._loss_sum))
        return True

    def _pulse(
        self, epoch: int, loss: float, between_updates: Callable[[Progress], None] | None, next_pulse: int
    ) -> int | None:
        """Call `between_updates`; the update after which it is the first worker's next turn, None if it leaves."""
        self.group.in_step = True
        try:
            if between_updates is not None:
                self._random_state = randomness.generators_state(self.device)
                between_updates(self._progress(epoch, loss))
        except BaseException:
            self.group.from_first(None)
            raise
        next_pulse = self.group.from_first(next_pulse)
        self.group.in_step = next_pulse is None
        return next_pulse

    def _update(self, indices: Tensor) -> None:
        """One optimizer step on the minibatch `indices`, its gradient summed exactly over micro-batches."""
        learning_rate = self.experiment.learning_rate(self.updates, self.updates_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        try:
            self._gradient(indices)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except Exception as error:
            raise self._failure(error, "training", self.micro_batch_size) from error
        self.updates += 1

    def _gradient(self, indices: Tensor) -> None:
        """Gradient of the mean loss over the minibatch `indices`, into the parameters; the loss into its sum."""
        self.optimizer.zero_grad(set_to_none=True)
        share = indices[self.group.share(len(indices))]
        parts = share.split(self.micro_batch_size)
        self._statistics.before_update(len(parts))
        for number, part in enumerate(parts, start=1):
            if len(share) < len(indices) or len(parts) > 1:
                # The same dropout, whoever has this micro-batch.
                place = self.group.rank * len(parts) + number
                randomness.seed_generators(randomness.micro_batch_seed(self.experiment.seed, self.updates, place))
            images, labels = self.data.batch(part)
            with self.group.accumulating(self._replica, is_last=number == len(parts)):
                with self._precision():
                    loss = functional.cross_entropy(self._replica(images), labels, reduction="sum") / len(share)
                self.scaler.scale(loss).backward()
            self._loss_sum += loss.detach()

    def largest_that_fits(self, images: int) -> int:
        """Most images, below `images`, that the device has room for at once in training; 0: not even one.

        Found by trying, to within 1 in 32; the training is good for nothing afterwards.
        """
        fits, order = 0, torch.arange(images, device=self.device)
        self.model.train()
        while images - fits > max(1, images // 32):
            middle = (fits + images) // 2
            try:
                self._gradient(order[:middle])
                fits = middle
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                images = middle
            free_memory()
        return fits

    def _failure(self, error: Exception, where: str, images: int) -> Exception:
        """What to raise for an error of the network: `OutOfMemory`, or a `UserError` that says where it happened."""
        if isinstance(error, WorkerLost):
            return error
        if self.group.count > 1 and is_lost(error):
            return WorkerLost(error)
        if _is_out_of_memory(error):
            return OutOfMemory(images, where, _reason(error))
        return UserError(
            f"model {self.experiment.model} failed in {where}, after update {self.updates}: {failure(error)}"
        )

    def _record(self, epoch: int) -> Epoch:
        images = self.updates_per_epoch * self.experiment.batch_size
        train_accuracy, train_loss = self.evaluate(
            self.data.train_images[:TRAIN_ACCURACY_IMAGES], self.data.train_labels[:TRAIN_ACCURACY_IMAGES]
        )
        accuracy, test_loss = self.evaluate(self.data.test_images, self.data.test_labels)
        noise = self.measure_noise_scale() if self.group.rank == 0 else None  # the others wait for its record
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
            images_per_second=images / self._epoch_time,
            noise_scale=math.nan if noise is None else noise.noise_scale,
        )

    def measure_noise_scale(self, images: int | None = None) -> noise_scale.Estimate | None:
        """Gradient noise scale at the present weights, which stay as they are: see `noise_scale.measure`.

        Images and dropout masks depend on the seed and the epoch in progress alone (after an epoch: the next one).
        Where the device has no room for a micro-batch, more and smaller ones are taken.

        Args:
            images: training images to use; None: one in `noise_scale.ONE_IMAGE_IN`, as in every record.

        Returns:
            None where there are no two images a micro-batch, which batch norm needs for its statistics: with fewer than
            20 training images, or on a device without room.

        Raises:
            UserError: the network failed, naming the place; `images` are less than three micro-batches or more than n.
        """
        n, seed, epoch = len(self.data.train_images), self.experiment.seed, self.updates // self.updates_per_epoch + 1
        size = noise_scale.default_micro_batch_size(n)
        if images is None:
            images = size * noise_scale.MICRO_BATCHES
        elif not 3 * size <= images <= n:  # of two there is no standard error
            raise UserError(
                f"images is {images}; it must be from {3 * size}, three micro-batches, to {n}, all training images"
            )

        def loss(part: Tensor) -> Tensor:
            inputs, labels = self.data.batch(part)
            # Without a scaled loss, gradients in fp16 would vanish.
            with contextlib.nullcontext() if self.scaler.is_enabled() else self._precision():
                return functional.cross_entropy(self.model(inputs), labels)

        while size >= 2:
            try:
                return noise_scale.measure(
                    self.model,
                    loss,
                    randomness.permutation(n, seed, epoch).to(self.device),
                    random_seed=randomness.epoch_seed(seed, epoch),
                    micro_batch_size=size,
                    micro_batches=images // size,
                )
            except Exception as error:
                problem = self._failure(error, "noise-scale measurement", size)
                if not isinstance(problem, OutOfMemory):
                    raise problem from error
            size //= 2
            free_memory()  # out of the clause above, whose error refers to all that is to be freed
        return None

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy in 0-1 and mean cross-entropy of uint8 images `(n, h, w, c)`, with the network in eval mode.

        Several workers share the images out.
        """
        self.model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        size, own = self.images_at_once["evaluation"], self.group.share(len(labels))
        try:
            with torch.inference_mode():
                for part, target in zip(images[own].split(size), labels[own].split(size), strict=True):
                    with self._precision():
                        logits = self.model(self.data.normalised(part))
                        loss += functional.cross_entropy(logits, target, reduction="sum").to(loss)
                    correct += (logits.argmax(dim=1) == target).sum()
                self.group.summed(correct)
                self.group.summed(loss)
        except Exception as error:
            raise self._failure(error, "evaluation", size) from error
        return correct.item() / len(labels), loss.item() / len(labels)

    def _precision(self) -> contextlib.AbstractContextManager:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.experiment.precision)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

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
        """Seconds on a monotonic clock, once the device, and the slowest worker, has done all that was asked of it."""
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()
        self.group.wait()
        return time.perf_counter()

    def _pause(self, started: float) -> float:
        """Add the training time since `started` to the epoch and the run, and what each worker has to the total."""
        seconds = self._clock() - started
        self._epoch_time += seconds
        self.running_time += seconds
        self._statistics.add_up()
        self.group.summed(self._loss_sum).div_(self.group.count)
        return seconds


def _require_precision(precision: str, device: torch.device) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError(
            f"precision is bf16, which {torch.cuda.get_device_name(device)} can only imitate; take --precision fp16"
        )


def free_memory() -> None:
    """Give back what a training that ran out of memory held, once nothing refers to it any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def _reason(error: BaseException) -> str:
    return textwrap.shorten(first_line(error), 100, placeholder=" ...")
