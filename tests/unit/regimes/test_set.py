"""SET: growth is uniform among the inactive positions."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.regimes.set import Set
from tests.sparse_runs import choose, run_of


def grown(seed):
    """Positions of the first layer that an update makes active, of 96 inactive ones."""
    run = run_of(seed=seed, frozen=False)
    run.masks = before = choose(run.weights(), run.target)
    Set(every="5it").start(run)
    run.step = 5
    Set(every="5it").step(run, lambda: run.model(torch.ones(1, 6)).sum())
    return (run.masks["0.weight"] & ~before["0.weight"]).flatten()


def test_growth_is_uniform():
    """Over 200 seeds each of 96 inactive positions grows about as often: 6 of 102 candidates, 11.8 times, never above 30."""
    times = torch.stack([grown(seed) for seed in range(200)]).sum(0)
    inactive = times > 0
    assert int(inactive.sum()) >= 94
    assert int(times.max()) <= 30
    assert float(times.sum()) / 200 == pytest.approx(6 * 96 / 102, abs=0.25)


def test_growth_does_not_follow_the_gradient():
    """With one seed the same positions grow whatever the loss is."""
    found = []
    for sign in (1.0, -7.0):
        run = run_of(frozen=False)
        Set(every="5it").start(run)
        run.step = 5
        Set(every="5it").step(run, lambda run=run, sign=sign: (run.model(torch.ones(1, 6)) * sign).exp().sum())
        found.append(run.masks)
    assert found[0] == found[1]
