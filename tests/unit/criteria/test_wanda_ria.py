"""Scores from inputs, done by hand on matrices of two rows and three columns."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from sparsify_cli.criteria.ria import Ria
from sparsify_cli.criteria.wanda import Wanda
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.stats import Stats

WEIGHT = torch.tensor([[3.0, -1.0, 0.0], [1.0, 2.0, -2.0]])


def seen(*moments):
    """Statistics of a layer `a` whose inputs have these mean squares; a list each for groups."""
    return Stats(gram={"a": torch.diag_embed(torch.tensor(moments, dtype=torch.float64))})


def score(criterion, stats, weight=WEIGHT):
    """Its scores of the layer `a`."""
    return criterion.score("a", weight, stats)


def masks(scores, kept, pattern="unstructured"):
    """The mask of the layer when so many weights stay."""
    sparsity = 1 - Fraction(kept, scores.numel())
    return choose_masks({"a": scores}, pattern=Pattern.parse(pattern), sparsity=sparsity, allocation="uniform")["a"]


def test_wanda_by_hand():
    """Inputs of root mean square 1, 2, 0: 3 2 0 and 1 4 0."""
    assert score(Wanda(), seen(1.0, 4.0, 0.0)).tolist() == [[3, 2, 0], [1, 4, 0]]


def test_wanda_in_rows_by_hand():
    """3 2 0 and 1 4 0: firsts 4, 3; then 2, 1; then both 0. In sixths from the highest: 6; and equal scores are equal."""
    assert (score(Wanda(scope="row"), seen(1.0, 4.0, 0.0)) * 6).round().tolist() == [[5, 4, 2], [3, 6, 2]]


def test_the_scope_decides_which_rows_lose():
    """Rows 10 9 8 and 1 2 3: three weights that stay are the first row, or, in rows, 10 9 and 3."""
    weight, stats = torch.tensor([[10.0, 9.0, 8.0], [1.0, 2.0, 3.0]]), seen(1.0, 1.0, 1.0)
    assert masks(score(Wanda(), stats, weight), 3).tolist() == [[True] * 3, [False] * 3]
    assert masks(score(Wanda(scope="row"), stats, weight), 3).tolist() == [[True, True, False], [False, False, True]]


def test_patterns_are_decided_alike_in_both_scopes():
    """2:4 groups lie in rows: both scopes choose the same weights."""
    weight, stats = torch.randn(6, 8), seen(*range(1, 9))
    assert torch.equal(masks(score(Wanda(), stats, weight), 24, "2:4"), masks(score(Wanda(scope="row"), stats, weight), 24, "2:4"))


def test_convolutions_compete_within_a_filter():
    """Every filter of a convolution keeps the same number, whatever its size and its kernel."""
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(4, 1, 1, 1)
    mask = masks(score(Wanda(scope="row"), seen(*range(1, 28)), weight), 40)
    assert mask.flatten(1).sum(1).tolist() == [10, 10, 10, 10]


def test_ria_by_hand():
    """|w| = 3 1 0, 1 2 2: columns sum to 4 3 2, rows to 4 5; inputs of mean square 16, 1, 0 have roots of their size 2, 1, 0."""
    scores = score(Ria(), seen(16.0, 1.0, 0.0))
    expected = [[2 * (3 / 4 + 3 / 4), 1 / 3 + 1 / 4, 0], [2 * (1 / 4 + 1 / 5), 2 / 3 + 2 / 5, 0]]
    assert scores.flatten().tolist() == pytest.approx([*expected[0], *expected[1]], rel=1e-15)


@pytest.mark.parametrize(("power", "first"), [(0, 1.5), (1, 6), (2, 24)])
def test_ria_power(power, first):
    """An input of root mean square 4 counts 4^a times: 3/4 + 3/4 times 1, 4 or 16."""
    assert float(score(Ria(power=power), seen(16.0, 1.0, 1.0))[0, 0]) == pytest.approx(first, rel=1e-15)


def test_ria_shares_stay_in_the_group():
    """Two groups of one output and two inputs: each weight is all of its column, so 1 + its share of the row."""
    weight = torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]]])  # [out, channels, kernel]
    assert score(Ria(), seen([1.0, 1.0], [1.0, 1.0]), weight).flatten().tolist() == pytest.approx([1.25, 1.75, 1.5, 1.5], rel=1e-15)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ria_does_not_see_the_scale_of_weights(scale):
    """Shares of very small and very large weights are the same; an empty row or column gives 0, not a number that is none."""
    stats = seen(1.0, 1.0, 1.0)
    torch.testing.assert_close(score(Ria(), stats, WEIGHT.double() * scale), score(Ria(), stats), rtol=1e-12, atol=0)
    assert score(Ria(), stats, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]])).tolist() == [[0, 0, 0], [0, 1.25, 1.75]]


def test_ria_does_not_empty_what_is_small():
    """Of a row and a column a thousand times smaller than the others some weights stay at 50 %; magnitude keeps none."""
    weight = torch.randn(20, 20)
    weight[3] /= 1000
    weight[:, 5] /= 1000
    kept, by_size = masks(score(Ria(), seen(*[1.0] * 20), weight), 200), masks(weight.abs(), 200)
    assert bool(kept[3].any()) and bool(kept[:, 5].any())
    assert not by_size[3].any() and not by_size[:, 5].any()


def test_impossible_powers_are_refused():
    """A power below 0 would reward inputs that are hardly active."""
    for wrong in (-1, float("inf")):
        with pytest.raises(ValidationError):
            TypeAdapter(Ria).validate_python({"power": wrong})
