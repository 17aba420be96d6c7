"""The files of a run: CSV, sidecar and checkpoint, each written whole, together enough to go on from.

    keeper = Record(experiment, "data")        # data/scaled_lr_bs128_seed0.csv, .json, and .ckpt while unfinished
    records = load("data")                     # every CSV in a folder as one tidy frame

The CSV is the result and stands alone. The sidecar says which experiment it belongs to and how it stands. The
checkpoint holds the rows as well as the weights, so that it does not matter which file was written last when a run is
killed. The checkpoint before it stays beside it, in case the newest is damaged.
"""

import io
import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, fields
from importlib import metadata
from pathlib import Path

from batchscale import __version__
from batchscale.epoch import Epoch
from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.records.checkpoint import load as load_checkpoint
from batchscale.records.files import remove, require_writable, set_aside, write_whole
from batchscale.records.format import FORMAT
from batchscale.records.tables import UnreadableRecord, read_csv, to_csv

# Fields that may differ between two sittings of one run: they change how far and where it is run, not what it is.
NOT_IDENTITY = ("epochs", "device")


_STATUSES = ("running", "complete", "diverged")


class Record:
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
            self.rows = [Epoch(**row) for row in read_csv(self.csv).to_dict("records")]
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
        saved = load_checkpoint(path)
        if _differences(saved["experiment"], self.experiment):
            raise ValueError("it belongs to another experiment")
        return {
            "state": saved["state"],
            "rows": [Epoch(**row) for row in saved["rows"]],
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

    def add(self, row: Epoch, state: dict) -> None:
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
