"""Lets a disk fail, or a process die, at the n-th step of saving: open, write, flush, fsync, rename or remove."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def at_step(folder: Path, at: int, action: Callable[[], None]) -> Iterator[list[str]]:
    """Within it, `action` is called before the steps number `at`, `at` + 1, ... (from 1) on files in `folder`.

    A write is begun before `action` is called: half of the content is then in the file. To remove a lock file is a step
    for `kill` alone. Yields the names of the steps so far.
    """
    steps: list[str] = []
    real = {name: getattr(Path, name) for name in ("open", "replace", "unlink")}
    fsync = os.fsync
    no_step = ".tmp" if action is kill else (".lock", ".tmp")

    def step(name: str, path) -> bool:
        if Path(path).parent != folder:
            return False
        steps.append(name)
        return len(steps) >= at

    class File:
        def __init__(self, path: Path, file):
            self.path, self.file = path, file

        def write(self, content) -> None:
            if step("write", self.path):
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                action()
            self.file.write(content)

        def flush(self) -> None:
            if step("flush", self.path):
                action()
            self.file.flush()

        def fileno(self) -> int:
            return self.file.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *exception) -> None:
            self.file.close()

    def opened(path, mode="r", *arguments, **keywords):
        if mode != "wb":
            return real["open"](path, mode, *arguments, **keywords)
        if step("open", path):
            action()
        return File(path, real["open"](path, mode, *arguments, **keywords))

    def synced(descriptor) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if step("fsync", folder / "the folder itself" if path == folder else path):
            action()
        fsync(descriptor)

    def renamed(path, target):
        if step("rename", path):
            action()
        return real["replace"](path, target)

    def removed(path, missing_ok=False):
        if path.exists() and not path.name.endswith(no_step) and step("remove", path):
            action()
        return real["unlink"](path, missing_ok=missing_ok)

    with (
        mock.patch.object(Path, "open", opened),
        mock.patch.object(Path, "replace", renamed),
        mock.patch.object(Path, "unlink", removed),
        mock.patch.object(os, "fsync", synced),
    ):
        yield steps
