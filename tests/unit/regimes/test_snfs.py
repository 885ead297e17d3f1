"""SNFS: growth follows an average of dense gradients, and layers exchange weights."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.snfs import AVERAGE, Snfs
from tests.sparse_runs import KEPT, choose, run_of, trained


def weighted(run, first, second):
    """A loss whose gradient is `first` at every weight of layer one and `second` at every weight of layer two."""
    return lambda: run.model[0].weight.sum() * first + run.model[2].weight.sum() * second


def test_the_average_by_hand():
    """After gradients 1, 2 and 4 with momentum .5, everywhere and masked weights too: .5 * (.5 * .5 + 1) + 2 = 2.625."""
    run, regime = run_of(frozen=False), Snfs(momentum=0.5)
    regime.start(run)
    for slope in (1.0, 2.0, 4.0):
        regime.step(run, weighted(run, slope, 0.0))
        run.step += 1
    assert torch.equal(run.memory[AVERAGE + "0.weight"], torch.full((20, 6), 2.625))
    assert not run.memory[AVERAGE + "2.weight"].any()


def test_the_average_is_learnt_at_updates_too():
    """The batch of an update counts in the average that the update grows by."""
    run, regime = run_of(frozen=False), Snfs(momentum=0.0, every="4it")
    regime.start(run)
    run.step = 4
    regime.step(run, weighted(run, 3.0, 1.0))
    assert torch.equal(run.memory[AVERAGE + "0.weight"], torch.full((20, 6), 3.0))


def test_weights_move_to_the_layer_with_more_momentum():
    """6 of 24 and 11 of 40 are dropped; with mean momentum 3 : 1, 13 of the 17 grow in the first layer and 4 in the second."""
    run, regime = run_of(frozen=False), Snfs(momentum=0.0, every="5it")
    run.masks = choose(run.weights(), run.target)
    regime.start(run)
    run.step = 5
    regime.step(run, weighted(run, 3.0, 1.0))
    assert {name: int(mask.sum()) for name, mask in run.masks.items()} == {"0.weight": 24 - 6 + 13, "2.weight": 40 - 11 + 4}


def test_totals_are_exact_all_along():
    """Layers change, the total never does, and no layer is emptied."""
    counts = []
    trained(run_of(), Snfs(), after=lambda run, _: counts.append(tuple(int(mask.sum()) for mask in run.masks.values())))
    assert {sum(count) for count in counts} == {64}
    assert len(set(counts)) > 1
    assert min(min(count) for count in counts) > 0


def test_without_redistribution_layers_are_constant():
    """Then each layer grows what it dropped."""
    run = trained(run_of(), Snfs(redistribute=False))
    assert {name: int(mask.sum()) for name, mask in run.masks.items()} == KEPT


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_an_average_that_never_learns_is_refused(momentum):
    """Outside [0, 1)."""
    with pytest.raises(BadRequest, match="snfs cannot average"):
        Snfs(momentum=momentum)
