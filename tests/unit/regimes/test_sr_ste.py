"""SR-STE: dropped weights decay, so that masks settle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.sr_ste import SrSte
from sparsify_cli.regimes.ste import Ste
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from tests.ends_alike import assert_ends_alike
from tests.two_gradients import copied, gradients_at, one_step, run_of, same, states, trained


def test_one_step_is_the_published_gradient():
    """Plain SGD: W - lr * (dL/dW~ + lam * (1 - mask) * W), and no decay of frozen weights."""
    run = run_of(optimizer="plain", lr=0.5, frozen=True)
    before, masks = copied(run), run.sparsify(run.weights(), run.target)
    slopes = gradients_at(run, masks.apply(before))
    SrSte(lam=0.25).start(run)
    one_step(run, SrSte(lam=0.25))
    for name, weight in run.weights().items():
        dropped = ~masks[name] if name in masks else torch.zeros_like(weight, dtype=torch.bool)
        expected = before[name] - 0.5 * (slopes[name] + 0.25 * dropped * before[name])
        still = run.frozen[name][0] if name in run.frozen else torch.zeros_like(dropped)
        assert torch.allclose(weight[~still], expected[~still], atol=1e-7)
        assert torch.equal(weight[still], before[name][still])


def test_momentum_amplifies_the_decay():
    """Where the loss has no gradient, two steps of momentum .9 take lr * lam * (w + (1.9 - lr * lam) * w) off a dropped weight w."""
    run = run_of(optimizer="plain")
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1, momentum=0.9)
    before, masks = copied(run), run.sparsify(run.weights(), run.target)
    for _ in range(2):
        SrSte(lam=0.5).step(run, lambda: sum(weight.sum() for weight in run.model.parameters()) * 0)
        run.step += 1
    dropped = ~masks["0.weight"]
    expected = before["0.weight"] * (1 - 0.05 - 0.05 * (1.9 - 0.05))
    assert torch.allclose(run.weights()["0.weight"][dropped], expected[dropped], atol=1e-6)
    assert torch.equal(run.weights()["0.weight"][~dropped], before["0.weight"][~dropped])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_decay_it_is_ste(optimizer):
    """Without decay it is the regime ste, state for state."""
    assert same(states(run_of(optimizer=optimizer), SrSte(lam=0)), states(run_of(optimizer=optimizer), Ste()))


@pytest.mark.parametrize("every", [1, 3, 4])
def test_sad_is_the_number_of_bits_that_changed(every):
    """What is told every so many steps is the number of mask bits that differ from the masks so many before, counted here."""
    run = run_of(lr=0.3)
    weights_after = [copied(run)]
    trained(run, SrSte(sad_every=f"{every}it", lam=-0.5), after=lambda run, _: weights_after.append(copied(run)))
    masks = [run.sparsify(weights, run.target) for weights in weights_after[::every]]
    counted = [sum(int((a[name] != b[name]).sum()) for name in a) for a, b in pairwise(masks)]
    told = [(event["step"], event["steps"], event["sad"]) for event in run.events if event["event"] == "sad"]
    assert told == [(every * i, every, count) for i, count in enumerate(counted, start=1)]
    assert sum(counted) > 10


def test_sad_falls_as_the_decay_grows():
    """Zhou et al.: the total of mask flips is strictly decreasing in lam, and largest for a negative one."""
    flips = [_flips(lam) for lam in (-0.02, 0.0, 0.002, 0.02, 0.2)]
    assert all(more > less for more, less in pairwise(flips)), flips


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer):
    """From the state after any step the end is the same."""
    assert_ends_alike(lambda: run_of(optimizer=optimizer, pruned="0.3"), SrSte(lam=0.1, sad_every="3it"))


def test_a_decay_that_is_no_number_is_refused():
    """Infinite and undefined ones."""
    for lam in (math.inf, math.nan):
        with pytest.raises(BadRequest, match="sr-ste cannot decay"):
            SrSte(lam=lam)


def _two_of_four(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """The two largest of every four weights of a row."""
    groups = {name: weights[name].abs().reshape(-1, 4) for name in ("0.weight", "2.weight")}
    best = {name: torch.zeros_like(group).scatter(1, group.topk(2, dim=1).indices, 1) for name, group in groups.items()}
    return MaskSet({name: one.reshape(weights[name].shape).bool() for name, one in best.items()})


def _flips(lam: float) -> float:
    """Mask bits that flipped in 150 steps of a perceptron on noisy labels, 2:4 in both layers."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = Run(model, model, optimizer, lambda loss: loss.backward(), total=150, per_epoch=10, sparsify=_two_of_four, target=Fraction(1, 2))
    regime, draw = SrSte(lam=lam, sad_every="1it"), torch.Generator().manual_seed(5)
    regime.start(run)
    while run.step < run.total:
        inputs = torch.randn(32, 16, generator=draw)
        targets = (inputs[:, :4] + torch.randn(32, 4, generator=draw)).argmax(1)
        regime.step(run, lambda x=inputs, y=targets: functional.cross_entropy(model(x), y))
        run.step += 1
    return sum(event["sad"] for event in run.events if event["event"] == "sad")
