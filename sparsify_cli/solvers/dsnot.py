"""DSnoT: from Wanda's mask, regrow the pruned weight that explains a row's mean error best and prune another, cycle after cycle.

    m        what an input adds in the mean: E[x_j], here the leading part of the Gram matrix, see below
    error    e = sum of w_j m_j over the pruned weights of a row
    regrow   the pruned weight with the largest |w_j m_j| / Var[x_j] of those that pull e towards 0
    prune    the kept weight with the lowest Wanda score |w_j| sqrt(E[x_j^2]) of those whose loss does
    stop     when |e| is a small part of the row's output, no such pair is left, or after so many cycles

Only the sign is asked for: a weight may pull e beyond 0, as in the official code. A weight that was moved is not moved back. For N:M both
lie in one group. Then, if asked, least squares sets the weights.

The mean. A solver is given H = X X^T / n, in which means are not kept. With H u = lambda u for the largest lambda, z = u^T x /
sqrt(lambda) is the one combination of inputs that says most about all of them, with E[z^2] = 1, and E[x_j z] = sqrt(lambda) u_j = m_j.
Where inputs lie about their mean (behind a ReLU) z is about 1 and m about E[x]; H = E[x] E[x]^T gives m = +- E[x] exactly, and the
sign does not matter. Where the mean is zero the paper's error vanishes and says nothing, while m still follows what inputs
have in common. Var[x_j] is H_jj - m_j^2.

Source: Zhang et al. 2023, arXiv 2310.08915 (DSnoT); official code zyxxmu/DSnoT. Differs: m for E[x]; the stop is relative to the
root mean square of the row's output (theirs: |e| <= 0.1 in its own unit); exact counts; all layers; the refit, off in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.maths.gram import damped
from sparsify_cli.maths.refit import refit
from sparsify_cli.maths.usable import Usable, best_of_rows


@dataclass(frozen=True)
class DSnoT(LayerSolver):
    """Wanda's mask, moved towards rows without mean error.

    Args:
        cycles: exchanges in a row, at most.
        enough: a row is done when its error is at most this fraction of the root mean square of its output.
        variance: power of the input's variance that a regrown weight's effect is divided by.
        refit: set the weights by least squares in the end; else they stay as they were, as in the paper.
        damping: of the refit, added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    cycles: Annotated[int, Field(ge=0)] = 50
    enough: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    variance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    refit: bool = True
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True

    def solve(self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep) -> Solution:
        """Prune and repair one layer."""
        dense, precise = weight.detach().double(), gram.double()
        usable = Usable.of(dense, precise, keep.within)
        sizes = dense.abs()
        scores = torch.where(usable.live, sizes * precise.diagonal().clamp(min=0).sqrt(), sizes)
        mask = best_of_rows(usable.ranked(scores), usable.row_counts(keep.count, keep.pattern), keep.pattern)
        mask = self._moved(_Rows.of(dense, precise, scores, self.variance, keep.pattern.group), mask, usable.live & usable.allowed)
        return refit(dense, damped(precise, self.damping), mask) if self.refit else dense.masked_fill(~mask, 0), mask

    def layer_memory(self, outputs: int, columns: int) -> int:
        """The decomposition of the Gram matrix with its workspace, then the refit; effects and scores of every weight."""
        return 8 * (4 * columns**2 + 9 * outputs * columns)

    def _moved(self, rows: _Rows, mask: Tensor, free: Tensor) -> Tensor:
        """The mask after the cycles; `free` weights may be moved."""
        mask, free = mask.clone(), free.clone()
        for _ in range(self.cycles):
            error = rows.effect.masked_fill(mask, 0).sum(1)
            regrown, pruned, found = rows.exchange(error, mask, free)
            moved = (found & (error.abs() > self.enough * rows.output)).nonzero().flatten()
            if not len(moved):
                break
            regrown, pruned = regrown[moved], pruned[moved]
            mask[moved, regrown], mask[moved, pruned] = True, False
            free[moved, regrown] = free[moved, pruned] = False
        return mask


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is known of all rows, whatever the mask.

    Args:
        effect: w_j m_j.
        growth: |w_j m_j| over a power of the variance.
        scores: Wanda's.
        output: root mean square of each row's output.
        group: columns inside which weights are exchanged; all of them but for N:M.
    """

    effect: Float[Tensor, "out columns"]
    growth: Float[Tensor, "out columns"]
    scores: Float[Tensor, "out columns"]
    output: Float[Tensor, " out"]
    group: int

    @classmethod
    def of(cls, dense: Tensor, gram: Tensor, scores: Tensor, power: float, group: int) -> _Rows:
        mean = leading(gram)
        diagonal = gram.diagonal()
        floor = max(float(diagonal.mean()) * 1e-6, torch.finfo(diagonal.dtype).tiny)
        effect = dense * mean
        growth = effect.abs() / ((diagonal - mean.square()).clamp(min=floor) / floor) ** power
        output = (dense @ gram * dense).sum(1).clamp(min=0).sqrt()
        return cls(effect, growth, scores, output, group if group > 1 else dense.shape[1])

    def exchange(self, error: Float[Tensor, " out"], mask: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Bool[Tensor, " out"]]:
        """What each row regrows and prunes, and whether it found both."""
        pull = self.effect * error.sign()[:, None]
        losable, returnable = mask & free & (pull < 0), ~mask & free & (pull > 0)
        partner = losable.unflatten(1, (-1, self.group)).any(2).repeat_interleave(self.group, dim=1)
        growth = self.growth.masked_fill(~(returnable & partner), -1)
        regrown = growth.argmax(1)
        columns = torch.arange(mask.shape[1], device=mask.device)
        near = columns // self.group == (regrown // self.group)[:, None]
        pruned = self.scores.masked_fill(~(losable & near), torch.inf).argmin(1)
        return regrown, pruned, growth.gather(1, regrown[:, None])[:, 0] >= 0


def leading(gram: Float[Tensor, "columns columns"]) -> Float[Tensor, " columns"]:
    """sqrt(lambda) u for the largest eigenvalue of a Gram matrix: the part that all inputs have most in common, up to sign."""
    values, vectors = torch.linalg.eigh(gram)
    mean: Tensor = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    return mean
