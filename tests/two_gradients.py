"""Runs for regimes that take two gradients a step: a network with batch norm and dropout, and what each forward pass sees of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.maths.keep import top_k
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.training import guard
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

NAMES = ("0.weight", "4.weight", "6.weight")
STILL = {"4.weight": torch.arange(96).reshape(8, 12) % 7 == 2}
"""Weights of an embedded network, which no step may move."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.01),
    "plain": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
    "adamw": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1),
}


def network() -> nn.Sequential:
    """6 features, 12 hidden with batch norm and dropout, 8 more, 4 classes: 72 + 96 + 32 = 200 prunable weights."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)
    ).train()


def samples() -> Samples:
    """40 samples in 4 classes."""
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    return Samples(inputs, inputs[:, :4].argmax(dim=1), tuple(str(i) for i in range(40)))


def run_of(
    sparsity: str = "0.8",
    *,
    optimizer: str = "sgd",
    lr: float = 0.05,
    pattern: str = "unstructured",
    pruned: str = "",
    frozen: bool = False,
) -> Run:
    """A run of 12 steps, magnitudes chosen over all layers; perhaps pruned already, perhaps with frozen weights."""
    model = network()
    floor = MaskSet(STILL) if frozen else MaskSet()
    sparsify = Sparsifier(NAMES, Magnitude(), "global", Pattern.parse(pattern), floor=floor)
    made = OPTIMIZERS[optimizer](model.parameters(), lr)
    run = Run(model, model, made, lambda loss: loss.backward(), total=12, per_epoch=5, sparsify=sparsify, target=Fraction(sparsity))
    if frozen:
        run.frozen = guard.freeze(run.weights(), STILL)
    if pruned:
        run.masks = sparsify(run.weights(), Fraction(pruned))
    return run


def trained(run: Run, regime: Regime, *, after: Callable[[Run, Tensor], None] | None = None) -> Run:
    """The run at its end, through the training loop."""
    loss = CrossEntropy().prepare(nn.Module)
    rate = run.optimizer.param_groups[0]["lr"]
    train(run, regime, loss, samples(), batch_size=8, seed=1, learning_rate=lambda *_: rate, after_step=after)
    return run


def states(run: Run, regime: Regime) -> list[dict[str, Any]]:
    """The run's state after each step."""
    found: list[dict[str, Any]] = []
    trained(run, regime, after=lambda run, _: found.append(copy.deepcopy(run.state())))
    return found


def check_resumes(fresh: Callable[[], Run], regime: Regime) -> None:
    """From the state after any step the end is the same to the bit."""
    every = states(fresh(), regime)
    assert len(every) == 12
    for state in every[:-1]:
        run = fresh()
        run.restore(copy.deepcopy(state))
        assert same(trained(run, regime).state(), every[-1])


def one_step(run: Run, regime: Regime, *, rows: slice = slice(0, 10), seed: int = 7) -> Tensor:
    """One step on some of the samples; what the loop does before a step is done."""
    torch.manual_seed(seed)
    value = regime.step(run, loss_on(run, rows))
    run.step += 1
    return value


def loss_on(run: Run, rows: slice = slice(0, 10)) -> Callable[[], Tensor]:
    """Cross-entropy of some of the samples."""
    data = samples()
    like = next(run.model.parameters())
    return lambda: functional.cross_entropy(run.model(data.inputs[rows].to(like.dtype)), data.targets[rows])


@contextmanager
def seen_by_passes(run: Run) -> Iterator[list[dict[str, Tensor]]]:
    """The weights that each forward pass inside sees."""
    seen: list[dict[str, Tensor]] = []
    hook = run.model.register_forward_pre_hook(lambda *_: seen.append(copied(run)))
    try:
        yield seen
    finally:
        hook.remove()


def copied(run: Run) -> dict[str, Tensor]:
    """Copies of the weights."""
    return {name: weight.clone() for name, weight in run.weights().items()}


def gradients_at(run: Run, weights: Mapping[str, Tensor], seed: int = 7) -> dict[str, Tensor]:
    """Gradients of the loss on the first ten samples at given weights, in a network of their own."""
    other = copy.deepcopy(run.model)
    other.load_state_dict({**other.state_dict(), **weights})
    torch.manual_seed(seed)
    data = samples()
    value = functional.cross_entropy(other(data.inputs[:10].to(next(other.parameters()).dtype)), data.targets[:10])
    return dict(zip(dict(other.named_parameters()), torch.autograd.grad(value, list(other.parameters())), strict=True))


class TwoWeights(nn.Module):
    """Loss |w - goal|^2 / 2 of two weights, whose gradient w - goal is mental arithmetic."""

    def __init__(self, start: list[float], goal: list[float]) -> None:
        super().__init__()
        self.weight, self.goal = nn.Parameter(torch.tensor([start], dtype=torch.float64)), torch.tensor([goal], dtype=torch.float64)

    def forward(self) -> Tensor:
        """The loss."""
        return (self.weight - self.goal).square().sum() / 2


def two_weights(start: list[float], goal: list[float]) -> Run:
    """A run over two weights with learning rate .1; compressed, the larger one stays."""
    model = TwoWeights(start, goal)

    def larger(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        return MaskSet({"weight": top_k(weights["weight"].abs().flatten(), 1).reshape(1, 2)})

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Run(model, model, optimizer, lambda loss: loss.backward(), total=9, per_epoch=9, sparsify=larger, target=Fraction(1, 2))


def moved(run: Run, regime: Regime) -> list[float]:
    """The two weights after a step."""
    regime.start(run)
    regime.step(run, run.model)
    return [round(value, 12) for value in run.weights()["weight"].flatten().tolist()]


def same(first: Any, second: Any) -> bool:
    """Equal to the bit, whatever is nested in it."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
