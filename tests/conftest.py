"""What several tests need."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
CIFAR10 = PROJECT.parent / "shared" / "cifar10"

needs_cifar10 = pytest.mark.skipif(
    not (CIFAR10 / "cifar-10-batches-py").is_dir(), reason=f"the official CIFAR-10 files are not in {CIFAR10}"
)
