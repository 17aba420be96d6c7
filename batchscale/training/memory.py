"""Memory that a process keeps while it trains, instead of giving it back to the system after every update.

glibc gets a block of more than 32 MB from the system each time it is asked for one, and gives it back as soon as it is
freed; the system clears every page again. The activations of a large minibatch are such blocks, so that a quarter of
the time at B = 1024 went into clearing them (LOG.md). Nothing happens where the C library is another one.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt, in malloc.h
_MEGABYTE = 2**20


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, memory that is freed stays with the process, for the next update; afterwards the system has it back."""
    try:
        is_glibc = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        is_glibc = False
    if not is_glibc:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # glibc moves these two thresholds by itself until they are first set; now they stay where it would end.
        libc.mallopt(_MMAP_MAX, 65_536)
        libc.mallopt(_MMAP_THRESHOLD, 32 * _MEGABYTE)
        libc.mallopt(_TRIM_THRESHOLD, 64 * _MEGABYTE)
        libc.malloc_trim(0)
