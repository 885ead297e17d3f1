"""The empirical Fisher matrix of a classifier, and products with its inverse.

For per-sample gradients g_1 .. g_m of the negative log-likelihood,

    F = lambda I + (1/m) sum_i g_i g_i^T ,     lambda > 0 the damping (here always absolute).

`sherman_morrison_inverse` is the published recursion, one rank-1 update a sample: slow (m d^2) and obvious. The fast
routine keeps the blocks of F on the diagonal, `block` consecutive coordinates each, and solves with Cholesky factors in
float64, one block at a time; one block of length d is the dense Fisher. The last block is padded with coordinates whose
gradient is zero, which decouple and solve to zero.

Source: Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), empirical Fisher over the training set, rank-1 inverse;
blocks of consecutive coordinates as in Singh, Alistarh 2020 (WoodFisher, arXiv 2004.14340). We differ by building the
sum once and solving, which gives the same product without ever forming an inverse.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import Anomalous

TOGETHER = 2**20
"""Numbers of the blocks that are factored at a time, unless one block is larger: 8 MB in float64."""


def sherman_morrison_inverse(gradients: Float[Tensor, "m d"], damping: float) -> Float[Tensor, "d d"]:
    """The inverse Fisher by m rank-1 updates: the slow reference.

    Each step divides by m + g^T u, not by 1 + g^T u, because F averages over m samples.

    Args:
        gradients: per-sample gradients, one row a sample.
        damping: lambda > 0, absolute.
    """
    m, d = gradients.shape
    inverse = torch.eye(d, dtype=torch.float64) / damping
    for g in gradients.double():
        u = inverse @ g
        inverse -= torch.outer(u, u) / (m + g @ u)
    return inverse


def empty_gram(count: int, block: int, like: Tensor, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "blocks size size"]:
    """Zeros to add Gram blocks to: `count` coordinates in blocks of `block` (> 0; `count` or more means one dense block)."""
    size = min(block, count)
    return torch.zeros(-(-count // size), size, size, dtype=dtype, device=like.device)


def add_gram(total: Float[Tensor, "blocks size size"], gradients: Float[Tensor, "m d"]) -> Float[Tensor, "blocks size size"]:
    """Add the diagonal blocks of sum g g^T to `total` in place; chunks of rows add up to the whole.

    Args:
        total: from `empty_gram`.
        gradients: one row a sample.
    """
    columns = blocks_of(gradients.to(total.dtype), total.shape[-1]).transpose(0, 1)
    return total.baddbmm_(columns.transpose(1, 2), columns)


def block_fisher(gradients: Float[Tensor, "m d"], damping: float, block: int) -> Float[Tensor, "blocks size size"]:
    """Diagonal blocks of lambda I + (1/m) sum g g^T in float64.

    Args:
        gradients: per-sample gradients, one row a sample.
        damping: lambda, absolute.
        block: coordinates in a block; d or more means one dense block.
    """
    rows = gradients.double()
    blocks = add_gram(empty_gram(rows.shape[1], block, rows), rows) / len(rows)
    return blocks + damping * torch.eye(blocks.shape[-1], dtype=torch.float64)


def solve_blocks(
    blocks: Float[Tensor, "blocks size size"], vector: Float[Tensor, " d"], *, damping: float = 0.0, free: Bool[Tensor, " d"] | None = None
) -> Float[Tensor, " d"]:
    """F^-1 v for block-diagonal F = blocks + damping I, by Cholesky in float64, block by block.

    Args:
        blocks: symmetric diagonal blocks; the last may be padded with zero rows when `damping` > 0. Float32 blocks are
            solved in float64 too.
        vector: v, in the order of the blocks.
        damping: lambda added to the diagonal, absolute.
        free: coordinates that are solved for; the others are taken out of F, and zero. None = all.

    Raises:
        Anomalous: a block is not positive definite.
    """
    size = blocks.shape[-1]
    parts = blocks_of(vector.double() if free is None else vector.double() * free, size)
    inside = None if free is None else blocks_of(free.double(), size)
    step = max(1, TOGETHER // size**2)
    solved = [_solve(blocks, parts, inside, damping, slice(i, i + step)) for i in range(0, len(blocks), step)]
    return torch.cat(solved).reshape(-1)[: len(vector)]


def numerator(gradient_sum: Float[Tensor, " d"], theta: Float[Tensor, " d"], *, k: int, weight_decay: float) -> Float[Tensor, " d"]:
    """sum_{i in S} g_i + k mu theta: at a minimum of mean loss + mu/2 |theta|^2, minus (n - k) times the retained gradient.

    Args:
        gradient_sum: sum of the gradients of the samples to erase, regulariser not included.
        theta: current parameters.
        k: samples to erase.
        weight_decay: mu.
    """
    return gradient_sum.double() + k * weight_decay * theta.double()


def erasure_step(
    fisher: Float[Tensor, "blocks size size"],
    gradient_sum: Float[Tensor, " d"],
    theta: Float[Tensor, " d"],
    *,
    n: int,
    k: int,
    damping: float = 0.0,
    weight_decay: float = 0.0,
) -> Float[Tensor, " d"]:
    """The step of length epsilon = 1: F^-1 (sum_{i in S} g_i + k mu theta) / (n - k), to be added to theta.

    At a minimum of (1/n) sum_i l_i + mu/2 |theta|^2 the numerator is minus (n - k) times the gradient on the retained
    samples, so with the retained Hessian in the place of F this is Newton's step, exact for a quadratic loss.

    Args:
        fisher: diagonal blocks of F (or of a Hessian).
        gradient_sum: sum of the gradients of the samples to erase, regulariser not included.
        theta: current parameters.
        n: training samples.
        k: samples to erase, < n.
        damping: lambda still to be added to F, absolute.
        weight_decay: mu.
    """
    asked = numerator(gradient_sum, theta, k=k, weight_decay=weight_decay)
    return solve_blocks(fisher, asked, damping=damping) / (n - k)


def mean_diagonal(blocks: Float[Tensor, "blocks size size"], count: int) -> float:
    """Mean of the first `count` diagonal entries: the scale that relative damping is relative to."""
    return float(blocks.diagonal(dim1=-2, dim2=-1).double().sum() / count)


def blocks_of(rows: Tensor, size: int) -> Tensor:
    """The last dimension cut into blocks of `size`, [..., blocks, size]; the last one is filled up with zeros."""
    missing = -rows.shape[-1] % size
    return torch.nn.functional.pad(rows, (0, missing)).reshape(*rows.shape[:-1], -1, size)


def _solve(blocks: Tensor, parts: Tensor, inside: Tensor | None, damping: float, some: slice) -> Float[Tensor, "some size"]:
    """A few blocks at once."""
    damped = blocks[some].to(torch.float64, copy=True)
    if inside is not None:  # what is outside decouples: the inverse of the part inside
        damped *= inside[some].unsqueeze(1) * inside[some].unsqueeze(2)
    damped.diagonal(dim1=-2, dim2=-1).add_(damping)
    factors, info = torch.linalg.cholesky_ex(damped)
    if int(info.count_nonzero()):
        raise Anomalous(
            f"Block {some.start + int(info.nonzero()[0]) + 1} of {len(blocks)} of the Fisher matrix is not positive definite at damping"
            f" {damping:.3g}.",
            "Its smallest eigenvalue is lost in rounding.",
            "Use a larger damping.",
        )
    return torch.cholesky_solve(parts[some].unsqueeze(-1), factors).squeeze(-1)
