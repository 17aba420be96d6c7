"""Where and how a sweep trains: nothing that the numbers depend on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchscale.experiment import Experiment
from batchscale.records.files import scratch_of

SAVE_SECONDS = 180  # a long epoch is saved in the middle that often
WAIT_SECONDS = 0.5  # between two looks at a run that another process is training

WhenLocked = Literal["wait", "leave"]
OnOutOfMemory = Literal["split", "stop"]
Engine = Literal["processes", "ray"]
Report = Callable[[str, Experiment, object], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a sweep trains: nothing that the numbers depend on."""

    data_dir: Path
    data_root: str | os.PathLike | None
    scratch: Path | None
    when_locked: WhenLocked
    on_out_of_memory: OnOutOfMemory
    save_seconds: float
    sweep: str  # who holds the locks: the process that the user started, for all its workers

    @property
    def folder(self) -> Path:
        """Where files are written first, and where locks are."""
        return self.scratch or self.data_dir

    def lock_file(self, experiment: Experiment) -> Path:
        """Held by whoever trains it."""
        return self.folder / f".{experiment.stem}.lock"


def places(data_dir, scratch_dir) -> tuple[Path, Path | None]:
    data_dir = Path(data_dir).expanduser()
    return data_dir, scratch_of(data_dir, None if scratch_dir is None else Path(scratch_dir).expanduser())
