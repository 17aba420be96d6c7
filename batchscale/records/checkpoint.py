"""Checkpoints: all that a run needs to continue, in one file of numbers and tensors."""

import io
import os
import pickle
import zipfile
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment

FORMAT = 2  # of sidecars and checkpoints


def read_checkpoint(path: str | os.PathLike) -> tuple[Experiment | None, dict]:
    """The experiment and training state of a checkpoint, or None and the weights of a plain state dict.

    A plain state dict is a file of tensors by name, as written by `torch.save(model.state_dict(), path)`.

    Raises:
        UserError: the file is missing, damaged, or neither of the two.
    """
    path = Path(path).expanduser()
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
    """Content of a file written by `torch.save`; raises unless it is intact and holds only numbers and tensors."""
    import torch

    content = path.read_bytes()
    # torch.load does not verify the checksums of its own files (pytorch/pytorch issue 126952).
    damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's message explains how to run it anyway
        raise ValueError("it holds something other than numbers and tensors") from None
    if saved.get("format", FORMAT) != FORMAT:  # a plain state dict has none
        raise ValueError(f"it has format {saved['format']}, this batchscale reads {FORMAT}")
    return saved
