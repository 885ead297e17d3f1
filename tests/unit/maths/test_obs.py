"""Elimination against explicit inverses, and refits against least squares."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths import obs
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.obs import Trace, Units, eliminate, rebuilt, unit_costs


def problem(seed, outputs, columns):
    """Weights and a damped Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3 * columns, columns, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, columns, generator=generator, dtype=torch.float64)
    return weight, inputs.T @ inputs / len(inputs) + 0.1 * torch.eye(columns, dtype=torch.float64)


def least_squares(weight, hessian, mask):
    """Normal equations, row by row."""
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[row])
    return best


def slowly(weight, hessian, steps, width=1, may=lambda gone: range(10**6)):
    """Of every unit that may go: the loss of least squares without it, beyond the loss so far; explicit solves, one set of joint rows."""
    count, gone, total, order, costs = weight.shape[1] // width, [], 0.0, [], []
    for _ in range(steps):
        losses = {}
        for unit in [u for u in range(count) if u not in gone and u in may(gone)]:
            mask = torch.ones(count, dtype=torch.bool)
            mask[[*gone, unit]] = False
            mask = mask.repeat_interleave(width).expand_as(weight)
            losses[unit] = output_change(weight - least_squares(weight, hessian, mask), hessian)
        best = min(losses, key=losses.__getitem__)
        gone.append(best), order.append(best), costs.append(losses[best] - total)
        total = losses[best]
    return order, costs


@pytest.mark.parametrize(("joint", "width"), [(1, 1), (1, 2), (1, 3), (2, 1), (3, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_every_step_is_the_best_there_is(seed, joint, width):
    """The unit that goes is the one without which least squares loses least, and the cost is what it loses: by solving every case."""
    weight, hessian = problem(seed, 2 * joint, 12)
    trace = eliminate(weight.unflatten(0, (2, joint)), hessian.inverse(), 12 // width, Units(width))
    for row in range(2):
        order, costs = slowly(weight[row * joint : (row + 1) * joint], hessian, 12 // width, width)
        assert trace.order[row].tolist() == order
        assert trace.cost[row].tolist() == pytest.approx(costs, rel=1e-8, abs=1e-8)


def test_the_cost_of_a_removal_is_the_formula_of_the_papers():
    """w_q^2 / (2 [H^-1]_qq) with their H = 2 X X^T is our first cost."""
    weight, gram = problem(0, 1, 6)
    theirs = weight[0] ** 2 / (2 * torch.linalg.inv(2 * gram).diagonal())
    trace = eliminate(weight[:, None], torch.linalg.inv(gram), 1)
    assert float(trace.cost[0, 0]) == pytest.approx(float(theirs.min()), rel=1e-12)
    assert int(trace.order[0, 0]) == int(theirs.argmin())


def test_groups_lose_no_more_than_they_may_until_all_have():
    """2 of 3 in each of four groups go first, the cheapest that may; then the rest in the order of costs."""
    weight, hessian = problem(4, 1, 12)
    trace = eliminate(weight[:, None], hessian.inverse(), 12, Units(group=3, spare=2))
    full = lambda gone: [u for u in range(12) if len(gone) >= 8 or sum(g // 3 == u // 3 for g in gone) < 2]  # noqa: E731
    order, costs = slowly(weight, hessian, 12, may=full)
    assert trace.order[0].tolist() == order
    assert trace.cost[0].tolist() == pytest.approx(costs, rel=1e-8, abs=1e-8)


def test_lower_ranks_go_first_at_any_cost():
    """Large weights of rank 0 go before small ones of rank 1; within a rank the cheapest."""
    weight = torch.tensor([[[3.0, 1.0, 5.0, 2.0]]], dtype=torch.float64)
    trace = eliminate(weight, torch.eye(4, dtype=torch.float64), 4, Units(rank=torch.tensor([[0, 1, 0, 1]])))
    assert trace.order[0].tolist() == [0, 2, 1, 3]
    assert trace.cost[0].tolist() == [9.0, 25.0, 1.0, 4.0]


@pytest.mark.parametrize("width", [1, 2])
def test_panels_parts_and_shrinking_change_nothing(monkeypatch, width):
    """However rows are parted, panels are cut and A is made smaller: the same order, and the same costs to 1e-9."""
    weight, hessian = problem(5, 5, 40)
    whole = eliminate(weight[:, None], hessian.inverse(), 40 // width, Units(width))
    for rows, share, size in [(1, 0.0, 4), (2, 0.3, 2), (5, 1.0, 40), (3, 0.05, 7)]:
        monkeypatch.setattr(obs, "ROWS", rows)
        monkeypatch.setattr(obs, "GONE", share)
        monkeypatch.setattr(obs, "panel_rows", lambda columns, size=size: size)
        other = eliminate(weight[:, None], hessian.inverse(), 40 // width, Units(width))
        assert torch.equal(other.order, whole.order)
        torch.testing.assert_close(other.cost, whole.cost, rtol=1e-9, atol=1e-9)


def test_memory_bounds_the_rows_in_flight(monkeypatch):
    """At most IN_FLIGHT bytes of inverses at a time: 7 rows of 10 columns at 800 bytes each go in parts of 2 under 2,000 bytes."""
    weight, hessian = problem(6, 7, 10)
    seen, start = [], obs._Elimination.__init__
    monkeypatch.setattr(obs._Elimination, "__init__", lambda self, part, *rest: (seen.append(len(part)), start(self, part, *rest))[1])
    monkeypatch.setattr(obs, "IN_FLIGHT", 2000)
    eliminate(weight[:, None], hessian.inverse(), 3)
    assert seen == [2, 2, 2, 1]


def test_unit_costs_by_hand():
    """A block [[2, 1], [1, 2]] has the inverse [[2, -1], [-1, 2]] / 3: (1, 2) costs (2 - 4 + 8) / 3 = 2."""
    block = torch.tensor([[[[2.0, 1.0], [1.0, 2.0]]]], dtype=torch.float64)
    assert float(unit_costs(block, torch.tensor([[[1.0, 2.0]]], dtype=torch.float64))) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("kept", range(9))
def test_rebuilt_is_least_squares(kept):
    """Through what stays or what goes, whichever is less: the normal equations' solution to 1e-10; a row that loses nothing is the same."""
    weight, hessian = problem(kept, 4, 8)
    mask = torch.rand(4, 8).argsort(1) < kept
    found = rebuilt(weight, hessian, hessian.inverse(), mask)
    torch.testing.assert_close(found, least_squares(weight, hessian, mask), rtol=0, atol=1e-10)
    assert kept < 8 or torch.equal(found, weight)


def test_what_is_left_after_some_removals():
    """Each row keeps what it lost later, and what it never lost."""
    trace = Trace(torch.tensor([[2, 0], [1, 3]]), torch.zeros(2, 2, dtype=torch.float64))
    assert trace.kept(torch.tensor([1, 2]), 4).int().tolist() == [[1, 1, 0, 1], [1, 0, 1, 0]]


def test_rounding_that_decides_is_refused():
    """An inverse that is none gives no finite costs, and that is said."""
    with pytest.raises(Anomalous, match="not finite"):
        eliminate(torch.ones(1, 1, 3, dtype=torch.float64), torch.full((3, 3), torch.nan, dtype=torch.float64), 2)
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        rebuilt(torch.ones(1, 3, dtype=torch.float64), torch.eye(3).double(), -torch.eye(3).double(), torch.tensor([[True, True, False]]))
