"""float16: gradients are those of the loss, overflow repeats the pass, small ones survive, and two-gradient regimes see them unscaled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import Diverged
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.sam import Sam
from sparsify_cli.training import guard, loss_scale
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.values.run import Run

INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(16) % 3


def run_of(precision: str, *, lr: float = 0.1) -> Run:
    """A perceptron with batch norm and dropout, on the CPU."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    machine = engine("cpu", precision)
    forward, optimizer = setup(machine, model, lambda m: torch.optim.SGD(m.parameters(), lr=lr, momentum=0.9))
    run = Run(model, forward, optimizer, machine.backward, total=10, per_epoch=5)
    if precision == "16-mixed":
        loss_scale.begin(run)
    return run


def loss_of(run: Run, times: float = 1.0) -> Callable[[], Tensor]:
    """Cross-entropy of all samples."""
    return lambda: times * nn.functional.cross_entropy(run.forward(INPUTS), TARGETS)


def gradients(run: Run) -> dict[str, Tensor]:
    """Copies."""
    return {name: parameter.grad.clone() for name, parameter in run.model.named_parameters() if parameter.grad is not None}


def test_gradients_are_those_of_the_loss() -> None:
    """Within float16's rounding of those in float32; the loss is not scaled; weights and gradients are float32."""
    half, whole = run_of("16-mixed"), run_of("32-true")
    values = []
    for run in (half, whole):
        torch.manual_seed(4)
        values.append(float(guard.gradients(run, loss_of(run))))
    assert values[0] == pytest.approx(values[1], rel=5e-3)
    for name, gradient in gradients(half).items():
        other = gradients(whole)[name]
        assert gradient.dtype == torch.float32 and (gradient - other).norm() <= 0.02 * other.norm() + 1e-4, (
            name
        )  # a bias before batch norm has none


def test_overflow_repeats_the_pass_at_half_the_scale() -> None:
    """Gradients, loss, buffers and later random numbers are those of a run that began with the scale it ended at."""
    run = run_of("16-mixed")
    torch.manual_seed(4)
    value = guard.gradients(run, loss_of(run, times=3e3))
    later = torch.rand(3)
    ended = float(run.memory[loss_scale.SCALE])
    assert ended < loss_scale.START
    other = run_of("16-mixed")
    other.memory[loss_scale.SCALE] = torch.tensor(ended, dtype=torch.float64)
    torch.manual_seed(4)
    assert torch.equal(guard.gradients(other, loss_of(other, times=3e3)), value)
    assert torch.equal(torch.rand(3), later)
    assert all(torch.equal(gradient, gradients(other)[name]) for name, gradient in gradients(run).items())
    assert all(torch.equal(a, b) for a, b in zip(run.model.buffers(), other.model.buffers(), strict=True))
    assert int(run.model[1].num_batches_tracked) == 1


def test_small_gradients_survive() -> None:
    """A loss of 1e-7 has gradients that float16 alone would lose."""
    run, plain = run_of("16-mixed"), run_of("16-mixed")
    plain.memory.clear()
    for one in (run, plain):
        torch.manual_seed(4)
        guard.gradients(one, loss_of(one, times=1e-7))
    assert not any(gradient[gradient != 0].numel() for name, gradient in gradients(plain).items() if name == "0.weight")
    assert gradients(run)["0.weight"].count_nonzero() > 20


def test_the_scale_grows_again() -> None:
    """After 2,000 passes without overflow, up to its bound."""
    run = run_of("16-mixed")
    run.memory |= {loss_scale.SCALE: torch.tensor(2.0, dtype=torch.float64), loss_scale.SINCE: torch.tensor(1999)}
    guard.gradients(run, loss_of(run))
    assert float(run.memory[loss_scale.SCALE]) == 4 and int(run.memory[loss_scale.SINCE]) == 0
    guard.gradients(run, loss_of(run))
    assert float(run.memory[loss_scale.SCALE]) == 4 and int(run.memory[loss_scale.SINCE]) == 1


def test_gradients_that_are_never_finite_stop_the_run() -> None:
    """One sentence; the loss itself was finite."""
    run = run_of("16-mixed")

    def loss() -> Tensor:
        return (
            torch.where(run.model[0].weight.sum() > -1e9, run.model[0].weight.sum().abs().pow(0.5) * 0, 0)
            + (run.model[0].weight * 0).sum().sqrt()
        )

    with pytest.raises(Diverged, match="however small"):
        guard.gradients(run, loss)


@pytest.mark.parametrize("regime", [Fixed(), Sam()])
def test_steps_follow_those_of_float32(regime: Regime) -> None:
    """Five steps with clipping: weights within float16's rounding, also where a step takes two gradients, and with a first overflow."""
    ends = []
    for precision in ("16-mixed", "32-true"):
        run = run_of(precision, lr=0.05)
        run.clip = 1.0
        if precision == "16-mixed":
            run.memory[loss_scale.SCALE] = torch.tensor(2.0**24, dtype=torch.float64)  # overflows at first
        regime.start(run)
        for _ in range(5):
            torch.manual_seed(run.step)
            regime.step(run, loss_of(run))
            run.step += 1
        ends.append(copy.deepcopy(run.weights()))
        assert precision == "32-true" or float(run.memory[loss_scale.SCALE]) < 2.0**24
    for name, weight in ends[0].items():
        assert (weight - ends[1][name]).norm() <= 0.01 * ends[1][name].norm() + 1e-3, name


def test_resumed_with_its_scale() -> None:
    """Stopped after an overflow and resumed in new objects: the same bits, and the scale that was found."""

    def go(run: Run, regime: Regime, until: int) -> None:
        while run.step < until:
            torch.manual_seed(run.step)
            regime.step(run, loss_of(run, times=3e3))
            run.step += 1

    whole, stopped, again = (run_of("16-mixed", lr=1e-4) for _ in range(3))
    regime = Sam()
    go(whole, regime, 6)
    go(stopped, regime, 3)
    again.restore(copy.deepcopy(stopped.state()))
    go(again, regime, 6)
    assert float(again.memory[loss_scale.SCALE]) == float(whole.memory[loss_scale.SCALE]) < loss_scale.START
    assert all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
