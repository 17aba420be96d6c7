"""Lets the permissions of files count in tests that root runs, who may otherwise read and write everything."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import pytest

_VERSION = 0x20080522  # of the Linux kernel's capget and capset
_OVERRIDE = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def as_any_user() -> Iterator[None]:
    """Inside, this thread may do what permissions allow, and no more."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read and write everything here")
    kernel = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable: the lower 32 of each, then the upper
    assert kernel.capget(header, rights) == 0
    effective = rights[0]
    rights[0] &= ~_OVERRIDE
    assert kernel.capset(header, rights) == 0
    try:
        yield
    finally:
        rights[0] = effective
        assert kernel.capset(header, rights) == 0
