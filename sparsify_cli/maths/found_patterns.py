"""What the zeros of a weight look like: N:M groups, blocks, whole rows and columns; found run of outputs by run of outputs.

A pattern runs along input channels of the matrix view [out, kernel x in], channels fastest (`matrix_view.py`). Blocks are
found when all zeros come in blocks that are zero throughout; a row is dead when nothing of an output stays, a column when
nothing reads an input channel. What is found in runs of rows adds up to what is found in the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]

PATTERNS: tuple[Pair, ...] = ((1, 4), (1, 2), (2, 4), (4, 8))
"""N:M patterns that are looked for, strictest first."""

BLOCKS: tuple[Pair, ...] = ((16, 16), (8, 8), (16, 1), (1, 16), (4, 4), (8, 1), (1, 8), (4, 1), (1, 4))
"""Rows x columns of blocks that are looked for, largest first."""

ROWS = 16
"""Every run of rows but the last has a multiple of so many, so that no block lies across two."""

SAMPLE = 16
"""Rows that are looked at before all: what does not hold there need not be looked for."""


@dataclass(frozen=True)
class Zeros:
    """The zeros of a run of outputs; `a + b` is that of b behind a.

    Args:
        kernel: positions of the kernel, 1 for a linear weight.
        rows: outputs.
        zeros: how many numbers are zero.
        dead_rows: outputs of which every number is zero.
        alive: for each input channel, whether something reads it.
        patterns: N:M that every group holds.
        blocks: sizes of blocks each of which is zero throughout or holds no zero.
    """

    kernel: int
    rows: int
    zeros: int
    dead_rows: int
    alive: Array = field(compare=False)
    patterns: frozenset[Pair] = frozenset()
    blocks: frozenset[Pair] = frozenset()

    @classmethod
    def of(cls, nonzero: npt.NDArray[np.bool_]) -> Zeros:
        """The zeros of [out, in, *kernel], at least two dimensions; True = not zero."""
        rows, channels, kernel = nonzero.shape[0], nonzero.shape[1], math.prod(nonzero.shape[2:])
        view = np.ascontiguousarray(np.moveaxis(nonzero.reshape(rows, channels, kernel), 1, 2))
        matrix = view.reshape(rows, kernel * channels)
        zeros = matrix.size - int(np.count_nonzero(matrix))
        patterns = frozenset(pair for pair in PATTERNS if channels % pair[1] == 0 and _holds(_is_n_of_m, matrix, pair)) if zeros else ()
        return cls(
            kernel=kernel,
            rows=rows,
            zeros=zeros,
            dead_rows=rows - int(np.count_nonzero(matrix.any(1))),
            alive=np.asarray(view.any((0, 1))),
            patterns=frozenset(patterns),
            blocks=frozenset(pair for pair in BLOCKS if _fits(matrix.shape, pair) and (not zeros or _holds(_is_blocks, matrix, pair))),
        )

    def __add__(self, other: Zeros) -> Zeros:
        return Zeros(
            kernel=self.kernel,
            rows=self.rows + other.rows,
            zeros=self.zeros + other.zeros,
            dead_rows=self.dead_rows + other.dead_rows,
            alive=self.alive | other.alive,
            patterns=self.patterns & other.patterns,
            blocks=self.blocks & other.blocks,
        )

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.rows * self.alive.size * self.kernel

    @property
    def dead_columns(self) -> int:
        """Input channels that nothing reads."""
        return self.alive.size - int(np.count_nonzero(self.alive))

    @property
    def pattern(self) -> str:
        """The strictest N:M that every group holds, or nothing; nothing where everything or nothing is zero."""
        found = next((pair for pair in PATTERNS if pair in self.patterns), None)
        return f"{found[0]}:{found[1]}" if found and 0 < self.zeros < self.size else ""

    @property
    def block(self) -> str:
        """The largest block in which all zeros come, `channel` where they are whole rows and columns, or nothing."""
        if not 0 < self.zeros < self.size:
            return ""
        living = (self.rows - self.dead_rows) * (self.alive.size - self.dead_columns) * self.kernel
        if self.zeros == self.size - living:
            return "channel"
        found = next((pair for pair in BLOCKS if pair in self.blocks), None)
        return f"{found[0]}x{found[1]}" if found else ""


def _fits(shape: tuple[int, ...], pair: Pair) -> bool:
    return shape[0] % pair[0] == 0 and shape[1] % pair[1] == 0


def _holds(rule: Callable[[Array, Pair], bool], matrix: Array, pair: Pair) -> bool:
    return rule(matrix[:SAMPLE], pair) and (len(matrix) <= SAMPLE or rule(matrix[SAMPLE:], pair))


def _is_n_of_m(matrix: Array, pair: Pair) -> bool:
    groups = matrix.reshape(-1, pair[1]).view(np.uint8)
    counts = groups[:, 0].copy()
    for column in range(1, pair[1]):
        counts += groups[:, column]
    return not counts.size or int(counts.max()) <= pair[0]


def _is_blocks(matrix: Array, pair: Pair) -> bool:
    (height, width), (rows, columns) = matrix.shape, pair
    blocks = matrix.reshape(height // rows, rows, width // columns, columns)
    return bool((blocks == blocks[:, :1, :, :1]).all())
