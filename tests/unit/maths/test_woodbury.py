"""Inverses of blocks, costs of removal and repairs, against dense inverses, rank-1 recursions and least squares."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.fisher import sherman_morrison_inverse
from sparsify_cli.maths.woodbury import block_inverse, cumulative_costs, damped_blocks, parts, removal_costs, repaired_blocks
from tests.oracles import every_mask

DAMPING = 0.3


def problem(count=3, size=6, samples=9):
    """Gradients by block, the blocks of their mean outer product, and weights."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(count, samples, size, generator=generator, dtype=torch.float64)
    return gradients, gradients.mT @ gradients / samples, torch.randn(count, size, generator=generator, dtype=torch.float64)


def loss(change, block):
    """The quadratic model, written out: 1/2 d^T F d."""
    return float(change @ (block + DAMPING * torch.eye(len(block), dtype=torch.float64)) @ change) / 2


def least_loss(weights, block, kept):
    """The least of the model over all changes that zero what does not stay, by least squares on the Cholesky factor of F."""
    upper = torch.linalg.cholesky(block + DAMPING * torch.eye(len(block), dtype=torch.float64)).T
    fixed = torch.where(kept, torch.zeros_like(weights), -weights)
    free = torch.linalg.lstsq(upper[:, kept], -(upper @ fixed)[:, None]).solution[:, 0]
    fixed[kept] = free
    return loss(fixed, block), fixed + weights


def test_inverse_is_that_of_rank_one_updates():
    """Every block's inverse equals the published recursion and a general inverse to 1e-12."""
    gradients, blocks, _ = problem()
    ours = block_inverse(blocks, DAMPING)
    for rows, block, inverse in zip(gradients, blocks, ours, strict=True):
        torch.testing.assert_close(inverse, sherman_morrison_inverse(rows, DAMPING), rtol=0, atol=1e-12)
        torch.testing.assert_close(inverse, torch.linalg.inv(block + DAMPING * torch.eye(6, dtype=torch.float64)), rtol=0, atol=1e-12)


def test_cost_of_one_weight_is_the_least_rise_of_the_model():
    """w^2 / (2 [F^-1]_pp) is what the model rises by when the others make up for p, and the repair is that minimum."""
    _, blocks, weights = problem()
    costs = removal_costs(weights, block_inverse(blocks, DAMPING))
    for b in range(3):
        for p in range(6):
            kept = torch.arange(6) != p
            least, best = least_loss(weights[b], blocks[b], kept)
            repaired = repaired_blocks(weights[b : b + 1], blocks[b : b + 1], DAMPING, kept[None])[0]
            assert float(costs[b, p]) == pytest.approx(least, rel=1e-10)
            torch.testing.assert_close(repaired, best, rtol=0, atol=1e-12)


def test_repair_of_any_set_is_least_squares():
    """For every choice of three of six weights the repair is the minimum of the model, and zero where pruned."""
    _, blocks, weights = problem(count=1)
    for kept in every_mask(6, 3):
        repaired = repaired_blocks(weights, blocks, DAMPING, kept[None])[0]
        torch.testing.assert_close(repaired, least_loss(weights[0], blocks[0], kept)[1], rtol=0, atol=1e-12)
        assert not repaired[~kept].any()


def test_cost_of_a_unit_is_the_least_rise_of_the_model():
    """The equal parts of a unit of two weights add up to what removing both costs."""
    _, blocks, weights = problem()
    costs = removal_costs(weights, block_inverse(blocks, DAMPING), 2)
    for b in range(3):
        for first in (0, 2, 4):
            kept = (torch.arange(6) != first) & (torch.arange(6) != first + 1)
            assert float(costs[b, first]) == float(costs[b, first + 1])
            assert 2 * float(costs[b, first]) == pytest.approx(least_loss(weights[b], blocks[b], kept)[0], rel=1e-10)


def slow_order(weights, block):
    """Brute force: remove the weight for which the model of all that are gone is least, again and again; (order, losses)."""
    order, losses = [], []
    for _ in weights:
        tried = {}
        for p in set(range(len(weights))) - set(order):
            kept = torch.ones(len(weights), dtype=torch.bool)
            kept[[*order, p]] = False
            tried[p] = least_loss(weights, block, kept)[0]
        order.append(min(tried, key=tried.get))
        losses.append(tried[order[-1]])
    return order, losses


def test_cumulative_costs_are_those_of_greedy_removal():
    """Each weight's score is the model's loss once it and all before it are gone, in the order brute force finds."""
    _, blocks, weights = problem()
    costs = cumulative_costs(weights, block_inverse(blocks, DAMPING))
    for b in range(3):
        order, losses = slow_order(weights[b], blocks[b])
        assert costs[b].argsort().tolist() == order
        assert costs[b, order].tolist() == pytest.approx(losses, rel=1e-10)


def test_cumulative_costs_are_monotone_along_the_order():
    """On larger, nearly singular blocks scores rise from removal to removal, so a threshold takes a prefix of each order."""
    gradients, _, _ = problem(count=4, size=40, samples=10)
    blocks, weights = gradients.mT @ gradients / 10, torch.randn(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    costs = cumulative_costs(weights, block_inverse(blocks, 1e-6)).sort(dim=1).values
    assert bool((costs.diff(dim=1) > 0).all()) and bool((costs[:, 0] >= 0).all())
    whole = torch.einsum("bi,bij,bj->b", weights, damped_blocks(blocks, 1e-6), weights) / 2
    torch.testing.assert_close(costs[:, -1], whole, rtol=1e-6, atol=0)


def test_arguments_are_left_alone():
    """Blocks, inverse and weights are not written to."""
    _, blocks, weights = problem()
    inverse = block_inverse(blocks, DAMPING)
    given = [tensor.clone() for tensor in (blocks, weights, inverse)]
    cumulative_costs(weights, inverse), repaired_blocks(weights, blocks, DAMPING, weights > 0), removal_costs(weights, inverse, 3)
    assert all(torch.equal(before, after) for before, after in zip(given, (blocks, weights, inverse), strict=True))


def test_parts_cover_all_blocks_once():
    """Runs of blocks follow each other without gap, also where one block is larger than a run may be."""
    for blocks in (torch.zeros(5000, 40, 40), torch.zeros(3, 1500, 1500)):
        covered = [i for some in parts(blocks) for i in range(*some.indices(len(blocks)))]
        assert covered == list(range(len(blocks)))


def test_a_block_without_inverse_is_said():
    """A block that is not positive definite raises, and says what to raise."""
    with pytest.raises(Anomalous, match="damping"):
        block_inverse(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]), 0.1)
