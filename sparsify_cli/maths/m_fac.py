"""Products with the inverse of a Fisher matrix over all weights at once, and its diagonal: the inverse is never formed.

With gradients g_1 .. g_m as the rows of G and F = c I + (1/m) G^T G, the published recurrences are

    a_i = g_i/c - sum_{j<i} a_j (a_j.g_i)/den_j          den_i = m + g_i.a_i
    F^-1 x = x/c - sum_i a_i (a_i.x)/den_i               diag F^-1 = 1/c - sum_i a_i^2/den_i

They are a Cholesky factorisation in other words: with m c I + G G^T = L L^T, the rows of V = L^-1 G are sqrt(c/den_i) a_i, so

    F^-1 = (I - V^T V) / c

which takes the same m^2 d operations, as matrix products. Removing a set P of weights for good changes those that stay by

    (F_SS)^-1 F_SP w_P = G_S^T (m c I + G_S G_S^T)^-1 G_P w_P

Source: Frantar, Kurtic and Alistarh 2021, arXiv 2107.03356, section 3.1 (static algorithm), code IST-DASLab/M-FAC (prun.py).
Differs: products of matrices instead of m passes over m vectors; the repair is exact for all removed weights together, where theirs
adds up what each would ask for alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import Anomalous

COLUMNS = 2**13
"""Weights whose gradients are in float64 at a time."""


@dataclass(frozen=True, eq=False)
class InverseProducts:
    """The inverse of c I + (1/m) G^T G, as G and an m x m factor.

    Args:
        gradients: G, one row a sample; float32 is fine.
        damping: c > 0, absolute.
        factor: lower triangular L, float64.
    """

    gradients: Float[Tensor, "m d"]
    damping: float
    factor: Float[Tensor, "m m"]

    @classmethod
    def of(cls, gradients: Float[Tensor, "m d"], damping: float, kept: Bool[Tensor, " d"] | None = None) -> InverseProducts:
        """Factorise, over the weights `kept` only where given.

        Raises:
            Anomalous: m c I + G G^T is not positive definite.
        """
        gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients.device)
        for part in column_slices(gradients):
            rows = _precise(gradients[:, part], None if kept is None else kept[part])
            gram.addmm_(rows, rows.T)
        gram.diagonal().add_(len(gradients) * damping)
        factor, info = torch.linalg.cholesky_ex(gram)
        if int(info) or not bool(factor.isfinite().all()):
            raise Anomalous(
                "The Fisher matrix has no inverse.", "Its smallest eigenvalue is lost in rounding.", "Raise the solver's damping."
            )
        return cls(gradients, damping, factor)

    def product(self, x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """F^-1 x, float64."""
        x = x.double()
        seen = torch.zeros(len(self.factor), dtype=torch.float64, device=x.device)
        for part in column_slices(self.gradients):
            seen += self.gradients[:, part].double() @ x[part]
        inside = torch.cholesky_solve(seen[:, None], self.factor)[:, 0]
        return (x - _combined(inside, self.gradients)) / self.damping

    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal of F^-1, float64, > 0."""
        diagonal = self.factor.new_empty(self.gradients.shape[1])
        for part in column_slices(self.gradients):
            directions = torch.linalg.solve_triangular(self.factor, self.gradients[:, part].double(), upper=False)
            diagonal[part] = (1 - directions.square_().sum(0)) / self.damping
        return diagonal.clamp(min=torch.finfo(torch.float64).eps / self.damping)


def column_slices(gradients: Float[Tensor, "m d"]) -> list[slice]:
    """Runs of weights that are in float64 together."""
    return [slice(start, start + COLUMNS) for start in range(0, gradients.shape[1], COLUMNS)]


def repaired_by_gradients(
    weights: Float[Tensor, " d"], gradients: Float[Tensor, "m d"], damping: float, kept: Bool[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """The weights that stay, after all others have been removed at once; zero where removed.

    Args:
        weights: float64.
        gradients: G.
        damping: c > 0, absolute.
        kept: which stay.
    """
    lost = torch.where(kept, 0, weights)
    pull = torch.zeros(len(gradients), dtype=torch.float64, device=weights.device)
    for part in column_slices(gradients):
        pull += gradients[:, part].double() @ lost[part]
    inside = torch.cholesky_solve(pull[:, None], InverseProducts.of(gradients, damping, kept).factor)[:, 0]
    return torch.where(kept, weights + _combined(inside, gradients), 0)


def m_fac_bytes(weights: int, samples: int) -> int:
    """Bytes of the gradients in float32, of an m x m matrix and its factor, and of work in float64."""
    return 4 * samples * weights + 16 * samples**2 + 3 * 8 * samples * min(COLUMNS, weights)


def _combined(coefficients: Float[Tensor, " m"], gradients: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """The sum of the gradients times their coefficients, float64."""
    total = coefficients.new_empty(gradients.shape[1])  # filled in place: small results between large buffers would scatter memory
    for part in column_slices(gradients):
        total[part] = coefficients @ gradients[:, part].double()
    return total


def _precise(rows: Tensor, kept: Tensor | None) -> Float[Tensor, "m columns"]:
    precise = rows.double()
    return precise if kept is None else precise * kept
