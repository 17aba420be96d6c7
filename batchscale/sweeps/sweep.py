"""Many experiments: skip what is done, go on with what is not, one after another or side by side.

    experiments = study("scaled_lr", [128, 256], seeds=[0, 1], dataset="digits")
    records = run(experiments, data_dir="data", workers=2)

Every process takes the next experiment that nobody holds the lock of. Workers, and sweeps that are started twice on one
folder, share out the work in this way without knowing of each other. Where torchrun started several processes, they
train each experiment together, see `distributed`; then this runs in the first of them alone.
"""

import contextlib
import math
import os
import signal
import socket
from collections.abc import Iterable
from numbers import Real
from typing import get_args

import pandas as pd

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.files import Busy, SaveError, lock, require_writable
from batchscale.records.tables import to_frame
from batchscale.sweeps import processes
from batchscale.sweeps.display import Display
from batchscale.sweeps.options import SAVE_SECONDS, Engine, OnOutOfMemory, Options, WhenLocked, places
from batchscale.sweeps.pending import latest, pending
from batchscale.sweeps.process import Process
from batchscale.sweeps.signals import Stopped, caught
from batchscale.sweeps.torchrun import under_torchrun


def run(
    experiments: Iterable[Experiment],
    *,
    data_dir: str | os.PathLike = "data",
    data_root: str | os.PathLike | None = None,
    workers: int = 1,
    engine: Engine = "processes",
    gpus_per_run: float = 0,
    cores_per_run: int = 1,
    ray_address: str | None = None,
    scratch_dir: str | os.PathLike | None = None,
    when_locked: WhenLocked = "wait",
    on_out_of_memory: OnOutOfMemory = "split",
    save_seconds: float = SAVE_SECONDS,
) -> pd.DataFrame:
    """Train what is not yet recorded, keep it in `data_dir`, and return the records of all the experiments.

    Args:
        experiments: what to run, in this order.
        data_dir: folder of the records; made if it is missing.
        data_root: folder of the images, see `datasets.load`.
        workers: processes that train at the same time; the cores are shared out among them.
        engine: `processes` of this machine, or `ray` for the machines of a Ray cluster, see `cluster`.
        gpus_per_run, cores_per_run: what Ray reserves for a run; it computes with that many threads, and without a GPU
            it sees none.
        ray_address: of the cluster, see `ray_cluster.work`.
        scratch_dir: write the files of a run here first and copy them to `data_dir` after each epoch, in the
            background; what is newer and whole in either is gone on from. For a `data_dir` that is slow or may vanish.
            None: write to `data_dir` directly, but on Colab, if that is on Google Drive, to a folder beside it.
        when_locked: an experiment that another process is training: `wait` until it is done, or `leave` it, saying at
            the end who has it.
        on_out_of_memory: where the device has no room for a minibatch, `split` it into micro-batches, whose gradients
            are summed exactly but which batch norm sees one by one (noted in the sidecar), or `stop` that run, naming
            the largest batch that fits.
        save_seconds: a longer epoch is saved in the middle that often.

    Raises:
        UserError: nothing was trained because an experiment does not fit its files or `data_dir` cannot be written, or,
            after all others were trained, one of them failed.
        Stopped: Ctrl-C or SIGTERM; everything is saved.
    """
    experiments = list(dict.fromkeys(experiments))
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UserError(f"workers is {workers!r}; it must be a whole number of at least 1")
    if (workers > 1 or engine != "processes") and under_torchrun():
        raise UserError(
            f"workers is {workers} and engine {engine} under torchrun, whose processes train each run together; "
            f"leave them out"
        )
    if not (isinstance(save_seconds, Real) and 0 <= save_seconds < math.inf):
        raise UserError(f"save_seconds is {save_seconds!r}; it must be a number of at least 0")
    for name, value, kind in (
        ("when_locked", when_locked, WhenLocked),
        ("on_out_of_memory", on_out_of_memory, OnOutOfMemory),
        ("engine", engine, Engine),
    ):
        if value not in get_args(kind):
            raise UserError(f"{name} is {value!r}; it must be {' or '.join(get_args(kind))}")
    data_dir, scratch = places(data_dir, scratch_dir)
    if engine == "ray":
        from batchscale.sweeps import ray_cluster

        ray_cluster.require(workers=workers, gpus_per_run=gpus_per_run, cores_per_run=cores_per_run, scratch=scratch)
    elif (gpus_per_run, cores_per_run, ray_address) != (0, 1, None):
        raise UserError("gpus_per_run, cores_per_run and ray_address are for engine ray but it is processes; take ray")
    setting = Options(
        data_dir=data_dir,
        data_root=data_root,
        scratch=scratch,
        when_locked=when_locked,
        on_out_of_memory=on_out_of_memory,
        save_seconds=save_seconds,
        sweep=f"process {os.getpid()} on {socket.gethostname()}",
    )
    todo = pending(experiments, data_dir, scratch)
    for experiment in set(experiments).difference(todo):
        left = setting.lock_file(experiment)
        if left.exists():  # who held it was killed when the record was finished; nobody else would take it again
            with contextlib.suppress(Busy, SaveError), lock(left, setting.sweep):
                pass
    if len(todo) < len(experiments):
        print(f"{len(experiments) - len(todo)} of {len(experiments)} recorded already", flush=True)
    if todo:
        for folder in {data_dir, setting.folder}:
            require_writable(folder)
        _require_images(todo, data_root)
        with Display(len(todo)) as display, caught(signal.SIGINT, signal.SIGTERM) as stop:
            is_lost = False
            if engine == "ray":
                resources = {"gpus_per_run": gpus_per_run, "cores_per_run": cores_per_run}
                failures = ray_cluster.work(todo, setting, display.show, stop, address=ray_address, **resources)
            elif min(workers, len(todo)) == 1:
                process = Process(setting, display.show, stop)
                failures = process.work(todo)
                is_lost = process.group.is_out_of_step  # torchrun then stops the workers that are left
            else:
                failures = processes.work(todo, setting, min(workers, len(todo)), display.show, stop)
        if stop.signal is not None and not is_lost:
            raise Stopped(stop.signal)
        if failures:
            raise UserError("; ".join(dict.fromkeys(failures)))
    return to_frame(row for each in experiments for row in latest(each, data_dir, scratch).rows)


def _require_images(experiments: list[Experiment], data_root: str | os.PathLike | None) -> None:
    """Download what is missing before any run begins: here Ctrl-C ends a download at once, and one bar shows it."""
    from batchscale.training import datasets

    for name in dict.fromkeys(experiment.dataset for experiment in experiments):
        if not datasets.is_available(name, data_root):
            datasets.load(name, data_root)
