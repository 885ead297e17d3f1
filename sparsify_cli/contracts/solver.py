"""The promise of a solver: it chooses which weights stay and repairs them, so that outputs change little."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

Solution = tuple[Float[Tensor, "out columns"], Bool[Tensor, "out columns"]]
"""A repaired matrix view, float64 and zero where pruned, and its mask."""


@dataclass(frozen=True, eq=False)
class Keep:
    """What must hold of a layer's mask.

    Args:
        count: weights that stay, exactly; at most what the pattern allows.
        pattern: holds in every group of consecutive columns.
        within: positions that may stay, [out, columns]; others stay only when there are too few. None = all may.
        positions: of a kernel: columns are kernel positions x input channels, channels fastest.
    """

    count: int
    pattern: Pattern
    within: Bool[Tensor, "out columns"] | None = None
    positions: int = 1


class Solver(ABC):  # noqa: B024 - what layers and networks have in common; not meant to be made
    """Chooses and repairs together. A frozen dataclass; its fields are its options."""

    transposes: ClassVar[bool] = False
    """Whether it can hold N:M along outputs too: it chooses all of a layer's weights at once."""

    def check(self, pattern: Pattern) -> None:
        """Refuse patterns the method cannot hold, before anything is computed; a method that holds blocks overrides this.

        Raises:
            BadRequest: it is one.
        """
        self.check_both_ways(pattern)
        if pattern.block_size > 1:
            raise BadRequest(
                f"The solver {_name(self)} cannot hold {pattern}.",
                "It decides weight after weight, and a block lies across several rows or columns.",
                "Choose unstructured or N:M, or leave --solver out.",
            )

    def check_both_ways(self, pattern: Pattern) -> None:
        """Refuse N:M along outputs too, where the method cannot hold it.

        Raises:
            BadRequest: it is asked for.
        """
        if pattern.transposed and not self.transposes:
            raise BadRequest(
                f"The solver {_name(self)} cannot hold {pattern}.",
                "It decides row by row, and rows depend on each other where N:M holds along outputs too.",
                "Choose alps, refit or a solver of whole networks, or leave --solver out.",
            )


def _name(solver: Solver) -> str:
    return type(solver).__module__.rpartition(".")[2].replace("_", "-")


class LayerSolver(Solver):
    """Solves one layer at a time, so that the layer's own outputs change little on calibration data."""

    sequential: bool = True
    """Whether each layer sees inputs from layers that are already pruned, or those of the dense network."""

    @abstractmethod
    def solve(self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep) -> Solution:
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

    def ladder(
        self, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], keep: Keep, counts: Sequence[int]
    ) -> list[Solution]:
        """Solutions for several counts; a method that finds them all in one run overrides this.

        Args:
            weight, gram: as for `solve`.
            keep: pattern and support; its own count is not looked at.
            counts: weights that stay in each solution.
        """
        return [self.solve(weight, gram, replace(keep, count=count)) for count in counts]


Choose = Callable[[Mapping[str, Tensor], Fraction], MaskSet]
"""Scores by name (higher = keep) and a share of the way in [0, 1] -> masks: the stage knows pattern, allocation and support."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A network that a solver has pruned and repaired.

    Args:
        weights: name -> new values, zero where pruned, in the tensors' own shapes.
        masks: which weights stay.
        notes: what a person should know, one sentence each.
    """

    weights: Mapping[str, Tensor]
    masks: MaskSet
    notes: tuple[str, ...] = ()


class NetworkSolver(Solver):
    """Solves all layers at once, so that the network's own loss changes little: second-order methods with a Fisher matrix."""

    transposes: ClassVar[bool] = True

    @abstractmethod
    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair a network.

        Args:
            network: its weights, and samples to differentiate the loss on; a private copy whose weights may be set.
            choose: gives masks that hold pattern, support and, at 1, the sparsity asked for.
            pattern: that `choose` holds.

        Raises:
            Anomalous: gradients or curvature cannot be worked with.
        """

    @abstractmethod
    def memory(self, sizes: Sequence[int], samples: int) -> int:
        """Bytes that `solve_network` will hold at most beyond the network, for tensors of these sizes and so many samples."""
