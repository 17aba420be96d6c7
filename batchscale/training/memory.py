"""Memory: running out of it on the device, freeing it, and keeping it in the process between updates."""

import contextlib
import ctypes
import gc
import math
import platform
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from batchscale.errors import first_line

# The messages of libraries without an exception of their own: the allocators of the CPU and of Apple's GPU, cuDNN,
# cuBLAS, and oneDNN, which reports no cause. Where oneDNN lacks an operation, it misses a "primitive descriptor".
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|could not create a primitive(?! descriptor)",
    re.IGNORECASE,
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of mallopt, from malloc.h
_MEGABYTE = 2**20


class OutOfMemory(Exception):
    """The device cannot hold `images` at once in `where`, `training` or `evaluation`: see `Training.limit`."""

    def __init__(self, images: int, where: str, error: BaseException):
        super().__init__(f"no room for {images} images at once in {where} ({reason(error)})")
        self.images, self.where = images, where


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or of a library below it reports a lack of memory."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def reason(error: BaseException) -> str:
    """The first line of an error's message, at most 100 characters."""
    return textwrap.shorten(first_line(error), 100, placeholder=" ...")


def free_memory() -> None:
    """Return unreferenced memory to the device, for example that of a training that ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def largest_that_fits(attempt: Callable[[int], None], images: int) -> int:
    """Bisect to within 1 in 32 for the most images, below `images`, that `attempt` has memory for; 0 if for none."""
    fits = 0
    while images - fits > max(1, images // 32):
        middle = (fits + images) // 2
        try:
            attempt(middle)
            fits = middle
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            images = middle
        free_memory()
    return fits


class Gauge:
    """The most memory that this process held on a device since the gauge was made, in bytes above what it held then.

    On a CPU it reads the resident memory of the process, on Linux alone; elsewhere, and on Apple's GPU, the peak is 0.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            with contextlib.suppress(OSError):  # resets the peak to what is held now
                Path("/proc/self/clear_refs").write_text("5")
            self._before = _resident("VmHWM")

    def peak(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        return _resident("VmHWM") - self._before if self.device.type == "cpu" else 0

    def room(self) -> float:
        """Bytes that are free now, on a CPU also within the limit of a container; infinite where nobody knows."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return min(_free(), _left_in_container()) if self.device.type == "cpu" else math.inf


def _resident(field: str) -> int:
    return _kilobytes(Path("/proc/self/status"), field) or 0


def _free() -> float:
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return math.inf if found is None else found


def _kilobytes(path: Path, field: str) -> int | None:
    """A field of one of Linux's tables, in bytes."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return 1024 * int(lines[field].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def _left_in_container() -> float:
    """What the control group of this process, version 2 or 1, leaves; infinite without one."""
    root = Path("/sys/fs/cgroup")
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            return int((root / most).read_text()) - int((root / used).read_text())
    return math.inf


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process for the next update; on exit the system gets it back.

    glibc otherwise returns every block above 32 MB to the system, which clears its pages before the next use. At
    B = 1024 clearing activations took a quarter of the training time (LOG.md). Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":  # Windows, macOS, musl
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # glibc adapts these two thresholds until one of them is set. They get the values at which it would end.
        libc.mallopt(_MMAP_MAX, 65_536)
        libc.mallopt(_MMAP_THRESHOLD, 32 * _MEGABYTE)
        libc.mallopt(_TRIM_THRESHOLD, 64 * _MEGABYTE)
        libc.malloc_trim(0)
