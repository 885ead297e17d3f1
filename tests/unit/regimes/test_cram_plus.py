"""CrAM+: the step of CrAM with the gradient at the weights themselves added."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.cram import Cram
from sparsify_cli.regimes.cram_plus import CramPlus
from sparsify_cli.regimes.fixed import Fixed
from tests.two_gradients import (
    STILL,
    check_resumes,
    copied,
    gradients_at,
    moved,
    one_step,
    run_of,
    same,
    seen_by_passes,
    trained,
    two_weights,
)


def test_the_step_by_hand() -> None:
    """(3, 1) with goal (4, 2): (-1.5, 0) at the compressed point (2.5, 0) and (-1, -1) at the weights themselves."""
    assert moved(two_weights([3.0, 1.0], [4.0, 2.0]), CramPlus(rho=0.5)) == [3.25, 1.1]


def test_the_step_without_a_sparse_gradient_by_hand() -> None:
    """(-1.5, -2) + (-1, -1)."""
    assert moved(two_weights([3.0, 1.0], [4.0, 2.0]), CramPlus(rho=0.5, sparse_grad=False)) == [3.25, 1.3]


def test_without_perturbation_and_compression_the_gradient_counts_twice() -> None:
    """Rho = 0 and sparsity 0: bit for bit SGD without momentum and decay at twice the learning rate."""
    plain = trained(run_of("0", optimizer="plain", lr=0.1), Fixed()).state()["model"]
    assert same(trained(run_of("0", optimizer="plain", lr=0.05), CramPlus(rho=0.0)).state()["model"], plain)


def test_the_gradient_is_that_of_both_points() -> None:
    """The step is that of CrAM and the ordinary one together."""
    ends = []
    for regime in (CramPlus(rho=0.4), Cram(rho=0.4)):
        run = run_of("0.8", optimizer="plain", lr=0.5)
        run.model.double()
        before = copied(run)
        here = gradients_at(run, before)
        one_step(run, regime)
        ends.append(copied(run))
    both, there = ends
    assert all(torch.allclose(both[name], there[name] - 0.5 * here[name], atol=1e-12) for name in both)


def test_decay_is_counted_once() -> None:
    """Weight decay belongs to the optimizer: at a minimum for both points, only it moves the weight, by lr * decay * 2."""
    run = two_weights([2.0, 0.0], [2.0, 0.0])
    run.optimizer.param_groups[0]["weight_decay"] = 0.5
    assert moved(run, CramPlus()) == [1.9, 0.0]


def test_the_network_stays_dense() -> None:
    """Training for 80 % leaves no mask, and hardly a zero."""
    run = trained(run_of("0.8"), CramPlus())
    assert not run.masks
    assert sum(int((weight == 0).sum()) for weight in run.weights().values()) <= 1


def test_pruned_and_frozen_weights_stay() -> None:
    """The added gradient moves neither."""
    run = run_of("0.8", pruned="0.5", frozen=True)
    before = copied(run)
    with seen_by_passes(run) as seen:
        trained(run, CramPlus(rho=0.5))
    for weights in [*seen[2:], copied(run)]:  # the first two try the data
        assert all((weights[name][~mask] == 0).all() for name, mask in run.masks.items())
        assert torch.equal(weights["4.weight"][STILL["4.weight"]], before["4.weight"][STILL["4.weight"]])


def test_a_pattern_is_compressed_to() -> None:
    """Towards 2:4, the second pass sees at most two of every four inputs in the layers that can carry it."""
    run = run_of("0.4", pattern="2:4")
    with seen_by_passes(run) as seen:
        one_step(run, CramPlus())
    for name in ("4.weight", "6.weight"):
        assert int((seen[1][name].reshape(-1, 4) != 0).sum(1).max()) == 2
        assert int((seen[0][name].reshape(-1, 4) != 0).sum(1).min()) == 4


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_resumes_bit_for_bit(optimizer: str) -> None:
    """From the state after any step."""
    check_resumes(lambda: run_of(optimizer=optimizer, frozen=True), CramPlus(every=2))


@pytest.mark.parametrize("options", [{"rho": -1.0}, {"every": 0}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    """Before anything is loaded, by the regime's own name."""
    with pytest.raises(BadRequest, match="cram-plus cannot"):
        CramPlus(**options)
