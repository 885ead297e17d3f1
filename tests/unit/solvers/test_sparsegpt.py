"""SparseGPT against a slow reference, brute force, least squares and magnitude."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import Anomalous, BadRequest, Infeasible
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.keep import apportion, top_k
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.sparsegpt import SparseGPT
from tests.oracles import every_mask

ANY, TWO_FOUR, ONE_FOUR = Pattern(), Pattern.parse("2:4"), Pattern.parse("1:4")


def problem(seed, outputs, columns, rows=0):
    """A weight and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows or 4 * columns, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / len(inputs)


def by_magnitude(weight, count):
    """The `count` largest weights of a layer."""
    return top_k(weight.abs().flatten(), count).view_as(weight)


def highest(scores, count, pattern):
    """The highest scores that a pattern lets stay, one after the other, by walking a sorted list."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    columns = scores.shape[1]
    for place in sorted(range(scores.numel()), key=lambda p: -float(scores.flatten()[p])):
        row, column = divmod(place, columns)
        first = column - column % pattern.group
        if int(mask.sum()) < count and int(mask[row, first : first + pattern.group].sum()) < pattern.keep:
            mask[row, column] = True
    return mask


def slowly(weight, gram, keep, *, damping, width, budget):
    """Column by column with explicit inverses: everything right of a column is refitted with the inverse of what is left."""
    work, mask = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    columns = weight.shape[1]
    hessian = gram + damping * sum(float(gram[j, j]) for j in range(columns)) / columns * torch.eye(columns, dtype=gram.dtype)
    costs = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(columns)])
    blocks = [range(start, min(start + width, columns)) for start in range(0, columns, width)]
    shares = apportion([Fraction(len(b)) for b in blocks], keep.count, [len(b) * len(weight) for b in blocks])
    for block, share in zip(blocks, shares, strict=True):
        scores = work[:, block.start :] ** 2 / costs[block.start :]
        if budget == "layer":
            mask[:, block] = highest(scores, keep.count - int(mask.sum()), keep.pattern)[:, : len(block)]
        else:
            mask[:, block] = highest(scores[:, : len(block)], share, keep.pattern)
        inverse = torch.linalg.inv(hessian[block.start :, block.start :])
        for j in block:
            removed = work[:, j].masked_fill(mask[:, j], 0)
            work[:, j:] -= torch.outer(removed / inverse[0, 0], inverse[0])
            inverse = (inverse - torch.outer(inverse[0], inverse[0]) / inverse[0, 0])[1:, 1:]
    return work.masked_fill(~mask, 0), mask


def least_squares(weight, hessian, mask):
    """The weights on a mask that change outputs least, row by row."""
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[row])
    return best


@pytest.mark.parametrize("budget", ["layer", "block"])
@pytest.mark.parametrize(
    ("pattern", "width", "kept"), [(ANY, 1, 30), (ANY, 4, 17), (ANY, 5, 30), (ANY, 12, 41), (TWO_FOUR, 4, 36), (ONE_FOUR, 4, 11)]
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_reference(seed, pattern, width, kept, budget):
    """Explicit inverses and downdates, column by column, give the same mask and the same weights to 1e-8."""
    weight, gram = problem(seed, 6, 12)
    keep = Keep(kept, pattern)
    expected, mask = slowly(weight, gram, keep, damping=0.01, width=width, budget=budget)
    repaired, chosen = SparseGPT(block=width, budget=budget).solve(weight, gram, keep)
    assert torch.equal(chosen, mask)
    torch.testing.assert_close(repaired, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_outputs_change_less_than_under_magnitude(seed, share):
    """With as many weights, outputs change less than under magnitude pruning, and less than without repair."""
    weight, gram = problem(seed, 16, 32)
    count = round(share * weight.numel())
    repaired, mask = SparseGPT().solve(weight, gram, Keep(count, ANY))
    change = output_change(weight - repaired, gram)
    assert change < output_change(weight * ~by_magnitude(weight, count), gram)
    assert change < output_change(weight * ~mask, gram)


@pytest.mark.parametrize("seed", range(5))
def test_least_squares_bounds_it(seed):
    """No weights on the same mask change outputs less than least squares, and one column pruned is least squares itself."""
    weight, gram = problem(seed, 3, 8)
    solver = SparseGPT(damping=0.0)
    repaired, mask = solver.solve(weight, gram, Keep(12, ANY))
    best = output_change(weight - least_squares(weight, gram, mask), gram)
    assert best <= output_change(weight - repaired, gram) * (1 + 1e-12)
    first = torch.ones(3, 8, dtype=torch.bool).index_fill(1, torch.tensor(0), False)
    alone, chosen = solver.solve(weight, gram, Keep(21, ANY, first))
    assert torch.equal(chosen, first)
    torch.testing.assert_close(alone, least_squares(weight, gram, first), rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_brute_force_bounds_it(seed):
    """Between the best of all 70 masks of 8 choose 4 with least squares on each, and everything pruned."""
    weight, gram = problem(seed, 1, 8)
    repaired, _ = SparseGPT(damping=0.0).solve(weight, gram, Keep(4, ANY))
    best = min(output_change(weight - least_squares(weight, gram, mask[None]), gram) for mask in every_mask(8, 4))
    assert best <= output_change(weight - repaired, gram) * (1 + 1e-12) < output_change(weight, gram)


@pytest.mark.parametrize("block", [0, 1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 20, 39, 40])
def test_unrelated_inputs_of_equal_size_give_magnitude(block, count):
    """With the identity as Gram matrix nothing can be repaired: the largest weights stay, bit for bit, for every block."""
    weight = torch.randn(5, 8)
    repaired, mask = SparseGPT(block=block).solve(weight, torch.eye(8, dtype=torch.float64), Keep(count, ANY))
    assert torch.equal(mask, by_magnitude(weight, count))
    assert torch.equal(repaired, weight.double() * mask)


def test_equal_shares_by_hand():
    """budget=block: of 2 x 4 weights 4 stay, two in each block of two columns, though the four largest are in the first block."""
    weight = torch.tensor([[9.0, 8.0, 1.0, 2.0], [7.0, 6.0, 4.0, 3.0]])
    _, mask = SparseGPT(block=2, budget="block").solve(weight, torch.eye(4, dtype=torch.float64), Keep(4, ANY))
    assert mask.int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("budget", ["layer", "block"])
def test_weights_at_dead_inputs_go_first(budget):
    """An input that is never active keeps no weight while others can be had, however large; the rest is filled from the largest."""
    weight, gram = problem(0, 2, 6)
    weight[:, 2] = torch.tensor([100.0, 50.0])
    gram[2], gram[:, 2] = 0, 0
    solver = SparseGPT(block=2, budget=budget)
    assert not solver.solve(weight, gram, Keep(10, ANY))[1][:, 2].any()
    repaired, mask = solver.solve(weight, gram, Keep(11, ANY))
    assert mask[:, 2].tolist() == [True, False]
    assert float(repaired[0, 2]) == 100.0


@pytest.mark.parametrize("budget", ["layer", "block"])
def test_what_was_pruned_stays_pruned(budget):
    """Weights pruned before do not come back, unless more are asked for than there are."""
    weight, gram = problem(1, 4, 8)
    within = by_magnitude(weight, 16)
    solver = SparseGPT(budget=budget)
    assert not (solver.solve(weight * within, gram, Keep(10, ANY, within))[1] & ~within).any()
    assert torch.equal(solver.solve(weight * within, gram, Keep(16, ANY, within))[1], within)
    more = solver.solve(weight * within, gram, Keep(20, ANY, within))[1]
    assert int(more.sum()) == 20 and bool(more[within].all())


def test_an_undamped_singular_gram_is_refused():
    """Fewer rows than inputs have no inverse without damping; the default damping is enough."""
    weight, gram = problem(0, 2, 8, rows=3)
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        SparseGPT(damping=0.0).solve(weight, gram, Keep(4, ANY))
    assert bool(SparseGPT().solve(weight, gram, Keep(4, ANY))[0].isfinite().all())


def test_what_it_cannot_do_is_said():
    """Blocks of weights are refused with a sentence, and so is a count the pattern has no room for."""
    with pytest.raises(BadRequest, match="sparsegpt cannot hold block:4x1"):
        SparseGPT().check(Pattern.parse("block:4x1"))
    weight, gram = problem(0, 2, 8)
    with pytest.raises(Infeasible, match="9 weights of a layer should stay, and 2:4 lets 8 stay"):
        SparseGPT().solve(weight, gram, Keep(9, TWO_FOUR))
