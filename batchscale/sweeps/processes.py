"""Several processes of this machine that share a list of experiments."""

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from batchscale.experiment import Experiment
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.process import Process
from batchscale.sweeps.signals import Stop, caught, interrupts_blocked


def work(experiments: list[Experiment], options: Options, report: Report, stop: Stop) -> list[Failure]:
    """Train in at most `options.workers` processes, which share the experiments through locks and the cores evenly."""
    count = min(options.workers, len(experiments))
    processes = _started(experiments, options, count)
    try:
        failures = _listen(processes, report, stop)
    except KeyboardInterrupt:  # a second Ctrl-C does not wait for a long update
        for process in processes.values():
            process.kill()
        raise
    lost = [process.exitcode for process in processes.values() if process.exitcode]
    if lost:
        reason = f"{len(lost)} of {count} processes ended with exit code {lost[0]}; run again to continue"
        failures.append(Failure(None, reason))
    return failures


def _started(experiments: list[Experiment], options: Options, count: int) -> dict[Connection, BaseProcess]:
    """The processes, by this end of the pipe that connects each of them."""
    context = multiprocessing.get_context("spawn")  # fork is unsafe with threads and CUDA in the parent
    threads = max(1, _cores() // count)
    processes = {}
    with interrupts_blocked():
        for _ in range(count):
            # One pipe each: a shared queue or event has a lock, which a process that is killed would never release.
            ours, theirs = context.Pipe()
            process = context.Process(target=_main, args=(experiments, options, threads, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is an end of file
            processes[ours] = process
    return processes


def _listen(processes: dict[Connection, BaseProcess], report: Report, stop: Stop) -> list[Failure]:
    """Pass on what the processes report, and a request to stop, until all have ended; returns their failures."""
    failures, running, is_told = [], set(processes), False
    while running:
        if stop.is_set() and not is_told:
            is_told = True
            for connection in running:
                with contextlib.suppress(OSError):
                    connection.send("stop")
        for connection in wait(running, timeout=0.1):
            try:
                event, *content = connection.recv()
            except (EOFError, OSError):  # the process ended, possibly within a message
                running.remove(connection)
                processes[connection].join()
                continue
            if event == "failures":
                failures += content[0]
            else:
                report(event, *content)
    return failures


def _main(experiments: list[Experiment], options: Options, threads: int, parent: Connection) -> None:
    import torch

    torch.set_num_threads(threads)

    def send(*message) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which `stop` notices
            parent.send(message)

    with caught(signal.SIGTERM, parent=parent) as stop:
        failures = Process(options, send, stop).work(experiments)
    send("failures", failures)


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
