"""How often do the 95 % intervals hold the truth? Over simulated studies of three seeds and seven batch sizes.

    python benchmarks/coverage.py                  # 200 studies each, some minutes on one core
    python benchmarks/coverage.py --studies 40

Prints one row per scenario: the share of intervals that hold the true value (open sides hold everything beyond), the
share that is open on a side, and the median ratio of the bounds of the others. The percentile bootstrap over batch
sizes and seeds is there for comparison; it is not what `critical_batch_size` does.
"""

import argparse
import math
import time

import numpy as np
import pandas as pd

from batchscale.analysis.breaking_point import accuracy_losses, in_accuracy, in_time, in_updates
from batchscale.analysis.critical_batch_size import critical_batch_size
from batchscale.analysis.threshold import Threshold

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


def breaking_points(studies: int) -> None:
    """Truth: accuracies that fall with B and times with a minimum, so that each currency has a known last B."""
    print(f"\n{'breaking point, 3 seeds':32}{'holds':>8}{'exact':>8}")
    losses = dict(zip(BATCH_SIZES, (0.0, 0.002, 0.004, 0.007, 0.018, 0.04, 0.08), strict=True))
    expected = STEPS_MIN * (1 + CRITICAL / BATCH_SIZES) * (0.004 + 0.00002 * BATCH_SIZES)
    truths = {
        "accuracy": max(size for size, loss in losses.items() if loss <= 0.01),
        "updates": max(size for size in BATCH_SIZES if size <= CRITICAL / 3),
        "time": BATCH_SIZES[int(np.argmin(np.append(np.diff(expected) < 0, False)))],
    }
    generator = np.random.default_rng(2)
    held, exact = {name: [] for name in truths}, {name: [] for name in truths}
    for _ in range(studies):
        small = generator.normal(0.76, 0.004, 3)
        threshold = Threshold(float(small.mean()) - 0.01, float(small.mean()), 8, 0.01, tuple(small.tolist()))
        finals = pd.DataFrame(
            [
                {"batch_size": size, "seed": seed, "accuracy": generator.normal(0.76 - loss, 0.004)}
                for size, loss in losses.items()
                for seed in range(3)
            ]
        )
        runs = simulate(generator, 0.1, 0.0, 3, None)
        verdicts = {
            "accuracy": in_accuracy(accuracy_losses(finals, threshold), threshold),
            "updates": in_updates(runs, critical_batch_size(runs)),
            "time": in_time(runs),
        }
        for name, verdict in verdicts.items():
            held[name].append(within(verdict.low, truths[name], verdict.high))
            exact[name].append(verdict.batch_size == truths[name])
    for name in truths:
        print(f"{f'{name} (true: {truths[name]})':32}{np.mean(held[name]):8.1%}{np.mean(exact[name]):8.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    arguments = parser.parse_args()
    critical_batch_sizes(arguments.studies)
    breaking_points(arguments.studies)
