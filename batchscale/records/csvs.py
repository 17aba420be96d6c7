"""One CSV as columns: strict for a record of batchscale's, lenient for a log that somebody else wrote.

header, lines = read_lines(path, content)
record(path, header, lines)     # nothing missing, epochs 1, 2, 3, ...: what is not so is damage
log(path, header, lines)        # what is missing is NaN; also tables of final accuracies and of steps to a target
"""

import csv
import io
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from batchscale.epoch import COLUMNS, STUDY_COLUMNS
from batchscale.errors import UserError, first_line

RUN = ["experiment", "batch_size", "seed"]  # what tells one run from another
# A table of results says what each run needed to reach a target; columns of its CSV, and of `Study.goals`.
RESULTS = ("target", "updates_to_target", "epochs_to_target", "running_time_to_target")
GOALS = ("target", "updates", "epochs", "running_time", "updates_trained")
STEM = re.compile(r"(?P<experiment>.+?)_bs(?P<batch_size>\d+)(_seed(?P<seed>\d+))?")

_INTEGER_COLUMNS = ("batch_size", "epoch", "seed", "updates")
MISSING = frozenset(("", "nan", "na", "n/a", "none", "null"))  # as pandas, NumPy, R, Python and JSON write it


class UnreadableRecord(UserError):
    """A CSV or sidecar is damaged or was never one; the message says where and what to do."""


def _import(path: Path) -> str:
    return f"import it: python -m batchscale import {shlex.quote(str(path))} --to DIR --name NAME"


def read_lines(path: Path, content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and lines of a CSV, as text, each line with its number in the file."""
    try:
        text = content.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, values) for values in reader if values]
    except (ValueError, csv.Error) as error:
        raise UnreadableRecord(
            f"{path} cannot be read as CSV ({first_line(error)}); restore it or move it away, or, if another program "
            f"wrote it, {_import(path)}"
        ) from error
    if not lines:
        raise UnreadableRecord(f"{path} is empty; restore it or move it away")
    (_, header), *lines = lines
    if len(set(header)) < len(header):
        raise UnreadableRecord(
            f"{path} names a column twice: {', '.join(header)}; rename one of them, or move the file away"
        )
    for number, values in lines:
        if len(values) != len(header):
            remedy = "complete the line or remove it" if "batch_size" in header else _import(path)
            raise UnreadableRecord(
                f"{path}, line {number}: {len(values)} fields where the header has {len(header)}; {remedy}"
            )
    if not text.endswith("\n"):
        raise UnreadableRecord(f"{path} ends within a line; end the last line if it is whole, or else remove it")
    return header, lines


def record(
    path: Path, header: list[str], lines: list[tuple[int, list[str]]], *, to_continue: bool = True
) -> dict[str, list]:
    """The values of all columns of `Epoch` in a record of batchscale's own; whole numbers are integers.

    To be continued, a record must be as it was written. To be analysed, it may lack what is no clock or accuracy.

    Raises:
        UnreadableRecord: the file is damaged, see `tables.read_csv`.
    """
    needed = STUDY_COLUMNS if to_continue else STUDY_COLUMNS[:3]
    missing = [column for column in needed if column not in header]
    if missing:
        raise UnreadableRecord(
            f"{path} has no column {', '.join(missing)}; it must begin with {', '.join(STUDY_COLUMNS)}"
        )
    blanks = {
        column: ("",) if to_continue else (*MISSING, "inf", "-inf")
        for column in COLUMNS
        if column not in (*needed, "seed")
    }
    fields = zip(*(values for _, values in lines), strict=True) if lines else [()] * len(header)
    given = dict(zip(header, fields, strict=True))
    texts = {column: given[column] for column in COLUMNS if column in given}
    named = STEM.fullmatch(path.stem)
    texts.setdefault("experiment", [named["experiment"] if named else path.stem] * len(lines))
    texts.setdefault("seed", [(named and named["seed"]) or "0"] * len(lines))
    values = {column: [math.nan] * len(lines) for column in COLUMNS} | {"experiment": texts.pop("experiment")}
    for column, column_texts in texts.items():
        values[column] = _plain_numbers(column_texts, column)
        for text, (line, _) in zip(column_texts, lines, strict=True) if not values[column] else ():
            try:
                is_missing = text.lower() in blanks.get(column, ())
                values[column].append(math.nan if is_missing else _number(text, column))
            except ValueError as error:
                raise UnreadableRecord(
                    f"{path}, line {line}: {column} is {text!r}, {error}; restore the file"
                ) from error
    require_named(path, values["batch_size"])
    for _, epochs in sorted(_epochs_by_run(values).items()):
        if epochs != list(range(1, len(epochs) + 1)):
            shown = ", ".join(map(str, epochs[:12])) + (", ..." if len(epochs) > 12 else "")
            raise UnreadableRecord(f"{path} has the epochs {shown}; they must be 1, 2, 3 and so on: restore the file")
    return values


def require_named(path: Path, batch_sizes: Iterable[int]) -> None:
    """Refuse batch sizes other than the one in the file's name, if it has one."""
    named = STEM.fullmatch(path.stem)
    for size in batch_sizes if named else ():
        if size != int(named["batch_size"]):
            raise UnreadableRecord(f"{path} has batch_size {size}, its name says {named['batch_size']}")


def _epochs_by_run(values: dict[str, list]) -> dict[tuple[str, int, int], list[int]]:
    epochs: dict[tuple[str, int, int], list[int]] = {}
    columns = (values[column] for column in ("experiment", "batch_size", "seed", "epoch"))
    for name, size, seed, epoch in zip(*columns, strict=True):
        epochs.setdefault((name, size, seed), []).append(epoch)
    return epochs


def _plain_numbers(texts: Sequence[str], column: str) -> list:
    """What `_number` gives for the fields of a column, all at once; nothing if one needs a closer look."""
    if column in _INTEGER_COLUMNS:
        if not all(map(str.isdecimal, texts)) or max(map(len, texts), default=0) > 18:
            return []
        values = list(map(int, texts))
        return values if min(values, default=0) >= (0 if column == "seed" else 1) else []
    try:
        values = list(map(float, texts))
    except ValueError:
        return []
    if column == "accuracy" and not all(0 <= value <= 1 for value in values):
        return []
    return values if all(map(math.isfinite, values)) and "_" not in "".join(texts) else []


def _number(text: str, column: str) -> float | int:
    """The value of a field; Python's float reads the last digit as it was written."""
    value = _float(text)
    if not math.isfinite(value):
        raise ValueError("which is not a finite number")
    if column in _INTEGER_COLUMNS:
        least = 0 if column == "seed" else 1
        if not value.is_integer() or value < least:
            raise ValueError(f"which is not a whole number from {least}")
        return int(text) if text.isdecimal() else int(value)  # a large seed would lose digits as a float
    if column == "accuracy" and not 0 <= value <= 1:
        raise ValueError("which is not in 0-1")
    return value


def _float(text: str) -> float:
    try:
        return float(text if "_" not in text else "no number")  # Python takes 1_000 for 1000
    except ValueError:
        raise ValueError("which is not a number") from None


def log(
    path: Path, header: list[str], lines: list[tuple[int, list[str]]], remedy: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Epochs and results of a CSV that another program wrote, or a person.

    It needs `batch_size`, and one of three:

    - `accuracy` and `epoch` or `updates`: one row per evaluation. Rows without an accuracy are left out. Epochs that
      begin at 0 are counted from 1, unless epoch 0 is an evaluation after 0 updates, or epochs have fractions.
    - `accuracy` alone: final accuracies, one row per run.
    - `target` and `updates_to_target`: what each run needed to reach a target, one row per run and target; a blank says
      that it never did. `updates` is then what the run was trained for. There may be a final accuracy beside them.

    What else is missing, blank, NaN or infinite is NaN. Without `seed`, it is the one in the file's name or 0; where
    a row is a run, those of one experiment and batch size are numbered on from it.

    Args:
        remedy: what to do about a column that is missing or a value that is wrong; by default, to import the file.

    Returns:
        A frame with the columns of `Epoch`, sorted; and one with `RUN` and `GOALS`.

    Raises:
        UnreadableRecord: a column is missing, a value is wrong, or two rows hold the same epoch of a run.
    """
    names = [name.strip() for name in header]
    is_result = "updates_to_target" in names
    wanted = ["batch_size", *(["target"] if is_result else ["accuracy"])]
    if missing := [column for column in wanted if column not in names]:
        has = ", ".join(name or "''" for name in names)
        raise UnreadableRecord(f"{path} has no column {' or '.join(missing)}, it has {has}; {remedy or _import(path)}")
    frame = _measured(path, names, lines, remedy)
    named = STEM.fullmatch(path.stem)
    frame["experiment"] = frame["experiment"].replace("", named["experiment"] if named else path.stem)
    key = next((column for column in ("epoch", "updates") if frame[column].notna().any()), None)
    if is_result and key == "epoch":
        raise UnreadableRecord(
            f"{path} has both epoch and updates_to_target, but results are one row per run; leave one of them out"
        )
    first_seed = int((named and named["seed"]) or 0)
    if "seed" not in names:
        each = [*RUN[:2], *(["target"] if is_result else [])]
        is_run = is_result or key is None
        frame["seed"] = first_seed + (frame.groupby(each, dropna=False).cumcount() if is_run else 0)
    if is_result:
        return _results(path, frame)
    epochs = _evaluations(path, frame, key)
    return epochs[list(COLUMNS)].reset_index(drop=True), no_results()


def no_results() -> pd.DataFrame:
    """A frame of results without rows."""
    return pd.DataFrame({column: pd.Series(dtype=object if column == RUN[0] else float) for column in (*RUN, *GOALS)})


def _measured(path: Path, names: list[str], lines: list[tuple[int, list[str]]], remedy: str) -> pd.DataFrame:
    """The values of all known columns, and of `line`, where they stand."""
    values = {column: [math.nan] * len(lines) for column in (*COLUMNS, *RESULTS)}
    values |= {"experiment": [""] * len(lines), "line": [line for line, _ in lines]}
    for at, column in enumerate(names):
        for row, (line, fields) in enumerate(lines) if column in values and column != "line" else ():
            text = fields[at].strip()
            try:
                values[column][row] = _value(text, column)
            except ValueError as error:
                todo = remedy or f"correct it, or {_import(path)}"
                if column == "accuracy" and "0-1" in str(error) and not remedy:
                    todo = f"{_import(path)} --percent"
                raise UnreadableRecord(f"{path}, line {line}: {column} is {text!r}, {error}; {todo}") from error
    return pd.DataFrame(values)


def _value(text: str, column: str) -> float | int | str:
    if column == "experiment":
        return text
    if column in ("batch_size", "seed"):
        return _number(text, column)
    if text.lower() in MISSING:
        return math.nan
    if column == "accuracy":
        return _number(text, "accuracy")
    value = _float(text)
    if column == "target" and not math.isfinite(value):
        raise ValueError("which is not a finite number")
    if column.endswith("_to_target") and value <= 0:
        raise ValueError("which is not above 0")
    if column in ("epoch", "updates") and value < 0:
        raise ValueError("which is below 0")
    return value if math.isfinite(value) else math.nan


def _evaluations(path: Path, frame: pd.DataFrame, key: str | None) -> pd.DataFrame:
    """The rows with an accuracy, in the order of `key`; without it, every row is the last of a run."""
    frame = frame.assign(epoch=_from_one(frame)) if key == "epoch" else frame
    kept = frame[frame["accuracy"].notna()]
    for column, rows in (("accuracy", frame[~is_in(frame, kept)]), (key, kept[kept[key].isna()] if key else kept[:0])):
        if len(rows):
            raise UnreadableRecord(f"{_place(path, rows.iloc[0])} has no {column}; complete the row or remove it")
    kept = kept.sort_values([*RUN, key] if key else RUN, kind="stable")
    again = kept[kept.duplicated([*RUN, key] if key else RUN)]
    if len(again):
        what = f"has {key} {again[key].iloc[0]:g}" if key else "is listed"
        raise UnreadableRecord(
            f"{_place(path, again.iloc[0])} {what} twice; tell runs apart by a column seed or experiment"
        )
    for column, unit in (("updates", "updates"), ("running_time", "seconds")) if key else ():
        known = kept[kept[column].notna()]
        change = known.groupby(RUN)[column].diff()
        wrong = known[(change < 0) | ((change == 0) & (column == "updates"))]
        if len(wrong):
            raise UnreadableRecord(
                f"{_place(path, wrong.iloc[0])}: {column} does not grow; it must count {unit} from the start of the "
                f"run: correct it or leave the column out"
            )
    return kept


def _from_one(frame: pd.DataFrame) -> pd.Series:
    """Epochs counted from 1; epoch 0 remains where it is an evaluation before training, or epochs have fractions."""
    untrained = (frame["epoch"] == 0) & (frame["updates"] == 0)
    remains = (untrained | (frame["epoch"] % 1 > 0)).groupby([frame[column] for column in RUN]).transform("any")
    first = frame.groupby(RUN)["epoch"].transform("min")
    epochs = frame["epoch"] + ((first == 0) & ~remains)
    return epochs.astype(int) if (epochs % 1 == 0).all() else epochs


def _results(path: Path, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    for column, rows in (("target", frame[frame["target"].isna()]), ("", frame[frame.duplicated([*RUN, "target"])])):
        if len(rows):
            what = f"has no {column}" if column else f"has target {rows['target'].iloc[0]:g} twice"
            raise UnreadableRecord(f"{_place(path, rows.iloc[0])} {what}; correct the row or remove it")
    finals = frame[frame["accuracy"].notna()].drop_duplicates([*RUN, "accuracy"])
    finals = _evaluations(path, finals.assign(epoch=math.nan, updates=math.nan), None)
    needed = {name: frame[f"{name}_to_target"] for name in ("updates", "epochs", "running_time")}
    results = frame[[*RUN, "target"]].assign(**needed, updates_trained=frame["updates"])
    return finals[list(COLUMNS)].reset_index(drop=True), results.sort_values([*RUN, "target"], ignore_index=True)


def is_in(frame: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Which rows belong to a run that the other frame has, too."""
    runs = set(others[RUN].itertuples(index=False, name=None))
    return pd.Series([run in runs for run in frame[RUN].itertuples(index=False, name=None)], frame.index, dtype=bool)


def _place(path: Path, row: pd.Series) -> str:
    return f"{path}, line {row['line']}: {row['experiment']} B={row['batch_size']} seed {row['seed']}"
