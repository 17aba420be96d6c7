"""Many experiments: skip what is done, go on with what is not, one after another or side by side.

    experiments = study("scaled_lr", [128, 256], seeds=[0, 1], dataset="digits")
    records = run(experiments, data_dir="data", workers=2)

Every process takes the next experiment that nobody holds the lock of. Workers, and sweeps that are started twice on one
folder, share out the work in this way without knowing of each other.
"""

import contextlib
import multiprocessing
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from batchscale.experiment import Experiment, UserError
from batchscale.progress import Display, summary
from batchscale.records import Keeper, to_frame

SAVE_SECONDS = 180  # a long epoch is saved in the middle that often
WAIT_SECONDS = 0.5  # between two looks at a run that another process is training

Report = Callable[[str, Experiment, object], None]


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, number: int):
        super().__init__("stopped; everything is saved: start again to go on")
        self.exit_code = 128 + number

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def pending(experiments: Iterable[Experiment], data_dir: str | os.PathLike) -> list[Experiment]:
    """Those of the experiments that are not yet recorded in `data_dir`, in the same order; each named once.

    Raises:
        UserError: a file name is taken by another experiment, see `records.Keeper`.
    """
    return [experiment for experiment in dict.fromkeys(experiments) if not Keeper(experiment, data_dir).finished]


def recorded(experiments: Iterable[Experiment], data_dir: str | os.PathLike) -> pd.DataFrame:
    """Records of these experiments as one tidy frame, in their order; nothing of those that are not there."""
    return to_frame(row for experiment in experiments for row in Keeper(experiment, data_dir).rows)


def run(
    experiments: Iterable[Experiment],
    *,
    data_dir: str | os.PathLike = "data",
    data_root: str | os.PathLike | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Train what is not yet recorded, keep it in `data_dir`, and return the records of all the experiments.

    Args:
        experiments: what to run, in this order.
        data_dir: folder of the records; made if it is missing.
        data_root: folder of the images, see `datasets.load`.
        workers: processes that train at the same time; the cores are shared out among them.

    Raises:
        UserError: nothing was trained because an experiment does not fit its files, or, after all others were trained,
            one of them failed.
        Stopped: Ctrl-C or SIGTERM; everything is saved.
    """
    experiments = list(experiments)
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers is {workers!r}; it must be a whole number of at least 1")
    todo = pending(experiments, data_dir)
    if len(todo) < len(set(experiments)):
        print(f"{len(set(experiments)) - len(todo)} of {len(set(experiments))} recorded already", flush=True)
    if todo:
        _require_images(todo, data_root)
        with Display(len(todo)) as display, _signals(signal.SIGINT, signal.SIGTERM) as stop:
            if min(workers, len(todo)) == 1:
                failures = _work(todo, data_dir, data_root, display.show, stop)
            else:
                failures = _work_in_processes(todo, data_dir, data_root, min(workers, len(todo)), display.show, stop)
        if stop.signal is not None:
            raise Stopped(stop.signal)
        if failures:
            raise UserError("; ".join(dict.fromkeys(failures)))
    return recorded(experiments, data_dir)


def _require_images(experiments: list[Experiment], data_root: str | os.PathLike | None) -> None:
    """Download what is missing before any run begins: here Ctrl-C ends a download at once, and one bar shows it."""
    from batchscale import datasets

    for name in dict.fromkeys(experiment.dataset for experiment in experiments):
        if not datasets.is_available(name, data_root):
            datasets.load(name, data_root)


def _train(
    experiment: Experiment,
    keeper: Keeper,
    data_root: str | os.PathLike | None,
    report: Report,
    stop: "_Stop",
) -> None:
    """Train one experiment from wherever its record stands to its end, or until `stop` is set; keep every epoch."""
    from batchscale import datasets
    from batchscale.training import Progress, Training

    training = Training(experiment, datasets.load(experiment.dataset, data_root))
    state = keeper.resume()
    if state is not None:
        training.load_state_dict(state)
    keeper.start(**_facts(training))
    saved = time.monotonic()

    def between_updates(progress: Progress) -> None:
        nonlocal saved
        report("progress", experiment, progress)
        if stop.is_set():
            keeper.save_state(training.state_dict())
            raise _StopTraining
        if time.monotonic() - saved > SAVE_SECONDS:
            keeper.save_state(training.state_dict())
            saved = time.monotonic()

    try:
        for record in training.records(between_updates):
            keeper.add(record, training.state_dict())
            saved = time.monotonic()
            report("record", experiment, record)
            if stop.is_set() and record.epoch < experiment.epochs:
                raise _StopTraining
    except _StopTraining:
        return
    keeper.finish("diverged" if training.diverged else "complete")
    report("finish", experiment, summary(experiment, keeper.status, keeper.rows))


class _StopTraining(Exception):
    """Leaves the loop of updates once the state is saved."""


class _Stop:
    """Whether to stop: a signal came, the process that shares `event` says so, or the parent of this worker is gone."""

    def __init__(self, event=None):
        self.signal: int | None = None
        self._event = event

    def is_set(self) -> bool:
        if self.signal is not None:
            return True
        if self._event is None:
            return False
        return self._event.is_set() or not multiprocessing.parent_process().is_alive()


@contextlib.contextmanager
def _signals(*numbers: int, event=None) -> Iterator[_Stop]:
    """Turn these signals into a request to stop after the current update; a second one interrupts at once."""
    stop = _Stop(event)

    def request(number, frame):
        # Sets a flag and nothing else: a handler may run in the middle of anything.
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, request) for number in numbers if in_main_thread}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(experiments: list[Experiment], data_dir, data_root, report: Report, stop: _Stop) -> list[str]:
    """Train each experiment that is not finished and not in another process's hands; what failed, a line each."""
    failures, todo = [], list(experiments)
    while todo and not stop.is_set():
        busy = []
        for experiment in todo:
            if stop.is_set():
                break
            try:
                keeper = Keeper(experiment, data_dir)
                if keeper.finished:
                    continue
                with _lock(keeper):
                    keeper.read()  # somebody may have finished it since
                    if not keeper.finished:
                        _train(experiment, keeper, data_root, report, stop)
                    if keeper.finished:
                        _lock_file(keeper).unlink(missing_ok=True)  # who waits for it will find the run finished
            except Timeout:
                busy.append(experiment)
            except UserError as error:
                failures.append(f"{experiment}: {error}")
                if len(experiments) > 1:
                    report("finish", experiment, f"{experiment}: failed, {error}")
        if len(busy) == len(todo):
            time.sleep(WAIT_SECONDS)
        todo = busy
    return failures


def _work_in_processes(
    experiments: list[Experiment], data_dir, data_root, workers: int, report: Report, stop: _Stop
) -> list[str]:
    """`_work` in that many processes, which share the experiments through their locks and the cores evenly."""
    context = multiprocessing.get_context("spawn")  # the only way that is safe with threads and CUDA in the parent
    events, event = context.Queue(), context.Event()
    threads = max(1, _cores() // workers)
    arguments = (experiments, data_dir, data_root, threads, events, event)
    processes = [context.Process(target=_worker, args=arguments, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    failures = []
    while True:
        alive = any(process.is_alive() for process in processes)
        if stop.is_set():
            event.set()
        try:
            what, *rest = events.get(timeout=0.1)
        except queue.Empty:
            if not alive:  # asked before the queue was: nothing can come any more
                break
            continue
        if what == "failures":
            failures += rest[0]
        else:
            report(what, *rest)
    lost = [process.exitcode for process in processes if process.exitcode]
    if lost:
        failures.append(f"{len(lost)} of {workers} workers ended with exit code {lost[0]}; start again to go on")
    return failures


def _worker(experiments: list[Experiment], data_dir, data_root, threads: int, events, event) -> None:
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    with _signals(signal.SIGTERM, event=event) as stop:
        failures = _work(experiments, data_dir, data_root, lambda *message: events.put(message), stop)
    events.put(("failures", failures))


def _lock_file(keeper: Keeper) -> Path:
    return keeper.folder / f".{keeper.experiment.stem}.lock"


def _lock(keeper: Keeper) -> FileLock:
    """Held by the process that trains this record; the system frees it when that process dies, however it does."""
    try:
        keeper.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(_lock_file(keeper)).acquire(timeout=0)
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise UserError(f"{keeper.folder} cannot be written ({error.strerror}); choose another data_dir") from error


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts(training) -> dict:
    """What the sidecar notes besides the experiment: where it runs, and what follows from the experiment."""
    import torch

    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "updates_per_epoch": training.updates_per_epoch,
        "train_images": len(training.data.train_images),
        "test_images": len(training.data.test_images),
    }
