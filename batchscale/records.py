"""The files of a run: CSV, sidecar and checkpoint, each written whole, together enough to go on from.

    keeper = Keeper(experiment, "data")        # data/scaled_lr_bs128_seed0.csv, .json, and .ckpt while unfinished
    records = load("data")                     # every CSV in a folder as one tidy frame

The CSV is the result and stands alone. The sidecar says which experiment it belongs to and how it stands. The
checkpoint holds the rows as well as the weights, so that it does not matter which file was written last when a run is
killed.
"""

import contextlib
import io
import json
import math
import os
import platform
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, astuple, fields
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from batchscale import __version__
from batchscale.experiment import COLUMNS, STUDY_COLUMNS, Experiment, Record, UserError

FORMAT = 1  # of sidecar and checkpoint

# Fields that may differ between two sittings of one run: they change how far and where it is run, not what it is.
NOT_IDENTITY = ("epochs", "device")

_INTEGER_COLUMNS = ("batch_size", "epoch", "seed", "updates")
_STEM = re.compile(r"(?P<experiment>.+?)_bs(?P<batch_size>\d+)(_seed(?P<seed>\d+))?")


class Keeper:
    """The record of one experiment in a folder: what is there already, and how more is added.

    Attributes:
        rows: the records so far, one an epoch, in order.
        status: `new`, `running`, `complete` or `diverged`.

    Raises:
        UserError: the files are those of another experiment (naming the fields that differ), or cannot be read.
    """

    def __init__(self, experiment: Experiment, data_dir: str | os.PathLike):
        self.experiment = experiment
        self.folder = Path(data_dir).expanduser()
        self.csv, self.sidecar, self.checkpoint = (
            self.folder / f"{experiment.stem}{ending}" for ending in (".csv", ".json", ".ckpt")
        )
        self.read()

    def read(self) -> None:
        """Look again at what is there; another process may have added to it."""
        self.status, self.rows, planned_epochs = "new", [], 0
        if self.sidecar.exists():
            self.status, planned_epochs = self._read_sidecar()
        if self.csv.exists():
            self.rows = [Record(**row) for row in read_csv(self.csv).to_dict("records")]
        self._epochs_in_csv = len(self.rows)
        if self.status == "new" and self.rows:
            self._accept_without_sidecar()
        # Killed after the last row and before the status: nothing is left to train, but to close the record is.
        unclosed = self.status == "running" and len(self.rows) >= planned_epochs
        self.finished = self.status == "diverged" or (len(self.rows) >= self.experiment.epochs and not unclosed)

    def resume(self) -> dict | None:
        """The training's state to go on from, `rows` being those that belong to it; None to start at the beginning.

        A checkpoint that cannot be used is set aside under another name, with a warning, never deleted.
        """
        self.rows = []
        if not self.checkpoint.exists():
            return None
        import torch

        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if _differences(saved["experiment"], self.experiment):
                raise ValueError("it belongs to another experiment")
            state, self.rows = saved["state"], [Record(**row) for row in saved["rows"]]
        except Exception as error:  # torn, foreign or malicious: whatever it raises, it is not ours to use
            aside = self.checkpoint.with_suffix(".ckpt.unusable")
            self.checkpoint.replace(aside)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"{self.checkpoint} cannot be used ({reason}); it is now {aside.name}", stacklevel=2)
            return None
        return state

    def start(self, **facts) -> None:
        """Write the sidecar of a run that begins or goes on; `facts` are noted in it (device, parameters, ...).

        Raises:
            UserError: the folder cannot be written to.
        """
        self._facts = facts
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made ({error.strerror}); choose another data_dir") from error
        self._write_sidecar("running")

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
        write_whole(self.checkpoint, buffer.getbuffer())

    def finish(self, status: str) -> None:
        """Close the record as `complete` or `diverged`; the checkpoint is no longer needed."""
        self._write_csv()
        self._write_sidecar(status)
        self.checkpoint.unlink(missing_ok=True)
        self.finished = True

    def _write_csv(self) -> None:
        # A run that is extended after its checkpoint was removed trains its first epochs again: until it has passed the
        # rows that are recorded, those stay.
        if len(self.rows) >= self._epochs_in_csv:
            write_whole(self.csv, to_csv(self.rows).encode())
            self._epochs_in_csv = len(self.rows)

    def _write_sidecar(self, status: str) -> None:
        self.status = status
        content = {
            "format": FORMAT,
            "status": status,
            "experiment": asdict(self.experiment),
            "versions": _versions(),
            **self._facts,
        }
        write_whole(self.sidecar, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def _read_sidecar(self) -> tuple[str, int]:
        try:
            content = json.loads(self.sidecar.read_text(encoding="utf-8"))
            kept, status, written = content["experiment"], content["status"], content["format"]
            epochs = kept["epochs"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.sidecar} is not the sidecar of a record ({error!r}); move it away") from error
        if written > FORMAT:
            raise UserError(f"{self.sidecar} has format {written}, this batchscale knows {FORMAT}; upgrade batchscale")
        differing = _differences(kept, self.experiment)
        if differing:
            both = ", ".join(f"{name} is {kept.get(name)} there but {asked} was asked for" for name, asked in differing)
            raise UserError(
                f"{self.csv} belongs to another experiment: {both}; "
                f"choose another name or data_dir, or move its files away"
            )
        return status, epochs

    def _accept_without_sidecar(self) -> None:
        # Nothing says how these rows were trained. As a result they stand; to add to them would be a guess.
        if len(self.rows) < self.experiment.epochs:
            raise UserError(
                f"{self.csv} has {len(self.rows)} of {self.experiment.epochs} epochs and no sidecar "
                f"{self.sidecar.name} that says how to go on; restore it or move the CSV away"
            )
        self.status = "complete"


def to_frame(rows: Iterable[Record]) -> pd.DataFrame:
    """Records as a tidy frame: a row an epoch, columns as in `Record`, also when there are none."""
    return pd.DataFrame([astuple(row) for row in rows], columns=list(COLUMNS))


def to_csv(rows: Iterable[Record]) -> str:
    """Records as CSV text: floats in the shortest form that reads back exactly, NaN as an empty field."""
    return to_frame(rows).to_csv(index=False, lineterminator="\n")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """One CSV as a frame with all columns of `Record`, exactly as it was written.

    A CSV with the study's five columns alone is read too: `experiment` and `seed` then come from the file's name
    (`{experiment}_bs{batch_size}_seed{seed}.csv`; seed 0 where it names none) and the other columns are empty.

    Raises:
        UserError: it is not a CSV, lacks one of the five columns, or holds something that is not a number.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False, na_filter=False)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} cannot be read as CSV ({str(error).strip()}); restore it or move it away") from error
    missing = [column for column in STUDY_COLUMNS if column not in frame]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it must begin with {', '.join(STUDY_COLUMNS)}")
    named = _STEM.fullmatch(path.stem)
    if "experiment" not in frame:
        frame["experiment"] = named["experiment"] if named else path.stem
    if "seed" not in frame:
        frame["seed"] = (named and named["seed"]) or "0"
    frame = frame.reindex(columns=list(COLUMNS), fill_value="")
    for column in COLUMNS:
        if column != "experiment":
            try:
                # Python's float, not pandas': not every version of pandas reads the last digit as it was written.
                frame[column] = [float(text) if text else math.nan for text in frame[column]]
            except ValueError as error:
                raise UserError(f"{path}, column {column}: {error}; restore the file or move it away") from error
        if column in _INTEGER_COLUMNS and (frame[column] % 1 == 0).all():
            frame[column] = frame[column].astype(np.int64)
    return frame


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


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replace a file so that whoever reads it, whenever the machine stops, finds the old content or the new one.

    Raises:
        UserError: it cannot be written (no space, no permission); the old content is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # in the same folder: a rename does not cross file systems
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}); what was there is whole: "
            f"make room or choose another data_dir, and start again to go on"
        ) from error
    if os.name == "posix":  # makes the rename itself last
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _differences(kept: dict, asked: Experiment) -> list[tuple[str, object]]:
    """Fields of identity in which a kept experiment is not the one asked for, with the asked values."""
    names = [field.name for field in fields(Experiment) if field.name not in NOT_IDENTITY]
    return [(name, getattr(asked, name)) for name in names if kept.get(name) != getattr(asked, name)]


def _versions() -> dict[str, str]:
    packages = {"batchscale": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pandas"):
        packages[package] = metadata.version(package)
    return packages


def diverged(data_dir: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Runs of a folder whose sidecar says `diverged`: experiment, batch size, seed. Their CSVs do not tell.

    A sidecar that cannot be read says nothing here: analysis needs the CSVs alone.
    """
    runs = []
    for path in sorted(Path(data_dir).expanduser().glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["status"] == "diverged":
                experiment = content["experiment"]
                runs.append((experiment["name"], int(experiment["batch_size"]), int(experiment["seed"])))
    return runs
