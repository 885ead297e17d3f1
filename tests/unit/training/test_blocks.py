"""Where a network is split among processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.training.blocks import blocks, split


class Network(nn.Module):
    """Two lists of layers, one of them within the other kind, and layers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, 3), nn.Linear(3, 2)
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), nn.ModuleList([nn.Linear(3, 3)])])


def test_blocks_are_members_of_lists() -> None:
    """A member that is called is a block whatever it holds, one that only lists others is none; layers beside lists belong to the rest."""
    network = Network()
    assert blocks(network) == [network.stages[0], network.stages[1][0]]
    assert blocks(network.stages[0]) == [network.stages[0][0], network.stages[0][2]]
    assert blocks(nn.Linear(2, 2)) == []


def test_tied_weights_stay_with_the_rest() -> None:
    """A block whose weight something outside of it holds, too, is none; one that ties its own is."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    network[1].weight = network[0].weight
    network[2][1].weight = network[2][0].weight
    assert blocks(network) == [network[2]]
    held = nn.ModuleList([nn.TransformerEncoderLayer(4, 2, 4)])
    assert blocks(held) == [held[0]]


def test_a_single_number_is_refused() -> None:
    """With what to do instead."""
    network = nn.Sequential(nn.Linear(2, 2))
    network.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(BadRequest, match=r"'scale' is a single number.*--parallel ddp"):
        split(network, None)  # type: ignore[arg-type]
