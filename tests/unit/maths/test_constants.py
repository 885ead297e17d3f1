"""Constants of a network: what every layer reads that does not depend on the input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.maths.constants import constant_inputs


def known(module: nn.Module, *shape: int) -> dict[str, list[bool]]:
    """Name of a call -> which channels of its input are known everywhere."""
    read = constant_inputs(module.eval(), torch.randn(2, *shape))
    return {
        name: (~values.isnan()).flatten(2).all(2).all(0).tolist() if values.ndim > 2 else (~values.isnan()).all(0).tolist()
        for name, values in read.items()
    }


def test_zero_rows_and_rows_that_read_constants_alone_are_known():
    """Neuron 0 is zero: 2 -> relu -> 2. Neuron 1 of the next layer reads it alone, with weight 3 and bias 1: 3 x 2 + 1 = 7."""
    module = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].weight.data[0], module[0].bias.data[0] = 0, 2
    module[2].weight.data[1], module[2].bias.data[1] = torch.tensor([3.0, 0.0]), 1
    assert known(module, 4) == {"_0": [False] * 4, "_1": [True, False], "_2": [True, False], "_3": [False, True]}
    assert constant_inputs(module, torch.randn(2, 4))["_3"][:, 1].tolist() == [7, 7]


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(1)]
)
def test_what_is_unknown_stays_unknown(layer):
    """Clamps and maxima do not make a number out of what is not known."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), layer, nn.Conv2d(2, 1, 1))
    module[0].weight.data[1] = 0
    assert known(module, 1, 4, 4)["_2"] == [False, True]


def test_borders_of_padded_layers_are_seen():
    """A constant 1 summed by a 3x3 kernel of ones over zero padding: 4 in the corner, 6 at an edge, 9 inside."""
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 1))
    module[0].weight.data.zero_(), module[0].bias.data.fill_(1), module[1].weight.data.fill_(1)
    assert constant_inputs(module, torch.randn(1, 1, 3, 3))["_2"].flatten().tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]
