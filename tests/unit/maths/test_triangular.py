"""The triangular inverse against its definition and substitution."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.triangular import upper_inverse


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 300, 515])
def test_it_is_the_inverse(n):
    """Upper triangular, and its product with the matrix is the identity to 1e-10; equal to substitution to 1e-10."""
    rows = torch.randn(3 * n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    upper = torch.linalg.cholesky(rows.T @ rows / n, upper=True)
    found, identity = upper_inverse(upper), torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(found @ upper, identity, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, torch.linalg.solve_triangular(upper, identity, upper=True), rtol=1e-10, atol=1e-10)
    assert not found.tril(-1).any()


def test_below_the_diagonal_nothing_is_read():
    """By hand: [[2, 4], [?, 8]] has the inverse [[1/2, -1/4], [0, 1/8]]."""
    found = upper_inverse(torch.tensor([[2.0, 4.0], [float("nan"), 8.0]]))
    assert found.tolist() == [[0.5, -0.25], [0.0, 0.125]]
