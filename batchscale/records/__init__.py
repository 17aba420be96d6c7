"""The files of runs: written whole, locked, resumed, and read as tables."""

from batchscale.records.record import Record
from batchscale.records.study import Study
from batchscale.records.tables import digest, load

__all__ = ["Record", "Study", "digest", "load"]
