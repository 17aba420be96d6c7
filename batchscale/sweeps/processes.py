"""Several processes of this machine that share a list of experiments."""

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection, wait

from batchscale.experiment import Experiment
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.process import Process
from batchscale.sweeps.signals import Stop, caught, interrupts_blocked


def work(experiments: list[Experiment], setting: Options, workers: int, report: Report, stop: Stop) -> list[str]:
    """Do the same in that many processes, which share the experiments through their locks and the cores evenly."""
    context = multiprocessing.get_context("spawn")  # the only way that is safe with threads and CUDA in the parent
    threads = max(1, _cores() // workers)
    # A pipe for each of them: a queue or an event shared by all has a lock, which a worker that is killed while it
    # holds it never gives back.
    processes = {}
    with interrupts_blocked():
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


def _worker(experiments: list[Experiment], setting: Options, threads: int, parent: Connection) -> None:
    import torch

    torch.set_num_threads(threads)

    def send(*message) -> None:
        with contextlib.suppress(OSError):  # a parent that is gone needs no report, and `stop` sees it
            parent.send(message)

    with caught(signal.SIGTERM, parent=parent) as stop:
        failures = Process(setting, send, stop).work(experiments)
    send("failures", failures)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
