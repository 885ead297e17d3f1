"""Products with an inverse that is never formed, against the inverse, and against the published recurrences."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths import m_fac
from sparsify_cli.maths.fisher import sherman_morrison_inverse
from sparsify_cli.maths.m_fac import InverseProducts, m_fac_bytes, repaired_by_gradients
from sparsify_cli.maths.woodbury import repaired_blocks

DAMPING = 0.5


@pytest.fixture(params=[7, 2**13], ids=["columns in parts", "columns at once"])
def problem(request, monkeypatch):
    """20 gradients of 30 weights."""
    monkeypatch.setattr(m_fac, "COLUMNS", request.param)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 30, generator=generator, dtype=torch.float64), torch.randn(30, generator=generator, dtype=torch.float64)


def published(gradients, damping, x):
    """F^-1 x and the diagonal by the static algorithm's recurrences, vector after vector."""
    m, found = len(gradients), []
    for g in gradients:
        a = g / damping
        for before, den in found:
            a = a - before * (before @ g) / den
        found.append((a, m + g @ a))
    product = x / damping - sum(a * (a @ x) / den for a, den in found)
    return product, 1 / damping - sum(a.square() / den for a, den in found)


def test_product_and_diagonal_are_those_of_the_inverse(problem):
    """To 2e-14 for 20 gradients of 30 weights in float64."""
    gradients, x = problem
    ours = InverseProducts.of(gradients, DAMPING)
    dense = torch.linalg.inv(gradients.T @ gradients / 20 + DAMPING * torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(ours.product(x), dense @ x, rtol=0, atol=2e-14)
    torch.testing.assert_close(ours.diagonal(), dense.diagonal(), rtol=0, atol=2e-14)
    torch.testing.assert_close(ours.product(x), sherman_morrison_inverse(gradients, DAMPING) @ x, rtol=0, atol=2e-14)


def test_product_and_diagonal_are_those_of_the_recurrences(problem):
    """The Cholesky form and the published recurrences are the same numbers to 2e-14."""
    gradients, x = problem
    ours, (product, diagonal) = InverseProducts.of(gradients, DAMPING), published(gradients, DAMPING, x)
    torch.testing.assert_close(ours.product(x), product, rtol=0, atol=2e-14)
    torch.testing.assert_close(ours.diagonal(), diagonal, rtol=0, atol=2e-14)


def test_repair_is_that_of_one_dense_block(problem):
    """Removing half of the weights through gradients alone equals doing it with the matrix at hand."""
    gradients, weights = problem
    kept = torch.arange(30) % 2 == 0
    ours = repaired_by_gradients(weights, gradients, DAMPING, kept)
    dense = repaired_blocks(weights[None], (gradients.T @ gradients / 20)[None], DAMPING, kept[None])[0]
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-12)
    assert not ours[~kept].any() and torch.equal(repaired_by_gradients(weights, gradients, DAMPING, kept | True), weights)


def test_gradients_that_are_not_numbers_are_said():
    """NaN raises and is not passed on."""
    with pytest.raises(Anomalous, match="damping"):
        InverseProducts.of(torch.full((2, 3), torch.nan), DAMPING)


def test_bytes_are_those_of_what_is_held():
    """100 gradients of 1,000 weights: 400,000 bytes of float32, two matrices of 100 x 100 and three parts in float64."""
    assert m_fac_bytes(1000, 100) == 400_000 + 2 * 80_000 + 3 * 800_000
