"""Known-wrong guards that the same check rejects: each forgets one thing the real guard does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

Guard = Callable[[Run], None]
KEPT = torch.tensor([[True, True, False, False], [True, False, True, True]])
STILL = torch.tensor([[True, False, False, False], [False, False, True, False]])
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.5),
}


def run_of(optimizer: str) -> Run:
    """A run whose dense steps have left momentum behind, then got masks and frozen weights."""
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.7, -0.3, 0.2, 0.9], [-0.1, 0.6, 1 / 3, -0.8]]))
    run = Run(model, model, OPTIMIZERS[optimizer](model.parameters()), lambda loss: loss.backward(), total=9, per_epoch=9)
    for _ in range(3):
        step(run, nothing, nothing)
    run.masks = MaskSet({"weight": KEPT})
    run.frozen = guard.freeze(run.weights(), {"weight": STILL})
    return run


def step(run: Run, before: Guard, after: Guard) -> None:
    """One step with a gradient at every weight, NaN where the first masked weight is once there are masks."""
    run.optimizer.zero_grad()
    run.backward((run.model(torch.tensor([[1.0, -2.0, 0.5, 3.0]])) ** 2).sum())
    if run.masks:
        run.model.weight.grad[0, 2] = float("nan")  # type: ignore[index, union-attr]
    before(run)
    run.optimizer.step()
    after(run)


def holds(before: Guard, after: Guard, optimizer: str) -> bool:
    """Whether a guard keeps its promise: masked zero, frozen bits, no memory of either, and the rest trains."""
    run = run_of(optimizer)
    start = run.model.weight.detach().clone()  # type: ignore[operator, union-attr]
    after(run)
    for _ in range(4):
        step(run, before, after)
    weight = run.model.weight.detach()  # type: ignore[operator, union-attr]
    moments = [m for m in run.optimizer.state[run.model.weight].values() if m.shape == weight.shape]  # type: ignore[index]
    return bool(
        (weight[~KEPT] == 0).all()
        and torch.equal(weight[STILL], start[STILL])
        and all((m[~KEPT | STILL] == 0).all() for m in moments)
        and (weight != start)[KEPT & ~STILL].all()
    )


def nothing(run: Run) -> None:
    """Guard nothing."""


@torch.no_grad()
def weights_only(run: Run) -> None:
    """Weights are put right, the optimizer's memory is not."""
    run.model.weight.masked_fill_(~KEPT, 0)  # type: ignore[operator]
    run.model.weight.masked_scatter_(*run.frozen["weight"])  # type: ignore[operator]


@torch.no_grad()
def state_only(run: Run) -> None:
    """The optimizer's memory is put right, weights are not."""
    for moment in run.optimizer.state[run.model.weight].values():  # type: ignore[index]
        if moment.shape == KEPT.shape:
            moment.masked_fill_(~KEPT | STILL, 0)


@torch.no_grad()
def masks_only(run: Run) -> None:
    """Masks are enforced fully, frozen weights are forgotten."""
    frozen, run.frozen = run.frozen, {}
    guard.enforce(run)
    run.frozen = frozen


@torch.no_grad()
def multiplied(run: Run) -> None:
    """Multiplying by the mask instead of filling: NaN times zero is NaN."""
    state_only(run)
    run.model.weight.mul_(KEPT)  # type: ignore[operator]
    run.model.weight.masked_scatter_(*run.frozen["weight"])  # type: ignore[operator]


@torch.no_grad()
def rounded(run: Run) -> None:
    """Frozen weights are stored in half precision: close, not the same bits."""
    guard.enforce(run)
    positions, values = run.frozen["weight"]
    run.model.weight.masked_scatter_(positions, values.half().float())  # type: ignore[operator]


@torch.no_grad()
def everything_frozen(run: Run) -> None:
    """Safe but useless: no weight ever moves."""
    start = run.memory.setdefault("start", run.model.weight.detach().clone())  # type: ignore[operator, union-attr]
    run.model.weight.copy_(start)  # type: ignore[operator]
    guard.enforce(run)


WRONG: dict[str, tuple[Guard, Guard]] = {
    "nothing": (nothing, nothing),
    "gradient only": (guard.mask_gradients, nothing),
    "weights only": (guard.mask_gradients, weights_only),
    "optimizer state only": (guard.mask_gradients, state_only),
    "frozen forgotten": (guard.mask_gradients, masks_only),
    "multiplied by the mask": (nothing, multiplied),
    "frozen rounded": (guard.mask_gradients, rounded),
    "everything frozen": (guard.mask_gradients, everything_frozen),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_real_guard_passes(optimizer: str) -> None:
    """Gradients masked before, weights and memory after."""
    assert holds(guard.mask_gradients, guard.enforce, optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_guard_is_rejected(name: str, optimizer: str) -> None:
    """The same check, under every optimizer with memory."""
    assert not holds(*WRONG[name], optimizer)
