"""The device: which one, at which precision it computes, and when it has finished."""

import contextlib

import torch

from batchscale.errors import UserError, first_line
from batchscale.experiment import Precision


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` selects CUDA if there is a GPU, then Apple's MPS, then the CPU.

    Raises:
        UserError: this machine or this build of PyTorch lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on the meta device too, whose tensors have no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device is {name!r}, which cannot be used here ({first_line(error)}); try --device auto or cpu"
        ) from error
    return device


def configure(device: torch.device, precision: Precision) -> None:
    """Make a GPU's arithmetic repeatable, and fast in float32. Other devices need no configuration.

    Raises:
        UserError: the GPU only emulates `precision`.
    """
    if device.type != "cuda":
        return
    if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError(
            f"precision is bf16, which {torch.cuda.get_device_name(device)} only emulates; use --precision fp16"
        )
    # cuDNN would otherwise choose algorithms whose rounding varies, and a resumed run must repeat every number.
    torch.backends.cudnn.deterministic = True
    # cuDNN's default for convolutions: multiply float32 matrices in TF32, on GPUs that support it.
    torch.backends.cuda.matmul.allow_tf32 = True


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """Context in which the forward pass computes at `precision`; fp32 needs no autocast."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def synchronize(device: torch.device) -> None:
    """Wait until the device has completed everything it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
