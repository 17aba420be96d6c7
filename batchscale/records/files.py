"""Files that survive: written whole, held by one process at a time, copied to a slower folder behind the training.

write_whole(path, content)              # the old content or the new one, whenever the machine stops
with lock(path, "process 7"): ...       # Busy, naming the holder, while another process is in there
with Copies(drive, print) as copies:    # copies.request(files) returns at once; the end waits for a while
    ...
"""

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from batchscale.errors import UserError

COPY_SECONDS = 60  # how long the end of a sweep waits for a slow folder

# Where Colab mounts Google Drive: writing there may take minutes, fail, or go nowhere once the mount is lost.
COLAB_DRIVE = Path("/content/drive")
COLAB_SCRATCH = Path("/content/batchscale-scratch")


class SaveError(UserError):
    """A file cannot be written: no space, no permission, a folder that is gone. What was there before is whole."""


class Busy(UserError):
    """Another process holds the lock: `holder`, as it called itself."""

    def __init__(self, holder: str):
        super().__init__(f"held by {holder}")
        self.holder = holder


def write_whole(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replace a file so that whoever reads it, whenever the machine stops, finds the old content or the new one.

    Args:
        path: the file, in a folder that exists.
        content: all of it.
        keep: what was in the file before is left under this name, in the same folder. Between the two renames there is
            no file at `path`.

    Raises:
        SaveError: it cannot be written; the old content is as it was.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:  # a second Ctrl-C as well
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise SaveError(
            f"{path} cannot be written ({error.strerror}); what was saved before is whole: "
            f"make room or choose another data_dir, and start again to go on"
        ) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what a killed process may have left of writing it.

    Raises:
        SaveError: that fails.
    """
    try:
        path.unlink(missing_ok=True)
        temporary_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"{path} cannot be removed ({error.strerror}); start again to go on") from error


def temporary_of(path: Path) -> Path:
    """Name of a file while it is being written: in the same folder, as a rename does not cross file systems."""
    return path.with_name(f".{path.name}.tmp")


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used to a name that is free; nothing is deleted. The new path.

    Raises:
        SaveError: it cannot be renamed.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.unusable{'' if number == 1 else number}")).exists():
        number += 1
    try:
        return path.replace(aside)
    except OSError as error:
        raise SaveError(f"{path} cannot be used, nor renamed ({error.strerror}); move it away") from error


def require_writable(folder: Path) -> None:
    """Make a folder if it is missing, and write a file in it, of which nothing stays.

    Raises:
        SaveError: that fails: the folder is read-only or full, or its name is that of a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise SaveError(
            f"{folder} cannot be written ({error.strerror}); make room or choose another data_dir"
        ) from error


@contextlib.contextmanager
def lock(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock file, as `holder`; the system frees it when this process dies, however it does.

    Raises:
        Busy: another process holds it.
        SaveError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        held.acquire(timeout=0)
    except Timeout:
        raise Busy(_holder(path)) from None
    except OSError as error:
        raise SaveError(f"{path.parent} cannot be written ({error.strerror}); choose another data_dir") from error
    try:
        # For who comes next. Where the file system knows no locks, filelock itself writes into the file; on a full
        # disk, or on Windows, which keeps others from writing to a locked file, the holder stays unnamed.
        if not isinstance(held, SoftFileLock):
            with contextlib.suppress(OSError):
                path.write_text(holder, encoding="utf-8")
        yield
    finally:
        # While it is held: who opened the file meanwhile finds it unlinked and makes a new one (filelock >= 3.30).
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        held.release()


def _holder(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8").split()) or "another process"
    except (OSError, ValueError):
        return "another process"


def forget_dead(path: Path, process: int, machine: str) -> None:
    """Remove the lock file of a process that died with its machine, if nothing else would ever free it.

    That is so where the file system knows no locks and filelock leaves a file that names process and machine. Where it
    does, the lock went with the process, and the file, which then says who held it, is left alone.
    """
    with contextlib.suppress(OSError, ValueError):
        number, name, *_ = [*path.read_text(encoding="utf-8").split("\n"), ""]
        if (number, name.partition("?")[0]) == (str(process), machine):  # filelock adds ?namespace in a container
            path.unlink()


def scratch_of(data_dir: Path, scratch_dir: Path | None) -> Path | None:
    """Folder in which the files of a run are written before they are copied to `data_dir`; None: there directly.

    That is `scratch_dir`, or a folder of the virtual machine where `data_dir` lies on Colab's Google Drive.

    Raises:
        SaveError: Google Drive is not mounted, so that what is written there would be lost with the machine.
    """
    if COLAB_DRIVE not in data_dir.absolute().parents:
        return scratch_dir
    below = data_dir.absolute().relative_to(COLAB_DRIVE)
    if not (COLAB_DRIVE / below.parts[0]).is_dir():
        raise SaveError(f"data_dir is {data_dir} but Google Drive is not mounted; set mount_drive = True and run all")
    return scratch_dir or COLAB_SCRATCH / below


class Copies:
    """Copies files to another folder, which may be slow or vanish, in a thread of its own; a context that it ends with.

    The caller is never kept waiting and never fails. What could not be copied is tried again with the next request.

    Args:
        folder: where the copies go. It is not made: a mount that is gone must not become an ordinary folder.
        notice: told, in the caller's thread, when copying begins to fail and when it works again.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None]):
        self._folder, self._notice = folder, notice
        self._waiting: dict[Sequence[Path], bool] = {}  # files of a run, and whether to remove them afterwards
        self._failed: dict[Sequence[Path], bool] = {}
        self._error: str | None = None  # why the last copy failed
        self._told = False
        self._working = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"copies to {folder}", daemon=True).start()

    def request(self, files: Sequence[Path], *, move: bool = False) -> None:
        """Copy these files of a run, as they are when their turn comes; one that is missing here is passed over.

        With `move`, what is missing here is removed there (a finished run has no checkpoint), and once all is copied
        the files are removed here. A later request for the same files replaces an earlier one that has not begun.
        """
        with self._changed:
            self._waiting = {**self._failed, **self._waiting, files: move}
            self._failed = {}
            self._changed.notify_all()
        self._tell()

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, error, *_) -> None:
        if error is None:
            self.finish()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def finish(self, seconds: float = COPY_SECONDS) -> None:
        """Wait until everything is copied, but no longer than that; what is not copied is named and stays here."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not (self._waiting or self._working), timeout=0.5)
        if not idle:
            self._notice(f"copying to {self._folder} ...")
            with self._changed:
                self._changed.wait_for(lambda: not (self._waiting or self._working), timeout=seconds)
        with self._changed:
            left = [*self._failed, *self._waiting]
        if left or self._working:
            here = left[0][0].parent if left else "here"
            reason = self._error or f"not done after {seconds:g} s"
            self._notice(f"{self._folder} lacks the newest files ({reason}); they are whole in {here}: start again")

    def _tell(self) -> None:
        if bool(self._error) != self._told:
            self._told = not self._told
            self._notice(
                f"not copied ({self._error}); the training goes on, and this is tried again after the next epoch"
                if self._error
                else f"{self._folder} can be written again"
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                files = next(iter(self._waiting))
                move = self._waiting.pop(files)
                self._working = True
            try:
                for file in files:
                    if file.exists():
                        write_whole(self._folder / file.name, file.read_bytes())
                    elif move:
                        (self._folder / file.name).unlink(missing_ok=True)
                self._error = None
            except (OSError, SaveError) as error:
                self._error = str(error).partition(";")[0]
                with self._changed:
                    self._failed[files] = move
                continue
            if move:
                for file in files:
                    with contextlib.suppress(OSError):  # not a failure: to copy again would take it for removed
                        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Network and FUSE file systems may have no such thing; there, more cannot be done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
