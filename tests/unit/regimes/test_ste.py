"""STE: the network computes with masked weights, and all weights learn."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.ste import Ste
from sparsify_cli.values.run import Run
from tests.ends_alike import assert_ends_alike
from tests.two_gradients import copied, gradients_at, one_step, run_of, same, seen_by_passes, states, trained


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_sparsity_zero_is_ordinary_training_bit_for_bit(optimizer):
    """With every weight kept, each step is that of dense training: weights, batch norm and momentum."""
    through, dense = states(run_of("0", optimizer=optimizer), Ste()), states(run_of("0", optimizer=optimizer), Fixed())
    assert len(through) == 12
    assert all(same(a[part], b[part]) for a, b in zip(through, dense, strict=True) for part in ("model", "optimizer", "masks"))


def test_the_network_sees_masked_weights_and_all_weights_step():
    """One plain SGD step: forward at W * mask, then W - lr * dL/dW~ for every weight, dropped or not."""
    run = run_of(optimizer="plain", lr=0.5)
    before, masks = copied(run), run.sparsify(run.weights(), run.target)
    slopes = gradients_at(run, masks.apply(before))
    Ste().start(run)
    with seen_by_passes(run) as seen:
        one_step(run, Ste())
    assert same(seen, [masks.apply(before)])
    assert all(torch.equal(weight, before[name] - 0.5 * slopes[name]) for name, weight in run.weights().items())
    dropped = {name: ~mask for name, mask in masks.items()}
    assert all(bool(slopes[name][mask].any()) for name, mask in dropped.items())


def test_batch_norm_sees_the_sparse_network():
    """After a step the running mean is a tenth of the mean that the masked first layer gives."""
    run = run_of(optimizer="plain", lr=0.1)
    masks = run.sparsify(run.weights(), run.target)
    outputs = []
    run.model[0].register_forward_hook(lambda module, inputs, output: outputs.append(inputs[0]))
    expected_at = masks.apply(copied(run))
    Ste().start(run)
    one_step(run, Ste())
    means = (outputs[0] @ expected_at["0.weight"].T + expected_at["0.bias"]).mean(0) / 10
    assert torch.allclose(run.model[1].running_mean, means, atol=1e-6)


def test_a_loss_that_fails_leaves_every_weight_as_it_was():
    """When the loss is refused in the middle of a step, the dense weights are back to the bit."""
    run = run_of()
    before = copied(run)

    def fails():
        assert int((run.model[0].weight == 0).sum()) > 0
        raise BadRequest("The loss is nan.")

    with pytest.raises(BadRequest, match="nan"):
        Ste().step(run, fails)
    assert same(copied(run), before)


def test_masks_hold_at_the_end_and_the_run_is_dense_before():
    """Until the end no mask holds; then exactly 160 of 200 weights are zero, by the final magnitudes."""
    before_the_end = []
    run = trained(run_of(), Ste(), after=lambda run, _: before_the_end.append((len(run.masks), copied(run))))
    last = before_the_end[-1][1]
    assert [count for count, _ in before_the_end] == [0] * 12
    assert run.masks == run.sparsify(last, Fraction(4, 5)) and run.masks.kept == 40
    assert same(dict(run.weights()), run.masks.apply(last))
    assert not [key for key in run.memory if key.startswith("straight")]


def test_masks_may_hold_earlier():
    """With until = 0.5run the masks of the weights after six steps hold from the seventh on, weights and momentum included."""
    found = states(run_of(), Ste(until="0.5run"))
    assert [len(state["masks"]) for state in found] == [0] * 6 + [3] * 6
    assert all(same(state["masks"], found[6]["masks"]) for state in found[6:])
    for state in found[6:]:
        assert all(int(state["model"][name][~mask].count_nonzero()) == 0 for name, mask in state["masks"].items())


def test_a_run_that_ends_early_is_sparse():
    """A run over after 4 of 12 steps ends with the masks it should have, whatever `until` says."""

    def over(run: Run, value: torch.Tensor) -> None:
        run.is_over = run.step == 4

    for until in ("1run", "0.5run"):
        run = trained(run_of(), Ste(until=until), after=over)
        assert (run.step, run.masks.kept) == (4, 40)


def test_what_was_pruned_stays_pruned():
    """From a checkpoint with half its weights pruned, those are zero after every step and at the end."""
    start = run_of(pruned="0.5").masks
    run = trained(run_of(pruned="0.5"), Ste(), after=lambda run, _: _assert_zero(run, start))
    assert run.masks <= start and run.masks.kept == 40


def test_a_pattern_holds():
    """With 2:4 along the inputs of the last two layers, every group of four ends with at most two weights."""
    run = run_of("0.5", pattern="2:4")
    run.sparsify = replace(run.sparsify, names=("4.weight", "6.weight"))
    trained(run, Ste())
    assert all(bool((mask.reshape(-1, 4).sum(1) == 2).all()) for mask in run.masks.values())
    assert set(run.masks) == {"4.weight", "6.weight"}


def test_frozen_weights_are_neither_moved_nor_masked():
    """Weights of an embedded network keep their bits through every step, and are kept by the masks."""
    fresh = run_of(frozen=True)
    still, values = fresh.frozen["4.weight"]
    run = trained(run_of(frozen=True), Ste(), after=lambda run, _: _assert_still(run, still, values))
    _assert_still(run, still, values)
    assert bool(run.masks["4.weight"][still].all())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer):
    """From the state after any step, before and after the masks hold, the end is the same."""
    assert_ends_alike(lambda: run_of(optimizer=optimizer, frozen=True), Ste(until="0.7run", sad_every="2it"))


def test_it_needs_a_target():
    """Without a sparsity or a pattern there is nothing to mask."""
    run = run_of()
    run.sparsify = None
    with pytest.raises(BadRequest, match="no target"):
        one_step(run, Ste())


@pytest.mark.parametrize("options", [{"until": "soon"}, {"sad_every": "3"}])
def test_mistyped_options_are_refused(options):
    """Before anything is loaded."""
    with pytest.raises(BadRequest):
        Ste(**options)


def _assert_zero(run, masks):
    assert all(int(run.weights()[name][~mask].count_nonzero()) == 0 for name, mask in masks.items())


def _assert_still(run, still, values):
    assert torch.equal(run.weights()["4.weight"][still], values)
