"""CSVs and sidecars of a folder as tables: strict readers, exact writers."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from batchscale.epoch import COLUMNS, STUDY_COLUMNS, Epoch
from batchscale.errors import UserError, first_line

_INTEGER_COLUMNS = ("batch_size", "epoch", "seed", "updates")
_STEM = re.compile(r"(?P<experiment>.+?)_bs(?P<batch_size>\d+)(_seed(?P<seed>\d+))?")


class UnreadableRecord(UserError):
    """A CSV or sidecar is damaged or was never one; the message says where and what to do."""


def to_frame(rows: Iterable[Epoch]) -> pd.DataFrame:
    """Rows as a tidy frame with the columns of `Epoch`; without rows, an empty frame with these columns."""
    return pd.DataFrame([astuple(row) for row in rows], columns=list(COLUMNS))


def to_csv(rows: Iterable[Epoch]) -> str:
    """Rows as CSV text: floats in the shortest form that reads back exactly, NaN as an empty field."""
    return to_frame(rows).to_csv(index=False, lineterminator="\n")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """One CSV as a frame with all columns of `Epoch`, exactly as it was written.

    The study's five columns suffice. `experiment` and `seed` then come from the file's name
    (`{experiment}_bs{batch_size}_seed{seed}.csv`, by default seed 0), and the other columns are empty. A byte order
    mark and Windows line ends are accepted. Nothing is guessed: a file is read as a whole or not at all.

    Raises:
        UnreadableRecord: (a UserError) the file is not a CSV, lacks one of the five columns or part of a line, or holds
            a value that is not a finite number, an accuracy outside 0-1, epochs other than 1, 2, 3, ... or another
            batch size than its name.
    """
    path = Path(path)
    header, lines = _read_lines(path)
    missing = [column for column in STUDY_COLUMNS if column not in header]
    if missing:
        raise UnreadableRecord(
            f"{path} has no column {', '.join(missing)}; it must begin with {', '.join(STUDY_COLUMNS)}"
        )
    texts = {column: [values[header.index(column)] for _, values in lines] for column in COLUMNS if column in header}
    named = _STEM.fullmatch(path.stem)
    texts.setdefault("experiment", [named["experiment"] if named else path.stem] * len(lines))
    texts.setdefault("seed", [(named and named["seed"]) or "0"] * len(lines))
    values = {"experiment": texts.pop("experiment")}
    for column, column_texts in texts.items():
        values[column] = []
        for text, (line, _) in zip(column_texts, lines, strict=True):
            try:
                values[column].append(_number(text, column))
            except ValueError as error:
                raise UnreadableRecord(
                    f"{path}, line {line}: {column} is {text!r}, {error}; restore the file"
                ) from error
    # A column of whole numbers without gaps is one of integers, anything else of floats.
    frame = pd.DataFrame({column: values.get(column, [math.nan] * len(lines)) for column in COLUMNS})
    if named and set(frame["batch_size"]) - {int(named["batch_size"])}:
        raise UnreadableRecord(
            f"{path} has batch_size {frame['batch_size'].iloc[0]}, its name says {named['batch_size']}"
        )
    for _, run in frame.groupby(["experiment", "batch_size", "seed"]):
        epochs = run["epoch"].tolist()
        if epochs != list(range(1, len(epochs) + 1)):
            shown = ", ".join(map(str, epochs[:12])) + (", ..." if len(epochs) > 12 else "")
            raise UnreadableRecord(f"{path} has the epochs {shown}; they must be 1, 2, 3 and so on: restore the file")
    return frame


def _read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and lines of a CSV, as text, each line with its number in the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, values) for values in reader if values]
    except (OSError, ValueError, csv.Error) as error:
        raise UnreadableRecord(
            f"{path} cannot be read as CSV ({first_line(error)}); restore it or move it away"
        ) from error
    if not lines:
        raise UnreadableRecord(f"{path} is empty; restore it or move it away")
    (_, header), *lines = lines
    if len(set(header)) < len(header):
        raise UnreadableRecord(f"{path} names a column twice: {', '.join(header)}; restore it or move it away")
    for number, values in lines:
        if len(values) != len(header):
            raise UnreadableRecord(
                f"{path}, line {number}: {len(values)} fields where the header has {len(header)}; "
                f"restore the file or remove the line"
            )
    if not text.endswith("\n"):
        raise UnreadableRecord(f"{path} ends within a line; restore it, or end the last line if it is whole")
    return header, lines


def _number(text: str, column: str) -> float | int:
    """The value of a field; Python's float reads the last digit as it was written."""
    if not text and column not in STUDY_COLUMNS:
        return math.nan  # not measured
    try:
        value = float(text if "_" not in text else "no number")  # Python takes 1_000 for 1000
    except ValueError:
        raise ValueError("which is not a number") from None
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


def load(data_dir: str | os.PathLike) -> pd.DataFrame:
    """Every CSV of a folder as one tidy frame with one row per epoch and the columns of `Epoch`, sorted.

    Needs the CSVs alone. An empty or missing folder gives an empty frame with the same columns.

    Raises:
        UserError: see `read_csv`.
    """
    frames = [read_csv(path) for path in sorted(Path(data_dir).expanduser().glob("*.csv"))]
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        return to_frame([])
    return pd.concat(frames).sort_values(["experiment", "batch_size", "seed", "epoch"], ignore_index=True)


def sidecars(data_dir: str | os.PathLike) -> list[dict]:
    """Contents of the sidecars of a folder; also of runs without a CSV.

    One that cannot be read, or names no experiment, is left out: analysis needs the CSVs alone.
    """
    contents = []
    for path in sorted(Path(data_dir).expanduser().glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            experiment = content["experiment"]
            experiment["name"], int(experiment["batch_size"]), int(experiment["seed"]), content["status"]
            contents.append(content)
    return contents


def digest(data_dir: str | os.PathLike) -> str:
    """SHA-256 of the names and bytes of all CSVs of a folder, in hexadecimal: which records a result was made from.

    The same as `sha256sum *.csv | sha256sum` in that folder, names in the order of their characters (LC_ALL=C). It
    changes with any byte or name, not with the folder's own name, other files or dates; sidecars do not count. A folder
    without CSVs, or none, has the digest of nothing.

    Raises:
        OSError: a CSV cannot be read.
    """
    paths = sorted(Path(data_dir).expanduser().glob("*.csv"), key=lambda path: path.name)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
