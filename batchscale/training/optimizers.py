"""The optimizer: torch's SGD with momentum, set up so that its fused step computes what its plain step does."""

import torch
from torch import nn

from batchscale.experiment import Experiment


def build_optimizer(model: nn.Module, experiment: Experiment) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay over all parameters, fused where torch can: one pass instead of three."""
    parameters = list(model.parameters())
    is_dense = not any(getattr(module, "sparse", False) for module in model.modules())  # embeddings have this attribute
    optimizer = torch.optim.SGD(
        parameters,
        lr=experiment.base_lr,
        momentum=experiment.momentum,
        weight_decay=experiment.weight_decay,
        fused=is_dense and all(each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters),
    )
    begin_momentum(optimizer)
    return optimizer


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter without a momentum one of zero, which has the same effect as none.

    The fused step allocates missing momenta without a value and relies on its first update to fill them, which fp16
    skips if a gradient overflows. It fails if some parameters have one and others, which had no gradient yet, do not.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
