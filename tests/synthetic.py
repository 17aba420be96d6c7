"""Records of studies whose answers are known: threshold, critical batch size, breaking points."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from batchscale import modes
from batchscale.epoch import COLUMNS
from batchscale.experiment import Experiment
from batchscale.records.study import RUN, Run, Study, is_any

SMALL_BATCH_SIZES = (2, 4, 8, 16, 32)
LARGE_BATCH_SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
IMAGES = 50_000
TARGET = 0.7
# By mode: S_min and B_crit at the target, and the batch size above which its final accuracy falls. At the reference
# batch size, 8, all are one experiment, and so need as many updates.
STEPS_AT_8 = 67_500.0
MODES = {
    "baseline_large": (STEPS_AT_8 / (1 + 100 / 8), 100.0, 64),  # S_min = 5000
    "scaled_lr": (STEPS_AT_8 / (1 + 600 / 8), 600.0, 300),  # 888
    "gradual_warmup_scaled_lr": (STEPS_AT_8 / (1 + 900 / 8), 900.0, 1200),  # 595
}


def run(
    name: str, size: int, seed: int, steps: float, final: float, epochs: int, target: float = TARGET, **columns
) -> pd.DataFrame:
    """One run that has `target` after `steps` updates and `final` in the end, on a hyperbola a·e/(e + h).

    Interpolated between epochs it is at `target` a little late, by 1 % or less from the third epoch on. One that has no
    time to reach the target ends the more below it the more time it lacks, and at `final` if that is lower.
    """
    epoch, per_epoch = np.arange(1, epochs + 1), IMAGES // size
    needed = steps / per_epoch
    if final <= target or needed >= epochs * target / final:
        final = min(final, 0.99 * target * min(1, epochs / needed) ** 0.2)
        half = needed
    else:
        half = needed * epochs * (final - target) / (target * epochs - final * needed)
    accuracy = final * epoch / (epoch + half) * (epochs + half) / epochs
    seconds = per_epoch * (0.004 + 0.00002 * size)  # a fixed cost an update and one an image
    values = {
        "batch_size": size,
        "epoch": epoch,
        "accuracy": accuracy,
        "generalization_error": 0.02 + 0.004 * epoch,
        "running_time": epoch * seconds,
        "experiment": name,
        "seed": seed,
        "updates": epoch * per_epoch,
        "train_accuracy": accuracy + 0.02 + 0.004 * epoch,
        "epoch_time": seconds,
        "images_per_second": IMAGES / seconds,
    }
    return pd.DataFrame(values | columns).reindex(columns=list(COLUMNS))


def study(
    seeds: Sequence[int] = (0, 1, 2),
    small: Sequence[int] = SMALL_BATCH_SIZES,
    large: Sequence[int] = LARGE_BATCH_SIZES,
    modes: Sequence[str] = ("baseline_small", *MODES),
    epochs: int = 30,
    noise: float = 0.05,
    random: int = 0,
) -> pd.DataFrame:
    """A whole study: small batches at 0.76, each mode as in MODES; `noise` is the deviation of log S over seeds."""
    generator = np.random.default_rng(random)
    runs = []
    for name in modes:
        is_small = name == "baseline_small"
        steps_min, critical, limit = MODES["baseline_large" if is_small else name]
        for size in small if is_small else large:
            for seed in seeds:
                loss = 0.002 * abs(np.log2(size / 8)) if is_small else 0.03 * max(0, np.log2(size / limit))
                final = 0.76 - loss + generator.normal(0, 0.05 * noise)
                steps = steps_min * (1 + critical / size) * np.exp(generator.normal(0, noise))
                scale = np.geomspace(0.3, 1.2, epochs) * critical * np.exp(generator.normal(0, 0.3, epochs))
                runs.append(run(name, size, seed, steps, final, epochs, noise_scale=scale))
    return pd.concat(runs, ignore_index=True)


def as_study(**settings) -> Study:
    """The study of `study`, as the analysis takes it; without sidecars."""
    return Study.of(study(**settings))


def sidecar(name: str, size: int, seed: int, status: str = "complete", **settings) -> dict:
    """What lies beside a CSV. `settings` are fields of the experiment; those of its mode need not be given.

    `device`, `workers` and `parameters` are of the sidecar itself.
    """
    beside = {key: settings.pop(key) for key in ("device", "workers", "parameters") if key in settings}
    rule = modes.MODES[name].rule if name in modes.MODES else {}
    experiment = Experiment(name=name, batch_size=size, seed=seed, **rule | settings)
    return {"status": status, "experiment": asdict(experiment)} | beside


def sidecars(epochs: pd.DataFrame, settings: Mapping[str, Mapping] | None = None, **of_all) -> list[dict]:
    """One per run of a table; `settings` of some modes by name, and those of all of them."""
    runs = epochs[RUN].drop_duplicates().itertuples(index=False, name=None)
    return [sidecar(*run, **of_all | dict((settings or {}).get(run[0], {}))) for run in runs]


def is_run(epochs: pd.DataFrame, run: Run) -> np.ndarray:
    """Which rows are of one run."""
    return is_any(epochs, [run])
