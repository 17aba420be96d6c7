"""What is recorded of a list of experiments, and what is not."""

import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import REFERENCE
from batchscale.records.record import Record
from batchscale.records.study import RULE
from batchscale.records.tables import UnreadableRecord, to_frame
from batchscale.sweeps.options import places
from batchscale.sweeps.same import joined, may_be_the_references, stripped


def pending(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> list[Experiment]:
    """The experiments that would be trained, as they are not fully recorded in `data_dir`: in the given order, without
    repetition, and each under the name that `trained` gives it.

    Raises:
        UserError: the files of another experiment have the same name, see `Record`.
    """
    data_dir, scratch = places(data_dir, scratch_dir)
    return unfinished(trained(experiments, data_dir, scratch).values(), data_dir, scratch)


def unfinished(experiments: Iterable[Experiment], data_dir: Path, scratch: Path | None) -> list[Experiment]:
    """`pending`, once it is known under which names the experiments are trained."""
    found = [latest(each, data_dir, scratch) for each in dict.fromkeys(experiments)]
    # A record that is finished in the scratch folder has still to be copied.
    return [record.experiment for record in found if not (record.finished and record.folder == data_dir)]


def recorded(
    experiments: Iterable[Experiment], data_dir: str | os.PathLike, scratch_dir: str | os.PathLike | None = None
) -> pd.DataFrame:
    """The rows recorded so far of these experiments, finished or not; nothing is trained, locked or changed.

    One row per epoch, with the columns of `Epoch`, in the order of the experiments. An experiment that has not begun
    has no rows. One that is trained under another name, see `trained`, has the rows of that run, which keep the name in
    the column `experiment`.

    Raises:
        UserError: the files of another experiment have the same name, or a file cannot be read, see `Record`.
    """
    data_dir, scratch = places(data_dir, scratch_dir)
    return rows_in(trained(experiments, data_dir, scratch).values(), data_dir, scratch)


def rows_in(experiments: Iterable[Experiment], data_dir: Path, scratch: Path | None) -> pd.DataFrame:
    """`recorded`, once names and folders are known; `data_dir` may have vanished since."""
    rows = []
    for experiment in dict.fromkeys(experiments):
        rows += max(_in_both(experiment, data_dir, scratch, warnings.warn), key=lambda record: len(record.rows)).rows
    return to_frame(rows)


def trained(experiments: Iterable[Experiment], data_dir: Path, scratch: Path | None) -> dict[Experiment, Experiment]:
    """By experiment, the one that is trained for it: mostly itself, or one that trains the same, see `same.joined`.

    An experiment with a record of its own keeps it. Any other is trained as the reference, if an experiment of the
    reference that trains the same is in the list or recorded. Without one, experiments that are one run are trained
    under the first of their names that is recorded, or else under the first.

    Raises:
        UserError: the files of another experiment have the name of one of these. Files of the reference that only have
            the same name are no record of it, and raise nothing.
    """
    experiments, found = list(experiments), {}
    for run in joined(experiments):
        reference = next((each for each in run if each.name == REFERENCE.name), None)
        reference = reference or _recorded_reference(run[0], data_dir, scratch)
        if len(run) == 1 and reference in (None, run[0]):
            found[run[0]] = run[0]
            continue
        own = [each for each in run if _is_recorded(each, data_dir, scratch)]
        once = reference or (own or run)[0]
        found |= {each: each if each in own else once for each in run}
    return {each: found[each] for each in experiments}


def _recorded_reference(experiment: Experiment, data_dir: Path, scratch: Path | None) -> Experiment | None:
    """The reference's experiment that trains the same as this one, if it is recorded, with the rule that it noted."""
    if not may_be_the_references(experiment):
        return None
    run = stripped(experiment)
    for folder in filter(None, (data_dir, scratch)):
        try:
            noted = replace(run, **(_noted_rule(folder / f"{run.stem}.json") or REFERENCE.rule))
            if stripped(noted) == run and _is_recorded(noted, data_dir, scratch):
                return noted
        except UserError:  # a record of other settings, or one that cannot be read
            continue
    return None


def _noted_rule(sidecar: Path) -> dict:
    """The rule in a sidecar, of which parts may do nothing; empty where there is none to read."""
    try:
        kept = json.loads(sidecar.read_text(encoding="utf-8"))["experiment"]
        return {field: kept[field] for field in RULE}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _is_recorded(experiment: Experiment, data_dir: Path, scratch: Path | None) -> bool:
    """Whether it was begun, in either folder."""
    found = _in_both(experiment, data_dir, scratch, lambda line: None)  # whoever reads the record gives the notice
    return any(record.status != "new" for record in found)


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
