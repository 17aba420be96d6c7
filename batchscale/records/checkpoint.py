"""Checkpoints: all that a run needs to continue, in one file of numbers and tensors."""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.paths import typed
from batchscale.records.files import read_whole

FORMAT = 2  # of sidecars and checkpoints


class NotLoadable(UserError):
    """What a run would save could not be loaded again; the message names the part at fault."""


def read_checkpoint(path: str | os.PathLike) -> tuple[Experiment | None, dict]:
    """The experiment and training state of a checkpoint, or None and the weights of a plain state dict.

    A plain state dict is a file of tensors by name, as written by `torch.save(model.state_dict(), path)`.

    Raises:
        UserError: the file is missing, damaged, or neither of the two, or it cannot be read.
    """
    path = typed(path, "checkpoint")
    try:
        saved = load(path)
        if "format" not in saved and all(hasattr(value, "shape") for value in saved.values()):
            return None, saved
        return Experiment(**saved["experiment"]), saved["state"]
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; an unfinished run has a checkpoint {{name}}_bs{{B}}_seed{{s}}.ckpt, "
            f"and a run trained with --keep-state has a .final.ckpt"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a torn, foreign or malicious file may raise anything
        raise UserError(
            f"{path} is neither a checkpoint nor a file of weights ({first_line(error)}); give the checkpoint of a "
            f"run, or a file written by torch.save(model.state_dict(), path)"
        ) from error


def load(path: Path) -> dict:
    """Content of a file written by `torch.save`.

    Raises:
        UserError: the file cannot be read now, so that nobody knows whether it is intact.
        Exception: any other one, unless the file is intact and holds only numbers and tensors.
    """
    try:
        return loads(read_whole(path))
    except MemoryError as error:
        raise UserError(f"{path} does not fit in memory ({first_line(error)}); free some, then run again") from error


def loads(content: bytes | memoryview) -> dict:
    """The content of a checkpoint from its bytes, see `load`."""
    # torch.load does not verify the checksums of its own files (pytorch/pytorch issue 126952).
    file = io.BytesIO(content)
    damaged = zipfile.ZipFile(file).testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
    try:
        saved = _unpickled(file)
    except pickle.UnpicklingError:  # torch's message explains how to run it anyway
        raise ValueError("it holds something other than numbers and tensors") from None
    except RuntimeError as error:
        if "allocate" in str(error):  # torch has no type for it on the CPU
            raise MemoryError(first_line(error)) from error
        raise
    if saved.get("format", FORMAT) != FORMAT:  # a plain state dict has none
        raise ValueError(f"it has format {saved['format']}, this batchscale reads {FORMAT}")
    return saved


def dumps(content: dict) -> memoryview:
    """The bytes of a checkpoint with this content, which `loads` is known to read.

    Raises:
        NotLoadable: (a UserError) `loads` could not read them.
    """
    saved = _pickled(content)
    if saved is not None:
        return saved
    place, value = _unloadable(content)
    section, *names = [str(key) for key in place if key != "state"] or ["checkpoint"]
    where = f'{section} state "{".".join(names)}"' if names else section
    remedy = "return {} from get_extra_state" if section == "model" else "use {} there"
    raise NotLoadable(
        f"{where} holds a {type(value).__name__}, which no checkpoint gives back, so the run could not be continued; "
        + remedy.format("tensors, numbers, strings, lists or dicts")
    )


def _unloadable(content, place: tuple = ()) -> tuple[tuple, object]:
    """The innermost part of the content that cannot be loaded: its keys from the outside in, and its value."""
    if isinstance(content, Mapping):
        parts = content.items()
    else:
        parts = enumerate(content) if isinstance(content, list | tuple) else ()
    for key, part in parts:
        if _pickled(key) is None:
            return (*place, key), key
        if _pickled(part) is None:
            return _unloadable(part, (*place, key))
    return place, content


def _pickled(value) -> memoryview | None:
    """The value as `torch.save` writes it, or None if it cannot be saved, or not be loaded again."""
    import torch

    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except (MemoryError, RuntimeError):  # of the device, not of the value
        raise
    except Exception:  # a user's object may raise anything
        return None
    for device in ("meta", "cpu"):  # on the meta device without its numbers, in no time; some tensors cannot be there
        try:
            _unpickled(buffer, device)
        except MemoryError:
            raise
        except Exception:
            continue
        return buffer.getbuffer()
    return None


def _unpickled(file: io.BytesIO, device: str = "cpu"):
    import torch

    file.seek(0)
    return torch.load(file, map_location=device, weights_only=True)
