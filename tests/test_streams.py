"""Standard output and standard error as shells, daemons and terminals leave them."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FIRST_EDITION, PROJECT

from batchscale import cli, streams
from batchscale.experiment import Experiment
from batchscale.records.tables import load
from batchscale.sweeps.display import Display
from batchscale.training.loop import Progress

SWEEP = ["sweep", "--names", "baseline_small", "--dataset", "digits", "--width", "0.1", "--train-size", "256"]
SWEEP += ["--epochs", "1", "--small", "64", "128", "--seeds", "0", "--data-dir"]
RUN = Experiment(batch_size=64)
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as from a shell
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")


@contextlib.contextmanager
def pipe_without_reader():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def run(*arguments, **streams_of) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "batchscale", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=BUFFERED, check=False, stderr=subprocess.PIPE, **streams_of)


@pytest.mark.parametrize("arguments", [["noise-scale", "--help"], ["sweep", "--help"], ["analyse", "data"]])
def test_an_answer_without_a_reader(arguments):
    """`| head`, with a help that fits a buffer and one that does not."""
    with pipe_without_reader() as pipe:
        ended = run(*arguments, stdout=pipe)
    assert (ended.returncode, ended.stderr) == (128 + 13, b"")


@needs_full
@pytest.mark.parametrize("arguments", [["noise-scale", "--help"], ["sweep", "--help"], ["analyse", "data"]])
def test_an_answer_that_cannot_be_written(arguments):
    with Path("/dev/full").open("w") as full:
        ended = run(*arguments, stdout=full)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: standard output cannot be written (No space left on device); ")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("redirection", "workers"), [("2>&1 | true", "1"), (">&- 2>&- <&-", "2")])
def test_a_sweep_goes_on_whoever_reads(tmp_path, redirection, workers):
    command = f'set -o pipefail; "{sys.executable}" -m batchscale "$@" {redirection}'
    arguments = [*SWEEP, str(tmp_path), "--workers", workers]
    ended = subprocess.run(
        ["bash", "-c", command, "bash", *arguments], cwd=PROJECT, env=BUFFERED, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert b"Error" not in ended.stderr + ended.stdout
    assert sorted(load(tmp_path)["batch_size"]) == [64, 128]


SHOWS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from batchscale.experiment import Experiment
from batchscale.sweeps.display import Display

run = Experiment(batch_size=64)
progress = SimpleNamespace(epoch=1, images=3, total_images=9, loss=1, images_per_second=1)
with Display([run]) as display:
    display.show("progress", run, progress)
    Path(sys.argv[1]).touch()
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    for _ in range(3):
        progress.images += 1
        display.show("progress", run, progress)
    display.show("notice", None, "still here")
    display.show("finish", run, "complete")
Path(sys.argv[3]).touch()
"""


def test_a_terminal_that_closes(tmp_path):
    """Writing to it then fails with EIO, in the bar and in the lines."""
    begun, closed, ended = (tmp_path / name for name in ("begun", "closed", "ended"))
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", SHOWS, *map(str, (begun, closed, ended))]
    with subprocess.Popen(
        command, cwd=PROJECT, env=BUFFERED, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        while not begun.exists():
            assert process.poll() is None
        shown = b""
        while b"B=64" not in shown:
            shown += os.read(terminal, 10_000)
        os.close(terminal)
        closed.touch()
        assert process.wait(60) == 0
    assert ended.exists()


class OnlyWrites:
    """What some notebooks, editors and loggers put in the place of a stream."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Breaks(OnlyWrites):
    def write(self, text: str) -> None:
        raise RuntimeError("wrapped C/C++ object has been deleted")


def closed_file():
    file = io.StringIO()
    file.close()
    return file


def show_everything() -> None:
    with Display([RUN]) as display:
        display.show("progress", RUN, Progress(1, 64, 640, 2.3, 100.0))
        display.show("notice", None, "a notice")
        display.show("finish", RUN, "complete")


@pytest.mark.parametrize(
    "make", [lambda: None, OnlyWrites, Breaks, closed_file], ids=["None", "bare", "breaks", "file"]
)
def test_streams_that_are_replaced(monkeypatch, make):
    """One of them, while the other shows its lines, and both."""
    other = OnlyWrites()
    monkeypatch.setattr(sys, "stderr", make())
    monkeypatch.setattr(sys, "stdout", other)
    show_everything()
    assert other.text == "a notice\n[1/1] complete\n"
    monkeypatch.setattr(sys, "stdout", make())
    show_everything()


def test_bars_and_lines_share_a_terminal(monkeypatch):
    """tqdm clears its bars before a line, which it does only for streams that it takes for one terminal's."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    show_everything()
    bar, _, rest = terminal.getvalue().partition("a notice\n")
    assert "B=64" in bar
    assert bar.rpartition("\r")[0].endswith(" ")  # blanks over the bar
    assert rest.endswith("[1/1] complete\n")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    code = (
        "import os, sys; from batchscale import streams; streams.prepare()\n"
        "sys.exit(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT) <= 2 or None in (sys.stdout, sys.stderr))"
    )
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1–2 − 3 … ×", "1-2 - 3 ... x"),
        ("η ± 0.1 ≤ 1 ≥ 0 ≈ 𝒮 𝒢² Σ µs", "eta +/- 0.1 <= 1 >= 0 ~ S G2 Sigma us"),
        ("─│╭╯", "-|++"),
        ("数\N{PILE OF POO}", "??"),
        ("caf\udcc3\udca9", "caf\\xc3\\xa9"),
        ("100\u202f000", "100 000"),
    ],
)
def test_plain_replacements(text, plain):
    assert text.encode("ascii", streams._PLAIN) == plain.encode()


def terminal_of(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.fixture
def words(monkeypatch):
    """What a command prints on a terminal of an encoding, and on its standard error."""

    def print_with(encoding: str, *arguments: str) -> tuple[str, str]:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, terminal_of(encoding))
        cli.main(list(arguments))
        return said(sys.stdout), said(sys.stderr)

    return print_with


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "shift_jis"])
def test_a_terminal_that_cannot_show_a_character(words, encoding):
    whole = ["analyse", str(FIRST_EDITION), "--target", "0.5"]  # an interval there is open below
    text, _ = words("utf-8", *whole)
    assert {"±", "≤", "–", "−"} <= set(text)
    plain, errors = words(encoding, *whole)
    assert errors == ""
    assert "?" not in plain
    assert "<=" in plain or "≤" in plain
    assert "threshold 78.5 %" in plain


def test_json_stays_json(words):
    whole = ["analyse", str(FIRST_EDITION), "--json"]
    text, _ = words("utf-8", *whole)
    plain, _ = words("ascii", *whole)
    assert not text.isascii()
    assert json.loads(plain) == json.loads(text)


def test_help_in_ascii(words):
    assert "usage: python -m batchscale" in words("ascii", "sweep", "--help")[0]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_an_error_line_with_a_name_that_is_not_text(words, tmp_path, encoding):
    _, errors = words(encoding, "analyse", f"{tmp_path}/\udcff")
    assert errors == f"error: there is no folder {tmp_path}/\\xff; name the one that holds the CSVs\n"
