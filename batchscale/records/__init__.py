"""The files of runs: written whole, locked, resumed, and read as tables."""

from batchscale.records.record import Record
from batchscale.records.tables import digest, diverged, load, sidecars

__all__ = ["Record", "digest", "diverged", "load", "sidecars"]
