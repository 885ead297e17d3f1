"""Network: prunable parameters by the tensors' names, batches in order, and the mean loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify_cli.values.network import Network


def network(batch=64):
    """Two linear layers in half precision of five samples; one weight is prunable, under another name."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).to(torch.float64).eval()
    return Network(module, {"outer.weight": "1.weight"}, torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]), batch=batch)


def test_parameters_go_by_the_tensors_names():
    """The parameter itself, a copy of its values, and other values put into it; other parameters stay."""
    one = network()
    assert one.parameters() == {"outer.weight": one.module[1].weight}
    weights, other = one.weights(), one.module[0].weight.clone()
    one.put({"outer.weight": torch.zeros(2, 2)})
    assert not bool(one.module[1].weight.any()) and bool(weights["outer.weight"].all())
    one.put(weights)
    assert torch.equal(one.module[1].weight, weights["outer.weight"]) and torch.equal(one.module[0].weight, other)
    assert not weights["outer.weight"].requires_grad and one.module[1].weight.requires_grad


@pytest.mark.parametrize(("batch", "size", "lengths"), [(64, 0, [5]), (2, 0, [2, 2, 1]), (64, 4, [4, 1]), (2, 5, [5])])
def test_batches_are_all_samples_in_order(batch, size, lengths):
    """As the module takes them, with their labels."""
    one = network(batch)
    parts = list(one.batches(size))
    assert [len(inputs) for inputs, _ in parts] == [len(targets) for _, targets in parts] == lengths
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), one.inputs.double())
    assert torch.equal(torch.cat([targets for _, targets in parts]), one.targets)


def test_the_loss_is_a_mean_and_has_a_gradient():
    """Zero weights and biases predict two classes alike: ln 2 nats; each bias has half of a share as gradient."""
    one = network()
    for parameter in one.module.parameters():
        parameter.data.zero_()
    loss = one.loss(*next(one.batches()))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert one.module[1].bias.grad.tolist() == pytest.approx([0.5 - 2 / 5, 0.5 - 3 / 5])
