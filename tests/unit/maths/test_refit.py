"""Least-squares refit against explicit solves, gradients and itself."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths import refit as module
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.refit import exact_cost, is_exact_cheaper, refit, refit_by_iteration


def problem(seed=0, outputs=9, columns=12, share=0.5):
    """A weight, a well-conditioned Gram matrix of correlated inputs, and a random mask with rows of every size."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(60, columns, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=generator)).double()
    mask = torch.rand(outputs, columns, generator=generator) < share
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / 60, mask


def row_by_row(weight, hessian, mask):
    """W_S = (G_SS)^-1 (G w)_S, one row after the other."""
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], (hessian @ weight[row])[kept])
    return best


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("held", [1, 100, 2**23])
def test_equals_explicit_solves(monkeypatch, share, held):
    """Rows with different supports, in batches of any size, equal the solves of each row to 1e-12; pruned weights are zero."""
    monkeypatch.setattr(module, "HELD", held)
    weight, hessian, mask = problem(share=share)
    found = refit(weight, hessian, mask)
    torch.testing.assert_close(found, row_by_row(weight, hessian, mask), rtol=0, atol=1e-12)
    assert not found[~mask].any()


def test_rows_that_share_a_support():
    """Rows with the same support, among others, are solved together and equal the solves of each row."""
    weight, hessian, mask = problem()
    mask[[1, 4, 7]] = mask[2].clone()
    torch.testing.assert_close(refit(weight, hessian, mask), row_by_row(weight, hessian, mask), rtol=0, atol=1e-12)


def test_what_stays_has_no_gradient():
    """At the optimum the change of outputs has no slope in any weight that stays: (W - V) G is zero there."""
    weight, hessian, mask = problem(3)
    slope = (weight - refit(weight, hessian, mask)) @ hessian
    assert float(slope[mask].abs().max()) < 1e-12 < float(slope[~mask].abs().max())


def test_a_row_that_loses_nothing_stays_bit_for_bit():
    """Everything kept, only zeros pruned, or nothing related: the same numbers."""
    weight, hessian, mask = problem()
    mask[0], weight[1] = True, weight[1] * mask[1]
    found = refit(weight, hessian, mask)
    assert torch.equal(found[:2], weight[:2])
    alone = torch.diag(torch.rand(12, dtype=torch.float64) + 1)
    assert torch.equal(refit(weight, alone, mask), weight * mask)


def test_empty_rows_and_empty_masks():
    """A row without weights is zero, and so is a matrix without any."""
    weight, hessian, mask = problem()
    mask[5] = False
    assert not refit(weight, hessian, mask)[5].any()
    assert not refit(weight, hessian, torch.zeros_like(mask)).any()
    assert not refit_by_iteration(weight, hessian, torch.zeros_like(mask)).any()


def test_arguments_are_left_alone():
    """Weight, matrix, mask and start are not written to."""
    given = problem()
    copies = [tensor.clone() for tensor in given]
    refit(*given)
    refit_by_iteration(*given, start=given[0])
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


def test_a_singular_sub_matrix_is_refused():
    """Two equal inputs that both stay have no least squares; where one of them goes they have."""
    twins = torch.tensor([[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert refit(weight, twins, torch.tensor([[True, False, True]])).tolist() == [[pytest.approx(3.0), 0.0, pytest.approx(3.0)]]
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        refit(weight, twins, torch.tensor([[True, True, False]]))


@pytest.mark.parametrize("start", [None, "noise"])
def test_iteration_reaches_the_optimum(start):
    """Conjugate gradients to 1e-12 equal the exact refit, wherever they begin; rows are dropped as they finish."""
    weight, hessian, mask = problem(1)
    begin = torch.randn(9, 12, generator=torch.Generator().manual_seed(5)) if start else None
    found = refit_by_iteration(weight, hessian, mask, start=begin, tolerance=1e-12)
    torch.testing.assert_close(found, refit(weight, hessian, mask), rtol=0, atol=1e-9)
    assert not found[~mask].any()


def test_iteration_never_makes_worse():
    """However few iterations: outputs change less with each."""
    weight, hessian, mask = problem(2)
    changes = [output_change(weight - refit_by_iteration(weight, hessian, mask, most=most), hessian) for most in range(6)]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] == pytest.approx(output_change(weight * ~mask, hessian), rel=1e-12)


def test_cost_by_hand():
    """Two rows with 3 and 6 weights cost (27 + 216) / 3; a narrow layer is solved exactly, a wide dense one iterated."""
    mask = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    assert exact_cost(mask) == 81
    assert is_exact_cheaper(torch.ones(64, 64, dtype=torch.bool))
    assert not is_exact_cheaper(torch.ones(2, 4096, dtype=torch.bool))
