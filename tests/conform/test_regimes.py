"""Every regime with every objective: the one composition of training, found from the shelves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.shelf import Shelf
from sparsify_cli.training import guard
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

REGIMES, OBJECTIVES = Shelf("regimes"), Shelf("objectives")
TARGET = Fraction(3, 4)
STILL = {"0.weight": torch.arange(32).reshape(8, 4) % 8 == 3}


def network() -> nn.Sequential:
    """4 features, 8 hidden with batch norm and dropout, 4 classes: 32 + 32 prunable weights."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))


def data() -> Samples:
    """40 samples in 4 classes."""
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
    return Samples(inputs, inputs.argmax(dim=1), tuple(str(i) for i in range(40)))


def sparsify(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Magnitude, per layer of 32, inside `within`; frozen weights first."""
    masks = {}
    for name in ("0.weight", "4.weight"):
        score = weights[name].abs().clone()
        if within:
            score[~within[name]] = -1
        if name in STILL:
            score[STILL[name]] = float("inf")
        mask = torch.ones(32, dtype=torch.bool)
        mask[score.flatten().argsort(stable=True)[: round(32 * sparsity)]] = False
        masks[name] = mask.reshape(score.shape)
    return MaskSet(masks)


def fresh_run(optimizer: str) -> Run:
    """A run of 12 steps towards 75 % with a few frozen weights."""
    model = network()
    made: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        if optimizer == "sgd"
        else torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    )
    run = Run(model, model, made, lambda loss: loss.backward(), total=12, per_epoch=5, sparsify=sparsify, target=TARGET)
    run.frozen = guard.freeze(run.weights(), STILL)
    return run


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("regime", "objective"), list(product(REGIMES.names(), OBJECTIVES.names())))
def test_any_regime_with_any_objective(regime: str, objective: str, optimizer: str) -> None:
    """Losses are finite, masks exact, masked weights exactly zero after each step, frozen bits untouched, free weights moved."""
    run, kind = fresh_run(optimizer), REGIMES.load(regime)
    run.masks = MaskSet() if kind.prunes else sparsify(run.weights(), TARGET)
    before, values = {name: w.clone() for name, w in run.weights().items()}, []
    loss = OBJECTIVES.load(objective)().prepare(lambda: copy.deepcopy(network()))

    def after(run: Run, value: Tensor) -> None:
        values.append(float(value))
        assert all((run.weights()[name][~mask] == 0).all() for name, mask in run.masks.items())

    train(run, kind(), loss, data(), batch_size=8, seed=0, learning_rate=lambda *_: 0.01, after_step=after)
    after_all = run.weights()
    assert len(values) == 12
    assert all(torch.isfinite(torch.tensor(values)))
    assert run.masks.kept == 16
    assert all(torch.isfinite(w).all() for w in after_all.values())
    assert torch.equal(after_all["0.weight"][STILL["0.weight"]], before["0.weight"][STILL["0.weight"]])
    assert not torch.equal(after_all["4.bias"], before["4.bias"])


@pytest.mark.parametrize("name", REGIMES.names())
def test_every_regime_is_documented(name: str) -> None:
    """Listed with a summary, and its default options build."""
    assert len(REGIMES.summary(name)) > 15
    assert REGIMES.load(name)() == REGIMES.load(name)()
