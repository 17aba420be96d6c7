"""The network of an experiment, built from its name and checked against the data set."""

import inspect

import torch
from torch import nn

from batchscale.errors import UserError, failure
from batchscale.experiment import Experiment
from batchscale.training import randomness
from batchscale.training.by_name import find_callable
from batchscale.training.datasets import Dataset


def build_model(experiment: Experiment, data: Dataset) -> nn.Module:
    """The experiment's network on the CPU. Its initial weights depend on the seed alone.

    The callable receives those of `width`, `in_channels` and `num_classes` that its signature names. A callable with
    `**keywords`, such as torchvision's models, receives `num_classes`.

    Raises:
        UserError: the callable cannot be imported or fails, a width is requested from a callable without that
            parameter, or the logits for b images do not have shape `(b, number of classes)`.
    """
    factory = find_callable(experiment.model, "model")
    arguments = {"width": experiment.width, "in_channels": data.channels, "num_classes": len(data.classes)}
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"model is {experiment.model!r}, which has no signature: {error}") from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters = {"num_classes": None, **parameters}
    if "width" not in parameters and experiment.width != 1:
        raise UserError(f"width is {experiment.width} but {experiment.model} takes no width; omit the width")
    wanted = min(2, len(data.test_images)), len(data.classes)
    try:
        with torch.random.fork_rng(), randomness.preserved(torch.device("cpu")):
            randomness.seed_generators(randomness.epoch_seed(experiment.seed, 0))
            model = factory(**{name: value for name, value in arguments.items() if name in parameters})
            with torch.no_grad():
                logits = model.eval()(data.normalised(data.test_images[:2]))
            shape = tuple(logits.shape)
    except Exception as error:  # a user's network may raise anything
        raise UserError(f"model {experiment.model} failed for width {experiment.width}: {failure(error)}") from error
    if shape != wanted:
        raise UserError(
            f"model {experiment.model} returns logits of shape {shape} for {wanted[0]} images of {data.name}; "
            f"they must have shape {wanted}"
        )
    return model
