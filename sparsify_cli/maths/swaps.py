"""Exact swaps: which kept weight to prune and which pruned one to keep instead, so that a layer's outputs change least.

A row w with support S loses e = w on its pruned places, which changes its output by e H e^T, H = X X^T / n. With g = 2 e H,

    drop_p  =  w_p g_p + w_p^2 H_pp        change of the row's loss when a kept p is pruned
    take_q  = -w_q g_q + w_q^2 H_qq        change when a pruned q is kept
    swap    =  drop_p + take_q - 2 w_p w_q H_pq

The most negative swap of each row is done until none is below zero by more than rounding, then g += 2 (w_p H_p - w_q H_q).
Swaps between two rows have no last term; when each row takes part in at most one, their changes add up exactly.

Source: the idea of SparseSwaps (arXiv 2512.10922, abstract); the formula is (e + w_p - w_q) H (e + w_p - w_q)^T written out. All rows
of a batch swap at once; differs in nothing known, their code was not published when this was written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HELD = 2**22
"""Pairs that are looked at at a time; 32 MiB in float64."""
ROUNDING = 1e-12
"""Part of a row's own output below which a change counts as none."""


@dataclass(frozen=True, eq=False)
class Swaps:
    """A layer whose mask is to be improved.

    Args:
        weight: its matrix view, float64; swaps leave the values as they are.
        hessian: X X^T / n, float64, symmetric and positive semidefinite.
        takeable: weights that may be kept, when not now then after a swap.
        group: a swap stays inside so many consecutive columns (N:M); 1 = anywhere in the row.
        candidates: kept weights that are cheapest alone, and as many pruned ones, among which pairs are sought; 0 = all, exact.
    """

    weight: Float[Tensor, "out columns"]
    hessian: Float[Tensor, "columns columns"]
    takeable: Bool[Tensor, "out columns"]
    group: int = 1
    candidates: int = 0

    def within_rows(self, mask: Bool[Tensor, "out columns"], most: int) -> Bool[Tensor, "out columns"]:
        """The mask after up to `most` swaps in every row, the best one each time; rows keep their counts."""
        pairs = self._pairs(mask)
        parts = torch.arange(len(mask), device=mask.device).split(max(1, HELD // max(1, pairs)))
        return torch.cat([self._improved(rows, mask[rows].clone(), most) for rows in parts]) if len(mask) else mask.clone()

    def between_rows(self, mask: Bool[Tensor, "out columns"]) -> Bool[Tensor, "out columns"]:
        """The mask after one round of swaps between rows, each in at most one; the layer keeps its count."""
        drop, take = prices(self.weight, self.hessian, mask, self.takeable)
        cheapest, wanted = drop.min(1), take.min(1)
        improved, least = mask.clone(), self._least(slice(None)).tolist()
        givers, takers = cheapest.values.argsort(stable=True).tolist(), wanted.values.argsort(stable=True).tolist()
        busy: set[int] = set()
        for taker in takers:
            giver = next((row for row in givers if row not in busy and row != taker), None)
            if taker in busy or giver is None:
                continue
            if float(cheapest.values[giver] + wanted.values[taker]) < -(least[giver] + least[taker]):
                improved[giver, cheapest.indices[giver]] = False
                improved[taker, wanted.indices[taker]] = True
                busy |= {giver, taker}
        return improved

    def _pairs(self, mask: Tensor) -> int:
        columns = mask.shape[1]
        if self.group > 1:
            return columns * self.group
        kept = int(mask.sum(1).max()) if len(mask) else 0
        return min(kept, self.candidates or kept) * min(columns, self.candidates or columns)

    def _least(self, rows: Tensor | slice) -> Float[Tensor, " rows"]:
        weight = self.weight[rows]
        return ROUNDING * (weight @ self.hessian * weight).sum(1).clamp(min=0)

    def _improved(self, rows: Int[Tensor, " rows"], mask: Bool[Tensor, "rows columns"], most: int) -> Bool[Tensor, "rows columns"]:
        weight, takeable, least = self.weight[rows], self.takeable[rows], self._least(rows)
        slope = 2 * weight.masked_fill(mask, 0) @ self.hessian
        busy = torch.arange(len(rows), device=rows.device)
        for _ in range(most):
            change, out, into = self._best(*_priced(weight[busy], self.hessian, mask[busy], takeable[busy], slope[busy]), weight[busy])
            better = change < -least[busy]
            busy, out, into = busy[better], out[better], into[better]
            if not len(busy):
                break
            mask[busy, out], mask[busy, into] = False, True
            slope[busy] += 2 * (weight[busy, out, None] * self.hessian[out] - weight[busy, into, None] * self.hessian[into])
        return mask

    def _best(self, drop: Tensor, take: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best swap of each row: its change, what it prunes and what it keeps."""
        if self.group > 1:
            return self._best_in_groups(drop, take, weight)
        outs, intos = self._short(drop), self._short(take)
        cross = self.hessian[outs[:, :, None], intos[:, None, :]]
        cross.mul_(weight.gather(1, outs)[:, :, None]).mul_(weight.gather(1, intos)[:, None, :])
        changes = cross.mul_(-2).add_(drop.gather(1, outs)[:, :, None]).add_(take.gather(1, intos)[:, None, :])
        best = changes.flatten(1).min(1)
        out, into = best.indices // intos.shape[1], best.indices % intos.shape[1]
        return best.values, outs.gather(1, out[:, None])[:, 0], intos.gather(1, into[:, None])[:, 0]

    def _short(self, prices: Float[Tensor, "rows columns"]) -> Int[Tensor, "rows short"]:
        """The places of a row with a finite price, or the cheapest of them; filled up with others, whose price is infinite."""
        there = max(1, int(prices.isfinite().sum(1).max()))
        return prices.topk(min(there, self.candidates or there), dim=1, largest=False).indices

    def _best_in_groups(self, drop: Tensor, take: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size, groups = self.group, drop.shape[1] // self.group
        own = torch.arange(drop.shape[1], device=drop.device).view(groups, size)
        blocks = self.hessian[own[:, :, None], own[:, None, :]]
        split = weight.unflatten(1, (groups, size))
        changes = -2 * split[..., :, None] * split[..., None, :] * blocks
        changes += drop.unflatten(1, (groups, size))[..., :, None] + take.unflatten(1, (groups, size))[..., None, :]
        best = changes.flatten(1).min(1)
        first = best.indices // (size * size) * size
        return best.values, first + best.indices // size % size, first + best.indices % size


def prices(
    weight: Float[Tensor, "out columns"],
    hessian: Float[Tensor, "columns columns"],
    mask: Bool[Tensor, "out columns"],
    takeable: Bool[Tensor, "out columns"],
) -> tuple[Float[Tensor, "out columns"], Float[Tensor, "out columns"]]:
    """(drop, take): the change of the layer's loss when one weight is pruned, or kept; infinite where that cannot be."""
    return _priced(weight, hessian, mask, takeable, 2 * weight.masked_fill(mask, 0) @ hessian)


def _priced(weight: Tensor, hessian: Tensor, mask: Tensor, takeable: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    own, felt = weight.square() * hessian.diagonal(), weight * slope
    return (own + felt).masked_fill_(~mask, torch.inf), (own - felt).masked_fill_(mask | ~takeable, torch.inf)
