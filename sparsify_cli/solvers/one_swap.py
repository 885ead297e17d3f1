"""One-swap: exchange one kept for one pruned weight wherever that lowers the layer's error exactly, then refit.

    start    the mask of a simple score
    swap     in every row, prune p and keep q instead, whichever pair lowers the error most, until none does (see candidates)
    refit    the weights on the mask that change outputs least

The error of a row is e H e^T with e its pruned weights and H the damped Gram matrix; a swap's change is found from H without
going through the data (`maths/swaps.py`). For N:M both weights lie in one group. With scope=layer weights are also exchanged
between rows, in rounds. Useless weights (an input that is never active, or pruned before) are not taken back.

Source: the idea of SparseSwaps (arXiv 2512.10922, abstract), from Wanda's mask (Sun et al. 2023, arXiv 2306.11695). Differs: exact
counts; damping; the refit, without which the swaps see an error that is no longer there; exchange between rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.maths.gram import damped
from sparsify_cli.maths.refit import refit
from sparsify_cli.maths.swaps import HELD, Swaps
from sparsify_cli.maths.usable import Usable, best, best_of_rows


@dataclass(frozen=True)
class OneSwap(LayerSolver):
    """A mask by score, improved by exact swaps, then the least-squares weights on it.

    Args:
        mask: what chooses the first mask: `magnitude`, `wanda`, or `wanda-row`.
        swaps: in a row, at most; with scope=layer in every round.
        scope: `row` = both weights of a swap in one row; `layer` = also between rows, unless the pattern is N:M.
        rounds: of scope=layer, at most; in each every row trades at most one weight, then swaps inside.
        candidates: kept and pruned weights of a row that are paired, the most promising ones alone; 0 = all, which is exact and
            takes columns^2 a swap.
        refit: set the weights by least squares in the end; else they stay as they were.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    mask: Literal["magnitude", "wanda", "wanda-row"] = "wanda"
    swaps: Annotated[int, Field(ge=0)] = 40
    scope: Literal["row", "layer"] = "row"
    rounds: Annotated[int, Field(ge=0)] = 40
    candidates: Annotated[int, Field(ge=0)] = 32
    refit: bool = True
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True

    def solve(self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep) -> Solution:
        """Prune and repair one layer."""
        dense, hessian = weight.detach().double(), damped(gram.double(), self.damping)
        usable = Usable.of(dense, gram, keep.within)
        mask = self._first(dense, gram.double(), usable, keep)
        layer = Swaps(dense, hessian, usable.live & usable.allowed, keep.pattern.group, self.candidates)
        mask = layer.within_rows(mask, self.swaps)
        if self.scope == "layer" and not keep.pattern.is_grouped:
            mask = self._traded(layer, mask)
        return refit(dense, hessian, mask) if self.refit else dense.masked_fill(~mask, 0), mask

    def layer_memory(self, outputs: int, columns: int) -> int:
        """The damped Gram matrix, the part that a refit factors, prices, and the pairs that are looked at."""
        pairs = min(columns, self.candidates or columns) ** 2
        side_by_side = min(outputs, max(1, HELD // pairs))
        return 8 * (3 * columns**2 + 12 * outputs * columns + 3 * side_by_side * pairs)

    def _first(self, dense: Tensor, gram: Tensor, usable: Usable, keep: Keep) -> Tensor:
        usable.require_room(keep.count, keep.pattern)
        sizes = dense.abs()
        # At a dead input every Wanda score is 0: there, magnitude says which go first.
        scores = sizes if self.mask == "magnitude" else torch.where(usable.live, sizes * gram.diagonal().clamp(min=0).sqrt(), sizes)
        if self.mask == "wanda-row":
            return best_of_rows(usable.ranked(scores), usable.row_counts(keep.count, keep.pattern), keep.pattern)
        return best(usable.ranked(scores), keep.count, keep.pattern)

    def _traded(self, layer: Swaps, mask: Tensor) -> Tensor:
        for _ in range(self.rounds):
            traded = layer.between_rows(mask)
            if torch.equal(traded, mask):
                break
            mask = layer.within_rows(traded, self.swaps)
        return mask
