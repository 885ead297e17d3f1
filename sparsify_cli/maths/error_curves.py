"""Error curves: what a layer's pruning costs at each of several levels, and between them.

Levels go from dense down. Measured errors are noisy, and may even fall where more is pruned; the clean-up replaces runs that fall
by their mean (isotonic regression), so that keeping more never costs more. Between levels the logarithm of the error is linear in
the number of weights kept, for errors of layers grow about exponentially towards high sparsity; next to an error of zero, which has
no logarithm, the error itself is.

Source: the per-layer error database of Frantar and Alistarh 2022 (Optimal Brain Compression, arXiv 2208.11580), whose grid
`levels` gives. Differs in the clean-up and in that costs between the levels are interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from sparsify_cli.errors import BadRequest, NonFinite


@dataclass(frozen=True)
class Curve:
    """What it costs to keep so many of a layer's weights.

    Args:
        name: of the layer's tensor.
        weights: it has (or blocks).
        kept: counts that were measured, strictly descending from `weights`.
        costs: at each of them, >= 0 and nondecreasing; any unit, the same for all layers.
    """

    name: str
    weights: int
    kept: tuple[int, ...]
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        descends = all(more > fewer for more, fewer in zip(self.kept, self.kept[1:], strict=False))
        rises = all(low <= high for low, high in zip((0.0, *self.costs), self.costs, strict=False))
        if len(self.kept) != len(self.costs) or self.kept[:1] != (self.weights,) or not descends or not rises:
            raise BadRequest(f"The error curve of `{self.name}` does not rise from {self.weights} weights kept: {self.kept}, {self.costs}.")

    @classmethod
    def measured(cls, name: str, weights: int, errors: Iterable[tuple[int, float]]) -> Curve:
        """A curve from measurements in any order; dense costs nothing where it was not measured.

        Args:
            name: of the layer's tensor.
            weights: it has.
            errors: (weights kept, error) of each level; of several at one level the last counts, below zero counts as zero.

        Raises:
            NonFinite: an error is NaN or infinite.
            BadRequest: a level is outside [0, weights].
        """
        levels = {weights: 0.0} | {kept: float(error) for kept, error in errors}
        _check(name, weights, levels)
        kept = sorted(levels, reverse=True)
        return cls(name, weights, tuple(kept), tuple(isotonic([max(0.0, levels[k]) for k in kept])))

    def cost(self, kept: int) -> float:
        """The cost of keeping so many; below the last level as the last two go on."""
        if kept >= self.weights:
            return self.costs[0]
        if len(self.kept) == 1:
            raise BadRequest(f"The error of `{self.name}` was measured at no level but dense.", f"Nothing is known of {kept} weights kept.")
        right = min(bisect_left(self.kept, -kept, key=lambda count: -count), len(self.kept) - 1)
        (k1, k2), (c1, c2) = self.kept[right - 1 : right + 1], self.costs[right - 1 : right + 1]
        way = (k1 - kept) / (k1 - k2)
        between = c1 * math.exp(min(way * math.log(c2 / c1), 300)) if c1 > 0 else way * c2
        return min(between, c2) if way < 1 else max(between, c2) if way > 1 else c2

    def within(self, floor: int, cap: int) -> tuple[int, ...]:
        """The levels between floor and cap, descending, with both."""
        return tuple(sorted({floor, cap, *(k for k in self.kept if floor <= k <= cap)}, reverse=True))


def levels(weights: int, *, step: Fraction = Fraction(9, 10), least: Fraction = Fraction(1, 100), floor: int = 1) -> list[int]:
    """Counts to measure at: densities from dense down, each `step` times the one before, to `least` inclusive.

    Args:
        weights: the layer has.
        step: between 0 and 1.
        least: the last density is at or just above it, and `least` itself ends the list.
        floor: no count is below it.
    """
    steps = math.floor(math.log(least) / math.log(step) + 1e-9)
    densities = [step**i for i in range(steps + 1)] + [least]
    return sorted({max(min(floor, weights), round(weights * density)) for density in densities}, reverse=True)


def isotonic(values: Sequence[float]) -> list[float]:
    """The nondecreasing sequence nearest in squares: neighbours that fall are pooled to their mean."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (last, few), (before, many) = pools.pop(), pools.pop()
            pools.append(((before * many + last * few) / (many + few), many + few))
    return [mean for mean, count in pools for _ in range(count)]


def _check(name: str, weights: int, levels: dict[int, float]) -> None:
    if broken := [kept for kept, error in levels.items() if not math.isfinite(error)]:
        raise NonFinite(f"The error of `{name}` with {broken[0]} weights kept is not finite.", "It cannot be weighed against others.")
    if outside := [kept for kept in levels if not 0 <= kept <= weights]:
        raise BadRequest(f"An error of `{name}` is said to be with {outside[0]} weights kept, of {weights}.")
