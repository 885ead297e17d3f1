"""Small runs for regimes of sparse training: a perceptron, its samples, and a choice of masks by magnitude with given counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.maths.keep import top_k
from sparsify_cli.training import guard
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

KEPT = {"0.weight": 24, "2.weight": 40}
"""Weights that stay of 120 and of 80: 64 of 200, a sparsity of .68."""

TARGET = Fraction(68, 100)
STILL = {"0.weight": torch.arange(120).reshape(20, 6) % 17 == 3}
"""Seven weights that no step may move."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def network() -> nn.Sequential:
    """6 features, 20 hidden, 4 classes: 120 + 80 weights."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))


def samples() -> Samples:
    """64 samples in 4 classes."""
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))
    return Samples(inputs, inputs[:, :4].argmax(dim=1), tuple(str(i) for i in range(64)))


def choose(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """The counts of `KEPT`, by magnitude inside `within`, frozen weights first."""
    masks = {}
    for name, count in KEPT.items():
        score = weights[name].abs().clone()
        if within:
            score[~within[name]] = -1
        if name in STILL:
            score[STILL[name]] = float("inf")
        masks[name] = top_k(score.flatten(), count).reshape(score.shape)
    return MaskSet(masks)


def run_of(total: int = 48, *, optimizer: str = "sgd", seed: int = 0, frozen: bool = True, sparsify: Any = choose) -> Run:
    """A run towards `TARGET`, a few weights frozen."""
    model = network()
    made = OPTIMIZERS[optimizer](model.parameters())
    run = Run(model, model, made, lambda loss: loss.backward(), total=total, per_epoch=8, sparsify=sparsify, target=TARGET, seed=seed)
    if frozen:
        run.frozen = guard.freeze(run.weights(), STILL)
    return run


def trained(run: Run, regime: Regime, *, after: Callable[[Run, Tensor], None] | None = None) -> Run:
    """The run after training to its end."""

    def loss(model: nn.Module, batch: Samples) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets)

    train(run, regime, loss, samples(), batch_size=8, seed=1, learning_rate=lambda *_: 0.05, after_step=after, stop_requested=lambda: False)
    return run


def states(run: Run, regime: Regime) -> list[dict[str, Any]]:
    """The run's state after each step to its end."""
    found: list[dict[str, Any]] = []
    trained(run, regime, after=lambda run, _: found.append(copy.deepcopy(run.state())))
    return found


def resumed(fresh: Run, regime: Regime, state: dict[str, Any]) -> dict[str, Any]:
    """The last state of a run that goes on from a saved one."""
    fresh.restore(copy.deepcopy(state))
    return trained(fresh, regime).state()


def same(first: Any, second: Any) -> bool:
    """Equal to the bit, whatever is nested in it."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
