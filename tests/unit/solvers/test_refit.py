"""The refit solver: masks by hand, and least squares on them."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.gram import output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.refit import Refit

ANY, TWO_FOUR = Pattern(), Pattern.parse("2:4")
WEIGHT = torch.tensor([[4.0, 3.0, 2.0, 1.0], [8.0, 7.0, 6.0, 5.0]])
SIZES = torch.diag(torch.tensor([1.0, 1.0, 4.0, 81.0], dtype=torch.float64))
"""Inputs of root mean square 1, 1, 2, 9: Wanda's scores are 4 3 4 9 and 8 7 12 45."""


@pytest.mark.parametrize(
    ("mask", "count", "pattern", "expected"),
    [
        ("magnitude", 3, ANY, [[0, 0, 0, 0], [1, 1, 1, 0]]),
        ("wanda", 3, ANY, [[0, 0, 0, 1], [0, 0, 1, 1]]),
        ("wanda-row", 4, ANY, [[1, 0, 0, 1], [0, 0, 1, 1]]),
        ("wanda-row", 3, ANY, [[1, 0, 0, 1], [0, 0, 0, 1]]),
        ("magnitude", 4, TWO_FOUR, [[1, 1, 0, 0], [1, 1, 0, 0]]),
        ("wanda", 3, TWO_FOUR, [[0, 0, 0, 1], [0, 0, 1, 1]]),
    ],
)
def test_masks_by_hand(mask, count, pattern, expected):
    """The best by each score; inputs that have nothing to do with each other leave the weights as they are."""
    repaired, chosen = Refit(mask=mask).solve(WEIGHT, SIZES, Keep(count, pattern))
    assert chosen.int().tolist() == expected
    assert torch.equal(repaired, WEIGHT.double() * chosen)


@pytest.mark.parametrize("mask", ["magnitude", "wanda", "wanda-row"])
def test_no_weights_on_the_mask_do_better(mask):
    """Without damping, any step from the refit changes outputs more."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 10, generator=generator, dtype=torch.float64) @ torch.randn(10, 10, generator=generator, dtype=torch.float64)
    weight, gram = torch.randn(5, 10, generator=generator, dtype=torch.float64), inputs.T @ inputs / 40
    repaired, chosen = Refit(mask=mask, damping=0.0).solve(weight, gram, Keep(20, ANY))
    least = output_change(weight - repaired, gram)
    for _ in range(20):
        step = 0.01 * torch.randn(5, 10, generator=generator, dtype=torch.float64) * chosen
        assert output_change(weight - repaired - step, gram) > least


@pytest.mark.parametrize("mask", ["magnitude", "wanda", "wanda-row"])
def test_dead_inputs_and_pruned_weights(mask):
    """Weights at dead inputs go before others and come back largest first; those pruned before come back last."""
    gram = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    within = torch.ones(2, 4, dtype=torch.bool)
    within[1, 3] = False
    solver = Refit(mask=mask)
    assert solver.solve(WEIGHT, gram, Keep(5, ANY, within))[1].int().tolist() == [[1, 0, 1, 1], [1, 0, 1, 0]]
    more = solver.solve(WEIGHT, gram, Keep(7, ANY, within))[1]
    assert int(more.sum()) == 7 and not more[1, 3]
    if mask != "wanda-row":
        assert solver.solve(WEIGHT, gram, Keep(6, ANY, within))[1][:, 1].tolist() == [False, True]


def test_a_count_without_room_is_refused():
    """2:4 has room for 4 of 8 weights, not for 5."""
    with pytest.raises(Infeasible, match="5 weights of a layer should stay, and 2:4 lets 4 stay"):
        Refit().solve(WEIGHT, SIZES, Keep(5, TWO_FOUR))
