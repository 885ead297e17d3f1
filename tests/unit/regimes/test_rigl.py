"""RigL: growth follows the dense gradient of this batch."""

from __future__ import annotations

import torch
from torch.nn import functional

from sparsify_cli.regimes.rigl import Rigl
from tests.sparse_runs import KEPT, choose, run_of, samples


def test_growth_is_where_the_gradient_is_largest():
    """At an update the new weights are the inactive (or just dropped) ones of largest |dL/dw|, computed here by hand."""
    regime = Rigl(every="5it", noise=0.0, initial="chosen")
    run = run_of(frozen=False)
    regime.start(run)
    run.step, batch, before = 5, samples(), run.masks

    def loss():
        return functional.cross_entropy(run.model(batch.inputs), batch.targets)

    slopes = torch.autograd.grad(loss(), [run.model[0].weight, run.model[2].weight])
    old = {name: weight.clone() for name, weight in run.weights().items()}
    regime.step(run, loss)
    count = {"0.weight": 6, "2.weight": 11}  # int(alpha(5) n): alpha(5) = .15 (1 + cos(5 pi / 36)) = .286
    for name, slope in zip(KEPT, slopes, strict=True):
        order = old[name].abs().masked_fill(~before[name], torch.inf).flatten().argsort()
        kept = before[name].flatten().clone()
        kept[order[: count[name]]] = False
        best = slope.abs().flatten().masked_fill(kept, -1).argsort(descending=True)[: count[name]]
        expected = kept.index_fill(0, best, True)
        assert torch.equal(run.masks[name].flatten(), expected)
        assert int(expected.sum()) == KEPT[name]


def test_the_loss_is_the_one_before_the_update():
    """An update returns the loss of the batch that it looked at, detached."""
    run = run_of(frozen=False)
    Rigl().start(run)
    run.step = 4
    value = Rigl().step(run, lambda: run.model(torch.ones(1, 6)).sum() * 0 + 1.5)
    assert float(value) == 1.5 and not value.requires_grad


def test_a_constant_loss_changes_nothing_that_is_large():
    """Where all gradients are zero, what was dropped may come back or not, but the survivors and the counts are as they were."""
    run = run_of(frozen=False)
    run.masks = choose(run.weights(), run.target)
    Rigl().start(run)
    run.step, before = 4, {name: weight.clone() for name, weight in run.weights().items()}
    Rigl().step(run, lambda: run.model(torch.ones(1, 6)).sum() * 0)
    for name, weight in run.weights().items():
        largest = before[name].abs() >= before[name].abs().flatten().sort().values[-KEPT.get(name, 1) // 2]
        assert torch.equal(weight[largest], before[name][largest])
    assert run.masks.kept == 64
