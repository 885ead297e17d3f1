"""Allocations by measured errors: which level each layer gets when all together must fit a budget.

The dynamic programme chooses one level a layer with the least sum of costs. Amounts beyond each layer's least are counted in
buckets, rounded up, so that what it finds always fits; where the budget has at most as many units as there are buckets it
is exact. Then room that rounding and the distance of levels leave is filled, the steepest fall of error first, with
errors between levels interpolated; where the amount is a number of weights, the total is met exactly.

Source: Frantar and Alistarh 2022 (SPDY, arXiv 2201.13096; Optimal Brain Compression, arXiv 2208.11580): 10,000 buckets of the
budget. Differs in that each layer's least amount is set aside before rounding, so that a budget that can just be met is met,
and in the filling up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.maths.allocate import Sized
from sparsify_cli.maths.budget import Amount, most_within, parameters
from sparsify_cli.maths.error_curves import Curve
from sparsify_cli.maths.keep import apportion

BUCKETS = 10_000
ROUNDS = 100
"""Halvings of the tolerance of `sensitivity`."""

Array = npt.NDArray[Any]


def cheapest(costs: Sequence[Sequence[float]], resource: Sequence[Sequence[int]], budget: int, *, buckets: int = BUCKETS) -> list[int]:
    """The level of each layer for which the sum of costs is least and the sum of resources is at most the budget.

    Args:
        costs: of each layer's levels, >= 0; infinite where a level is forbidden.
        resource: what each level takes, whole numbers in any unit.
        budget: the most they may take together.
        buckets: into which what is beyond the least is divided.

    Returns:
        One index of a level per layer; among equal sums the earlier level of a later layer.

    Raises:
        Infeasible: the least that the levels take together is more.
    """
    least = [_least(cost, amounts) for cost, amounts in zip(costs, resource, strict=True)]
    spare = budget - sum(least)
    if spare < 0:
        raise Infeasible(f"The layers take at least {sum(least)} and the budget is {budget}.", "", f"Ask for at least {sum(least)}.")
    excess = [[amount - low for amount in amounts] for low, amounts in zip(least, resource, strict=True)]
    taken, room = _in_buckets(excess, spare, buckets)
    return _traced(_choices(costs, taken, room), taken, room)


def _least(costs: Sequence[float], amounts: Sequence[int]) -> int:
    possible = [amount for cost, amount in zip(costs, amounts, strict=True) if cost < math.inf]
    if not possible or any(math.isnan(cost) or cost < 0 for cost in costs):
        raise BadRequest("A layer has no level with a cost.", f"Costs are {list(costs)[:5]}.", "Costs are numbers from zero up.")
    return min(possible)


def _in_buckets(excess: Sequence[Sequence[int]], spare: int, buckets: int) -> tuple[list[list[int]], int]:
    """Amounts in buckets, rounded up, and how many buckets there are."""
    unit = math.gcd(*(amount for amounts in excess for amount in amounts)) or 1
    room = min(spare // unit, sum(max(amounts) for amounts in excess) // unit)
    if room <= buckets:
        return [[amount // unit for amount in amounts] for amounts in excess], room
    return [[-(-amount * buckets // (room * unit)) for amount in amounts] for amounts in excess], buckets


def _choices(costs: Sequence[Sequence[float]], taken: Sequence[Sequence[int]], room: int) -> Array:
    """[layers, room + 1]: the level that is best for each layer when it and those before it have so many buckets."""
    best, chosen = np.zeros(room + 1), np.zeros((len(costs), room + 1), dtype=np.int32)
    for layer, (cost, amounts) in enumerate(zip(costs, taken, strict=True)):
        better = np.full(room + 1, np.inf)
        for level, (price, amount) in enumerate(zip(cost, amounts, strict=True)):
            if 0 <= amount <= room:
                tried = best[: room + 1 - amount] + price
                wins = tried < better[amount:]
                better[amount:][wins], chosen[layer, amount:][wins] = tried[wins], level
        best = better
    return chosen


def _traced(chosen: Array, taken: Sequence[Sequence[int]], room: int) -> list[int]:
    levels: list[int] = []
    for layer in reversed(range(len(taken))):
        levels.append(int(chosen[layer, room]))
        room -= taken[layer][levels[-1]]
    return levels[::-1]


@dataclass(frozen=True)
class Priced:
    """A layer whose weights cost error to lose and something else to keep.

    Args:
        curve: error at each number of weights (or blocks) kept.
        floor: the least it may keep.
        cap: the most it may keep.
        amount: what so many take of the budget.
    """

    curve: Curve
    floor: int
    cap: int
    amount: Amount

    @property
    def levels(self) -> tuple[int, ...]:
        """Counts that it may have, descending."""
        return self.curve.within(self.floor, self.cap)

    def fall(self, kept: int) -> tuple[float, int]:
        """Fall of the error per unit of the budget up to the next level, and that level; for a full layer its own count."""
        above = min((level for level in self.levels if level > kept), default=kept)
        if above == kept:
            return -1.0, kept
        return (self.curve.cost(kept) - self.curve.cost(above)) / max(1, self.amount(above) - self.amount(kept)), above


def priced(curves: Sequence[Curve], layers: Sequence[Sized], amounts: Sequence[Amount] | None = None) -> list[Priced]:
    """Layers with their curves, in the same order.

    Args:
        curves: in the units that the layers are counted in.
        layers: whose floors and caps hold.
        amounts: of each layer; where none are given, the number it keeps.
    """
    amounts = amounts or [parameters()] * len(layers)
    return [Priced(c, layer.floor, layer.cap, a) for c, layer, a in zip(curves, layers, amounts, strict=True)]


def within_budget(layers: Sequence[Priced], limit: int, *, buckets: int = BUCKETS) -> list[int]:
    """How many each layer keeps, for the least sum of errors, so that together they take at most the limit.

    Raises:
        Infeasible: the floors take more.
    """
    choices = [layer.levels for layer in layers]
    costs = [[layer.curve.cost(kept) for kept in kepts] for layer, kepts in zip(layers, choices, strict=True)]
    taken = [[layer.amount(kept) for kept in kepts] for layer, kepts in zip(layers, choices, strict=True)]
    found = cheapest(costs, taken, limit, buckets=buckets)
    return filled(layers, [kepts[level] for kepts, level in zip(choices, found, strict=True)], limit)


def filled(layers: Sequence[Priced], counts: Sequence[int], limit: int) -> list[int]:
    """The counts raised as far as the limit has room, the steepest fall of error first; ties by order."""
    counts = list(counts)
    left = limit - sum(layer.amount(count) for layer, count in zip(layers, counts, strict=True))
    falls = [layer.fall(count) for layer, count in zip(layers, counts, strict=True)]
    while (best := max(range(len(layers)), key=lambda i: falls[i][0], default=0)) < len(layers) and falls[best][0] >= 0:
        layer, count, above = layers[best], counts[best], falls[best][1]
        counts[best] = most_within(layer.amount, count, above, layer.amount(count) + left)
        left -= layer.amount(counts[best]) - layer.amount(count)
        falls[best] = layer.fall(above) if counts[best] == above else (-1.0, count)
    return counts


def dp(curves: Sequence[Curve], layers: Sequence[Sized], total: int) -> list[int]:
    """The least sum of measured errors within the budget, by dynamic programming over levels, as in OBC and SPDY.

    Args:
        curves: of the layers, in their order.
        layers: whose floors and caps hold.
        total: how many are kept in all, exactly.

    Raises:
        Infeasible: the bounds leave no room for the total.
    """
    _check_room(layers, total)
    return within_budget(priced(curves, layers), total)


def sensitivity(curves: Sequence[Curve], layers: Sequence[Sized], total: int) -> list[int]:
    """Layers whose measured error rises fast with their zeros get few of them.

    Every layer is pruned until its error, per weight it has, reaches one tolerance, the same for all; the tolerance is the one at which
    the total is kept. Cutting a layer in two changes nothing, and a layer that little can be taken from is not emptied.

    Source: thresholds by sensitivity as in Han et al. 2015 (arXiv 1506.02626, section 3), set there by hand. Ours: one tolerance.

    Args:
        curves: of the layers, in their order.
        layers: whose floors and caps hold.
        total: how many are kept in all, exactly.

    Raises:
        Infeasible: the bounds leave no room for the total.
    """
    _check_room(layers, total)
    fewest, most = _around(curves, layers, total)
    spare = [more - few for few, more in zip(fewest, most, strict=True)]
    extra = apportion([Fraction(count) for count in spare], total - sum(fewest), spare)
    return [few + more for few, more in zip(fewest, extra, strict=True)]


def _around(curves: Sequence[Curve], layers: Sequence[Sized], total: int) -> tuple[list[int], list[int]]:
    """Counts at two tolerances as near as can be, the sum of the first at most the total, that of the second at least."""
    pairs = list(zip(curves, layers, strict=True))
    fewest, most = [layer.floor for layer in layers], [layer.cap for layer in layers]
    low, high = 0.0, max((curve.cost(layer.floor) / max(1, layer.units) for curve, layer in pairs), default=0.0)
    for done in range(ROUNDS):  # first of all: what costs nothing
        middle = (math.sqrt(low * high) if low else high / 2) if done else 0.0
        counts = [_tolerating(curve, layer, middle) for curve, layer in pairs]
        if sum(counts) <= total:
            fewest, high = counts, middle
        else:
            most, low = counts, middle
    return fewest, most


def _tolerating(curve: Curve, layer: Sized, tolerance: float) -> int:
    """The least count of a layer whose error per weight is within the tolerance; its cap where none is."""
    low, high = layer.floor, layer.cap
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if curve.cost(middle) <= tolerance * layer.units else (middle + 1, high)
    return low


def _check_room(layers: Sequence[Sized], total: int) -> None:
    least, most = sum(layer.floor for layer in layers), sum(layer.cap for layer in layers)
    if not least <= total <= most:
        raise Infeasible(f"Cannot keep {total} weights: the layers must keep {least} and may keep {most}.")
