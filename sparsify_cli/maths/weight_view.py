"""A weight tensor in slices: the units that compete (weights, candidates of N:M groups, blocks), in the order of the matrix view.

Slices are runs of memory, so that a tensor of any size can be read, judged and written piece by piece. What is decided
about a unit comes back in memory order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparsify_cli.maths.magnitude_keys import magnitude_keys, zero_nonfinite
from sparsify_cli.maths.matrix_view import from_blocks, from_matrix, matrix_shape, to_blocks, to_matrix
from sparsify_cli.maths.n_of_m import best_of_groups
from sparsify_cli.maths.orientation import inputs_first, outputs_first, turned_shape
from sparsify_cli.recipes.pattern import Pattern

Array = npt.NDArray[Any]
SLICE = 1 << 19
"""Elements of a slice: it and what is derived from it stay in the processor's cache, and in memory that is used again and again."""


@dataclass(frozen=True)
class Units:
    """The units of one slice.

    Args:
        keys: one a unit, in the order of the matrix view.
        present: which of them may stay; None = all.
    """

    keys: Array
    present: Array | None = None


@dataclass(frozen=True)
class WeightView:
    """How a tensor is taken apart.

    Args:
        shape: [out, in, *kernel], as stored.
        word: type of its numbers.
        pattern: what it has to hold.
        transposed: it is stored [in, out / groups, *kernel]; only looked at for patterns, which have a direction.
        groups: of a transposed convolution.
    """

    shape: tuple[int, ...]
    word: str
    pattern: Pattern
    transposed: bool = False
    groups: int = 1

    @property
    def turned(self) -> int | None:
        """Groups of a weight whose rows and columns change places before groups or blocks are formed; None of others."""
        return self.groups if self.transposed and self.pattern != Pattern() else None

    @property
    def flat(self) -> bool:
        """True when matrix order is memory order, and a slice may begin anywhere between two groups."""
        return self.turned is None and self.pattern.block_size == 1 and math.prod(self.shape[2:]) == 1

    @property
    def oriented(self) -> tuple[int, ...]:
        """The shape [out, in / groups, *kernel]."""
        return turned_shape(self.shape, self.turned)

    def slices(self) -> list[tuple[int, int]]:
        """First element and number of elements of each slice; a pattern's groups and blocks never lie across two."""
        size = math.prod(self.shape)
        if self.turned is not None:
            return [(0, size)] if size else []
        row = 1 if self.flat else math.prod(self.shape[1:]) * self.pattern.rows
        step = row * math.lcm(8, self.pattern.group)  # masks are packed 8 a byte
        step *= max(1, SLICE // max(1, step))
        return [(start, min(step, size - start)) for start in range(0, size, step)]

    def units(self, raw: Array, common: str, *, lenient: bool = False) -> Units:
        """The units of a slice.

        Args:
            raw: its numbers in memory order, as unsigned integers.
            common: the type through whose bits all tensors are compared; blocks are always compared in float64.
            lenient: infinite and NaN numbers rank like zeros instead of above everything.
        """
        if self.pattern.block_size > 1:
            return Units(self._block_keys(raw, lenient))
        keys = magnitude_keys(raw, self.word, common)
        keys = self._to_matrix(zero_nonfinite(keys, common) if lenient else keys)
        if not self.pattern.is_grouped:
            return Units(keys)
        return Units(keys, best_of_groups(keys, self.pattern.keep, self.pattern.group))

    def all_nonzero(self, raw: Array) -> Array:
        """Which units hold no zero; bool, in unit order."""
        nonzero = self._to_matrix((raw & raw.dtype.type(~raw.dtype.type(0) >> raw.dtype.type(1))) != 0)
        if self.pattern.block_size == 1:
            return nonzero
        blocks = to_blocks(torch.from_numpy(nonzero).reshape(self._matrix(raw.size)), self.pattern.rows, self.pattern.columns)
        found: Array = blocks.all(1).numpy()
        return found

    def in_memory_order(self, keep: Array, size: int) -> Array:
        """A decision about each unit as one about each of the slice's `size` elements; bool, flat."""
        if self.pattern.block_size > 1:
            blocks = torch.from_numpy(keep)[:, None].expand(-1, self.pattern.block_size)
            keep = from_blocks(blocks, self._matrix(size), self.pattern.rows, self.pattern.columns).reshape(-1).numpy()
        if self.flat:
            return keep
        tensor = from_matrix(torch.from_numpy(keep).reshape(self._matrix(size)), self._shape(size))
        stored: Array = inputs_first(tensor, self.turned).contiguous().reshape(-1).numpy()
        return stored

    def _block_keys(self, raw: Array, lenient: bool) -> Array:
        numbers = torch.from_numpy(raw).view(getattr(torch, self.word)).double().abs().reshape(self._stored(raw.size))
        numbers = numbers.masked_fill(~numbers.isfinite(), 0.0) if lenient else numbers
        matrix = to_matrix(outputs_first(numbers, self.turned))
        sums = to_blocks(matrix, self.pattern.rows, self.pattern.columns).sum(1)
        keys: Array = sums.numpy().view(np.uint64)
        return keys

    def _to_matrix(self, values: Array) -> Array:
        """Values of a slice from memory order to matrix order, flat."""
        if self.flat:
            return values
        array = outputs_first(values.reshape(self._stored(values.size)), self.turned)
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(-1)

    def _stored(self, size: int) -> tuple[int, ...]:
        """Shape of a slice of so many elements, as stored."""
        rows = size // max(1, math.prod(self.shape[1:]))
        return (rows, *self.shape[1:])

    def _shape(self, size: int) -> tuple[int, ...]:
        """Shape of a slice, [out, in / groups, *kernel]."""
        return turned_shape(self._stored(size), self.turned)

    def _matrix(self, size: int) -> tuple[int, int]:
        return matrix_shape(self._shape(size))
