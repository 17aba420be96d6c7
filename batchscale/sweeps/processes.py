"""Several processes of this machine that share the experiments of a source."""

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from batchscale.errors import UserError
from batchscale.sweeps.failure import Failure
from batchscale.sweeps.options import Options, Report
from batchscale.sweeps.process import Process
from batchscale.sweeps.signals import Stop, caught, interrupts_blocked
from batchscale.sweeps.source import Source

_UNGUARDED = 86  # exit code of a process that would run the user's script again
_GUARD = 'write `if __name__ == "__main__": sweeps.run(experiments, workers=2)`, so that only the first one calls it'


def require_no_start() -> None:
    """End this process if it is one of a sweep and still starting.

    A started process imports the script that its parent runs. A script that calls `sweeps.run` outside of
    `if __name__ == "__main__":` calls it there again; the parent then reports it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself finds out
        raise SystemExit(_UNGUARDED)


def work(source: Source, options: Options, report: Report, stop: Stop) -> list[Failure]:
    """Train in at most `options.workers` processes, which share the experiments through locks and the cores evenly."""
    count = min(options.workers, source.most)
    _require_startable(options.workers)
    processes = _started(source, options, count)
    try:
        failures, begun = _listen(processes, report, stop)
    except KeyboardInterrupt:  # a second Ctrl-C does not wait for a long update
        for process in processes.values():
            process.kill()
        raise
    lost = [process.exitcode for process in processes.values() if process.exitcode]
    if lost:
        if lost[0] == _UNGUARDED:
            reason = f"workers is {options.workers}, and each process begins by running this script; {_GUARD}"
        elif not begun:
            reason = f"none of {count} processes could start (exit code {lost[0]}); what they printed above says why"
        else:
            reason = f"{len(lost)} of {count} processes ended with exit code {lost[0]}; run again to continue"
        failures.append(Failure(None, reason))
    return failures


def _require_startable(workers: int) -> None:
    """Refuse what cannot start processes that import the running script.

    Raises:
        UserError: the script is no file, or this process is one of a pool.
    """
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and script is not None and not Path(script).exists():
        raise UserError(
            f"workers is {workers}, and each process begins by running this script, but {script} is not a file; "
            f"save the script as a file, or use workers=1"
        )
    if multiprocessing.current_process().daemon:
        raise UserError(
            f"workers is {workers}, but this process belongs to a pool and cannot start others; use workers=1 here"
        )


def _started(source: Source, options: Options, count: int) -> dict[Connection, BaseProcess]:
    """The processes, by this end of the pipe that connects each of them."""
    context = multiprocessing.get_context("spawn")  # fork is unsafe with threads and CUDA in the parent
    threads = max(1, cores() // count)
    source.share(context)
    processes = {}
    with interrupts_blocked():
        for _ in range(count):
            # One pipe each: a shared queue or event has a lock, which a process that is killed would never release.
            ours, theirs = context.Pipe()
            process = context.Process(target=_main, args=(source, options, threads, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is an end of file
            processes[ours] = process
    return processes


def _listen(processes: dict[Connection, BaseProcess], report: Report, stop: Stop) -> tuple[list[Failure], bool]:
    """Pass on what the processes report, and a request to stop, until all have ended.

    Returns:
        Their failures, and whether any process began to train.
    """
    failures, running, is_told, begun = [], set(processes), False, False
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
            begun = True
            if event == "failures":
                failures += content[0]
            else:
                report(event, *content)
    return failures, begun


def _main(source: Source, options: Options, threads: int, parent: Connection) -> None:
    import torch

    torch.set_num_threads(threads)

    def send(*message) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which `stop` notices
            parent.send(message)

    with caught(signal.SIGTERM, parent=parent) as stop:
        failures = Process(options, send, stop).work(source)
    send("failures", failures)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
