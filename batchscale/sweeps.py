"""Many experiments: skip what is done, go on with what is not, one after another or side by side.

    experiments = study("scaled_lr", [128, 256], seeds=[0, 1], dataset="digits")
    records = run(experiments, data_dir="data", workers=2)

Every process takes the next experiment that nobody holds the lock of. Workers, and sweeps that are started twice on one
folder, share out the work in this way without knowing of each other. Where torchrun started several processes, they
train each experiment together, see `distributed`; then this runs in the first of them alone.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from batchscale.allocator import memory_kept
from batchscale.experiment import Experiment, UserError
from batchscale.progress import Display, summary, under_torchrun
from batchscale.records import Keeper, UnreadableRecord, to_frame
from batchscale.storage import Busy, Copies, SaveError, lock, require_writable, scratch_of, write_whole

SAVE_SECONDS = 180  # a long epoch is saved in the middle that often
WAIT_SECONDS = 0.5  # between two looks at a run that another process is training

WhenLocked = Literal["wait", "leave"]
OnOutOfMemory = Literal["split", "stop"]
Engine = Literal["processes", "ray"]
Report = Callable[[str, Experiment, object], None]


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, number: int):
        super().__init__("stopped; everything is saved: start again to go on")
        self.exit_code = 128 + number

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how a sweep trains: nothing that the numbers depend on."""

    data_dir: Path
    data_root: str | os.PathLike | None
    scratch: Path | None
    when_locked: WhenLocked
    on_out_of_memory: OnOutOfMemory
    save_seconds: float
    sweep: str  # who holds the locks: the process that the user started, for all its workers

    @property
    def folder(self) -> Path:
        """Where files are written first, and where locks are."""
        return self.scratch or self.data_dir

    def lock_file(self, experiment: Experiment) -> Path:
        """Held by whoever trains it."""
        return self.folder / f".{experiment.stem}.lock"


def pending(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> list[Experiment]:
    """Those of the experiments that are not yet recorded in `data_dir`, in the same order; each named once.

    Raises:
        UserError: a file name is taken by another experiment, see `records.Keeper`.
    """
    data_dir, scratch = _places(data_dir, scratch_dir)
    keepers = [latest(each, data_dir, scratch) for each in dict.fromkeys(experiments)]
    # What is finished in the scratch folder is still to be copied.
    return [keeper.experiment for keeper in keepers if not (keeper.finished and keeper.folder == data_dir)]


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
        ray_address: of the cluster, see `cluster.work`.
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
    data_dir, scratch = _places(data_dir, scratch_dir)
    if engine == "ray":
        from batchscale import cluster

        cluster.require(workers=workers, gpus_per_run=gpus_per_run, cores_per_run=cores_per_run, scratch=scratch)
    elif (gpus_per_run, cores_per_run, ray_address) != (0, 1, None):
        raise UserError("gpus_per_run, cores_per_run and ray_address are for engine ray but it is processes; take ray")
    setting = Setting(
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
        with Display(len(todo)) as display, _signals(signal.SIGINT, signal.SIGTERM) as stop:
            is_lost = False
            if engine == "ray":
                resources = {"gpus_per_run": gpus_per_run, "cores_per_run": cores_per_run}
                failures = cluster.work(todo, setting, display.show, stop, address=ray_address, **resources)
            elif min(workers, len(todo)) == 1:
                process = Process(setting, display.show, stop)
                failures = process.work(todo)
                is_lost = process.group.is_out_of_step  # torchrun then stops the workers that are left
            else:
                failures = _work_in_processes(todo, setting, min(workers, len(todo)), display.show, stop)
        if stop.signal is not None and not is_lost:
            raise Stopped(stop.signal)
        if failures:
            raise UserError("; ".join(dict.fromkeys(failures)))
    return to_frame(row for each in experiments for row in latest(each, data_dir, scratch).rows)


def _places(data_dir, scratch_dir) -> tuple[Path, Path | None]:
    data_dir = Path(data_dir).expanduser()
    return data_dir, scratch_of(data_dir, None if scratch_dir is None else Path(scratch_dir).expanduser())


def latest(
    experiment: Experiment, data_dir: Path, scratch: Path | None, notice: Callable[[str], None] = warnings.warn
) -> Keeper:
    """The record of an experiment in `data_dir` or in the scratch folder, whichever has more and is whole."""
    keepers = [Keeper(experiment, scratch, notice)] if scratch is not None else []
    try:
        keepers.insert(0, Keeper(experiment, data_dir, notice))
    except UnreadableRecord as error:
        if not keepers or keepers[0].status == "new":
            raise
        notice(f"{str(error).partition(';')[0]}; going on from the files in {scratch}")
    begun = [keeper for keeper in keepers if keeper.status != "new"]
    return max(begun, key=Keeper.updates_kept) if len(begun) > 1 else (begun or keepers)[0]


def _require_images(experiments: list[Experiment], data_root: str | os.PathLike | None) -> None:
    """Download what is missing before any run begins: here Ctrl-C ends a download at once, and one bar shows it."""
    from batchscale import datasets

    for name in dict.fromkeys(experiment.dataset for experiment in experiments):
        if not datasets.is_available(name, data_root):
            datasets.load(name, data_root)


class _StopTraining(Exception):
    """Leaves the loop of updates once the state is saved."""


class Stop:
    """Whether to stop: a signal came, or the process that started this worker says so, or is gone."""

    def __init__(self, parent: Connection | None = None):
        self.signal: int | None = None
        self._parent = parent

    def is_set(self) -> bool:
        # The parent never sends anything else; once it is gone, there is an end of file to read.
        return self.signal is not None or (self._parent is not None and self._parent.poll())


@contextlib.contextmanager
def _signals(*numbers: int, parent: Connection | None = None) -> Iterator[Stop]:
    """Turn these signals into a request to stop after the current update; a second one interrupts at once.

    A worker, which has a `parent`, is interrupted by nobody else, and under torchrun a Ctrl-C comes twice: from the
    terminal and from torchrun, which waits half a minute before it kills.
    """
    stop = Stop(parent)
    is_patient = parent is not None or under_torchrun()

    def request(number, frame):
        if stop.signal is not None and not is_patient:
            raise KeyboardInterrupt
        stop.signal = number
        # Nothing more than that: a handler may run in the middle of anything. An update of a large minibatch may take
        # a minute, and who sees nothing presses Ctrl-C again.
        if not is_patient and sys.stderr.isatty():
            os.write(2, b"\nsaving after this update; Ctrl-C again stops at once\n")

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, request) for number in numbers if in_main_thread}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Process:
    """A process that trains: it takes the experiments that nobody else has, one after another.

    `data` is the data set of all of them, if it is there already; None: it is loaded by its name.
    """

    def __init__(self, setting: Setting, report: Report, stop: Stop, data=None):
        from batchscale import distributed

        self.setting, self.report, self.stop, self.data = setting, report, stop, data
        self.group = distributed.group()
        self.copies: Copies | None = None

    def work(self, experiments: list[Experiment]) -> list[str]:
        """Bring each of them to its end, whoever does it; what failed, a line each."""
        with memory_kept():
            if self.setting.scratch is None:
                return self._share(experiments)
            with Copies(self.setting.data_dir, functools.partial(self.report, "notice", None)) as self.copies:
                return self._share(experiments)

    def _share(self, experiments: list[Experiment]) -> list[str]:
        setting, failures, todo, told = self.setting, [], list(experiments), False
        while todo and not self.stop.is_set():
            busy = {}
            for experiment in todo:
                if self.stop.is_set():
                    break
                try:
                    with lock(setting.lock_file(experiment), setting.sweep):
                        self._complete(experiment)
                except Busy as other:
                    if setting.when_locked == "wait" or other.holder == setting.sweep:  # our own workers are waited for
                        busy[experiment] = other.holder
                    else:
                        failures.append(f"{experiment} is being trained by {other.holder}")
                except SaveError as error:  # nor could the next one be saved
                    return [*failures, f"{experiment}: {error}"]
                except UserError as error:
                    failures.append(f"{experiment}: {error}")
                    if self.group.is_out_of_step:  # the other workers cannot go on to the next one
                        return failures
                    if len(experiments) > 1:
                        self.report("finish", experiment, f"{experiment}: failed, {error}")
            if busy and len(busy) == len(todo):
                others = [(experiment, holder) for experiment, holder in busy.items() if holder != setting.sweep]
                if others and not told:
                    told = True
                    self.report("notice", None, "waiting for {}, which {} is training".format(*others[0]))
                time.sleep(WAIT_SECONDS)
            todo = list(busy)
        return failures

    def _complete(self, experiment: Experiment) -> None:
        """Bring a record, whose lock is held, to its end, from wherever it stands, or to where `stop` is set."""
        scratch = self.setting.scratch
        notice = functools.partial(self.report, "notice", experiment)
        keeper = latest(experiment, self.setting.data_dir, scratch, notice)
        if scratch is not None and keeper.folder != scratch:
            if keeper.finished:
                return
            for file in keeper.files:
                if file.exists():
                    write_whole(scratch / file.name, file.read_bytes())
            keeper = Keeper(experiment, scratch, notice)
        if not keeper.trained:
            self._train(experiment, keeper)
        elif not keeper.finished:
            keeper.finish()
        self._copy(keeper)

    def _copy(self, keeper: Keeper) -> None:
        if self.copies is not None:
            self.copies.request(keeper.files, move=keeper.finished)

    def _train(self, experiment: Experiment, keeper: Keeper) -> None:
        """Train, in ever smaller micro-batches as long as the device has no room and the user allows it."""
        from batchscale import datasets
        from batchscale.training import OutOfMemory, Training, free_memory

        data = self.data or datasets.load(experiment.dataset, self.setting.data_root)
        images_at_once = {}
        while True:
            try:
                return self._train_with(Training(experiment, data, group=self.group), images_at_once, keeper)
            except OutOfMemory as error:
                if self.group.is_out_of_step:  # nor could they be told to take less
                    raise UserError(f"{error}; take --micro-batch-size {max(1, error.images // 2)}") from error
                images, where, problem = error.images, error.where, str(error)
            # Out of the clause above, whose error refers to everything that is to be freed.
            free_memory()
            if images == 1:
                raise UserError(f"the device has {problem}; take a smaller network or another device")
            if where == "training" and self.setting.on_out_of_memory == "stop":
                largest = Training(experiment, data).largest_that_fits(images)
                raise UserError(
                    f"the device has {problem}; the largest batch that fits is {largest}: take a smaller batch, "
                    f"--micro-batch-size {largest} or --on-out-of-memory split"
                )
            images_at_once[where] = images // 2
            seen = ", which batch norm sees one by one" if where == "training" else ""
            how = f"going on from what was saved last with at most {images // 2}{seen}"
            self.report("notice", experiment, f"{problem}: {how}")

    def _train_with(self, training, images_at_once: dict[str, int], keeper: Keeper) -> None:
        """Train from wherever the record stands, keeping every epoch, and long ones in the middle."""
        experiment = training.experiment
        state = keeper.resume()
        if state is not None:
            training.load_state_dict(state)
        training.limit(images_at_once)
        keeper.start(**_facts(training))
        self.group.from_first((experiment, self.setting.data_root, state))  # the other workers follow
        saved = time.monotonic()

        def between_updates(progress) -> None:
            nonlocal saved
            self.report("progress", experiment, progress)
            stopping = self.stop.is_set()
            if stopping or time.monotonic() - saved > self.setting.save_seconds:
                keeper.save_state(training.state_dict())
                self._copy(keeper)
                saved = time.monotonic()
            if stopping:
                raise _StopTraining

        try:
            with contextlib.closing(training.records(between_updates)) as records:
                for record in records:
                    keeper.add(record, training.state_dict())
                    self._copy(keeper)
                    saved = time.monotonic()
                    self.report("record", experiment, record)
                    if self.stop.is_set() and record.epoch < experiment.epochs:
                        return
        except _StopTraining:
            return
        keeper.finish("diverged" if training.diverged else "complete")
        self.report("finish", experiment, summary(experiment, keeper.status, keeper.rows))


def _work_in_processes(
    experiments: list[Experiment], setting: Setting, workers: int, report: Report, stop: Stop
) -> list[str]:
    """Do the same in that many processes, which share the experiments through their locks and the cores evenly."""
    context = multiprocessing.get_context("spawn")  # the only way that is safe with threads and CUDA in the parent
    threads = max(1, _cores() // workers)
    # A pipe for each of them: a queue or an event shared by all has a lock, which a worker that is killed while it
    # holds it never gives back.
    processes = {}
    with _interrupts_blocked():
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(experiments, setting, threads, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the worker is the end of the file
            processes[ours] = process
    failures, running, told = [], set(processes), False
    try:
        while running:
            if stop.is_set() and not told:
                told = True
                for connection in running:
                    with contextlib.suppress(OSError):
                        connection.send("stop")
            for connection in wait(running, timeout=0.1):
                try:
                    what, *content = connection.recv()
                except (EOFError, OSError):  # it ended, possibly in the middle of a message
                    running.remove(connection)
                    processes[connection].join()
                    continue
                if what == "failures":
                    failures += content[0]
                else:
                    report(what, *content)
    except KeyboardInterrupt:  # a second one does not wait for a long update
        for process in processes.values():
            process.kill()
        raise
    lost = [process.exitcode for process in processes.values() if process.exitcode]
    if lost:
        failures.append(f"{len(lost)} of {workers} workers ended with exit code {lost[0]}; start again to go on")
    return failures


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started inside never see a Ctrl-C; here it comes as soon as this is over."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: workers then say that they were interrupted
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would be started with the first process, and starting it unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker(experiments: list[Experiment], setting: Setting, threads: int, parent: Connection) -> None:
    import torch

    torch.set_num_threads(threads)

    def send(*message) -> None:
        with contextlib.suppress(OSError):  # a parent that is gone needs no report, and `stop` sees it
            parent.send(message)

    with _signals(signal.SIGTERM, parent=parent) as stop:
        failures = Process(setting, send, stop).work(experiments)
    send("failures", failures)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    """What the CPU is called; Linux says it in a file of its own, if at all."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _facts(training) -> dict:
    """What the sidecar notes besides the experiment: where it runs, and what follows from the experiment."""
    import torch

    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "workers": training.group.count,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "updates_per_epoch": training.updates_per_epoch,
        "train_images": len(training.data.train_images),
        "test_images": len(training.data.test_images),
        # Batch norm uses the statistics of a micro-batch ("ghost batch", Hoffer et al. 2017), which may have become
        # smaller in the middle of a run.
        "ghost_batch": [{"from_update": update, "images": size} for update, size in training.ghost_batches],
    }
