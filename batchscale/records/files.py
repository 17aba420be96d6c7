"""Files that survive a crash: written atomically, locked, and copied to a slow folder in the background.

write_whole(path, content)              # a reader finds the old content or the new, never a mixture
with lock(path, "process 7"): ...       # raises Busy, naming the holder, while another process holds the lock
with Copies(drive, print) as copies:    # copies.request(files) returns immediately; leaving the context waits
    ...
"""

import contextlib
import errno
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from batchscale.errors import UserError, first_line

COPY_SECONDS = 60  # longest wait for a slow folder at the end of a sweep

# Colab mounts Google Drive here. A write may take minutes, fail, or disappear once the mount is lost.
COLAB_DRIVE = Path("/content/drive")
COLAB_SCRATCH = Path("/content/batchscale-scratch")

_ROOM = "free some space or choose another data_dir"
_AGAIN = "run again to continue"


class SaveError(UserError):
    """A file or folder cannot be written: `problem` says why, `remedy` what to do. The previous content is intact."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


class ReadError(UserError):
    """A file, or the folder in which it may be, cannot be read. Its content is unknown, so nothing may replace it."""

    def __init__(self, path: Path, error: OSError):
        remedy = _remedy(error, "check the disk or the connection, then run again")
        super().__init__(f"{path} cannot be read ({error.strerror}); {remedy}")


class Busy(UserError):
    """Another process holds the lock; `holder` is the name it gave itself."""

    def __init__(self, holder: str):
        super().__init__(holder)
        self.holder = holder

    def __str__(self) -> str:
        return f"held by {self.holder}"


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        ReadError: the file may not be read, or its folder may not be searched.
    """
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except IsADirectoryError:
        return True
    except OSError as error:
        raise ReadError(path, error) from error
    return True


def read_whole(path: Path) -> bytes:
    """Content of a file.

    Raises:
        FileNotFoundError, NotADirectoryError, IsADirectoryError: there is no such file.
        ReadError: there may be one, which cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        raise ReadError(path, error) from error


def write_whole(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replace a file atomically: after a crash it holds the old content or the new.

    Args:
        path: the file, in an existing folder.
        content: the whole content.
        keep: new name of the old file, in the same folder. Between the two renames, `path` does not exist.

    Raises:
        SaveError: the file cannot be written. The old content is unchanged.
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
            f"{path} cannot be written ({error.strerror})",
            f"everything saved before is intact: {_remedy(error, _ROOM)}, then run again to continue",
        ) from error


def remove(path: Path) -> None:
    """Remove a file, if it exists, and the temporary file that a killed process may have left.

    Raises:
        SaveError: the file cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        temporary_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"{path} cannot be removed ({error.strerror})", _remedy(error, _AGAIN)) from error


def temporary_of(path: Path) -> Path:
    """Name of a file while it is written. It is in the same folder, because a rename cannot cross file systems."""
    return path.with_name(f".{path.name}.tmp")


def rename(path: Path, target: Path) -> None:
    """Rename a file within its folder.

    Raises:
        SaveError: the file cannot be renamed.
    """
    try:
        path.replace(target)
        _sync_folder(path.parent)
    except OSError as error:
        raise SaveError(f"{path} cannot be renamed ({error.strerror})", _remedy(error, _AGAIN)) from error


def set_aside(path: Path) -> Path:
    """Rename an unusable file to a free name, so that nothing is deleted; returns the new path.

    Raises:
        SaveError: the file cannot be renamed.
    """
    aside = next(name for name in _numbered(path, "unusable") if not os.path.lexists(name))
    try:
        return path.replace(aside)
    except OSError as error:
        raise SaveError(f"{path} cannot be used, nor renamed ({error.strerror})", "move it away") from error


def keep_copy(path: Path) -> Path:
    """Copy a file that is about to be replaced to a free name; returns the copy, possibly that of an earlier call.

    Raises:
        SaveError: the copy cannot be written.
        ReadError: the file, or an earlier copy, cannot be read.
    """
    content = read_whole(path)
    for copy in _numbered(path, "replaced"):
        if not is_there(copy):
            write_whole(copy, content)
            return copy
        if read_whole(copy) == content:
            return copy


def _numbered(path: Path, suffix: str) -> Iterator[Path]:
    for number in itertools.count(1):
        yield path.with_name(f"{path.name}.{suffix}{'' if number == 1 else number}")


def _remedy(error: OSError, otherwise: str) -> str:
    """What to do about an error of the file system: permissions are another user's to give."""
    if isinstance(error, PermissionError):
        return "ask its owner for permission or choose another data_dir"
    return otherwise


def require_writable(folder: Path) -> None:
    """Create a folder if it is missing, and check that it can be listed, and written by writing a temporary file.

    Raises:
        SaveError: the folder is read-only or full, is another user's, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.scandir(folder).close()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise SaveError(f"{folder} cannot be written ({error.strerror})", _remedy(error, _ROOM)) from error


@contextlib.contextmanager
def lock(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock file under the name `holder`. The system releases the lock when this process dies.

    Raises:
        Busy: another process holds the lock.
        SaveError: the lock file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        held.acquire(timeout=0)
    except Timeout:
        raise Busy(_holder(path)) from None
    except OSError as error:
        raise SaveError(
            f"{error.filename or path} cannot be written ({error.strerror})", _remedy(error, "choose another data_dir")
        ) from error
    try:
        # The next process reads the holder's name here. On a file system without locks, filelock itself writes the
        # file. On a full disk, and on Windows, where a locked file cannot be written, the holder remains unnamed.
        if not isinstance(held, SoftFileLock):
            with contextlib.suppress(OSError):
                path.write_text(holder, encoding="utf-8")
        yield
    finally:
        # Remove the file while the lock is held: a process that has opened it sees that it is unlinked and creates a
        # new one (filelock >= 3.30).
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        held.release()


def _holder(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8").split()) or "another process"
    except (OSError, ValueError):
        return "another process"


def forget_dead(path: Path, process: int, machine: str) -> None:
    """Remove the lock file of a process that died with its machine, if the system does not release the lock.

    On a file system without locks, filelock leaves a file that names the process and the machine; that file is removed.
    Elsewhere the lock ended with the process, and the file, which holds the name of its holder, is left unchanged.
    """
    with contextlib.suppress(OSError, ValueError):
        number, name, *_ = [*path.read_text(encoding="utf-8").split("\n"), ""]
        if (number, name.partition("?")[0]) == (str(process), machine):  # in a container, filelock adds ?namespace
            path.unlink()


def scratch_of(data_dir: Path, scratch_dir: Path | None) -> Path | None:
    """Folder in which the files of a run are written before they are copied to `data_dir`; None writes directly.

    It is `scratch_dir` if given. For a `data_dir` on Colab's Google Drive, it is a folder of the virtual machine.

    Raises:
        SaveError: Google Drive is not mounted, so records written there would be lost with the machine.
    """
    if COLAB_DRIVE not in data_dir.absolute().parents:
        return scratch_dir
    below = data_dir.absolute().relative_to(COLAB_DRIVE)
    if not (COLAB_DRIVE / below.parts[0]).is_dir():
        raise SaveError(
            f"data_dir is {data_dir} but Google Drive is not mounted", "set mount_drive = True and run all cells"
        )
    return scratch_dir or COLAB_SCRATCH / below


class Copies:
    """Copies files to a folder that may be slow or vanish, in a background thread that ends with this context.

    A request neither blocks nor fails. A failed copy is retried with the next request, and at once if that came while
    the copy was failing.

    Args:
        folder: destination. It is not created, because a lost mount must not become an ordinary folder.
        notice: called in the caller's thread when copying begins to fail and when it works again.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None]):
        self._folder, self._notice = folder, notice
        self._waiting: dict[Sequence[Path], bool] = {}  # files of a run -> whether to move them
        self._failed: dict[Sequence[Path], bool] = {}
        self._problem: str | None = None  # why the last copy failed
        self._is_told = False
        self._working = self._closed = False
        self._is_requested = False  # since the copy that is under way began
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"copies to {folder}", daemon=True).start()

    def request(self, files: Sequence[Path], *, move: bool = False) -> None:
        """Copy these files of a run in the state they are in at their turn; missing files are skipped.

        With `move`, a file that is missing here is also removed from the destination (a finished run has no
        checkpoint), and after the copy all files are removed here. A request replaces an earlier one for the same
        files that has not begun.
        """
        with self._changed:
            self._waiting = {**self._failed, **self._waiting, files: move}
            self._failed = {}
            self._is_requested = True
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
        """Wait at most that long for all copies. If some are missing, a notice names them; the originals remain."""
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
            reason = self._problem or f"not finished after {seconds:g} s"
            self._notice(
                f"{self._folder} lacks the newest files ({reason}); they are intact in {here}: "
                f"run this cell or command again to copy them"
            )

    def _tell(self) -> None:
        if bool(self._problem) != self._is_told:
            self._is_told = not self._is_told
            self._notice(
                f"not copied ({self._problem}); training continues, and the next epoch retries the copy"
                if self._problem
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
                self._working, self._is_requested = True, False
            try:
                for file in files:
                    if file.exists():
                        write_whole(self._folder / file.name, file.read_bytes())
                    elif move:
                        (self._folder / file.name).unlink(missing_ok=True)
                self._problem = None
            except (OSError, SaveError) as error:
                self._problem = error.problem if isinstance(error, SaveError) else first_line(error)
                with self._changed:
                    again = self._waiting if self._is_requested else self._failed
                    again.setdefault(files, move)
                continue
            if move:
                for file in files:
                    with contextlib.suppress(OSError):  # no failure: a retry would take the file for removed
                        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
