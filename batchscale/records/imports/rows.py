"""A log as rows with our columns, still as text: batch size and seed of each, its clock, and what was guessed."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records.csvs import RUN
from batchscale.records.imports.columns import OURS
from batchscale.records.imports.formats import Log

_FRACTIONS = ("accuracy", "error", "train_accuracy", "generalization_error", "target")  # what may be in percent
# What names batch size and seed in a path, the surest first: bs128, batch_size=128, b128; seed3, s3.
_IN_PATH = {
    "batch_size": (r"(?:batch[-_ ]?size|batch|bs)", r"b"),
    "seed": (r"seed", r"s"),
}
# Steps that rise by one from evaluation to evaluation count evaluations, unless their name says otherwise.
_COUNTERS = ("updates", "update", "global_step", "trainer/global_step")
# What a log may note of an epoch in another row than its accuracy.
_BESIDE = ("train_loss", "train_accuracy", "test_loss", "learning_rate")

_NUMBER = re.compile(r"\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)

Rows = dict[str, list[str]]  # by column of ours, the fields as text


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user decides, so that it is not guessed.

    Attributes:
        name: of the mode, in file names; None: the column `experiment`.
        columns: theirs by ours; "" leaves a column out, a number is the value itself.
        batch_size: a number, a column, or a pattern of paths with {} for the number; None: guessed.
        seed: the same.
        is_percent: whether accuracies are; where one is above 1, they are anyway.
    """

    name: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch_size: str | None = None
    seed: str | None = None
    is_percent: bool = False

    def given(self, log: Log) -> dict[str, str]:
        """Theirs by ours; batch size and seed are no columns where they are numbers or come from the path."""
        chosen = {"batch_size": self.batch_size, "seed": self.seed}
        chosen = {
            ours: choice if choice in log.columns else "" for ours, choice in chosen.items() if choice is not None
        }
        return {**self.columns, **chosen}

    def __post_init__(self):
        for ours in self.columns:
            if ours not in OURS:
                raise UserError(f"columns names {ours}, which is no column of a record; there are {', '.join(OURS)}")


def are_percent(understood: Sequence[tuple[Log, Mapping[str, str]]], choices: Choices) -> bool:
    """Whether the accuracies of all logs are in percent. In a log by itself, one percent would be taken for all.

    Raises:
        UserError: those of one log are above 1, those of another are not.
    """
    highest = {}
    for log, columns in understood:
        mapped = [columns[ours] for ours in ("accuracy", "error") if ours in columns]  # a target may be a loss
        numbers = [float(text) for theirs in mapped for text in _fields(log, theirs) if _NUMBER.fullmatch(text)]
        highest[str(log)] = max(numbers, default=0)
    above = [name for name, value in highest.items() if value > 1]
    below = [name for name, value in highest.items() if value <= 1]
    if above and below and not choices.is_percent:
        raise UserError(
            f"{above[0]} has accuracies above 1, so they are in percent, but those of {below[0]} reach "
            f"{highest[below[0]]:g} at most; add --percent if that is in percent too, or import it by itself"
        )
    return choices.is_percent or bool(above)


def rows_of(log: Log, columns: Mapping[str, str], choices: Choices, is_percent: bool) -> tuple[Rows, list[str]]:
    """The rows of a log with our columns, and what was assumed.

    Args:
        log: the log.
        columns: theirs by ours, see `columns.guessed`.
        choices: what is not to be guessed.
        is_percent: whether accuracies are, see `are_percent`.

    Raises:
        UserError: its batch size, name or clock is unknown; the message says which flag gives it.
    """
    rows = _ours(log, columns, is_percent)
    rows["experiment"] = _names(log, rows, choices)
    notes = ["accuracies are in percent: divided by 100"] if is_percent else []
    for key in ("batch_size", "seed"):
        constant, is_from_path = _constant(log, rows, key, getattr(choices, key))
        rows |= constant
        notes += [f"{key.replace('_', ' ')} is from the path"] if is_from_path else []
    if "updates_to_target" in rows:
        return rows, notes
    rows, of_clock = _in_order(log, rows, columns, choices)
    return _combined(rows) if log.has_one_clock else rows, notes + of_clock


def _fields(log: Log, theirs: str) -> list[str]:
    return list(log.columns.get(theirs, [theirs] * len(log.lines)))  # a column, or the value itself


def _ours(log: Log, columns: Mapping[str, str], is_percent: bool) -> Rows:
    """The columns under our names; accuracies as fractions, and not as errors."""

    def fraction(text: str, ours: str) -> str:
        try:
            value = Decimal(text) / 100 if is_percent else Decimal(text)
            return str(1 - value if ours == "error" else value)
        except InvalidOperation:
            return text  # blank, or refused later

    rows = {ours: _fields(log, theirs) for ours, theirs in columns.items()}
    for ours in _FRACTIONS if is_percent else ("error",):
        if ours in rows:
            rows[ours] = [fraction(text, ours) for text in rows[ours]]
    return {("accuracy" if ours == "error" else ours): texts for ours, texts in rows.items()}


def _names(log: Log, rows: Rows, choices: Choices) -> list[str]:
    column = rows.get("experiment") or log.columns.get("experiment")
    if choices.name is None:
        if column is None:
            raise UserError(
                f"{log} does not say what its runs are called; give --name NAME, or --columns experiment=COLUMN"
            )
        for name in dict.fromkeys(column):
            Experiment(name=name, batch_size=1)
        return column
    if column and len(set(column)) > 1:
        raise UserError(
            f"{log} has the experiments {' and '.join(list(dict.fromkeys(column))[:2])}, but name is {choices.name}; "
            f"leave out --name to keep them apart"
        )
    return [choices.name] * len(log.lines)


def _constant(log: Log, rows: Rows, key: str, choice: str | None) -> tuple[Rows, bool]:
    """Batch size or seed, and whether the path says it: as chosen, from a column, or from the path; perhaps no seed."""
    word = key.replace("_", " ")
    if choice is None and key in rows:
        # Weights & Biases notes settings in one row of a run.
        values = set(filter(None, rows[key]))
        return {key: [*values] * len(log.lines)} if len(values) == 1 else {}, False
    if choice is not None and choice.isdecimal():
        return {key: [choice] * len(log.lines)}, False
    if choice is not None and "{}" not in choice:
        if choice not in log.columns:
            has = ", ".join(log.columns)
            raise UserError(f"{log} has no column {choice} for the {word}, it has {has}; give a number, or bs{{}}")
        return {key: log.columns[choice]}, False
    if choice is not None:
        before, after = map(re.escape, choice.split("{}", 1))
        found = _in_path(log, [rf"{before}(\d+){after}"], key)
        if found is None:
            raise UserError(f"{log} does not match {choice}, the pattern of the {word}; {{}} stands for its number")
    else:
        found = _in_path(log, [rf"(?<![a-z0-9]){of}[-_= ]?(\d+)(?!\d|\.\d)" for of in _IN_PATH[key]], key)
        if found is None and key == "batch_size":
            said = "".join(f" ({note})" for note in log.notes if "batch_size" in note)
            raise UserError(
                f"{log} does not say its batch size{said}; give --batch-size as a number, a column, or a pattern of "
                f"the path such as bs{{}}"
            )
    return ({}, False) if found is None else ({key: [found] * len(log.lines)}, True)


def _in_path(log: Log, patterns: Sequence[str], key: str) -> str | None:
    """What the first pattern that matches finds: in the run's name, or else as far down the path as it can."""
    for pattern in patterns:
        for place in (log.label, *reversed(log.path.parts), log.path.as_posix()):
            found = list(dict.fromkeys(re.findall(pattern, place, re.IGNORECASE)))
            if len(found) > 1:
                flag = f"--{key.replace('_', '-')}"
                raise UserError(
                    f"{place} names the {key.replace('_', ' ')} {' and '.join(found[:2])}; say which with {flag}"
                )
            if found:
                return found[0]
    return None


def _evaluations(rows: Rows, column: str) -> list[list[float]]:
    """By run, the values of a column in the rows with an accuracy."""
    runs: dict[tuple, list[float]] = {}
    keys = zip(*(rows.get(key, rows["experiment"]) for key in RUN), strict=True)
    for key, accuracy, text in zip(keys, rows["accuracy"], rows[column], strict=True):
        if accuracy and _NUMBER.fullmatch(text):
            runs.setdefault(key, []).append(float(text))
    return list(runs.values())


def _in_order(log: Log, rows: Rows, columns: Mapping[str, str], choices: Choices) -> tuple[Rows, list[str]]:
    """The rows without a clock that was guessed and is none, and what is to be said of the others.

    Raises:
        UserError: the rows are one run's, and nothing tells their order.
    """
    rows, notes = dict(rows), []
    guessed = {ours: theirs for ours, theirs in columns.items() if ours not in choices.columns}
    if "updates" in guessed and guessed["updates"] not in _COUNTERS:
        steps = [step for run in _evaluations(rows, "updates") for step in pairwise(run)]
        if steps and all(after - before == 1 for before, after in steps):
            counted = rows.pop("updates")
            rows.setdefault("epoch", counted)
            notes.append(
                f"{guessed['updates']} rises by 1 from evaluation to evaluation: it counts epochs, not updates"
            )
    if "updates" in guessed and {"epoch", "updates"} <= rows.keys():
        steps = [step for run in _evaluations(rows, "updates") for step in pairwise(run)]
        if any(after <= before for before, after in steps):
            del rows["updates"]
            notes.append(
                f"{guessed['updates']} falls or repeats: it does not count the updates of a run, and is left out"
            )
    if (
        "epoch" in guessed
        and "updates" in rows
        and any(len(set(run)) < len(run) for run in _evaluations(rows, "epoch"))
    ):
        del rows["epoch"]
        notes.append("several evaluations have the same epoch: they are ordered by updates")
    if "running_time" in guessed:
        runs = _evaluations(rows, "running_time")
        is_rising = all(before <= after for run in runs for before, after in pairwise(run))
        if is_rising and guessed["running_time"] != "running_time":
            notes.append(f"running_time is {guessed['running_time']}, which may include evaluation")
        elif not is_rising:
            del rows["running_time"]
            notes.append(f"{guessed['running_time']} falls: it is no running time, and is left out")
    if not {"epoch", "updates"} & rows.keys():
        if len(log.lines) > 1 and not columns.keys() & {"batch_size", "seed"}:
            has = ", ".join(log.columns)
            raise UserError(f"{log} has no epoch or updates among its columns {has}; name one: --columns epoch=COLUMN")
        notes.append("without epoch and updates, a row is the final accuracy of a run")
    return rows, notes


def _combined(rows: Rows) -> Rows:
    """The rows, those of an epoch's only accuracy with what others note of the same epoch: Lightning, Hugging Face."""
    if "epoch" not in rows:
        return rows
    keys = list(zip(*(rows.get(key, rows["experiment"]) for key in (*RUN, "epoch")), strict=True))
    accuracies = Counter(key for key, accuracy in zip(keys, rows["accuracy"], strict=True) if accuracy)
    combined = dict(rows)
    for column in _BESIDE:
        if column in rows:
            last = {key: text for key, text in zip(keys, rows[column], strict=True) if text and accuracies[key] == 1}
            combined[column] = [text or last.get(key, "") for key, text in zip(keys, rows[column], strict=True)]
    return combined
