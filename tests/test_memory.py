"""Memory kept during training and returned afterwards, by the page faults of a separate process; and the gauge."""

import gc
import subprocess
import sys

import pytest
import torch
from conftest import PROJECT

from batchscale.training.memory import Gauge

CODE = """
import resource
from pathlib import Path
import torch
from batchscale.training.memory import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 * 2**20)  # 256 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

pages = 256 * 2**20 // resource.getpagesize()
start = resident()
assert faults() > 9 * pages, "this machine keeps it in any case"
with memory_kept():
    faults()
    assert faults() < pages
    assert resident() > start + 200
assert resident() < start + 50
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_is_kept_inside_and_returned_on_exit():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the gauge reads /proc")
def test_gauge_sees_the_most_memory_that_was_held():
    """Also what is freed by then, and not what another gauge saw before."""
    megabyte = 2**20
    gc.collect()  # what other tests left behind, freed in between, would hide what is held here
    gauge = Gauge(torch.device("cpu"))
    assert 0 <= gauge.peak() < 5 * megabyte
    held = torch.ones(50 * megabyte // 4)
    del held
    assert 45 * megabyte < gauge.peak() < 70 * megabyte
    assert 0 <= Gauge(torch.device("cpu")).peak() < 5 * megabyte
    assert gauge.room() > 0
