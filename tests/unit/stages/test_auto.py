"""`--solver auto`: by width and pattern, and the result of the solver it chooses."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.auto import BUDGET, Auto, choice, limit, operations, said

PLAIN, HALF, BOTH, BLOCK = (Pattern.parse(text) for text in ("unstructured", "2:4", "2:4T", "block:2x2"))


@pytest.mark.parametrize(
    ("columns", "pattern", "name"),
    [
        (1, PLAIN, "alps"),
        (3000, PLAIN, "alps"),
        (3001, PLAIN, "sparsegpt"),
        (3000, HALF, "alps"),
        (3001, HALF, "sparsegpt"),
        (3001, BOTH, "alps"),
        (8, BLOCK, "exactobs"),
        (9999, BLOCK, "exactobs"),
    ],
)
def test_choices(columns, pattern, name):
    """Blocks to exactobs, up to 3,000 columns to alps, wider ones to sparsegpt."""
    assert choice((64, columns), pattern) == name


def test_choices_are_said():
    """Each solver with its number of layers, in one phrase."""
    assert said([(4, 8), (4, 4000), (4, 3000)], PLAIN) == "alps for 2 layers, sparsegpt for 1 layer"
    assert said([], PLAIN) == ""


def test_the_smallest_layers_go_to_alps_as_long_as_there_is_time():
    """Layers of one size go together: three of them do not fit beside two small ones, so that none does."""
    small, middle, large = (16, 64), (64, 256), (64, 512)
    sizes = [large, small, middle, middle, middle, small]
    assert operations(small) < operations(middle) < operations(large)
    enough = 2 * operations(small) + 3 * operations(middle)
    assert limit(sizes, enough) == operations(middle)
    assert limit(sizes, enough - 1) == operations(small)
    assert limit(sizes, 1) == 0
    assert limit([(4, 9999)], 1e30) == 0
    assert [choice(size, PLAIN, operations(small)) for size in (small, middle)] == ["alps", "sparsegpt"]
    assert said(sizes, PLAIN, operations(middle)) == "sparsegpt for 1 layer, alps for 5 layers"


def test_small_networks_have_time_and_transformers_have_not():
    """ResNet-56 on small images goes to ALPS whole; the layers of a 100 M encoder do not, unless there are minutes."""
    resnet = [(16, 144)] * 18 + [(32, 288)] * 18 + [(64, 576)] * 18
    encoder = [(768, 768)] * 48 + [(3072, 768)] * 12 + [(768, 3072)] * 12
    assert limit(resnet, BUDGET["normal"]) == operations((64, 576))
    assert limit(encoder, BUDGET["normal"]) == 0
    assert limit(encoder, BUDGET["high"]) == operations((3072, 768))


@pytest.mark.parametrize("pattern", [PLAIN, HALF, BLOCK], ids=str)
def test_the_result_is_that_of_the_chosen_solver(pattern):
    """Bit for bit, one count or several, with exactly the count."""
    x, weight = torch.randn(40, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    gram, keep = x.T @ x / 40, Keep(16, pattern)
    chosen = Shelf("solvers").load(choice((4, 8), pattern))()
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
