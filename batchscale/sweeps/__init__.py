"""Many runs: recorded ones are skipped, the others are trained one after another or in parallel."""

from batchscale.sweeps.advise import advise
from batchscale.sweeps.directories import directories
from batchscale.sweeps.find import find
from batchscale.sweeps.grid import grid, shard
from batchscale.sweeps.mistakes import mistakes
from batchscale.sweeps.pending import pending, recorded
from batchscale.sweeps.plan import plan
from batchscale.sweeps.signals import Stopped
from batchscale.sweeps.sweep import run

__all__ = [
    "Stopped",
    "advise",
    "directories",
    "find",
    "grid",
    "mistakes",
    "pending",
    "plan",
    "recorded",
    "run",
    "shard",
]
