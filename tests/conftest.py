"""What several tests need."""

import os
from pathlib import Path

import pytest

# The networks of the tests are too small to gain from a second thread, and on a machine that is busy with other things
# two threads that wait for each other are many times slower than one. It holds for processes that tests start as well.
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = Path(__file__).resolve().parents[1]
FIRST_EDITION = PROJECT / "data" / "constant_rate"  # records that change no more
CIFAR10 = PROJECT.parent / "shared" / "cifar10"

needs_cifar10 = pytest.mark.skipif(
    not (CIFAR10 / "cifar-10-batches-py").is_dir(), reason=f"the official CIFAR-10 files are not in {CIFAR10}"
)
