"""Activity of input columns by hand, in pieces, and against all rows at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import MissingContext
from sparsify_cli.maths import activity as module_under_test
from sparsify_cli.maths.activity import Activity
from sparsify_cli.maths.gram import gram_shape, gram_sum, input_rows

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (7, 5)),
    "tokens": (lambda: nn.Linear(5, 3), (4, 3, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2), (4, 3, 6, 5)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), (4, 6, 4, 4)),
    "depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4), (4, 4, 5)),
}
EACH = pytest.mark.parametrize("kind", LAYERS)


def made(kind):
    """A layer and inputs for it, some of them 0."""
    build, shape = LAYERS[kind]
    return build(), torch.randn(shape).clamp(min=-0.5) * (torch.rand(shape) > 0.4)


def seen(layer, *batches):
    """What was gathered of some batches."""
    activity = Activity()
    for batch in batches:
        activity.add(layer, batch)
    return activity.result()


def test_by_hand():
    """Inputs 0, 2, 4 have mean 2, variance 8/3 and are active in 2 of 3 rows; inputs 3, 3, 3 never change."""
    found = seen(nn.Linear(2, 1), torch.tensor([[0.0, 3.0], [2.0, 3.0]]), torch.tensor([[4.0, 3.0]]))
    assert found.mean.tolist() == pytest.approx([2, 3], rel=1e-15)
    assert found.variance.tolist() == pytest.approx([8 / 3, 0], rel=1e-15)
    assert found.active.tolist() == [2 / 3, 1]


def test_padding_counts_as_zero():
    """A kernel of 3 over one input 6 with a zero on both sides sees (0, 6, 0): columns 0 and 2 are never active."""
    found = seen(nn.Conv1d(1, 1, 3, padding=1), torch.tensor([[[6.0]]]))
    assert (found.mean.tolist(), found.variance.tolist(), found.active.tolist()) == ([0, 6, 0], [0, 0, 0], [0, 1, 0])


@EACH
def test_batches_add_up_to_all_rows_at_once(kind, monkeypatch):
    """However inputs are split, numbers are those of all rows together, shaped as the Gram matrix's diagonal."""
    layer, inputs = made(kind)
    monkeypatch.setattr(module_under_test, "CHUNK", 11)
    found, rows = seen(layer, *inputs.split([1, 2, len(inputs) - 3]), inputs[:0]), input_rows(layer, inputs).double()
    shape = gram_shape(layer)[:-1]
    assert found.mean.dtype == found.variance.dtype == found.active.dtype == torch.float64
    torch.testing.assert_close(found.mean, rows.mean(1).reshape(shape), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.variance, rows.var(1, correction=0).reshape(shape), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.active, (rows != 0).double().mean(1).reshape(shape), rtol=0, atol=1e-15)


@EACH
def test_moments_are_those_of_the_gram_matrix(kind):
    """Variance plus squared mean is the diagonal of X X^T / n, and the rows are as many."""
    layer, inputs = made(kind)
    activity = Activity()
    activity.add(layer, inputs)
    (total, rows), found = gram_sum(layer, inputs), activity.result()
    assert activity.rows == rows
    torch.testing.assert_close(found.variance + found.mean.square(), total.diagonal(dim1=-2, dim2=-1) / rows, rtol=1e-12, atol=1e-14)


def test_a_small_spread_around_a_large_mean_keeps_its_digits():
    """Inputs 10^8 and 10^8 + 1 have variance 1/4: their squares, of 54 bits, would lose it."""
    inputs = torch.tensor([[1e8], [1e8 + 1]], dtype=torch.float64)
    found = seen(nn.Linear(1, 1), inputs, inputs, inputs)
    assert found.variance.item() == pytest.approx(0.25, rel=1e-12)
    assert seen(nn.Linear(1, 1), *torch.full((50, 1), 0.1)).variance.item() >= 0


def test_no_rows_are_refused():
    """Without a row there is no mean; the sentence says what to give."""
    with pytest.raises(MissingContext, match="--data"):
        Activity().result()
