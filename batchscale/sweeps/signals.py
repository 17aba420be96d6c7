"""Ctrl-C and SIGTERM as a request to stop after the current update."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

from batchscale.sweeps.torchrun import under_torchrun


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, number: int):
        super().__init__("stopped; everything is saved: start again to go on")
        self.exit_code = 128 + number

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Stop:
    """Whether to stop: a signal came, or the process that started this worker says so, or is gone."""

    def __init__(self, parent: Connection | None = None):
        self.signal: int | None = None
        self._parent = parent

    def is_set(self) -> bool:
        # The parent never sends anything else; once it is gone, there is an end of file to read.
        return self.signal is not None or (self._parent is not None and self._parent.poll())


@contextlib.contextmanager
def caught(*numbers: int, parent: Connection | None = None) -> Iterator[Stop]:
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


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
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
