"""Find the breaking points in accuracy within a budget: the next run is the one expected to say most per second.

    found = find(Experiment(batch_size=8, dataset="digits"), hours=1, within=1.5, data_dir="runs/digits")
    found.modes["scaled_lr"].breaking_points["accuracy"].interval

Every run is an ordinary record. A search that was stopped or killed goes on where it was, and so does one that is given
more hours; several on one folder share the runs.
"""

import math
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields, replace
from numbers import Real

from batchscale import modes, streams
from batchscale.analysis.findings import Findings
from batchscale.analysis.search import Prior, Search, is_untrained, known
from batchscale.analysis.words import duration, listed, percent
from batchscale.errors import UserError
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.modes import MODES, REFERENCE
from batchscale.records import advice
from batchscale.records.files import require_writable
from batchscale.sweeps import processes
from batchscale.sweeps.cost import Cost
from batchscale.sweeps.display import Display
from batchscale.sweeps.failure import as_error
from batchscale.sweeps.options import Options
from batchscale.sweeps.searching import Searching
from batchscale.sweeps.signals import caught
from batchscale.sweeps.sweep import work
from batchscale.sweeps.told import HOUR, Drawing, Told

COMPARED = tuple(name for name, mode in MODES.items() if mode.role == "compared")
LEAST_UPDATES = 4  # of an epoch, at the largest batch size that is tried by default
_TRAINING = 0.98  # of the budget; the rest is for saving and for the answer
MEASURING = 60  # seconds that measuring the time of updates may take; of a small budget a twentieth
# What the time of an update depends on, and what a prediction of the breaking point does.
_TIMED = ("dataset", "train_size", "augment", "model", "width", "optimizer", "precision")
_PREDICTED = (*_TIMED, "base_lr", "reference_batch_size", "momentum", "weight_decay")


def find(
    experiment: Experiment | Mapping | None = None,
    *,
    names: Collection[str] = COMPARED,
    hours: float | None = None,
    within: float | None = None,
    small: Collection[int] = SMALL_BATCH_SIZES,
    largest: int | None = None,
    tolerance: float = 0.01,
    stop_lost: bool = False,
    figure: bool = False,
    on_change: Callable[[Findings], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **options,
) -> Findings:
    """Train the runs that narrow the breaking points in accuracy most per second, until they are known or time is over.

    Args:
        experiment: what all runs have in common, as an experiment or as its fields. Its name, batch size and seed do
            not matter; its rule (`lr_scaling`, `warmup`) is that of names of your own.
        names: modes whose breaking points are wanted.
        hours: budget, counted from this call. A run that is not finished by then is saved; it goes on when a later
            call gives more hours.
        within: high / low of the 95 % interval at which a breaking point is known well enough. With both, whichever
            comes first.
        small: batch sizes of the reference, `baseline_small`.
        largest: no mode is trained at a larger batch size; None: the largest power of two, up to the study's largest,
            that leaves an epoch four updates.
        tolerance: loss of accuracy, 0-1, that still counts as keeping it.
        stop_lost: stop a run at half of its epochs or later if it clearly cannot come near the threshold any more, by
            the runs so far. Its sidecar says so, and analysis counts it with the most that it could have reached; a
            sweep would continue it.
        figure: in a notebook, show the curves, and draw them again whenever a run ends.
        on_change: called with the findings in accuracy, whenever a run ends.
        clock: seconds, for the budget.
        options: fields of `Options`: where the files are, how many runs are trained at once, and so on.

    Returns:
        The findings of these runs, as `analyse` makes them.

    Raises:
        UserError: an argument is out of range; the budget does not suffice for one run of the reference; the reference
            does not train; or, after all other runs, one of them failed.
        Stopped: Ctrl-C or SIGTERM arrived, and everything is saved.
    """
    started = clock()
    processes.require_no_start()
    options = Options(**options)
    _require_numbers(hours, within, tolerance)
    if options.engine == "ray":
        if stop_lost:
            raise UserError("stop_lost is set but engine is ray, whose tasks do not see the other runs; remove one")
        from batchscale.sweeps import ray_cluster

        ray_cluster.require()
    settings = _settings(experiment)
    budget = math.inf if hours is None else HOUR * hours
    searching = _searching(settings, options, names, small, largest, within, tolerance, budget)
    searching.deadline, searching.clock, searching.gives_up = started + budget * _TRAINING, clock, stop_lost
    _require_time(searching, hours)
    with Display(None) as display, caught(signal.SIGINT, signal.SIGTERM) as stop:
        stop.deadline, stop.clock = searching.deadline, clock
        told = Told(searching, display, [*filter(None, [on_change]), *([Drawing().draw] if figure else [])])
        failures = work(searching, options, told.show, stop)
    _require_trained(searching)
    told.answer()
    if failures:
        raise as_error(failures)
    return told.findings()


def _require_numbers(hours: float | None, within: float | None, tolerance: float) -> None:
    if hours is None and within is None:
        raise UserError("neither hours nor within is given; give a budget (hours 3), a width (within 1.5), or both")
    for name, value, least in (("hours", hours, 0), ("within", within, 1)):
        if value is not None and not (isinstance(value, Real) and least < value < math.inf):
            raise UserError(f"{name} is {value!r}; it must be a number above {least}")
    if not (isinstance(tolerance, Real) and 0 < tolerance < 1):
        raise UserError(f"tolerance is {tolerance!r}; it must be a fraction, above 0 and below 1")


def _settings(experiment: Experiment | Mapping | None) -> dict:
    """The fields that all runs have in common."""
    given = asdict(experiment) if isinstance(experiment, Experiment) else dict(experiment or {})
    unknown = set(given) - {field.name for field in fields(Experiment)}
    if unknown:
        raise UserError(f"{sorted(unknown)[0]} is no setting of an experiment and no option of find")
    return {key: value for key, value in given.items() if key not in ("name", "batch_size", "seed")}


def _searching(
    settings: dict,
    options: Options,
    names: Collection[str],
    small: Collection[int],
    largest: int | None,
    within: float | None,
    tolerance: float,
    budget: float,
) -> Searching:
    """The search, with the cost of its runs and what is predicted about them."""
    common = Experiment(batch_size=1, **settings)
    from batchscale.training import datasets

    data = datasets.load(common.dataset, options.data_root)
    images = len(data.first(common.train_size).train_images)
    rule = {"lr_scaling": common.lr_scaling, "warmup": common.warmup}
    search = Search(
        modes=_modes(names, rule),
        small=_small(small, images),
        largest=_largest(largest, images, common),
        reference_batch_size=common.reference_batch_size,
        within=within,
        tolerance=tolerance,
        chance=0.05 + 0.95 / len(data.classes),  # that of guessing, and a twentieth of the rest
    )
    for name in names:
        replace(common, name=name)  # refuses what no file can be called, before anything is trained
    searching = Searching(search, settings, options)
    searching.runs()  # a record of another experiment is refused before anything is measured
    for folder in {options.data_dir, options.folder}:
        require_writable(folder)
    noted = _noted(common, data, options, min(MEASURING, max(1, budget / 20)))
    searching.search = replace(search, priors=_priors(noted, common, search))
    times = tuple((each["batch_size"], each["seconds"]) for each in noted["throughput"])
    searching.cost = Cost(times, noted["evaluation_seconds"], common.epochs, images)
    return searching


def _modes(names: Collection[str], rule: dict) -> dict[str, modes.Mode]:
    wanted = [name for name in dict.fromkeys(names) if name != REFERENCE.name]
    if not wanted:
        raise UserError(f"names is {' '.join(names) or 'empty'}; name a mode to compare with {REFERENCE.name}")
    return modes.named(wanted, {name: MODES[name].rule if name in MODES else rule for name in wanted})


def _small(small: Collection[int], images: int) -> tuple[int, ...]:
    sizes = tuple(sorted(set(small)))
    if not sizes or not all(isinstance(size, int) and 1 <= size <= images for size in sizes):
        shown = listed(sizes) if sizes else "empty"
        raise UserError(f"small is {shown}; it must be batch sizes from 1 to {images}, the number of training images")
    return sizes


def _largest(largest: int | None, images: int, common: Experiment) -> int:
    least = common.reference_batch_size
    if largest is None:
        largest = 2 ** int(math.log2(max(1, min(LARGE_BATCH_SIZES[-1], images // LEAST_UPDATES))))
    if not (isinstance(largest, int) and least < largest <= images):
        raise UserError(
            f"largest is {largest}; it must be a batch size above {least}, the reference batch size, and at most "
            f"{images}, the number of training images"
        )
    return largest


def _noted(common: Experiment, data, options: Options, seconds: float) -> dict:
    """What `advise` left in the folder, or the times of updates alone, measured now and left there.

    They are measured once, so that a search that goes on later decides as it would have at once.
    """
    from batchscale.training import throughput
    from batchscale.training.device import select_device

    noted = advice.read(options.data_dir)
    if noted is not None and _is_usable(noted):
        differing = _differing(noted, common, _TIMED)
        if noted.get("device") not in (None, f"{select_device(common.device)}"):
            differing.append("device")
        if not differing:
            return noted
        _note(
            f"the advice in {options.data_dir} is of another experiment ({listed(differing)}): times are measured anew"
        )
    found = throughput.measure(common, data, seconds=seconds)
    noted = {
        "experiment": asdict(common),
        "device": found.device,
        "throughput": [asdict(speed) for speed in found.speeds],
        "evaluation_seconds": found.evaluation_seconds,
    }
    advice.write(options.data_dir, noted)
    return noted


def _is_usable(noted: dict) -> bool:
    """Whether it holds times: the file may have been edited."""
    try:
        times = [(each["batch_size"], each["seconds"]) for each in noted["throughput"]]
        return len(times) > 0 and noted["evaluation_seconds"] >= 0 and all(min(pair) > 0 for pair in times)
    except (KeyError, TypeError):
        return False


def _differing(noted: dict, common: Experiment, settings: Collection[str]) -> list[str]:
    """The settings in which the advice was given for another experiment."""
    theirs = noted.get("experiment", {})
    return [field for field in settings if theirs.get(field, getattr(common, field)) != getattr(common, field)]


def _priors(noted: dict, common: Experiment, search: Search) -> dict[str, Prior]:
    """What was predicted for the rules of the modes; nothing, where it was for other settings."""
    rules = noted.get("rules") or {}
    differing = _differing(noted, common, _PREDICTED)
    if rules and differing:
        _note(f"the prediction in advice.json is for another experiment ({listed(differing)}): it is not used")
    found = {}
    for name, mode in search.modes.items() if not differing else ():
        rule = rules.get(mode.lr_scaling) or {}
        if rule.get("estimate"):
            low, high = (rule.get(end) or rule["estimate"] for end in ("low", "high"))
            found[name] = Prior(rule["estimate"], max(2.0, rule["estimate"] / low, high / rule["estimate"]))
    return found


def _note(line: str) -> None:
    print(line, file=streams.OUT, flush=True)


def _require_time(searching: Searching, hours: float | None) -> None:
    """
    Raises:
        UserError: no run of the reference is begun, and the shortest would not end within the budget.
    """
    runs, left = searching.runs(), searching.deadline - searching.clock()
    size = min(searching.search.small, key=lambda size: (searching.cost(REFERENCE.name, size), size))
    seconds = searching.cost(REFERENCE.name, size)
    if seconds > left and not any(name == REFERENCE.name for name, *_ in runs.taken):
        needed = hours + (seconds - left) / HOUR / _TRAINING
        digits = 1 - math.floor(math.log10(needed))
        raise UserError(
            f"hours is {hours:g}, but the shortest run of the reference, at batch size {size}, takes about "
            f"{duration(seconds)}; give it {math.ceil(needed * 10**digits) / 10**digits:g} hours or more, or train "
            f"fewer epochs"
        )


def _require_trained(searching: Searching) -> None:
    """
    Raises:
        UserError: the reference learns nothing, so that there is no accuracy to keep.
    """
    runs = searching.runs()
    now = known(searching.search, replace(runs, under_way=()))
    if not is_untrained(now, runs):
        return
    best = now.cells.loc[now.cells["experiment"] == REFERENCE.name, "accuracy"].max()
    how = "diverges at every batch size" if math.isnan(best) else f"reaches an accuracy of {percent(best)} at most"
    rate = Experiment(batch_size=1, **searching.settings).base_lr
    raise UserError(
        f"the reference does not train: {REFERENCE.name} {how}, with base_lr {rate:g}; choose a lower base_lr (or more "
        f"epochs), and another data_dir"
    )
