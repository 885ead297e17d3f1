"""M-FAC: as WoodFisher, with the correlations of all weights of all layers and without ever forming the inverse.

    score   w_i^2 / (2 [F^-1]_ii)                         F = lambda I + (1/m) G^T G over all prunable weights at once
    repair  the weights that stay, in all layers, minimise 1/2 d^T F d, given those that go

Gradients of m samples stand for F, so F has rank m and what it says of d >> m weights is coarse; but a layer can make up for what
another loses. Time m^2 d, memory m d.

Source: Frantar, Kurtic and Alistarh 2021, arXiv 2107.03356; official code IST-DASLab/M-FAC. Differs: damping relative to the mean
diagonal (theirs is 1e-5, absolute); the repair is exact for all weights that go; exact counts; the recurrences are written as a
Cholesky factorisation (`maths/m_fac.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Choose, NetworkSolver, Solved
from sparsify_cli.maths.curvature import GradientCurvature, prune_in_stages
from sparsify_cli.maths.empirical_fisher import absolute, chunk_numbers, drawn, gradient_chunks, live_weights
from sparsify_cli.maths.m_fac import m_fac_bytes
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.network import Network


@dataclass(frozen=True)
class MFAC(NetworkSolver):
    """Matrix-free products with the inverse of one Fisher matrix of the whole network.

    Args:
        gradients: samples whose gradients make the matrix, drawn by seed, anew in every stage; fewer if there are fewer.
        damping: added to the diagonal, relative to its mean over weights that are not zero.
        stages: how often the matrix is computed again on the way, the density falling by the same factor each time; 1 = one shot.
        update: move the weights that stay so that they make up for the others.
    """

    gradients: Annotated[int, Field(ge=1)] = 256
    damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    stages: Annotated[int, Field(ge=1)] = 4
    update: bool = True

    def check(self, pattern: Pattern) -> None:
        """Every pattern can be held: costs of single weights add up, and the repair is for whatever set goes."""

    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair, stage after stage."""
        masks = prune_in_stages(network, choose, lambda stage: self._curvature(network, stage), stages=self.stages, update=self.update)
        return Solved(network.weights(), masks)

    def memory(self, sizes: Sequence[int], samples: int) -> int:
        """Gradients and work on some of them, a chunk of gradients on the way, a copy of the network and vectors of its length.

        What the network remembers of the 16 samples of a chunk on the way is not told by sizes and comes on top.
        """
        weights = sum(sizes)
        return m_fac_bytes(weights, min(samples, self.gradients)) + 8 * chunk_numbers(weights) + 40 * weights

    def _curvature(self, network: Network, stage: int) -> GradientCurvature:
        gradients = _gathered(network, self.gradients, stage)
        # Row by row: float64 copies of all gradients would take twice their memory.
        trace = sum(float(row.double().square().sum()) for row in gradients) / max(1, len(gradients))
        return GradientCurvature(gradients, absolute(self.damping, trace, live_weights(network)))


def _gathered(network: Network, count: int, stage: int) -> Float[Tensor, "m d"]:
    """Gradients of some samples, zero at weights that are zero."""
    samples, live = drawn(network, count, stage), live_weights(network)
    mask = torch.cat(list(live.values()))
    gathered = torch.empty(len(samples), len(mask), dtype=torch.float32, device=mask.device)
    start = 0
    for rows in gradient_chunks(network, samples):
        chunk = torch.cat([rows[name] for name in live], dim=1)
        torch.mul(chunk, mask, out=gathered[start : start + len(chunk)])
        start += len(chunk)
    return gathered
