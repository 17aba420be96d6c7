"""Ctrl-C and SIGTERM as a request to stop after the current update."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from batchscale import streams
from batchscale.sweeps.torchrun import under_torchrun


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, raised once everything is saved."""

    def __init__(self, number: int):
        super().__init__("stopped; everything is saved: run again to continue")
        self.exit_code = 128 + number

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Stop:
    """Whether to stop: a signal arrived, the time is over, or the parent process requests it or is gone.

    Attributes:
        signal: the number of the signal; None without one.
        deadline: end of the time, in seconds of `clock`.
    """

    def __init__(self, parent: Connection | None = None):
        self.signal: int | None = None
        self.deadline, self.clock = math.inf, time.monotonic
        self._parent = parent

    def is_set(self) -> bool:
        # The parent sends nothing else. Once the parent is gone, the connection has an end of file to read.
        is_requested = self._parent is not None and self._parent.poll()
        return self.signal is not None or is_requested or self.clock() >= self.deadline


@contextlib.contextmanager
def caught(*numbers: int, parent: Connection | None = None) -> Iterator[Stop]:
    """Turn these signals into a request to stop after the current update; a second signal interrupts immediately.

    Further signals are ignored in a process with a `parent`, and under torchrun, where Ctrl-C arrives twice: from the
    terminal and from torchrun, which waits for half a minute before it kills.
    """
    stop = Stop(parent)
    is_patient = parent is not None or under_torchrun()

    def request(number, frame):
        if stop.signal is not None and not is_patient:
            raise KeyboardInterrupt
        stop.signal = number
        # A handler may interrupt anything, so it only writes. An update of a large minibatch may take a minute, and a
        # user who sees no reaction presses Ctrl-C again.
        if not is_patient and streams.ERR.isatty():
            with contextlib.suppress(OSError):  # the terminal is gone
                os.write(2, b"\nsaving after this update; press Ctrl-C again to stop immediately\n")

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, request) for number in numbers if in_main_thread}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started inside never receive Ctrl-C; this process receives it on exit."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows, the processes report the interrupt themselves
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
