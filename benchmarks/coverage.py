"""How often do the 95 % intervals hold the truth, and how wide are they? Over simulated studies.

    python benchmarks/coverage.py                  # 1000 studies of each kind, half an hour on one core
    python benchmarks/coverage.py --studies 100

First the breaking point in accuracy: each study has small batch sizes of 2 to 32 and large ones of 64 to 8192, true
accuracies that follow one of several shapes, and a break that lies anywhere between two recorded sizes. Rows give the
share of intervals that hold it (an open side holds everything beyond), the share of intervals with both ends, their
median width (high / low), the median error of the estimate in octaves, and the same for the method of the first
edition: a scan by Welch intervals at each recorded batch size, whose verdict was a recorded one. Where everything keeps
the accuracy, an interval holds the truth if it is open above.

Then the critical batch size. The percentile bootstrap over batch sizes and seeds is there for comparison; it is not
what `critical_batch_size` does.
"""

import argparse
import math
import time

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.accuracies import accuracies
from batchscale.analysis.breaking_point import in_accuracy, losses
from batchscale.analysis.critical_batch_size import critical_batch_size
from batchscale.analysis.threshold import threshold

IMAGES = 50_000
BATCH_SIZES = 2 ** np.arange(6, 13)  # 64 to 4096, on both sides of the critical batch size
CRITICAL, STEPS_MIN = 800.0, 500.0
SCENARIOS = {  # deviations of log S over runs and over batch sizes, seeds, and epochs (None: as many as are needed)
    "3 seeds": (0.1, 0.0, 3, None),
    "3 seeds, curve 10 % off": (0.1, 0.1, 3, None),
    "3 seeds, curve 20 % off": (0.05, 0.2, 3, None),
    "3 seeds, 30 epochs": (0.1, 0.0, 3, 30),
    "3 seeds, 30 epochs, 10 % off": (0.1, 0.1, 3, 30),
    "2 seeds": (0.1, 0.0, 2, None),
    "1 seed": (0.1, 0.0, 1, None),
}


def simulate(
    generator: np.random.Generator, run: float, size: float, seeds: int, epochs: int | None, sizes=BATCH_SIZES
) -> pd.DataFrame:
    """Rows as of `tables.to_target`, log S = log S_min + log(1 + B_crit/B) + N(0, size²) + N(0, run²)."""
    rows = []
    for batch_size in sizes:
        shared = generator.normal(0, size) if size else 0.0
        for seed in range(seeds):
            steps = STEPS_MIN * (1 + CRITICAL / batch_size) * math.exp(shared + generator.normal(0, run))
            most = math.inf if epochs is None else epochs * IMAGES / batch_size
            censored, trained = steps > most, min(1.2 * steps, most)
            seconds = 0.004 + 0.00002 * batch_size  # an update
            rows.append(
                {
                    "experiment": "mine",
                    "batch_size": int(batch_size),
                    "seed": seed,
                    "censored": "right" if censored else "no",
                    "diverged": False,
                    "epochs": math.nan if censored else steps * batch_size / IMAGES,
                    "updates": math.nan if censored else steps,
                    "running_time": math.nan if censored else steps * seconds,
                    "epochs_trained": trained * batch_size / IMAGES,
                    "updates_trained": trained,
                    "time_trained": trained * seconds,
                }
            )
    return pd.DataFrame(rows)


def bootstrap(runs: pd.DataFrame, generator: np.random.Generator, resamples: int = 500) -> tuple[float, float]:
    """Percentile interval of B_crit: batch sizes, then the seeds of each, are resampled and the curve refitted."""
    logs = np.log(runs.pivot(index="batch_size", columns="seed", values="updates").to_numpy())
    sizes = np.sort(runs["batch_size"].unique())
    grid = np.linspace(math.log(sizes[0] / 100), math.log(sizes[-1] * 100), 400)
    curves = np.log1p(np.exp(grid)[:, None] / sizes)  # (400, sizes)
    found = []
    for _ in range(resamples):
        cells = generator.integers(0, len(sizes), len(sizes))
        means = logs[cells[:, None], generator.integers(0, logs.shape[1], (len(sizes), logs.shape[1]))].mean(axis=1)
        residual = means - curves[:, cells]
        found.append(grid[(residual - residual.mean(axis=1, keepdims=True)).var(axis=1).argmin()])
    low, high = np.exp(np.quantile(found, [0.025, 0.975]))
    return float(low), float(high)


def within(low: float | None, truth: float, high: float | None) -> bool:
    return (low is None or low <= truth) and (high is None or truth <= high)


def critical_batch_sizes(studies: int) -> None:
    print(f"{'critical batch size':32}{'holds':>8}{'open':>8}{'high/low':>10}{'s/fit':>8}")
    for name, scenario in SCENARIOS.items():
        generator, held, ratios, start = np.random.default_rng(1), [], [], time.perf_counter()
        for _ in range(studies):
            found = critical_batch_size(simulate(generator, *scenario))
            held.append(within(found.low, CRITICAL, found.high))
            if found.estimate is not None:
                ratios.append(found.high / found.low)
        seconds = (time.perf_counter() - start) / studies
        show(name, held, ratios, seconds)
    for name in list(SCENARIOS)[:3]:
        generator, held, ratios, start = np.random.default_rng(1), [], [], time.perf_counter()
        for _ in range(studies):
            low, high = bootstrap(simulate(generator, *SCENARIOS[name]), generator)
            held.append(within(low, CRITICAL, high))
            ratios.append(high / low)
        show(f"bootstrap: {name}", held, ratios, (time.perf_counter() - start) / studies)


def show(name: str, held: list[bool], ratios: list[float], seconds: float) -> None:
    ratio = f"{np.median(ratios):10.2f}" if ratios else f"{'–':>10}"
    print(f"{name:32}{np.mean(held):8.1%}{1 - len(ratios) / len(held):8.1%}{ratio}{seconds:8.2f}", flush=True)


SMALL = {2: 0.03, 4: 0.01, 8: 0.0, 16: 0.0, 32: 0.0}  # what each loses because its rate is too high
LARGE = 2 ** np.arange(6, 14)
TOLERANCE = 0.01


def gently(batch_size, place):
    """A power law that loses a point an octave where it has lost one point."""
    return np.minimum(0.7, 0.01 * (batch_size / place) ** 1.44)


def evenly(batch_size, place):
    """A point an octave, from one octave before the break on."""
    return np.maximum(0, 0.01 * np.log2(2 * batch_size / place))


def cliff(batch_size, place):
    """Nothing, then 15 points an octave."""
    return np.clip(0.01 + 0.15 * np.log2(batch_size / place), 0, 0.7)


def collapse(batch_size, place):
    """A logistic curve down to chance."""
    return 0.7 / (1 + 69 * (place / batch_size) ** 2)


def nothing(batch_size, place):
    """Every batch size keeps the accuracy."""
    return 0.0 * np.asarray(batch_size)


SHAPES = {  # loss, middle of where it breaks, large batch sizes, and whether the edge is noisy and diverges
    "early break": (gently, 90, LARGE, False),
    "late break": (gently, 1400, LARGE, False),
    "a point an octave": (evenly, 700, LARGE, False),
    "flat, then a cliff": (cliff, 700, LARGE, False),
    "collapse to chance": (collapse, 700, LARGE, False),
    "noisy edge, diverging": (gently, 700, LARGE, True),
    "noisy cliff, diverging": (cliff, 700, LARGE, True),
    "sizes four apart": (gently, 256, LARGE[1::2], False),
    "sizes four apart, cliff": (cliff, 256, LARGE[1::2], False),
    "none keeps": (gently, 44, LARGE, False),
    "all keep": (nothing, 0, LARGE, False),
}
SEEDS = ((5, 0.0025), (3, 0.008), (3, 0.0025), (1, 0.0025))  # and the standard deviation over them


def accuracy_study(generator: np.random.Generator, shape: str, seeds: int, deviation: float):
    """Finals of a study, its diverged runs, and the batch size at which it truly breaks (infinite: nowhere)."""
    loss, middle, large, is_noisy = SHAPES[shape]
    place = middle * (large[1] / large[0]) ** generator.uniform(-0.5, 0.5)
    rows, diverged = [], []
    for size in [*SMALL, *large]:
        name = "baseline_small" if size in SMALL else "mine"
        # Ten times the variance from half the breaking point on, and diverging runs from one and a half times it on.
        spread = deviation * (math.sqrt(10) if is_noisy and size >= place / 2 else 1)
        for seed in range(seeds):
            if is_noisy and size > 1.5 * place and generator.random() < 0.3:
                diverged.append((name, int(size), seed))
                continue
            accuracy = generator.normal(0.8 - SMALL.get(size, 0) - float(loss(size, place)), spread)
            rows.append({"experiment": name, "batch_size": int(size), "seed": seed, "accuracy": accuracy})
    best = min(float(loss(size, place)) + less for size, less in SMALL.items())
    grid = 2 ** np.linspace(1, 16, 20_000)
    lost = grid[loss(grid, place) >= best + TOLERANCE]
    return pd.DataFrame(rows), diverged, lost[0] if len(lost) else math.inf


def new(finals: pd.DataFrame, diverged: list) -> tuple[float | None, float | None, float | None]:
    """Estimate and interval, as `findings.analyse` makes them."""
    cells = accuracies(finals, diverged)
    found = threshold(finals, cells, ["baseline_small"], TOLERANCE)
    point = in_accuracy(losses(cells[cells["batch_size"] >= found.from_batch_size], found), found)
    return point.estimate, point.low, point.high


def old(finals: pd.DataFrame, diverged: list) -> tuple[float | None, float | None]:
    """Interval of the first edition: from the last batch size that surely keeps the threshold, as all smaller ones do,
    to the last one before one that surely does not. Surely: by Welch's interval against the best small one."""
    groups = finals.groupby(["experiment", "batch_size"])["accuracy"]
    best = groups.get_group(("baseline_small", groups.mean()["baseline_small"].idxmax())).to_numpy()
    low, high, surely_kept, possible = None, None, True, True
    sizes = sorted({*finals.loc[finals["experiment"] == "mine", "batch_size"], *(size for _, size, _ in diverged)})
    failed = {size for _, size, _ in diverged}
    for size in sizes:
        least, most = math.inf, math.inf
        if size not in failed:
            ours = groups.get_group(("mine", size)).to_numpy()
            interval = stats.ttest_ind(best, ours, equal_var=False).confidence_interval(0.95)
            least, most = interval.low, interval.high
        surely_kept &= most <= TOLERANCE
        possible &= least <= TOLERANCE
        low, high = (size if surely_kept else low), (size if possible else high)
    return low, (None if possible else high)


def breaking_points(studies: int) -> None:
    heads = f"{'holds':>8}{'closed':>8}{'width':>8}"
    for seeds, deviation in SEEDS:
        print(f"{f'{seeds} × {100 * deviation:g} points':28}{heads}{'off':>8}  | old{heads}")
        for shape in SHAPES:
            generator = np.random.default_rng(2)
            held, widths, off, old_held, old_widths = [], [], [], [], []
            for _ in range(studies):
                finals, diverged, truth = accuracy_study(generator, shape, seeds, deviation)
                estimate, low, high = new(finals, diverged)
                held.append(within(low, truth, high))
                if estimate is not None and math.isfinite(truth):
                    off.append(abs(math.log2(estimate / truth)))
                if low is not None and high is not None:
                    widths.append(high / low)
                if seeds > 1:
                    low, high = old(finals, diverged)
                    kept = finals.loc[finals["batch_size"] <= truth, "batch_size"].max()  # the verdict was recorded
                    old_held.append(within(low, kept, high))
                    if low is not None and high is not None:
                        old_widths.append(high / low)
            line = f"{shape:28}{_row(held if seeds > 1 else [], widths, studies)}{_median(off)}"
            print(f"{line}  |    {_row(old_held, old_widths, studies)}", flush=True)
        print()


def _row(held: list[bool], widths: list[float], studies: int) -> str:
    share = f"{np.mean(held):8.1%}" if held else f"{'–':>8}"
    return f"{share}{len(widths) / studies:8.1%}{_median(widths)}"


def _median(values: list[float]) -> str:
    return f"{np.median(values):8.2f}" if values else f"{'–':>8}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--only", choices=("breaking-points", "critical"), default=None)
    arguments = parser.parse_args()
    if arguments.only != "critical":
        breaking_points(arguments.studies)
    if arguments.only != "breaking-points":
        critical_batch_sizes(arguments.studies)
