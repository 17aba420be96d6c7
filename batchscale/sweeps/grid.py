"""The experiments of a sweep as a list, and parts of it.

grid("gradual_warmup_scaled_lr", [128, 256], seeds=[0, 1, 2], epochs=10)     # six experiments
"""

import re
from collections.abc import Iterable

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import MODES
from batchscale.sweeps.same import joined


def grid(name: str, batch_sizes: int | Iterable[int], seeds: int | Iterable[int] = 0, **settings) -> list[Experiment]:
    """The experiments of one mode: all batch sizes with the first seed, then with the next.

    Seeds form the outer loop, so an interrupted sweep has finished whole seeds first. `batch_sizes` and `seeds` may be
    single numbers. `settings` are further fields of `Experiment`; they take precedence over the learning-rate rule that
    belongs to a name of the study (see `modes.MODES`).
    """
    settings = (MODES[name].rule if name in MODES else {}) | settings
    sizes = _listed(batch_sizes)
    return [Experiment(name=name, batch_size=size, seed=seed, **settings) for seed in _listed(seeds) for size in sizes]


def _listed(values) -> list:
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def shard(experiments: Iterable[Experiment], which: str) -> list[Experiment]:
    """One of n parts of a list, for an array of n independent jobs: `which` is i/n, from 1/n to n/n.

    The parts are disjoint, together they are the whole list, and each keeps its order. Experiments are dealt out by
    batch size, because a smaller batch needs more updates and takes longer. The durations of two parts therefore differ
    by at most the longest run. Experiments that are one run under several names, see `same.joined`, count as one and
    are in the same part, which trains it once.

    Raises:
        UserError: `which` does not have that form.
    """
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", which)
    part, parts = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"shard is {which!r}; it must be i/n with i from 1 to n, for example 1/8")
    experiments = list(dict.fromkeys(experiments))
    runs = sorted(joined(experiments), key=lambda run: run[0].batch_size)
    mine = {experiment for run in runs[part - 1 :: parts] for experiment in run}
    return [experiment for experiment in experiments if experiment in mine]
