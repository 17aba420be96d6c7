"""The experiments of a sweep as a list, and parts of it.

grid("gradual_warmup_scaled_lr", [128, 256], seeds=[0, 1, 2], epochs=10)     # six experiments
"""

import re
from collections.abc import Iterable

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.modes import MODES


def grid(name: str, batch_sizes: Iterable[int], seeds: Iterable[int] = (0,), **settings) -> list[Experiment]:
    """The experiments of one mode: every batch size for the first seed, then for the next.

    `settings` are further fields of `Experiment`. The study's own names bring their rule of learning rate (see
    `modes.MODES`), which `settings` may overrule. Seeds are the outer loop, so that an interrupted sweep has finished
    whole seeds first.
    """
    settings = (MODES[name].rule if name in MODES else {}) | settings
    batch_sizes = list(batch_sizes)
    return [Experiment(name=name, batch_size=size, seed=seed, **settings) for seed in seeds for size in batch_sizes]


def shard(experiments: Iterable[Experiment], which: str) -> list[Experiment]:
    """One of n parts of a list, for an array of n jobs that know nothing of each other: `which` is i/n, 1/n to n/n.

    All parts together are exactly the list, each experiment is in one of them, and each part is in the list's order.
    Experiments are dealt out by batch size, because a smaller batch makes more updates and takes longer. No part then
    takes longer than another by more than the longest run.

    Raises:
        UserError: `which` does not have that form.
    """
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", which)
    part, parts = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"shard is {which!r}; it must be i/n with i from 1 to n, as in 1/8 to 8/8")
    experiments = list(dict.fromkeys(experiments))
    mine = set(sorted(experiments, key=lambda experiment: experiment.batch_size)[part - 1 :: parts])
    return [experiment for experiment in experiments if experiment in mine]
