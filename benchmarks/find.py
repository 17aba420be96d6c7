"""Does `find` hold the truth, and what does it cost? Simulated and recorded studies answer for its runs.

    python benchmarks/find.py                       # 500 simulated studies, half an hour on one core, and the replay
    python benchmarks/find.py --studies 50 --device GPU
    python benchmarks/find.py --only replay

*Simulated*: the shapes of `coverage.py`, with a break anywhere between two batch sizes. The full grid is all batch
sizes with three seeds. Its intervals have some median width for every shape; `find` is asked for that width, and gives
up once it has taken as long as the grid. Columns: the share of intervals that hold the truth, of `find` when it stops,
of `find` at a third of the grid's time, and of the grid; the median width (high / low, an open end reaching to the end
of the range) of the same three; the runs of `find`; its time over the grid's, mean and median; the share of studies in
which a third sufficed. *Replay*: the committed records answer for runs, so that only their batch sizes and seeds can be
chosen; `find` has to reach the widths of all records together, one mode at a time and all three at once.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from coverage import LARGE, SHAPES, SMALL, TOLERANCE, within

from batchscale import modes
from batchscale.analysis import tables
from batchscale.analysis.search import Known, Runs, Search, known, rank
from batchscale.modes import REFERENCE
from batchscale.records import Study

IMAGES = 50_000
MINE = modes.own("mine", {"lr_scaling": "linear", "warmup": "none"})
GRID = [*SMALL, *map(int, LARGE)]
SEEDS = 3
# Seconds of an epoch: measured on one core (data/constant_rate/, width 0.25); and on a GPU that is full at 256 images.
CORE = {2: 97, 4: 56, 8: 41, 16: 34, 32: 30, 64: 29, 128: 28.5}
DEVICES: dict[str, Callable[[str, int], float]] = {
    "core": lambda _, size: float(np.interp(math.log(size), np.log(list(CORE)), list(CORE.values()))),
    "GPU": lambda _, size: IMAGES / size * max(0.004, 0.004 * size / 256),
}
CASES = [(shape, deviation) for shape in SHAPES if "four" not in shape for deviation in (0.0025, 0.008)]
Oracle = Callable[[str, int, int], float | None]


class Simulated:
    """A simulated study that can be asked for any run."""

    def __init__(self, shape: str, deviation: float, number: int):
        self.loss, middle, large, self.is_noisy = SHAPES[shape]
        self.deviation, self.number = deviation, number
        generator = np.random.default_rng([number, 0])
        self.place = middle * (large[1] / large[0]) ** generator.uniform(-0.5, 0.5)
        best = min(float(self.loss(size, self.place)) + less for size, less in SMALL.items())
        grid = 2 ** np.linspace(1, 16, 20_000)
        lost = grid[self.loss(grid, self.place) >= best + TOLERANCE]
        self.truth = float(lost[0]) if len(lost) else math.inf

    def __call__(self, name: str, size: int, seed: int) -> float | None:
        """Final accuracy of a run; None if it diverges."""
        generator = np.random.default_rng([self.number, size, seed])
        if self.is_noisy and size > 1.5 * self.place and generator.random() < 0.3:
            return None
        spread = self.deviation * (math.sqrt(10) if self.is_noisy and size >= self.place / 2 else 1)
        return generator.normal(0.8 - SMALL.get(size, 0) - float(self.loss(size, self.place)), spread)


def asked(oracle: Oracle, wanted: list[tuple]) -> Runs:
    """What an oracle answers."""
    answers = {run: oracle(*run) for run in wanted}
    rows = [(*run, value) for run, value in answers.items() if value is not None]
    finals = pd.DataFrame(rows, columns=["experiment", "batch_size", "seed", "accuracy"])
    return Runs(finals, tuple(run for run, value in answers.items() if value is None))


def chosen(search: Search, oracle: Oracle, cost: Callable[[str, int], float]) -> Iterator[list[tuple]]:
    """The runs of a search, one more each time, until it stops."""
    done: list[tuple] = []
    while ranked := rank(search, asked(oracle, done), cost):
        done = [*done, ranked[0]]
        yield done


def searched(factor: float | None) -> Search:
    return Search(
        modes={MINE.name: MINE},
        small=tuple(SMALL),
        largest=int(LARGE[-1]),
        reference_batch_size=max(SMALL),
        within=factor,
        tolerance=TOLERANCE,
    )


def of_grid(oracle: Oracle) -> Known:
    runs = [(REFERENCE.name if size in SMALL else MINE.name, size, seed) for size in GRID for seed in range(SEEDS)]
    return known(searched(None), asked(oracle, runs))


def one(oracle: Simulated, factor: float, device: str) -> dict:
    """One simulated study: the grid, and `find` at a third of its time and when it stops."""
    started, cost = time.perf_counter(), DEVICES[device]
    search, whole, grid = searched(factor), SEEDS * sum(cost("", size) for size in GRID), of_grid(oracle)
    third, runs, spent = [], [], 0.0
    for runs in chosen(search, oracle, cost):
        spent = sum(cost(name, size) for name, size, _ in runs)
        third = runs if spent <= whole / 3 else third
        if spent >= whole:
            break
    row = {"time": spent / whole, "runs": len(runs), "reached": spent <= whole / 3}
    ends = {"stop": known(search, asked(oracle, runs)), "third": known(search, asked(oracle, third)), "grid": grid}
    for which, end in ends.items():
        point = end.points[MINE.name]
        row |= {f"{which} holds": within(point.low, oracle.truth, point.high), f"{which} width": end.width(MINE.name)}
    return row | {"truth": oracle.truth, "seconds": time.perf_counter() - started}


WHICH = ("stop", "third", "grid")


def simulated(studies: int, device: str) -> None:
    """Ctrl-C shows what is known so far."""
    factors, rows = {}, []
    for shape, deviation in CASES:
        grids = [of_grid(Simulated(shape, deviation, number)).width(MINE.name) for number in range(40)]
        factors[shape, deviation] = max(1.05, float(np.median(grids)))
    try:
        for number in range(max(1, round(studies / len(CASES)))):
            for case, factor in factors.items():
                rows.append({"case": case} | one(Simulated(*case, number), factor, device))
    except KeyboardInterrupt:
        pass
    heads = "".join(f"{which:>8}" for which in WHICH)
    print(f"{f'{len(rows)} studies, {device}: holds, width':36}{heads}{heads}  runs  time median ≤ 1/3     s")
    for shape, deviation in CASES:
        show(f"{shape}, ± {100 * deviation:g}", [row for row in rows if row["case"] == (shape, deviation)])
    for deviation in (0.0025, 0.008):
        show(f"all, ± {100 * deviation:g}", [row for row in rows if row["case"][1] == deviation])
    show("all", rows)


def show(name: str, of: list[dict]) -> None:
    rows = pd.DataFrame(of)
    held = "".join(f"{rows[f'{which} holds'].mean():8.1%}" for which in WHICH)
    widths = "".join(f"{rows[f'{which} width'].median():8.2f}" for which in WHICH)
    print(
        f"{name:36}{held}{widths}{rows['runs'].mean():6.1f}{rows['time'].mean():6.2f}{rows['time'].median():7.2f}"
        f"{rows['reached'].mean():6.0%}{rows['seconds'].mean():6.1f}",
        flush=True,
    )


def replay() -> None:
    """The first edition's records: `find` chooses among them until its intervals are as narrow as those of them all."""
    study = Study.load("data/constant_rate")
    finals, diverged = tables.final(study.timed()), study.diverged
    answers = {tuple(run): value for *run, value in finals[[*tables.RUN, "accuracy"]].itertuples(index=False)}
    answers |= dict.fromkeys(diverged)
    seconds = study.epochs.groupby(tables.RUN)["running_time"].max().groupby("batch_size").mean()
    recorded = {size for name, size, _ in answers if name != REFERENCE.name}
    large = [name for name in study.modes if name != REFERENCE.name]
    print(f"{'replay of data/constant_rate/':32}{'all records':>24}{'find':>24}{'runs':>10}{'time':>8}")
    for names in (*([name] for name in large), large):
        search = Search(
            modes={name: study.modes[name] for name in names},
            small=tuple(sorted({size for name, size, _ in answers if name == REFERENCE.name})),
            largest=max(recorded),
            reference_batch_size=8,
            sizes=tuple(sorted(recorded)),
            seeds=SEEDS,
        )

        def cost(name: str, size: int) -> float:
            return float(seconds[size])

        ours = {run: value for run, value in answers.items() if run[0] in (*names, REFERENCE.name)}

        def answer(*run, ours=ours) -> float | None:
            return ours[run]

        every = known(search, asked(answer, list(ours)))
        whole, runs = sum(cost(name, size) for name, size, _ in ours), []
        for runs in chosen(search, answer, cost):
            end = known(search, asked(answer, runs))
            if all(end.has_errors and end.width(name) <= every.width(name) for name in names):
                break
        share = sum(cost(name, size) for name, size, _ in runs) / whole
        for name in names:
            both = [f"{low:.0f}-{high:.0f}" for low, high in (every.ends(name), end.ends(name))]
            print(f"{name:32}{both[0]:>24}{both[1]:>24}{f'{len(runs)} of {len(ours)}':>10}{share:8.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--device", choices=tuple(DEVICES), default="core")
    parser.add_argument("--only", choices=("simulated", "replay"), default=None)
    arguments = parser.parse_args()
    if arguments.only != "simulated":
        replay()
    if arguments.only != "replay":
        simulated(arguments.studies, arguments.device)
