"""The study's network: layers, shapes and sizes."""

import pytest
import torch
from torch import nn

from models import CNN


def test_parameters_at_width_1():
    assert sum(parameter.numel() for parameter in CNN().parameters()) == 5_852_170


def test_layers():
    kinds = [type(layer).__name__ for layer in CNN().modules() if not list(layer.children())]
    block = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    head = ["Flatten", "Dropout", "Linear", "ReLU", "Linear", "ReLU", "Dropout", "Linear"]
    assert kinds == [*block, *block, "Dropout2d", *block, *head]
    rates = [layer.p for layer in CNN().modules() if isinstance(layer, (nn.Dropout, nn.Dropout2d))]
    assert rates == [0.05, 0.1, 0.1]
    channels = [(c.in_channels, c.out_channels) for c in CNN().modules() if isinstance(c, nn.Conv2d)]
    assert channels == [(3, 32), (32, 64), (64, 128), (128, 128), (128, 256), (256, 256)]


@pytest.mark.parametrize(("width", "in_channels", "num_classes"), [(1, 3, 10), (0.25, 1, 7), (2, 4, 100), (0.02, 3, 2)])
def test_shapes(width, in_channels, num_classes):
    logits = CNN(width=width, in_channels=in_channels, num_classes=num_classes)(torch.rand(2, in_channels, 32, 32))
    assert logits.shape == (2, num_classes)


def test_width_multiplies_every_layer():
    narrow, full = (
        [layer for layer in CNN(width).modules() if isinstance(layer, (nn.Conv2d, nn.Linear))] for width in (0.25, 1)
    )
    for small, large in list(zip(narrow, full, strict=True))[:-1]:
        assert small.weight.shape[0] * 4 == large.weight.shape[0]


def test_width_that_leaves_no_channel():
    with pytest.raises(ValueError, match="without a channel"):
        CNN(width=0.01)
