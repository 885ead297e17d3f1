"""Claim: a pattern and a sparsity hold together, under every criterion and every allocation.

Source: rule 3 of the house: `--sparsity 0.9 --pattern 2:4` means that every group of 4 keeps at most 2, and that 90 % of the
prunable weights are zero overall.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.maths.choose_masks import choose_masks, implied_sparsity
from sparsify_cli.recipes.allocation import ALLOCATION_NAMES
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Inputs, Stats

TWO_FOUR = Pattern.parse("2:4")
PATTERNED = [name for name in Shelf("criteria").names() if not Shelf("criteria").load(name).joint]  # the others refuse patterns


def random_net(seed):
    """Three or four convolutions (the first on three channels) and two linear layers, of random widths; convolutions divide by 4."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    shapes, channels = {}, 3
    for i in range(draw(3, 5)):
        outputs = 4 * draw(8, 14)
        shapes[f"conv{i}"], channels = (outputs, channels, 3, draw(2, 4)), outputs
    hidden = draw(9, 30)
    shapes |= {"fc0": (hidden, 4 * channels), "fc1": (10, hidden)}
    return {name: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}


class Runs(nn.Module):
    """A network of such weights: convolutions, pooling to 2 x 2, linear layers."""

    def __init__(self, net):
        super().__init__()
        self.weights = nn.ParameterDict({name: weight.clone() for name, weight in net.items()})

    def forward(self, x):
        for weight in self.weights.values():
            if weight.ndim == 4:
                x = functional.conv2d(x, weight, padding=1).relu()
            else:
                x = functional.adaptive_avg_pool2d(x, 2).flatten(1) if x.ndim == 4 else x.relu()
                x = functional.linear(x, weight)
        return x


def inputs_seen(net):
    """Statistics of random inputs to each layer, and the network, for the criteria that need them."""
    grams, activity = {}, {}
    for name, weight in net.items():
        rows = torch.randn(30, weight[0].numel(), dtype=torch.float64).relu()
        grams[name] = rows.T @ rows / 30
        activity[name] = Inputs(rows.mean(0), rows.var(0, correction=0), (rows != 0).double().mean(0))
    network = Network(Runs(net).eval(), {name: f"weights.{name}" for name in net}, torch.randn(40, 3, 8, 8), torch.arange(40) % 10)
    moved = {name: torch.randn_like(weight) for name, weight in net.items()}
    return Stats(rows=dict.fromkeys(net, 30), gram=grams, inputs=activity, network=network, movement=moved)


@functools.cache
def scored(seed, criterion):
    """A network and its scores."""
    net = random_net(seed)
    return net, Shelf("criteria").load(criterion)().scores(net, inputs_seen(net))


def groups(mask):
    """Every four consecutive input channels at each kernel position, or None where channels do not divide by 4."""
    if mask.shape[1] % 4:
        return None
    columns = mask if mask.ndim == 2 else mask.permute(0, 2, 3, 1)
    return columns.reshape(-1, 4)


@pytest.mark.parametrize("allocation", ALLOCATION_NAMES)
@pytest.mark.parametrize("criterion", PATTERNED)
@pytest.mark.parametrize("seed", range(3))
def test_two_of_four_and_ninety_percent_hold_together(seed, criterion, allocation):
    """No group of four keeps more than two; zeros are exactly round(.9 n); layers of odd width stay dense."""
    net, scores = scored(seed, criterion)
    masks = choose_masks(scores, pattern=TWO_FOUR, sparsity=Fraction(9, 10), allocation=allocation)
    zeros = sum(int((tensor == 0).sum()) for tensor in masks.apply(net).values())
    assert zeros == round(sum(tensor.numel() for tensor in net.values()) * 9 / 10)
    for name in net:
        of_four = groups(masks[name])
        assert bool(masks[name].all()) if of_four is None else int(of_four.sum(1).max()) <= 2


@pytest.mark.parametrize("allocation", ALLOCATION_NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_pattern_alone_keeps_exactly_two(seed, allocation):
    """At the sparsity that 2:4 implies, every group keeps exactly two, whatever the allocation."""
    net = random_net(seed)
    sparsity = implied_sparsity({name: tuple(tensor.shape) for name, tensor in net.items()}, TWO_FOUR)
    masks = choose_masks({name: tensor.abs() for name, tensor in net.items()}, pattern=TWO_FOUR, sparsity=sparsity, allocation=allocation)
    for name in net:
        of_four = groups(masks[name])
        assert of_four is None or of_four.sum(1).unique().tolist() == [2]
