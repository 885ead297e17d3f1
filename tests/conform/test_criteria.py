"""Every criterion on the shelf keeps the promises of its contract; a new file is found by itself."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.matrix_view import matrix_shape
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.stats import Stats

NAMES = Shelf("criteria").names()
EACH = pytest.mark.parametrize("name", NAMES)
SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 8), "conv1d.weight": (2, 4, 3)}


def weights(dtype=torch.float32, fill=None):
    """One tensor of each kind: random, or all equal to `fill`."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: (tensor if fill is None else torch.full_like(tensor, fill)).to(dtype) for name, tensor in made.items()}


def stats():
    """Gram matrices of random inputs, one of them never active, over 20 rows."""
    generator, gram = torch.Generator().manual_seed(1), {}
    for name, shape in SHAPES.items():
        rows = torch.randn(20, matrix_shape(shape)[1], generator=generator, dtype=torch.float64)
        rows[:, 0] = 0
        gram[name] = rows.T @ rows / 20
    return Stats(rows=dict.fromkeys(SHAPES, 20), gram=gram)


def scored(name, tensors):
    """Scores under a criterion with default options."""
    return Shelf("criteria").load(name)().scores(tensors, stats())


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fill", [None, 0.0, 0.25, -1.0], ids=["random", "zeros", "equal", "negative"])
def test_scores_fit_and_are_finite(name, dtype, fill):
    """Same names and shapes, floating point, finite: for any dtype, and for tensors of equal or zero weights."""
    tensors = weights(dtype, fill)
    scores = scored(name, tensors)
    assert {key: value.shape for key, value in scores.items()} == {key: value.shape for key, value in tensors.items()}
    assert all(value.is_floating_point() and bool(value.isfinite().all()) for value in scores.values())


@EACH
def test_inputs_are_left_alone(name):
    """Weights are not written to, and scores carry no gradient."""
    tensors = {key: torch.nn.Parameter(value) for key, value in weights().items()}
    scores = scored(name, tensors)
    assert not any(value.requires_grad for value in scores.values())
    assert all(torch.equal(tensors[key], value) for key, value in weights().items())


@EACH
def test_scores_do_not_alias_the_weights(name):
    """Writing into the scores does not write into the weights."""
    tensors = weights()
    for value in scored(name, tensors).values():
        value.fill_(7)
    assert all(torch.equal(tensors[key], value) for key, value in weights().items())


@EACH
def test_scores_are_deterministic(name):
    """The same request gives the same scores, whatever torch's global generator holds."""
    torch.manual_seed(1)
    first = scored(name, weights())
    torch.manual_seed(2)
    second = scored(name, weights())
    assert all(torch.equal(first[key], second[key]) for key in SHAPES)


@EACH
def test_order_and_company_of_tensors_do_not_matter(name):
    """A tensor's scores are the same in any order of tensors."""
    forwards, backwards = scored(name, weights()), scored(name, dict(reversed(weights().items())))
    assert all(torch.equal(forwards[key], backwards[key]) for key in SHAPES)


@EACH
def test_weights_need_not_be_contiguous(name):
    """A transposed view scores as its copy."""
    strided = {key: value.transpose(0, 1).contiguous().transpose(0, 1) for key, value in weights().items()}
    dense, views = scored(name, weights()), scored(name, strided)
    assert all(torch.equal(dense[key], views[key]) for key in SHAPES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_permuted_outputs_permute_the_scores(name):
    """Renumbering a layer's outputs renumbers its scores (random scores belong to positions and are left out)."""
    flipped = scored(name, {key: value.flip(0) for key, value in weights().items()})
    for key, value in scored(name, weights()).items():
        torch.testing.assert_close(flipped[key], value.flip(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_the_sign_of_weights_does_not_matter(name):
    """Pruning removes |w|: negated weights score the same."""
    negated = scored(name, {key: -value for key, value in weights().items()})
    assert all(torch.equal(negated[key], value) for key, value in scored(name, weights()).items())
