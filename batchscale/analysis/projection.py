"""Time to target on more workers than there are: T(N) = updates(B) · (compute(⌈B/N⌉) + all-reduce(N, bytes)).

    found = project(Study.load("data"), parameters=371_634)
    found.modes["scaled_lr"].scalings["ethernet"].pays_up_to.workers
    print(terminal.projection_text(found, width=80))

Updates and the compute time of an update are those on record; a worker is whatever trained them. Workers compute their
shares of a minibatch at the same time, then exchange gradients in a ring, and nothing overlaps. Assumption: as many
updates are needed when batch norm sees a worker's share, B/N images, in place of B. Pure functions: no files, no clock.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import optimize

from batchscale.analysis import tables
from batchscale.analysis.findings import analyse
from batchscale.analysis.reasons import Reason
from batchscale.analysis.statistics import SLACK, at_least
from batchscale.modes import Mode
from batchscale.records.study import Run, Study

SAVING = 0.1  # more workers pay while twice as many save at least this share of the time
MEANING = (
    f"More workers pay while doubling them saves at least {100 * SAVING:g} % of the time. They are half efficient "
    f"while T(1)/(N·T(N)) is at least ½. T(N) is that of the best recorded B."
)


@dataclass(frozen=True)
class Interconnect:
    """What joins the workers: n bytes reach the next one after latency + n/bandwidth."""

    latency: float  # α, seconds a message
    bandwidth: float  # β, bytes per second that a worker sends, while it receives as many
    source: str

    @property
    def is_free(self) -> bool:
        """Whether an exchange costs nothing."""
        return self.latency == 0 and math.isinf(self.bandwidth)


INTERCONNECTS = {
    # 50 µs is an ordinary time between two programs through the kernels' TCP, of which the wire takes little.
    "ethernet": Interconnect(50e-6, 10e9 / 8, "10 Gigabit Ethernet with TCP; assumed"),
    # NCCL's own model takes 2.7 to 14 µs a step of a ring over a network (src/graph/tuning.cc, by protocol).
    "fast": Interconnect(5e-6, 200e9 / 8, "InfiniBand HDR, 200 Gbit/s, with NCCL; assumed"),
    "none": Interconnect(0.0, math.inf, "exchange that costs nothing: the bound"),
}


def ring_allreduce_seconds(workers: int, size: float, latency: float, bandwidth: float) -> float:
    """Seconds in which N workers in a ring sum a buffer of n bytes: 2(N−1)·α + 2(N−1)/N · n/β.

    In N−1 steps each worker passes on 1/N of the buffer and adds what it receives, in N−1 more the sums go round
    (Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002; cost model of Thakur et al. 2005,
    doi:10.1177/1094342005051521, without its third term, the time of the additions). Assumes that all links are equal
    and are used in both directions at once. One worker exchanges nothing: 0.

    Args:
        workers: N.
        size: n, bytes of the buffer; of float32 gradients 4 a parameter.
        latency: α, seconds a message.
        bandwidth: β, bytes per second; may be infinite.

    Raises:
        ValueError: N is less than 1, n or α negative, or β not positive.

    >>> ring_allreduce_seconds(4, 1e9, latency=1.0, bandwidth=1e9)
    7.5
    """
    if not (workers >= 1 and size >= 0 and latency >= 0 and bandwidth > 0):
        raise ValueError(f"{workers} workers, {size} bytes, latency {latency} s, bandwidth {bandwidth} bytes/s")
    return 2 * (workers - 1) * (latency + size / workers / bandwidth)


def fit_interconnect(times: Collection[tuple[float, float]], workers: int, source: str) -> Interconnect:
    """α and β of `ring_allreduce_seconds` from measured pairs of bytes and seconds.

    Least squares of the relative errors, so that short messages count as much as long ones; neither α nor 1/β is
    negative.
    """
    sizes, seconds = np.array(times, dtype=float).T
    rows = 2 * (workers - 1) * np.stack([np.ones_like(sizes), sizes / workers], axis=1)
    (latency, inverse), _ = optimize.nnls(rows / seconds[:, None], np.ones_like(seconds))
    return Interconnect(float(latency), 1 / float(inverse) if inverse > 0 else math.inf, source)


def compute_seconds(images: float, steps: pd.Series) -> float:
    """Time of an update for a worker that has `images` images of its minibatch.

    Linear between the recorded batch sizes, where one that took longer than a larger one counts as taking as long: it
    could have been padded, and what disturbs a measurement makes it longer. Below the smallest, the line through the
    two smallest goes on, but never below the time in proportion to the images: no worker is more efficient with fewer.

    Args:
        images: at most the largest batch size of `steps`.
        steps: of `tables.seconds_per_update`, at two batch sizes or more.
    """
    sizes, seconds = steps.index.to_numpy(dtype=float), np.minimum.accumulate(steps.to_numpy()[::-1])[::-1]
    slope = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    overhead = max(0, seconds[0] - slope * sizes[0])
    return float(np.interp(images, [0, *sizes], [overhead, *seconds]))


def times_to_target(
    updates: Mapping[int, float], steps: pd.Series, gradient_bytes: float, interconnect: Interconnect
) -> pd.DataFrame:
    """T(N) for every batch size and number of workers 1, 2, 4, … up to it.

    Args:
        updates: to target, by batch size; each is among those of `steps`.
        steps: of `tables.seconds_per_update`.
        gradient_bytes: that are exchanged in every update.

    Returns:
        A row a batch size and number of workers: `workers`, `batch_size`, `seconds`, `extrapolated` (a worker has fewer
        images than any recorded minibatch). The slowest worker, which has ⌈B/N⌉ images, sets the pace.
    """
    rows = []
    for size, count in updates.items():
        for workers in (2**power for power in range(int(size).bit_length())):
            images = math.ceil(size / workers)
            step = compute_seconds(images, steps) + ring_allreduce_seconds(
                workers, gradient_bytes, interconnect.latency, interconnect.bandwidth
            )
            rows.append((workers, int(size), count * step, images < steps.index[0]))
    return pd.DataFrame(rows, columns=["workers", "batch_size", "seconds", "extrapolated"])


def best_batch_sizes(times: pd.DataFrame) -> pd.DataFrame:
    """The fastest batch size for every number of workers, with the `efficiency` T(1)/(N·T(N)) that it leaves.

    Of batch sizes that are equally fast the smallest counts.
    """
    fast = times[times["seconds"] <= (1 + SLACK) * times.groupby("workers")["seconds"].transform("min")]
    best = fast.sort_values(["workers", "batch_size"]).drop_duplicates("workers", ignore_index=True)
    return best.assign(efficiency=best["seconds"][0] / (best["workers"] * best["seconds"]))


@dataclass(frozen=True)
class WorkerTime:
    """Time to target for one number of workers, at its best batch size."""

    workers: int
    batch_size: int
    seconds: float
    extrapolated: bool  # a worker has fewer images than any recorded minibatch
    efficiency: float  # T(1)/(N·T(N))


@dataclass(frozen=True, eq=False)
class Scaling:
    """Time to target of one mode over one interconnect, for 1, 2, 4, … workers.

    Attributes:
        workers: the best for each number of workers; empty where they are undetermined.
        times: rows of `times_to_target`, at every batch size.
        pays_up_to: the first whose doubling saves less than SAVING of the time.
        half_efficient_up_to: the last number of workers that keeps the efficiency at ½ or more, as all smaller ones do.
        fastest: the shortest time.
        reasons: why there are none, or what they do not cover.
    """

    workers: tuple[WorkerTime, ...]
    times: pd.DataFrame
    pays_up_to: WorkerTime | None
    half_efficient_up_to: int | None
    fastest: WorkerTime | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, eq=False)
class ModeProjection:
    """One mode over every interconnect.

    Attributes:
        updates: to target by batch size, geometric means over the seeds.
        scalings: by interconnect.
        reason: why nothing can be projected.
    """

    mode: Mode
    updates: pd.Series
    scalings: dict[str, Scaling]
    reason: Reason | None


@dataclass(frozen=True, eq=False)
class Projection:
    """Time to target against the number of workers, for every mode and interconnect. Seconds and bytes."""

    study: Study
    target: float | None
    gradient_bytes: int | None
    interconnects: dict[str, Interconnect]
    seconds_per_update: pd.Series
    modes: dict[str, ModeProjection]
    remarks: tuple[Reason, ...]


def project(
    study: Study,
    *,
    parameters: int | None = None,
    interconnects: Mapping[str, Interconnect] = INTERCONNECTS,
    target: float | None = None,
) -> Projection:
    """Time to target against the number of workers, for every mode and interconnect, at the best recorded batch size.

    As in `analyse`, the largest group of runs whose settings agree is projected. A worker is the commonest device of
    the runs that one worker trained; the times of other runs do not count.

    Args:
        study: possibly without runs.
        parameters: of the network, four bytes of gradient each; None: what the sidecars say. Where neither is known,
            only an exchange that costs nothing can be projected.
        interconnects: by name.
        target: accuracy, 0-1; None: the one that `analyse` takes.
    """
    found = analyse(study, target=target)
    study, at = found.study, found.to_target
    alone = study.without(_of_several_workers(study))
    steps = tables.seconds_per_update(alone.timed().epochs).set_index("batch_size")["seconds"]
    counts = sorted({content["parameters"] for content in study.sidecars.values() if "parameters" in content})
    if parameters is None and len(counts) == 1:
        (parameters,) = counts
    gradient_bytes = None if parameters is None else 4 * parameters
    blocking = [] if at.curves else [Reason.of("no large records")]
    if at.target is None:
        blocking.append(Reason.of("no target"))
    if at.curves and len(steps) < 2:
        blocking.append(Reason.of("too few step times", sizes=len(steps)))
    modes = {}
    for name, curve in at.curves.items():
        means = tables.means_to_target(curve.assign(experiment=name)).dropna(subset="updates")
        updates = means.set_index("batch_size")["updates"]
        updates = updates[updates.index.isin(steps.index)]
        reason = blocking[0] if blocking else Reason.of("no updates at target") if updates.empty else None
        scalings = {
            label: _scaling(link, updates, steps, gradient_bytes, reason) for label, link in interconnects.items()
        }
        modes[name] = ModeProjection(study.modes[name], updates, scalings, reason)
    remarks = [*blocking]
    if len(counts) > 1:
        remarks.append(Reason.of("networks differ", parameters=counts))
    if len(alone.devices) > 1:
        remarks.append(Reason.of("devices differ"))
    return Projection(study, at.target, gradient_bytes, dict(interconnects), steps, modes, tuple(remarks))


def _of_several_workers(study: Study) -> list[Run]:
    return [run for run, content in study.sidecars.items() if content.get("workers", 1) != 1]


def _scaling(
    link: Interconnect,
    updates: pd.Series,
    steps: pd.Series,
    gradient_bytes: int | None,
    reason: Reason | None,
) -> Scaling:
    if reason is None and gradient_bytes is None and not link.is_free:
        reason = Reason.of("parameters unknown")
    if reason is not None:
        return Scaling((), pd.DataFrame(), None, None, None, (reason,))
    times = times_to_target(updates, steps, gradient_bytes or 0, link)
    best = [WorkerTime(**row) for row in best_batch_sizes(times).to_dict("records")]
    pays = _last([at_least(1 - twice.seconds / once.seconds, SAVING) for once, twice in pairwise(best)])
    least = min(each.seconds for each in best)
    compared = best[: pays + 2]  # what the verdict rests on
    reasons = []
    if pays == len(best) - 1:
        reasons.append(Reason.of("most still pay", workers=best[-1].workers))
    if any(each.extrapolated for each in compared):
        reasons.append(Reason.of("few images per worker", size=int(steps.index[0])))
    return Scaling(
        workers=tuple(best),
        times=times,
        pays_up_to=best[pays],
        half_efficient_up_to=best[_last([at_least(each.efficiency, 0.5) for each in best[1:]])].workers,
        fastest=next(each for each in best if each.seconds <= least * (1 + SLACK)),
        reasons=tuple(reasons),
    )


def _last(holds: list[bool]) -> int:
    """How many of them hold before the first that does not."""
    return len(holds) if all(holds) else holds.index(False)
