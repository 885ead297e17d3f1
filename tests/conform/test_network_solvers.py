"""Every solver of whole networks on the shelf keeps the promises of its contract; a new file is found by itself."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.solver import NetworkSolver
from sparsify_cli.maths.usable import best
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

EACH = pytest.mark.parametrize(
    "name", [name for name in Shelf("solvers").names() if issubclass(Shelf("solvers").load(name), NetworkSolver)]
)
NAMES = {"model.first": "0.weight", "model.second": "2.weight"}


def network(fill=None):
    """A multilayer perceptron 8-12-4, one of its inputs never active, and 48 samples labelled as it answers: low loss, as trained."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) if fill is None else torch.full_like(parameter, fill))
    inputs = torch.randn(48, 8, generator=generator)
    inputs[:, 3] = 0
    return Network(module, NAMES, inputs, module(inputs).argmax(1), sparsity=Fraction(1, 2), seed=1, batch=16)


class Chooser:
    """In each tensor half of the weights go at 1, fewer before, in groups as the pattern says; what went stays away."""

    def __init__(self, pattern):
        self.pattern, self.gone, self.asked = pattern, {}, []

    def __call__(self, scores, share):
        assert all(bool(score.isfinite().all()) and not score.requires_grad for score in scores.values())
        masks = {name: self.mask(name, score, share) for name, score in scores.items()}
        self.gone = {name: ~mask for name, mask in masks.items()}
        self.asked.append((share, MaskSet(masks)))
        return self.asked[-1][1]

    def mask(self, name, score, share):
        ranked = torch.where(self.gone.get(name, torch.zeros_like(score, dtype=torch.bool)), score.min() - 1, score).double()
        final = best(ranked, score.numel() // 2, self.pattern)
        return best(
            torch.where(final, ranked.max() - ranked.min() + 1 + ranked, ranked), score.numel() - int(share * score.numel() / 2), Pattern()
        )


def solved(name, pattern="unstructured", fill=None):
    """A network, who chose its masks, and its solution with default options."""
    given, choose = network(fill), Chooser(Pattern.parse(pattern))
    return given, choose, Shelf("solvers").load(name)().solve_network(given, choose, choose.pattern)


@EACH
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("fill", [None, 0.0, 0.25], ids=["random", "zeros", "equal"])
def test_masks_are_those_chosen(name, pattern, fill):
    """The masks are what `choose` gave at 1, what is pruned is zero, and the rest is finite: ties, zeros and dead inputs do not matter."""
    given, choose, found = solved(name, pattern, fill)
    share, masks = choose.asked[-1]
    assert share == 1 and found.masks == masks
    assert set(found.weights) == set(found.masks) == set(NAMES)
    for key, before in given.weights().items():
        after = found.weights[key]
        assert after.shape == before.shape and not after.requires_grad
        assert bool(after.isfinite().all()) and not after[~found.masks[key]].any()


@EACH
def test_stages_go_one_way(name):
    """Shares of the way are in (0, 1] and never fall."""
    _, choose, _ = solved(name)
    shares = [share for share, _ in choose.asked]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1


@EACH
def test_other_parameters_and_samples_are_left_alone(name):
    """Biases, inputs, labels and the mode of the network are as they were, and no gradient is left."""
    given, _, _ = solved(name)
    like = network()
    assert torch.equal(given.inputs, like.inputs) and torch.equal(given.targets, like.targets)
    assert not given.module.training
    kept = {key: value for key, value in like.module.state_dict().items() if key.endswith("bias")}
    assert all(torch.equal(given.module.state_dict()[key], value) for key, value in kept.items())


@EACH
def test_the_same_request_gives_the_same_answer(name):
    """Whatever torch's global generator holds."""
    torch.manual_seed(1)
    first = solved(name)[2]
    torch.manual_seed(2)
    second = solved(name)[2]
    assert first.masks == second.masks
    assert all(torch.equal(first.weights[key], second.weights[key]) for key in NAMES)


@EACH
def test_repair_repairs(name):
    """The loss on the samples rises less than by zeroing the same weights."""
    given, _, found = solved(name)
    dense = network()

    def loss(weights):
        given.put(weights)
        with torch.no_grad():
            return float(given.loss(given.inputs, given.targets))

    zeroed = loss(found.masks.apply(dense.weights()))
    assert loss(found.weights) < zeroed


@EACH
def test_memory_is_told_before(name):
    """Bytes, a whole number above 0 that more samples or more weights do not lower."""
    solver = Shelf("solvers").load(name)()
    small, samples, weights = solver.memory([96, 48], 16), solver.memory([96, 48], 1024), solver.memory([96, 4800], 16)
    assert isinstance(small, int) and 0 < small <= samples and small <= weights


@EACH
def test_unstructured_is_always_taken(name):
    """No solver refuses the pattern that forces nothing."""
    assert Shelf("solvers").load(name)().check(Pattern()) is None
