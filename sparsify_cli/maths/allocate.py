"""How many units (weights, or blocks) each layer keeps, in whole numbers that sum to exactly what was asked.

Every allocation has one form: it takes layers and a total and returns counts. Nothing else in the tool rounds. Allocations
that need measured costs are in `knapsack.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.maths.keep import apportion, top_k
from sparsify_cli.maths.name_blocks import blocks_of


@dataclass(frozen=True, eq=False)
class Layer:
    """What an allocation may know of a layer.

    Args:
        name: of the tensor.
        shape: of the tensor, [out, in, *kernel].
        scores: one per unit in the order of the matrix view; -inf where a unit may not stay, +inf where it must.
        least: units that stay, whichever they are, as far as so many may.
    """

    name: str
    shape: tuple[int, ...]
    scores: Float[Tensor, " units"]
    least: int = 0

    @property
    def units(self) -> int:
        """Weights, or blocks, of the layer."""
        return self.scores.numel()

    @property
    def floor(self) -> int:
        """Units that must stay."""
        return max(int((self.scores == torch.inf).sum()), min(self.least, self.cap))

    @property
    def cap(self) -> int:
        """Units that may stay."""
        return int((self.scores != -torch.inf).sum())

    @property
    def standing(self) -> Float[Tensor, " units"]:
        """The scores, +inf at the `floor` best."""
        return self.scores.masked_fill(top_k(self.scores, self.floor), torch.inf) if self.least else self.scores

    def raised(self, least: int) -> Layer:
        """The layer with at least so many units that stay."""
        return replace(self, least=max(self.least, least))


@runtime_checkable
class Sized(Protocol):
    """What an allocation that does not compare scores needs of a layer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor, [out, in, *kernel]."""

    @property
    def units(self) -> int:
        """Weights, or blocks."""

    @property
    def floor(self) -> int:
        """Units that must stay."""

    @property
    def cap(self) -> int:
        """Units that may stay."""


@dataclass(frozen=True)
class Counted:
    """A layer of which only counts are known: its scores are too many to hold."""

    name: str
    shape: tuple[int, ...]
    units: int
    cap: int
    floor: int = 0

    def raised(self, least: int) -> Counted:
        """The layer with at least so many units that stay."""
        return replace(self, floor=max(self.floor, min(least, self.cap)))


Bounded = TypeVar("Bounded", Layer, Counted)


def with_floor(layers: Sequence[Bounded], at_least: int = 1) -> list[Bounded]:
    """The layers with floors raised, so that no layer is emptied: each keeps at least one unit (its best), whatever the total.

    A layer of which fewer may stay keeps those. Totals below the sum of the floors are then refused by `check_room`.

    Args:
        layers: of `Layer` or `Counted`.
        at_least: units (weights, or whole blocks) that every layer keeps.
    """
    return [layer.raised(at_least) for layer in layers]


Allocation = Callable[[Sequence[Layer], int], list[int]]
"""Layers and how many units to keep in all -> how many each keeps."""


def uniform(layers: Sequence[Sized], total: int) -> list[int]:
    """The same sparsity in every layer that carries the pattern.

    Where a layer may not keep its share (or must keep more), the others share the difference in proportion.
    """
    return _apportioned(layers, [layer.units for layer in layers], total)


def globally(layers: Sequence[Layer], total: int) -> list[int]:
    """One ranking over all layers: scores compete across tensors.

    Among equal scores the earlier layer, then the earlier position, stays.
    """
    kept = top_k(torch.cat([layer.standing for layer in layers]), total)
    return [int(part.sum()) for part in torch.split(kept, [layer.units for layer in layers])]


def erk(layers: Sequence[Sized], total: int) -> list[int]:
    """Small layers stay denser: Erdos-Renyi-Kernel densities, as in RigL.

    A layer's density is eps * sum(dims) / prod(dims), with dims = (out, in, *kernel) and one eps for all; layers that
    would exceed what they may keep are fixed there, and eps is computed again.

    Source: Evci et al. 2020, arXiv 1911.11134, section 3; differs in that the cap is what the pattern and the current
    support allow instead of 1, and that counts are exact: largest remainder instead of rounding each layer down.
    """
    # density * prod(dims) is the share, so prod(dims) cancels out.
    return _apportioned(layers, [sum(layer.shape) for layer in layers], total)


def lamp(layers: Sequence[Layer], total: int) -> list[int]:
    """One ranking of each score's share in what outlives it: the layers adapt, as in LAMP.

    Where scores are magnitudes, the counts are those of the criterion `lamp` ranked globally; the positions follow the scores.

    Source: Lee et al. 2021, arXiv 2010.07611, equation 4; differs in that it takes any scores (those below zero as zero).
    """
    return globally(lamp_scored(layers), total)


def lamp_scored(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with LAMP scores in [0, 1], float64: score(u) = s_u^2 / sum over v with s_v >= s_u of s_v^2.

    Units that may not or must stay keep their infinite scores and are in no sum. Equal scores are put in order: the earlier
    outlives the later. `globally` over these layers is `lamp`.
    """
    return [replace(layer, scores=_lamp_scores(layer.scores)) for layer in layers]


def _lamp_scores(scores: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
    found, live = scores.double(), scores.isfinite()
    sizes, order = found[live].clamp(min=0).sort(descending=True, stable=True)
    if sizes.numel() and sizes[0] > 0:
        squares = (sizes / sizes[0]).square()
        sizes[order] = squares / squares.cumsum(0)
    return found.masked_scatter(live, sizes)


OUTLYING = 5
"""A score is outlying when it is more than so many times the mean of its layer."""

SPREAD = Fraction(8, 100)
"""Densities of layers lie at most twice this apart."""


def owl(layers: Sequence[Layer], total: int) -> list[int]:
    """Blocks with more outlying scores stay denser: outlier-weighed densities, as in OWL.

    D = share of a block's scores above 5 times their mean, over units whose score is finite; densities are D scaled to a
    width of 0.16 and shifted so that the counts sum to the total; every layer of a block gets the block's. A layer's cap and floor
    bound it, and the others share the difference in proportion.

    Source: Yin et al. 2024, arXiv 2310.05175, and its code (M = 5, Lambda = 0.08). Differs in that the mean weighs layers by their
    size, so that the total holds, and the width is at most the density and the sparsity asked for, so that the scaling alone
    empties no layer and overfills none. Blocks are told by names (`name_blocks.py`).
    """
    return _by_outliers(layers, _outlying_by_block(layers), total)


def owl_counted(*sizes: Sequence[Layer]) -> Allocation:
    """`owl` whose outliers are counted among other scores than those that compete, which may be places in a row.

    Args:
        sizes: the same layers with the scores to count among; of several such, the last that has a layer counts.
    """
    shares = {layer.name: share for some in sizes for layer, share in zip(some, _outlying_by_block(some), strict=True)}
    return lambda layers, total: _by_outliers(layers, [shares[layer.name] for layer in layers], total)


def _outlying_by_block(layers: Sequence[Layer]) -> list[Fraction]:
    blocks, scores = blocks_of([layer.name for layer in layers]), dict[str, list[Tensor]]()
    for layer in layers:
        scores.setdefault(blocks[layer.name], []).append(layer.scores)
    shares = {block: _outlying(torch.cat(some)) for block, some in scores.items()}
    return [shares[blocks[layer.name]] for layer in layers]


def _by_outliers(layers: Sequence[Layer], ratios: Sequence[Fraction], total: int) -> list[int]:
    units = [layer.units for layer in layers]
    density = Fraction(total, max(1, sum(units)))
    width = min(2 * SPREAD, density, 1 - density)
    low, high = min(ratios), max(ratios)
    raised = [width * (ratio - low) / (high - low) if high > low else Fraction(0) for ratio in ratios]
    mean = Fraction(sum(n * d for n, d in zip(units, raised, strict=True))) / max(1, sum(units))
    return _apportioned(layers, [n * (density + d - mean) for n, d in zip(units, raised, strict=True)], total)


def _outlying(scores: Float[Tensor, " units"]) -> Fraction:
    finite = scores[scores.isfinite()].double().clamp(min=0)
    return Fraction(int((finite > OUTLYING * finite.mean()).sum()), max(1, finite.numel()))


def _apportioned(layers: Sequence[Sized], shares: Sequence[int | Fraction], total: int) -> list[int]:
    exact = [Fraction(share) for share in shares]
    return apportion(exact, total, [layer.cap for layer in layers], floors=[layer.floor for layer in layers])


def for_many_totals(allocation: Callable[[Any, int], list[int]], layers: Sequence[Any]) -> Callable[[int], list[int]]:
    """The allocation of these layers as a function of the total: what does not depend on the total is computed once."""
    if allocation is globally:
        return _ranked(layers)
    if allocation is lamp:
        return _ranked(lamp_scored(layers))
    if allocation is owl:
        return partial(_by_outliers, layers, _outlying_by_block(layers))
    return partial(allocation, layers)


def _ranked(layers: Sequence[Layer]) -> Callable[[int], list[int]]:
    """As `globally`, after one stable sort."""
    owners = torch.repeat_interleave(torch.tensor([layer.units for layer in layers]))
    order = torch.cat([layer.standing for layer in layers]).sort(descending=True, stable=True).indices
    ranks = owners.to(torch.int32)[order]
    return lambda total: torch.bincount(ranks[:total], minlength=len(layers)).tolist()


BY_SIZE: dict[str, Callable[[Sequence[Sized], int], list[int]]] = {"uniform": uniform, "erk": erk}
"""Allocations that look at sizes alone."""

ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "global": globally, "erk": erk, "lamp": lamp, "owl": owl}
"""name -> function; names and summaries are also in `recipes/allocation.py`, which needs no torch."""
