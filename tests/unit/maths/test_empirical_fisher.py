"""Per-sample gradients and blocks of the Fisher matrix of a network, against one backward pass a sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.empirical_fisher import (
    Order,
    absolute,
    block_bytes,
    chunk_numbers,
    drawn,
    fisher_blocks,
    gradient_chunks,
    live_weights,
)
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.network import Network

NAMES = {"b": "3.weight", "a": "0.weight"}
ALL = torch.arange(12)


@pytest.fixture
def network():
    """A convolution with batch norm and a linear layer, 12 samples; the second tensor comes first."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    module[1].running_mean.fill_(0.5)
    return Network(module.eval(), NAMES, torch.randn(12, 2, 4, 4), torch.randint(3, (12,)), seed=3)


def one_by_one(network, name):
    """Gradients of a tensor, one ordinary backward pass a sample."""
    rows = []
    for x, y in network.batches(1):
        network.module.zero_grad()
        network.loss(x, y).backward()
        rows.append(network.parameters()[name].grad.flatten().clone())
    return torch.stack(rows)


def gathered(network, samples):
    """All chunks."""
    chunks = list(gradient_chunks(network, samples))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def test_gradients_are_those_of_single_samples(network):
    """Each row is one sample's own, under its tensor's name, and batch norm uses and keeps its running statistics."""
    before = network.module[1].running_mean.clone()
    found = gathered(network, ALL)
    assert torch.equal(network.module[1].running_mean, before)
    for name in NAMES:
        torch.testing.assert_close(found[name], one_by_one(network, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pattern", ["unstructured", "block:2x1"])
def test_blocks_are_means_of_outer_products(network, pattern):
    """Entry by entry, over consecutive weights in their order, the last block padded with zeros."""
    order = Order((3, 16), Pattern.parse(pattern) if pattern == "unstructured" else Pattern.parse("block:3x1"))
    orders = {"b": order, "a": Order((4, 2, 3, 3))}
    fisher = fisher_blocks(network, ALL, orders, block=10, damping=2.0)
    rows = torch.stack([order.flat(row.reshape(3, 16)) for row in one_by_one(network, "b")]).double()
    size = order.width(10)
    assert size == (10 if pattern == "unstructured" else 12) and fisher.grams["b"].shape == (-(-48 // size), size, size)
    dense = rows.T @ rows / 12
    torch.testing.assert_close(fisher.grams["b"][1], dense[size : 2 * size, size : 2 * size], rtol=1e-4, atol=1e-8)
    if pattern == "unstructured":
        assert not fisher.grams["b"][-1, 8:].any()


def test_damping_is_relative_to_the_mean_diagonal(network):
    """Two times the mean of E[g^2] over both tensors; weights that are zero count nowhere and have no gradient."""
    with torch.no_grad():
        network.parameters()["b"][0] = 0
    fisher = fisher_blocks(network, ALL, {"b": Order((3, 16)), "a": Order((4, 2, 3, 3))}, block=16, damping=2.0)
    squares = torch.cat([one_by_one(network, "b").square().mean(0)[16:], one_by_one(network, "a").square().mean(0)])
    assert fisher.damping == pytest.approx(2 * float(squares.mean()), rel=1e-4)
    assert not fisher.grams["b"][0].any() and bool(fisher.grams["b"][1].any())


def test_no_gradient_leaves_a_damping_above_zero(network):
    """Where every gradient is zero the damping is the option itself."""
    assert absolute(0.1, 0.0, live_weights(network)) == 0.1


def test_samples_are_drawn_by_seed_and_stage(network):
    """Distinct, ascending, the same again, others in the next stage, and all there are when there are too few."""
    first = drawn(network, 5)
    assert len(set(first.tolist())) == 5 and first.tolist() == sorted(first.tolist())
    assert torch.equal(first, drawn(network, 5)) and not torch.equal(first, drawn(network, 5, stage=1))
    assert drawn(network, 100).tolist() == list(range(12))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 3), (6,)])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block:2x1", "block:2x3", "block:5x1"])
def test_orders_are_undone(shape, pattern):
    """A tensor flattened and shaped again is the tensor, and rows of gradients are flattened alike."""
    order, tensor = Order(shape, Pattern.parse(pattern)), torch.arange(1.0 * torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(order.shaped(order.flat(tensor)), tensor)
    assert torch.equal(order.rows(tensor.reshape(1, -1))[0], order.flat(tensor))


def test_blocks_of_a_pattern_are_consecutive():
    """Blocks of two outputs and one input: weights of rows 0 and 1 alternate, and a block of the matrix holds whole ones."""
    order = Order((4, 3), Pattern.parse("block:2x1"))
    assert order.flat(torch.arange(12).reshape(4, 3)).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert [order.width(block) for block in (1, 3, 4, 100)] == [2, 4, 4, 12]


def test_gradients_that_are_not_finite_are_said(network):
    """The tensor and the number of samples are named."""
    network.inputs[2] = torch.inf
    with pytest.raises(Anomalous, match="1 of 12"):
        gathered(network, ALL)


def test_bytes_are_those_of_the_blocks():
    """100 weights in blocks of 30: four of 30 x 30; 10 weights: one of 10 x 10; a chunk of 1,000 weights has 16 rows."""
    assert block_bytes([100, 10], 30) == 8 * (4 * 900 + 100)
    assert chunk_numbers(1000) == 16_000 and chunk_numbers(10**8) == 10**8
