"""The files of a run: CSV, sidecar and checkpoint, each written atomically; together they suffice to continue it.

    record = Record(experiment, "data")        # data/scaled_lr_bs128_seed0.csv, .json, and .ckpt while unfinished

The CSV is the result and needs no other file. The sidecar holds the experiment and its status. The checkpoint holds the
rows as well as the weights, so a run may be killed between any two writes. The previous checkpoint is kept in case the
newest one is damaged. On request, the last state of a complete run is kept as `.final.ckpt`, from which a later request
for more epochs continues, and its weights alone as `.weights.pt`.
"""

import csv
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from batchscale.epoch import COLUMNS, Epoch
from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.paths import typed
from batchscale.records import provenance
from batchscale.records.checkpoint import FORMAT, dumps, loads
from batchscale.records.checkpoint import load as load_checkpoint
from batchscale.records.files import is_there, keep_copy, remove, rename, require_writable, set_aside, write_whole
from batchscale.records.tables import UnreadableRecord, read_csv, to_csv

# Fields that may change when a run is continued: how far and where it is trained, not what is trained. With a decay,
# every rate depends on the number of epochs.
NOT_IDENTITY = ("epochs", "device")

WEIGHTS = ".weights.pt"  # a plain state dict, as `torch.save(model.state_dict(), path)` writes it
_STATUSES = ("running", "complete", "diverged")


class Record:
    """The record of one experiment in a folder: reads the existing files and adds to them.

    Args:
        experiment: the recorded experiment.
        data_dir: the folder; created when the record is started.
        notice: called with one line for each event that the user should know.

    Attributes:
        rows: the recorded epochs, in order.
        status: `new`, `running`, `complete` or `diverged`.
        trained: every requested epoch has a row, or the run diverged.
        finished: trained and closed; nothing remains to be done.
        noted: what the sidecar holds; empty without one.
        replaced: copy of a CSV whose rows are trained again, see `resume`; None if there is none.

    Raises:
        UserError: the files belong to another experiment (naming the fields that differ), or cannot be read.
    """

    def __init__(
        self, experiment: Experiment, data_dir: str | os.PathLike, notice: Callable[[str], None] = warnings.warn
    ):
        self.experiment = experiment
        self.folder = typed(data_dir, "data_dir")
        self.csv, self.sidecar, self.checkpoint, self.previous, self.final, self.weights = (
            self.folder / f"{experiment.stem}{ending}"
            for ending in (".csv", ".json", ".ckpt", ".ckpt.previous", ".final.ckpt", WEIGHTS)
        )
        self._notice = notice
        self.replaced: Path | None = None
        self.read()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that another folder needs: CSV, checkpoints, replaced files, and the sidecar last."""
        replaced = sorted(self.folder.glob(f"{self.experiment.stem}.*.replaced*"))
        return self.csv, self.checkpoint, self.final, self.weights, *replaced, self.sidecar

    def read(self) -> None:
        """Read the files again; another process may have added to them."""
        self.status, self.rows, self.noted = "new", [], {}
        planned_epochs = 0
        there = set(filter(is_there, (self.sidecar, self.csv, self.checkpoint, self.previous, self.final)))
        if self.sidecar in there:
            self.noted = self._read_sidecar()
            self.status, planned_epochs = self.noted["status"], self.noted["experiment"]["epochs"]
        if self.csv in there:
            self.rows = [Epoch.of(row) for row in read_csv(self.csv).to_dict("records")]
        self._epochs_in_csv = len(self.rows)
        if self.status == "new" and self.rows:
            self._accept_without_sidecar()
        self.trained = self.status == "diverged" or len(self.rows) >= self.experiment.epochs
        if self.rows and not self.trained:
            self._require_known_columns()
        # Killed after the last row and before the status, or before the checkpoints were removed.
        unclosed = self.status == "running" and len(self.rows) >= planned_epochs
        closed = self.noted.get("status") in ("complete", "diverged")
        left_over = closed and not there.isdisjoint((self.checkpoint, self.previous))
        self.finished = self.trained and not (unclosed or left_over)

    def require_same(self, made_of: Mapping) -> None:
        """Compare data and network with those that the sidecar notes, see `provenance.made_of`.

        Raises:
            UserError: one of them differs; the message says how.
        """
        _require_same(self.csv, self.noted, made_of)

    def resume(self, made_of: Mapping | None = None) -> dict | None:
        """The training state to continue from, or None to start at epoch 1; `rows` become those of that state.

        The newest intact checkpoint is used. A damaged one is renamed, with a notice, and never deleted. If the CSV has
        more rows than the state, these epochs are trained again. The CSV stays until the training has passed its last
        row; a copy is kept, and a notice names it.

        Raises:
            UserError: sidecar or checkpoint belong to other data or another network than `made_of`, or a checkpoint
                cannot be read now. Neither is set aside.
        """
        self.require_same(made_of or {})
        saved = next(self._checkpoints(made_of), {"state": None, "rows": []})
        if len(saved["rows"]) < self._epochs_in_csv and self.replaced is None:
            self._keep_recorded(len(saved["rows"]))
        self.rows = saved["rows"]
        return saved["state"]

    def updates_kept(self) -> float:
        """Number of updates that need not be trained again; infinite for a trained record."""
        if self.trained:
            return math.inf
        saved = next(self._checkpoints(), None)
        return 0 if saved is None else saved["updates"]

    def start(self, **facts) -> None:
        """Write the sidecar before training starts or continues; `facts` are added to it, see `provenance`.

        Raises:
            UserError: the folder cannot be written.
        """
        require_writable(self.folder)
        self.noted = {
            "format": FORMAT,
            "status": "running",
            "experiment": asdict(self.experiment),
            "versions": provenance.versions(),
            **facts,
        }
        self._write_sidecar("running")
        self._write_csv()

    def note(self, **facts) -> None:
        """Add facts to the sidecar of a run under way. They stay until its training continues."""
        self.noted |= facts
        self._write_sidecar("running")

    def add(self, row: Epoch, state: dict) -> None:
        """Save one more epoch and the training state after it."""
        self.rows.append(row)
        self.save_state(state)
        self._write_csv()

    def save_state(self, state: dict) -> None:
        """Save the training state, within an epoch or after one.

        Raises:
            NotLoadable: (a UserError) the state could not be loaded again. The checkpoint saved before is intact.
            SaveError: (a UserError) the folder cannot be written.
        """
        write_whole(self.checkpoint, self._dumped(state), keep=self.previous)

    def as_loaded(self, state: dict) -> dict:
        """The training state as `resume` would return it, had it been saved; nothing is written.

        Raises:
            NotLoadable: (a UserError) it could not be loaded.
        """
        return loads(self._dumped(state))["state"]

    def _dumped(self, state: dict) -> memoryview:
        rows = [asdict(row) for row in self.rows]
        made_of = {key: self.noted[key] for key in ("data", "network") if key in self.noted}
        content = {"format": FORMAT, "experiment": asdict(self.experiment), **made_of, "rows": rows, "state": state}
        return dumps(content)

    def finish(self, status: str | None = None, *, keep_state: bool = False, weights: dict | None = None) -> None:
        """Close the record as `complete` or `diverged` and remove the checkpoints.

        Args:
            status: None closes a record that was trained earlier, with the status it had.
            keep_state: keep the last state of a complete run as `final`. An existing `final` is always kept up to date.
            weights: the state dict of a network, to be kept; None keeps none.
        """
        self._write_csv()
        if weights is not None:
            write_whole(self.weights, dumps(weights))
        self._write_sidecar(status or ("diverged" if self.status == "diverged" else "complete"))
        if self.status == "complete" and (keep_state or self.final.exists()):
            saved = next(self._checkpoints(), None)
            if saved is not None and saved["path"] != self.final and len(saved["rows"]) == len(self.rows):
                rename(saved["path"], self.final)
        remove(self.checkpoint)
        remove(self.previous)
        self.trained = self.finished = True

    def _checkpoints(self, made_of: Mapping | None = None) -> Iterator[dict]:
        """Contents of the intact checkpoints of this experiment, newest first."""
        for path in (self.checkpoint, self.previous, self.final):
            if is_there(path):
                try:
                    yield self._read_checkpoint(path, made_of or {})
                except UserError:  # the checkpoint may be as good as any
                    raise
                except Exception as error:  # a torn, foreign or malicious file may raise anything
                    self._notice(f"{path} cannot be used ({first_line(error)}); it is now {set_aside(path).name}")

    def _read_checkpoint(self, path: Path, made_of: Mapping) -> dict:
        saved = load_checkpoint(path)
        if _differences(saved["experiment"], self.experiment):
            raise ValueError("it belongs to another experiment")
        _require_same(path, saved, made_of)
        rows = [Epoch.of(row) for row in saved["rows"]]
        return {"path": path, "state": saved["state"], "rows": rows, "updates": saved["state"]["updates"]}

    def _keep_recorded(self, epochs: int) -> None:
        """Copy the CSV and the sidecar before the rows after that many epochs are replaced."""
        self.replaced = keep_copy(self.csv)
        sidecar = self.sidecar.with_name(self.sidecar.name + self.replaced.suffix)
        if not sidecar.exists():
            write_whole(sidecar, self.sidecar.read_bytes())
        if self.status == "complete" and epochs == 0:
            reason = f"the record is complete at {self._epochs_in_csv} epochs, but its last state was not kept"
        else:
            reason = f"the CSV has {self._epochs_in_csv} epochs, but the last usable checkpoint has {epochs}"
        self._notice(
            f"{reason}; training starts again from epoch {epochs + 1}, "
            f"and the CSV recorded so far is kept as {self.replaced.name}"
        )

    def _write_csv(self) -> None:
        # Epochs that are trained again replace the recorded rows only once there are as many of them.
        if self.rows and len(self.rows) >= self._epochs_in_csv:
            write_whole(self.csv, to_csv(self.rows).encode())
            self._epochs_in_csv = len(self.rows)

    def _write_sidecar(self, status: str) -> None:
        self.status = status
        self.noted["status"] = status
        write_whole(self.sidecar, (json.dumps(self.noted, indent=2, ensure_ascii=False) + "\n").encode())

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
            raise UserError(f"{self.sidecar} has format {written}, this batchscale reads {FORMAT}; upgrade batchscale")
        differing = _differences(kept, self.experiment)
        if differing:
            both = ", ".join(f"{name} is {there} there but {asked} was asked for" for name, there, asked in differing)
            decays = any(name == "epochs" for name, *_ in differing)
            why = " (with a decay every rate depends on the epochs)" if decays else ""
            raise UserError(
                f"{self.csv} belongs to another experiment: {both}{why}; "
                f"choose another name or data_dir, or move its files away"
            )
        return content

    def _accept_without_sidecar(self) -> None:
        # Nothing records how these rows were trained. They are valid as a result, but cannot be continued.
        if len(self.rows) < self.experiment.epochs:
            raise UserError(
                f"{self.csv} has {len(self.rows)} of {self.experiment.epochs} epochs and no sidecar "
                f"{self.sidecar.name}, which is needed to continue; restore it or move the CSV away"
            )
        self.status = "complete"

    def _require_known_columns(self) -> None:
        """Refuse to continue a CSV with columns of a later version, which would be lost when it is rewritten."""
        with self.csv.open(encoding="utf-8-sig", newline="") as file:
            unknown = [column for column in next(csv.reader(file)) if column not in COLUMNS]
        if unknown:
            raise UserError(
                f"{self.csv} has columns that this batchscale does not know: {', '.join(unknown)}; "
                f"upgrade batchscale, or move the record away"
            )


def _require_same(path: Path, noted: Mapping, made_of: Mapping) -> None:
    differing = provenance.difference(noted, made_of)
    if differing is not None:
        what, how = differing
        raise UserError(
            f"{path} belongs to {'other data' if what == 'data' else 'another network'}: {how}; "
            f"undo the change, choose another name or data_dir, or move the files of the run away"
        )


def _differences(kept: dict, asked: Experiment) -> list[tuple[str, object, object]]:
    """Identity fields in which a recorded experiment differs from the requested one: name, recorded, requested.

    A field that did not exist when the record was written has its default.
    """
    pairs = [
        (field.name, kept.get(field.name, None if field.default is MISSING else field.default))
        for field in fields(Experiment)
        if field.name not in NOT_IDENTITY or (field.name == "epochs" and asked.decay != "none")
    ]
    return [(name, there, getattr(asked, name)) for name, there in pairs if there != getattr(asked, name)]
