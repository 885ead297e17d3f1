"""Rows of layer inputs: how many there are, some of them alone, and linear layers that are stored the other way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.maths.gram import chosen_rows, gram_shape, gram_sum, has_gram, input_rows, is_turned, row_count, rows_at
from tests.unit.maths.test_gram import EACH, made


class Conv1D(nn.Module):
    """A linear layer that stores [in, out], called as transformers calls it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


@EACH
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_rows_are_counted_and_picked(kind):
    """As many rows as `input_rows` has, and at some places just those, in any order."""
    layer, inputs = made(kind)
    every = input_rows(layer, inputs)
    assert row_count(layer, inputs) == every.shape[1]
    where = torch.randperm(every.shape[1])[: max(1, every.shape[1] // 2)]
    assert torch.equal(rows_at(layer, inputs, where), every[:, where])
    assert rows_at(layer, inputs, where[:0]).shape == (len(every), 0, every.shape[2])


def test_rows_are_chosen_by_share_and_seed():
    """All with a share of one, about half with a half, ascending, by the generator alone, and none that is padding."""
    layer, x, real = nn.Linear(2, 2), torch.zeros(1000, 2), torch.arange(1000) % 4 > 0
    assert chosen_rows(layer, x, torch.Generator(), 1.0).tolist() == list(range(1000))
    half, again = (chosen_rows(layer, x, torch.Generator().manual_seed(5), 0.5) for _ in range(2))
    assert torch.equal(half, again) and 400 < len(half) < 600 and bool((half.diff() > 0).all())
    few = chosen_rows(layer, x, torch.Generator().manual_seed(5), 0.5, real)
    assert few.tolist() == [row for row in half.tolist() if row % 4]
    assert chosen_rows(layer, x, torch.Generator(), 2.0, real[:10]).tolist() == list(range(1000))


def test_linear_layers_stored_the_other_way():
    """By the name of their class and a matrix as weight; convolutions and others of that name are none."""
    layer = Conv1D(3, 5)
    other = type("Conv1D", (nn.Module,), {})()
    assert is_turned(layer) and has_gram(layer)
    assert not any(is_turned(one) for one in (nn.Linear(5, 3), nn.Conv1d(5, 3, 1), other, type("Conv1D", (nn.Conv1d,), {})(5, 3, 1)))
    assert not has_gram(other)


def test_the_gram_matrix_of_a_turned_layer_is_that_of_the_linear_one():
    """Its columns are its inputs, the first dimension of its weight."""
    layer, x = Conv1D(3, 5), torch.randn(2, 4, 5, dtype=torch.float64)
    assert gram_shape(layer) == (5, 5) and row_count(layer, x) == 8
    total, rows = gram_sum(layer, x)
    expected, _ = gram_sum(nn.Linear(5, 3), x)
    assert rows == 8 and torch.equal(total, expected)
