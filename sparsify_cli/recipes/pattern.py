"""Patterns: which positions compete with each other, and how many of a group may stay.

    unstructured   every weight of the matrix view competes with every other
    2:4            of every 4 consecutive weights along the input channels, 2 are kept (N:M = keep N of M)
    2:4T           the same along the outputs too, so that the transposed matrix, which gradients pass, is 2:4 as well
    block:4x1      blocks of 4 outputs x 1 input stay or go together

Differs from SparseGPT, Wanda and OBC flags, where N of N:M is the number *removed*; 2:4 hides the difference, 1:4 does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sparsify_cli.errors import BadRequest


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern.

    Args:
        keep: weights that may stay in each group (N of N:M); equals `group` when nothing is forced.
        group: consecutive inputs that form a group (M of N:M).
        rows: outputs of a block.
        columns: inputs of a block.
        transposed: N:M holds along outputs too.
    """

    keep: int = 1
    group: int = 1
    rows: int = 1
    columns: int = 1
    transposed: bool = False

    @classmethod
    def parse(cls, text: str | Pattern) -> Pattern:
        """Read `unstructured`, `N:M`, `N:MT` or `block:RxC`.

        Raises:
            BadRequest: the text is none of these, or its numbers make no pattern.
        """
        if isinstance(text, Pattern):
            return text
        text = str(text)  # a recipe may say 24, a number
        if text == "unstructured":
            return cls()
        if match := re.fullmatch(r"(\d+):(\d+)(T?)", text):
            return cls._n_of_m(int(match[1]), int(match[2]), both_ways=bool(match[3]))
        if match := re.fullmatch(r"block:(\d+)x(\d+)", text):
            return cls._block(int(match[1]), int(match[2]))
        raise BadRequest(f"{text!r} is not a pattern.", "", "Write unstructured, N:M such as 2:4 (2:4T = both ways), or block:RxC.")

    @classmethod
    def _n_of_m(cls, keep: int, group: int, *, both_ways: bool) -> Pattern:
        if not 0 < keep < group:
            raise BadRequest(
                f"The pattern {keep}:{group} keeps {keep} of every {group} weights.",
                "N must be at least 1 and smaller than M.",
                "Write for instance 2:4, which keeps 2 of every 4.",
            )
        return cls(keep=keep, group=group, transposed=both_ways)

    @classmethod
    def _block(cls, rows: int, columns: int) -> Pattern:
        if rows * columns < 2:
            raise BadRequest(f"The pattern block:{rows}x{columns} has no block of two or more weights.")
        return cls(rows=rows, columns=columns)

    @property
    def implied_sparsity(self) -> Fraction:
        """The least sparsity the pattern allows, in [0, 1); 0 when it forces none."""
        return 1 - Fraction(self.keep, self.group)

    @property
    def is_grouped(self) -> bool:
        """True for N:M."""
        return self.group > 1

    @property
    def block_size(self) -> int:
        """Weights that stay or go together."""
        return self.rows * self.columns

    def describe(self) -> str:
        """The pattern in plain words."""
        if self.is_grouped:
            return f"keep {self.keep} of every {self.group} along the input channels{' and along the outputs' * self.transposed}"
        if self.block_size > 1:
            return f"blocks of {self.rows} outputs x {self.columns} inputs"
        return "every weight on its own"

    def __str__(self) -> str:
        """The text `parse` reads back."""
        if self.is_grouped:
            return f"{self.keep}:{self.group}{'T' * self.transposed}"
        return f"block:{self.rows}x{self.columns}" if self.block_size > 1 else "unstructured"
