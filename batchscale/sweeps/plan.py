"""What a sweep will train, as a table before it begins.

plan(grid("scaled_lr", [128, 256], seeds=[0, 1]), data_dir="data")
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from batchscale.analysis.words import count, duration, number
from batchscale.experiment import Experiment
from batchscale.records.record import Record
from batchscale.sweeps.cost import Cost
from batchscale.sweeps.options import places
from batchscale.sweeps.pending import latest, trained
from batchscale.sweeps.processes import cores

_SECONDS = 4.0  # for timing


def plan(
    experiments: Iterable[Experiment],
    *,
    data_dir: str | os.PathLike = "data",
    data_root: str | os.PathLike | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """One row per batch size, and one for all: the learning rate, what is recorded, and how long the rest will take.

    Times are those of a few updates of every batch size, the small ones first; larger ones than can be timed within
    seconds are taken to need as much time per image as the largest that was. Nothing is timed if nothing is left to
    train. On a CPU, workers train at the same time with an equal share of the cores; on a GPU they share it.

    Args:
        experiments: runs that differ in batch size and seed alone.
        data_dir, data_root, workers: as `Options`.

    Returns:
        By batch size: `k`, B / B_ref; `learning rate`, after the warm-up and before any decay; `updates per epoch`;
        `recorded`, in epochs; and `time left`.

    Raises:
        UserError: a record belongs to another experiment, or the data set or the network fails.
    """
    folder, scratch = places(data_dir, None)
    runs = dict.fromkeys(trained(experiments, folder, scratch).values())
    records = {run: latest(run, folder, scratch, lambda line: None) for run in runs}
    left = {run: 0 if records[run].trained else run.epochs - len(records[run].rows) for run in runs}
    times = _times([run for run in runs if left[run]], data_root, workers)
    rows, seconds = {}, []
    for size in dict.fromkeys(run.batch_size for run in runs):
        alike = [run for run in runs if run.batch_size == size]
        seconds += [left[run] * times.cost("", size) if left[run] else 0.0 for run in alike]
        kept = [row for run in alike for row in records[run].rows]
        rows[size] = {
            "k": f"{size / alike[0].reference_batch_size:g}",
            "learning rate": f"{alike[0].scale * alike[0].base_lr:.3g}",
            "updates per epoch": number(round(kept[0].updates) if kept else times.images // size),
            "recorded": _recorded(alike, records),
            "time left": duration(sum(seconds[-len(alike) :])),
        }
    total = max(sum(seconds) / times.at_once, max(seconds)) if seconds else 0.0
    rows["all"] = {"recorded": _recorded(list(runs), records), "time left": duration(total)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("batch size").fillna("")


@dataclass(frozen=True)
class _Times:
    """What is known about the time of runs: of an epoch, images in it, and how many runs are trained at once."""

    cost: Cost | None
    images: int
    at_once: int


def _times(todo: list[Experiment], data_root: str | os.PathLike | None, workers: int) -> _Times:
    """Measured on this device; nothing is, where nothing is to do."""
    if not todo:
        return _Times(None, 0, 1)
    import torch

    from batchscale.training import datasets, throughput
    from batchscale.training.device import select_device

    first = todo[0]
    data = datasets.load(first.dataset, data_root)
    is_shared = workers > 1 and select_device(first.device).type == "cpu"
    threads = torch.get_num_threads()
    try:
        if is_shared:
            torch.set_num_threads(max(1, cores() // workers))
        largest = max(run.batch_size for run in todo)
        found = throughput.measure(first, data, seconds=_SECONDS, largest=largest)
    finally:
        torch.set_num_threads(threads)
    images = len(data.first(first.train_size).train_images)
    speeds = tuple((speed.batch_size, speed.seconds) for speed in found.speeds)
    cost = Cost(speeds, found.evaluation_seconds, epochs=1, images=images)
    return _Times(cost, images, min(workers, len(todo)) if is_shared else 1)


def _recorded(runs: list[Experiment], records: dict[Experiment, Record]) -> str:
    """Epochs that are recorded, of those that are wanted."""
    kept = sum(min(len(records[run].rows), run.epochs) for run in runs)
    diverged = sum(records[run].status == "diverged" for run in runs)
    shown = f"{number(kept)} of {number(sum(run.epochs for run in runs))} epochs"
    return f"{shown}, {count(diverged, 'run')} diverged" if diverged else shown
