"""Many runs: what is recorded is skipped, what is not is trained, one after another or side by side."""

from batchscale.sweeps.grid import grid, shard
from batchscale.sweeps.pending import pending
from batchscale.sweeps.signals import Stopped
from batchscale.sweeps.sweep import run

__all__ = ["Stopped", "grid", "pending", "run", "shard"]
