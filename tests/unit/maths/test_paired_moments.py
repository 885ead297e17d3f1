"""Paired moments: brute force over all rows, padding left out, and the weight that imitates dense outputs best."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsify_cli.maths import paired_moments as module_under_test
from sparsify_cli.maths.gram import input_rows
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.maths.paired_moments import imitating, mean_outputs, output_error, paired_moments

KINDS = {
    "linear": (lambda: nn.Linear(5, 3), (9, 5)),
    "tokens": (lambda: nn.Linear(5, 3), (4, 3, 5)),
    "convolution": (lambda: nn.Conv2d(3, 4, (3, 2), padding=1, stride=(2, 1)), (4, 3, 6, 5)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), (3, 6, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, dilation=2), (3, 3, 8)),
}


def made(kind):
    """A layer, inputs now and dense inputs in batches of two samples, and all their rows, float64."""
    build, shape = KINDS[kind]
    layer = build()
    now, dense = torch.randn(shape), torch.randn(shape) + 1
    return layer, now.split(2), dense.split(2), input_rows(layer, now).double(), input_rows(layer, dense).double()


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_means_over_all_rows(kind):
    """X X^T / n, W Z X^T / n, both means and the mean square of W z, group by group, whatever the batches."""
    layer, now, dense, x, z = made(kind)
    weight, n = to_matrix(layer.weight.detach()), x.shape[1]
    found = paired_moments(layer, now, dense, weight)
    assert found.rows == n
    parts = weight.double().chunk(len(x))
    for group, (rows, old) in enumerate(zip(x, z, strict=True)):
        torch.testing.assert_close(found.gram[group], sum(torch.outer(row, row) for row in rows) / n, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.aims[group], sum(map(torch.outer, old @ parts[group].T, rows)) / n, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.mean[group], rows.mean(0), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.dense_mean[group], old.mean(0), rtol=0, atol=1e-10)
    assert found.power == pytest.approx(
        sum(float((old @ part.T).square().sum()) for old, part in zip(z, parts, strict=True)) / n, rel=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_the_layers_outputs(kind):
    """E|W z - V x|^2 by running two layers; the mean outputs are theirs without bias."""
    layer, now, dense, x, _ = made(kind)
    layer, new = layer.double(), copy.deepcopy(layer).double()
    new.weight.data += torch.randn_like(new.weight)
    moments = paired_moments(layer, now, dense, to_matrix(layer.weight.detach()))
    with torch.no_grad():
        old_out, new_out = layer(torch.cat(dense).double()), new(torch.cat(now).double())
    parts = to_matrix(new.weight.detach()).chunk(len(x))
    error = moments.power + sum(output_error(part, moments, group) for group, part in enumerate(parts))
    assert error == pytest.approx(float((old_out - new_out).square().sum()) / moments.rows, rel=1e-9)
    channel = -1 if isinstance(layer, nn.Linear) else 1
    mean = new_out.movedim(channel, -1).flatten(0, -2).mean(0) - new.bias.detach()
    torch.testing.assert_close(mean_outputs(new.weight, moments.mean), mean, rtol=0, atol=1e-10)


def test_the_same_inputs_have_one_moment():
    """Where nothing was pruned before, aims are W times the Gram matrix and the error of the weight itself is zero."""
    layer, _, dense, _, _ = made("groups")
    found = paired_moments(layer, dense, dense, to_matrix(layer.weight.detach()))
    weights = to_matrix(layer.weight.detach()).chunk(2)
    for weight, gram, aims in zip(weights, found.gram, found.aims, strict=True):
        torch.testing.assert_close(aims, weight.double() @ gram, rtol=0, atol=1e-10)
    assert torch.equal(found.mean, found.dense_mean)
    assert found.power + sum(output_error(one, found, i) for i, one in enumerate(weights)) == pytest.approx(0, abs=1e-10)


def test_padding_is_left_out():
    """Rows of padding count in no moment; a mask of another size than the rows says nothing."""
    layer, now, dense, x, z = made("tokens")
    real = torch.tensor([True, False, True, True, False, False, True, True, False, True, True, True])
    weight = to_matrix(layer.weight.detach())
    found = paired_moments(layer, now, dense, weight, real=[*real.split(6)])
    rows, old = x[0][real], z[0][real]
    assert found.rows == 8
    torch.testing.assert_close(found.gram[0], rows.T @ rows / 8, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.aims[0], (old @ weight.double().T).T @ rows / 8, rtol=0, atol=1e-10)
    for nothing in ([None, None], [torch.zeros(5, dtype=torch.bool)] * 2):
        assert paired_moments(layer, now, dense, weight, real=nothing).rows == 12
    nobody = paired_moments(layer, now, dense, weight, real=[torch.zeros(6, dtype=torch.bool)] * 2)
    assert nobody.rows == 0 and not bool(nobody.gram.any())


def test_rows_are_drawn_where_there_are_too_many(monkeypatch):
    """About as many as are enough, by the seed alone, the same rows of both inputs; a chunk of one row changes nothing."""
    monkeypatch.setattr(module_under_test, "LEAST", 64)
    monkeypatch.setattr(module_under_test, "ENOUGH", 1)
    layer, x = nn.Conv2d(1, 1, 1), torch.arange(1.0, 1601).reshape(4, 1, 20, 20)
    weight = to_matrix(layer.weight.detach())
    one, same, other = (paired_moments(layer, x.split(1), (x * 2).split(1), weight, seed=seed) for seed in (0, 0, 1))
    assert 30 < one.rows < 100  # 64 of 1600 are expected, with a spread of 8
    assert (one.rows, float(one.gram)) == (same.rows, float(same.gram)) and float(one.gram) != float(other.gram)
    assert float(one.aims) == pytest.approx(2 * float(one.gram) * float(weight)) and float(one.dense_mean) == 2 * float(one.mean)
    monkeypatch.setattr(module_under_test, "CHUNK", 1)
    assert float(paired_moments(layer, x.split(1), (x * 2).split(1), weight).gram) == pytest.approx(float(one.gram), rel=1e-12)


def test_equal_inputs_are_imitated_by_the_weight_itself():
    """Also where inputs depend on each other and one is never active."""
    x = torch.randn(4, 7, dtype=torch.float64)
    x[:, 2] = 0
    gram, weight = x.T @ x / 4, torch.randn(3, 7, dtype=torch.float64)
    for damping in (1e-2, 1e-6):
        torch.testing.assert_close(imitating(weight, gram, weight @ gram, damping=damping), weight, rtol=0, atol=1e-8)


def test_other_inputs_are_imitated_as_well_as_can_be():
    """With next to no damping it is the least squares solution of V x = W z; with some, the one with the ridge at W."""
    x, z = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    weight = torch.randn(3, 5, dtype=torch.float64)
    gram, aims = x.T @ x / 40, weight @ z.T @ x / 40
    best = torch.linalg.lstsq(x, z @ weight.T).solution.T
    torch.testing.assert_close(imitating(weight, gram, aims, damping=1e-12), best, rtol=0, atol=1e-9)
    ridge = (0.5 * float(gram.diagonal().mean()) * 40) ** 0.5 * torch.eye(5, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.cat([x, ridge]), torch.cat([z @ weight.T, ridge @ weight.T])).solution.T
    torch.testing.assert_close(imitating(weight, gram, aims, damping=0.5), best, rtol=0, atol=1e-9)


def test_inputs_that_died_keep_their_weights():
    """A column that is no longer active says nothing about its weights: they stay, and those of the others do not feel it."""
    x, z = torch.randn(40, 4, dtype=torch.float64), torch.randn(40, 4, dtype=torch.float64)
    x[:, 1] = 0
    weight = torch.randn(2, 4, dtype=torch.float64)
    found = imitating(weight, x.T @ x / 40, weight @ z.T @ x / 40, damping=1e-10)
    torch.testing.assert_close(found[:, 1], weight[:, 1], rtol=0, atol=1e-9)
    live = [0, 2, 3]
    best = torch.linalg.lstsq(x[:, live], z @ weight.T).solution.T
    torch.testing.assert_close(found[:, live], best, rtol=0, atol=1e-7)
