"""The accuracy that a larger minibatch has to keep: that of the best small one, less a tolerance."""

from dataclasses import dataclass

import numpy as np

from batchscale.analysis.statistics import first_best, mean_interval
from batchscale.analysis.tables import final, stems
from batchscale.modes import REFERENCE
from batchscale.records.study import Study


@dataclass(frozen=True)
class Threshold:
    """The accuracy to keep, and what it rests on."""

    accuracy: float  # `best` less the tolerance
    best: float  # mean final accuracy of the best small batch size, or of all of them
    from_batch_size: int | None  # the best one; None for the mean of all
    tolerance: float
    by_seed: tuple[float, ...]  # final accuracies, whose mean is `best`
    records: tuple[str, ...] = ()  # names of the records that it rests on

    @property
    def seeds(self) -> int:
        """Seeds behind the mean."""
        return len(self.by_seed)

    @property
    def standard_deviation(self) -> float:
        """Of the final accuracy over seeds; NaN for one seed."""
        return float(np.std(self.by_seed, ddof=1)) if self.seeds > 1 else np.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `best`; NaN for one seed."""
        return mean_interval(self.by_seed)


def threshold(study: Study, tolerance: float = 0.01, of: str = "best") -> Threshold | None:
    """Best small batch size's mean final accuracy, less a tolerance (Masters & Luschi 2018 found 2-32 best).

    The best of several means is a little too high: by chance as well as by merit. `of="mean"` is free of that, and asks
    for less.

    Args:
        study: runs of any modes; those that diverged do not count.
        tolerance: absolute loss of accuracy, 0-1, that still counts as keeping it.
        of: "best", or "mean": of the batch sizes' means, each counting once.

    Returns:
        None where no run of the reference is finished. Of batch sizes with the same mean the smallest counts.

    Raises:
        ValueError: `of` is neither.
    """
    if of not in ("best", "mean"):
        raise ValueError(f"of is {of!r}; it must be best or mean")
    finals = final(study)
    small = finals[finals["experiment"] == REFERENCE.name].dropna(subset="accuracy")
    if small.empty:
        return None
    table = small.pivot_table("accuracy", "seed", "batch_size")
    best = int(first_best(table.mean()))
    if of == "best":
        table, small = table[[best]].dropna(), small[small["batch_size"] == best]
    # A seed that some batch sizes lack is judged by those it has, less what these have over the others.
    by_seed = (table - table.mean()).mean(axis=1) + table.mean().mean()
    return Threshold(
        accuracy=float(table.mean().mean()) - tolerance,
        best=float(table.mean().mean()),
        from_batch_size=best if of == "best" else None,
        tolerance=tolerance,
        by_seed=tuple(by_seed.tolist()),
        records=tuple(stems(small)),
    )
