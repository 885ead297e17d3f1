"""The empirical Fisher against mental arithmetic."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.fisher import (
    add_gram,
    block_fisher,
    empty_gram,
    erasure_step,
    mean_diagonal,
    sherman_morrison_inverse,
    solve_blocks,
)

AXES = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
"""Two samples: sum of g g^T is diag(9, 16), the mean diag(4.5, 8)."""


def test_recursion_divides_by_the_number_of_samples():
    """With damping 0.5, F is diag(5, 8.5) and its inverse diag(1/5, 2/17)."""
    assert sherman_morrison_inverse(AXES, 0.5).reshape(-1).tolist() == pytest.approx([1 / 5, 0, 0, 2 / 17])


def test_no_gradients_leave_the_damping():
    """Without samples the inverse is I / lambda."""
    assert torch.equal(sherman_morrison_inverse(torch.zeros(0, 3), 4.0), torch.eye(3, dtype=torch.float64) / 4)


def test_block_fisher_adds_damping_once():
    """One dense block holds diag(4.5, 8) + 0.5 I."""
    assert block_fisher(AXES, 0.5, 99).tolist() == [[[5.0, 0.0], [0.0, 8.5]]]


def test_blocks_forget_what_lies_between_them():
    """The gradient (1, 2, 3) in blocks of 2: [[1, 2], [2, 4]] and [[9, 0], [0, 0]], the last padded; nothing between 2 and 3."""
    gram = add_gram(empty_gram(3, 2, torch.zeros(1)), torch.tensor([[1.0, 2.0, 3.0]]))
    assert gram.tolist() == [[[1, 2], [2, 4]], [[9, 0], [0, 0]]]


def test_chunks_add_up():
    """Gram blocks of two chunks are the Gram blocks of all rows."""
    rows = torch.arange(20.0).reshape(4, 5)
    together = add_gram(empty_gram(5, 2, rows), rows)
    apart = add_gram(add_gram(empty_gram(5, 2, rows), rows[:1]), rows[1:])
    assert torch.equal(together, apart)


def test_half_precision_gradients_are_summed_in_float64():
    """4096^2 + 1 is 16 777 217, which float16 and float32 cannot hold."""
    rows = torch.tensor([[4096.0], [1.0]], dtype=torch.float16)
    assert add_gram(empty_gram(1, 1, rows), rows).item() == 16_777_217


@pytest.mark.parametrize("block", [1, 2, 3, 4, 9])
def test_padding_does_not_show(block):
    """Orthogonal gradients have a diagonal Fisher: every block size solves it, and the result has the length of v."""
    gradients = torch.diag(torch.tensor([2.0, 4.0, 6.0]))
    solved = solve_blocks(add_gram(empty_gram(3, block, gradients), gradients), torch.tensor([5.0, 17.0, 37.0]), damping=1.0)
    assert solved.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_solving_leaves_the_blocks_alone():
    """Damping is added to a copy, float64 blocks included."""
    blocks = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    solve_blocks(blocks, torch.ones(2), damping=1.0)
    assert torch.equal(blocks[0], torch.eye(2, dtype=torch.float64))


def test_singular_fisher_is_refused_by_number():
    """A block without damping and without rank has no Cholesky factor; the sentence says which and what to do."""
    with pytest.raises(Anomalous, match=r"Block 2 of 2.*larger damping"):
        solve_blocks(torch.stack([torch.eye(2), torch.zeros(2, 2)]), torch.ones(4))


def test_mean_diagonal_ignores_padding():
    """Diagonal 1, 4, 9 of three coordinates in blocks of two has mean 14/3."""
    gradients = torch.tensor([[1.0, 2.0, 3.0]])
    assert mean_diagonal(add_gram(empty_gram(3, 2, gradients), gradients), 3) == pytest.approx(14 / 3)


def test_step_divides_by_the_retained():
    """F = 2 I, sum of gradients (6, 0), k mu theta = 2 * 0.5 * (4, 8): (10, 8) / 2 / (7 - 2) = (1, 0.8)."""
    fisher = torch.eye(2).unsqueeze(0)
    step = erasure_step(fisher, torch.tensor([6.0, 0.0]), torch.tensor([4.0, 8.0]), n=7, k=2, damping=1.0, weight_decay=0.5)
    assert step.tolist() == pytest.approx([1.0, 0.8])
