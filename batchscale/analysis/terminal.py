"""Findings and projections for a terminal, in lines of at most `width` characters. Pure functions."""

import itertools
import math
import textwrap

from batchscale.analysis import advice_sentences, sentences
from batchscale.analysis.advice import Advice, Row
from batchscale.analysis.breaking_point import CURRENCIES
from batchscale.analysis.findings import Effect, Findings, ModeFindings
from batchscale.analysis.projection import MEANING, Projection, Scaling, WorkerTime
from batchscale.analysis.reasons import grouped, together
from batchscale.analysis.threshold import Threshold
from batchscale.analysis.words import (
    UNDETERMINED,
    count,
    duration,
    goal,
    interval,
    listed,
    number,
    percent,
    points,
    sentence,
    signed,
    spread,
    upwards,
    verdict_size,
)

_INDENT = "    "
_MEANING_OF_ROWS = (
    "images, updates and time are those to the loss of the reference; images and faster are relative to it; "
    f"{UNDETERMINED} : not tried."
)


def text(found: Findings, width: int = 80) -> str:
    """Everything that `analyse` finds: a heading, a table, a sentence per mode, and what is missing."""
    parts = [sentences.settings(found.study)] if len(found.study.runs) else []
    parts.append(_heading(found))
    if found.modes:
        parts.append(_table(found))
        parts.append(
            f"95 % intervals below the batch sizes; {UNDETERMINED} : undetermined; > : beyond, < : below all recorded."
        )
    for mode in found.modes.values():
        parts += _mode(mode, found)
    parts += sentences.comparison(found)
    parts += sentences.at_threshold(found)
    for effect in found.effects if found.modes else ():
        parts.append(_effect(effect))
    parts += sentences.landscape(found)
    best = found.pareto
    if len(best):
        each = [
            f"{row.experiment} {row.batch_size} ({percent(row.accuracy)}, {number(row.running_time)} s)"
            for row in best.itertuples()
        ]
        parts.append(f"Pareto frontier of accuracy and time, {len(best)} of {len(found.frontier)}{_some(each)}")
    reason = found.to_target.reason
    parts += [f"Note: {remark}" for remark in ([reason] if reason else []) + list(found.remarks)]
    return _wrapped(parts, width)


def projection_text(projection: Projection, width: int = 80) -> str:
    """Everything that `project` predicts: the interconnects, and a table per mode."""
    target, size = projection.target, projection.gradient_bytes
    of = "Time to target" if target is None else f"Time to {goal(target)}"
    gradients = "" if size is None else f"; {size / 1e6:.3g} MB of gradients per update"
    parts = [sentences.settings(projection.study)] if len(projection.study.runs) else []
    parts.append(f"{of} by number of workers, each like what trained these runs{gradients}")
    for label, link in projection.interconnects.items():
        speed = f"{1e6 * link.latency:.3g} µs, {8e-9 * link.bandwidth:.3g} Gbit/s; " if not link.is_free else ""
        parts.append(f"  {label}: {speed}{link.source}")
    for mode in projection.modes.values():
        if mode.reason is not None:
            parts.append(f"{mode.mode.name}: {mode.reason}")
            continue
        parts.append(_workers(mode.mode.name, mode.scalings))
        parts += _items(grouped({label: scaling.reasons for label, scaling in mode.scalings.items()}))
    if any(mode.reason is None for mode in projection.modes.values()):
        parts.append(MEANING)
    parts += [f"Note: {remark}" for remark in projection.remarks]
    return _wrapped(parts, width)


def advice_text(advice: Advice, width: int = 80) -> str:
    """The recommendation, the table that it rests on, and what it is unsure of."""
    parts = [advice_sentences.recommendation(advice), _rows(advice.table), _MEANING_OF_ROWS]
    lines = [
        *advice_sentences.limits(advice),
        *advice_sentences.schedule(advice),
        *advice_sentences.uncertainty(advice),
    ]
    parts += map(sentence, lines)
    return _wrapped(parts, width)


def _rows(table: tuple[Row, ...]) -> str:
    """One line per batch size; a dash where nothing is known."""
    heads = (
        ("B", 6),
        ("images/s", 10),
        ("MB", 8),
        ("rate", 9),
        ("images", 8),
        ("updates", 10),
        ("time", 8),
        ("faster", 8),
    )
    lines = ["".join(f"{head:>{width}}" for head, width in heads)]
    for row in table:
        shown = (
            str(row.batch_size),
            number(round(row.images_per_second)),
            UNDETERMINED if math.isnan(row.bytes) else number(round(row.bytes / 1e6)),
            f"{row.learning_rate:.3g}",
            *(
                [UNDETERMINED] * 4
                if math.isnan(row.images)
                else [f"{row.images:.2f}", number(round(row.updates)), duration(row.seconds), f"{row.speedup:.2g}"]
            ),
        )
        lines.append("".join(f"{word:>{width}}" for word, (_, width) in zip(shown, heads, strict=True)))
    return "\n".join(lines)


def _heading(found: Findings) -> str:
    runs = count(len(found.trained.runs), "run")
    words = f"{runs}; no threshold" if found.threshold is None else f"{runs}; {_threshold(found.threshold)}"
    return words + (f"; target {goal(found.target)}" if found.target is not None else "")


def _threshold(found: Threshold) -> str:
    if found.is_given:
        return f"threshold {percent(found.accuracy)}, as given"
    size = found.from_batch_size
    source = "the mean of the reference's batch sizes" if size is None else f"B = {size}"
    high = "" if percent(found.mean) == percent(found.best) else f", of which {points(found.optimism)} count as chance,"
    return (
        f"threshold {percent(found.accuracy)}: {percent(found.mean, found.standard_deviation)} of {source} "
        f"({count(found.seeds, 'seed')}){high} minus {points(found.tolerance)}"
    )


def _table(found: Findings) -> str:
    column = 14
    lines = ["".join(f"{head:>{column}}" for head in (*CURRENCIES, "critical B"))]
    for name, mode in found.modes.items():
        verdicts = [*(mode.breaking_points[currency] for currency in CURRENCIES), mode.critical]
        intervals = [interval(*each.interval) for each in verdicts]
        lines.append(name)
        lines.append("".join(f"{verdict_size(each):>{column}}" for each in verdicts))
        if any(intervals):
            lines.append("".join(f"{shown:>{column}}" for shown in intervals))
    return "\n".join(line.rstrip() for line in lines)


def _mode(mode: ModeFindings, found: Findings) -> list[str]:
    parts = [f"{mode.mode.name}: {sentences.accuracy(mode, found.threshold)}"]
    reasons = {f"breaking point in {currency}": mode.breaking_points[currency].reasons for currency in CURRENCIES}
    reasons["critical batch size"] = mode.critical.reasons
    if mode.breaking_points["accuracy"].estimate is None and len(mode.losses) and found.threshold:
        del reasons["breaking point in accuracy"]  # the sentence says it
    parts += _items(grouped(reasons))
    noise = mode.noise_scale
    if noise is not None:
        middle = "no median" if noise.median is None else f"median {count(noise.median, 'image')}"
        also = f"; {together(noise.reasons)}" if noise.reasons else ""
        spread = f"from {upwards(noise.low, noise.high)} over {sentences.epochs_before(found.target)}"
        parts.append(f"  - noise scale: {middle}, {spread}{also}")
    return parts


def _items(lines: list[str]) -> list[str]:
    return [f"  - {line}" for line in lines]


def _effect(effect: Effect) -> str:
    def said(row) -> str:
        if row.pairs == 0:
            return f"{UNDETERMINED} ({row.reason})"
        between = str(row.reason) if row.reason is not None else f"{signed(row.low)} to {signed(row.high)}"
        return f"{signed(row.difference)} ({between})"

    rows = effect.differences
    alike = set(rows["reason"]) if len(rows) else {None}
    if len(alike) == 1 and None not in alike and (rows["pairs"] > 0).all():
        each = [f"{row.batch_size}: {signed(row.difference)}" for row in rows.itertuples()]
        return f"Effect of {effect.name} in points of accuracy ({alike.pop()}){_some(each)}"
    shown = [
        f"{listed([row.batch_size for row in rows])}: {difference}"
        for difference, rows in itertools.groupby(effect.differences.itertuples(), said)
    ]
    return f"Effect of {effect.name} in points of accuracy{_some(shown or [str(effect.reason)])}"


def _some(items: list[str]) -> str:
    """What follows a heading; where there is much of it, a part from beginning to end."""
    shown = spread(items)
    return f"{'' if len(shown) == len(items) else f'; {len(shown)} of {len(items)} shown'}: {'; '.join(shown)}"


def _workers(name: str, scalings: dict[str, Scaling]) -> str:
    column = 10
    heads = ("pay up to", "time (s)", "with B", "half eff.", "fastest", "time (s)")
    lines = [name, " " * column + "".join(f"{head:>{column}}" for head in heads)]
    for label, scaling in scalings.items():
        values = [UNDETERMINED] * len(heads)
        if scaling.workers:
            pays, fastest = scaling.pays_up_to, scaling.fastest
            values = [pays.workers, _seconds(pays), pays.batch_size, scaling.half_efficient_up_to]
            values += [fastest.workers, _seconds(fastest)]
        lines.append(f"{label[:column]:{column}}" + "".join(f"{value:>{column}}" for value in values))
    one = next((scaling.workers[0] for scaling in scalings.values() if scaling.workers), None)
    if one is not None:
        lines[0] += f": one worker takes {_seconds(one)} s with B = {one.batch_size}"
    return "\n".join(lines)


def _seconds(time: WorkerTime) -> str:
    return f"{time.seconds:.0f}" if time.seconds >= 100 else f"{time.seconds:.3g}"


def _wrapped(parts: list[str], width: int) -> str:
    return "\n".join(
        part
        if "\n" in part
        else textwrap.fill(
            part.replace(" %", "\u00a0%"),
            width,
            subsequent_indent=_INDENT if part.startswith("  ") else "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\u00a0", " ")
        for part in parts
    )
