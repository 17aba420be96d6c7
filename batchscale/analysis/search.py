"""Which run to train next, so that the breaking points in accuracy become known in the least time.

    search = Search(modes=modes, small=(2, 4, 8, 16, 32), largest=8192, reference_batch_size=8, within=1.5)
    rank(search, Runs(finals, diverged), cost)[0]            # ("scaled_lr", 256, 0)

Pure functions of accuracies and of what a run costs: a search that is killed and started again goes the same way.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from batchscale.analysis.accuracies import accuracies, with_errors
from batchscale.analysis.breaking_point import BreakingPoint, in_accuracy, losses
from batchscale.analysis.findings import beginning
from batchscale.analysis.statistics import at_least
from batchscale.analysis.tables import Beginning, curve
from batchscale.analysis.threshold import Threshold, threshold
from batchscale.modes import REFERENCE, Mode
from batchscale.records.study import Run

Cost = Callable[[str, int], float]  # of a mode and a batch size: seconds of a run
_PARTS = 4  # of an octave: batch sizes that a search may try
# An interval that is narrow by a spread known from fewer second seeds is so by chance too often: intervals at the stop
# held the truth in 92 % of simulated studies without this, see benchmarks/find.py.
_FREEDOM = 4
_WIDE = 2.001  # a bracket this wide is bisected, before runs are chosen by what they are expected to narrow


@dataclass(frozen=True)
class Prior:
    """What is expected of a mode before it is trained: a breaking point, and a factor on both sides of it."""

    estimate: float
    factor: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for, and among which runs."""

    modes: Mapping[str, Mode]
    """by name, those whose breaking point is wanted; the reference is not among them"""
    small: tuple[int, ...]
    """batch sizes of the reference"""
    largest: int
    """no mode is trained at a larger batch size"""
    reference_batch_size: int
    """up to it every mode is the reference"""
    within: float | None = None
    """high / low at which an interval is narrow enough; None: never"""
    tolerance: float = 0.01
    """loss of accuracy, 0-1, that still counts as keeping it"""
    chance: float = 0.0
    """accuracy, 0-1, up to which a network may have learned nothing"""
    priors: Mapping[str, Prior] = field(default_factory=dict)
    """by name of a mode; data overrule them"""
    sizes: tuple[int, ...] | None = None
    """the only batch sizes of the modes; None: four an octave, see `sizes_between`"""
    seeds: int = 12
    """of a batch size at most: where so many do not tell, more would take for ever"""

    @property
    def all_modes(self) -> dict[str, Mode]:
        """With the reference."""
        return {REFERENCE.name: REFERENCE, **self.modes}

    def run(self, name: str, batch_size: int, seed: int) -> Run:
        """The run under the name that it is trained under: the reference's, where the mode trains as it does."""
        is_same = batch_size <= self.reference_batch_size or (
            batch_size in self.small and self.modes.get(name, REFERENCE).is_base_rate
        )
        return REFERENCE.name if is_same else name, batch_size, seed


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a search so far.

    Attributes:
        finals: final accuracies: `experiment`, `batch_size`, `seed`, `accuracy`.
        diverged: runs that diverged.
        begun: runs that nobody trains now and that are not finished.
        under_way: runs that are being trained. They count as if they ended where the curve is.
        failed: runs that cannot be trained; other seeds of their batch sizes are not tried either.
    """

    finals: pd.DataFrame
    diverged: tuple[Run, ...] = ()
    begun: tuple[Run, ...] = ()
    under_way: tuple[Run, ...] = ()
    failed: tuple[Run, ...] = ()

    @cached_property
    def taken(self) -> frozenset[Run]:
        """Runs that nobody has to begin."""
        names = zip(*(self.finals[key] for key in ("experiment", "batch_size", "seed")), strict=True)
        finished = ((name, int(size), int(seed)) for name, size, seed in names)
        return frozenset((*finished, *self.diverged, *self.begun, *self.under_way, *self.failed))


@dataclass(frozen=True, eq=False)
class Known:
    """What the runs of a search say.

    Attributes:
        search: what was looked for.
        cells: final accuracies, see `accuracies.accuracies`.
        threshold: None where no run of the reference is finished.
        beginnings: by name of a mode, where its curve begins.
        points: by name of a mode, its breaking point in accuracy.
    """

    search: Search
    cells: pd.DataFrame
    threshold: Threshold | None
    beginnings: Mapping[str, Beginning]
    points: Mapping[str, BreakingPoint]

    def ends(self, name: str) -> tuple[float, float]:
        """The interval of a mode; an open end reaches to the end of the range."""
        return _ends(self.points[name], self.beginnings[name].first, self.search.largest)

    def width(self, name: str) -> float:
        """high / low of a mode's interval."""
        low, high = self.ends(name)
        return max(1.0, high / low)

    def is_done(self, name: str) -> bool:
        """Whether its interval is narrow enough, or the mode keeps the accuracy, or loses it, throughout."""
        return self.freedom >= _FREEDOM and self.width(name) <= max(1 + 1e-9, self.search.within or 1.0)

    @cached_property
    def freedom(self) -> int:
        """Number of seeds beyond the first of each batch size: what is known about their spread."""
        return int((self.cells["seeds"] - 1).clip(lower=0).sum())

    @cached_property
    def runs(self) -> dict[str, int]:
        """By name of a mode and of the reference, the number of runs."""
        runs = (self.cells["seeds"] + self.cells["diverged"]).groupby(self.cells["experiment"]).sum()
        return {name: int(runs.get(name, 0)) for name in self.search.all_modes}

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """By name of a mode, the positions of its curve's cells."""
        placed = self.cells.assign(row=range(len(self.cells)))
        curves = {name: curve(placed, mode, self.beginnings[name]) for name, mode in self.search.modes.items()}
        return {name: table["row"].tolist() for name, table in curves.items()}

    @property
    def has_errors(self) -> bool:
        """Whether some batch size has two runs, without which there is no interval."""
        return self.threshold is not None and bool(self.cells["error"].notna().any())

    @property
    def left(self) -> list[str]:
        """Names of the modes that are not done."""
        return [name for name in self.search.modes if not self.is_done(name)]


def known(search: Search, runs: Runs) -> Known:
    """Threshold and breaking points, as `findings.analyse` finds them. Runs under way count as their expectations."""
    finals = runs.finals.sort_values(["experiment", "batch_size", "seed"])  # sums are rounded in the same order
    cells = accuracies(finals, sorted(runs.diverged))
    found = _of_cells(search, cells, finals)
    for run in sorted(runs.under_way):
        value = _expected(found, run[0], run[1])
        if value is not None:
            cells = _with(cells, run, value)
    return _of_cells(search, with_errors(cells), finals) if runs.under_way else found


def rank(search: Search, runs: Runs, cost: Cost) -> list[Run]:
    """The runs to train next, best first; none where everything is known as well as was asked for.

    In this order: what was begun; the reference, its cheap large batch sizes first, until they are clearly worse than
    the best; for each mode, the run that halves the range in which its curve may cross the threshold, beginning at the
    prior or in the geometric middle; a second seed, without which there is no interval; then the run that is expected
    to narrow the intervals most per second: log(high / low) with its expected result, less that without it.

    Args:
        cost: seconds of a run.
    """
    ranked = [*sorted(set(runs.begun) - set(runs.under_way) - set(runs.failed), key=_by_cost(cost))]
    if ranked:
        return ranked
    now = known(search, runs)
    if is_untrained(now, runs):
        return []
    for phase in (_of_reference, _halving, _second_seeds, _narrowing):
        ranked = [run for run in dict.fromkeys(phase(now, runs, cost)) if run not in runs.taken]
        if ranked:
            return ranked
    return []


def is_untrained(now: Known, runs: Runs) -> bool:
    """Whether the runs of the reference ended, and none of its batch sizes learned anything."""
    ours = now.cells[now.cells["experiment"] == REFERENCE.name]
    is_open = any(name == REFERENCE.name for name, *_ in (*runs.begun, *runs.under_way))
    if is_open or ours.empty or not runs.taken.issuperset(_of_reference(now, runs)):
        return False
    return now.threshold is None or not ours["accuracy"].max() > now.search.chance


def sizes_between(low: float, high: float, parts: int = _PARTS) -> list[int]:
    """Batch sizes above `low` and below `high`: so many an octave, as multiples of a sixteenth of their power of two.

    >>> sizes_between(64, 300), sizes_between(8, 17), sizes_between(64, 600, parts=1)
    ([76, 92, 108, 128, 152, 184, 216, 256], [10, 11, 13, 16], [128, 256, 512])
    """
    first, last = (math.floor(parts * math.log2(max(end, 1))) for end in (low, high))
    found = []
    for place in range(first, last + 2):
        power = 2 ** (place // parts)
        step = max(1, power // 16)
        found.append(round(power * 2 ** (place % parts / parts) / step) * step)
    return [size for size in dict.fromkeys(found) if low < size < high]


def expected(search: Search, runs: Runs, cost: Cost) -> Iterator[Run]:
    """The runs that would follow one after another if each ended as it is expected to."""
    runs = replace(runs, begun=(), under_way=(*runs.under_way, *runs.begun))
    while ranked := rank(search, runs, cost):
        yield ranked[0]
        runs = replace(runs, under_way=(*runs.under_way, ranked[0]))


def _of_cells(search: Search, cells: pd.DataFrame, finals: pd.DataFrame) -> Known:
    found = threshold(finals, cells, [REFERENCE.name], search.tolerance)
    beginnings = {
        name: beginning(mode, search.all_modes, cells, found, [REFERENCE.name], search.reference_batch_size)
        for name, mode in search.modes.items()
    }
    tables = {name: curve(cells, mode, beginnings[name]) for name, mode in search.modes.items()}
    points = {name: in_accuracy(losses(table, found), found) for name, table in tables.items()}
    return Known(search, cells, found, beginnings, points)


def _ends(point: BreakingPoint, first: float, largest: int) -> tuple[float, float]:
    return point.low or max(first, 1), point.high or largest


def _expected(now: Known, name: str, batch_size: int) -> float | None:
    """The accuracy that a run would have: that of its batch size so far, or of its mode's curve; None: unknown."""
    own = now.cells[(now.cells["experiment"] == name) & (now.cells["batch_size"] == batch_size)]
    if len(own) and own["seeds"].iloc[0] > 0:
        return float(own["accuracy"].iloc[0])
    fitted = now.points[name].curve if name in now.points else None
    if fitted is None:
        return None if now.threshold is None or name == REFERENCE.name else now.threshold.best
    return float(fitted.curve(np.clip([batch_size], fitted.sizes[0], fitted.sizes[-1]))[0])


def _with(cells: pd.DataFrame, run: Run, value: float) -> pd.DataFrame:
    """The cells with one more run. It leaves the moderated variance of its cell as it is, and adds a degree of
    freedom: what is not known yet is neither luckier nor unluckier than the rest."""
    name, size, _ = run
    at = np.flatnonzero((cells["experiment"] == name) & (cells["batch_size"] == size))
    if not len(at):
        new = {"experiment": name, "batch_size": size, "seeds": 1, "accuracy": value, "diverged": 0}
        return pd.concat([cells, pd.DataFrame([new]).reindex(columns=cells.columns)], ignore_index=True)
    cells, row = cells.copy(), cells.index[at[0]]
    seeds, mean, deviation, error = cells.loc[row, ["seeds", "accuracy", "standard_deviation", "error"]]
    if not seeds:
        return cells
    variance = error**2 * seeds
    squares = (seeds - 1) * (deviation**2 if seeds > 1 else 0) + variance
    cells.loc[row, "standard_deviation"] = math.sqrt(squares / seeds)
    cells.loc[row, "accuracy"] = (seeds * mean + value) / (seeds + 1)
    cells.loc[row, "seeds"] = seeds + 1
    cells.loc[row, "error"] = math.sqrt(variance / (seeds + 1))
    return cells


def _by_cost(cost: Cost) -> Callable[[Run], tuple]:
    return lambda run: (cost(*run[:2]), run)


def _next_seed(search: Search, runs: Runs, name: str, batch_size: int) -> list[Run]:
    """The next seed of a batch size; none where it diverges or fails, or has seeds enough."""
    run = search.run(name, batch_size, 0)
    ours = [each for each in runs.taken if each[:2] == run[:2]]
    if any(each in runs.diverged or each in runs.failed for each in ours) or len(ours) >= search.seeds:
        return []
    seeds = {seed for *_, seed in ours}
    return [(*run[:2], next(seed for seed in range(len(seeds) + 1) if seed not in seeds))]


def _of_reference(now: Known, runs: Runs, cost: Cost | None = None) -> list[Run]:
    """The first seeds of the reference, from the largest batch size down: a smaller minibatch takes longer. Accuracy
    rises and then falls on the way, so that it ends after one that is clearly worse than the best, or two that are."""
    ours = now.cells[(now.cells["experiment"] == REFERENCE.name) & (now.cells["seeds"] > 0)]
    accuracy = dict(zip(ours["batch_size"], ours["accuracy"], strict=True))
    begun = {size for name, size, _ in runs.taken if name == REFERENCE.name}
    found, best, worse = [], -math.inf, 0
    for size in sorted(now.search.small, reverse=True):
        if size not in begun:
            found.append((REFERENCE.name, size, 0))
        elif size in accuracy:
            worse = worse + 1 if at_least(best, accuracy[size]) else 0
            best = max(best, accuracy[size])
            is_clear = best > now.search.chance and not at_least(accuracy[size], best - now.search.tolerance)
            if is_clear or worse == 2:
                break
    return found


def _halving(now: Known, runs: Runs, cost: Cost) -> list[Run]:
    """For every mode, the run that halves the range of its crossing; the cheapest first, and guesses while another run
    of the mode is under way last."""
    certain, guesses = [], []
    for name in now.search.modes:
        if now.is_done(name):
            continue
        low, high = _bracket(now, name)
        tried = sorted(size for mode, size, _ in runs.under_way if mode == name and low < size < high)
        gaps = sorted(zip([low, *tried], [*tried, high], strict=True), key=lambda gap: -gap[1] / gap[0])
        start, end = gaps[0]
        size = _middle(now, name, start, end)
        if size is not None:
            (guesses if tried else certain).append(now.search.run(name, size, 0))
    return [*sorted(certain, key=_by_cost(cost)), *sorted(guesses, key=_by_cost(cost))]


def _bracket(now: Known, name: str) -> tuple[float, float]:
    """The largest batch size that keeps the accuracy and the smallest that loses it; infinite where none does so."""
    kept, lost = now.points[name].between
    first = now.beginnings[name].first or now.search.reference_batch_size
    return kept or first, lost or math.inf


def _middle(now: Known, name: str, low: float, high: float) -> int | None:
    """The batch size that halves a range; None where it is narrow. An open range is tried at its end at last."""
    search, is_open = now.search, math.isinf(high)
    high = search.largest if is_open else high
    if is_open and low >= high:
        return None
    if high / low <= max(_WIDE, search.within or 0):
        return search.largest if is_open else None
    prior, middle = search.priors.get(name), math.sqrt(low * high)
    if prior is not None:
        expected = [prior.estimate, prior.estimate / prior.factor, prior.estimate * prior.factor]
        middle = next((place for place in expected if low * 1.4 < place < high / 1.4), middle)
    sizes = _grid(search, low, high, parts=1) if high / low >= 4 else []
    sizes = sizes or _grid(search, low, high)
    return _nearest(sizes, middle)


def _nearest(sizes: Iterable[int], place: float) -> int | None:
    """The batch size next to a place on an axis of log B; of equals, which rounding does not decide, the smallest."""
    return min(sizes, key=lambda size: (round(abs(math.log(size / place)), 9), size), default=None)


def _grid(search: Search, low: float, high: float, parts: int = _PARTS) -> list[int]:
    if search.sizes is not None:
        return [size for size in search.sizes if low < size < high]
    return sizes_between(low, high, parts)


def _second_seeds(now: Known, runs: Runs, cost: Cost) -> list[Run]:
    """While no batch size has two seeds: of the best of the reference, or the last that keeps the accuracy, whichever
    is cheapest. One such pair gives an error to all."""
    if now.has_errors or now.threshold is None:
        return []
    sizes = [(REFERENCE.name, now.threshold.from_batch_size)]
    sizes += [(name, int(_bracket(now, name)[0])) for name in now.search.modes]
    found = [run for name, size in sizes for run in _next_seed(now.search, runs, name, size)]
    return sorted(found, key=_by_cost(cost))


def _narrowing(now: Known, runs: Runs, cost: Cost) -> list[Run]:
    """Runs by what they are expected to narrow per second."""
    if not now.has_errors or not now.left:
        return []
    gains: dict[Run, float] = {}
    for name in now.left:
        for run in _around(now, runs, name):
            gains[run] = gains.get(run, 0.0) + _gain(now, run, [name])
    for run in _of_best_reference(now, runs):
        gains[run] = _gain(now, run, now.left)
    if not any(gain > 1e-6 for gain in gains.values()):  # one run is not enough, or confirms what is narrow already
        return sorted(gains, key=lambda run: (run[2] or math.inf, cost(*run[:2]), run))
    useful = [run for run in gains if gains[run] > 1e-6]
    return sorted(useful, key=lambda run: (-gains[run] / cost(*run[:2]), run))


def _around(now: Known, runs: Runs, name: str) -> Iterable[Run]:
    """Runs of a mode that may narrow its interval: more seeds around its crossing, and new batch sizes within it."""
    search, point = now.search, now.points[name]
    low, high = now.ends(name)
    first = now.beginnings[name].first
    own = now.points[name].curve
    sizes = [] if own is None else [round(size) for size in own.sizes if size > first]
    between = [size for size in point.between if size is not None and size > first]
    beside = [
        *[size for size in sizes if size < min(between, default=0)][-1:],
        *[size for size in sizes if size > max(between, default=math.inf)][:1],
    ]
    found = [run for size in (*between, *beside) for run in _next_seed(search, runs, name, size)]
    middle = point.estimate or math.sqrt(low * high)
    tried = {size for mode, size, _ in runs.taken if search.run(name, size, 0)[0] == mode}
    free = [size for size in _grid(search, low, high) if size not in tried]
    for place in (middle, math.sqrt(low * middle), math.sqrt(middle * high)):
        nearest = _nearest(free, place)
        if nearest is not None:
            found.append(search.run(name, nearest, 0))
    if point.high is None and search.largest not in tried:
        found.append(search.run(name, search.largest, 0))
    return dict.fromkeys(found)


def _of_best_reference(now: Known, runs: Runs) -> list[Run]:
    """More seeds of the two best batch sizes of the reference, which narrow the intervals of all modes."""
    ours = now.cells[(now.cells["experiment"] == REFERENCE.name) & (now.cells["seeds"] > 0)]
    ours = ours[ours["diverged"] == 0].sort_values(["accuracy", "batch_size"], ascending=[False, True])
    return [
        run for size in ours["batch_size"].head(2) for run in _next_seed(now.search, runs, REFERENCE.name, int(size))
    ]


def _gain(now: Known, run: Run, names: Collection[str]) -> float:
    """By how much a run is expected to lower log(high / low), over these modes; what is narrow enough counts so."""
    is_reference, search = run[0] == REFERENCE.name, now.search
    value = _expected(now, run[0] if is_reference else names[0], run[1])
    if value is None:
        return 0.0
    cells = with_errors(_with(now.cells, run, value))
    found = threshold(_NO_FINALS, cells, [REFERENCE.name], search.tolerance) if is_reference else now.threshold
    gain = 0.0
    for name in names:
        rows = [*now.rows[name], *range(len(now.cells), len(cells))]  # and the new one
        table = cells.iloc[rows].sort_values("batch_size", ignore_index=True)
        point = in_accuracy(table.assign(loss=np.nan), found)
        low, high = _ends(point, now.beginnings[name].first, search.largest)
        least = search.within or 1.0
        gain += math.log(max(least, now.width(name))) - math.log(max(least, high / low))
    return gain


_NO_FINALS = pd.DataFrame(columns=["experiment", "batch_size", "seed"])  # they give a threshold its records' names
