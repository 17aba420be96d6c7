"""Where the processes of a sweep get their runs from: a list, or a search that chooses anew after every run."""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from batchscale.epoch import Epoch
from batchscale.experiment import Experiment


class Source(Protocol):
    """What `Process.work` and its relatives train. Each process has a copy of its own."""

    most: float
    """of runs at the same time"""
    is_single: bool
    """whether it is one run, whose failure is told once"""

    def share(self, context) -> None:
        """Prepare to be sent to the processes that this multiprocessing context starts."""

    def offers(self, elsewhere: Collection[Experiment] = ()) -> list[Experiment]:
        """The experiments to train now, best first; the first that nobody else trains is taken. None: nothing remains.

        Args:
            elsewhere: those that this process has others train.

        Raises:
            UserError: a file of the runs so far cannot be read.
        """

    def may_train(self, experiment: Experiment) -> bool:
        """Whether a locked experiment has not failed in another process meanwhile."""

    def at_most(self, experiment: Experiment, rows: Sequence[Epoch]) -> float | None:
        """The accuracy that a run can still reach after these epochs, if it is lost and to be stopped; None: it goes
        on."""

    def fail(self, experiment: Experiment) -> None:
        """Note, before its lock is released, that an experiment failed."""

    def end(self, experiment: Experiment) -> None:
        """Note that an experiment ended, in this process or in another one, and need not be offered again."""


class Listed:
    """A list of experiments, in its order; what failed in one process is not tried again in another."""

    def __init__(self, experiments: Iterable[Experiment]):
        self._places = {experiment: place for place, experiment in enumerate(experiments)}
        self._left = dict.fromkeys(self._places)
        self._failed = bytearray(len(self._places))
        self.most, self.is_single = len(self._places), len(self._places) == 1

    def share(self, context) -> None:
        self._failed = context.RawArray("b", len(self._places))  # no lock, which a killed process would never release

    def offers(self, elsewhere: Collection[Experiment] = ()) -> list[Experiment]:
        return [experiment for experiment in self._left if experiment not in elsewhere]

    def may_train(self, experiment: Experiment) -> bool:
        return not self._failed[self._places[experiment]]

    def at_most(self, experiment: Experiment, rows: Sequence[Epoch]) -> float | None:
        return None

    def fail(self, experiment: Experiment) -> None:
        self._failed[self._places[experiment]] = 1

    def end(self, experiment: Experiment) -> None:
        self._left.pop(experiment, None)
