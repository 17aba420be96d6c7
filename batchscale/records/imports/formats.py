"""What other tools write, read as it is: a `Log` per run, its columns as text under their own names.

A new kind of log is one function from a path to logs, one entry in `FORMATS`, and its test.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.records.csvs import MISSING
from batchscale.records.files import read_whole

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
_SETTING = re.compile(r"^[ \t]*((?:\w*_)?batch_?size|bs|seed):\s*(\d+)\s*$", re.MULTILINE)  # of hparams.yaml
_COMMA = re.compile(r"^(-?\d+),(\d+ *%?)$")
_PERCENT = re.compile(r"\d+(\.\d+)? *%")
_PARTS = {"train", "validation", "val", "test", "eval"}  # folders in which Keras keeps the halves of one run


@dataclass(frozen=True)
class Log:
    """One run, or one table of several, as a tool wrote it.

    Attributes:
        path: the file or folder, as the user named it.
        kind: which tool's.
        columns: fields as text, by name; all of one length, and "" where there is no value.
        lines: where each row stands in the file, for messages.
        label: name of the run, where one file holds several.
        notes: what was assumed when it was read, for the user to check.
        has_one_clock: whether all fields of a row were measured at the same time.
    """

    path: Path
    kind: str
    columns: Mapping[str, list[str]]
    lines: list[int]
    label: str = ""
    notes: tuple[str, ...] = ()
    has_one_clock: bool = True

    def __str__(self) -> str:
        return f"{self.path} ({self.label})" if self.label else str(self.path)


def trainer_state(path: Path) -> list[Log]:
    """Hugging Face's `trainer_state.json`: evaluations and training losses, one dict each, in `log_history`."""
    try:
        state = json.loads(_read(path))
        rows = [{key: _text(value) for key, value in row.items()} for row in state["log_history"]]
        size, seen = state.get("train_batch_size"), _samples_per_update(state["log_history"])
        is_of_update = not (size and seen) or 0.6 < seen / size < 1.6
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no trainer_state.json of Hugging Face's ({first_line(error)}); name one") from None
    notes: tuple[str, ...] = ()
    if size and is_of_update:
        rows = [{**row, "train_batch_size": str(size)} for row in rows]
        notes = ("train_batch_size is that of one process, without gradient accumulation",)
    elif size:
        notes = (f"train_batch_size is {size}, but its rates are those of about {seen:.0f} samples per update",)
    return [replace(_of_rows(path, "Hugging Face's trainer_state.json", rows), notes=notes)]


def _samples_per_update(history: list[dict]) -> float | None:
    """What an update saw with all processes and accumulated gradients, by the rates that are noted in the end."""
    rates = [(row.get("train_samples_per_second"), row.get("train_steps_per_second")) for row in history]
    return next((samples / updates for samples, updates in reversed(rates) if samples and updates), None)


def tensorboard(path: Path) -> list[Log]:
    """TensorBoard's event files of a folder; of its subfolders too, where these are the halves of a run (Keras)."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise UserError(
            f'{path} holds event files of TensorBoard; install what reads them: pip install "batchscale[tensorboard]"'
        ) from None
    rows: dict[int, dict[str, str]] = {}
    walls: dict[int, float] = {}
    start = math.inf
    for folder in sorted({file.parent for file in path.rglob("events.out.tfevents.*") if _run_folder(file) == path}):
        prefix = "" if folder == path else f"{folder.name}/"
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        for tag, step, wall, value in _points(events):
            rows.setdefault(step, {"step": str(step)})[prefix + tag] = str(value)
            walls[step] = max(wall, walls.get(step, wall))
            start = min(start, wall, events.FirstEventTimestamp())
    for step, row in rows.items():
        row["wall_time"] = repr(walls[step] - start)
    log = _with_hparams(_of_rows(path, "TensorBoard's events", [rows[step] for step in sorted(rows)]))
    # The training loss may be logged at every update, while accuracies are logged at epochs 0, 1, 2.
    return [replace(log, has_one_clock=False)]


def _points(events) -> Iterator[tuple]:
    """Tag, step, time and value of all scalars, in the precision in which they were kept."""
    import numpy as np
    from tensorboard.util.tensor_util import make_ndarray

    for tag in events.scalars.Keys():
        for event in events.Scalars(tag):
            yield tag, event.step, event.wall_time, np.float32(event.value)
    for tag in events.tensors.Keys():  # TensorFlow 2
        for event in events.Tensors(tag):
            value = make_ndarray(event.tensor_proto)
            if value.size == 1 and value.dtype.kind == "f":
                yield tag, event.step, event.wall_time, value.reshape(-1)[0]


def table(path: Path) -> list[Log]:
    """A CSV with any delimiter: Lightning's, Keras's, Weights & Biases', or a person's."""
    text, notes = _decoded(path)
    text = re.sub(r"\A(sep=.\r?\n)?(# *)?", "", text)  # Excel's first line; numpy.savetxt's mark of a header
    delimiter, (header, *rows) = _split(path, text)
    if delimiter != ",":
        notes += (f"fields are separated by {DELIMITERS[delimiter]}",)
    header = [name.strip() for name in header]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise UserError(f"{path} has two columns {twice}; rename one of them")
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(f"{path}, line {line}: {len(fields)} fields where the header has {len(header)}; correct it")
    columns = {name: [_text(fields[at].strip()) for _, fields in rows] for at, name in enumerate(header) if name}
    columns, more = _plain_numbers(columns)
    notes += more
    log = Log(path, "a table", columns, [line for line, _ in rows], notes=notes)
    return next((logs for flavour in FLAVOURS if (logs := flavour(log))), [log])


def _lightning(log: Log) -> list[Log]:
    """Lightning's CSVLogger: its step is the number of the last batch, from 0; hparams.yaml has the settings."""
    if not {"epoch", "step"} <= set(log.columns) or log.path.name != "metrics.csv":
        return []
    steps = [str(int(step) + 1) if step.isdecimal() else step for step in log.columns["step"]]
    notes = (*log.notes, "updates are step + 1: Lightning counts from 0")
    return [
        _with_hparams(replace(log, kind="Lightning's CSVLogger", columns={**log.columns, "step": steps}, notes=notes))
    ]


def _keras(log: Log) -> list[Log]:
    """Keras's CSVLogger: `accuracy` is a running mean over the training batches, `val_accuracy` is measured."""
    halves = [name for name in log.columns if f"val_{name}" in log.columns]
    return [replace(log, kind="Keras's CSVLogger")] if halves and "epoch" in log.columns else []


def _wandb(log: Log) -> list[Log]:
    """A chart of Weights & Biases: columns `run - metric`, and those of bounds, which are left out."""
    (axis, steps), *drawn = log.columns.items()
    runs: dict[str, dict[str, list[str]]] = {}
    for name, fields in drawn:
        run, is_drawn, metric = name.rpartition(" - ")
        if not is_drawn:
            return []
        if not metric.endswith(("__MIN", "__MAX")):
            runs.setdefault(run, {axis: steps})[metric] = fields
    kind = "a chart of Weights & Biases"
    return [replace(log, kind=kind, columns=columns, label=run) for run, columns in runs.items()]


FLAVOURS = (_lightning, _keras, _wandb)

# By file name the reader, and whether it takes the folder; the first kind that a folder has is read.
FORMATS: dict[str, tuple[Callable[[Path], list[Log]], bool]] = {
    "trainer_state.json": (trainer_state, False),
    "metrics.csv": (table, False),
    "events.out.tfevents.*": (tensorboard, True),
}
_TABLES = ("*.csv", "*.tsv")  # where a folder has nothing else


def read(source: Path) -> list[Log]:
    """The logs of a file, or of all files of a known kind in a folder and below it, or else of all tables.

    A folder that holds a log, and what lies below it, is not searched for other kinds: they would be the same runs.

    Raises:
        UserError: there is no such file, no log in the folder, or one cannot be read.
    """
    if not source.is_dir():
        return _logs(source, *next((kind for name, kind in FORMATS.items() if source.match(name)), (table, False)))
    found: list[Log] = []
    known: set[Path] = set()
    for name, kind in FORMATS.items():
        files = [file for file in sorted(source.rglob(name), key=_in_numbers) if known.isdisjoint(file.parents)]
        runs = {_run_folder(file): file for file in files}  # of checkpoints the last
        found += [log for file in runs.values() for log in _logs(file, *kind)]
        known |= runs.keys()
    if not found:
        files = sorted((file for name in _TABLES for file in source.rglob(name)), key=_in_numbers)
        found = [log for file in files for log in table(file)]
    if not found:
        raise UserError(
            f"{source} holds no log that is known ({', '.join((*FORMATS, *_TABLES))}); name the file itself"
        )
    return found


def _logs(path: Path, reader: Callable[[Path], list[Log]], takes_folder: bool) -> list[Log]:
    return reader(_run_folder(path) if takes_folder else path)


def _run_folder(file: Path) -> Path:
    """Folder of the run that a file is of: not of a checkpoint of Hugging Face's, nor of one half of Keras's events."""
    folder = file.parent
    return folder.parent if folder.name in _PARTS or re.fullmatch(r"checkpoint-\d+", folder.name) else folder


def _in_numbers(path: Path) -> list:
    """A key that sorts checkpoint-500 before checkpoint-1000."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.as_posix())]


def _read(path: Path) -> bytes:
    try:
        return read_whole(path)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name the file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no file or folder {path}; name the log to import") from None


def _decoded(path: Path) -> tuple[str, tuple[str, ...]]:
    content = _read(path)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding), ()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace"), ("its text is no UTF-8 and was read as Windows-1252",)


def _split(path: Path, text: str) -> tuple[str, list]:
    """The delimiter that parts header and first line into as many fields, the header, and the lines with numbers."""
    best: tuple[int, str, list] = (1, "", [])
    for delimiter in DELIMITERS:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
            lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as a table ({error}); name a CSV") from None
        width = len(lines[0][1]) if lines else 0
        if width > best[0] and all(len(fields) == width for _, fields in lines[1:2]):
            best = (width, delimiter, lines)
    if not best[1]:
        raise UserError(f"{path} is no table of several columns; give a CSV with a header, or name another log")
    (_, header), *rows = best[2]
    if not rows:
        raise UserError(f"{path} has a header and no rows; name a log that has some")
    return best[1], [header, *rows]


def _plain_numbers(columns: dict[str, list[str]]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The columns with decimal points and without % signs, and what was changed."""
    notes, everything = [], [field for fields in columns.values() for field in fields]
    if any(map(_COMMA.fullmatch, everything)) and not any(re.fullmatch(r"-?\d+\.\d+ *%?", each) for each in everything):
        columns = {name: [_COMMA.sub(r"\1.\2", field) for field in fields] for name, fields in columns.items()}
        notes.append("commas in numbers are decimal")
    if any(_PERCENT.fullmatch(field) for fields in columns.values() for field in fields):
        columns = {name: [_of_percent(field) for field in fields] for name, fields in columns.items()}
        notes.append("numbers with a % sign are divided by 100")
    return columns, tuple(notes)


def _of_percent(field: str) -> str:
    return str(Decimal(field.rstrip(" %")) / 100) if _PERCENT.fullmatch(field) else field


def _of_rows(path: Path, kind: str, rows: list[dict[str, str]]) -> Log:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, "") for row in rows] for name in names}
    return Log(path, kind, columns, list(range(1, len(rows) + 1)))


def _with_hparams(log: Log) -> Log:
    """The log and the settings that Lightning noted beside it, as columns."""
    folder = log.path if log.path.is_dir() else log.path.parent
    beside, rows = folder / "hparams.yaml", len(log.lines)
    settings = dict(_SETTING.findall(_read(beside).decode(errors="replace"))) if beside.is_file() else {}
    columns = {**log.columns, **{name: [value] * rows for name, value in settings.items()}}
    notes = (f"{' and '.join(settings)} {'are' if len(settings) > 1 else 'is'} from hparams.yaml",) if settings else ()
    return replace(log, columns=columns, notes=log.notes + notes)


def _text(value) -> str:
    return "" if str(value).lower() in MISSING else str(value)
