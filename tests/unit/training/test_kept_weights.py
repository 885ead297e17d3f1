"""Averaged and best weights beside those that train."""

from __future__ import annotations

import torch
from torch import nn

from sparsify_cli.training import kept_weights
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def run_of(value: float) -> Run:
    """A layer of two weights, both `value`, without bias."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return Run(model, model, torch.optim.SGD(model.parameters(), lr=0.1), lambda loss: loss.backward(), total=9, per_epoch=3)


def test_average_by_hand() -> None:
    """1, then 3 at step 2 with share min(.9, 3/12) = 1/4 of the old: 1/4 + 9/4 = 2.5; then 0 at step 98 with 0.9: 2.25."""
    run = run_of(1.0)
    kept_weights.average(run, 0.9)
    for step, value, meant in ((2, 3.0, 2.5), (98, 0.0, 2.25)):
        run.step = step
        run.model.weight.data.fill_(value)
        kept_weights.average(run, 0.9)
        assert torch.allclose(kept_weights.averaged(run)["weight"], torch.full((1, 2), meant))


def test_the_average_is_zero_where_the_masks_are() -> None:
    """A weight that was pruned on the way is no zero in the average; the masks make it one."""
    run = run_of(1.0)
    kept_weights.average(run, 0.9)
    run.masks = MaskSet({"weight": torch.tensor([[True, False]])})
    assert kept_weights.averaged(run)["weight"].tolist() == [[1.0, 0.0]]


def test_the_best_stays() -> None:
    """A better score replaces it, an equal or lower one does not; masks come with it."""
    run = run_of(1.0)
    assert kept_weights.best(run) is None
    run.masks = MaskSet({"weight": torch.tensor([[True, True]])})
    assert kept_weights.offer(run, 0.5)
    run.model.weight.data.fill_(2.0)
    run.masks = MaskSet({"weight": torch.tensor([[True, False]])})
    assert not kept_weights.offer(run, 0.5)
    found = kept_weights.best(run)
    assert found is not None and found[0]["weight"].tolist() == [[1.0, 1.0]] and found[1].kept == 2
    assert kept_weights.offer(run, 0.6)
    found = kept_weights.best(run)
    assert found is not None and found[0]["weight"].tolist() == [[2.0, 2.0]] and found[1].kept == 1


def test_the_average_is_zero_under_every_name() -> None:
    """A weight of two names: whichever is loaded last, it is the sparse one."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    run = Run(model, model, torch.optim.SGD(model.parameters(), lr=0.1), lambda loss: loss.backward(), total=9, per_epoch=3)
    kept_weights.average(run, 0.9)
    run.masks = MaskSet({"0.weight": torch.eye(2, dtype=torch.bool)})
    found = kept_weights.averaged(run)
    assert torch.equal(found["0.weight"], found["1.weight"]) and int(found["1.weight"].count_nonzero()) == 2
