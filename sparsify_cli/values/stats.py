"""Stats: what calibration saw of each layer's inputs, and what was not gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsify_cli.errors import MissingContext


@dataclass(frozen=True, eq=False)
class Stats:
    """Statistics of layer inputs over calibration rows; empty when nothing was gathered.

    Args:
        rows: name -> how many rows were seen.
        gram: name -> X X^T / n, float64, [columns, columns] of the matrix view, n = rows; for a grouped convolution
            [groups, columns, columns], n = rows of one group.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    gram: Mapping[str, Tensor] = field(default_factory=dict)

    def second_moment(self, name: str) -> Tensor:
        """E[x_j^2] of a layer's inputs over calibration rows, [columns] or [groups, columns]: the diagonal of its Gram matrix.

        Raises:
            MissingContext: calibration did not see this layer.
        """
        if name not in self.gram:
            raise MissingContext(f"No calibration statistics for {name!r}.", "This criterion needs inputs.", "Give --data and --arch.")
        return self.gram[name].diagonal(dim1=-2, dim2=-1)
