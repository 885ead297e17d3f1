"""How many units (weights, or blocks) each layer keeps, in whole numbers that sum to exactly what was asked.

Every allocation has one form: it takes layers and a total and returns counts. Nothing else in the tool rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.maths.keep import apportion, top_k


@dataclass(frozen=True, eq=False)
class Layer:
    """What an allocation may know of a layer.

    Args:
        name: of the tensor.
        shape: of the tensor, [out, in, *kernel].
        scores: one per unit in the order of the matrix view; -inf where a unit may not stay, +inf where it must.
    """

    name: str
    shape: tuple[int, ...]
    scores: Float[Tensor, " units"]

    @property
    def units(self) -> int:
        """Weights, or blocks, of the layer."""
        return self.scores.numel()

    @property
    def floor(self) -> int:
        """Units that must stay."""
        return int((self.scores == torch.inf).sum())

    @property
    def cap(self) -> int:
        """Units that may stay."""
        return int((self.scores != -torch.inf).sum())


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
    kept = top_k(torch.cat([layer.scores for layer in layers]), total)
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


def _apportioned(layers: Sequence[Sized], shares: Sequence[int], total: int) -> list[int]:
    exact = [Fraction(share) for share in shares]
    return apportion(exact, total, [layer.cap for layer in layers], floors=[layer.floor for layer in layers])


BY_SIZE: dict[str, Callable[[Sequence[Sized], int], list[int]]] = {"uniform": uniform, "erk": erk}
"""Allocations that look at sizes alone."""

ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "global": globally, "erk": erk}
"""name -> function; names and summaries are also in `recipes/allocation.py`, which needs no torch."""
