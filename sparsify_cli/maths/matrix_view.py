"""The matrix view of a weight: rows = outputs, columns = kernel positions x input channels, channels fastest.

A linear weight is its own view. A convolution [out, in, kh, kw] becomes [out, kh*kw*in], so that consecutive columns
are consecutive input channels at one kernel position: the layout sparse hardware multiplies in.

Source: NVIDIA apex ASP and NM-sparsity (NHWC) group along channels in the same way; code that flattens (in, kh, kw)
groups across kernel positions, which no 2:4 kernel accepts.
"""

from __future__ import annotations

import math

from jaxtyping import Shaped
from torch import Tensor

from sparsify_cli.recipes.pattern import Pattern


def to_matrix(weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "out columns"]:
    """The matrix view of [out, in, *kernel]: [out, kernel*in], input channels fastest.

    A vector becomes a column. Two dimensions pass through unchanged.
    """
    if weight.ndim < 3:
        return weight if weight.ndim == 2 else weight.reshape(-1, 1)
    return weight.movedim(1, -1).flatten(1)


def from_matrix(matrix: Shaped[Tensor, "out columns"], shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
    """The tensor of `shape` whose matrix view is `matrix`: the inverse of `to_matrix`."""
    if len(shape) < 3:
        return matrix.reshape(shape)
    return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def to_blocks(matrix: Shaped[Tensor, "out columns"], rows: int, columns: int) -> Shaped[Tensor, "blocks size"]:
    """The blocks of `rows` x `columns` of a matrix, one a row, row of blocks after row of blocks."""
    height, width = matrix.shape[0] // rows, matrix.shape[1] // columns
    return matrix.reshape(height, rows, width, columns).transpose(1, 2).reshape(height * width, rows * columns)


def from_blocks(blocks: Shaped[Tensor, "blocks size"], shape: tuple[int, int], rows: int, columns: int) -> Shaped[Tensor, "out columns"]:
    """The matrix of `shape` whose blocks are `blocks`: the inverse of `to_blocks`."""
    return blocks.reshape(shape[0] // rows, shape[1] // columns, rows, columns).transpose(1, 2).reshape(shape)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the matrix view of a tensor of `shape`."""
    if len(shape) < 2:
        return math.prod(shape), 1
    return shape[0], math.prod(shape[1:])


def obstacle(shape: tuple[int, ...], pattern: Pattern) -> str | None:
    """Why a tensor of `shape` cannot carry the pattern, as the rest of a sentence; None when it can."""
    rows, columns = matrix_shape(shape)
    channels = shape[1] if len(shape) > 1 else 1
    if channels % pattern.group:
        return f"has {channels} input channel{'s' * (channels != 1)}, not a multiple of {pattern.group}"
    if pattern.transposed and rows % pattern.group:
        return f"has {rows} outputs, not a multiple of {pattern.group}"
    if rows % pattern.rows:
        return f"has {rows} outputs, not a multiple of {pattern.rows}"
    if columns % pattern.columns:
        return f"has {columns} columns, not a multiple of {pattern.columns}"
    return None
