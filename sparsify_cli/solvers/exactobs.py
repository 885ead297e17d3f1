"""ExactOBS: remove the weight whose loss the others can best make up for, repair, and again; exact at every step.

    scope=layer   every row is eliminated to the end, and the cheapest removals of the whole layer happen: a row loses as many
                  weights as it has costs among them (by counts; costs need not rise along a row)
    scope=row     every row loses as many
    N:M           no group loses more than M - N until all have lost so many; from there on freely, for counts below what the
                  pattern implies
    block:RxC     C neighbouring inputs go together; the R outputs share one order of removals, and costs are sums over them

Weights pruned before go first, then those at inputs that are never active, as far as groups let them. What stays is the exact
least-squares solution on its mask. One elimination serves any number of counts (`ladder`). The mathematics, and why it is fast, is
in `maths/obs.py`; it costs rows * columns^3 * 2/3 operations, so it is for layers of up to some thousand inputs.

Source: Frantar, Singh and Alistarh 2022, arXiv 2208.11580, algorithm 1 and sections 4 and 5; official code IST-DASLab/OBC. Differs:
exact counts and stated ties; N of N:M is kept, not removed; H = gram without the factor 2 (costs are the same numbers), damped
relative to the mean diagonal of live inputs; blocks of several outputs; counts below what N:M implies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.gram import damped, inverse_factor
from sparsify_cli.maths.keep import top_k
from sparsify_cli.maths.obs import Trace, Units, eliminate, panel_rows, rebuilt, rows_in_flight
from sparsify_cli.maths.usable import Usable
from sparsify_cli.recipes.pattern import Pattern


@dataclass(frozen=True)
class ExactOBS(LayerSolver):
    """Optimal brain surgeon on every row of a layer.

    Args:
        scope: `layer` = the cheapest removals over all rows decide how many each row loses; `row` = every row loses as many.
        damping: added to the diagonal of the Gram matrix, relative to its mean.
        sequential: layers see inputs from layers that are already pruned, else those of the dense network.
    """

    scope: Literal["layer", "row"] = "layer"
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sequential: bool = True

    def check(self, pattern: Pattern) -> None:
        """All but N:M along outputs too: rows are solved on their own."""
        self.check_both_ways(pattern)

    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Prune and repair one layer."""
        return self.ladder(weight, gram, keep, [keep.count])[0]

    def ladder(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep, counts: Sequence[int]
    ) -> list[Solution]:
        """Solutions for several counts, from one elimination; each is what `solve` gives."""
        layer = _Layer.of(weight, gram, keep)
        stays = [layer.units_of(count) for count in counts]
        factor = inverse_factor(damped(gram.double(), self.damping).flip(0, 1))
        inverse = factor.T @ factor
        shares = [layer.equal_shares(count) for count in stays] if self.scope == "row" or layer.rows == 1 else None
        trace = layer.traced(inverse, layer.steps(stays, shares))
        if shares is None:
            shares = [layer.cheapest(trace, count) for count in stays]
        masks = [layer.expanded(trace.kept(layer.count - share, layer.count)) for share in shares]
        hessian = damped(gram.double(), self.damping).flip(0, 1)
        return [(rebuilt(layer.weight, hessian, inverse, mask).flip(1), mask.flip(1)) for mask in masks]

    def layer_memory(self, outputs: int, columns: int) -> int:
        """An inverse for every row in flight with the panel of its steps, the factors before them, and the order of removals."""
        rows = min(outputs, rows_in_flight(columns))
        return 8 * ((rows + 5) * columns**2 + 2 * rows * panel_rows(columns) * columns + 8 * outputs * columns)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer in units of removal, columns last to first: among equal costs the first unit goes, and the earlier column is to stay.

    Args:
        weight: dense, float64.
        pattern: that masks hold.
        usable: of units, one row for every set of rows that share an order.
    """

    weight: Float[Tensor, "out columns"]
    pattern: Pattern
    usable: Usable

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor, keep: Keep) -> _Layer:
        """The layer as it is asked for.

        Raises:
            Infeasible: its sides are no multiples of the pattern's.
        """
        pattern = keep.pattern
        if weight.shape[0] % pattern.rows or weight.shape[1] % (pattern.columns * pattern.group):
            raise Infeasible(f"A layer of {weight.shape[0]} outputs and {weight.shape[1]} inputs cannot hold {pattern}.")
        each = Usable.of(weight, gram, keep.within)
        units = (_any(part.flip(1), pattern) for part in (each.live, each.allowed))
        return cls(weight.detach().double().flip(1), pattern, Usable(*units))

    @property
    def rows(self) -> int:
        """Sets of rows that share an order."""
        return len(self.usable.live)

    @property
    def count(self) -> int:
        """Units in a row."""
        return self.usable.live.shape[1]

    @property
    def units(self) -> Units:
        """What goes as one, and what goes first."""
        allowed, live = self.usable.allowed, self.usable.live
        rank = None if bool((allowed & live).all()) else torch.where(allowed, 1 + live.long(), 0)
        return Units(self.pattern.columns, rank, self.pattern.group, self.pattern.group - self.pattern.keep)

    @property
    def competing(self) -> Pattern:
        """The pattern between units."""
        return self.pattern if self.pattern.is_grouped else Pattern()

    def units_of(self, count: int) -> int:
        """How many units so many weights are.

        Raises:
            Infeasible: no whole number, or more than the pattern has room for.
        """
        units, rest = divmod(count, self.pattern.block_size)
        if rest:
            raise Infeasible(f"{count} weights of a layer should stay, which are no whole blocks of {self.pattern.block_size}.")
        self.usable.require_room(units, self.competing)
        return units

    def equal_shares(self, stays: int) -> Int[Tensor, " rows"]:
        """Units that stay in each row, equal to within one."""
        return torch.tensor(self.usable.row_counts(stays, self.competing), device=self.weight.device)

    def steps(self, stays: Sequence[int], shares: Sequence[Tensor] | None) -> int:
        """How far rows must be eliminated."""
        forced = self.units.forced(self.count)
        if shares is not None:
            return max((self.count - int(share.min()) for share in shares), default=0)
        return forced if all(count == self.rows * (self.count - forced) for count in stays) else self.count

    def traced(self, inverse: Tensor, steps: int) -> Trace:
        """The elimination."""
        return eliminate(self.weight.unflatten(0, (-1, self.pattern.rows)), inverse, steps, self.units)

    def cheapest(self, trace: Trace, stays: int) -> Int[Tensor, " rows"]:
        """Units that stay in each row when the cheapest removals of the layer happen; among equal ones earlier rows keep theirs."""
        forced = self.units.forced(self.count)
        if stays == self.rows * (self.count - forced):  # nothing to choose, and perhaps no further traced
            return torch.full_like(trace.order.sum(1), self.count - forced)
        order = trace.order[:, forced:]
        usable = Usable(self.usable.live.gather(1, order), self.usable.allowed.gather(1, order))
        costs = usable.ranked(trace.cost[:, forced:])
        return top_k(costs.flatten(), stays).view_as(costs).sum(1)

    def expanded(self, units: Bool[Tensor, "rows units"]) -> Bool[Tensor, "out columns"]:
        """From units to weights."""
        return units.repeat_interleave(self.pattern.columns, 1).repeat_interleave(self.pattern.rows, 0)


def _any(places: Bool[Tensor, "out columns"], pattern: Pattern) -> Bool[Tensor, "rows units"]:
    """Units in which some place is True."""
    units: Tensor = places.unflatten(1, (-1, pattern.columns)).any(2).unflatten(0, (-1, pattern.rows)).any(1)
    return units
