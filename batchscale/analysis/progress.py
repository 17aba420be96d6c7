"""What a search knows, in lines: whenever a run ends, when it stops, and what more time would buy. Pure functions."""

from collections.abc import Mapping

from batchscale.analysis.search import Known
from batchscale.analysis.words import count, duration, images, listed, percent, sentence
from batchscale.modes import REFERENCE


def state(now: Known, left: float) -> dict[str, str]:
    """A line per mode, by its name: `gradual warm-up: 256 to 610, 14 runs, 40 min left`.

    Args:
        left: seconds of the budget; infinite without one.
    """
    until = f", {duration(left)} left" if 0 < left < float("inf") else ""
    runs = now.runs
    return {
        name: f"{mode.label}: {_where(now, name)}, {count(runs[name], 'run')}" + ("" if now.is_done(name) else until)
        for name, mode in now.search.modes.items()
    }


def report(now: Known, seconds: Mapping[str, float]) -> list[str]:
    """What was found, a line per mode and one for the reference.

    Args:
        seconds: by name of a mode and of the reference, training time of its runs.
    """
    if now.threshold is None:
        return ["No run of the reference is finished, so nothing is known yet."]
    runs = now.runs

    def spent(name: str) -> str:
        return f"{count(runs[name], 'run')}, {duration(seconds.get(name, 0.0))} of training"

    found = now.threshold
    lines = [
        f"{REFERENCE.label}: threshold {percent(found.accuracy)}, from the best batch size, {found.from_batch_size}; "
        f"{spent(REFERENCE.name)}"
    ]
    for name, mode in now.search.modes.items():
        point = now.points[name]
        estimate = "" if point.estimate is None or not now.has_errors else f", estimate {images(point.estimate)}"
        lines.append(f"{mode.label}: {_where(now, name)}{estimate}; {spent(name)}")
    return lines


def following(now: Known, after: Known, seconds: float) -> list[str]:
    """What so many more seconds are expected to buy, in one sentence."""
    time = "One more hour" if 3000 < seconds <= 3600 else f"Another {duration(seconds)}"
    gains = [
        f"{now.search.modes[name].phrase} from {_range(now, name)} to about {_range(after, name)}"
        for name in now.left
        if seconds > 0 and after.width(name) < 0.95 * now.width(name)
    ]
    if gains:
        return [f"{time} would be expected to narrow {listed(gains)}."]
    names = listed([now.search.modes[name].phrase for name in now.left])
    return [sentence(f"one more hour would be expected to narrow the interval of {names} by less than 5 %")]


def _range(now: Known, name: str) -> str:
    return " to ".join(map(images, now.ends(name)))


def _where(now: Known, name: str) -> str:
    """Where the breaking point of a mode lies."""
    point, search = now.points[name], now.search
    if now.threshold is None or point.between == (None, None):
        return "waiting for the reference"
    if not now.has_errors:
        kept, lost = point.between
        known = f"between {kept} and {lost}" if kept and lost else f"above {kept}" if kept else f"below {lost}"
        return f"{known}, no interval yet"
    if point.low is not None and point.low >= search.largest * (1 - 1e-9):
        return f"keeps the accuracy up to {search.largest}, the largest"
    if point.low is None and point.high is None:
        return "not known yet"
    if point.high is None:
        return f"at least {images(point.low)}"
    return f"at most {images(point.high)}" if point.low is None else f"{images(point.low)} to {images(point.high)}"
