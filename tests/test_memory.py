"""Memory kept during training and returned afterwards, measured by the page faults of a separate process."""

import subprocess
import sys

import pytest
from conftest import PROJECT

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
