"""Sensitivity: nothing of the network is left changed, errors and divergences by brute force, curves that rise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.maths.error_curves import levels
from sparsify_cli.maths.gram import output_change
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.maths.paired_moments import sampled_gram
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.sensitivity import LEAST, PROBES, STEP, LayerCosts, _along, _solved, _spread, costs_of

GPT = Shelf("solvers").load("sparsegpt")()
NAMES = ("4.weight", "0.weight", "never.weight", "1.weight")


class Partly(nn.Sequential):
    """All but the last in order; that one is never run."""

    def forward(self, x):
        for part in list(self)[:-1]:
            x = part(x)
        return x


def network():
    """A grouped convolution between others, with batch norm, in train mode; one layer has no place in the pass."""
    net = Partly(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 3))
    net.add_module("never", nn.Linear(2, 2))
    return net.train()


def costs(net, x, names=NAMES, solver=GPT):
    """By name."""
    found = costs_of(net, x, names, solver, Listener())
    assert [one.name for one in found] == [name for name in names if name != "never.weight"]
    return {one.name: one for one in found}


@pytest.mark.parametrize("solver", [GPT, None], ids=["repaired", "not repaired"])
def test_the_network_is_as_it_was(solver):
    """Every tensor bit for bit, every mode, and no hook; layers that never run are left out, the others in the order asked for."""
    net = network()
    before = copy.deepcopy(net.state_dict())
    costs(net, torch.randn(20, 2, 6, 6), solver=solver)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_without_a_solver_by_brute_force():
    """Each level: the largest weights stay; errors from the layer's outputs, and where it was measured KL from two predictions."""
    net, x = network(), torch.randn(20, 2, 6, 6)
    found, dense = costs(net, x, solver=None)["1.weight"], copy.deepcopy(net).eval()
    assert found.weights == 108 and list(found.kept) == [count for count in levels(108, step=STEP, least=LEAST) if count < 108]
    with torch.no_grad():
        inputs, aim = dense[0](x), dense(x).double().log_softmax(1)
        outputs = functional.conv2d(inputs, dense[1].weight, groups=2)
        for count, error, divergence in zip(found.kept, found.errors, found.divergence, strict=True):
            one, least = copy.deepcopy(dense), dense[1].weight.abs().flatten().sort(descending=True).values[count - 1]
            one[1].weight.mul_(one[1].weight.abs() >= least)
            off = functional.conv2d(inputs, one[1].weight, groups=2) - outputs
            assert error == pytest.approx(float(off.square().sum() / outputs.square().sum()), rel=1e-4)
            if count in found.measured:
                now = one(x).double().log_softmax(1)
                assert divergence == pytest.approx(float((aim.exp() * (aim - now)).sum(1).mean()), rel=1e-5)
    assert len(found.measured) == PROBES and {found.kept[0], found.kept[-1]} <= set(found.measured)


def test_groups_share_counts_to_one_weight():
    """A solver is asked for counts of the groups that add up to the level, and differ by at most one."""

    class Noting(LayerSolver):
        asked = []

        def solve(self, weight, gram, keep):
            return weight, torch.ones_like(weight, dtype=torch.bool)

        def ladder(self, weight, gram, keep, counts):
            self.asked.append(list(counts))
            return super().ladder(weight, gram, keep, counts)

    found = costs(network(), torch.randn(20, 2, 6, 6), ["1.weight"], Noting())["1.weight"]
    first, second = Noting.asked
    assert [a + b for a, b in zip(first, second, strict=True)] == list(found.kept)
    assert all(abs(b - a) <= 1 for a, b in zip(first, second, strict=True))
    assert set(found.errors) == set(found.divergence) == {0.0}  # it changed nothing


def test_a_layer_that_does_not_change_costs_nothing():
    """Of a layer of zeros every level is the layer itself."""
    net = network()
    net[1].weight.data.zero_()
    for solver in (GPT, None):
        found = costs(net, torch.randn(20, 2, 6, 6), ["1.weight"], solver)["1.weight"]
        assert set(found.errors) == set(found.divergence) == {0.0}


def test_repair_lowers_errors():
    """At every level of every layer, the solver's error is at most that of the largest weights, and it grows as fewer stay."""
    net, x = network(), torch.randn(60, 2, 6, 6)
    repaired, plain = costs(net, x), costs(net, x, solver=None)
    for name, one in repaired.items():
        assert one.kept == plain[name].kept
        assert sum(one.errors) < sum(plain[name].errors)
        assert all(0 <= error <= 1.001 for error in one.errors)
        assert one.errors[0] < one.errors[-1] and min(one.divergence) >= 0


def test_curves_rise():
    """Keeping more never costs more, whatever was measured; in blocks, counts are counts of blocks and dense costs nothing."""
    one = LayerCosts("x", 100, (70, 49, 34, 2), (0.1, 0.2, 0.3, 0.9), (0.4, 0.1, 0.6, 0.5), (70, 49, 34, 2))
    curve = one.curve("tensor")
    assert (curve.name, curve.weights, curve.kept) == ("tensor", 100, (100, 70, 49, 34, 2))
    assert curve.costs == pytest.approx((0, 0.25, 0.25, 0.55, 0.55))
    blocks = one.curve("tensor", block=4)
    assert (blocks.weights, blocks.kept) == (25, (25, 17, 12, 8, 0))


def test_language_models_are_judged_by_every_token():
    """Token ids in, a dictionary out: the divergence is the mean over tokens; a layer stored [in, out] costs what nn.Linear costs."""

    class Conv1D(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.nf, self.weight, self.bias = linear.out_features, nn.Parameter(linear.weight.T.contiguous()), linear.bias

        def forward(self, x):
            return x @ self.weight + self.bias

    class Language(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.embedding, self.head = embedding, head

        def forward(self, ids):
            return {"logits": self.head(self.embedding(ids))}

    embedding, linear, ids = nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 9), torch.randint(0, 9, (12, 4))
    plain, turned = (costs(Language(head), ids, ["head.weight"])["head.weight"] for head in (linear, Conv1D(linear)))
    assert turned.errors == pytest.approx(plain.errors, rel=1e-5)
    assert turned.divergence == pytest.approx(plain.divergence, rel=1e-4, abs=1e-9)
    assert 0 < plain.divergence[-1] < 10


@pytest.mark.parametrize(("count", "places"), [(0, []), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (7, [0, 2, 4, 6]), (11, [0, 3, 7, 10])])
def test_probes_are_both_ends_and_evenly_between(count, places):
    """Four of many, all of few."""
    assert _spread(count, 4) == places


def test_between_probes_the_ratio_goes_evenly():
    """Ratios 2 and 8 to errors 1 and 4: in the middle 4 times the error 3; what is measured is as measured, zeros too."""
    assert _along([1.0, 3.0, 4.0], {0: 2.0, 2: 32.0}) == pytest.approx([2, 12, 32])
    assert _along([0.0, 0.0, 1.0], {0: 0.0, 2: 5.0}) == pytest.approx([0, 0, 5])
    assert _along([], {}) == []


@pytest.mark.parametrize("solver", [GPT, None], ids=["repaired", "not repaired"])
def test_what_was_pruned_before_costs_nothing_and_does_not_return(solver):
    """As many weights as are left cost nothing; fewer cost what the same layer does where only those may stay."""
    net, x = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)), torch.randn(200, 12) @ torch.randn(12, 12)
    left = torch.rand(10, 12) < 0.4
    net[0].weight.data *= left
    (found,) = costs_of(net, x, ["0.weight"], solver, Listener(), left={"0.weight": left})
    there = int(left.sum())
    assert found.kept[0] == there and found.errors[0] == found.divergence[0] == 0 and found.curve("w").cost(there) == 0
    assert 0 < found.errors[1] < found.errors[-1] and found.divergence[-1] > 0
    if solver is not None:
        gram = sampled_gram(net[0], [x])[0]
        weight, _ = solver.solve(net[0].weight.detach().double(), gram, Keep(found.kept[3], Pattern(), left))
        change = output_change(net[0].weight.detach().double() - weight, gram) / output_change(net[0].weight.detach().double(), gram)
        assert found.errors[3] == pytest.approx(change, rel=0.05)


def test_groups_keep_what_they_have_room_for():
    """Of a convolution in two groups, one of which is nearly gone: as many stay as the rung says."""
    layer, x = nn.Conv1d(8, 8, 3, groups=2), torch.randn(60, 8, 9)
    left = torch.rand(8, 4, 3) < 0.9
    left[4:] = False
    left[4:, 0, 0] = True
    layer.weight.data *= left
    places = to_matrix(left)
    rungs = _solved(layer, sampled_gram(layer, [x]), GPT, places, [40, 20, 5])
    assert [int(rung.count_nonzero()) for rung in rungs] == [40, 20, 5]
    assert not any(bool((rung[~places] != 0).any()) for rung in rungs)


def test_padding_does_not_count_in_what_is_measured():
    """The same texts in wider columns: the same divergence."""
    net = nn.Sequential(nn.Embedding(9, 8, padding_idx=0), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 9)).eval()
    texts = torch.randint(1, 9, (40, 5))
    wide = functional.pad(texts, (0, 7))
    found = [costs_of(net, x, ["1.weight"], GPT, Listener(), kind="tokens")[0] for x in (texts, wide)]
    assert found[0].divergence == pytest.approx(found[1].divergence, rel=1e-4)
