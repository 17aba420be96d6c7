"""Checkpoints: everything that a run goes on from, in one file of numbers and tensors."""

import io
import os
import pickle
import zipfile
from pathlib import Path

from batchscale.errors import UserError, first_line
from batchscale.experiment import Experiment
from batchscale.records.format import FORMAT


def read_checkpoint(path: str | os.PathLike) -> tuple[Experiment | None, dict]:
    """The experiment and the training's state that a checkpoint was saved with; or weights that others saved.

    A file of tensors by name, as `torch.save(model.state_dict(), path)` writes it, has no experiment; its content is
    returned as it is.

    Raises:
        UserError: it is neither, or damaged.
    """
    path = Path(path).expanduser()
    try:
        saved = load(path)
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


def load(path: Path) -> dict:
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
