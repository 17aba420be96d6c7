"""The optimizer of an experiment: torch's own, fused where it can be, or any other by its name.

Weight decay acts on all parameters with `sgd` and `nesterov`, as in the papers that trained with them and as in torch.
With `adamw` and other optimizer classes it acts on weights only, and not on parameters of one dimension: biases and the
scales of norms. So do nanoGPT and timm, and the authors of LARS and LAMB (You et al. 2017, 2020).
"""

import inspect
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import nn
from torch.optim import Optimizer

from batchscale.errors import UserError, failure
from batchscale.experiment import Experiment
from batchscale.training.by_name import find_callable, parameters_named

ADAM_BETA2 = 0.999  # of torch, and of Kingma & Ba 2015

_NAMED: dict[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "nesterov": lambda parameters, **keywords: torch.optim.SGD(parameters, nesterov=True, **keywords),
    "adamw": lambda parameters, momentum, **keywords: torch.optim.AdamW(
        parameters, betas=(momentum, ADAM_BETA2), **keywords
    ),
}
_DEFAULTS = {field.name: field.default for field in fields(Experiment)}


def build_optimizer(model: nn.Module, experiment: Experiment) -> Optimizer:
    """The experiment's optimizer over all parameters of a network.

    A callable of the user's receives the parameters, and those of `lr`, `momentum` and `weight_decay` that its
    signature names; with `**keywords` it receives `lr` as well. A class gets two parameter groups where there is a
    weight decay, see above. A function gets the plain parameters, and may group them itself. Every update sets the rate
    of all groups. Groups with different rates keep their ratios: one with the rate that was given follows the schedule.

    Raises:
        UserError: the callable cannot be imported or fails, returns no optimizer or one whose step needs a closure, or
            has no parameter for a momentum or weight decay that differs from the default.
    """
    if experiment.optimizer not in _NAMED:
        return _own(model, experiment)
    parameters = list(model.parameters())
    is_dense = not any(getattr(module, "sparse", False) for module in model.modules())  # embeddings have this attribute
    optimizer = _NAMED[experiment.optimizer](
        parameters if _is_sgd(experiment) else _groups(parameters, experiment.weight_decay),
        lr=experiment.base_lr,
        momentum=experiment.momentum,
        weight_decay=experiment.weight_decay,
        # One pass over memory instead of three.
        fused=is_dense and all(each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters),
    )
    begin_momentum(optimizer, experiment)
    return optimizer


def begin_momentum(optimizer: Optimizer, experiment: Experiment) -> None:
    """Give every parameter of torch's SGD without a momentum one of zero, which has the same effect as none.

    The fused step allocates missing momenta without a value and relies on its first update to fill them, which fp16
    skips if a gradient overflows. It fails if some parameters have one and others, which had no gradient yet, do not.
    """
    if not (_is_sgd(experiment) and experiment.momentum):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def left_out(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters that require a gradient and that the optimizer does not have."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in known]


def _is_sgd(experiment: Experiment) -> bool:
    return experiment.optimizer in ("sgd", "nesterov")


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list:
    """The parameters in two groups, with the weight decay and without; as they are where there is none."""
    if weight_decay == 0:
        return parameters
    weights = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = {"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


def _own(model: nn.Module, experiment: Experiment) -> Optimizer:
    name = experiment.optimizer
    factory = find_callable(name, "optimizer")
    named = parameters_named(factory, name, "optimizer", with_keywords="lr")
    for field in ("momentum", "weight_decay"):
        value = getattr(experiment, field)
        if field not in named and value != _DEFAULTS[field]:
            raise UserError(f"{field} is {value:g} but {name} takes no {field}; omit the {field.replace('_', ' ')}")
    offered = {"lr": experiment.base_lr, "momentum": experiment.momentum, "weight_decay": experiment.weight_decay}
    arguments = {parameter: value for parameter, value in offered.items() if parameter in named}
    parameters = list(model.parameters())
    if isinstance(factory, type) and issubclass(factory, Optimizer) and "weight_decay" in named:
        parameters = _groups(parameters, experiment.weight_decay)
    try:
        optimizer = factory(parameters, **arguments)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"it returned a {type(optimizer).__name__}, which is no torch.optim.Optimizer")
        if not all("lr" in group for group in optimizer.param_groups):
            raise TypeError("it has a parameter group without lr, which the schedule sets")
        if "lr" not in arguments:  # the schedule's rate takes the place of the optimizer's own
            for group in optimizer.param_groups:
                group["lr"] *= experiment.base_lr / optimizer.defaults["lr"]
    except Exception as error:  # a user's optimizer may raise anything
        raise UserError(f"optimizer {name} failed for this network: {failure(error)}") from error
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer is {name}, whose step needs a closure to compute several gradients per update; use one whose "
            f"step takes the gradient that is there"
        )
    return optimizer
