"""ExactOBS against brute force, least squares and itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import Anomalous, Infeasible
from sparsify_cli.maths.gram import damped, output_change
from sparsify_cli.maths.keep import top_k
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.exactobs import ExactOBS
from tests.oracles import every_mask
from tests.strategies import seeds

ANY = Pattern()
SCOPES = pytest.mark.parametrize("scope", ["layer", "row"])


def problem(seed, outputs, columns, rows=0):
    """A weight and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows or 4 * columns, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / len(inputs)


def least_squares(weight, hessian, mask):
    """Normal equations, row by row."""
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[row])
    return best


@SCOPES
@pytest.mark.parametrize(("pattern", "count"), [("unstructured", 9), ("unstructured", 60), ("2:4", 48), ("1:4", 17), ("block:2x3", 42)])
def test_least_squares_on_its_own_mask(scope, pattern, count):
    """What stays is the solution of the normal equations to 1e-10."""
    weight, gram = problem(1, 8, 12)
    repaired, mask = ExactOBS(scope=scope).solve(weight, gram, Keep(count, Pattern.parse(pattern)))
    torch.testing.assert_close(repaired, least_squares(weight, damped(gram, 0.01), mask), rtol=0, atol=1e-10)


def test_one_removal_and_all_but_one_removal_are_optimal():
    """Of 6 weights in a row the best 5 stay, by trying all; and no mask of any size is better than the best."""
    weight, gram = problem(2, 1, 6)
    for kept in range(1, 6):
        found = ExactOBS(damping=0.0).solve(weight, gram, Keep(kept, ANY))[0]
        best = min(output_change(weight - least_squares(weight, gram, mask[None]), gram) for mask in every_mask(6, kept))
        change = output_change(weight - found, gram)
        assert change >= best * (1 - 1e-9)
        assert kept < 5 or change == pytest.approx(best, rel=1e-9)


def elimination(row, gram):
    """One row: which column goes at each step, and by how much least squares loses more, by solving every case."""
    gone, total, order, costs = [], 0.0, [], []
    for _ in range(len(row)):
        losses = {}
        for column in set(range(len(row))) - set(gone):
            mask = torch.ones(1, len(row), dtype=torch.bool).index_fill(1, torch.tensor([*gone, column]), False)
            losses[column] = output_change(row - least_squares(row[None], gram, mask), gram)
        gone.append(min(losses, key=losses.__getitem__))
        order.append(gone[-1]), costs.append(losses[gone[-1]] - total)
        total = losses[gone[-1]]
    return order, costs


@pytest.mark.parametrize("count", [3, 12, 20, 29])
def test_counts_and_not_prefixes_decide(count):
    """A row loses as many as it has costs among the cheapest of the layer, in its own order, though costs also fall along rows."""
    weight, gram = problem(3, 4, 8)
    traces = [elimination(row, gram) for row in weight]
    assert any(b < a for _, costs in traces for a, b in pairwise(costs))
    cheapest = sorted((cost, row) for row, (_, costs) in enumerate(traces) for cost in costs)[: 32 - count]
    expected = torch.ones(4, 8, dtype=torch.bool)
    for row, (order, _) in enumerate(traces):
        expected[row, order[: sum(owner == row for _, owner in cheapest)]] = False
    assert torch.equal(ExactOBS(damping=0.0).solve(weight, gram, Keep(count, ANY))[1], expected)


@SCOPES
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4", "block:1x4", "block:2x2"])
def test_a_ladder_is_separate_solves(scope, pattern):
    """Counts from none to all that the pattern lets stay: the same masks, the same weights to 1e-12."""
    weight, gram = problem(4, 6, 16)
    pattern = Pattern.parse(pattern)
    counts = [round(96 * (1 - pattern.implied_sparsity)) * k // 12 // 4 * 4 for k in range(13)]
    solver = ExactOBS(scope=scope)
    for count, (repaired, mask) in zip(counts, solver.ladder(weight, gram, Keep(0, pattern), counts), strict=True):
        alone, chosen = solver.solve(weight, gram, Keep(count, pattern))
        assert torch.equal(mask, chosen) and int(mask.sum()) == count
        torch.testing.assert_close(repaired, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 20, 39, 40])
def test_unrelated_inputs_of_equal_size_give_magnitude(count):
    """With the identity as Gram matrix nothing can be repaired: the largest weights stay, bit for bit; earlier ones among equals."""
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).mul(2).round()
    repaired, mask = ExactOBS().solve(weight, torch.eye(8, dtype=torch.float64), Keep(count, ANY))
    assert torch.equal(mask, top_k(weight.abs().flatten(), count).view_as(weight))
    assert torch.equal(repaired, weight.double() * mask)


def test_rows_lose_as_many():
    """scope=row: 3 x 8 weights of which 13 stay keep 5, 4 and 4."""
    weight, gram = problem(5, 3, 8)
    weight[0] *= 100
    assert ExactOBS(scope="row").solve(weight, gram, Keep(13, ANY))[1].sum(1).tolist() == [5, 4, 4]
    assert int(ExactOBS().solve(weight, gram, Keep(8, ANY))[1][0].sum()) == 8


@SCOPES
@pytest.mark.parametrize(("pattern", "kept"), [("2:4", 2), ("1:4", 1), ("5:8", 5)])
def test_groups_hold_exactly_n(scope, pattern, kept):
    """At the sparsity the pattern implies every group keeps N, and below it none more."""
    weight, gram = problem(6, 4, 16)
    pattern = Pattern.parse(pattern)
    room = 64 // pattern.group * kept
    full = ExactOBS(scope=scope).solve(weight, gram, Keep(room, pattern))[1].reshape(-1, pattern.group).sum(1)
    assert set(full.tolist()) == {kept}
    fewer = ExactOBS(scope=scope).solve(weight, gram, Keep(room - 5, pattern))[1].reshape(-1, pattern.group).sum(1)
    assert int(fewer.max()) <= kept and int(fewer.sum()) == room - 5


def test_outputs_of_a_block_stay_together():
    """block:2x4 with the identity: the blocks with the smallest sums of squares go."""
    weight = torch.ones(4, 8, dtype=torch.float64)
    weight[:2, 4:], weight[2:, :4] = 3, 2
    mask = ExactOBS().solve(weight, torch.eye(8, dtype=torch.float64), Keep(16, Pattern.parse("block:2x4")))[1]
    assert mask[:2, 4:].all() and mask[2:, :4].all() and int(mask.sum()) == 16


@SCOPES
def test_weights_at_dead_inputs_go_first(scope):
    """An input that is never active keeps no weight while others can be had, however large; the rest is filled from the largest."""
    weight, gram = problem(0, 2, 6)
    weight[:, 2] = torch.tensor([100.0, 50.0])
    gram[2], gram[:, 2] = 0, 0
    solver = ExactOBS(scope=scope)
    assert not solver.solve(weight, gram, Keep(10, ANY))[1][:, 2].any()
    repaired, mask = solver.solve(weight, gram, Keep(11, ANY))
    assert mask[:, 2].tolist() == [True, False]
    assert float(repaired[0, 2]) == 100.0


@SCOPES
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_what_was_pruned_stays_pruned(scope, pattern):
    """Weights pruned before do not come back, unless more are asked for than there are."""
    weight, gram = problem(1, 4, 8)
    within = torch.tensor([[1, 0, 1, 0, 0, 1, 0, 1]] * 4, dtype=torch.bool)
    within[3] = False
    solver, pattern = ExactOBS(scope=scope), Pattern.parse(pattern)
    assert not (solver.solve(weight * within, gram, Keep(9, pattern, within))[1] & ~within).any()
    assert torch.equal(solver.solve(weight * within, gram, Keep(12, pattern, within))[1], within)
    more = solver.solve(weight * within, gram, Keep(14, pattern, within))[1]
    assert int(more.sum()) == 14 and bool(more[within].all())


def test_what_it_cannot_do_is_said():
    """No room, broken blocks, sides that are no multiples, a Gram matrix without an inverse."""
    weight, gram = problem(0, 2, 8)
    with pytest.raises(Infeasible, match="9 weights of a layer should stay, and 2:4 lets 8 stay"):
        ExactOBS().solve(weight, gram, Keep(9, Pattern.parse("2:4")))
    with pytest.raises(Infeasible, match="no whole blocks of 4"):
        ExactOBS().solve(weight, gram, Keep(6, Pattern.parse("block:1x4")))
    with pytest.raises(Infeasible, match="2 outputs and 8 inputs cannot hold block:4x1"):
        ExactOBS().solve(weight, gram, Keep(8, Pattern.parse("block:4x1")))
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        ExactOBS(damping=0.0).solve(*problem(0, 2, 8, rows=3), Keep(4, ANY))


@pytest.mark.slow
@settings(max_examples=15)
@given(seed=seeds, outputs=st.integers(2, 6), share=st.sampled_from([0.2, 0.4, 0.6]))
def test_rows_that_compete_change_outputs_less_on_average(seed, outputs, share):
    """Over eight layers at a time, scope=layer leaves less error than scope=row."""
    total = {"layer": 0.0, "row": 0.0}
    for offset in range(8):
        weight, gram = problem(seed + offset, outputs, 12)
        weight *= torch.logspace(0, 1, outputs, dtype=torch.float64)[:, None]
        for scope in ("layer", "row"):
            repaired, _ = ExactOBS(scope=scope).solve(weight, gram, Keep(round(share * weight.numel()), ANY))
            total[scope] += output_change(weight - repaired, gram)
    assert total["layer"] < total["row"]
