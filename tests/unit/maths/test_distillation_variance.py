"""The bound on the noise of distilled gradients: closed forms, and the identity of linear models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.maths.distillation_variance import GradientMoments, Moments
from sparsify_cli.training.distillation_gradients import gradient_pairs
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples

GAMMA_MU = 0.05


def moments(g: Tensor, t: Tensor) -> GradientMoments:
    """Of rows of two matrices."""
    gathered = Moments()
    for a, b in zip(g, t, strict=True):
        gathered.add(a, b)
    return gathered.means()


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Correlated random gradients with different means."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return g + 0.3, 0.7 * g + 0.5 * torch.randn(40, 6, generator=generator, dtype=torch.float64) - 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_best_weight_minimises_the_bound(seed: int) -> None:
    """N(w), computed from the rows by its definition, is least at w*; there it is N(0) (1 - rho^2 / (1 + beta / (gamma mu)))."""
    g, t = drawn(seed)
    found = moments(g, t)

    def noise(w: float) -> float:
        pairs = (t.sum(0).square().sum() - t.square().sum()) / (len(t) * (len(t) - 1))  # of different rows: unbiased
        return float(w**2 / GAMMA_MU * pairs.clamp_min(0) + (g - w * t).square().sum(1).mean())

    best = found.best_weight(GAMMA_MU)
    assert found.noise(best, GAMMA_MU) == pytest.approx(noise(best))
    assert all(noise(best) <= noise(best + d) for d in (-0.1, -0.01, 0.01, 0.1))
    closed = 1 - found.correlation**2 / (1 + found.beta / GAMMA_MU)
    assert noise(best) / noise(0.0) == pytest.approx(closed) == pytest.approx(found.ratio(GAMMA_MU))


def test_the_variance_weight_is_the_regression_of_g_on_t() -> None:
    """cov(g, t) / var(t), summed over coordinates, minimises the variance of g - w t."""
    g, t = drawn(9)
    w = moments(g, t).variance_weight
    variance = [float((g - v * t).var(0).sum()) for v in (w - 0.05, w, w + 0.05)]
    assert variance[1] == min(variance) < variance[0]


def test_a_perfect_teacher() -> None:
    """T = g, whose true mean is zero: correlation and weight 1, no noise left, although 32 rows have a mean of their own."""
    g = torch.randn(32, 500, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = moments(g - g.mean(0), g - g.mean(0))
    assert (found.correlation, found.best_weight(GAMMA_MU)) == (pytest.approx(1), pytest.approx(1))
    assert found.ratio(GAMMA_MU) == pytest.approx(0, abs=1e-12)


def test_a_silent_teacher_and_no_decay() -> None:
    """A teacher without gradient gets no share; a biased one none either where nothing bounds the bias, and all noise is left."""
    g, t = drawn(2)
    assert moments(g, t + 3).ratio(0.0) == 1
    silent = moments(g, torch.zeros_like(g))
    assert (silent.correlation, silent.beta, silent.best_weight(GAMMA_MU), silent.ratio(GAMMA_MU)) == (0, 0, 0, 1)
    assert moments(g, t + 3).best_weight(0.0) == 0


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_bias(seed: int) -> None:
    """A perfect teacher seen in 32 noisy gradients with no common part: its share is 1 even where decay bounds next to nothing."""
    g = torch.randn(32, 2000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    g = torch.cat([g, -g])  # their sum is zero exactly
    assert moments(g, g).best_weight(2.5e-5) == pytest.approx(1)


def linear(seed: int) -> nn.Linear:
    """A softmax regression."""
    torch.manual_seed(seed)
    return nn.Linear(8, 4).double()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients_are_those_of_the_loss(temperature: float) -> None:
    """G - w t is the gradient of (1 - w) CE + w T^2 KL; for a linear model and T = 1, t is the teacher's own gradient, to 1e-10."""
    student, teacher = linear(0), linear(1)
    inputs = torch.randn(30, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    samples = Samples(inputs, inputs[:, :4].argmax(1), tuple(map(str, range(30))))
    ((g, t),) = gradient_pairs(student, teacher, samples, MaskSet(), temperature=temperature, batch=30, most=1, seed=0)
    w, taught = 0.3, teacher(inputs).detach()
    soft = (
        functional.kl_div((student(inputs) / temperature).log_softmax(1), (taught / temperature).softmax(1), reduction="none").sum(1).mean()
    )
    hard = functional.cross_entropy(student(inputs), samples.targets)
    slopes = torch.autograd.grad((1 - w) * hard + w * temperature**2 * soft, list(student.parameters()))
    assert torch.allclose(g - w * t, torch.cat([s.flatten() for s in slopes]), atol=1e-12)
    own = torch.autograd.grad(functional.cross_entropy(teacher(inputs), samples.targets), list(teacher.parameters()))
    assert torch.allclose(t, torch.cat([s.flatten() for s in own]), atol=1e-10) == (temperature == 1.0)


def test_masked_weights_do_not_count() -> None:
    """Gradients of weights that cannot move are zero in both."""
    student = linear(0)
    inputs = torch.randn(12, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    samples = Samples(inputs, inputs[:, :4].argmax(1), tuple(map(str, range(12))))
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:, 0] = True
    pairs = list(gradient_pairs(student, linear(1), samples, MaskSet({"weight": mask}), temperature=1.0, batch=5, most=2, seed=0))
    assert len(pairs) == 2
    for g, t in pairs:
        assert (g[:32].view(4, 8)[~mask] == 0).all() and (t[:32].view(4, 8)[~mask] == 0).all()
        assert (g[:32].view(4, 8)[mask] != 0).all()
