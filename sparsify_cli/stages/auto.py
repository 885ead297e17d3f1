"""`--solver auto`: the solver for each layer, by its size and the pattern.

blocks               exactobs, which removes whole blocks exactly; where a layer is too wide for it nothing can
up to 3,000 columns  alps: the least errors of all, and seconds a layer
wider                sparsegpt, whose time grows least with the width (alps where N:M holds along outputs too)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.solver import Keep, LayerSolver, Solution
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf

NAME = "auto"
WIDE = 3000
"""Columns of a layer from which an eigendecomposition takes minutes."""


def choice(columns: int, pattern: Pattern) -> str:
    """The solver of a layer with so many inputs."""
    if pattern.block_size > 1:
        return "exactobs"
    return "alps" if columns <= WIDE or pattern.transposed else "sparsegpt"


def said(columns: Iterable[int], pattern: Pattern) -> str:
    """Which solvers were chosen, in words."""
    counts = Counter(choice(width, pattern) for width in columns)
    return ", ".join(f"{name} for {count} layer{'s' * (count > 1)}" for name, count in counts.items())


@dataclass(frozen=True)
class Auto(LayerSolver):
    """The solver for each layer, by its size and the pattern."""

    sequential: bool = True

    def check(self, pattern: Pattern) -> None:
        """Every pattern that exactobs holds can be held."""
        _solver(choice(0, pattern)).check(pattern)

    def solve(self, weight: Tensor, gram: Tensor, keep: Keep) -> Solution:
        """Solve one layer with the solver for it."""
        return _solver(choice(weight.shape[1], keep.pattern)).solve(weight, gram, keep)

    def ladder(self, weight: Tensor, gram: Tensor, keep: Keep, counts: Sequence[int]) -> list[Solution]:
        """Several counts with the solver for the layer."""
        return _solver(choice(weight.shape[1], keep.pattern)).ladder(weight, gram, keep, counts)


def _solver(name: str) -> LayerSolver:
    solver: LayerSolver = Shelf("solvers").load(name)()
    return solver
