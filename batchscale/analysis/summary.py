"""Findings as tables for a reader: verdicts and final accuracies, in words, and as the values behind them.

    verdicts(found)                  # a row per mode, in words
    reasons(found)                   # why some of them are missing, or need care
    values(found)["verdicts"]        # a row per mode and verdict, in numbers

Pure functions. Modes are in the study's order and under their labels.
"""

import pandas as pd

from batchscale.analysis.breaking_point import CURRENCIES, BreakingPoint
from batchscale.analysis.critical_batch_size import CriticalBatchSize
from batchscale.analysis.findings import Findings, ModeFindings
from batchscale.analysis.reasons import grouped, together
from batchscale.analysis.words import UNDETERMINED, interval, percent, verdict_size

CRITICAL = "critical batch size"


def verdicts(found: Findings) -> pd.DataFrame:
    """Breaking points in the three currencies and critical batch sizes, each with its 95 % interval, and the recorded
    batch sizes that a breaking point lies between."""
    rows = {}
    for mode in found.modes.values():
        row = rows[mode.mode.label] = {}
        for name, verdict in _verdicts(mode).items():
            row[name, "estimate" if name == CRITICAL else "breaking point"] = verdict_size(verdict)
            row[name, "95 % interval"] = interval(*verdict.interval) or UNDETERMINED
            if name != CRITICAL:
                row[name, "recorded sizes"] = _between(*verdict.between)
    table = pd.DataFrame(rows.values(), list(rows))
    table.columns = pd.MultiIndex.from_tuples(table.columns, names=["", "mode"]) if rows else []
    return table


def reasons(found: Findings) -> list[tuple[str, str]]:
    """Label of a mode, and why some of its verdicts are undetermined or need care; modes without such a reason are left
    out."""
    said = [(mode.mode.label, _verdicts(mode)) for mode in found.modes.values()]
    lines = [(label, grouped({name: verdict.reasons for name, verdict in of.items()})) for label, of in said]
    return [(label, f"{'; '.join(each)}.") for label, each in lines if each]


def accuracies(found: Findings) -> pd.DataFrame:
    """Final test accuracy, a row per batch size and a column per mode: mean ± standard deviation over the seeds, their
    number in parentheses, and how many runs diverged."""
    columns = {}
    for name, mode in found.study.modes.items():
        own = found.cells[found.cells["experiment"] == name]
        columns[mode.label] = pd.Series([_accuracy(row) for row in own.itertuples()], own["batch_size"], dtype=object)
    table = pd.DataFrame(columns).dropna(how="all", axis="columns").sort_index().fillna("")
    return table.rename_axis("batch size")


def values(found: Findings) -> dict[str, pd.DataFrame]:
    """The tables in numbers, by name: `verdicts`, `accuracies`, `effects` and `frontier`. Accuracies are fractions, as
    in records."""
    rows = [
        (name, of, each.estimate, *each.interval, *getattr(each, "between", (None, None)), together(each.reasons))
        for name, mode in found.modes.items()
        for of, each in _verdicts(mode).items()
    ]
    columns = ["experiment", "verdict", "estimate", "low", "high", "last_kept", "first_lost", "reasons"]
    effects = [each.differences.assign(experiment=each.of.name, compared_with=each.over.name) for each in found.effects]
    return {
        "verdicts": pd.DataFrame(rows, columns=columns),
        "accuracies": found.cells,
        "effects": pd.concat(effects, ignore_index=True) if effects else pd.DataFrame(),
        "frontier": found.frontier,
    }


def _verdicts(mode: ModeFindings) -> dict[str, BreakingPoint | CriticalBatchSize]:
    return {currency: mode.breaking_points[currency] for currency in CURRENCIES} | {CRITICAL: mode.critical}


def _between(kept: int | None, lost: int | None) -> str:
    if kept is None:
        return UNDETERMINED if lost is None else f"below {lost}"
    return f"above {kept}" if lost is None else f"{kept} and {lost}"


def _accuracy(row) -> str:
    parts = [f"{percent(row.accuracy, row.standard_deviation)} ({row.seeds})"] if row.seeds else []
    return "; ".join(parts + ([f"{row.diverged} diverged"] if row.diverged else []))
