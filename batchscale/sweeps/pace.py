"""How long the runs of a sweep will still take, from how fast those so far went."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from batchscale.experiment import Experiment


@dataclass
class Pace:
    """Images and seconds of the runs of a sweep.

    The time of a run that has not begun is that of its images, at the seconds per image of the batch sizes so far,
    log-interpolated in log B and constant beyond them.
    """

    experiments: Iterable[Experiment]
    _images: int | None = None  # of an epoch
    _seconds: dict[int, float] = field(default_factory=dict)  # per image, by batch size
    _left: dict[Experiment, float] = field(default_factory=dict)  # seconds of the runs in training
    _ended: set[Experiment] = field(default_factory=set)

    def note(self, experiment: Experiment, images: int, seconds: float, left: int) -> None:
        """A run has used so many images in so many seconds of this sweep; so many images are left."""
        if images > 0 and seconds > 0:
            self._seconds[experiment.batch_size] = seconds / images
            self._left[experiment] = left * seconds / images

    def begin(self, experiment: Experiment, total_images: int) -> None:
        """A run begins, which trains on so many images in all its epochs."""
        self._images = total_images // experiment.epochs
        self._left.setdefault(experiment, math.nan)

    def end(self, experiment: Experiment) -> None:
        """A run ended."""
        self._left.pop(experiment, None)
        self._ended.add(experiment)

    def left(self, experiment: Experiment) -> float:
        """Seconds until a run in training ends; NaN if unknown."""
        return self._left.get(experiment, math.nan)

    def all_left(self) -> float:
        """Seconds until all runs have ended, if as many are trained at once as now; NaN if unknown."""
        at_once = len(self._left)
        if not (at_once and self._seconds):
            return math.nan
        sizes = sorted(self._seconds)
        known = np.log(sizes), np.log([self._seconds[size] for size in sizes])
        waiting = [each for each in self.experiments if each not in self._left and each not in self._ended]
        rates = np.exp(np.interp(np.log([each.batch_size for each in waiting]), *known)) if waiting else ()
        later = [each.epochs * self._images * rate for each, rate in zip(waiting, rates, strict=True)]
        now = self._left.values()
        return max(*now, (sum(now) + sum(later)) / at_once)
