"""Inverses of many small blocks at once, and what removing weights costs and asks of the others in each.

With F a damped block, A = F^-1 and P a set of weights of the block, S those that stay:

    cost     1/2 w_P^T (A_PP)^-1 w_P                      by which the quadratic model of the loss rises; one weight: w_p^2 / (2 A_pp)
    repair   w_S + (F_SS)^-1 F_SP w_P                     = w - A_:P (A_PP)^-1 w_P, the same for any order of removal
    after    A - A_:p A_p: / A_pp                         the inverse of F without p

The repair asks for no inverse of the whole block, and is exact for all removed weights together.

Source: Woodbury's identity as in Singh and Alistarh 2020 (arXiv 2004.14340): F^-1 -= (F^-1 g)(F^-1 g)^T / (m + g^T F^-1 g), one update a
gradient; optimal brain surgeon, Hassibi and Stork 1993. Differs: with the block's sum at hand, Cholesky factors give the same inverse
in B^3 instead of m B^2 operations; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import Anomalous

IN_FLIGHT = 2**21
"""Numbers of the blocks that are worked on at a time, unless one block is larger: 16 MiB in float64."""
AT_ONCE = 5
"""Copies of those blocks that exist at a time, at most."""


def in_flight(block: int) -> int:
    """Bytes that work on blocks of this width takes beyond the blocks."""
    return 8 * AT_ONCE * max(IN_FLIGHT, block**2)


def parts(blocks: Float[Tensor, "blocks size size"]) -> Iterator[slice]:
    """Runs of blocks that are worked on together."""
    step = max(1, IN_FLIGHT // blocks.shape[-1] ** 2)
    yield from (slice(start, start + step) for start in range(0, len(blocks), step))


def block_inverse(blocks: Float[Tensor, "blocks size size"], damping: float) -> Float[Tensor, "blocks size size"]:
    """(blocks + damping I)^-1, float64.

    Raises:
        Anomalous: a block is not positive definite.
    """
    inverse: Tensor = torch.cholesky_inverse(_factor(damped_blocks(blocks, damping)))
    return inverse


def damped_blocks(blocks: Float[Tensor, "blocks size size"], damping: float) -> Float[Tensor, "blocks size size"]:
    """A copy in float64 with `damping` added to the diagonals."""
    copied = blocks.to(torch.float64, copy=True)
    copied.diagonal(dim1=-2, dim2=-1).add_(damping)
    return copied


def removal_costs(
    weights: Float[Tensor, "blocks size"], inverse: Float[Tensor, "blocks size size"], unit: int = 1
) -> Float[Tensor, "blocks size"]:
    """What each weight's removal alone costs; with units of several weights, each gets an equal part of its unit's cost.

    Args:
        weights: by block.
        inverse: F^-1 by block.
        unit: consecutive weights that go together; divides the size.
    """
    if unit == 1:
        return weights.square() / (2 * inverse.diagonal(dim1=-2, dim2=-1))
    count, size = weights.shape
    corners = inverse.reshape(count, size // unit, unit, size // unit, unit).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    values = weights.reshape(count, -1, unit, 1)
    shares: Tensor = (values * torch.linalg.solve(corners, values)).sum((2, 3)) / (2 * unit)
    return shares.clamp(min=0).repeat_interleave(unit, dim=1)


def cumulative_costs(weights: Float[Tensor, "blocks size"], inverse: Float[Tensor, "blocks size size"]) -> Float[Tensor, "blocks size"]:
    """What has been lost in a block when each weight goes, if the cheapest always goes next and the others make up for it.

    Grows along each block's order of removal, so that the cheapest entries of all blocks are a first part of every order.

    Args:
        weights: by block.
        inverse: F^-1 by block; not written to.
    """
    left, inverse = weights.clone(), inverse.clone()
    rows, lost = torch.arange(len(left), device=left.device), torch.zeros(len(left), dtype=left.dtype, device=left.device)
    gone = torch.zeros_like(left, dtype=torch.bool)
    costs = torch.zeros_like(left)
    for _ in range(left.shape[1]):
        pivots = inverse.diagonal(dim1=-2, dim2=-1)
        cost, first = (left.square() / pivots).masked_fill_(gone, torch.inf).min(dim=1)
        lost += cost / 2
        costs[rows, first], gone[rows, first] = lost, True
        column = inverse[rows, :, first]
        scaled = column / column.gather(1, first[:, None])
        left -= left.gather(1, first[:, None]) * scaled
        inverse.baddbmm_(column[:, :, None], scaled[:, None, :], alpha=-1)
        inverse[rows, first, first] = 1  # gone; what was left of it is rounding
    return costs


def repaired_blocks(
    weights: Float[Tensor, "blocks size"], blocks: Float[Tensor, "blocks size size"], damping: float, kept: Bool[Tensor, "blocks size"]
) -> Float[Tensor, "blocks size"]:
    """The weights that stay, after all others of their block have been removed at once; zero where removed.

    Args:
        weights: by block, float64.
        blocks: F without damping.
        damping: absolute.
        kept: which stay.

    Raises:
        Anomalous: a block is not positive definite.
    """
    full = damped_blocks(blocks, damping)
    lost = torch.where(kept, 0, weights)
    pull = torch.where(kept, (full @ lost.unsqueeze(-1)).squeeze(-1), 0)
    full.mul_((kept[:, :, None] & kept[:, None, :]).to(full.dtype))
    full.diagonal(dim1=-2, dim2=-1).masked_fill_(~kept, 1)
    change = torch.cholesky_solve(pull.unsqueeze(-1), _factor(full)).squeeze(-1)
    return torch.where(kept, weights + change, 0)


def _factor(blocks: Float[Tensor, "blocks size size"]) -> Float[Tensor, "blocks size size"]:
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(blocks)
    if bool(info.any()) or not bool(factor.isfinite().all()):
        raise Anomalous(
            f"{max(1, int(info.count_nonzero()))} of {len(blocks)} blocks of the Fisher matrix have no inverse.",
            "Their smallest eigenvalues are lost in rounding.",
            "Raise the solver's damping.",
        )
    return factor
