"""Groups of a weight: which weights are in one, its norm, its size, and the two operators of the group lasso."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify_cli.training.weight_groups import KINDS, Groups, groups_of

MEMBERS = {
    "filters": [[(n, c, m, k) for c in range(2) for m in range(2) for k in range(3)] for n in range(4)],
    "channels": [[(n, c, m, k) for n in range(4) for m in range(2) for k in range(3)] for c in range(2)],
    "shapes": [[(n, c, m, k) for n in range(4)] for c in range(2) for m in range(2) for k in range(3)],
    "layers": [[(n, c, m, k) for n in range(4) for c in range(2) for m in range(2) for k in range(3)]],
}
"""The positions of each group of a convolution of 4 outputs, 2 inputs and a 2 x 3 kernel, written out."""


@pytest.mark.parametrize("kind", KINDS)
def test_norms_sizes_and_zeros_of_a_convolution(kind):
    """Each is that of the weights listed one by one; a group is zero when all of them are, and only then."""
    weight, groups = torch.randn(4, 2, 2, 3), Groups("w", kind)
    lengths = [math.sqrt(sum(float(weight[place]) ** 2 for place in places)) for places in MEMBERS[kind]]
    assert groups.norms(weight).flatten().tolist() == pytest.approx(lengths, rel=1e-5)
    assert groups.size(weight) == len(MEMBERS[kind][0])
    for place in MEMBERS[kind][-1]:
        assert int(groups.zero(weight).sum()) == 0
        weight[place] = 0
    assert groups.zero(weight).flatten().nonzero().flatten().tolist() == [len(MEMBERS[kind]) - 1]


def test_a_transposed_weight_has_its_outputs_in_the_second_dimension():
    """Filters of [in, out] are columns, channels rows."""
    weight = torch.tensor([[3.0, 0.0], [4.0, 5.0]])
    assert Groups("w", "filters", 1).norms(weight).flatten().tolist() == [5, 5]
    assert Groups("w", "channels", 1).norms(weight).flatten().tolist() == pytest.approx([3, math.sqrt(41)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_proximal_operator_solves_its_problem(kind):
    """For argmin |x - w|^2 / 2 + t sum |x_g|: x_g - w_g + t x_g / |x_g| = 0 where x_g is not 0, and |w_g| <= t where it is."""
    weight, groups = torch.randn(4, 2, 2, 3, dtype=torch.float64), Groups("w", kind)
    t = float(groups.norms(weight).median())
    found = groups.shrunk(weight, t)
    lives = ~groups.zero(found)
    residual = found - weight + t * found / groups.norms(found).clamp(min=1e-300)
    assert float((residual * lives).abs().max()) < 1e-12
    assert bool((groups.norms(weight)[~lives] <= t).all())
    assert int(lives.sum()) == groups.norms(weight).numel() // 2


def test_shrinking_by_hand():
    """(3, 4) by 1 is 4/5 of it, by 5 and more exactly nothing, by 0 itself to the bit; nothing stays nothing, by 0 too."""
    groups, weight = Groups("w", "filters"), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(groups.shrunk(weight, 1), torch.tensor([[2.4, 3.2], [0, 0]]))
    assert all(torch.equal(groups.shrunk(weight, by), torch.zeros(2, 2)) for by in (5, 7))
    assert torch.equal(groups.shrunk(weight, 0), weight)


def test_the_subgradient_is_zero_at_zero():
    """Each group at length 1, and 0/0 is 0, not NaN."""
    directions = Groups("w", "filters").directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(directions, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def network() -> nn.Sequential:
    """A convolution, a depthwise, a pointwise, a transposed one, an embedding that is none of it, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 1),
        nn.ConvTranspose2d(8, 6, 2),
        nn.Embedding(5, 6),
        nn.Linear(6, 2),
    )


def test_groups_of_a_network():
    """Kind after kind, in the order of the parameters; no inputs of a grouped convolution; shapes of one position are channels."""
    found = groups_of(network(), ("channels", "shapes", "filters"))
    names = {kind: [one.name for one in found if one.kind == kind] for kind in KINDS}
    assert [one.kind for one in found] == sorted((one.kind for one in found), key=["channels", "shapes", "filters"].index)
    assert names["filters"] == ["0.weight", "2.weight", "3.weight", "4.weight", "6.weight"]
    assert names["channels"] == ["0.weight", "3.weight", "4.weight", "6.weight"]
    assert names["shapes"] == ["0.weight", "4.weight"]
    assert {one.name for one in found if one.outputs} == {"4.weight"}
    assert [one.name for one in groups_of(network(), ("shapes",))] == ["0.weight", "3.weight", "4.weight", "6.weight"]


def test_the_ends_of_a_network():
    """Inputs of the first and outputs of the last weight can be left out, and both as layers; globs choose weights."""
    found = {(one.name, one.kind) for one in groups_of(network(), ("channels", "filters", "layers"), first=False, last=False)}
    every = {(one.name, one.kind) for one in groups_of(network(), ("channels", "filters", "layers"))}
    assert every - found == {("0.weight", "channels"), ("0.weight", "layers"), ("6.weight", "filters"), ("6.weight", "layers")}
    assert [one.name for one in groups_of(network(), ("filters",), only=("3.*", "0*"))] == ["0.weight", "3.weight"]
    assert groups_of(nn.Sequential(nn.BatchNorm1d(3)), KINDS, first=False, last=False) == []
