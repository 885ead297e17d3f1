"""What the zeros of a weight look like: N:M groups, blocks, whole rows and columns; found run of outputs by run of outputs.

A pattern runs along input channels of the matrix view [out, kernel x in], channels fastest (`matrix_view.py`), whether the
weight is stored [out, in] or [in, out]. In groups of M, some always hold N: `N:M` is told when it is one of the usual patterns, or
when groups hold so many that N is no accident of zeros that lie anywhere; `N:MT` where groups of M outputs hold no more either. Blocks are
found when all zeros come in blocks that are zero throughout; a row is dead when nothing of an output stays, a column when
nothing reads an input channel. What is found in runs of rows adds up to what is found in the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]

USUAL: frozenset[Pair] = frozenset({(1, 4), (1, 2), (2, 4), (4, 8)})
"""N:M patterns that are told whenever every group holds them, also where many groups hold less."""

GROUPS = (2, 4, 8, 16, 32)
"""M of the patterns that are looked for; N is any number below."""

FULL = 0.9
"""Share of N:M that must be there, over outputs that are not dead, for a pattern that is not usual."""

BLOCKS: tuple[Pair, ...] = ((16, 16), (8, 8), (16, 1), (1, 16), (4, 4), (8, 1), (1, 8), (4, 1), (1, 4))
"""Rows x columns of blocks that are looked for, largest first."""

ROWS = 32
"""Every run of rows but the last has a multiple of so many, so that no block and no group lies across two."""

SAMPLE = 16
"""Rows that are looked at before all: what does not hold there need not be looked for."""


@dataclass(frozen=True)
class Zeros:
    """The zeros of a run of rows as they are stored; `a + b` is that of b behind a.

    Args:
        kernel: positions of the kernel, 1 for a linear weight.
        rows: stored rows: outputs, or inputs when transposed.
        zeros: how many numbers are zero.
        gone: rows of which every number is zero.
        alive: for each input channel, or output when transposed, whether anything of it stays.
        fullest: M -> how many numbers of a group of M inputs are not zero, at most.
        across: the same of M outputs, where groups of inputs are not full.
        blocks: sizes, outputs x inputs, of blocks each of which is zero throughout or holds no zero.
        transposed: stored [in, out].
    """

    kernel: int
    rows: int
    zeros: int
    gone: int
    alive: Array = field(compare=False)
    fullest: Mapping[int, int] = field(default_factory=dict)
    across: Mapping[int, int] = field(default_factory=dict)
    blocks: frozenset[Pair] = frozenset()
    transposed: bool = False

    @classmethod
    def of(cls, nonzero: npt.NDArray[np.bool_], *, transposed: bool = False) -> Zeros:
        """The zeros of [out, in, *kernel], or [in, out, *kernel] when transposed, at least two dimensions; True = not zero."""
        rows, channels, kernel = nonzero.shape[0], nonzero.shape[1], math.prod(nonzero.shape[2:])
        view = np.ascontiguousarray(np.moveaxis(nonzero.reshape(rows, channels, kernel), 1, 2))
        matrix = view.reshape(rows, kernel * channels)
        zeros = matrix.size - int(np.count_nonzero(matrix))
        stored = {pair: pair[::-1] if transposed else pair for pair in BLOCKS}
        inputs, outputs = ([m for m in GROUPS if size % m == 0] for size in ((rows, channels) if transposed else (channels, rows)))
        fullest = _fullest(matrix, inputs, zeros, along_rows=not transposed)
        may_hold = any(most < m for m, most in fullest.items())
        return cls(
            kernel=kernel,
            rows=rows,
            zeros=zeros,
            gone=rows - int(np.count_nonzero(matrix.any(1))),
            alive=np.asarray(view.any((0, 1))),
            fullest=fullest,
            across=_fullest(matrix, outputs if may_hold else [], zeros, along_rows=transposed),
            blocks=frozenset(
                pair for pair, there in stored.items() if _fits(matrix.shape, there) and (not zeros or _in_blocks(matrix, there))
            ),
            transposed=transposed,
        )

    def __add__(self, other: Zeros) -> Zeros:
        return Zeros(
            kernel=self.kernel,
            rows=self.rows + other.rows,
            zeros=self.zeros + other.zeros,
            gone=self.gone + other.gone,
            alive=self.alive | other.alive,
            fullest=_larger(self.fullest, other.fullest),
            across=_larger(self.across, other.across),
            blocks=self.blocks & other.blocks,
            transposed=self.transposed,
        )

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.rows * self.alive.size * self.kernel

    @property
    def dead_rows(self) -> int:
        """Outputs of which every number is zero."""
        return self._idle if self.transposed else self.gone

    @property
    def dead_columns(self) -> int:
        """Input channels that nothing reads."""
        return self.gone if self.transposed else self._idle

    @property
    def pattern(self) -> str:
        """The N:M of the smallest N/M, then M, that every group holds, T where outputs do, too; nothing where nothing or all is zero."""
        if not 0 < self.zeros < self.size:
            return ""
        outputs = self.alive.size if self.transposed else self.rows
        density = (self.size - self.zeros) * outputs / (self.size * (outputs - self.dead_rows))
        by_design = not self.block or self.block.endswith("x1")  # whole inputs and wide blocks fill groups in their own way
        found = [(n, m) for m, n in self.fullest.items() if n < m and ((n, m) in USUAL or (by_design and density >= FULL * n / m))]
        if not found:
            return ""
        keep, group = min(found, key=lambda pair: (pair[0] / pair[1], pair[1]))
        return f"{keep}:{group}T" if self.across.get(group, group) <= keep else f"{keep}:{group}"

    @property
    def block(self) -> str:
        """The largest block in which all zeros come, `channel` where they are whole rows and columns, or nothing."""
        if not 0 < self.zeros < self.size:
            return ""
        living = (self.rows - self.gone) * (self.alive.size - self._idle) * self.kernel
        if self.zeros == self.size - living:
            return "channel"
        found = next((pair for pair in BLOCKS if pair in self.blocks), None)
        return f"{found[0]}x{found[1]}" if found else ""

    @property
    def _idle(self) -> int:
        """Entries of the second axis of which every number is zero."""
        return self.alive.size - int(np.count_nonzero(self.alive))


def _larger(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {m: max(most, other[m]) for m, most in one.items() if m in other}


def _fits(shape: tuple[int, ...], pair: Pair) -> bool:
    return shape[0] % pair[0] == 0 and shape[1] % pair[1] == 0


def _in_blocks(matrix: Array, pair: Pair) -> bool:
    return _is_blocks(matrix[:SAMPLE], pair) and (len(matrix) <= SAMPLE or _is_blocks(matrix[SAMPLE:], pair))


def _fullest(matrix: Array, groups: Sequence[int], zeros: int, *, along_rows: bool) -> dict[int, int]:
    """M -> the most numbers of a group of M neighbours, in a row or in a column, that are not zero.

    Where a group of a sample is full, so is one of every smaller M, and the rest need not be read.
    """
    if not groups or not matrix.size:
        return dict.fromkeys(groups, 0)
    sample = _counted(matrix[:ROWS], groups, along_rows=along_rows) if zeros else {}
    if not zeros or sample[groups[-1]] == groups[-1]:
        return {m: m for m in groups}
    return _counted(matrix, groups, along_rows=along_rows) if len(matrix) > ROWS else sample


def _counted(matrix: Array, groups: Sequence[int], *, along_rows: bool) -> dict[int, int]:
    """The same, each M from the counts of half of it."""
    counts, inner = matrix.view(np.uint8), 1 if along_rows else matrix.shape[1]
    found = {}
    for m in groups:
        pairs = counts.reshape(-1, 2, inner)
        counts = pairs[:, 0] + pairs[:, 1]
        found[m] = int(counts.max())
    return found


def _is_blocks(matrix: Array, pair: Pair) -> bool:
    (height, width), (rows, columns) = matrix.shape, pair
    blocks = matrix.reshape(height // rows, rows, width // columns, columns)
    return bool((blocks == blocks[:, :1, :, :1]).all())
