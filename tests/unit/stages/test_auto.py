"""`--solver auto`: by width and pattern, and the result of the solver it chooses."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.auto import Auto, choice, said

PLAIN, HALF, BLOCK = Pattern(), Pattern.parse("2:4"), Pattern.parse("block:2x2")


@pytest.mark.parametrize(
    ("columns", "pattern", "name"),
    [
        (1, PLAIN, "alps"),
        (3000, PLAIN, "alps"),
        (3001, PLAIN, "sparsegpt"),
        (3000, HALF, "alps"),
        (3001, HALF, "sparsegpt"),
        (8, BLOCK, "exactobs"),
        (9999, BLOCK, "exactobs"),
    ],
)
def test_choices(columns, pattern, name):
    """Blocks to exactobs, up to 3,000 columns to alps, wider ones to sparsegpt."""
    assert choice(columns, pattern) == name


def test_choices_are_said():
    """Each solver with its number of layers, in one phrase."""
    assert said([8, 4000, 3000], PLAIN) == "alps for 2 layers, sparsegpt for 1 layer"
    assert said([], PLAIN) == ""


@pytest.mark.parametrize("pattern", [PLAIN, HALF, BLOCK], ids=str)
def test_the_result_is_that_of_the_chosen_solver(pattern):
    """Bit for bit, one count or several, with exactly the count."""
    x, weight = torch.randn(40, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    gram, keep = x.T @ x / 40, Keep(16, pattern)
    chosen = Shelf("solvers").load(choice(8, pattern))()
    for ours, theirs in zip(
        [Auto().solve(weight, gram, keep), *Auto().ladder(weight, gram, keep, [16, 8])],
        [chosen.solve(weight, gram, keep), *chosen.ladder(weight, gram, keep, [16, 8])],
        strict=True,
    ):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert int(Auto().solve(weight, gram, keep)[1].sum()) == 16


def test_patterns_are_checked():
    """What the chosen solver holds is held; alone, sparsegpt refuses blocks."""
    for pattern in (PLAIN, HALF, BLOCK):
        Auto().check(pattern)
    with pytest.raises(BadRequest, match="cannot hold block:2x2"):
        Shelf("solvers").load("sparsegpt")().check(BLOCK)
