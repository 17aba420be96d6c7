"""What is recorded of a list of experiments, and what is not."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.records.tables import UnreadableRecord, to_frame
from batchscale.sweeps.options import places


def pending(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> list[Experiment]:
    """The experiments that are not fully recorded in `data_dir`, in the given order and without repetition.

    Raises:
        UserError: the files of another experiment have the same name, see `Record`.
    """
    data_dir, scratch = places(data_dir, scratch_dir)
    found = [latest(each, data_dir, scratch) for each in dict.fromkeys(experiments)]
    # A record that is finished in the scratch folder has still to be copied.
    return [record.experiment for record in found if not (record.finished and record.folder == data_dir)]


def recorded(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> pd.DataFrame:
    """The rows recorded so far of these experiments, finished or not; nothing is trained, locked or changed.

    One row per epoch, with the columns of `Epoch`, in the order of the experiments. An experiment that has not begun
    has no rows.

    Raises:
        UserError: the files of another experiment have the same name, or a file cannot be read, see `Record`.
    """
    return rows_in(experiments, *places(data_dir, scratch_dir))


def rows_in(experiments: Iterable[Experiment], data_dir: Path, scratch: Path | None) -> pd.DataFrame:
    """`recorded`, once the folders are known; `data_dir` may have vanished since."""
    rows = []
    for experiment in dict.fromkeys(experiments):
        rows += max(_in_both(experiment, data_dir, scratch, warnings.warn), key=lambda record: len(record.rows)).rows
    return to_frame(rows)


def latest(
    experiment: Experiment, data_dir: Path, scratch: Path | None, notice: Callable[[str], None] = warnings.warn
) -> Record:
    """The record of an experiment in `data_dir` or in the scratch folder, whichever is intact and more advanced."""
    found = _in_both(experiment, data_dir, scratch, notice)
    begun = [record for record in found if record.status != "new"]
    return max(begun, key=Record.updates_kept) if len(begun) > 1 else (begun or found)[0]


def _in_both(
    experiment: Experiment, data_dir: Path, scratch: Path | None, notice: Callable[[str], None]
) -> list[Record]:
    """The record in `data_dir`, if it is readable, and the one in the scratch folder, if there is such a folder."""
    found = [] if scratch is None else [Record(experiment, scratch, notice)]
    try:
        found.insert(0, Record(experiment, data_dir, notice))
    except UnreadableRecord as error:
        if not found or found[0].status == "new":
            raise
        notice(f"continuing from the files in {scratch}, because {error}")
    return found
