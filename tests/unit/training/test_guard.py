"""The guard under every optimizer with memory: masked weights are zero, frozen ones keep their bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5, amsgrad=True),
}


def run_of(make: Callable[[Any], torch.optim.Optimizer]) -> Run:
    """A run of a 4-to-3 linear layer with weights from a fixed generator."""
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
        model.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return Run(model, model, make(model.parameters()), lambda loss: loss.backward(), total=9, per_epoch=3)


def squares(run: Run) -> Callable[[], Tensor]:
    """A loss with a gradient at every weight."""
    return lambda: (run.model(torch.tensor([[1.0, -2.0, 0.5, 3.0]])) ** 2).sum()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_masked_and_frozen_do_not_move(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """After dense steps have built up momentum, masked weights are zero and frozen bits stand still; the rest moves."""
    run = run_of(make)
    for _ in range(3):
        guard.descend(run, squares(run))
    kept = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    still = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    before = run.model.weight.detach().clone()
    run.masks = MaskSet({"weight": kept})
    run.frozen = guard.freeze(run.weights(), {"weight": still, "bias": torch.tensor([True, False, True])})
    guard.place(run)
    guard.enforce(run)
    for _ in range(4):
        guard.descend(run, squares(run))
        assert (run.model.weight[~kept] == 0).all()
    assert torch.equal(run.model.weight[still], before[still])
    assert (run.model.weight != before)[kept & ~still].all()
    for moment in run.optimizer.state[run.model.weight].values():
        assert moment.ndim != 2 or (moment[~kept | still] == 0).all()


def test_gradients_are_masked_before_the_step() -> None:
    """A NaN gradient of a masked or frozen weight is zero before the optimizer sees it; others pass."""
    run = run_of(OPTIMIZERS["momentum"])
    run.masks = MaskSet({"weight": torch.tensor([[True, False, True, True]] * 3)})
    run.frozen = guard.freeze(run.weights(), {"weight": torch.tensor([[True, False, False, False]] * 3)})
    run.model.weight.grad = torch.tensor([[float("nan"), float("inf"), 2.0, -3.0]] * 3)
    guard.mask_gradients(run)
    assert run.model.weight.grad.tolist() == [[0.0, 0.0, 2.0, -3.0]] * 3
    assert run.model.bias.grad is None


def test_a_plain_step_is_plain_sgd() -> None:
    """Without masks, one step on 2w from w = 3 with rate 0.1 and decay 0.1 gives 3 - 0.1 (2 + 0.3) = 2.77."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    run = Run(model, model, optimizer, lambda loss: loss.backward(), total=1, per_epoch=1)
    value = guard.descend(run, lambda: 2 * model.weight.sum())
    assert (value.item(), value.requires_grad) == (6.0, False)
    assert model.weight.item() == pytest.approx(2.77)


def test_frozen_positions_may_be_flat_indices() -> None:
    """Flat indices in any order become bool positions with values in row order."""
    run = run_of(OPTIMIZERS["momentum"])
    run.frozen = {"weight": (torch.tensor([7, 1]), torch.tensor([70.0, 10.0]))}
    guard.place(run)
    guard.enforce(run)
    assert run.model.weight.flatten()[[1, 7]].tolist() == [10.0, 70.0]
    assert int(run.frozen["weight"][0].sum()) == 2


def test_what_does_not_fit_is_named() -> None:
    """Unknown names, wrong shapes, wrong counts and masked-out frozen weights are refused in words."""
    run = run_of(OPTIMIZERS["momentum"])
    run.masks = MaskSet({"head.weight": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(KeyMismatch, match=r"head\.weight"):
        guard.place(run)
    run.masks = MaskSet({"weight": torch.ones(4, 3, dtype=torch.bool)})
    with pytest.raises(KeyMismatch, match=r"\(4, 3\)"):
        guard.place(run)
    run.masks = MaskSet({"weight": torch.zeros(3, 4, dtype=torch.bool)})
    run.frozen = {"weight": (torch.ones(3, 4, dtype=torch.bool), torch.ones(11))}
    with pytest.raises(KeyMismatch, match="11 frozen values are stored for 12"):
        guard.place(run)
    run.frozen = {"weight": (torch.ones(3, 4, dtype=torch.bool), torch.ones(12))}
    with pytest.raises(BadRequest, match="drop 12 frozen weights"):
        guard.place(run)
