"""Gram matrices of layer inputs: columns in the order of the matrix view, n counted once, and what is made of them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths import gram as module_under_test
from sparsify_cli.maths.gram import damped, gram_shape, gram_sum, has_gram, input_rows, inverse_factor, output_change
from sparsify_cli.maths.matrix_view import to_matrix

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear on tokens": (lambda: nn.Linear(5, 3), (2, 3, 5)),
    "linear on one sample": (lambda: nn.Linear(5, 3), (5,)),
    "conv": (lambda: nn.Conv2d(3, 4, (3, 2)), (2, 3, 6, 5)),
    "conv on one sample": (lambda: nn.Conv2d(3, 4, 2), (3, 6, 5)),
    "padded, strided, dilated": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 3, 7, 6)),
    "same padding, even kernel": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 2, 5, 6)),
    "circular padding": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), (2, 2, 5, 6)),
    "reflected padding": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), (2, 6, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1, stride=2), (2, 3, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 2), padding=(0, 1, 0)), (2, 2, 3, 4, 3)),
}
EACH = pytest.mark.parametrize("kind", LAYERS)


def made(kind):
    """A layer in float64 and inputs for it."""
    build, shape = LAYERS[kind]
    return build().double(), torch.randn(shape, dtype=torch.float64)


def outputs_as_rows(layer, outputs):
    """A layer's outputs without bias, one row a position: [groups, rows, outputs of a group]."""
    if isinstance(layer, nn.Linear):
        return (outputs - layer.bias).reshape(1, -1, layer.out_features)
    batched = outputs if outputs.ndim == layer.weight.ndim else outputs[None]
    bare = batched - layer.bias.reshape(1, -1, *[1] * (batched.ndim - 2))
    rows = bare.movedim(1, -1).reshape(-1, layer.groups, layer.out_channels // layer.groups)
    return rows.movedim(1, 0)


@EACH
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
def test_a_layer_is_its_matrix_view_times_its_rows(kind):
    """forward(x) = rows @ to_matrix(weight)^T + bias: the same columns, for every padding, stride, dilation and grouping."""
    layer, inputs = made(kind)
    rows = input_rows(layer, inputs)
    weights = to_matrix(layer.weight).chunk(len(rows))
    ours = torch.stack([each @ weight.T for each, weight in zip(rows, weights, strict=True)])
    torch.testing.assert_close(ours, outputs_as_rows(layer, layer(inputs)), rtol=0, atol=1e-12)


def test_conv_gram_by_loops():
    """Entry by entry: the product of two inputs summed over the positions a kernel visits, channels fastest."""
    layer, x = nn.Conv2d(2, 1, (2, 3), padding=(1, 0), stride=2), torch.randn(3, 2, 4, 7, dtype=torch.float64)
    places = [(i, j, c) for i, j, c in product(range(2), range(3), range(2))]
    visited = list(product(range(3), range(3), range(3)))  # sample, row of 6 / 2, column of (7 - 3) / 2 + 1

    def seen(n, row, column, place):
        i, j, c = place
        y = 2 * row + i - 1
        return float(x[n, c, y, 2 * column + j]) if 0 <= y < 4 else 0.0

    expected = [[sum(seen(*v, a) * seen(*v, b) for v in visited) for b in places] for a in places]
    total, rows = gram_sum(layer, x)
    assert rows == 27
    torch.testing.assert_close(total, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


@EACH
def test_shape_and_symmetry(kind):
    """Of the announced shape, float64, symmetric; a grouped convolution has one matrix a group."""
    layer, inputs = made(kind)
    total, _ = gram_sum(layer.float(), inputs.float())
    assert total.dtype == torch.float64
    assert tuple(total.shape) == gram_shape(layer)
    assert total.ndim == (3 if "groups" in kind or kind == "depthwise" else 2)
    torch.testing.assert_close(total, total.mT, rtol=0, atol=1e-12)


@EACH
def test_chunks_add_up(kind, monkeypatch):
    """The same sum and the same number of rows, however few numbers are held at a time."""
    layer, inputs = made(kind)
    whole, rows = gram_sum(layer, inputs)
    monkeypatch.setattr(module_under_test, "CHUNK", 7)
    pieces, counted = gram_sum(layer, inputs)
    assert counted == rows
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-10)


def test_sums_are_exact_where_float32_is_not():
    """4096^2 + 1 needs 25 bits: float32 would lose the 1."""
    total, rows = gram_sum(nn.Linear(1, 1), torch.tensor([[4096.0], [1.0]]))
    assert (total.item(), rows) == (16777217.0, 2)


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(2, 2, 3), nn.Embedding(3, 2), nn.BatchNorm2d(3), nn.Bilinear(2, 2, 2)], ids=repr)
def test_other_layers_have_no_gram(layer):
    """What cannot be written as weight times rows says so."""
    assert not has_gram(layer)


def test_damping_by_hand():
    """Live inputs 2 and 4 have mean 3: half of it is added everywhere, and the dead input gets 3 on top."""
    gram = torch.tensor([[2.0, 1.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert damped(gram, 0.5).tolist() == [[3.5, 1.0, 0.0], [1.0, 5.5, 0.0], [0.0, 0.0, 4.5]]
    assert damped(torch.zeros(2, 2, dtype=torch.float64), 0.5).tolist() == [[1.5, 0.0], [0.0, 1.5]]


def test_inverse_factor():
    """R is upper triangular, R^T R H = 1, and R_jj^2 is the first diagonal entry of the inverse of H[j:, j:]."""
    half = torch.randn(9, 6, dtype=torch.float64)
    hessian = half.T @ half
    factor = inverse_factor(hessian)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ hessian, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-9)
    for j in range(6):
        assert float(factor[j, j]) ** 2 == pytest.approx(float(torch.linalg.inv(hessian[j:, j:])[0, 0]), rel=1e-9)


def test_singular_matrices_are_refused():
    """Two inputs that are always equal have no inverse without damping; with damping they have."""
    gram = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        inverse_factor(damped(gram, 0.0))
    assert bool(inverse_factor(damped(gram, 0.01)).isfinite().all())


def test_output_change_is_the_mean_squared_change():
    """The mean over rows of the squared change of all outputs, computed from the rows themselves."""
    rows, change = torch.randn(50, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    squares = sum(float((change @ row).square().sum()) for row in rows)
    assert output_change(change, rows.T @ rows / 50) == pytest.approx(squares / 50, rel=1e-12)


def test_what_other_layers_call_groups_is_theirs():
    """A subclass of a linear layer with an attribute of that name has one Gram matrix."""

    class Named(nn.Linear):
        groups = 3

    x = torch.randn(5, 6)
    total, rows = gram_sum(Named(6, 6), x)
    assert rows == 5 and gram_shape(Named(6, 6)) == (6, 6)
    torch.testing.assert_close(total, (x.T @ x).double(), rtol=1e-5, atol=1e-5)
