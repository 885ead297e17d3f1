"""SparseGPT: block after block of columns, prune what costs least and let the columns to the right make up for it.

With H the damped Gram matrix and R the upper triangular factor of its inverse, H^-1 = R^T R:

    mask      in a block of columns, keep the highest (w_j / R_jj)^2, after all columns to the left have been dealt with
    repair    column by column, err_j = (w_j - kept w_j) / R_jj ; W[:, j:] -= err_j R[j, j:]

(w_j / R_jj)^2 is the change of the layer's outputs when column j is zeroed and all columns to its right are refitted.

Counting. The layer keeps exactly `keep.count` weights, chosen by stable order through `maths/keep.py`. With budget=layer a
block competes with every column that is not decided yet: the count still to be kept is ranked over all of them, and the
block gets its part of that ranking. With budget=block, as in the paper, each block keeps the same share of the weights it
has that are useful, by largest remainder. For N:M a block is one group of M columns, so that each group is decided after
everything to its left was repaired; groups hold at most N, and exactly N at the sparsity the pattern implies. Useless
weights (an input that is never active, or pruned before) go first.

Source: Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1 and section 3; official code IST-DASLab/sparsegpt. Differs: blocks
compete by default (on layers of small trained networks the changes of outputs are 1/4 to 3/4 of those with equal shares);
exact counts (theirs prune `<=` a threshold, one too many and all ties); N of N:M is kept, not removed; H = gram without the
factor 2, damped relative to the mean diagonal of live inputs; float64; small layers get narrower blocks than 128, because
with one block for the whole layer the mask never sees a repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, Solver
from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.gram import damped, inverse_factor
from sparsify_cli.maths.keep import apportion, top_k, top_k_of_groups
from sparsify_cli.recipes.pattern import Pattern

WIDEST = 128
"""Columns of a block in the paper."""


@dataclass(frozen=True)
class SparseGPT(Solver):
    """One pass over the columns with an inverse Hessian.

    Args:
        block: columns that are decided together; 0 = a sixty-fourth of the layer's, at least 1 and at most 128. N:M: always M.
        budget: `layer` = a block competes with all undecided columns; `block` = every block keeps an equal share.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    block: Annotated[int, Field(ge=0)] = 0
    budget: Literal["layer", "block"] = "layer"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True

    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Prune and repair one layer."""
        work = weight.detach().double().clone()
        mask = torch.zeros_like(work, dtype=torch.bool)
        useful = _Useful.of(gram, mask if keep.within is None else ~keep.within)
        factor = inverse_factor(damped(gram.double(), self.damping))
        width = self._width(work.shape[1], keep.pattern)
        for start, shared in zip(range(0, work.shape[1], width), _shares(useful, width, keep), strict=True):
            here, rest = slice(start, start + width), slice(start + width, None)
            scores = useful.ranked((work[:, start:] / factor.diagonal()[start:]).square(), start)
            if self.budget == "layer":
                mask[:, here] = _selected(scores, keep.count - int(mask.sum()), keep.pattern)[:, :width]
            else:
                mask[:, here] = _selected(scores[:, :width], shared, keep.pattern)
            errors = _repaired(work[:, here], mask[:, here], factor[here, here])
            work[:, rest] -= errors @ factor[here, rest]
        return work.masked_fill(~mask, 0), mask

    def _width(self, columns: int, pattern: Pattern) -> int:
        return pattern.group if pattern.is_grouped else self.block or min(WIDEST, max(1, columns // 64))


@dataclass(frozen=True, eq=False)
class _Useful:
    """Which weights matter: live ones see an input that is active, pruned ones are zero already."""

    live: Bool[Tensor, "out columns"]
    pruned: Bool[Tensor, "out columns"]

    @classmethod
    def of(cls, gram: Tensor, pruned: Tensor) -> _Useful:
        return cls((gram.diagonal() > 0).expand_as(pruned), pruned.clone())

    def ranked(self, scores: Float[Tensor, "out rest"], start: int) -> Float[Tensor, "out rest"]:
        """Scores >= 0 of the columns from `start` on; at dead inputs below 0, in the same order; where pruned lowest of all."""
        dead = scores / (1 + scores) - 2  # in [-2, -1]
        return torch.where(self.live[:, start:], scores, dead).masked_fill(self.pruned[:, start:], -3)

    def blocks(self, width: int) -> list[Tensor]:
        return list((self.live & ~self.pruned).split(width, dim=1))


def _shares(useful: _Useful, width: int, keep: Keep) -> list[int]:
    """Equal shares of the count for every block of columns; useless weights count only where the useful are too few.

    Raises:
        Infeasible: the pattern has no room for the count.
    """
    blocks = useful.blocks(width)
    good, room = [_room(part, keep.pattern) for part in blocks], [_room(torch.ones_like(part), keep.pattern) for part in blocks]
    if keep.count > sum(room):
        raise Infeasible(f"{keep.count} weights of a layer should stay, and {keep.pattern} lets {sum(room)} stay.")
    if keep.count > sum(good):
        return apportion([Fraction(count) for count in room], keep.count, room, floors=good)
    return apportion([Fraction(count) for count in good], keep.count, good)


def _room(places: Bool[Tensor, "out width"], pattern: Pattern) -> int:
    return int(places.reshape(-1, pattern.group).sum(1).clamp(max=pattern.keep).sum())


def _selected(scores: Float[Tensor, "out rest"], count: int, pattern: Pattern) -> Bool[Tensor, "out rest"]:
    """The `count` highest scores that the pattern lets stay."""
    groups = scores.reshape(-1, pattern.group)
    candidates = groups.masked_fill(~top_k_of_groups(groups, pattern.keep), -torch.inf)
    return top_k(candidates.flatten(), count).view_as(scores)


def _repaired(
    columns: Float[Tensor, "out width"], kept: Bool[Tensor, "out width"], factor: Float[Tensor, "width width"]
) -> Float[Tensor, "out width"]:
    """Repair the columns of a block in place, left to right; returns each column's error for those further right."""
    errors = torch.zeros_like(columns)
    for j in range(columns.shape[1]):
        errors[:, j] = columns[:, j].masked_fill(kept[:, j], 0) / factor[j, j]
        columns[:, j:] -= torch.outer(errors[:, j], factor[j, j:])
    return errors
