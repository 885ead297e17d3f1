"""Movement: minus the sum of gradient times weight before each step, by hand, resumable, and what it makes of a pruning run."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.criteria.movement import Movement
from sparsify_cli.errors import MissingContext
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.regimes.gmp import Gmp
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.training import guard, movement
from sparsify_cli.values.run import Run
from sparsify_cli.values.stats import Stats

X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]])
Y = torch.tensor([[1.0, 0.0], [0.5, -1.0]])


def run_of(criterion=None, *, total=16):
    """A linear layer with momentum and decay, under a choice of masks."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    choose = Sparsifier(("weight",), criterion or Movement(), "global", Pattern())
    return Run(model, model, optimizer, lambda loss: loss.backward(), total=total, per_epoch=4, sparsify=choose, target=Fraction(1, 2))


def loss_of(run):
    """Mean squared error on two fixed samples."""
    return lambda: functional.mse_loss(run.model(X), Y)


def test_it_is_the_sum_of_gradient_times_weight():
    """Against gradients by autograd, before each of five steps."""
    run, total = run_of(), torch.zeros(2, 4)
    movement.begin(run)
    for _ in range(5):
        weight = run.model.weight
        (gradient,) = torch.autograd.grad(loss_of(run)(), weight)
        total -= gradient * weight.detach()
        guard.descend(run, loss_of(run))
    torch.testing.assert_close(run.memory["movement.weight"], total)
    assert torch.equal(Movement().score("weight", run.model.weight, Stats(movement={"weight": total})), total.double())


def test_weights_that_moved_away_from_zero_stay():
    """Whatever their size: the mask after the run is that of the largest movements gathered before the pruning."""
    run, regime = run_of(), Gmp(begin="8it", end="8it", every="1it")
    regime.start(run)
    while run.step < 8:
        regime.step(run, loss_of(run))
        run.step += 1
    gathered = run.memory["movement.weight"].flatten()
    regime.step(run, loss_of(run))
    kept = run.masks["weight"].flatten()
    assert int(kept.sum()) == 4
    assert float(gathered[kept].min()) >= float(gathered[~kept].max())


def test_a_run_that_is_resumed_goes_on_gathering():
    """The state of a run holds what was gathered: stopping in between changes no bit."""
    through, first = run_of(), run_of()
    regime = Gmp(begin="4it", end="8it", every="2it")
    regime.start(through)
    regime.start(first)
    for run, steps in ((through, 12), (first, 5)):
        for _ in range(steps):
            regime.step(run, loss_of(run))
            run.step += 1
    second = run_of()
    second.restore(copy.deepcopy(first.state()))
    guard.place(second)
    for _ in range(7):
        regime.step(second, loss_of(second))
        second.step += 1
    assert torch.equal(second.memory["movement.weight"], through.memory["movement.weight"])
    assert torch.equal(second.model.weight, through.model.weight)
    assert second.masks.digest() == through.masks.digest()


def test_other_criteria_gather_nothing():
    """And without training there is nothing to rank by, which is said."""
    from sparsify_cli.criteria.magnitude import Magnitude

    run = run_of(Magnitude())
    movement.begin(run)
    guard.descend(run, loss_of(run))
    assert run.memory == {}
    assert movement.informed(run) is run.sparsify
    with pytest.raises(MissingContext, match="finetune --regime gmp --criterion movement"):
        Movement().scores({"weight": run.model.weight}, Stats())
