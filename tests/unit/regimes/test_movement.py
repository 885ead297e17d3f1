"""Movement pruning as a regime: scores are the gradient of the masks, weights come back, counts follow the climb."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.schedules import cubic
from sparsify_cli.regimes.movement import Movement
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def largest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Magnitude over the one matrix, inside `within`."""
    score = weights["weight"].abs().clone()
    if within and "weight" in within:
        score[~within["weight"]] = -1
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(stable=True)[: round(score.numel() * sparsity)]] = False
    return MaskSet({"weight": mask.view(score.shape)})


def run_of(total: int = 20, momentum: float = 0.9) -> Run:
    """A linear layer of 24 weights in float64, on the way to 75 %."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return Run(model, model, optimizer, lambda loss: loss.backward(), total, 5, sparsify=largest, target=Fraction(3, 4))


def loss_of(run: Run) -> Callable[[], Tensor]:
    """A loss that depends on the step alone."""
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(run.step), dtype=torch.float64)
    return lambda: ((run.model(inputs) - inputs[:, :4].tanh()) ** 2).mean()


def trained(run: Run, regime: Movement, hear: Callable[[], None] = lambda: None) -> Run:
    """The whole run; `hear` is called after each step."""
    regime.start(run)
    while run.step < run.total:
        regime.step(run, loss_of(run))
        hear()
        run.step += 1
    regime.finish(run)
    return run


def test_scores_gather_the_gradient_of_the_masks() -> None:
    """Minus d l(m W)/dm by autograd, summed over steps, for kept and for dropped weights."""
    run, regime = run_of(), Movement(begin="0it", end="2it", until="20it")
    regime.start(run)
    meant = torch.zeros(4, 6, dtype=torch.float64)
    for step in range(6):
        run.step = step
        weight = run.model.weight.detach().clone()
        bias, inputs = (
            run.model.bias.detach().clone(),
            torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64),
        )
        regime.step(run, loss_of(run))
        m = run.memory["moved.mask.weight"].double().requires_grad_()
        out = ((nn.functional.linear(inputs, m * weight, bias) - inputs[:, :4].tanh()) ** 2).mean()
        meant -= torch.autograd.grad(out, m)[0]
    assert torch.allclose(run.memory["moved.score.weight"].double(), meant, atol=1e-6)


def test_dropped_weights_keep_their_values_and_may_come_back() -> None:
    """Without momentum a step moves kept weights alone; over the run some bit turns from dropped to kept at equal counts."""
    run, regime, masks, moved = run_of(40, momentum=0.0), Movement(begin="0it", end="8it", until="40it"), [], []
    before = [run.model.weight.detach().clone()]

    def hear() -> None:
        masks.append(run.memory["moved.mask.weight"].clone())
        moved.append(run.model.weight.detach() != before[-1])
        before.append(run.model.weight.detach().clone())

    trained(run, regime, hear)
    assert all(not at[~mask].any() for at, mask in zip(moved[:36], masks, strict=False))  # then they hold, and become zeros
    assert any((now & ~then).any() for then, now in itertools.pairwise(masks))


def test_counts_follow_the_climb() -> None:
    """Full before `begin`, the cubic's count at each step, the target from `end` on and at the end; zeros are zeros."""
    run, regime, kept = run_of(20), Movement(begin="4it", end="12it", until="16it"), []
    trained(run, regime, lambda: kept.append(int(run.remembered("moved.mask.")["weight"].sum()) if run.remembered("moved.mask.") else 24))
    meant = [24 - round(24 * cubic(step, 4, 12, Fraction(0), Fraction(3, 4))) for step in range(16)]
    assert kept[:16] == meant
    assert run.masks.kept == 6 and not run.model.weight[~run.masks["weight"]].any()
    assert not run.remembered("moved.")


def test_negative_scores_rank_below_positive_ones() -> None:
    """The largest scores stay, not those of the largest size."""
    run, regime = run_of(), Movement(begin="0it", end="0it", until="20it")
    regime.start(run)
    run.memory["moved.score.weight"] = torch.linspace(-10, 1, 24).view(4, 6)
    regime.step(run, loss_of(run))
    assert run.memory["moved.mask.weight"].flatten().tolist() == [False] * 18 + [True] * 6


def test_the_climb_must_fit() -> None:
    """One sentence before the first step."""
    with pytest.raises(BadRequest, match="begin <= end <= until"):
        Movement(begin="0.5run", end="0.2run").start(run_of())


def test_what_was_pruned_stays_pruned() -> None:
    """A run that starts from masks ends inside them, with the target's count."""
    run = run_of()
    start = MaskSet({"weight": torch.arange(24).view(4, 6) % 2 == 0})
    run.masks = start
    trained(run, Movement())
    assert run.masks <= start and run.masks.kept == 6


def test_the_climb_starts_where_its_own_tensors_are() -> None:
    """A sparser tensor that is not pruned now does not count."""
    run = run_of()
    run.model.register_parameter("other", nn.Parameter(torch.zeros(100, 10, dtype=torch.float64)))
    run.masks = MaskSet({"other": torch.zeros(100, 10, dtype=torch.bool)})
    kept = []
    trained(run, Movement(begin="4it", end="12it", until="16it"), lambda: kept.append(run.remembered("moved.mask.")))
    meant = [24 - round(24 * cubic(step, 4, 12, Fraction(0), Fraction(3, 4))) for step in range(4, 16)]
    assert [int(masks["weight"].sum()) for masks in kept[4:16]] == meant
