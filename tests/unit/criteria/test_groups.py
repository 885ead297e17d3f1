"""Scores of filters, channels and kernels, done by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from sparsify_cli.criteria import geometric_median as median_module
from sparsify_cli.criteria.geometric_median import GeometricMedian
from sparsify_cli.criteria.group_norm import GroupNorm
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.stats import Stats

WEIGHT = torch.tensor([[3.0, -4.0, 0.0], [1.0, 2.0, -2.0]])
CUBE = torch.tensor([[[1.0, -1.0], [2.0, 2.0]], [[3.0, 3.0], [0.0, 4.0]]])  # [out, in, kernel]


def scores(criterion, weight=WEIGHT):
    """Its scores of a tensor."""
    return criterion.score("a", weight, Stats())


@pytest.mark.parametrize(
    ("group", "p", "expected"),
    [
        ("row", 2, [[5 / math.sqrt(3)] * 3, [3 / math.sqrt(3)] * 3]),
        ("row", 1, [[7 / math.sqrt(3)] * 3, [5 / math.sqrt(3)] * 3]),
        ("column", 2, [[math.sqrt(5), math.sqrt(10), math.sqrt(2)]] * 2),
        ("column", 1, [[4 / math.sqrt(2), 6 / math.sqrt(2), 2 / math.sqrt(2)]] * 2),
        ("kernel", 2, [[3, 4, 0], [1, 2, 2]]),
    ],
)
def test_group_norms_by_hand(group, p, expected):
    """Rows 3 4 0 and 1 2 2 have norms 5 and 3 (sums 7 and 5); columns 3 1, 4 2 and 0 2 have root 10, root 20 and 2 (sums 4, 6, 2)."""
    assert scores(GroupNorm(group=group, p=p)).flatten().tolist() == pytest.approx([*expected[0], *expected[1]], rel=1e-15)


@pytest.mark.parametrize(
    ("group", "first"),
    [("row", (1 + 1 + 2 + 2) / 2), ("column", (1 + 1 + 3 + 3) / 2), ("kernel", (1 + 1) / math.sqrt(2))],
)
def test_groups_of_a_convolution(group, first):
    """Of [out, in, kernel] = 2 x 2 x 2 a filter and a channel have 4 weights, a kernel 2; each weight has its group's score."""
    found = scores(GroupNorm(group=group, p=1), CUBE)
    assert float(found[0, 0, 0]) == pytest.approx(first, rel=1e-15)
    dims = {"row": (1, 2), "column": (0, 2), "kernel": (2,)}[group]
    assert torch.equal(found, found.amax(dims, keepdim=True).expand_as(found))


def test_groups_go_together_and_the_last_one_is_cut_at_earlier_positions():
    """Filters of 4 with norms 1, 3, 2: of 6 that stay, 4 are filter 1's and 2 the first of filter 2."""
    weight = torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1).repeat(1, 4)
    kept = choose_masks({"a": scores(GroupNorm(), weight)}, pattern=Pattern(), sparsity=Fraction(1, 2), allocation="uniform")["a"]
    assert kept.tolist() == [[False] * 4, [True] * 4, [True, True, False, False]]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("criterion", [GroupNorm(), GeometricMedian()], ids=["group-norm", "geometric-median"])
def test_squares_neither_vanish_nor_overflow(criterion, scale):
    """Very small and very large weights score as theirs times the scale."""
    found = scores(criterion, WEIGHT.double() * scale) / scale
    torch.testing.assert_close(found, scores(criterion), rtol=1e-12, atol=0)


def test_distances_by_hand():
    """Points 0, 3 and 4 i of the plane: 0 is 3 + 4 away from the others, 3 is 3 + 5, 4 i is 4 + 5."""
    found = scores(GeometricMedian(), torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    assert found.flatten().tolist() == pytest.approx([7, 7, 8, 8, 9, 9], rel=1e-15)


def test_the_middle_filter_goes_however_large_it_is():
    """Of filters 100, 101, 102 and 90 the two next to the median score lowest; magnitude would drop 90."""
    found = scores(GeometricMedian(), torch.tensor([[100.0], [101.0], [102.0], [90.0]])).flatten()
    assert found.tolist() == pytest.approx([13, 13, 15, 33], rel=1e-15)


@pytest.mark.parametrize("chunk", [7, 300, 2**22])
@pytest.mark.parametrize("origin", [0, 1000], ids=["few are near", "all are near"])
def test_distances_are_exact_for_near_filters(chunk, origin, monkeypatch):
    """Against differences, one pair after another: also between copies, filters 1e-9 apart, and all of them far from the origin."""
    monkeypatch.setattr(median_module, "CHUNK", chunk)
    weight = torch.randn(60, 5, dtype=torch.float64) + origin
    weight[1], weight[2] = weight[0], weight[0] + 1e-9
    weight[3:5] = 0.001 * weight[3:5]
    expected = [sum(float((a - b).square().sum().sqrt()) for b in weight) for a in weight]
    assert scores(GeometricMedian(), weight)[:, 0].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_copy_is_at_no_distance():
    """Of 60 filters on a line, 59 of them the same, those score exactly the distance 2 to the other, which scores 59 times that."""
    weight = torch.full((60, 4), 0.1, dtype=torch.float64)
    weight[7, 0] += 2
    found = scores(GeometricMedian(), weight)[:, 0]
    assert float(found[7]) == pytest.approx(118, rel=1e-12)
    assert found[:7].tolist() == pytest.approx([2] * 7, rel=1e-12)


def test_equal_filters_have_no_distance():
    """Copies of one filter, and a single filter, score exactly 0."""
    assert not scores(GeometricMedian(), torch.tensor([[0.1, 0.7]]).repeat(5, 1)).any()
    assert not scores(GeometricMedian(), torch.tensor([[0.1, 0.7]])).any()
