"""Two gradients a step: what the second pass shares with the first, and that nothing of it is left."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from sparsify_cli.errors import Diverged
from sparsify_cli.regimes.cram_plus import CramPlus
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.sam import Sam
from sparsify_cli.training import perturbed
from sparsify_cli.values.run import Run
from tests.two_gradients import copied, loss_on, one_step, run_of, same, seen_by_passes


def over(model: nn.Module) -> Run:
    """A run over any network, learning rate .1."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Run(model.train(), model, optimizer, lambda loss: loss.backward(), total=9, per_epoch=9, target=Fraction(0))


NORMS = {
    "batch1d": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4)),
    "batch2d": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()),
    "batch2d, plain average": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten()),
    "batch3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 1)), nn.BatchNorm3d(1), nn.Flatten(), nn.Linear(36, 4)),
    "instance": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Flatten()),
    "spectral": lambda: nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(36, 4))),
}


def images_loss(model: nn.Module) -> Tensor:
    """A loss on eight images of 6 x 6."""
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    return functional.cross_entropy(model(images), torch.arange(8) % 4)


@pytest.mark.parametrize("kind", NORMS)
def test_buffers_follow_the_first_pass_only(kind: str) -> None:
    """After a step every buffer is what an ordinary step leaves, for every norm that keeps something."""
    buffers = []
    for regime in (Fixed(), Sam(rho=0.5)):
        torch.manual_seed(0)
        run = over(NORMS[kind]())
        before = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
        regime.step(run, lambda run=run: images_loss(run.model))
        buffers.append(dict(run.model.named_buffers()))
    assert not same(before, buffers[0])
    assert same(buffers[0], buffers[1])


@pytest.mark.parametrize("kind", NORMS)
def test_without_a_perturbation_both_passes_are_one(kind: str) -> None:
    """At the same weights the second pass gives the gradient of the first, also where buffers change what a layer does."""
    torch.manual_seed(0)
    run = over(NORMS[kind]())
    here = perturbed.first_pass(run, lambda: images_loss(run.model))
    with perturbed.elsewhere(run, here):
        there = perturbed.second_pass(run, lambda: images_loss(run.model))
    assert torch.equal(here.loss, there.loss)
    assert same(here.gradients, there.gradients)


def test_dropout_is_the_same_in_both_passes() -> None:
    """Both passes draw the same numbers, another step draws others, and the generator ends where one pass leaves it."""
    drawn: list[Tensor] = []
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1))
    model[0].register_forward_hook(lambda _, __, out: drawn.append(out.detach().clone()))
    run, after = over(model), []
    for regime in (Sam(), Fixed()):
        torch.manual_seed(5)
        regime.step(run, lambda: model(torch.ones(3, 64)).sum())
        after.append(torch.get_rng_state())
    first, second, plain = drawn
    assert torch.equal(first, second)
    assert torch.equal(first, plain)
    assert torch.equal(*after)
    Sam().step(run, lambda: model(torch.ones(3, 64)).sum())
    assert not torch.equal(drawn[3], first)


def test_weights_come_back_to_the_bit() -> None:
    """Whatever happened to them elsewhere, tiny and huge values included."""
    run = run_of()
    with torch.no_grad():
        run.model[0].weight[0, :4] = torch.tensor([1e-42, -0.0, 3e38, 1 / 3])
    before = copied(run)
    here = perturbed.first_pass(run, loss_on(run))
    with perturbed.elsewhere(run, here):
        perturbed.move(run, here.gradients, 1e8)
        assert not same(copied(run), before)
    assert same({n: w.view(torch.int32) for n, w in copied(run).items()}, {n: w.view(torch.int32) for n, w in before.items()})


@pytest.mark.parametrize("regime", [Sam(rho=1.0), CramPlus(rho=1.0)])
def test_a_second_pass_that_fails_leaves_everything(regime: Sam | CramPlus) -> None:
    """When the loss elsewhere is not finite, weights and optimizer are those before the step, and the mask set is empty."""
    run = run_of()
    one_step(run, regime)
    before, momentum, calls = copied(run), [s["momentum_buffer"].clone() for s in run.optimizer.state.values()], []

    def loss() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise Diverged("The loss is nan.", "")
        return loss_on(run)()

    with pytest.raises(Diverged):
        regime.step(run, loss)
    assert len(calls) == 2
    assert same(copied(run), before)
    assert same([s["momentum_buffer"] for s in run.optimizer.state.values()], momentum)
    assert not run.masks


def test_parameters_without_a_gradient_are_left_alone() -> None:
    """A frozen layer is neither moved elsewhere nor stepped on, although decay would shrink it."""
    run = run_of()
    run.model[0].requires_grad_(False)
    before = copied(run)
    with seen_by_passes(run) as seen:
        one_step(run, Sam(rho=0.5))
    for name in ("0.weight", "0.bias"):
        assert all(torch.equal(weights[name], before[name]) for weights in [*seen, copied(run)])
    assert not torch.equal(seen[1]["4.weight"], before["4.weight"])


def test_batches_in_parts_perturb_by_the_whole_gradient() -> None:
    """A loss that comes in two parts is summed in both passes: the step is that of the whole batch, up to rounding."""

    class Halves:
        def __init__(self, model: nn.Module) -> None:
            data = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
            self.parts = [lambda rows=rows: model(data[rows]).square().mean() / 2 for rows in (slice(0, 4), slice(4, 8))]
            self.whole = lambda: model(data).square().mean()

        def __call__(self) -> Tensor:
            return self.whole()

    ends = []
    for in_parts in (True, False):
        torch.manual_seed(0)
        run = over(nn.Linear(6, 3))
        halves = Halves(run.model)
        Sam(rho=0.5).step(run, halves if in_parts else halves.whole)
        ends.append(copied(run))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-7) for name in ends[0])
