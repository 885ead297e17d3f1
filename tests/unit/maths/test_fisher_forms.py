"""Every form of the Fisher beside the matrix it stands for, inverted as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.fisher_forms import BlockForm, KroneckerForm, LowRankForm, SpectralForm, factor_sizes, form_of
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.values.mask_set import MaskSet

LAMBDA = 0.3


@pytest.fixture
def coordinates():
    """A 3 x 4 matrix with five pruned weights, and a bias of three."""
    pruned = torch.tensor([True] * 7 + [False] * 5).reshape(3, 4)
    return Coordinates.of(nn.Linear(4, 3), MaskSet({"weight": pruned}))


@pytest.fixture
def rows(coordinates):
    """Twenty gradients of ten numbers, float64."""
    return torch.randn(20, coordinates.count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def forms(rows, count):
    """The three that are the Fisher itself: one block, its eigenvectors, and all rows."""
    for spectral in (False, True):
        block = BlockForm.gathered(iter(rows.split(7)), count, count, rows, torch.float64)
        yield block.spectral() if spectral else block
    yield LowRankForm.gathered(iter(rows.split(7)))


def fisher(rows):
    """The mean of outer products."""
    return rows.T @ rows / len(rows)


def test_block_and_rows_are_the_damped_inverse(rows, coordinates):
    """Both give (F + lambda I)^-1 v, and the mean diagonal of F."""
    v = torch.arange(10.0, dtype=torch.float64)
    wanted = torch.linalg.solve(fisher(rows) + LAMBDA * torch.eye(10, dtype=torch.float64), v)
    for form in forms(rows, 10):
        torch.testing.assert_close(form.solve(v, LAMBDA), wanted, rtol=1e-10, atol=1e-10)
        assert form.scale == pytest.approx(float(fisher(rows).diagonal().mean()))


def test_frozen_weights_are_taken_out_of_the_fisher(rows, coordinates):
    """Where only six weights may move, the inverse is that of their 6 x 6 part, and the others get zero."""
    free = torch.tensor([True, False] * 3 + [True, True, True, False])
    v = torch.arange(10.0, dtype=torch.float64)
    part = fisher(rows)[free][:, free] + LAMBDA * torch.eye(6, dtype=torch.float64)
    for form in forms(rows, 10):
        solved = form.solve(v, LAMBDA, free)
        torch.testing.assert_close(solved[free], torch.linalg.solve(part, v[free]), rtol=1e-10, atol=1e-10)
        assert not solved[~free].any()


def test_eigenvectors_of_blocks_solve_as_the_blocks_do(rows):
    """Ten weights in blocks of four, the last one filled up: the same solution at every damping, and the blocks come back."""
    blocks = BlockForm.gathered(iter([rows]), 10, 4, rows, torch.float64)
    before, v = blocks.blocks.clone(), torch.arange(10.0, dtype=torch.float64)
    wanted = [blocks.solve(v, damping) for damping in (1e-3, 0.1, 10.0)]
    spectral = blocks.spectral()
    for damping, solution in zip((1e-3, 0.1, 10.0), wanted, strict=True):
        torch.testing.assert_close(spectral.solve(v, damping), solution, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(spectral.blocks(slice(None)), before, rtol=1e-12, atol=1e-12)
    free = torch.tensor([True, False] * 3 + [True, True, True, False])
    torch.testing.assert_close(spectral.solve(v, 0.1, free), BlockForm(before, 10).solve(v, 0.1, free), rtol=1e-9, atol=1e-9)
    with pytest.raises(Anomalous, match="not positive definite"):
        spectral.solve(v, -float(spectral.values.max()))


def test_eigenvectors_kept_in_float32_solve_nearly_as_well():
    """A right side in the steep directions, damping far below them: off by no more than the rounding of the eigenvectors allows."""
    draw = torch.Generator().manual_seed(0)
    steep = torch.randn(30, 64, generator=draw, dtype=torch.float64)
    exact = BlockForm((steep.mT @ steep / 30).unsqueeze(0), 64).spectral()
    rounded, v = SpectralForm(exact.vectors.float(), exact.values, 64), steep.sum(dim=0)
    for damping in (1e-3, 0.1, 1.0):
        wanted = exact.solve(v, damping * exact.scale)
        found = rounded.solutions(v)(damping * exact.scale)
        assert found.dtype == torch.float64
        assert float((found - wanted).norm() / wanted.norm()) < 1e-7 * (1 + 1 / damping)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [512, 48])
def test_where_a_file_has_mapped_the_eigenvectors_makes_no_difference(size, dtype):
    """To the last bit, at an address that is no multiple of anything, of one block at a time and of several."""
    draw = torch.Generator().manual_seed(0)
    vectors, values = torch.randn(3, size, size, generator=draw, dtype=dtype), torch.rand(3, size, generator=draw, dtype=torch.float64)
    elsewhere = torch.empty(vectors.numel() + 1, dtype=dtype)[1:].reshape(vectors.shape).copy_(vectors)
    v, count = torch.randn(3 * size - 5, generator=draw, dtype=torch.float64), 3 * size - 5
    here, there = (SpectralForm(one, values, count) for one in (vectors, elsewhere))
    assert torch.equal(here.solve(v, 0.1), there.solve(v, 0.1))
    assert torch.equal(here.blocks(slice(None)), there.blocks(slice(None)))


def test_taking_samples_out_is_the_fisher_of_the_rest(rows):
    """N F minus the outer products of the first five, over fifteen, is the mean over the last fifteen."""
    whole = BlockForm.gathered(iter([rows]), 10, 10, rows, torch.float64)
    for form in (whole, BlockForm(whole.blocks.clone(), 10).spectral()):
        rest = form.without(iter(rows[:5].split(2)), 20)
        torch.testing.assert_close(rest.blocks[0], fisher(rows[5:]), rtol=1e-12, atol=1e-12)


def test_kronecker_factors_are_exact_where_the_fisher_is_a_product():
    """All gradients u_i w_j^T, each pair once: F = E[uu^T] (x) E[ww^T], and the form gives its damped inverse."""
    u, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    model = nn.Linear(4, 3, bias=False)
    gradients = torch.stack([torch.outer(a, b).reshape(-1) for a in u for b in w])
    form = KroneckerForm.gathered(iter(gradients.split(6)), Coordinates.of(model, MaskSet()))
    product = torch.kron(u.T @ u / 4, w.T @ w / 5)
    torch.testing.assert_close(product, fisher(gradients))
    v = torch.arange(12.0, dtype=torch.float64)
    wanted = torch.linalg.solve(product + LAMBDA * torch.eye(12, dtype=torch.float64), v)
    torch.testing.assert_close(form.solve(v, LAMBDA), wanted, rtol=1e-9, atol=1e-9)


def test_kronecker_form_keeps_the_trace_and_leaves_vectors_dense(rows, coordinates):
    """Its mean diagonal is that of the gradients; the bias has its whole 3 x 3 Fisher; what may not move gets zero."""
    form = KroneckerForm.gathered(iter([rows]), coordinates)
    assert form.scale == pytest.approx(float(fisher(rows).diagonal().mean()))
    v = torch.zeros(10, dtype=torch.float64)
    v[7:] = torch.tensor([1.0, 2.0, 3.0])
    bias = fisher(rows)[7:, 7:] + LAMBDA * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(form.solve(v, LAMBDA)[7:], torch.linalg.solve(bias, v[7:]), rtol=1e-9, atol=1e-9)
    free = torch.tensor([True] * 5 + [False] * 5)
    assert not form.solve(torch.ones(10, dtype=torch.float64), LAMBDA, free)[~free].any()
    assert sorted(factor_sizes(coordinates)) == [3, 3, 4]


@pytest.mark.parametrize("kind", ["dense", "block", "low-rank", "kronecker"])
def test_forms_come_back_from_their_tensors(rows, coordinates, kind):
    """What was kept gives the same inverse; another form's tensors are not taken."""
    made = {
        "dense": lambda: BlockForm.gathered(iter([rows]), 10, 10, rows, torch.float64),
        "block": lambda: BlockForm.gathered(iter([rows]), 10, 10, rows, torch.float64).spectral(),
        "low-rank": lambda: LowRankForm.gathered(iter([rows])),
        "kronecker": lambda: KroneckerForm.gathered(iter([rows]), coordinates),
    }
    form, v = made[kind](), torch.arange(10.0, dtype=torch.float64)
    again = form_of(kind, form.tensors(), coordinates)
    assert torch.equal(again.solve(v, LAMBDA), form.solve(v, LAMBDA))
    blocks = {"dense", "block"}
    others = [form_of(other, form.tensors(), coordinates) for other in made if other != kind and not {other, kind} <= blocks]
    assert set(others) == {None}


def test_rows_without_damping_have_no_inverse():
    """Two equal gradients and no damping: refused in a sentence."""
    form = LowRankForm.gathered(iter([torch.ones(2, 4, dtype=torch.float64)]))
    with pytest.raises(Anomalous, match="no inverse at damping"):
        form.solve(torch.ones(4, dtype=torch.float64), -2.0)
