"""Standard output and standard error: closed, missing, without a reader, or unable to show every character.

print(line, file=streams.ERR, flush=True)    # what is shown is not what is trained: this never fails
with streams.answering():                    # an answer that was asked for: it arrives, or the command ends
    print(text)
"""

import codecs
import contextlib
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator

from batchscale.errors import UserError

READER_GONE = 128 + 13  # exit code of a program that ends by SIGPIPE, as in `analyse data | head -1`

_PLAIN = "batchscale.plain"  # name of the error handler
_SIGNS = {"–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": "*", "±": "+/-", "≤": "<=", "≥": ">=", "≈": "~"}
_SIGNS |= {"≠": "!=", "√": "sqrt", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u", "─": "-", "│": "|"}
_SIGNS |= dict.fromkeys("╭╮╰╯", "+")
_PASSING = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT)  # the next line may succeed


class Stream:
    """Standard output or standard error as it is at each use, for text that may be lost. Nothing here raises."""

    def __init__(self, name: str):
        self._name = name

    def write(self, text: str) -> None:
        self._call("write", text)

    def flush(self) -> None:
        self._call("flush")

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def __getattr__(self, name: str):
        return getattr(getattr(sys, self._name), name)  # tqdm asks for the encoding and the descriptor

    def __eq__(self, other) -> bool:
        return other is getattr(sys, self._name)  # so that tqdm knows its bars and its lines share a terminal

    __hash__ = None

    def _call(self, method: str, *texts: str):
        stream = getattr(sys, self._name)
        try:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            return getattr(stream, method)(*(text.encode(encoding, _PLAIN).decode(encoding) for text in texts))
        except OSError as error:
            if error.errno not in _PASSING:
                _discard(stream)
        except Exception:  # it is None, closed, or a replacement of some kind
            return None


OUT, ERR = Stream("stdout"), Stream("stderr")


def prepare() -> None:
    """Make the standard streams of this process safe to use: nothing else takes the place of a missing one, and a
    character that a stream cannot encode is replaced by a plain one (η by eta, – by -, anything unknown by ?)."""
    occupy()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (open until the end)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors=_PLAIN)


def occupy() -> None:
    """Open the null device in place of closed standard streams. Otherwise the next file that is opened, such as a
    record, would get the number of standard error, and with it what libraries print there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(number, True)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """What is printed inside arrives, or the command ends; `finish` discards the rest.

    Raises:
        SystemExit: the reader has gone, as `head` does; the code is `READER_GONE`.
        UserError: standard output cannot be written.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(READER_GONE) from None
    except OSError as error:
        raise UserError(f"standard output cannot be written ({error.strerror}); send it to another place") from error


def finish() -> None:
    """Write what is left. What cannot be written is discarded, so that Python does not try again when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by somebody, for example
            _discard(stream)


def can_show(text: str) -> bool:
    """Whether standard output can encode this text without replacing a character."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _discard(stream) -> None:
    """Send what a stream still holds, and whatever follows, to the null device."""
    with contextlib.suppress(Exception):  # a replacement of the stream may have no descriptor
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    """A readable replacement in ASCII."""
    if character in _SIGNS:
        return _SIGNS[character]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not valid UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    kind, _, letter = unicodedata.name(character, "").partition(" LETTER ")
    if kind in ("GREEK SMALL", "GREEK CAPITAL"):
        return letter.lower() if kind.endswith("SMALL") else letter.capitalize()
    simple = unicodedata.normalize("NFKD", character)  # 𝒮 to S, ² to 2
    return simple if simple.isascii() else "?"


codecs.register_error(_PLAIN, _replace)
