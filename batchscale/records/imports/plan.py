"""Logs to records, with everything that was guessed on the way; nothing is written here.

planned = plan([Path("runs")], Choices(name="mine", batch_size="bs{}"))
print(planned)                          # which columns, batch sizes and seeds; what was assumed
planned.contents                        # the CSVs by name
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd

from batchscale.epoch import COLUMNS
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import csvs
from batchscale.records.csvs import GOALS, RESULTS, RUN
from batchscale.records.imports.columns import OURS, guessed
from batchscale.records.imports.formats import Log, read
from batchscale.records.imports.rows import Choices, Rows, are_percent, rows_of


@dataclass(frozen=True)
class Run:
    """One run to be recorded."""

    log: Log
    epochs: pd.DataFrame
    results: pd.DataFrame

    @property
    def run(self) -> tuple[str, int, int]:
        return next((self.results if self.epochs.empty else self.epochs)[RUN].itertuples(index=False, name=None))

    @property
    def file(self) -> str:
        return "{}_bs{}_seed{}.csv".format(*self.run)

    @property
    def content(self) -> bytes:
        """The CSV: the columns that are known; floats in the shortest form that reads back exactly."""
        known = self.epochs.dropna(axis=1, how="all")
        table = known[[column for column in COLUMNS if column in known]]
        if len(self.results):
            renamed = {
                "updates": RESULTS[1],
                "epochs": RESULTS[2],
                "running_time": RESULTS[3],
                "updates_trained": "updates",
            }
            results = self.results[[*RUN, *GOALS]].rename(columns=renamed)
            empty = [name for name in results.columns[results.isna().all()] if name != "updates_to_target"]
            results = results.drop(columns=empty)
            table = results.merge(table, on=RUN) if len(table) else results
        whole = [name for name in table.select_dtypes("float") if (table[name].dropna() % 1 == 0).all()]
        whole = [name for name in whole if name in ("epoch", "updates", "updates_to_target")]
        return table.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False, lineterminator="\n").encode()

    def __str__(self) -> str:
        number = len(self.results if self.epochs.empty else self.epochs)
        plural = "s" * (number > 1)
        if self.epochs.empty:
            what = f"updates to {number} target{plural}"
        elif self.epochs[["epoch", "updates"]].isna().all(axis=None):
            what = f"final accuracy {self.epochs['accuracy'].iloc[0]:.4g}"
        else:
            what = f"{number} evaluation{plural}, accuracy {self.epochs['accuracy'].iloc[-1]:.4g} at the end"
        return f"{self.file}: {what}, from {self.log}"


@dataclass(frozen=True)
class Plan:
    """What an import would write, and what was guessed: `print(plan)` shows both."""

    runs: Sequence[Run]
    guesses: Mapping[str, Sequence[str]]  # log -> what was understood

    @property
    def contents(self) -> dict[str, bytes]:
        return {run.file: run.content for run in self.runs}

    def __str__(self) -> str:
        same: dict[tuple[str, ...], list[str]] = {}
        for path, guess in self.guesses.items():
            same.setdefault(tuple(guess), []).append(path)
        lines = []
        for guess, paths in same.items():
            others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines += [f"{paths[0]}{others}: {guess[0]}", *(f"    {line}" for line in guess[1:])]
        return "\n".join([*lines, *map(str, self.runs)])


def plan(sources: Sequence[Path], choices: Choices) -> Plan:
    """What these logs would become.

    Raises:
        UserError: a log cannot be read or understood; the message says which flag decides.
    """
    if choices.name is not None:
        Experiment(name=choices.name, batch_size=1)  # refuses what no file can be called
    understood = [(log, *guessed(log, choices.given(log))) for source in sources for log in read(source)]
    is_percent = are_percent([(log, columns) for log, columns, _ in understood], choices)
    runs: dict[tuple, Run] = {}
    guesses: dict[str, list[str]] = {}
    for log, columns, of_columns in understood:
        rows, of_rows = rows_of(log, columns, choices, is_percent)
        new, of_runs = _runs(log, rows, runs)
        runs |= new
        used = [f"{ours} = {columns[ours]}" for ours in OURS if ours in columns and (ours in rows or ours == "error")]
        guesses[str(log)] = [f"read as {log.kind}", ", ".join(used), *log.notes, *of_columns, *of_rows, *of_runs]
    if not runs:
        raise UserError(
            f"there is no run in {', '.join(map(str, sources)) or 'no file'}; name a log with rows to import"
        )
    return Plan(list(runs.values()), guesses)


def _runs(log: Log, rows: Rows, others: Mapping[tuple, Run]) -> tuple[dict[tuple, Run], list[str]]:
    """The runs of a log that is checked as a CSV is, and what was assumed. An unknown seed is the next that is free."""
    lines = list(zip(log.lines, map(list, zip(*rows.values(), strict=True)), strict=True))
    remedy = "correct it, or choose other columns with --columns"
    epochs, results = csvs.log(log.path, list(rows), lines, remedy)
    notes = [] if "seed" in rows else ["seeds are numbered in the order of the logs"]
    first = min((float(text) for text in rows.get("epoch", ()) if text), default=1)
    if first == 0 and epochs["epoch"].min() >= 1:
        notes.append("epochs are counted from 0 there, and from 1 here")
    found = pd.concat([epochs[RUN], results[RUN]] if len(results) else [epochs[RUN]]).drop_duplicates()
    runs: dict[tuple, Run] = {}
    for run in found.itertuples(index=False, name=None):
        parts = [part[(part[RUN] == list(run)).all(axis=1)] for part in (epochs, results)]
        if "seed" not in rows:
            seed = next(seed for seed in count() if (*run[:2], seed) not in {**others, **runs})
            parts = [part.assign(seed=seed) for part in parts]
        new = Run(log, *(part.reset_index(drop=True) for part in parts))
        if new.run in others:
            raise UserError(
                f"{others[new.run].log} and {log} would both be written as {new.file}; tell them apart with --seed, or "
                f"import them under two names"
            )
        runs[new.run] = new
    return runs, notes
