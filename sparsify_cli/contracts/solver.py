"""The promise of a solver: it chooses which weights of a layer stay and repairs them, so that outputs change little."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern


@dataclass(frozen=True, eq=False)
class Keep:
    """What must hold of a layer's mask.

    Args:
        count: weights that stay, exactly; at most what the pattern allows.
        pattern: holds in every group of consecutive columns.
        within: positions that may stay, [out, columns]; others stay only when there are too few. None = all may.
    """

    count: int
    pattern: Pattern
    within: Bool[Tensor, "out columns"] | None = None


class Solver(ABC):
    """Chooses and repairs together. A frozen dataclass; its fields are its options."""

    sequential: bool = True
    """Whether each layer sees inputs from layers that are already pruned, or those of the dense network."""

    @abstractmethod
    def solve(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep
    ) -> tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]:
        """Solve one layer (or one group of a grouped convolution).

        Args:
            weight: its matrix view, finite.
            gram: X X^T / n over n calibration rows, float64; a zero on the diagonal is an input that is never active.
            keep: how many weights stay, and under which pattern.

        Returns:
            The new matrix view, float64 and zero where pruned, and the mask with `keep.count` places True. Arguments are
            not written to.

        Raises:
            Anomalous: the Gram matrix cannot be worked with.
            Infeasible: the pattern has no room for the count.
        """

    def check(self, pattern: Pattern) -> None:
        """Refuse patterns the method cannot hold, before anything is computed; a method that holds blocks overrides this.

        Raises:
            BadRequest: it is one.
        """
        if pattern.block_size > 1:
            name = type(self).__name__.lower()
            raise BadRequest(
                f"The solver {name} cannot hold {pattern}.",
                "It decides column after column, and a block lies across several rows or columns.",
                "Choose unstructured or N:M, or leave --solver out.",
            )
