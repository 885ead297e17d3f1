"""Least-squares refit: keep the best by a simple score, then set them so that outputs change least, exactly.

    magnitude    keep the largest |w| of the layer
    wanda        keep the largest |w| sqrt(E[x^2]) of the layer
    wanda-row    the same, an equal share of every output row

    refit        v_S = (H_SS)^-1 (H w)_S for every row with support S, H = the damped Gram matrix

No other weights on the same mask change the outputs less, damping apart. Useless weights (an input that is never active, or
pruned before) go first; N:M keeps the best N of each group of M.

Source: the refit is optimal brain surgeon for many weights at once (Hassibi and Stork 1993), by Cholesky factors; the scores are
Sun et al. 2023, arXiv 2306.11695 (Wanda), and magnitude. Differs: exact counts; Wanda itself does not repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.gram import damped
from sparsify_cli.maths.refit import refit
from sparsify_cli.maths.usable import Usable, best, best_of_rows
from sparsify_cli.recipes.pattern import Pattern


@dataclass(frozen=True)
class Refit(LayerSolver):
    """A mask by score, then the exact least-squares weights on it.

    Args:
        mask: what chooses the weights that stay: `magnitude`, `wanda`, or `wanda-row`.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    mask: Literal["magnitude", "wanda", "wanda-row"] = "wanda"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True
    transposes: ClassVar[bool] = True

    def check(self, pattern: Pattern) -> None:
        """All but blocks, and equal shares of rows where rows depend on each other."""
        super().check(pattern)
        if pattern.transposed and self.mask == "wanda-row":
            raise BadRequest(f"mask=wanda-row cannot hold {pattern}.", "Rows depend on each other there.", "Choose mask=wanda.")

    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Prune and repair one layer."""
        dense, precise = weight.detach().double(), gram.double()
        mask = self._chosen(dense, precise, keep)
        return refit(dense, damped(precise, self.damping), mask), mask

    def layer_memory(self, outputs: int, columns: int) -> int:
        """The damped Gram matrix, and the largest part of it with its factor."""
        return 8 * (3 * columns**2 + 7 * outputs * columns)

    def _chosen(self, dense: Tensor, gram: Tensor, keep: Keep) -> Tensor:
        usable = Usable.of(dense, gram, keep.within)
        usable.require_room(keep.count, keep.pattern)
        sizes = dense.abs()
        # At a dead input every Wanda score is 0: there, magnitude says which go first.
        scores = sizes if self.mask == "magnitude" else torch.where(usable.live, sizes * gram.diagonal().clamp(min=0).sqrt(), sizes)
        if self.mask == "wanda-row":
            return best_of_rows(usable.ranked(scores), usable.row_counts(keep.count, keep.pattern), keep.pattern)
        return best(usable.ranked(scores), keep.count, keep.pattern)
