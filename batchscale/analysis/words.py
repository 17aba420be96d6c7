"""Numbers, intervals and lists in words: the one formatter of terminal, notebooks, figures, README and report."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

UNDETERMINED = "–"
MOST = 16  # of what is listed in a sentence or a legend; JSON has all of it


def number(value: float | None) -> str:
    """Whole numbers in full, others to three digits; thousands separated by a thin space from 100 000 on; – for None.

    >>> number(16384), number(763974.2), number(0.0020000001), number(None)
    ('16384', '764\u202f000', '0.002', '–')
    """
    if value is None or math.isnan(value):
        return UNDETERMINED
    if not isinstance(value, Integral):
        value = float(f"{value:.3g}") if abs(value) >= 100_000 or not float(value).is_integer() else value
        if not float(value).is_integer():
            return f"{value:g}"
    return f"{int(value):,}".replace(",", "\u202f" if abs(value) >= 100_000 else "")


def images(value: float | None) -> str:
    """A batch size that need not be a recorded one: to two digits below 100, from there on to three.

    >>> images(9.724), images(28.23), images(8.0), images(128), images(1248.3), images(None)
    ('9.7', '28', '8', '128', '1250', '–')
    """
    if value is None or math.isnan(value) or float(value).is_integer():
        return number(value)
    return number(float(f"{value:.{2 if value < 100 else 3}g}"))


def interval(low: float | None, high: float | None) -> str:
    """`low–high` in batch sizes, `≤ high` or `≥ low` where a side is open, and nothing where both are.

    >>> interval(128, 256), interval(None, 256), interval(None, None), interval(12.77, 109.2)
    ('128–256', '≤ 256', '', '13–109')
    """
    if low is None and high is None:
        return ""
    if low is None:
        return f"≤ {images(high)}"
    return f"≥ {images(low)}" if high is None else f"{images(low)}–{images(high)}"


def verdict_size(found) -> str:
    """The estimate of a breaking point or critical batch size. Where a breaking point lies outside the recorded batch
    sizes, the side: `> 8192` pays up to the largest, `< 128` from the smallest on not."""
    kept, lost = getattr(found, "between", (None, None))
    if found.estimate is not None or (kept, lost) == (None, None):
        return images(found.estimate)
    return f"< {lost}" if kept is None else f"> {kept}"


def minus(value: float) -> str:
    """An exponent or slope with two digits and a proper minus.

    >>> minus(-0.987), minus(0.204)
    ('−0.99', '0.20')
    """
    return f"{value:.2f}".replace("-", "−")


def upwards(low: float, high: float | None) -> str:
    """A range that may be open above.

    >>> upwards(190, 764), upwards(4.81, None)
    ('190 to 764', '4.81 upwards')
    """
    return f"{number(low)} upwards" if high is None else f"{number(low)} to {number(high)}"


def percent(value: float, deviation: float | None = None) -> str:
    """A fraction as a percentage with one digit, and its standard deviation where there is one.

    >>> percent(0.787), percent(0.787, 0.0031)
    ('78.7 %', '78.7 ± 0.3 %')
    """
    spread = "" if deviation is None or math.isnan(deviation) else f" ± {100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread} %"


def goal(value: float) -> str:
    """A target: an accuracy as a percentage; above 1, which only a table of results may have, as it stands.

    >>> goal(0.71), goal(3.42)
    ('71.0 %', '3.42')
    """
    return percent(value) if value <= 1 else number(value)


def points(value: float) -> str:
    """A difference of fractions in percentage points, with one digit.

    >>> points(0.0131), points(0.01)
    ('1.3 points', '1 point')
    """
    shown = f"{round(100 * value, 1) + 0.0:.1f}".removesuffix(".0")  # + 0.0: no −0
    return f"{shown} point{'' if shown == '1' else 's'}"


def exact(value) -> str:
    """A setting to its last digit, where `number` would round it.

    >>> exact(0.0123456), exact(8), exact("fp32")
    ('0.0123456', '8', 'fp32')
    """
    return f"{value:.12g}" if isinstance(value, float) else number(value) if isinstance(value, int) else str(value)


def decimal(value: float) -> str:
    """A difference of fractions in percentage points, without a unit.

    >>> decimal(0.0131), decimal(-0.02), decimal(-0.00001)
    ('1.3', '−2.0', '0.0')
    """
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> signed(0.0131), signed(-0.02), signed(-0.00001)
    ('+1.3', '−2.0', '+0.0')
    """
    shown = decimal(value)
    return shown if shown.startswith("−") else f"+{shown}"


def count(value: float, what: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number(value)} {what}{'' if value == 1 else 's'}"


def listed(items: Iterable, last: str = "and") -> str:
    """Items in a sentence; of more than `MOST` the first ones, the last one and their number.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    >>> listed(range(300))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, … and 299 (300 in all)'
    """
    *first, end = [*map(str, items)] or [""]
    if len(first) >= MOST:
        return f"{', '.join(first[: MOST - 2])}, … {last} {end} ({len(first) + 1} in all)"
    return f"{', '.join(first)} {last} {end}" if first else end


def any_of(values: Iterable[int], what: str) -> str:
    """One of several numbers of things, each said once and in order.

    >>> any_of([10], "epoch"), any_of([20, 5, 20], "epoch"), any_of([1], "epoch")
    ('10 epochs', '5 or 20 epochs', '1 epoch')
    """
    distinct = sorted(set(values))
    return f"{listed(map(number, distinct), 'or')} {what}{'' if distinct == [1] else 's'}"


def spread(items: Sequence, most: int = MOST) -> list:
    """At most so many of the items, evenly from the first to the last.

    >>> spread(range(100), 4), spread(range(3), 4)
    ([0, 33, 66, 99], [0, 1, 2])
    """
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def sizes_at(sizes: Sequence[int], among: Sequence[int]) -> str:
    """At which batch sizes, in the shortest way: a range where they follow one another among all of them.

    >>> sizes_at([128, 256, 512], [64, 128, 256, 512]), sizes_at([64, 256], [64, 128, 256])
    ('at batch sizes from 128 to 512', 'at 64 and 256')
    """
    sizes, among = [int(size) for size in sizes], [int(size) for size in among]
    start = among.index(sizes[0])
    if len(sizes) > 2 and sizes == among[start : start + len(sizes)]:
        return f"at batch sizes from {sizes[0]} to {sizes[-1]}"
    return f"at {listed(sizes)}"


def sentence(words: str) -> str:
    """A capital letter in front and a full stop behind.

    >>> sentence("the linear rule loses 1.3 points")
    'The linear rule loses 1.3 points.'
    """
    return f"{words[0].upper()}{words[1:]}."


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(4.2), duration(95), duration(2400), duration(5400), duration(90_000)
    ('4 s', '95 s', '40 min', '1.5 h', '25 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
