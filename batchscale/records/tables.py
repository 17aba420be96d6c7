"""CSVs and sidecars of a folder as tables: strict readers, exact writers."""

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from batchscale.epoch import COLUMNS, STUDY_COLUMNS, Epoch
from batchscale.errors import UserError, first_line
from batchscale.paths import typed
from batchscale.records.files import ReadError, read_whole

_INTEGER_COLUMNS = ("batch_size", "epoch", "seed", "updates")
_STEM = re.compile(r"(?P<experiment>.+?)_bs(?P<batch_size>\d+)(_seed(?P<seed>\d+))?")
# What browsers, file managers and synchronisation add to the name of a copy: (1), - Copy, Copy of, conflicted copy.
_COPY = re.compile(
    r"^copy (\(\d+\) )?of |"
    r"(\s*\(\d+\)|[\s_.-]+copy(?![a-z]).*|\s*\([^()]*(copy|conflict)[^()]*\).*|\.sync-conflict-.*)$",
    re.IGNORECASE,
)


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
    try:
        content = _content(path)
    except OSError as error:
        raise _not_a_csv(path, error) from error
    return pd.DataFrame(_columns(path, *_read_lines(path, content)))


def _content(path: Path) -> bytes:
    try:
        return read_whole(path)
    except ReadError as error:
        raise UnreadableRecord(str(error)) from error


def _not_a_csv(path: Path, error: Exception) -> UnreadableRecord:
    return UnreadableRecord(f"{path} cannot be read as CSV ({first_line(error)}); restore it or move it away")


def _columns(path: Path, header: list[str], lines: list[tuple[int, list[str]]]) -> dict[str, list]:
    """The values of all columns of `Epoch`; whole numbers are integers, what is missing is NaN."""
    missing = [column for column in STUDY_COLUMNS if column not in header]
    if missing:
        raise UnreadableRecord(
            f"{path} has no column {', '.join(missing)}; it must begin with {', '.join(STUDY_COLUMNS)}"
        )
    fields = zip(*(values for _, values in lines), strict=True) if lines else [()] * len(header)
    given = dict(zip(header, fields, strict=True))
    texts = {column: given[column] for column in COLUMNS if column in given}
    named = _STEM.fullmatch(path.stem)
    texts.setdefault("experiment", [named["experiment"] if named else path.stem] * len(lines))
    texts.setdefault("seed", [(named and named["seed"]) or "0"] * len(lines))
    values = {column: [math.nan] * len(lines) for column in COLUMNS} | {"experiment": texts.pop("experiment")}
    for column, column_texts in texts.items():
        values[column] = _plain_numbers(column_texts, column)
        for text, (line, _) in zip(column_texts, lines, strict=True) if not values[column] else ():
            try:
                values[column].append(_number(text, column))
            except ValueError as error:
                raise UnreadableRecord(
                    f"{path}, line {line}: {column} is {text!r}, {error}; restore the file"
                ) from error
    if named and set(values["batch_size"]) - {int(named["batch_size"])}:
        raise UnreadableRecord(f"{path} has batch_size {values['batch_size'][0]}, its name says {named['batch_size']}")
    for _, epochs in sorted(_epochs_by_run(values).items()):
        if epochs != list(range(1, len(epochs) + 1)):
            shown = ", ".join(map(str, epochs[:12])) + (", ..." if len(epochs) > 12 else "")
            raise UnreadableRecord(f"{path} has the epochs {shown}; they must be 1, 2, 3 and so on: restore the file")
    return values


def _epochs_by_run(values: dict[str, list]) -> dict[tuple[str, int, int], list[int]]:
    epochs: dict[tuple[str, int, int], list[int]] = {}
    columns = (values[column] for column in ("experiment", "batch_size", "seed", "epoch"))
    for name, size, seed, epoch in zip(*columns, strict=True):
        epochs.setdefault((name, size, seed), []).append(epoch)
    return epochs


def _read_lines(path: Path, content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and lines of a CSV, as text, each line with its number in the file."""
    try:
        text = content.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, values) for values in reader if values]
    except (ValueError, csv.Error) as error:
        raise _not_a_csv(path, error) from error
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


def _plain_numbers(texts: Sequence[str], column: str) -> list:
    """What `_number` gives for the fields of a column, all at once; nothing if one of them needs a closer look."""
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
    if not text and column not in (*STUDY_COLUMNS, "seed"):
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
        UserError: see `epochs_of`; also where the folder or a CSV in it may not be read.
    """
    return epochs_of(contents(data_dir, ".csv"))


def require_folder(data_dir: str | os.PathLike) -> None:
    """Refuse what is no folder that can be listed.

    Raises:
        UserError: there is no such folder, or it may not be listed.
    """
    try:
        next(typed(data_dir, "data_dir").iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no folder {data_dir}; name the one that holds the CSVs") from None
    except OSError as error:
        raise UnreadableRecord(str(ReadError(Path(data_dir), error))) from error


def contents(data_dir: str | os.PathLike, ending: str) -> dict[Path, bytes]:
    """The files of a folder whose names have this ending, in the order of their names; of a missing folder none.

    Each file is opened once. Folders, and links to nowhere, are left out of any but the CSVs.

    Raises:
        UnreadableRecord: the folder may not be listed, or a file in it cannot be read.
    """
    folder, found = typed(data_dir, "data_dir"), {}
    try:  # unlike glob, which takes a folder that may not be listed for an empty one
        paths = [path for path in folder.iterdir() if path.name.endswith(ending)]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UnreadableRecord(str(ReadError(folder, error))) from error
    for path in sorted(paths, key=lambda path: path.name):
        try:
            found[path] = _content(path)
        except OSError as error:
            if ending == ".csv":
                raise _not_a_csv(path, error) from error
    return found


def epochs_of(csvs: Mapping[Path, bytes]) -> pd.DataFrame:
    """CSVs as one frame, see `load`. A run is in one file.

    Raises:
        UnreadableRecord: a CSV cannot be read, see `read_csv`; two hold the same run, whether they are equal or not; or
            one whose columns do not say which run it holds has the name of a copy of another.
    """
    columns: dict[str, list] = {column: [] for column in COLUMNS}
    holders: dict[tuple[str, int, int], Path] = {}
    stems = {path.stem: path for path in csvs}
    for path, content in csvs.items():
        header, lines = _read_lines(path, content)
        if not {"experiment", "seed"} <= set(header):
            _require_original(path, stems)
        values = _columns(path, header, lines)
        for run in _epochs_by_run(values):
            if run in holders:
                raise _twice(run, holders[run], path)
            holders[run] = path
        for column in COLUMNS:
            columns[column] += values[column]
    if not columns["epoch"]:
        return to_frame([])
    return pd.DataFrame(columns).sort_values(["experiment", "batch_size", "seed", "epoch"], ignore_index=True)


def _twice(run: tuple[str, int, int], first: Path, second: Path) -> UnreadableRecord:
    name, size, seed = run
    return UnreadableRecord(
        f"{first} and {second} hold the same run, {name} B={size} seed {seed}; keep one and move the other away"
    )


def _require_original(path: Path, stems: Mapping[str, Path]) -> None:
    """Refuse a CSV that only its name identifies, if that name is another one's with the mark of a copy."""
    # A record's name has neither blanks nor brackets: among words of any language it is the one that is in the folder.
    words = [word for word in re.split(r"[\s()\[\]]+|\.sync-conflict-|\.csv", path.stem) if _STEM.fullmatch(word)]
    for stem in (*words, _COPY.sub("", path.stem)):
        if stem != path.stem and stem in stems:
            raise UnreadableRecord(
                f"{path} is named as a copy of {stems[stem]}, and no columns experiment and seed say which run it "
                f"holds; move one of them away, or rename it if it is another run"
            )


def sidecars(data_dir: str | os.PathLike) -> list[dict]:
    """Contents of the sidecars of a folder; also of runs without a CSV.

    One that is torn, or names no experiment, is left out: analysis needs the CSVs alone.

    Raises:
        UnreadableRecord: the folder or a file in it may not be read, or two are sidecars of the same run.
    """
    found: dict[tuple[str, int, int], tuple[Path, dict]] = {}
    for path, text in contents(data_dir, ".json").items():
        try:
            content = json.loads(text)
            experiment, _ = content["experiment"], content["status"]
            run = experiment["name"], int(experiment["batch_size"]), int(experiment["seed"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if not isinstance(run[0], str):
            continue
        if run in found:
            raise _twice(run, found[run][0], path)
        found[run] = path, content
    return [content for _, content in found.values()]


def digest(data_dir: str | os.PathLike) -> str:
    """SHA-256 of the names and bytes of all CSVs of a folder, in hexadecimal: which records a result was made from.

    The same as `sha256sum *.csv | sha256sum` in that folder, names in the order of their characters (LC_ALL=C). It
    changes with any byte or name, not with the folder's own name, other files or dates; sidecars do not count. A folder
    without CSVs, or none, has the digest of nothing.

    Raises:
        UnreadableRecord: the folder or a CSV in it may not be read.
    """
    return digest_of(contents(data_dir, ".csv"))


def digest_of(csvs: Mapping[Path, bytes]) -> str:
    """`digest` of CSVs that have been read already."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {path.name}\n" for path, content in csvs.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
