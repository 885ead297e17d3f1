"""Least-squares refit: the weights on a given mask that change a layer's outputs least.

Every row w of the matrix view has its own support S (kept) and complement P (pruned); all share one Gram matrix H:

    v_S = w_S + (H_SS)^-1 (H_SP w_P) = (H_SS)^-1 (H w)_S          v_P = 0

The first form is computed: a row that loses nothing stays as it is, bit for bit, and digits are lost only in the correction.

    exact      Cholesky factors of the H_SS, one for each distinct support, in batches of supports of like size
    iterative  conjugate gradients on all rows at once, preconditioned by the diagonal of H, one product with H an iteration

Source: Hassibi and Stork 1993 (optimal brain surgeon) for removing several weights at once; batched conjugate gradients on
the support as in Meng et al. 2024 (ALPS, arXiv 2406.07831), which stops after 10 iterations, while ours stops at a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import Anomalous

HELD = 2**19
"""Numbers of sub-matrices that are held at a time, unless one is larger: 4 MiB in float64, which caches hold."""
WORTH = 32
"""Iterations that conjugate gradients need about for a residual of 1e-4 from a good start; for choosing the cheaper way."""


def refit(
    weight: Float[Tensor, "out columns"], hessian: Float[Tensor, "columns columns"], mask: Bool[Tensor, "out columns"]
) -> Float[Tensor, "out columns"]:
    """The exact optimum on a mask, float64 and zero where pruned.

    Args:
        weight: matrix view of the dense layer.
        hessian: X X^T / n, symmetric and positive definite on every support; damp it before (`gram.damped`).
        mask: what stays.

    Raises:
        Anomalous: a sub-matrix has no inverse.
    """
    dense = weight.double()
    lost = dense.masked_fill(mask, 0) @ hessian
    repaired = dense.masked_fill(~mask, 0)
    concerned = (lost.masked_fill(~mask, 0) != 0).any(1).nonzero().flatten()
    for rows, places in _batches(mask[concerned]):
        rows = concerned[rows]
        correction = _solved(hessian, places, lost[rows])
        repaired[rows] = repaired[rows] + correction.masked_fill(~mask[rows], 0)
    return repaired


def exact_cost(mask: Bool[Tensor, "out columns"]) -> float:
    """Multiplications and additions of `refit` if all supports differ."""
    return float(mask.sum(1).double().pow(3).sum()) / 3


def is_exact_cheaper(mask: Bool[Tensor, "out columns"], *, than: int = WORTH) -> bool:
    """Whether Cholesky factors cost no more than so many iterations of conjugate gradients: products of the layer with the Gram matrix."""
    return exact_cost(mask) <= than * 2.0 * mask.numel() * mask.shape[1]


def refit_by_iteration(
    weight: Float[Tensor, "out columns"],
    hessian: Float[Tensor, "columns columns"],
    mask: Bool[Tensor, "out columns"],
    *,
    start: Float[Tensor, "out columns"] | None = None,
    tolerance: float = 1e-4,
    most: int = 500,
) -> Float[Tensor, "out columns"]:
    """The optimum on a mask by conjugate gradients; never worse than the start, iteration after iteration better.

    Args:
        weight, hessian, mask: as for `refit`.
        start: where to begin; the weights that stay when not given.
        tolerance: a row is done when its residual is at most this fraction of that of v = 0.
        most: iterations at most.
    """
    scale = hessian.diagonal().rsqrt()  # in the variables v / scale the preconditioner is the identity
    unit = hessian * scale * scale[:, None]
    dense = weight.double() / scale
    found = (dense if start is None else start.double() / scale).masked_fill(~mask, 0)
    residual = ((dense - found) @ unit).masked_fill(~mask, 0)
    enough = tolerance**2 * (dense @ unit).masked_fill(~mask, 0).square().sum(1)
    direction, norm = residual.clone(), residual.square().sum(1)
    rows = torch.arange(len(weight), device=weight.device)
    for _ in range(most):
        active = norm > enough[rows]
        if not bool(active.any()):
            break
        if int(active.sum()) <= 0.9 * len(rows):
            rows, residual, direction, norm = rows[active], residual[active], direction[active], norm[active]
        image = (direction @ unit).masked_fill_(~mask[rows], 0)
        step = (norm / (direction * image).sum(1).clamp(min=torch.finfo(norm.dtype).tiny))[:, None]
        found[rows] = found[rows].addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        before, norm = norm, residual.square().sum(1)
        direction.mul_((norm / before.clamp(min=torch.finfo(norm.dtype).tiny))[:, None]).add_(residual)
    return found * scale


def _batches(mask: Bool[Tensor, "rows columns"]) -> Iterator[tuple[Tensor, Bool[Tensor, "supports columns"]]]:
    """Rows and their supports: one support that several rows share at a time, or several of like size with a row each."""
    if not len(mask):
        return
    supports, which, shared = mask.unique(dim=0, return_inverse=True, return_counts=True)
    for support in (shared > 1).nonzero().flatten():
        yield (which == support).nonzero().flatten(), supports[support][None]
    alone = (shared[which] == 1).nonzero().flatten()
    alone = alone[mask[alone].sum(1).sort(descending=True, stable=True).indices]
    while len(alone):
        widest = max(1, int(mask[alone[0]].sum()))
        batch, alone = alone.tensor_split([max(1, HELD // widest**2)])
        yield batch, mask[batch]


def _solved(
    hessian: Float[Tensor, "columns columns"], places: Bool[Tensor, "supports columns"], lost: Float[Tensor, "rows columns"]
) -> Float[Tensor, "rows columns"]:
    """(H_SS)^-1 lost_S for each row, put back to its places; other places hold what must not be read."""
    sizes = places.sum(1)
    kept = places.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, : int(sizes.max())]
    padding = torch.arange(kept.shape[1], device=kept.device) >= sizes[:, None]
    blocks = hessian[kept[:, :, None], kept[:, None, :]]
    if bool(padding.any()):
        blocks.masked_fill_(padding[:, :, None] | padding[:, None, :], 0).diagonal(dim1=1, dim2=2)[padding] = 1
    lower, info = torch.linalg.cholesky_ex(blocks)
    if bool(info.any()) or not bool(lower.diagonal(dim1=1, dim2=2).isfinite().all()):
        raise Anomalous(
            f"The Gram matrix of {int(sizes.max())} inputs has no inverse.", "Some inputs depend on others.", "Raise the solver's damping."
        )
    if len(places) == 1:
        found = torch.cholesky_solve(lost[:, kept[0]].mT[None], lower)[0].mT
        return torch.zeros_like(lost).index_copy_(1, kept[0], found)
    sides = lost.gather(1, kept).masked_fill(padding, 0)
    return torch.zeros_like(lost).scatter_(1, kept, torch.cholesky_solve(sides[:, :, None], lower)[:, :, 0])
