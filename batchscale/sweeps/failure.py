"""Why a run of a sweep was not finished, as a value; its words are made here alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from batchscale.errors import UserError
from batchscale.experiment import Experiment


@dataclass(frozen=True)
class Failure:
    """An experiment that failed and why; without an experiment, the sweep itself failed."""

    experiment: Experiment | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.experiment is None else f"{self.experiment}: {self.reason}"

    @property
    def line(self) -> str:
        """The line that reports it while the sweep continues."""
        return f"{self.experiment}: failed, {self.reason}"


def as_error(failures: Iterable[Failure]) -> UserError:
    """All failures as one error. A failure that several processes report is named once."""
    return UserError("; ".join(map(str, dict.fromkeys(failures))))
