"""The matrix view: input channels fastest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.maths.matrix_view import from_blocks, from_matrix, matrix_shape, obstacle, to_blocks, to_matrix
from sparsify_cli.recipes.pattern import Pattern

SHAPES = [(), (5,), (2, 3), (4, 3, 5), (2, 3, 4, 5), (2, 1, 3, 3), (2, 3, 2, 3, 2), (0, 4)]


def test_channels_are_fastest():
    """Two channels of a 1x3 kernel alternate: column = position * channels + channel."""
    weight = torch.tensor([[[[0, 1, 2]], [[10, 11, 12]]]])
    assert to_matrix(weight).tolist() == [[0, 10, 1, 11, 2, 12]]


def test_rows_of_the_kernel_come_before_columns():
    """Entry (o, i, y, x) is at row o, column (y * width + x) * channels + i."""
    weight = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    assert all(
        to_matrix(weight)[o, (y * 4 + x) * 3 + i] == weight[o, i, y, x]
        for o in range(2)
        for i in range(3)
        for y in range(2)
        for x in range(4)
    )


def test_a_matrix_is_its_own_view():
    """A linear weight passes through, the very same tensor."""
    weight = torch.rand(3, 4)
    assert to_matrix(weight) is weight


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_back_and_forth(shape):
    """`from_matrix` undoes `to_matrix`, contiguous, and the shape is known beforehand."""
    weight = torch.rand(shape)
    matrix = to_matrix(weight)
    assert tuple(matrix.shape) == matrix_shape(shape)
    assert torch.equal(from_matrix(matrix, shape), weight)
    assert from_matrix(matrix, shape).is_contiguous()


def test_blocks_are_rectangles():
    """A 4 x 4 matrix in blocks of 2 x 2, row of blocks by row of blocks."""
    matrix = torch.arange(16).reshape(4, 4)
    assert to_blocks(matrix, 2, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), down=st.integers(1, 3), across=st.integers(1, 3))
def test_blocks_back_and_forth(rows, columns, down, across):
    """`from_blocks` undoes `to_blocks`."""
    shape = (rows * down, columns * across)
    matrix = torch.rand(shape)
    assert torch.equal(from_blocks(to_blocks(matrix, rows, columns), shape, rows, columns), matrix)


@pytest.mark.parametrize(
    ("shape", "pattern", "reason"),
    [
        ((16, 3, 3, 3), "2:4", "has 3 input channels, not a multiple of 4"),
        ((8, 1, 3, 3), "2:4", "has 1 input channel, not a multiple of 4"),
        ((8, 4, 3, 3), "2:4", None),
        ((10, 64), "2:4", None),
        ((10, 63), "2:4", "has 63 input channels, not a multiple of 4"),
        ((5,), "2:4", "has 1 input channel, not a multiple of 4"),
        ((10, 64), "block:4x1", "has 10 outputs, not a multiple of 4"),
        ((12, 64), "block:4x1", None),
        ((12, 3, 3, 3), "block:1x4", "has 27 columns, not a multiple of 4"),
        ((12, 3, 2, 2), "block:1x4", None),
        ((7, 3), "unstructured", None),
        ((5,), "unstructured", None),
        ((), "unstructured", None),
    ],
)
def test_obstacles(shape, pattern, reason):
    """What keeps a shape from carrying a pattern is said with its numbers; unstructured fits everything."""
    assert obstacle(shape, Pattern.parse(pattern)) == reason
