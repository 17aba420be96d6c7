"""What to run: one frozen value, checked when it is made, varied with `dataclasses.replace`.

    Experiment(name="scaled_lr", batch_size=1024, lr_scaling="linear")
    study("gradual_warmup_scaled_lr", [128, 256], seeds=[0, 1, 2], epochs=10)     # a list of six experiments

The defaults of the study live here and nowhere else.
"""

import importlib
import math
import re
import textwrap
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Literal, get_args

from batchscale import schedules
from batchscale.schedules import LRScaling, Warmup

Precision = Literal["fp32", "bf16", "fp16"]

SMALL_BATCH_SIZES = (2, 4, 8, 16, 32)  # Masters & Luschi 2018 found the best accuracy in this range
LARGE_BATCH_SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)

# The four modes of training, by experiment name: how the base learning rate is treated when the minibatch grows.
MODES: dict[str, dict[str, str]] = {
    "baseline_small": {"lr_scaling": "none", "warmup": "none"},
    "baseline_large": {"lr_scaling": "none", "warmup": "none"},
    "scaled_lr": {"lr_scaling": "linear", "warmup": "none"},
    "gradual_warmup_scaled_lr": {"lr_scaling": "linear", "warmup": "gradual"},
}


class UserError(ValueError):
    """Something that the user can mend. The message is one line: what is wrong, where, both values, what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows these lines in place of a traceback.
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: everything that its numbers depend on, and nothing else.

    Raises:
        UserError: (a ValueError) a field is out of range, naming the field, its value and what it must be.
    """

    name: str = "baseline_small"
    """mode of training: one of the study's four names, or a name of your own; begins the record's file name"""
    batch_size: int
    """images an update (global: over all workers and micro-batches)"""
    seed: int = 0
    """of the initial weights, the order of the images and dropout"""
    epochs: int = 10
    """passes over the training images; asking for more later extends the record"""
    base_lr: float = 0.002
    """learning rate at reference_batch_size"""
    reference_batch_size: int = 8
    """batch size at which base_lr was tuned; k = batch_size / reference_batch_size"""
    lr_scaling: LRScaling = "none"
    """learning rate of larger batches: base_lr, k·base_lr or √k·base_lr"""
    warmup: Warmup = "none"
    """way to the scaled rate: at once, base_lr until warmup_epochs are over, or a linear ramp per update"""
    warmup_epochs: float = 2.0
    """length of the warm-up, in epochs"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 0.0
    """L2 penalty of SGD"""
    dataset: str = "cifar10"
    """cifar10, digits, or module:function that returns your own data (see README)"""
    train_size: int | None = None
    """take the first n training images; None: all"""
    model: str = "models:CNN"
    """module:callable that builds the network from width, in_channels and num_classes"""
    width: float = 1.0
    """factor on the network's channels and hidden sizes"""
    micro_batch_size: int | None = None
    """images in memory at once: gradients are summed over micro-batches; batch norm then sees these. None: no split"""
    precision: Precision = "fp32"
    """fp32 (TF32 on GPUs that have it), or autocast to bf16 (GPUs since Ampere) or fp16 (older ones, as Colab's T4),
    whose loss is scaled"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one"""

    def __post_init__(self):
        # A network in hand is kept as the name under which it can be found again, here and in another process.
        if callable(self.model):
            object.__setattr__(self, "model", f"{self.model.__module__}:{self.model.__qualname__}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", str(self.name)) or _SUFFIX.search(self.name):
            raise UserError(
                f"name is {self.name!r}; it begins a file name: letters, digits and _ . + -, not ending in _bs…"
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
        for field, kind in (("lr_scaling", LRScaling), ("warmup", Warmup), ("precision", Precision)):
            if getattr(self, field) not in get_args(kind):
                raise UserError(f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(get_args(kind))}")
        for field in ("dataset", "model", "device"):
            if not (isinstance(getattr(self, field), str) and getattr(self, field)):
                raise UserError(f"{field} is {getattr(self, field)!r}; it must be a name")
        if self.warmup != "none" and self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs} but epochs is {self.epochs}: "
                f"the warm-up must not be longer than the training"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise UserError(
                f"micro_batch_size is {self.micro_batch_size} but batch_size is {self.batch_size}; it must not be more"
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
    def scale(self) -> float:
        """Factor on base_lr at this batch size, see `schedules.scaling_factor`."""
        return schedules.scaling_factor(self.batch_size, self.reference_batch_size, self.lr_scaling)

    def learning_rate(self, update: int, updates_per_epoch: int) -> float:
        """Learning rate of the 0-based `update`, see `schedules.learning_rate`; T_w = warmup_epochs in updates."""
        return schedules.learning_rate(
            update,
            base_lr=self.base_lr,
            scale=self.scale,
            warmup=self.warmup,
            warmup_updates=round(self.warmup_epochs * updates_per_epoch),
        )

    @property
    def stem(self) -> str:
        """File name of its record, without the ending."""
        return f"{self.name}_bs{self.batch_size}_seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.name} B={self.batch_size} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One epoch of a run: a row of its CSV, columns in this order. The first five are the study's."""

    batch_size: int
    epoch: int  # 1-based
    accuracy: float  # fraction of the test set classified correctly, eval mode
    generalization_error: float  # train_accuracy - accuracy
    running_time: float  # seconds of training since the first update; evaluation and saving excluded
    experiment: str
    seed: int
    updates: int  # optimizer updates since the start of the run
    learning_rate: float  # of the epoch's last update
    train_accuracy: float  # on a fixed subset of 10 000 training images, eval mode, same weights
    train_loss: float  # mean cross-entropy on that subset
    test_loss: float  # mean cross-entropy on the test set
    epoch_time: float  # seconds of training in this epoch
    images_per_second: float  # training images over epoch_time
    noise_scale: float = math.nan  # gradient noise scale in images; empty: not measured or not measurable


COLUMNS = tuple(field.name for field in fields(Record))
STUDY_COLUMNS = COLUMNS[:5]

_SUFFIX = re.compile(r"_bs\d+(_seed\d+)?$")


def study(name: str, batch_sizes: Iterable[int], seeds: Iterable[int] = (0,), **settings) -> list[Experiment]:
    """The experiments of one mode: every batch size for the first seed, then for the next.

    `settings` are further fields of `Experiment`. The rule of learning rate is the mode's (see `MODES`) for the study's
    own names, unless `settings` says otherwise. Seeds are the outer loop: whatever is there first is a whole study.
    """
    mode = MODES.get(name, {}) | settings
    batch_sizes = list(batch_sizes)
    return [Experiment(name=name, batch_size=size, seed=seed, **mode) for seed in seeds for size in batch_sizes]


def shard(experiments: Iterable[Experiment], which: str) -> list[Experiment]:
    """One of n parts of a list, for an array of n jobs that know nothing of each other: `which` is i/n, 1/n to n/n.

    All parts together are exactly the list, each experiment is in one of them, and each part is in the list's order.
    They are dealt out by batch size: a smaller one makes more updates and takes longer. Where that is so, no part takes
    longer than another by more than the longest run.

    Raises:
        UserError: `which` is not of that form.
    """
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", which)
    part, parts = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"shard is {which!r}; it must be i/n with i from 1 to n, as in 1/8 to 8/8")
    experiments = list(dict.fromkeys(experiments))
    mine = set(sorted(experiments, key=lambda experiment: experiment.batch_size)[part - 1 :: parts])
    return [experiment for experiment in experiments if experiment in mine]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def failure(error: BaseException) -> str:
    """An error of somebody else's code in one line, with the place in it."""
    reason = textwrap.shorten((str(error) or "no message").splitlines()[0], 100, placeholder=" ...")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {reason} ({place.filename}:{place.lineno})"


def find_callable(what: str, field: str) -> Callable:
    """The object that `module:name` (or `module:Class.method`) names, `field` being the experiment's field it is in.

    Raises:
        UserError: the module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = what.partition(":")
    if not (module_name and attribute):
        raise UserError(f"{field} is {what!r}; it must have the form module:name, as in models:CNN")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{field} is {what!r} but {error.name} cannot be imported; "
            f"start from the folder that holds {error.name}.py, or add it to PYTHONPATH"
        ) from error
    except Exception as error:  # somebody else's module: whatever its import raises, it is theirs to mend
        raise UserError(f"{field} is {what!r} but importing it failed: {failure(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{field} is {what!r} but {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{field} is {what!r}, which is a {type(found).__name__} and cannot be called")
    return found
