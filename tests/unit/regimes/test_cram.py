"""CrAM: the published step, its limits, and that nothing of the compression stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sparsify_cli.criteria.random import Random
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.keep import top_k
from sparsify_cli.regimes.cram import Cram
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.sam import Sam
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from tests.two_gradients import (
    NAMES,
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
    """(3, 1) with goal (4, 2): g = (-1, -1), rho .5 leads to (2.5, .5), compressed (2.5, 0) with gradient (-1.5, -2), masked (-1.5, 0)."""
    assert moved(two_weights([3.0, 1.0], [4.0, 2.0]), Cram(rho=0.5)) == [3.15, 1.0]


def test_the_step_without_a_sparse_gradient_by_hand() -> None:
    """The same with the gradient of the weight that was dropped: the formula of the paper."""
    assert moved(two_weights([3.0, 1.0], [4.0, 2.0]), Cram(rho=0.5, sparse_grad=False)) == [3.15, 1.2]


def test_the_mask_is_chosen_after_the_step_up() -> None:
    """(1, .9) with goal (2, 0): g = (-1, .9), rho .5 leads to (.5, 1.35): the second stays, gradient (-2, 1.35), masked (0, 1.35)."""
    assert moved(two_weights([1.0, 0.9], [2.0, 0.0]), Cram(rho=0.5)) == [1.0, 0.765]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_perturbation_and_compression_it_is_ordinary_training(optimizer: str) -> None:
    """Rho = 0 and sparsity 0: bit for bit the regime fixed, with batch norm, dropout, momentum and decay."""
    plain = trained(run_of("0", optimizer=optimizer), Fixed()).state()
    assert same(trained(run_of("0", optimizer=optimizer), Cram(rho=0.0)).state(), plain)


@pytest.mark.parametrize("sparse_grad", [True, False])
def test_without_compression_it_is_sam_without_normalising(sparse_grad: bool) -> None:
    """Sparsity 0 and rho > 0: bit for bit."""
    plain = trained(run_of("0"), Sam(rho=0.3, normalise=False)).state()
    assert same(trained(run_of("0"), Cram(rho=0.3, sparse_grad=sparse_grad)).state(), plain)


def drop_smallest(weights: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """1 where one of the largest weights of `NAMES` is, over all layers; `count` are dropped."""
    flat = torch.cat([weights[name].abs().flatten() for name in NAMES])
    cut = flat.sort().values[count]
    return {name: (weight.abs() >= cut).to(weight) if name in NAMES else torch.ones_like(weight) for name, weight in weights.items()}


@pytest.mark.parametrize("sparse_grad", [True, False])
def test_the_gradient_is_that_of_the_formula(sparse_grad: bool) -> None:
    """On a network with 160 of 200 weights dropped: theta - lr M grad L(M (theta + rho g)), biases and norms perturbed as well."""
    run = run_of("0.8", optimizer="plain", lr=0.5)
    run.model.double()
    before = copied(run)
    here = gradients_at(run, before)
    away = {name: before[name] + 0.4 * here[name] for name in before}
    mask = drop_smallest(away, 160)
    there = gradients_at(run, {name: away[name] * mask[name] for name in away})
    one_step(run, Cram(rho=0.4, sparse_grad=sparse_grad))
    for name, weight in run.weights().items():
        gradient = there[name] * mask[name] if sparse_grad else there[name]
        assert torch.allclose(weight, before[name] - 0.5 * gradient, atol=1e-12)


def test_only_the_second_pass_is_compressed() -> None:
    """The first sees the weights as they are, the second exactly 160 of 200 zeros; the step starts where the weights were."""
    run = run_of("0.8", optimizer="plain", lr=0.0)
    before = copied(run)
    with seen_by_passes(run) as seen:
        one_step(run, Cram())
    assert len(seen) == 2
    assert Cram().passes(run) == (6.0, 0.0)  # a backward pass counts as two
    assert same(seen[0], before)
    assert sum(int((seen[1][name] == 0).sum()) for name in NAMES) == 160
    assert same(copied(run), before)
    assert not run.masks


def test_running_statistics_are_those_of_the_dense_network() -> None:
    """After a step, those that the ordinary step leaves."""
    run, plain = run_of(), run_of()
    one_step(run, Cram(rho=0.5))
    one_step(plain, Fixed())
    assert same(dict(run.model.named_buffers()), dict(plain.model.named_buffers()))


def test_the_loss_is_that_of_the_dense_network() -> None:
    """What a step returns is what the ordinary step returns; at the end of an epoch that at the compressed point is told too."""
    run, plain = run_of(), run_of()
    values = [(one_step(run, Cram()), one_step(plain, Fixed()))]
    assert torch.equal(*values[0])
    assert run.events == []
    run.step = 4
    value = one_step(run, Cram())
    (event,) = run.events
    assert event["loss"] == float(value) != event["compressed_loss"]
    assert event["compressed_sparsity"] == 0.8


def test_pruned_and_frozen_weights_stay() -> None:
    """From a network at 50 % towards 80 %: masks, zeros and frozen bits are the same in every pass and at the end."""
    run = run_of("0.8", pruned="0.5", frozen=True)
    masks, before = run.masks, copied(run)
    with seen_by_passes(run) as seen:
        trained(run, Cram(rho=0.5))
    still = STILL["4.weight"]
    for weights in [*seen, copied(run)]:
        assert torch.equal(weights["4.weight"][still], before["4.weight"][still])
    assert all((weights[name][~mask] == 0).all() for weights in seen[2:] for name, mask in masks.items())
    compressed = [sum(int((weights[name] == 0).sum()) for name in NAMES) for weights in seen[2:]]  # after two that try the data
    assert compressed == [100, 160] * 12
    assert run.masks == masks
    assert not torch.equal(run.weights()["4.weight"], before["4.weight"])


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_resumes_bit_for_bit(optimizer: str, every: int) -> None:
    """From the state after any step, also between two choices of masks."""
    check_resumes(lambda: run_of(optimizer=optimizer, pruned="0.3", frozen=True), Cram(every=every))


def test_what_is_pruned_stays_out_whatever_the_criterion() -> None:
    """Random scores do not know zeros: of 200 weights, 100 pruned, exactly 160 are zero in the second pass."""
    run = run_of("0.8", pruned="0.5")
    assert isinstance(run.sparsify, Sparsifier)
    run.sparsify = replace(run.sparsify, criterion=Random(seed=3))
    Cram().start(run)
    with seen_by_passes(run) as seen:
        one_step(run, Cram())
    assert sum(int((seen[1][name] == 0).sum()) for name in NAMES) == 160


def test_masks_are_chosen_as_often_as_asked() -> None:
    """With every = 3, at steps 0, 3, 6 and 9 of 12, and used in between."""
    run, chosen = run_of(), []
    inner = run.sparsify

    def counting(*args: object, **options: object) -> MaskSet:
        chosen.append(run.step)
        return inner(*args, **options)

    run.sparsify = counting
    trained(run, Cram(every=3))
    assert chosen == [0, 3, 6, 9]
    chosen.clear()
    again = run_of()
    inner, again.sparsify = again.sparsify, lambda *args, **options: counting(*args, **options)
    trained(again, Cram())
    assert len(chosen) == 12


def test_a_choice_by_movement_gets_what_training_gathered() -> None:
    """A criterion that ranks by movement sees one product of gradient and weight from the second step on."""
    run, known = run_of(), []

    class ByMovement:
        follows = ("4.weight",)

        def knowing(self, movement: Mapping[str, Tensor]) -> ByMovement:
            known.append(float(movement["4.weight"].abs().sum()))
            return self

        def __call__(self, weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
            return MaskSet({"4.weight": top_k(weights["4.weight"].abs().flatten(), 20).reshape(8, 12)})

    run.sparsify = ByMovement()
    trained(run, Cram())
    assert known[0] == 0
    assert all(value > 0 for value in known[1:])


def test_layers_that_the_compression_empties_are_told_of() -> None:
    """With two weights of 200 kept, one of three layers is empty: a warning, but not in an early epoch, and none at 50 %."""
    for sparsity, step, warned in (("0.99", 9, True), ("0.99", 4, False), ("0.5", 9, False)):
        run = run_of(sparsity)
        run.step = step
        one_step(run, Cram())
        warnings = [event["text"] for event in run.events if event["event"] == "warning"]
        assert bool(warnings) is warned
        assert all("keeps no weight" in text for text in warnings)


def test_a_run_without_a_compression_is_refused() -> None:
    """There is nothing to train for."""
    run = run_of()
    bare = Run(run.model, run.model, run.optimizer, run.backward, total=12, per_epoch=5)
    with pytest.raises(BadRequest, match="cram trains for a compression"):
        Cram().start(bare)


@pytest.mark.parametrize("options", [{"rho": -1.0}, {"rho": float("nan")}, {"every": 0}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    """Before anything is loaded."""
    with pytest.raises(BadRequest, match="cram cannot"):
        Cram(**options)
