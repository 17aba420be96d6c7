"""Records to results: pure functions on tidy frames, a row an epoch (see `records.load`).

records = load("data")
threshold(records).accuracy                  # what a larger minibatch has to keep
over_seeds(final(records), "accuracy")       # mean, lowest and highest of the seeds, a row a batch size and mode
"""

from dataclasses import dataclass

import pandas as pd

RUN = ["experiment", "batch_size", "seed"]  # what tells one run from another


@dataclass(frozen=True)
class Threshold:
    """The accuracy that a large minibatch has to keep."""

    accuracy: float  # best mean final accuracy less the tolerance
    best: float  # mean final accuracy of the best small batch size
    from_batch_size: int
    tolerance: float
    seeds: int  # runs behind the mean


def planned_epochs(records: pd.DataFrame) -> pd.Series:
    """Epochs after which the runs of a mode are compared: the commonest length of its runs, the longest of equals.

    The CSVs do not say how many epochs were planned. By this rule one run that was extended does not make all others
    look unfinished, nor one that was killed look finished. A series by experiment.
    """
    lengths = records.groupby(RUN)["epoch"].max()
    return lengths.groupby("experiment").agg(lambda of_mode: of_mode.mode().max())


def final(records: pd.DataFrame) -> pd.DataFrame:
    """The row of every run at its mode's `planned_epochs`; runs that diverged or are under way have none."""
    return records[records["epoch"] == records["experiment"].map(planned_epochs(records))].reset_index(drop=True)


def unfinished(records: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run that `final` leaves out."""
    last = records.sort_values("epoch").groupby(RUN, as_index=False).tail(1)
    return last[last["epoch"] < last["experiment"].map(planned_epochs(records))].reset_index(drop=True)


def over_seeds(records: pd.DataFrame, column: str, by: tuple[str, ...] = ("experiment", "batch_size")) -> pd.DataFrame:
    """Mean, lowest and highest value of a column over the seeds, and how many there are: a row a group of `by`."""
    table = records.groupby(list(by))[column].agg(mean="mean", low="min", high="max", seeds="count")
    return table.reset_index()


def threshold(records: pd.DataFrame, tolerance: float = 0.01, experiment: str = "baseline_small") -> Threshold | None:
    """Best small batch size's mean final accuracy, less a tolerance (Masters & Luschi 2018 found 2-32 best).

    Args:
        records: tidy frame of any modes.
        tolerance: absolute loss of accuracy, in 0-1, that still counts as keeping it.
        experiment: the mode whose batch sizes set it.

    Returns:
        None where no run of that mode is finished. Of batch sizes with the same mean the smallest counts.
    """
    small = over_seeds(final(records[records["experiment"] == experiment]), "accuracy")
    if small.empty:
        return None
    best = small.loc[small["mean"].idxmax()]
    return Threshold(
        accuracy=float(best["mean"]) - tolerance,
        best=float(best["mean"]),
        from_batch_size=int(best["batch_size"]),
        tolerance=tolerance,
        seeds=int(best["seeds"]),
    )
