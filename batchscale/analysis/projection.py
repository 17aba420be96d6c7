"""Time to target on more workers than there are: T(N) = updates(B) · (compute(⌈B/N⌉) + all-reduce(N, bytes)).

    result = project(records.load("data"), gradient_bytes=4 * 371_634)
    result["modes"]["scaled_lr"]["interconnects"]["ethernet"]["pays_up_to"]     # workers
    print(text(result, width=80))

Updates and the compute time of a step are those on record; a worker is whatever trained them. Workers compute their
shares of a minibatch at the same time, then exchange gradients in a ring, and nothing overlaps. Assumption: as many
updates are needed when batch norm sees a worker's share, B/N images, in place of B. Pure functions: no files, no clock.
"""

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import optimize

from batchscale.analysis import tables
from batchscale.analysis.findings import curve, plain
from batchscale.analysis.tables import Run

SAVING = 0.1  # more workers pay while twice as many save at least this share of the time


@dataclass(frozen=True)
class Interconnect:
    """What joins the workers: n bytes reach the next one after latency + n/bandwidth."""

    latency: float  # α, seconds a message
    bandwidth: float  # β, bytes per second that a worker sends, while it receives as many
    source: str


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


def seconds_per_update(records: pd.DataFrame) -> pd.Series:
    """Training time of an update by batch size: the median over the epochs of all runs, since the rule costs nothing.

    Epochs without `epoch_time` or `updates` (CSVs of the study's five columns) say nothing.
    """
    seconds = records["epoch_time"] * records["epoch"] / records["updates"]
    return seconds[seconds > 0].astype(float).groupby(records["batch_size"]).median()


def compute_seconds(images: float, steps: pd.Series) -> float:
    """Time of an update for a worker that has `images` images of its minibatch.

    Linear between the recorded batch sizes, where one that took longer than a larger one counts as taking as long: it
    could have been padded, and what disturbs a measurement makes it longer. Below the smallest, the line through the
    two smallest goes on, but never below the time in proportion to the images: no worker is more efficient with fewer.

    Args:
        images: at most the largest batch size of `steps`.
        steps: of `seconds_per_update`, at two batch sizes or more.
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
        steps: of `seconds_per_update`.
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
    """The fastest batch size for every number of workers, with the `efficiency` T(1)/(N·T(N)) that it leaves."""
    best = times.loc[times.groupby("workers")["seconds"].idxmin()].reset_index(drop=True)
    return best.assign(efficiency=best["seconds"][0] / (best["workers"] * best["seconds"]))


def project(
    records: pd.DataFrame,
    *,
    gradient_bytes: float | None,
    interconnects: Mapping[str, Interconnect] = INTERCONNECTS,
    target: float | None = None,
    diverged: Collection[Run] = (),
    untimed: Collection[Run] = (),
) -> dict:
    """Time to target against the number of workers, for every mode and interconnect, at the best recorded batch size.

    Args:
        records: tidy frame, see `records.load`; possibly empty.
        gradient_bytes: 4 a parameter; None: not known, so that only an exchange that costs nothing can be projected.
        interconnects: by name.
        target: accuracy, 0-1; None: the threshold.
        diverged: runs that diverged.
        untimed: runs whose times are not those of one worker.

    Returns:
        `target`, `gradient_bytes`, `interconnects`, `seconds_per_update` (rows), `missing` (sentences) and `modes`, by
        name: `batch_sizes` (rows with the updates to target; `upper_bound` where it is reached within the first epoch),
        `reason` where there are none, and `interconnects`, by name:

        - `pays_up_to`: the first number of workers whose doubling saves less than SAVING of the time,
        - `half_efficient_up_to`: the last that, with all smaller ones, keeps the efficiency at ½ or more,
        - `fastest`: the number with the shortest time,
        - `workers`: a row a number of workers, at its best batch size; `times`: a row each, at every batch size,
        - `reason`: why they are None, or what they do not cover.

        Seconds and bytes; numbers of workers are powers of two.
    """
    found = tables.threshold(records, diverged=diverged)
    target = found.accuracy if target is None and found is not None else target
    runs = tables.to_target(records, math.inf if target is None else target, diverged)
    steps = seconds_per_update(tables.without(records, untimed))
    names = tables.in_order({*records["experiment"], *(name for name, _, _ in diverged)} - {"baseline_small"})
    missing = [] if names else ["there are no records of large minibatches"]
    if target is None:
        missing.append("no target: there is no threshold, and none was given")
    if names and len(steps) < 2:
        missing.append(f"the time of an update is recorded at {len(steps)} batch sizes; two are needed")
    modes = {}
    for name in names:
        of_mode = tables.means_to_target(curve(runs, name).assign(experiment=name)).dropna(subset="updates")
        left = set(curve(runs, name).query("censored == 'left'")["batch_size"])
        updates = of_mode.set_index("batch_size")["updates"]
        updates = updates[updates.index.isin(steps.index)]
        reason = missing[0] if missing else None
        if reason is None and updates.empty:
            reason = "at no batch size with updates on record does every run reach the target"
        of_interconnects = {
            label: _of_interconnect(interconnect, updates, steps, gradient_bytes, left, reason)
            for label, interconnect in interconnects.items()
        }
        rows = [{"batch_size": size, "updates": count, "upper_bound": size in left} for size, count in updates.items()]
        modes[name] = {"batch_sizes": rows, "reason": reason, "interconnects": of_interconnects}
    return plain(
        {
            "target": target,
            "gradient_bytes": gradient_bytes,
            "interconnects": {label: asdict(interconnect) for label, interconnect in interconnects.items()},
            "seconds_per_update": [{"batch_size": size, "seconds": seconds} for size, seconds in steps.items()],
            "modes": modes,
            "missing": missing,
        }
    )


def _of_interconnect(
    interconnect: Interconnect,
    updates: pd.Series,
    steps: pd.Series,
    gradient_bytes: float | None,
    upper_bounds: Collection[int],
    reason: str | None,
) -> dict:
    nothing = dict.fromkeys(("pays_up_to", "half_efficient_up_to", "fastest"))
    is_free = interconnect.latency == 0 and math.isinf(interconnect.bandwidth)
    if reason is None and gradient_bytes is None and not is_free:
        reason = "the number of parameters is not known; give it"
    if reason is not None:
        return nothing | {"workers": [], "times": [], "reason": reason}
    times = times_to_target(updates, steps, gradient_bytes or 0, interconnect)
    best = best_batch_sizes(times)
    workers, seconds = best["workers"].tolist(), best["seconds"].to_numpy()

    def last(holds: np.ndarray) -> int:
        """The place up to which all hold; the first always does."""
        return len(holds) - 1 if holds.all() else int(np.argmin(holds)) - 1

    pays = last(np.array([True, *(seconds[1:] <= (1 - SAVING) * seconds[:-1])]))
    compared = best.iloc[: pays + 2]  # what the verdict rests on
    reasons = []
    if pays == len(best) - 1:
        reasons.append(f"{workers[-1]}, the most that the batch sizes allow, pay still")
    if compared["extrapolated"].any():
        reasons.append(f"fewer images a worker than the smallest recorded minibatch, {steps.index[0]}: extrapolated")
    bounds = sorted(set(compared["batch_size"]) & set(upper_bounds))
    if bounds:
        within = ", ".join(map(str, bounds))
        reasons.append(f"at B = {within} the target is reached within the first epoch: times are upper bounds there")
    return {
        "pays_up_to": workers[pays],
        "half_efficient_up_to": workers[last(best["efficiency"].to_numpy() >= 0.5)],
        "fastest": workers[int(seconds.argmin())],
        "workers": best.to_dict("records"),
        "times": times.to_dict("records"),
        "reason": "; ".join(reasons) or None,
    }


def of_sidecars(sidecars: Iterable[dict]) -> dict:
    """What the sidecars of a folder say about a worker.

    Returns:
        `parameters` of the network, None where no sidecar has them or they differ; `untimed`, the runs that several
        workers trained together; `remarks`, sentences on what differs between runs.
    """
    sidecars = list(sidecars)
    parameters = sorted({content["parameters"] for content in sidecars if "parameters" in content})
    devices = {tuple(sorted(content["device"].items())) for content in sidecars if "device" in content}
    runs = [(content["experiment"], content.get("workers", 1)) for content in sidecars]
    remarks = []
    if len(parameters) > 1:
        listed = " and ".join(map(str, parameters))
        remarks.append(f"the runs are of networks with {listed} parameters; put each network in a folder of its own")
    if len(devices) > 1:
        remarks.append(
            "the runs were trained by different devices or numbers of threads; a worker is a mixture of them"
        )
    return {
        "parameters": parameters[0] if len(parameters) == 1 else None,
        "untimed": [(run["name"], int(run["batch_size"]), int(run["seed"])) for run, workers in runs if workers != 1],
        "remarks": remarks,
    }


def text(result: dict, width: int = 80) -> str:
    """The result of `project` for a terminal, in lines of at most `width` characters."""
    target, size = result["target"], result["gradient_bytes"]
    parts = [
        ("Time to target" if target is None else f"Time to {100 * target:.1f} % accuracy")
        + " by number of workers, each like what trained these runs"
        + ("" if size is None else f"; {size / 1e6:.3g} MB of gradients an update")
    ]
    for label, interconnect in result["interconnects"].items():
        speed = (
            ""
            if interconnect["bandwidth"] is None
            else f"{1e6 * interconnect['latency']:.3g} µs, {8e-9 * interconnect['bandwidth']:.3g} Gbit/s; "
        )
        parts.append(f"  {label}: {speed}{interconnect['source']}")
    for name, mode in result["modes"].items():
        if mode["reason"] is not None:
            parts.append(f"{name}: {mode['reason']}")
            continue
        parts.append(_table(name, mode["interconnects"]))
        together = {}  # one reason may stand for several
        for label, found in mode["interconnects"].items():
            if found["reason"]:
                together.setdefault(found["reason"], []).append(label)
        parts += [f"  - {', '.join(labels)}: {reason}" for reason, labels in together.items()]
    if any(mode["reason"] is None for mode in result["modes"].values()):
        parts.append(
            f"Workers pay while twice as many save at least {100 * SAVING:g} % of the time; they are half efficient "
            f"while T(1)/(N·T(N)) is at least ½. T(N) is for the best recorded B"
        )
    parts += [f"Missing: {remark}" for remark in result["missing"]]
    return "\n".join(
        part if "\n" in part else textwrap.fill(part, width, subsequent_indent="    ", break_long_words=False)
        for part in parts
    )


def _table(name: str, interconnects: dict) -> str:
    column = 10
    heads = ("pay up to", "time (s)", "with B", "half eff.", "fastest", "time (s)")
    lines = [name, " " * column + "".join(f"{head:>{column}}" for head in heads)]
    for label, found in interconnects.items():
        rows = {row["workers"]: row for row in found["workers"]}
        pays, fastest = rows.get(found["pays_up_to"]), rows.get(found["fastest"])
        values = ["–"] * len(heads)
        if pays is not None:
            half = found["half_efficient_up_to"]
            values = [pays["workers"], _seconds(pays), pays["batch_size"], half, fastest["workers"], _seconds(fastest)]
        lines.append(f"{label[:column]:{column}}" + "".join(f"{value:>{column}}" for value in values))
    one = next((found["workers"][0] for found in interconnects.values() if found["workers"]), None)
    if one is not None:
        lines[0] += f": one worker takes {_seconds(one)} s with B = {one['batch_size']}"
    return "\n".join(lines)


def _seconds(row: dict) -> str:
    return f"{row['seconds']:.0f}" if row["seconds"] >= 100 else f"{row['seconds']:.3g}"
