"""What of a list of experiments is not recorded yet."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.records.tables import UnreadableRecord
from batchscale.sweeps.options import places


def pending(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> list[Experiment]:
    """Those of the experiments that are not yet recorded in `data_dir`, in the same order; each named once.

    Raises:
        UserError: a file name is taken by another experiment, see `records.Record`.
    """
    data_dir, scratch = places(data_dir, scratch_dir)
    keepers = [latest(each, data_dir, scratch) for each in dict.fromkeys(experiments)]
    # What is finished in the scratch folder is still to be copied.
    return [keeper.experiment for keeper in keepers if not (keeper.finished and keeper.folder == data_dir)]


def latest(
    experiment: Experiment, data_dir: Path, scratch: Path | None, notice: Callable[[str], None] = warnings.warn
) -> Record:
    """The record of an experiment in `data_dir` or in the scratch folder, whichever has more and is whole."""
    keepers = [Record(experiment, scratch, notice)] if scratch is not None else []
    try:
        keepers.insert(0, Record(experiment, data_dir, notice))
    except UnreadableRecord as error:
        if not keepers or keepers[0].status == "new":
            raise
        notice(f"{str(error).partition(';')[0]}; going on from the files in {scratch}")
    begun = [keeper for keeper in keepers if keeper.status != "new"]
    return max(begun, key=Record.updates_kept) if len(begun) > 1 else (begun or keepers)[0]
