"""Bilevel pruning: the gradient of the masks, who moves when, and exact counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.bip import Bip, relative
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def largest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Magnitude over the one matrix, inside `within`."""
    score = weights["weight"].abs().clone()
    if within:
        score[~within["weight"]] = -1
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(stable=True)[: round(score.numel() * sparsity)]] = False
    return MaskSet({"weight": mask.view(score.shape)})


def run_of(total: int = 20, **options: float) -> Run:
    """A linear layer of 24 weights in float64, on the way to 75 %."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4).double()
    optimizer = torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))
    return Run(model, model, optimizer, lambda loss: loss.backward(), total, 5, sparsify=largest, target=Fraction(3, 4))


def loss_of(run: Run, mask: Tensor | None = None) -> Callable[[], Tensor]:
    """A loss that depends on the step alone; with a mask, that of the masked weights as a new variable."""
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(run.step), dtype=torch.float64)
    return lambda: ((run.model(inputs) - inputs[:, :4].tanh()) ** 2).mean()


def test_the_gradient_of_the_masks_is_that_of_autograd() -> None:
    """For gamma -> infinity it is d l(m theta)/dm; finite gamma takes off g^2 / gamma."""
    run = run_of()
    regime = Bip(gamma=50.0, rate=0.01)
    regime.start(run)
    run.step = 1
    m = run.memory["bip.mask.weight"].double().requires_grad_()
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = run.model.weight.detach().clone()
    z = m * theta
    out = ((nn.functional.linear(inputs, z, run.model.bias.detach()) - inputs[:, :4].tanh()) ** 2).mean()
    by_m, by_z = torch.autograd.grad(out, [m, z])
    before = run.memory["bip.score.weight"].double()
    regime.step(run, loss_of(run))
    meant = (before - 0.01 * (by_m - by_z**2 / 50.0)).clamp(0, 1)
    assert torch.allclose(run.memory["bip.score.weight"].double(), meant, atol=1e-6)


def test_weights_and_masks_take_turns() -> None:
    """Even steps move kept weights and no score, odd ones scores and no weight; masked weights keep their values throughout."""
    run = run_of()
    regime = Bip(rate=5.0)
    regime.start(run)
    for step in range(6):
        run.step = step
        weight, score = run.model.weight.detach().clone(), run.memory["bip.score.weight"].clone()
        mask = run.memory["bip.mask.weight"].clone()
        regime.step(run, loss_of(run))
        moved = run.model.weight != weight
        assert bool(moved[mask].any()) == (step == 0 or step % 2 == 0)
        assert torch.equal(run.memory["bip.score.weight"], score) == (step % 2 == 0)
        if step == 0:
            assert not moved[~mask].any()


def test_counts_are_exact_and_masks_change() -> None:
    """Six of 24 weights at every moment, and the masks of the last scores at the end; some bits changed on the way."""
    run = run_of()
    regime = Bip(rate=5.0)
    regime.start(run)
    first = run.memory["bip.mask.weight"].clone()
    for step in range(20):
        run.step = step
        regime.step(run, loss_of(run))
        assert int(run.memory["bip.mask.weight"].sum()) == 6
    last = run.memory["bip.mask.weight"].clone()
    regime.finish(run)
    assert torch.equal(run.masks["weight"], last) and not torch.equal(first, last)
    assert (run.model.weight[~last] == 0).all() and not run.memory
    assert sum(event.get("sad", 0) for event in run.events) > 0


def test_scores_start_in_proportion_to_weights() -> None:
    """|w| relative to the largest; a tensor of zeros has scores of zero."""
    assert relative(torch.tensor([2.0, -4.0, 0.0])).tolist() == [0.5, 1.0, 0.0]
    assert relative(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_bad_requests() -> None:
    """Options out of range, and a run of one step."""
    with pytest.raises(BadRequest, match="gamma"):
        Bip(gamma=0)
    with pytest.raises(BadRequest, match="1 step"):
        Bip().start(run_of(total=1))
