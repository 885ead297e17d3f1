"""Optimal brain surgeon, one removal after another until nothing is left, for many rows at a time.

With H the Hessian of a row's loss, P the weights of one unit (one weight, or a block) and A = H^-1 over the weights that are left:

    cost     c_P = w_P^T (A_PP)^-1 w_P                    by which removing P raises the loss; the cheapest unit goes
    repair   w <- w - A_:P (A_PP)^-1 w_P                  the others make up for it
    inverse  A <- A - A_:P (A_PP)^-1 A_P:                 the inverse of H without P

Factor convention: H is the Gram matrix, without the factor 2, and the loss is trace(D H D^T). In the papers H is twice that and
the loss (1/2) D H D^T, so costs are the same numbers: w_p^2 / (2 [H^-1]_pp) there is w_p^2 / [H^-1]_pp here.

Speed. Read as a factorisation, the steps are a Cholesky factorisation of H^-1 whose pivots are chosen on the way: with
l = L^-1 A_P:, L L^T = A_PP, each step subtracts l^T l. So the l of some steps are collected in a panel, the parts of A that
choices depend on (its diagonal blocks) are kept exact at every step, one row of A is completed when it is needed, and A itself is
brought up to date once a panel, by one matrix product. Units that are gone are taken out of A when they make up a tenth of it.
Only the order and the costs are kept: the weights after any number of removals are the least-squares solution on what is left,
found directly through the smaller of the two Cholesky factors, of H on what stays or of H^-1 on what goes.

Source: Hassibi and Stork 1993; Frantar, Singh and Alistarh 2022, arXiv 2208.11580, sections 4 and 5 (ExactOBS), code
IST-DASLab/OBC. Differs: theirs downdates A once a step, which moves 16 bytes for every 2 operations, and stores the weights of
every step to pick from; ours is a matrix product, and refits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.refit import refit

IN_FLIGHT = 2**30
"""Bytes of inverses that are held at a time, 8 * columns^2 a row in flight; at least one row is."""
ROWS = 64
"""Rows in flight at most: more bring no speed once the steps of a panel do not fit in the cache."""
GONE = 0.1
"""Share of A that is gone when it is made smaller."""


@dataclass(frozen=True, eq=False)
class Units:
    """What goes as one, and what goes first.

    Args:
        width: consecutive columns of a unit.
        rank: [rows, units]; a unit goes only when none of a lower rank can. None = all alike.
        group: consecutive units that form a group.
        spare: units that each group loses before any group may lose more; 0 = no groups.
    """

    width: int = 1
    rank: Int[Tensor, "rows units"] | None = None
    group: int = 1
    spare: int = 0

    def forced(self, units: int) -> int:
        """How many of a row's removals the groups decide on."""
        return units // self.group * self.spare

    def of(self, rows: slice) -> Units:
        """The same for some of the rows."""
        return Units(self.width, None if self.rank is None else self.rank[rows], self.group, self.spare)


@dataclass(frozen=True, eq=False)
class Trace:
    """Which unit each row lost at each step, and by how much that raised its loss."""

    order: Int[Tensor, "rows steps"]
    cost: Float[Tensor, "rows steps"]

    def kept(self, removed: Int[Tensor, " rows"], units: int) -> Bool[Tensor, "rows units"]:
        """Which units are left after each row's number of removals."""
        later = torch.arange(self.order.shape[1], device=self.order.device) >= removed[:, None]
        return torch.ones(len(self.order), units, dtype=torch.bool, device=self.order.device).scatter_(1, self.order, later)


def eliminate(
    weight: Float[Tensor, "rows joint columns"], inverse: Float[Tensor, "columns columns"], steps: int, units: Units | None = None
) -> Trace:
    """Remove units one by one, each row (or each set of rows that stay and go together) on its own.

    Args:
        weight: rows that share the order of removals are `joint`; costs are sums over them. Not written to.
        inverse: H^-1, float64.
        steps: how many units every row loses.
        units: what goes as one; single weights when not given. Among equal costs the first unit goes.

    Raises:
        Anomalous: H is so close to singular that rounding decides.
    """
    units, rows = units or Units(), rows_in_flight(weight.shape[2])
    parts = [slice(start, start + rows) for start in range(0, len(weight), rows)]
    traces = [_Elimination(weight[part], inverse, units.of(part)).run(steps) for part in parts]
    cost = torch.cat([trace.cost for trace in traces])
    if not bool(cost.isfinite().all()):
        raise Anomalous("The costs of removing weights are not finite.", "Some inputs depend on others.", "Raise the solver's damping.")
    return Trace(torch.cat([trace.order for trace in traces]), cost)


def rows_in_flight(columns: int) -> int:
    """Rows that are eliminated side by side: each holds an inverse of its own."""
    return max(1, min(ROWS, IN_FLIGHT // (8 * columns**2)))


def unit_costs(
    blocks: Float[Tensor, "rows units width width"], weight: Float[Tensor, "rows joint units*width"]
) -> Float[Tensor, "rows units"]:
    """w_P^T (A_PP)^-1 w_P of every unit, summed over joint rows, by elimination inside the blocks."""
    width = blocks.shape[-1]
    left = weight.unflatten(2, (-1, width))
    if width == 1:
        return weight.square().sum(1).div_(blocks.flatten(1))
    left, blocks = left.clone(), blocks.clone()
    cost = torch.zeros_like(blocks[..., 0, 0])
    for j in range(width):
        pivot = blocks[..., j, j]
        cost += left[..., j].square().sum(1) / pivot
        ratio = blocks[..., j + 1 :, j] / pivot[..., None]
        left[..., j + 1 :] -= ratio[:, None] * left[..., j, None]
        blocks[..., j + 1 :, j + 1 :] -= ratio[..., None] * blocks[..., None, j, j + 1 :]
    return cost


def rebuilt(
    weight: Float[Tensor, "rows columns"],
    hessian: Float[Tensor, "columns columns"],
    inverse: Float[Tensor, "columns columns"],
    mask: Bool[Tensor, "rows columns"],
) -> Float[Tensor, "rows columns"]:
    """The weights that eliminating down to a mask leaves, in any order: least squares; rows that lose nothing are the same numbers.

    With S what stays and P what goes: w_S + (H_SS)^-1 H_SP w_P, which equals w_S - A_SP (A_PP)^-1 w_P with A = H^-1.

    Raises:
        Anomalous: H is so close to singular that a part of it has no factor.
    """
    best = weight.clone()
    mostly_goes = 2 * mask.sum(1) < mask.shape[1]
    best[mostly_goes] = refit(weight[mostly_goes], hessian, mask[mostly_goes])
    for row in ((~mostly_goes) & ~mask.all(1)).nonzero().flatten():
        goes = (~mask[row]).nonzero().flatten()
        factor, info = torch.linalg.cholesky_ex(inverse[goes[:, None], goes])
        if int(info):
            raise Anomalous(f"{len(goes)} inputs cannot be told apart.", "Some inputs depend on others.", "Raise the solver's damping.")
        best[row] -= torch.cholesky_solve(weight[row, goes, None], factor)[:, 0] @ inverse[goes]
    return best.masked_fill_(~mask, 0)


class _Elimination:
    """The state of some rows; units are numbered by their place in A, which changes as A gets smaller."""

    def __init__(self, weight: Tensor, inverse: Tensor, units: Units) -> None:
        rows, count, device = len(weight), weight.shape[2] // units.width, weight.device
        self.units, self.width = units, units.width
        self.each, self.within = torch.arange(rows, device=device), torch.arange(units.width, device=device)
        self.weight = weight.clone()
        self.inverse = inverse.repeat(rows, 1, 1)
        self.blocks = (
            inverse.unflatten(1, (count, -1)).unflatten(0, (count, -1)).diagonal(dim1=0, dim2=2).movedim(-1, 0).repeat(rows, 1, 1, 1)
        )
        self.names = torch.arange(count, device=device).repeat(rows, 1)
        self.gone = torch.zeros_like(self.names, dtype=torch.bool)
        self.taken = torch.zeros_like(self.names[:, : count // units.group])
        self.rank, self.forced = units.rank, units.forced(count)

    def run(self, steps: int) -> Trace:
        """Remove so many units of every row."""
        order, cost = self.names.new_empty(len(self.each), steps), self.weight.new_empty(len(self.each), steps)
        done = 0
        while done < steps:
            size = min(steps - done, max(1, panel_rows(self.inverse.shape[1]) // self.width))
            panel = self.weight.new_empty(len(self.each), size * self.width, self.inverse.shape[1])
            for i in range(size):
                order[:, done + i], cost[:, done + i] = self._step(panel, i * self.width, free=done + i >= self.forced)
            done += size
            if done < steps:
                self._catch_up(self._smaller(panel))
        return Trace(order, cost)

    def _step(self, panel: Tensor, filled: int, *, free: bool) -> tuple[Tensor, Tensor]:
        """Remove the cheapest unit of every row; its rows of the factorisation go into the panel."""
        costs = unit_costs(self.blocks, self.weight).masked_fill_(self._barred(free), torch.inf)
        pick = costs.argmin(1)
        name, cost = self.names[self.each, pick], costs[self.each, pick]
        new, lost = self._factored(pick, panel[:, :filled])
        panel[:, filled : filled + self.width] = new
        self.weight.baddbmm_(lost.mT, new, alpha=-1)
        self._downdate(new)
        self._remove(pick, name)
        return name, cost

    def _barred(self, free: bool) -> Tensor:
        """Units that cannot go now."""
        barred = self.gone
        if not free:
            barred = barred | (self.taken >= self.units.spare).gather(1, self.names // self.units.group)
        if self.rank is None:
            return barred
        rank = self.rank.masked_fill(barred, torch.iinfo(self.rank.dtype).max)
        return barred | (rank > rank.amin(1, keepdim=True))

    def _factored(self, pick: Tensor, panel: Tensor) -> tuple[Tensor, Tensor]:
        """The factorisation's l = L^-1 A_P:, [rows, width, columns], and L^-1 w_P, [rows, width, joint]."""
        places = pick[:, None] * self.width + self.within
        current, across = self.inverse[self.each[:, None], places], places[:, None]
        if panel.shape[1]:
            current.baddbmm_(panel.gather(2, across.expand(-1, panel.shape[1], -1)).mT, panel, alpha=-1)
        corner = current.gather(2, across.expand(-1, self.width, -1))
        lost = self.weight.gather(2, across.expand(-1, self.weight.shape[1], -1)).mT
        if self.width == 1:
            root = corner.sqrt()
            return current.div_(root), lost / root
        factor = torch.linalg.cholesky_ex(corner).L
        return tuple(torch.linalg.solve_triangular(factor, right, upper=False) for right in (current, lost))

    def _downdate(self, new: Tensor) -> None:
        """Keep the diagonal blocks of A exact."""
        if self.width == 1:
            self.blocks.view(len(self.each), -1).addcmul_(new[:, 0], new[:, 0], value=-1)
        else:
            parts = new.unflatten(2, (-1, self.width)).movedim(1, 3)  # [rows, units, width of the unit, width of the pick]
            self.blocks -= parts @ parts.mT

    def _remove(self, pick: Tensor, name: Tensor) -> None:
        self.gone[self.each, pick] = True
        self.weight.unflatten(2, (-1, self.width))[self.each, :, pick] = 0
        self.taken[self.each, name // self.units.group] += 1

    def _catch_up(self, panel: Tensor) -> None:
        """Bring A up to date with the steps of a panel."""
        self.inverse.baddbmm_(panel.mT, panel, alpha=-1)

    def _smaller(self, panel: Tensor) -> Tensor:
        """Take units that are gone out of everything, when they are many; returns the panel without them."""
        left = int((~self.gone[0]).sum())
        if left > (1 - GONE) * self.gone.shape[1]:
            return panel
        units = (~self.gone).nonzero()[:, 1].reshape(-1, left)
        places = (units[:, :, None] * self.width + self.within).flatten(1)
        self._shrink_inverse(places)
        self.weight = _taken(self.weight, places)
        self.blocks = self.blocks[self.each[:, None], units]
        self.names, self.gone = self.names.gather(1, units), self.gone.gather(1, units)
        self.rank = None if self.rank is None else self.rank.gather(1, units)
        return _taken(panel, places)

    def _shrink_inverse(self, places: Tensor) -> None:
        """Row after row to the front of the same memory: what is written never reaches what is still to be read."""
        size, old = places.shape[1], self.inverse
        self.inverse = old.flatten()[: len(old) * size * size].view(len(old), size, size)
        for row, some in enumerate(places):
            self.inverse[row] = old[row].index_select(0, some).index_select(1, some)


def _taken(rows: Float[Tensor, "rows n columns"], places: Int[Tensor, "rows left"]) -> Float[Tensor, "rows n left"]:
    return rows.gather(2, places[:, None].expand(-1, rows.shape[1], -1))


def panel_rows(columns: int) -> int:
    """Rows of a panel: 2 sqrt(columns) moves the least memory, columns * rows / 2 a step in it and columns^2 / rows for A."""
    return max(8, 2 * math.isqrt(columns))
