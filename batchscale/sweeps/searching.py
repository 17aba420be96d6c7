"""A search as a source of runs: it reads the folder, and chooses the next run anew whenever one has ended.

Processes, notebooks and machines that search one folder share it through the lock files, as sweeps do: a run whose lock
is held by another is under way, and counts as its expected result.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import pandas as pd

from batchscale.analysis.search import Runs, Search, known, rank
from batchscale.analysis.statistics import at_least
from batchscale.epoch import Epoch
from batchscale.experiment import Experiment
from batchscale.modes import MODES, REFERENCE
from batchscale.records.files import Busy, SaveError, lock
from batchscale.records.study import Run
from batchscale.sweeps.grid import grid
from batchscale.sweeps.options import Options
from batchscale.sweeps.pending import latest

_MARGIN = 1.5  # times the largest gain so far
_LEAST_CURVES = 3


class Searching:
    """The `Source` of a search.

    Args:
        search: what is looked for.
        settings: fields of the experiments; those of a rule belong to names of the user's own.
        options: where the records are.

    Attributes:
        cost: seconds of a run.
        gives_up: whether runs that are clearly lost are stopped, see `at_most`.
        deadline: end of the time, on `clock`. While some useful run fits into what is left of it, no other is begun.
    """

    most = math.inf
    is_single = False

    def __init__(
        self, search: Search, settings: dict, options: Options, cost: Callable[[str, int], float] | None = None
    ):
        self.search, self.settings, self.options, self.cost = search, settings, options, cost
        self.deadline, self.clock, self.gives_up = math.inf, time.monotonic, False
        self._failed: set[Run] = set()
        self._ended: dict[Run, float | None] = {}  # final accuracy; None: it diverged
        self._curves: dict[Run, list[float]] = {}  # accuracy by epoch, of the runs that are complete
        self._ranked: tuple[tuple, list[Run]] = ((), [])

    def share(self, context) -> None:
        """Processes have nothing in common but the folder."""

    def experiment(self, run: Run) -> Experiment:
        """The experiment of a run."""
        name, size, seed = run
        rule = MODES[name].rule if name in MODES else {}
        return grid(name, size, seed, **self.settings | rule)[0]

    def runs(self, elsewhere: Collection[Experiment] = ()) -> Runs:
        """The runs in the folder.

        Raises:
            UserError: a record belongs to another experiment, or cannot be read.
        """
        held = {*self._held(), *map(_run, elsewhere)}  # before the records: a run may end meanwhile
        begun = set()
        for run in self._recorded():
            if run not in self._ended and run not in held and not self._read(run):
                begun.add(run)
        for run in held & set(self._recorded()):  # one that ended, and is about to be unlocked
            if run not in self._ended:
                self._read(run)
        rows = [(*run, value) for run, value in sorted(self._ended.items()) if value is not None]
        return Runs(
            finals=pd.DataFrame(rows, columns=["experiment", "batch_size", "seed", "accuracy"]),
            diverged=tuple(sorted(run for run, value in self._ended.items() if value is None)),
            begun=tuple(sorted(filter(self._is_wanted, begun))),
            under_way=tuple(sorted(held - set(self._ended))),
            failed=tuple(sorted(self._failed)),
        )

    def offers(self, elsewhere: Collection[Experiment] = ()) -> list[Experiment]:
        """The runs to train now, best first; while others train the last ones that are needed, those."""
        runs = self.runs(elsewhere)
        state = (runs.taken, runs.begun, runs.under_way)
        if state != self._ranked[0]:
            self._ranked = state, rank(self.search, runs, self.cost)
        left = self.deadline - self.clock()
        fitting = [run for run in self._ranked[1] if self.cost(*run[:2]) <= left]
        others = [run for run in runs.under_way if self.experiment(run) not in elsewhere and run not in self._failed]
        return list(map(self.experiment, [*fitting, *self._ranked[1], *others]))

    def may_train(self, experiment: Experiment) -> bool:
        """Whether it did not fail in this process."""
        return _run(experiment) not in self._failed

    def at_most(self, experiment: Experiment, rows: Sequence[Epoch]) -> float | None:
        """Whether a run is lost, from half of its epochs on: it would have to gain one and a half times as much as any
        complete run gained from there, of at least three, to come within a tolerance below the threshold."""
        done = len(rows)
        if not self.gives_up or 2 * done < experiment.epochs:
            return None
        now = known(self.search, self.runs())
        gains = [curve[-1] - curve[done - 1] for curve in self._curves.values()]
        if now.threshold is None or len(gains) < _LEAST_CURVES:
            return None
        at_most = rows[-1].accuracy + _MARGIN * max(0.0, *gains)
        return None if at_least(at_most, now.threshold.accuracy - self.search.tolerance) else at_most

    def fail(self, experiment: Experiment) -> None:
        """Never offer it again."""
        self._failed.add(_run(experiment))

    def end(self, experiment: Experiment) -> None:
        """Its record says so, unless it was left to another process."""
        if self.options.when_locked == "leave" and _run(experiment) in self._held():
            self._failed.add(_run(experiment))

    def _held(self) -> Iterator[Run]:
        """The runs whose locks others hold. Locks that nobody holds are removed."""
        for path in self.options.folder.glob(".*.lock"):
            run = self._run_of(path.name[1:].removesuffix(".lock"))
            if run is not None:
                try:
                    with contextlib.suppress(SaveError), lock(path, self.options.holder):
                        pass
                except Busy:
                    yield run

    def _recorded(self) -> list[Run]:
        """The runs with a sidecar or a CSV."""
        folders = filter(None, (self.options.data_dir, self.options.scratch_dir))
        stems = {path.stem for folder in folders for ending in ("json", "csv") for path in folder.glob(f"*.{ending}")}
        return sorted(filter(None, map(self._run_of, stems)))

    def _read(self, run: Run) -> bool:
        """Take note of a run that ended; whether it did."""
        experiment = self.experiment(run)
        record = latest(experiment, self.options.data_dir, self.options.scratch_dir, lambda line: None)
        lost = record.noted.get("lost")
        if record.finished and record.status != "diverged":
            self._curves[run] = [row.accuracy for row in record.rows[: experiment.epochs]]
        if record.finished:
            self._ended[run] = None if record.status == "diverged" else self._curves[run][-1]
        elif lost is not None:
            self._ended[run] = lost["at_most"]
        return run in self._ended

    def _run_of(self, stem: str) -> Run | None:
        parts = re.fullmatch(r"(.+)_bs(\d+)_seed(\d+)", stem)
        if parts is None or parts[1] not in self.search.all_modes:
            return None
        return parts[1], int(parts[2]), int(parts[3])

    def _is_wanted(self, run: Run) -> bool:
        """Whether an unfinished run is one that the search might have begun."""
        return run[1] in self.search.small if run[0] == REFERENCE.name else run[1] <= self.search.largest


def _run(experiment: Experiment) -> Run:
    return experiment.name, experiment.batch_size, experiment.seed
