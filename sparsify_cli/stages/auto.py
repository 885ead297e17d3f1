"""`--solver auto`: the solver for each layer, by its size, the pattern, and the time there is.

blocks      exactobs, which removes whole blocks exactly; where a layer is too wide for it nothing can
N:MT        alps: of the solvers of layers it alone repairs and holds N:M both ways
others      alps, whose errors are the least, for as many of the smallest layers as two minutes or so are enough for, all together;
            with --effort high ten times that, with --minutes as many. The larger ones: sparsegpt, some hundred times faster, whose
            time grows least with size

Minutes are counted in operations, so that a run does the same on every machine.

ALPS takes 9 c^3 operations for the eigendecomposition of c columns, and each of its iterations, a hundred of them, 2 o c^2 for o outputs
and as long as 300 operations for ranking each weight.
"""

from __future__ import annotations

import math
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
ITERATIONS, RANKING = 100, 300
BUDGET = {"auto": 2e12, "normal": 2e12, "high": 2e13}
"""Operations of ALPS on all layers together, by effort; 2e12 are one or two minutes of one core."""

MINUTE = 1.2e12
"""Operations of ALPS in a minute of one core, about."""

Size = tuple[int, int]
"""Outputs and columns of a layer."""


def operations(size: Size) -> float:
    """What ALPS takes for a layer."""
    outputs, columns = size
    return 9.0 * columns**3 + ITERATIONS * outputs * columns * (2.0 * columns + RANKING)


def limit(sizes: Iterable[Size], budget: float) -> float:
    """The operations up to which layers go to ALPS, so that those of all that do stay within a budget; layers of one size go together."""
    spent, reached = 0.0, 0.0
    for each, count in sorted(Counter(operations(size) for size in sizes if size[1] <= WIDE).items()):
        spent += each * count
        if spent > budget:
            break
        reached = each
    return reached


def budget(effort: str, minutes: float | None = None) -> float:
    """Operations that ALPS may take."""
    return BUDGET[effort] if minutes is None else minutes * MINUTE


def minutes_of(sizes: Iterable[Size], pattern: Pattern, most: float) -> float:
    """Minutes that ALPS takes for the layers that are its."""
    return sum(operations(size) for size in sizes if choice(size, pattern, most) == "alps") / MINUTE


def alone(pattern: Pattern) -> str | None:
    """The one solver of layers that holds a pattern, whatever its time; None where there are several."""
    if pattern.block_size > 1:
        return "exactobs"
    return "alps" if pattern.transposed else None


def choice(size: Size, pattern: Pattern, most: float = math.inf) -> str:
    """The solver of a layer, when ALPS may take so many operations."""
    return alone(pattern) or ("alps" if size[1] <= WIDE and operations(size) <= most else "sparsegpt")


def said(sizes: Iterable[Size], pattern: Pattern, most: float = math.inf) -> str:
    """Which solvers were chosen, in words."""
    counts = Counter(choice(size, pattern, most) for size in sizes)
    return ", ".join(f"{name} for {count} layer{'s' * (count > 1)}" for name, count in counts.items())


@dataclass(frozen=True)
class Auto(LayerSolver):
    """The solver for each layer, by its size and the pattern.

    Args:
        most: operations of ALPS up to which it is chosen.
    """

    most: float = math.inf
    sequential: bool = True

    def check(self, pattern: Pattern) -> None:
        """Every pattern that the solver of small layers holds can be held."""
        _solver(choice((1, 1), pattern)).check(pattern)

    def solve(self, weight: Tensor, gram: Tensor, keep: Keep) -> Solution:
        """Solve one layer with the solver for it."""
        return self._for(weight, keep).solve(weight, gram, keep)

    def ladder(self, weight: Tensor, gram: Tensor, keep: Keep, counts: Sequence[int]) -> list[Solution]:
        """Several counts with the solver for the layer."""
        return self._for(weight, keep).ladder(weight, gram, keep, counts)

    def for_size(self, size: Size, pattern: Pattern) -> LayerSolver:
        """The solver of a layer of some size."""
        return _solver(choice(size, pattern, self.most))

    def _for(self, weight: Tensor, keep: Keep) -> LayerSolver:
        return self.for_size((weight.shape[0], weight.shape[1]), keep.pattern)


def _solver(name: str) -> LayerSolver:
    solver: LayerSolver = Shelf("solvers").load(name)()
    return solver
