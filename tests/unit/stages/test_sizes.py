"""Multiply-adds of a network, with zeros and without, counted by hand."""

import pytest
import torch
from torch import nn

from sparsify_cli.stages.sizes import mac_findings, speed_findings
from sparsify_cli.values.samples import Samples

INPUTS = torch.zeros(4, 1, 6, 6)


def network() -> nn.Module:
    """A convolution with 16 output positions and a linear layer; two weights of the first are zero, five of the second."""
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    for part, zeros in ((made[0], 2), (made[2], 5)):
        nn.init.ones_(part.weight)
        part.weight.data.view(-1)[:zeros] = 0
    return made


def test_each_weight_counts_as_often_as_it_is_used() -> None:
    """Zeros are counted in one number and not in the other; biases in none."""
    found = {one.name: one.value for one in mac_findings(network(), INPUTS)}
    assert found == {"macs": 16 * 18 + 96, "macs_nonzero": 16 * (18 - 2) + 96 - 5}


def test_a_network_without_known_layers_says_nothing() -> None:
    """Zero multiply-adds would be a wrong number."""
    compiled = torch.jit.trace(network().eval(), INPUTS)
    assert mac_findings(nn.Flatten(), INPUTS) == []
    assert mac_findings(compiled, INPUTS) == []


@pytest.mark.parametrize("beside", [True, False])
def test_both_networks_are_counted(beside: bool) -> None:
    """Beside a dense network its numbers are there too."""
    samples = Samples(INPUTS, torch.zeros(4, dtype=torch.long), ("a", "b", "c", "d"))
    found = speed_findings(network(), samples, dense=nn.Sequential(nn.Flatten(), nn.Linear(36, 2)) if beside else None)
    counted = {one.of: one.value for one in found if one.name == "macs_nonzero"}
    assert counted == {"compressed": 347} | ({"dense": 72} if beside else {})
