"""What is run: one frozen value, validated when it is made and varied with `dataclasses.replace`.

    Experiment(name="scaled_lr", batch_size=1024, lr_scaling="linear")

The study's defaults live here and nowhere else: those of one run are the defaults of `Experiment`, those of the whole
study the constants above it.
"""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Literal, get_args

from batchscale import schedules
from batchscale.errors import UserError
from batchscale.schedules import Decay, LRScaling, Warmup

Precision = Literal["fp32", "bf16", "fp16"]
Augment = Literal["none", "flip", "flip-crop"]

SMALL_BATCH_SIZES = (2, 4, 8, 16, 32, 64)  # Masters & Luschi 2018 found the best accuracy from 2 to 32
LARGE_BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SEEDS = (0, 1)
DECAY = "linear"  # of the study's rates; the default of `Experiment` is what was done before there was a decay
NETWORK = "models:CNN"
WIDTH = 0.25  # of that network; what two cores train in hours
OPTIMIZERS = {"sgd": "SGD", "nesterov": "SGD", "adamw": "AdamW"}  # with a name of their own, and what they are called
CLASSES = {"cifar10": 10, "digits": 10}  # of the data sets that have a name

_KINDS = {"lr_scaling": LRScaling, "warmup": Warmup, "decay": Decay, "precision": Precision, "augment": Augment}
_SUFFIX = re.compile(r"_bs\d+(_seed\d+)?$")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: everything that its numbers depend on, but for the machine.

    The same experiment gives the same numbers on the same device with the same number of threads; on others, sums are
    rounded in another order.

    Raises:
        UserError: (a ValueError) a field is out of range, naming the field, its value and what it must be.
    """

    name: str = "baseline_small"
    """mode of training: one of the study's four names, or a name of your own; begins the record's file name"""
    batch_size: int
    """images per update, over all workers and micro-batches"""
    seed: int = 0
    """seed of the initial weights, the order and augmentation of the images, and dropout"""
    epochs: int = 10
    """passes over the training images"""
    base_lr: float = 0.002
    """learning rate at reference_batch_size"""
    reference_batch_size: int = 8
    """batch size at which base_lr was tuned; k = batch_size / reference_batch_size"""
    lr_scaling: LRScaling = "none"
    """rate at larger batch sizes: base_lr (none), k * base_lr (linear) or sqrt(k) * base_lr (sqrt)"""
    warmup: Warmup = "none"
    """way to the scaled rate: at once (none), after warmup_epochs (constant), a linear ramp per update (gradual)"""
    warmup_epochs: float = 2.0
    """length of the warm-up in epochs; at least one update, unless it is 0"""
    decay: Decay = "none"
    """how the rate falls after the warm-up: to 0 (linear, cosine), or by ten at 1/3, 2/3, 8/9 of all epochs (step)"""
    optimizer: str = "sgd"
    """sgd, nesterov, adamw (usual lr_scaling: sqrt, Malladi et al. 2022), or module:callable, as in timm.optim:Lamb"""
    momentum: float = 0.9
    """momentum of SGD; β₁ of AdamW, whose β₂ is 0.999"""
    weight_decay: float = 0.0
    """on all parameters with sgd and nesterov; with other optimizers on weights, not on biases and norms"""
    dataset: str = "cifar10"
    """cifar10, digits, or module:callable for your own, as in torchvision.datasets:CIFAR100 (see README)"""
    train_size: int | None = None
    """use only the first n training images; None uses all of them"""
    augment: Augment = "none"
    """random changes of training images: mirrored (flip), also shifted by an eighth of the side at most (flip-crop)"""
    model: str = NETWORK
    """module:callable that builds the network from width, in_channels and num_classes"""
    width: float | None = None
    """factor on the network's channels and hidden sizes; None: 0.25 for the study's network, 1 for others"""
    micro_batch_size: int | None = None
    """images in memory at once; gradients are summed over micro-batches, batch norm sees one at a time"""
    precision: Precision = "fp32"
    """fp32 (TF32 on newer GPUs), or autocast to bf16 (GPUs since Ampere) or fp16 (older ones, as Colab's T4)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto uses a GPU if there is one"""

    def __post_init__(self):
        # A network or optimizer passed as an object is kept as the name under which any other process finds it.
        for field in ("model", "optimizer"):
            if callable(value := getattr(self, field)):
                object.__setattr__(self, field, _name_of(value, field))
        if self.width is None:
            object.__setattr__(self, "width", WIDTH if self.model == NETWORK else 1.0)
        for field in fields(self):  # NumPy's strings too: the checkpoint holds plain ones
            if isinstance(value := getattr(self, field.name), str):
                object.__setattr__(self, field.name, str.__str__(value))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", str(self.name)) or _SUFFIX.search(self.name):
            raise UserError(
                f"name is {self.name!r}; it begins a file name: use letters, digits and _ . + -, not ending in _bs…"
            )
        for field, least in (("batch_size", 1), ("seed", 0), ("epochs", 1), ("reference_batch_size", 1)):
            self._require_integer(field, least)
        for field in ("train_size", "micro_batch_size"):
            if getattr(self, field) is not None:
                self._require_integer(field, 1)
        for field in ("base_lr", "width"):
            self._require_number(field, "above 0", lambda value: value > 0)
        for field in ("weight_decay", "warmup_epochs"):
            self._require_number(field, "0 or more", lambda value: value >= 0)
        self._require_number("momentum", "from 0 to below 1", lambda value: 0 <= value < 1)
        for field, kind in _KINDS.items():
            if getattr(self, field) not in get_args(kind):
                raise UserError(f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(get_args(kind))}")
        for field in ("dataset", "model", "device", "optimizer"):
            if not (isinstance(getattr(self, field), str) and getattr(self, field)):
                raise UserError(f"{field} is {getattr(self, field)!r}; it must be a name")
        self._require_consistent()

    def _require_consistent(self) -> None:
        if self.optimizer not in OPTIMIZERS and ":" not in self.optimizer:
            raise UserError(
                f"optimizer is {self.optimizer!r}; it must be one of {', '.join(OPTIMIZERS)}, "
                f"or module:callable, as in torch.optim:RMSprop"
            )
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise UserError("optimizer is nesterov but momentum is 0; give it a momentum, or use sgd")
        if self.warmup != "none" and self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs} but epochs is {self.epochs}; "
                f"the warm-up must not be longer than the training"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise UserError(
                f"micro_batch_size is {self.micro_batch_size} but batch_size is {self.batch_size}; "
                f"it must not be larger"
            )

    def _require_integer(self, field: str, least: int) -> None:
        value = getattr(self, field)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise UserError(f"{field} is {value!r}; it must be a whole number of at least {least}")
        object.__setattr__(self, field, int(value))  # NumPy's integers too: the sidecar is JSON

    def _require_number(self, field: str, wanted: str, allowed: Callable[[float], bool]) -> None:
        value = getattr(self, field)
        if not isinstance(value, Real) or isinstance(value, bool) or not (math.isfinite(value) and allowed(value)):
            raise UserError(f"{field} is {value!r}; it must be a finite number, {wanted}")
        object.__setattr__(self, field, float(value))

    @property
    def exceeds_reference(self) -> bool:
        """Whether the minibatch is larger than the reference. Scaling and warm-up act only then."""
        return self.batch_size > self.reference_batch_size

    @property
    def scale(self) -> float:
        """Factor on base_lr at this batch size, see `schedules.scaling_factor`."""
        return schedules.scaling_factor(self.batch_size, self.reference_batch_size, self.lr_scaling)

    def learning_rate(self, update: int, updates_per_epoch: int) -> float:
        """Learning rate of the 0-based `update`, see `schedules.learning_rate`.

        T_w is warmup_epochs · updates_per_epoch, rounded to whole updates. It is at least 1, unless warmup_epochs is 0,
        and 0 up to the reference batch size, where there is nothing to warm up to. T is epochs · updates_per_epoch.
        """
        warmup_updates = max(1, round(self.warmup_epochs * updates_per_epoch)) if self.warmup_epochs else 0
        return schedules.learning_rate(
            update,
            base_lr=self.base_lr,
            scale=self.scale,
            warmup=self.warmup if self.exceeds_reference else "none",
            warmup_updates=warmup_updates,
            decay=self.decay,
            total_updates=self.epochs * updates_per_epoch,
        )

    @property
    def stem(self) -> str:
        """File name of its record, without the ending."""
        return f"{self.name}_bs{self.batch_size}_seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.name} B={self.batch_size} seed {self.seed}"


def _name_of(value: Callable, field: str) -> str:
    """`module:Class`, under which any process can import a class or function.

    Raises:
        UserError: it has no such name: an instance, a partial, a lambda, one made within a function or in `__main__`.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    found = sys.modules.get(module) if name else None
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if module == "__main__" or found is None or found != value:
        what = f"{name} of {module}" if name else f"an object of type {type(value).__name__}"
        way = {
            "model": "model='networks:Net', or train the object with Training(experiment, data, model=...)",
            "optimizer": "optimizer='optimizers:Mine'",
        }
        raise UserError(
            f"{field} is {what}, which another process cannot import; pass a class or function of a file of its own, "
            f"as in {way[field]}"
        )
    return f"{module}:{name}"
