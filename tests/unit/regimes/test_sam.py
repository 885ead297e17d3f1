"""Sharpness-aware minimisation: the published step, and what it becomes without a perturbation."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.sam import Sam
from tests.two_gradients import (
    STILL,
    check_resumes,
    copied,
    gradients_at,
    loss_on,
    moved,
    one_step,
    run_of,
    same,
    seen_by_passes,
    trained,
    two_weights,
)


def test_the_step_by_hand() -> None:
    """At (3, 4) with goal 0: |g| = 5, rho .5 leads to (3.3, 4.4), whose gradient times .1 is stepped from (3, 4)."""
    assert moved(two_weights([3.0, 4.0], [0.0, 0.0]), Sam(rho=0.5)) == [2.67, 3.56]


def test_the_step_without_normalising_by_hand() -> None:
    """The same with rho g: (4.5, 6)."""
    assert moved(two_weights([3.0, 4.0], [0.0, 0.0]), Sam(rho=0.5, normalise=False)) == [2.55, 3.4]


def test_no_gradient_moves_nothing() -> None:
    """At the minimum the norm is zero, and nothing is divided by it."""
    assert moved(two_weights([3.0, 4.0], [3.0, 4.0]), Sam()) == [3.0, 4.0]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rho_zero_is_ordinary_training(optimizer: str, normalise: bool) -> None:
    """Bit for bit the regime fixed, with batch norm and dropout, from a sparse start."""
    plain = trained(run_of(optimizer=optimizer, pruned="0.5"), Fixed()).state()
    assert same(trained(run_of(optimizer=optimizer, pruned="0.5"), Sam(rho=0.0, normalise=normalise)).state(), plain)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_gradient_is_that_of_the_formula(normalise: bool) -> None:
    """On a network: the second pass sees theta + rho g / |g|, and the step from theta goes along the gradient there."""
    run = run_of(optimizer="plain", lr=0.5)
    run.model.double()
    before = copied(run)
    here = gradients_at(run, before)
    length = torch.cat([g.flatten() for g in here.values()]).norm() if normalise else 1.0
    there = gradients_at(run, {name: before[name] + 0.3 * here[name] / length for name in before})
    one_step(run, Sam(rho=0.3, normalise=normalise))
    assert all(torch.allclose(weight, before[name] - 0.5 * there[name], atol=1e-12) for name, weight in run.weights().items())


def test_the_perturbation_has_length_rho() -> None:
    """Over all parameters that may move together; masked weights stay zero in both passes, frozen ones what they are."""
    run = run_of(pruned="0.5", frozen=True)
    Sam().start(run)
    before = copied(run)
    with seen_by_passes(run) as seen:
        one_step(run, Sam(rho=0.2))
    assert same(seen[0], before)
    away = torch.cat([(seen[1][name] - before[name]).flatten() for name in before])
    assert float(away.norm()) == pytest.approx(0.2, rel=1e-5)
    for weights in [*seen, copied(run)]:
        assert all((weights[name][~mask] == 0).all() for name, mask in run.masks.items())
        assert torch.equal(weights["4.weight"][STILL["4.weight"]], before["4.weight"][STILL["4.weight"]])


def test_the_loss_is_that_of_the_weights_themselves() -> None:
    """What a step returns is what the ordinary step returns."""
    run, plain = run_of(), run_of()
    assert torch.equal(one_step(run, Sam(rho=1.0)), one_step(plain, Fixed()))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_resumes_bit_for_bit(optimizer: str) -> None:
    """From the state after any step."""
    check_resumes(lambda: run_of(optimizer=optimizer, pruned="0.5", frozen=True), Sam())


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_a_senseless_rho_is_refused(rho: float) -> None:
    """Before anything is loaded."""
    with pytest.raises(BadRequest, match="sam cannot perturb by rho"):
        Sam(rho=rho)


def test_two_passes_a_step() -> None:
    """Not more: the time is that of two, and so are the multiply-adds that are told, six forward passes."""
    run = run_of()
    with seen_by_passes(run) as seen:
        Sam().step(run, loss_on(run))
    assert len(seen) == 2
    assert Sam().passes(run) == (6.0, 0.0)
