"""Where and how a sweep trains. What it trains is an `Experiment`."""

import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.paths import typed
from batchscale.records.files import scratch_of
from batchscale.sweeps.torchrun import under_torchrun

WhenLocked = Literal["wait", "leave"]
OnOutOfMemory = Literal["split", "stop"]
Engine = Literal["processes", "ray"]
Report = Callable[[str, Experiment | None, object], None]  # see `display.Display.show`


def this_process() -> str:
    """The name under which this process holds locks."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a sweep trains.

    Raises:
        UserError: (a ValueError) an option is out of range or contradicts another one.
    """

    data_dir: str | os.PathLike = "data"
    """folder of the records; created if it is missing"""
    data_root: str | os.PathLike | None = None
    """folder of the images, see `datasets.load`"""
    scratch_dir: str | os.PathLike | None = None
    """folder in which the files of a run are written before they are copied to data_dir after each epoch, in the
    background; for a data_dir that is slow or may vanish. A run continues from the more advanced intact copy. None
    writes to data_dir directly; on Colab with data_dir on Google Drive, None chooses a folder of the virtual machine"""
    workers: int = 1
    """number of runs trained at the same time, each in its own process with an equal share of the cores"""
    engine: Engine = "processes"
    """`processes` of this machine, or `ray` for a Ray cluster, see `ray_cluster`"""
    gpus_per_run: float = 0
    """GPUs that Ray reserves for a run; with 0 the run sees no GPU"""
    cores_per_run: int = 1
    """cores that Ray reserves for a run, and threads that it uses"""
    ray_address: str | None = None
    """address of the Ray cluster. None uses RAY_ADDRESS, else the cluster of this machine, else a temporary cluster"""
    when_locked: WhenLocked = "wait"
    """for an experiment that another process is training: `wait` until it is finished, or `leave` it and name the
    process in the error at the end"""
    on_out_of_memory: OnOutOfMemory = "split"
    """for a minibatch that exceeds the device's memory: `split` it into micro-batches, whose gradients sum exactly but
    which batch norm sees separately (noted in the sidecar), or `stop` the run and name the largest batch that fits"""
    save_seconds: float = 180
    """seconds between checkpoints within an epoch"""
    keep_state: bool = False
    """keep the last state of each run that completes, so that a later request for more epochs continues from it"""
    keep_weights: bool = False
    """keep the final weights of each run beside its record, four bytes per parameter, to see what it gets wrong"""
    noise_scale: bool = True
    """measure the gradient noise scale after each epoch; without it an epoch needs memory for two gradients less"""
    holder: str = field(default_factory=this_process)
    """name under which locks are held: the process that the user started, also in the processes that it starts"""

    def __post_init__(self):
        for name, value in (("workers", self.workers), ("cores_per_run", self.cores_per_run)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if not (isinstance(self.save_seconds, Real) and 0 <= self.save_seconds < math.inf):
            raise UserError(f"save_seconds is {self.save_seconds!r}; it must be a number of at least 0")
        gpus = self.gpus_per_run
        if not (isinstance(gpus, Real) and gpus >= 0 and (gpus <= 1 or gpus % 1 == 0)):
            raise UserError(f"gpus_per_run is {gpus!r}; it must be a fraction from 0 to 1, or a whole number")
        for name in ("keep_state", "keep_weights", "noise_scale"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        for name, kind in (("when_locked", WhenLocked), ("on_out_of_memory", OnOutOfMemory), ("engine", Engine)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(get_args(kind))}")
        self._require_one_kind_of_parallelism()
        data_dir, scratch_dir = places(self.data_dir, self.scratch_dir)
        if self.engine == "ray" and scratch_dir is not None:
            raise UserError(
                f"scratch_dir is {scratch_dir} but engine is ray, whose nodes write to data_dir; remove scratch_dir"
            )
        object.__setattr__(self, "data_dir", data_dir)
        object.__setattr__(self, "scratch_dir", scratch_dir)

    def _require_one_kind_of_parallelism(self) -> None:
        if (self.workers > 1 or self.engine != "processes") and under_torchrun():
            raise UserError(
                f"workers is {self.workers} and engine is {self.engine}, but torchrun's processes train each run "
                f"together; remove both options"
            )
        if self.engine == "ray" and self.workers != 1:
            raise UserError(
                f"workers is {self.workers} but engine is ray, which trains as many runs as the cluster has room for; "
                f"remove workers, and set cores_per_run and gpus_per_run"
            )
        if self.engine != "ray" and (self.gpus_per_run, self.cores_per_run, self.ray_address) != (0, 1, None):
            raise UserError(
                "gpus_per_run, cores_per_run and ray_address require engine ray, but engine is processes; "
                "set engine to ray, or remove them"
            )

    @property
    def folder(self) -> Path:
        """The folder in which files are written first, and in which the lock files are."""
        return self.scratch_dir or self.data_dir

    def lock_file(self, experiment: Experiment) -> Path:
        """The file that is locked while the experiment is trained."""
        return self.folder / f".{experiment.stem}.lock"


def places(data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None) -> tuple[Path, Path | None]:
    """Folder of the records and scratch folder of a sweep, see `files.scratch_of`."""
    data_dir = typed(data_dir, "data_dir")
    return data_dir, scratch_of(data_dir, None if scratch_dir is None else typed(scratch_dir, "scratch_dir"))
