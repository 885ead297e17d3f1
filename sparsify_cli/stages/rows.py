"""One row of the plan of a pruning: a tensor, whether it is prunable, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_cli.maths.orientation import turned_shape


@dataclass(frozen=True)
class Row:
    """One tensor of a plan.

    Args:
        name: its name.
        shape: its shape.
        matched: True when it is prunable.
        why: the reason, in a few words.
        transposed: it is stored [in, out / groups].
        groups: of a transposed convolution.
        dtype: type of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    matched: bool
    why: str
    transposed: bool = False
    dtype: str = ""
    groups: int = 1

    @property
    def oriented(self) -> tuple[int, ...]:
        """The shape [out, in / groups, *kernel]."""
        return turned_shape(self.shape, self.groups if self.transposed else None)

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)
