"""The network of an experiment: built from its name, checked against the data set, left unchanged by measurements."""

import contextlib
import copy
from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchscale.errors import UserError, failure
from batchscale.experiment import Experiment
from batchscale.training import randomness
from batchscale.training.by_name import find_callable, parameters_named
from batchscale.training.datasets import Dataset
from batchscale.training.memory import is_out_of_memory


def build_model(experiment: Experiment, data: Dataset) -> nn.Module:
    """The experiment's network on the CPU. Its initial weights depend on the seed alone.

    The callable receives those of `width`, `in_channels` and `num_classes` that its signature names. A callable with
    `**keywords`, such as torchvision's models, receives `num_classes`.

    Raises:
        UserError: the callable cannot be imported or fails, or a width is requested from a callable without that
            parameter.
    """
    factory = find_callable(experiment.model, "model")
    arguments = {"width": experiment.width, "in_channels": data.channels, "num_classes": len(data.classes)}
    parameters = parameters_named(factory, experiment.model, "model", with_keywords="num_classes")
    if "width" not in parameters and experiment.width != 1:
        raise UserError(f"width is {experiment.width} but {experiment.model} takes no width; omit the width")
    try:
        with _reproducible(experiment):
            model = factory(**{name: value for name, value in arguments.items() if name in parameters})
            if not isinstance(model, nn.Module):
                raise TypeError(f"it returned a {type(model).__name__}, which is no torch.nn.Module")
            if any(map(is_lazy, (*model.parameters(), *model.buffers()))):  # they get their shapes in a first pass
                model.eval()
                with torch.no_grad():
                    model(data.normalised(data.test_images[:2]))
    except Exception as error:  # a user's network may raise anything
        raise UserError(f"model {experiment.model} failed for width {experiment.width}: {failure(error)}") from error
    return model


def prepare(model: nn.Module, experiment: Experiment, data: Dataset) -> tuple[torch.memory_format, str | None]:
    """Check a network on two images, and lay out its weights.

    Convolutions are fastest with channels last in memory. A network that fails on such images, as one does that calls
    `view` on a feature map or has three-dimensional convolutions, takes contiguous ones.

    Returns:
        The memory format in which the network takes images; and the type of its output in training, if that is no
        tensor and holds the logits, see `logits_of`.

    Raises:
        UserError: the network fails, has nothing to train, or the logits for b images do not have shape
            `(b, number of classes)`.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"model {experiment.model} has no parameters to train; layers in a plain list or dict are not registered: "
            f"use nn.ModuleList or nn.ModuleDict, and leave requires_grad of some parameters True"
        )
    images = data.normalised(data.test_images[:2])
    problem = None
    for layout in (torch.channels_last, torch.contiguous_format):
        try:
            model.to(memory_format=layout)
            inputs = images.contiguous(memory_format=layout)
            shape, output = _try(model, inputs, experiment, len(data.classes))
            break
        except UserError:
            raise
        except Exception as error:  # a user's network may raise anything
            if is_out_of_memory(error):
                raise
            problem = error
    else:
        size = tuple(images.shape[1:])
        raise UserError(f"model {experiment.model} failed for images of shape {size}: {failure(problem)}") from problem
    wanted = len(images), len(data.classes)
    if shape != wanted:
        raise UserError(
            f"model {experiment.model} returns logits of shape {shape} for {wanted[0]} images of {data.name}; "
            f"they must have shape {wanted}"
        )
    return layout, output


def logits_of(output, classes: int, model: str) -> Tensor:
    """The logits in what a network returned: itself, its `logits` (an attribute or an entry), or the only tensor of
    shape `(b, classes)` in a tuple.

    torchvision's GoogLeNet and Inception return a named tuple in training, Hugging Face's classifiers a dataclass.

    Raises:
        UserError: it is not certain which part of the output they are, naming the `model`.
    """
    if isinstance(output, Tensor):
        return output
    tensors = [part for part in output if isinstance(part, Tensor)] if isinstance(output, tuple | list) else []
    logits = getattr(output, "logits", output.get("logits") if isinstance(output, Mapping) else None)
    if logits is None:
        fitting = [each for each in tensors if each.ndim == 2 and each.shape[1] == classes]
        logits = fitting[0] if len(fitting) == 1 else None
    if not isinstance(logits, Tensor):
        shapes = " and ".join(str(tuple(each.shape)) for each in tensors)
        holds = f" with tensors of shape {shapes}" if shapes else ""
        raise UserError(
            f"model {model} returns an object of type {type(output).__name__}{holds}, in which the logits of {classes} "
            f"classes are not certain; wrap it in a module that returns the logits alone"
        )
    return logits


def unregistered(model: nn.Module) -> list[str]:
    """Names of plain lists and dicts that hold layers to train which no module has registered."""
    known, found = set(map(id, model.parameters())), []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            layers = [item for item in items if isinstance(item, nn.Module)]
            if any(each.requires_grad and id(each) not in known for layer in layers for each in layer.parameters()):
                found.append(f"{path}.{name}" if path else name)
    return found


def _try(model: nn.Module, images: Tensor, experiment: Experiment, classes: int) -> tuple[tuple[int, ...], str | None]:
    """Shape of the logits in eval mode, and type of the output in train mode if it is no tensor.

    Fails also if the images' layout does not suit the network in train mode, or its output there has no logits.
    """
    with unchanged(model), _reproducible(experiment), torch.no_grad():
        model.eval()
        shape = tuple(logits_of(model(images), classes, experiment.model).shape)
        model.train()
        try:
            output = model(images)
        except Exception as error:
            if "stride" in str(error):  # anything else concerns training, which reports where it happened
                raise
            return shape, None
        logits_of(output, classes, experiment.model)
    return shape, None if isinstance(output, Tensor) else type(output).__name__


@contextlib.contextmanager
def _reproducible(experiment: Experiment) -> Iterator[None]:
    """Inside, all generators are seeded for the initial weights; on exit they are restored."""
    with torch.random.fork_rng(), randomness.preserved(torch.device("cpu")):
        randomness.seed_generators(randomness.epoch_seed(experiment.seed, 0))
        yield


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """On exit, everything but the parameters' values is as it was before, whatever the passes inside did.

    Restored are the attributes of every module, among them its mode and its buffers: those that were replaced, added or
    removed, the contents of tensors, and the items of lists, dicts and sets. Not restored are the attributes of other
    objects that a module refers to.
    """
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    values = [value for _, before in attributes for value in before.values()]
    containers = [(value, copy.copy(value)) for value in values if isinstance(value, (dict, list, set, deque))]
    items = [item for _, kept in containers for item in (kept.values() if isinstance(kept, dict) else kept)]
    tensors = {
        id(tensor): (tensor, tensor.clone())
        for tensor in (*model.buffers(), *values, *items)
        if isinstance(tensor, Tensor)
        and not (tensor.requires_grad or tensor.is_inference() or isinstance(tensor, nn.Parameter))
    }
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for container, before in containers:
            container.clear()
            container.extend(before) if isinstance(container, (list, deque)) else container.update(before)
        with torch.no_grad():
            for tensor, before in tensors.values():
                tensor.copy_(before)
