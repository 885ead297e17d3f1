"""Greedy forward selection: keep whole input channels, added one by one so that their sum imitates the layer's outputs best.

    line     towards the channel, and by the step, that bring the outputs closest; a convex combination of channels
    fixed    the same with a step of 1/(n+1): the coefficient of a channel is how often it was taken / n
    refit    orthogonal matching pursuit: the channel most like what is missing, then all coefficients by least squares

The coefficients go into the weights, a_i N W_i for N channels that add something; with `refit` (the default) least squares
sets every weight of the channels that stay instead. As many channels stay as are needed for the count; of the last one the
largest weights. A channel is a column, or with `positions` the columns of one channel at all kernel positions, where these
divide the layer's columns.

N:M keeps N of M consecutive channels, the same for all outputs. Useless weights (an input that is never active, or pruned
before) go first; channels that no step brings closer follow by the size of what they add.

Source: Ye et al. 2020, "Greedy Optimization Provably Wins the Lottery" (local imitation) and "Good Subnetworks Provably Exist";
Pati et al. 1993 (matching pursuit). Differs: stops at a count, not at an accuracy; closed form from the Gram matrix; the refit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.maths.channel_terms import by_channel, channel_counts, channel_terms
from sparsify_cli.maths.forward_selection import Selection, Terms, Wanted, fixed_step, line_search, pursuit
from sparsify_cli.maths.gram import damped
from sparsify_cli.maths.refit import refit
from sparsify_cli.maths.usable import Usable, best


@dataclass(frozen=True)
class Greedy(LayerSolver):
    """Whole input channels by forward selection.

    Args:
        step: `line` = best step, `fixed` = 1/(n+1), `refit` = least squares on the coefficients.
        repeats: `line` and `fixed` may take a channel again, which raises its coefficient.
        away: `line` may also step away from a channel.
        refit: least squares sets the kept weights; else the coefficients scale them, as in the paper.
        positions: kernel positions of a channel, 9 for 3x3; 0 = those of the layer.
        damping: of the refit, added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    step: Literal["line", "fixed", "refit"] = "refit"
    repeats: bool = True
    away: bool = True
    refit: bool = True
    positions: Annotated[int, Field(ge=0)] = 0
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True

    def solve(self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep) -> Solution:
        """Prune and repair one layer."""
        dense, precise = weight.detach().to(torch.float64, copy=True), gram.double()
        usable = Usable.of(dense, precise, keep.within)
        usable.require_room(keep.count, keep.pattern)
        if keep.count == dense.numel():
            return dense, torch.ones_like(dense, dtype=torch.bool)
        asked = self.positions or keep.positions
        positions = asked if dense.shape[1] % asked == 0 else 1
        terms = channel_terms(dense, precise, positions=positions)
        found = self._selected(terms, self._wanted(terms, usable, keep, positions))
        mask = best(usable.ranked(_ranks(dense, terms, found, positions)), keep.count, keep.pattern)
        if self.refit:
            return refit(dense, damped(precise, self.damping), mask), mask
        scale = torch.where(terms.live, found.coefficients * int(terms.live.sum()), 1.0)
        return (dense * by_channel(scale, positions=positions)).masked_fill(~mask, 0), mask

    def layer_memory(self, outputs: int, columns: int) -> int:
        """Products of the channels, those that are taken one after another, then the refit."""
        return 8 * (5 * columns**2 + 9 * outputs * columns)

    def _wanted(self, terms: Terms, usable: Usable, keep: Keep, positions: int) -> Wanted:
        """Channels that add something, by how many usable weights they have."""
        sizes = channel_counts(usable.live & usable.allowed, positions=positions) * terms.live
        grouped = len(sizes) % keep.pattern.group == 0
        return Wanted(sizes, keep.count, keep.pattern.group, keep.pattern.keep) if grouped else Wanted(sizes, keep.count)

    def _selected(self, terms: Terms, wanted: Wanted) -> Selection:
        if self.step == "refit":
            return pursuit(terms, wanted)
        if self.step == "line":
            return line_search(terms, wanted, repeats=self.repeats, away=self.away)
        return fixed_step(terms, wanted, repeats=self.repeats)


def _ranks(dense: Tensor, terms: Terms, found: Selection, positions: int) -> Float[Tensor, "out columns"]:
    """Scores: the channels in the order taken, then by what they add; inside a channel by magnitude."""
    channels = len(terms.towards)
    standing = torch.zeros(channels, dtype=torch.float64, device=dense.device)
    rest = terms.products.diagonal().clone()
    rest[found.order] = -1
    others = rest.sort(descending=True, stable=True).indices[: channels - len(found.order)]
    standing[[*found.order, *others.tolist()]] = torch.arange(channels, 0, -1, dtype=torch.float64, device=dense.device)
    sizes = dense.abs()
    return by_channel(standing, positions=positions) + sizes / (2 * sizes.max().clamp(min=torch.finfo(sizes.dtype).tiny))
