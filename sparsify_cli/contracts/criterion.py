"""The promise of a criterion: a score for every weight, higher = keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sparsify_cli.values.stats import Stats

Scores = dict[str, Tensor]
"""name -> tensor of the weight's shape; higher = keep; comparable inside a tensor, and across tensors where the method says so."""


class Criterion(ABC):
    """Ranks weights. A frozen dataclass; its fields are its options.

    Differs from the house's first sketch (`scores(model, stats)`): it takes named weights instead of a module, so
    that data-free pruning needs no architecture.
    """

    needs: frozenset[str] = frozenset()
    """What must be gathered: of "gram", "inputs" and "network" by calibration, of "movement" by training; as in `Stats`."""
    directed: ClassVar[bool] = False
    """It tells outputs from inputs: it is given every weight as [out, in, *kernel], however it is stored."""
    comparable: ClassVar[bool] = True
    """Scores of different tensors may compete; where not, every layer gets the same share unless an allocation is named."""
    joint: ClassVar[bool] = False
    """Scores of several tensors hang together, so that only one ranking over all of them does what they mean."""

    @property
    def sizes(self) -> Criterion:
        """The same, or one like it whose scores are sizes, for who counts how many are large; places in a row are none."""
        return self

    @abstractmethod
    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Score every weight of every named tensor.

        Args:
            weights: prunable tensors by name, finite.
            stats: what calibration gathered; empty for data-free criteria.

        Returns:
            Scores with the names and shapes of `weights`, finite, without side effects on `weights`.
        """


class LayerwiseCriterion(Criterion):
    """A criterion that looks at one tensor at a time."""

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Score each tensor on its own."""
        return {name: self.score(name, weight, stats) for name, weight in weights.items()}

    @abstractmethod
    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """Score one tensor; same shape, higher = keep."""
