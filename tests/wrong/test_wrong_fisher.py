"""Known-wrong ways to multiply by an inverse Fisher, rejected by the check that accepts ours."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.fisher import block_fisher, sherman_morrison_inverse, solve_blocks


def recursion(gradients, damping, vector):
    """Ours, slow: rank-1 updates of the inverse."""
    return sherman_morrison_inverse(gradients, damping) @ vector


def cholesky(gradients, damping, vector):
    """Ours, fast: one dense block."""
    return solve_blocks(block_fisher(gradients, damping, gradients.shape[1]), vector)


def mini_batch_means(gradients, damping, vector):
    """Outer products of mini-batch means in the place of means of outer products."""
    return cholesky(torch.stack([batch.mean(dim=0) for batch in gradients.split(4)]), damping, vector)


def damping_after_inversion(gradients, damping, vector):
    """The pseudo-inverse of the undamped matrix, with the damping added to it."""
    bare = gradients.T @ gradients / len(gradients)
    return (torch.linalg.pinv(bare) + damping * torch.eye(len(bare), dtype=bare.dtype)) @ vector


def single_running_vector(gradients, damping, vector):
    """One vector stands for F^-1 g at every sample: it starts as the first gradient and is only rescaled (a published shortcut)."""
    running, m = vector / damping, len(gradients)
    stand_in = gradients[0] / damping
    for g in gradients[1:]:
        overlap = stand_in @ g
        running = running - (running @ g) / (m + overlap) * stand_in
        stand_in = stand_in - overlap / (m + overlap) * stand_in
    return running


def one_in_the_denominator(gradients, damping, vector):
    """The recursion of a sum, 1 + g^T u, where an average needs m + g^T u."""
    inverse = torch.eye(gradients.shape[1], dtype=gradients.dtype) / damping
    for g in gradients:
        u = inverse @ g
        inverse = inverse - torch.outer(u, u) / (1 + g @ u)
    return inverse @ vector


def check(solver):
    """Assert that F x = v for the damped mean of outer products, written out entry by entry."""
    generator = torch.Generator().manual_seed(3)
    gradients = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    vector, damping = torch.randn(5, generator=generator, dtype=torch.float64), 0.3
    solved = solver(gradients, damping, vector)
    for i in range(5):
        row = [sum(float(g[i] * g[j]) for g in gradients) / 12 + (damping if i == j else 0.0) for j in range(5)]
        assert sum(f * float(x) for f, x in zip(row, solved, strict=True)) == pytest.approx(float(vector[i]), abs=1e-8)


@pytest.mark.parametrize("solver", [recursion, cholesky], ids=lambda f: f.__name__)
def test_right_solvers_pass(solver):
    """Both of ours invert the damped mean of outer products."""
    check(solver)


@pytest.mark.parametrize(
    "solver", [mini_batch_means, damping_after_inversion, single_running_vector, one_in_the_denominator], ids=lambda f: f.__name__
)
def test_wrong_solvers_are_rejected(solver):
    """Each known-wrong Fisher fails the same check."""
    with pytest.raises(AssertionError):
        check(solver)
