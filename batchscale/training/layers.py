"""A network as a table: what it is made of, the shape of what each part returns, and its parameters.

layers(Experiment(batch_size=8), datasets.load("digits"))["parameters"].sum()
"""

import contextlib
import itertools

import pandas as pd
import torch
from torch import Tensor, nn

from batchscale.experiment import Experiment
from batchscale.training.datasets import Dataset
from batchscale.training.network import build_model, prepare, unchanged


def layers(experiment: Experiment, data: Dataset) -> pd.DataFrame:
    """The modules of a network without parts of their own, in the order in which an image passes them.

    One row per weight of two or more dimensions, as of a convolution or a linear layer, joined by what follows it
    without one, such as batch norm, activation, pooling and dropout.

    Returns:
        `layers`, names of the classes; `output`, the shape for one image, channels first; and `parameters`. Parameters
        of modules that were not called, or that belong to a module with parts, are in a last row.

    Raises:
        UserError: the network cannot be built, or fails on two images.
    """
    model = build_model(experiment, data)
    layout, _ = prepare(model, experiment, data)
    images = data.normalised(data.test_images[:2]).contiguous(memory_format=layout)
    passed: list[tuple[nn.Module, str]] = []
    with contextlib.ExitStack() as stack, unchanged(model), torch.no_grad():
        for module in model.modules():
            if not any(module.children()):
                stack.callback(module.register_forward_hook(_note(passed)).remove)
        model.eval()
        model(images)
    rows: list[dict] = []
    counted: set[int] = set()
    for module, shape in passed:
        new = {id(each): each for each in module.parameters() if id(each) not in counted}
        counted |= set(new)
        if not rows or any(each.ndim > 1 for each in new.values()):
            rows.append({"layers": [], "output": "", "parameters": 0})
        rows[-1]["layers"].append(type(module).__name__)
        rows[-1]["output"] = shape
        rows[-1]["parameters"] += sum(each.numel() for each in new.values())
    others = sum(each.numel() for each in model.parameters() if id(each) not in counted)
    for row in rows:
        row["layers"] = ", ".join(name for name, _ in itertools.groupby(row["layers"]))
    if others:
        rows.append({"layers": "other parameters", "output": "", "parameters": others})
    return pd.DataFrame(rows, columns=["layers", "output", "parameters"])


def _note(passed: list[tuple[nn.Module, str]]):
    def hook(module: nn.Module, inputs, output) -> None:
        shape = " × ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else ""
        passed.append((module, shape))

    return hook
