"""Real training processes, started as from a terminal, to be killed at any moment.

They are forked from a server that has imported torch, which takes seconds: nothing else differs from a command line.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import faults

from batchscale import cli

context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
context.set_forkserver_preload(["batchscale.sweeps", "batchscale.training.loop", "sklearn.datasets", "kills"])


def _main(arguments: list[str], data_dir: Path, log: Path, step: int, action: Callable[[], None] | None) -> None:
    os.setsid()  # a process group of its own, as a terminal gives it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background processes ignore Ctrl-C
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if action is None:
        code = cli.main(arguments)
    else:
        with faults.at_step(data_dir, step, action) as steps:
            code = cli.main(arguments)
        print(f"{len(steps)} steps", flush=True)
    raise SystemExit(code)


class Run:
    """`python -m batchscale` with these arguments; `action` is called at that step of saving, see `faults`."""

    def __init__(self, arguments: list[str], log: Path, step: int = 0, action: Callable[[], None] | None = None):
        self.log, self.started = log, time.time_ns()
        where = "--out" if arguments[0] == "study" else "--data-dir"
        self.data_dir = Path(arguments[arguments.index(where) + 1])
        self.process = context.Process(target=_main, args=(arguments, self.data_dir, log, step, action))
        self.process.start()
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            while self.process.is_alive() and os.getpgid(self.process.pid) != self.process.pid:
                time.sleep(0.005)  # until it leads its group, which tests send signals to

    def saved(self) -> bool:
        """Whether it has saved a state since it was started."""
        return any(path.stat().st_mtime_ns > self.started for path in self.data_dir.glob("*.ckpt"))

    def kill(self, after: float, whom: Callable[["Run"], list[int]] | None = None) -> bool:
        """SIGKILL after that many seconds; whether it was still running. `whom`: those processes, not the group."""
        self.process.join(after)
        if self.process.exitcode is not None:
            return False
        for pid in [-self.process.pid] if whom is None else whom(self):
            try:
                os.kill(pid, signal.SIGKILL)  # a negative number is a group
            except ProcessLookupError:
                return False
        return True

    def kill_once_saved(self, after: float, whom: Callable[["Run"], list[int]] | None = None) -> bool:
        """`kill` that many seconds after the first save, so that every life gets further than the last."""
        with contextlib.suppress(FileNotFoundError):  # between two renames
            while self.process.is_alive() and not self.saved():
                time.sleep(0.005)
        return self.kill(after, whom)

    def ended(self, timeout: float = 100) -> int:
        """Its exit code, once the whole group is gone."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        deadline = time.monotonic() + 30
        while left := members(self.process.pid):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.02)
        return self.process.exitcode

    def said(self) -> str:
        return self.log.read_text()


def members(group: int) -> list[tuple[int, str]]:
    """Processes of a group that are alive: number and name. Zombies are not counted: they are for their parents."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        state, _, its_group, *_ = rest.split()
        if int(its_group) == group and state not in "ZX":
            number, _, name = name.partition(" (")
            alive.append((int(number), name))
    return alive


def workers(run: Run) -> list[int]:
    """The processes that train for a sweep."""
    found = []
    for number, _ in members(run.process.pid):
        try:
            command = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(number)
    return sorted(found)
