"""CSVs and sidecars of a folder as tables: our records read strictly and written exactly, and the logs of others."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from batchscale.epoch import COLUMNS, Epoch
from batchscale.errors import UserError, first_line
from batchscale.paths import typed
from batchscale.records.csvs import (
    GOALS,
    RUN,
    STEM,
    UnreadableRecord,
    log,
    no_results,
    read_lines,
    record,
    require_named,
)
from batchscale.records.files import ReadError, read_whole

# What browsers, file managers and synchronisation add to the name of a copy: (1), - Copy, Copy of, conflicted copy.
_COPY = re.compile(
    r"^copy (\(\d+\) )?of |"
    r"(\s*\(\d+\)|[\s_.-]+copy(?![a-z]).*|\s*\([^()]*(copy|conflict)[^()]*\).*|\.sync-conflict-.*)$",
    re.IGNORECASE,
)


def to_frame(rows: Iterable[Epoch]) -> pd.DataFrame:
    """Rows as a tidy frame with the columns of `Epoch`; without rows, an empty frame with these columns."""
    return pd.DataFrame([astuple(row) for row in rows], columns=list(COLUMNS))


def to_csv(rows: Iterable[Epoch]) -> str:
    """Rows as CSV text: floats in the shortest form that reads back exactly, NaN as an empty field."""
    return to_frame(rows).to_csv(index=False, lineterminator="\n")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """One record as a frame with all columns of `Epoch`, exactly as it was written, so that it can be continued.

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
    return pd.DataFrame(record(path, *read_lines(path, content)))


def _not_a_csv(path: Path, error: OSError) -> UnreadableRecord:
    return UnreadableRecord(f"{path} cannot be read as CSV ({first_line(error)}); restore it or move it away")


def _content(path: Path) -> bytes:
    try:
        return read_whole(path)
    except ReadError as error:
        raise UnreadableRecord(str(error)) from error


def load(data_dir: str | os.PathLike) -> pd.DataFrame:
    """Every CSV of a folder as one tidy frame with one row per epoch and the columns of `Epoch`, sorted.

    Needs the CSVs alone. An empty or missing folder gives an empty frame with the same columns.

    Raises:
        UserError: see `frames_of`; also where the folder or a file in it may not be read.
    """
    return frames_of(contents(data_dir, ".csv"), sidecars(data_dir))[0]


def elsewhere(data_dir: str | os.PathLike) -> dict[str, int]:
    """The subfolders that hold CSVs, which are not read with the folder, and how many each holds.

    Hidden folders and `figures` are left out, and so is what lies more than three folders down: the folder may be a
    home.
    """
    folder, found = typed(data_dir, "data_dir"), {}
    for here, inside, names in os.walk(folder):
        below = Path(here).relative_to(folder)
        is_deep = len(below.parts) == 3
        inside[:] = [] if is_deep else sorted(name for name in inside if name[0] != "." and name != "figures")
        count = sum(name.endswith(".csv") for name in names)
        if below.parts and count:
            found[below.as_posix()] = count
    return found


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


def frames_of(csvs: Mapping[Path, bytes], sidecars: Iterable[dict] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CSVs as one frame of epochs, see `load`, and one of results, see `csvs.log`. A run is in one file.

    A CSV with all columns that batchscale writes, or with a sidecar, is a record: a gap in its epochs is damage. Any
    other is somebody's log and is read by `csvs.log`.

    Raises:
        UnreadableRecord: a CSV cannot be read; two hold the same run, whether they are equal or not; or one whose
            columns do not say which run it holds has the name of a copy of another.
    """
    epochs: dict[str, list] = {column: [] for column in COLUMNS}
    results: dict[str, list] = {column: [] for column in (*RUN, *GOALS)}
    holders: dict[tuple[str, int, int], Path] = {}
    stems = {path.stem: path for path in csvs}
    recorded = {"{name}_bs{batch_size}_seed{seed}".format(**content["experiment"]) for content in sidecars}
    for path, content in csvs.items():
        header, lines = read_lines(path, content)
        if not {"experiment", "seed"} <= set(header):
            _require_original(path, stems)
        if set(header) >= set(COLUMNS) or path.stem in recorded:
            found = record(path, header, lines, to_continue=False), {}
        else:
            found = tuple(frame.to_dict("list") for frame in log(path, header, lines))
        runs = {run for part in found if part for run in zip(*(part[column] for column in RUN), strict=True)}
        require_named(path, [size for _, size, _ in runs])
        for run in sorted(runs):
            if run in holders:
                raise _twice(run, holders[run], path)
            holders[run] = path
        for columns, part in zip((epochs, results), found, strict=True):
            for column, values in part.items():
                columns[column] += values
    return _sorted(epochs, ["epoch", "updates"]), _sorted(results, ["target"])


def _sorted(columns: dict[str, list], by: list[str]) -> pd.DataFrame:
    if not columns["batch_size"]:
        return to_frame([]) if "epoch" in columns else no_results()
    return pd.DataFrame(columns).sort_values([*RUN, *by], ignore_index=True)


def _twice(run: tuple[str, int, int], first: Path, second: Path) -> UnreadableRecord:
    name, size, seed = run
    return UnreadableRecord(
        f"{first} and {second} hold the same run, {name} B={size} seed {seed}; keep one and move the other away"
    )


def _require_original(path: Path, stems: Mapping[str, Path]) -> None:
    """Refuse a CSV that only its name identifies, if that name is another one's with the mark of a copy."""
    # A record's name has neither blanks nor brackets: among words of any language it is the one that is in the folder.
    words = [word for word in re.split(r"[\s()\[\]]+|\.sync-conflict-|\.csv", path.stem) if STEM.fullmatch(word)]
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
