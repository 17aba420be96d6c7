"""The files of a run: CSV, sidecar and checkpoint, each written whole, together enough to go on from.

    keeper = Keeper(experiment, "data")        # data/scaled_lr_bs128_seed0.csv, .json, and .ckpt while unfinished
    records = load("data")                     # every CSV in a folder as one tidy frame

The CSV is the result and stands alone. The sidecar says which experiment it belongs to and how it stands. The
checkpoint holds the rows as well as the weights, so that it does not matter which file was written last when a run is
killed. The checkpoint before it stays beside it, in case the newest is damaged.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import pickle
import platform
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, astuple, fields
from importlib import metadata
from pathlib import Path

import pandas as pd

from batchscale import __version__
from batchscale.experiment import COLUMNS, STUDY_COLUMNS, Experiment, Record, UserError, first_line
from batchscale.storage import remove, require_writable, set_aside, write_whole

FORMAT = 2  # of sidecar and checkpoint

# Fields that may differ between two sittings of one run: they change how far and where it is run, not what it is.
NOT_IDENTITY = ("epochs", "device")


class UnreadableRecord(UserError):
    """A CSV or sidecar is damaged or was never one; the message says where and what to do."""


_STATUSES = ("running", "complete", "diverged")
_INTEGER_COLUMNS = ("batch_size", "epoch", "seed", "updates")
_STEM = re.compile(r"(?P<experiment>.+?)_bs(?P<batch_size>\d+)(_seed(?P<seed>\d+))?")


class Keeper:
    """The record of one experiment in a folder: what is there already, and how more is added.

    Args:
        experiment: what is recorded.
        data_dir: the folder; made when the record is started.
        notice: told what is worth a user's attention, a line each.

    Attributes:
        rows: the records so far, one an epoch, in order.
        status: `new`, `running`, `complete` or `diverged`.
        trained: every epoch asked for has its row, or the run diverged.
        finished: ... and the record is closed: nothing is left to do.

    Raises:
        UserError: the files are those of another experiment (naming the fields that differ), or cannot be read.
    """

    def __init__(
        self, experiment: Experiment, data_dir: str | os.PathLike, notice: Callable[[str], None] = warnings.warn
    ):
        self.experiment = experiment
        self.folder = Path(data_dir).expanduser()
        self.csv, self.sidecar, self.checkpoint, self.previous = (
            self.folder / f"{experiment.stem}{ending}" for ending in (".csv", ".json", ".ckpt", ".ckpt.previous")
        )
        self._notice = notice
        self.read()

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """What another folder needs to go on from: CSV, checkpoint, sidecar."""
        return self.csv, self.checkpoint, self.sidecar

    def read(self) -> None:
        """Look again at what is there; another process may have added to it."""
        self.status, self.rows, self._content = "new", [], {}
        planned_epochs = 0
        if self.sidecar.exists():
            self._content = self._read_sidecar()
            self.status, planned_epochs = self._content["status"], self._content["experiment"]["epochs"]
        if self.csv.exists():
            self.rows = [Record(**row) for row in read_csv(self.csv).to_dict("records")]
        self._epochs_in_csv = len(self.rows)
        if self.status == "new" and self.rows:
            self._accept_without_sidecar()
        self.trained = self.status == "diverged" or len(self.rows) >= self.experiment.epochs
        # Killed after the last row and before the status, or before the checkpoints were removed.
        unclosed = self.status == "running" and len(self.rows) >= planned_epochs
        closed = self._content.get("status") in ("complete", "diverged")
        left_over = closed and (self.checkpoint.exists() or self.previous.exists())
        self.finished = self.trained and not (unclosed or left_over)

    def resume(self) -> dict | None:
        """The training's state to go on from, `rows` being those that belong to it; None to start at the beginning.

        It is that of the newest checkpoint that is whole. One that is not is set aside under another name, with a
        notice, never deleted. Rows of the CSV that lie beyond stay there until the training has passed them again.
        """
        saved = next(self._checkpoints(), {"state": None, "rows": []})
        self.rows = saved["rows"]
        return saved["state"]

    def updates_kept(self) -> float:
        """Updates that need not be trained again; infinite once the record is trained."""
        if self.trained:
            return math.inf
        saved = next(self._checkpoints(), None)
        return 0 if saved is None else saved["updates"]

    def _checkpoints(self) -> Iterable[dict]:
        """Contents of the checkpoints that are whole and belong to this experiment, the newest first."""
        for path in (self.checkpoint, self.previous):
            if path.exists():
                try:
                    yield self._read_checkpoint(path)
                except Exception as error:  # torn, foreign or malicious: whatever it raises, it is not ours to use
                    self._notice(f"{path} cannot be used ({first_line(error)}); it is now {set_aside(path).name}")

    def _read_checkpoint(self, path: Path) -> dict:
        saved = _load(path)
        if _differences(saved["experiment"], self.experiment):
            raise ValueError("it belongs to another experiment")
        return {
            "state": saved["state"],
            "rows": [Record(**row) for row in saved["rows"]],
            "updates": saved["state"]["updates"],
        }

    def start(self, **facts) -> None:
        """Write the sidecar of a run that begins or goes on; `facts` are noted in it (device, parameters, ...).

        Raises:
            UserError: the folder cannot be written to.
        """
        require_writable(self.folder)
        self._content = {
            "format": FORMAT,
            "status": "running",
            "experiment": asdict(self.experiment),
            "versions": _versions(),
            **facts,
        }
        self._write_sidecar("running")
        self._write_csv()

    def add(self, row: Record, state: dict) -> None:
        """Keep one more epoch's record and the state after it."""
        self.rows.append(row)
        self.save_state(state)
        self._write_csv()

    def save_state(self, state: dict) -> None:
        """Keep the state, in the middle of an epoch or after one."""
        import torch

        buffer = io.BytesIO()
        rows = [asdict(row) for row in self.rows]
        torch.save({"format": FORMAT, "experiment": asdict(self.experiment), "rows": rows, "state": state}, buffer)
        write_whole(self.checkpoint, buffer.getbuffer(), keep=self.previous)

    def finish(self, status: str | None = None) -> None:
        """Close the record as `complete` or `diverged`; the checkpoints are no longer needed.

        Without a status it is closed as what it was when it was read.
        """
        self._write_csv()
        self._write_sidecar(status or ("diverged" if self.status == "diverged" else "complete"))
        remove(self.checkpoint)
        remove(self.previous)
        self.trained = self.finished = True

    def _write_csv(self) -> None:
        # A run that has to begin again trains its first epochs again: until it has passed the rows that are recorded,
        # those stay.
        if self.rows and len(self.rows) >= self._epochs_in_csv:
            write_whole(self.csv, to_csv(self.rows).encode())
            self._epochs_in_csv = len(self.rows)

    def _write_sidecar(self, status: str) -> None:
        self.status = status
        self._content["status"] = status
        write_whole(self.sidecar, (json.dumps(self._content, indent=2, ensure_ascii=False) + "\n").encode())

    def _read_sidecar(self) -> dict:
        try:
            content = json.loads(self.sidecar.read_text(encoding="utf-8"))
            kept, status, written = content["experiment"], content["status"], content["format"]
            usable = status in _STATUSES and isinstance(kept["epochs"], int) and isinstance(written, int)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnreadableRecord(
                f"{self.sidecar} is not the sidecar of a record ({first_line(error)}); move it away"
            ) from error
        if not usable:
            raise UnreadableRecord(
                f"{self.sidecar} is not the sidecar of a record (status {status!r}, format {written!r}); move it away"
            )
        if written > FORMAT:
            raise UserError(f"{self.sidecar} has format {written}, this batchscale knows {FORMAT}; upgrade batchscale")
        differing = _differences(kept, self.experiment)
        if differing:
            both = ", ".join(f"{name} is {there} there but {asked} was asked for" for name, there, asked in differing)
            raise UserError(
                f"{self.csv} belongs to another experiment: {both}; "
                f"choose another name or data_dir, or move its files away"
            )
        return content

    def _accept_without_sidecar(self) -> None:
        # Nothing says how these rows were trained. As a result they stand; to add to them would be a guess.
        if len(self.rows) < self.experiment.epochs:
            raise UserError(
                f"{self.csv} has {len(self.rows)} of {self.experiment.epochs} epochs and no sidecar "
                f"{self.sidecar.name} that says how to go on; restore it or move the CSV away"
            )
        self.status = "complete"


def read_checkpoint(path: str | os.PathLike) -> tuple[Experiment | None, dict]:
    """The experiment and the training's state that a checkpoint was saved with; or weights that others saved.

    A file of tensors by name, as `torch.save(model.state_dict(), path)` writes it, has no experiment; its content is
    returned as it is.

    Raises:
        UserError: it is neither, or damaged.
    """
    path = Path(path).expanduser()
    try:
        saved = _load(path)
        if "format" not in saved and all(hasattr(value, "shape") for value in saved.values()):
            return None, saved
        return Experiment(**saved["experiment"]), saved["state"]
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; a run has a checkpoint, {{name}}_bs{{B}}_seed{{s}}.ckpt, while it is unfinished"
        ) from None
    except UserError:
        raise
    except Exception as error:  # torn, foreign or malicious: whatever it raises, it is not ours to use
        raise UserError(
            f"{path} is neither a checkpoint nor a file of weights ({first_line(error)}); name one of a run, or one "
            f"written by torch.save(model.state_dict(), path)"
        ) from error


def _load(path: Path) -> dict:
    """A file of `torch.save`, whole and of nothing but numbers and tensors, or else an error."""
    import torch

    content = path.read_bytes()
    # torch.load leaves out the check sums of its own files (pytorch/pytorch issue 126952).
    damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose message says how to run it all the same
        raise ValueError("it holds something else than numbers and tensors") from None
    if saved.get("format", FORMAT) != FORMAT:  # weights that others saved have none
        raise ValueError(f"it has format {saved['format']}, this batchscale knows {FORMAT}")
    return saved


def to_frame(rows: Iterable[Record]) -> pd.DataFrame:
    """Records as a tidy frame: a row an epoch, columns as in `Record`, also when there are none."""
    return pd.DataFrame([astuple(row) for row in rows], columns=list(COLUMNS))


def to_csv(rows: Iterable[Record]) -> str:
    """Records as CSV text: floats in the shortest form that reads back exactly, NaN as an empty field."""
    return to_frame(rows).to_csv(index=False, lineterminator="\n")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """One CSV as a frame with all columns of `Record`, exactly as it was written.

    A CSV with the study's five columns alone is read too: `experiment` and `seed` then come from the file's name
    (`{experiment}_bs{batch_size}_seed{seed}.csv`; seed 0 where it names none) and the other columns are empty. A byte
    order mark and Windows line ends are accepted. A file is taken as a whole or not at all: nothing is guessed.

    Raises:
        UnreadableRecord: (a UserError) it is not a CSV, lacks one of the five columns or a part of a line, holds
            something that is not a finite number, an accuracy outside 0-1, epochs other than 1, 2, 3, ... or another
            batch size than its name says.
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
    """Every CSV of a folder as one tidy frame: a row an epoch, columns as in `Record`, sorted.

    Needs the CSVs alone. An empty or missing folder gives an empty frame with the same columns.

    Raises:
        UserError: see `read_csv`.
    """
    frames = [read_csv(path) for path in sorted(Path(data_dir).expanduser().glob("*.csv"))]
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        return to_frame([])
    return pd.concat(frames).sort_values(["experiment", "batch_size", "seed", "epoch"], ignore_index=True)


def _differences(kept: dict, asked: Experiment) -> list[tuple[str, object, object]]:
    """Fields of identity in which a kept experiment is not the one asked for: name, kept value, asked value.

    A field that an older version did not know has its default.
    """
    pairs = [
        (field.name, kept.get(field.name, None if field.default is MISSING else field.default))
        for field in fields(Experiment)
        if field.name not in NOT_IDENTITY
    ]
    return [(name, there, getattr(asked, name)) for name, there in pairs if there != getattr(asked, name)]


def _versions() -> dict[str, str]:
    packages = {"batchscale": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pandas"):
        packages[package] = metadata.version(package)
    return packages


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


def diverged(data_dir: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Runs of a folder whose sidecar says `diverged`: experiment, batch size, seed. Their CSVs do not tell."""
    experiments = [content["experiment"] for content in sidecars(data_dir) if content["status"] == "diverged"]
    return [(run["name"], int(run["batch_size"]), int(run["seed"])) for run in experiments]


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
