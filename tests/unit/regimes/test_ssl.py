"""SSL: whole groups become exactly zero, more of them the larger lam is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.regimes.ssl import Ssl
from sparsify_cli.training import guard
from sparsify_cli.training.weight_groups import Groups
from tests.ends_alike import assert_ends_alike
from tests.two_gradients import copied, gradients_at, one_step, run_of, same, states, trained

STRONG = {"lam": 6.0, "groups": "filters"}
"""Enough for 12 steps of learning rate .05 to bring groups to zero."""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_penalty_it_is_training(optimizer):
    """At lam = 0 every state is that of dense training, nothing is masked, and it is said that nothing became zero."""
    run = run_of(optimizer=optimizer)
    found, dense = states(run, Ssl(lam=0)), states(run_of(optimizer=optimizer), Fixed())
    assert same(found, dense)
    assert not run.masks
    assert ["no group of ssl became zero" in event["text"] for event in run.events if event["event"] == "warning"] == [True]


def test_norms_fall_by_the_learning_rate_times_lam():
    """Where the loss has no gradient, each step takes lr * lam off the norm of every filter, with the rate of that step."""
    run, regime = run_of(optimizer="plain"), Ssl(lam=0.5, groups="filters", finetune="0run")
    first = copied(run)
    regime.start(run)
    for rate in (0.2, 0.1):
        run.optimizer.param_groups[0]["lr"] = rate
        regime.step(run, lambda: sum(weight.sum() for weight in run.model.parameters()) * 0)
        run.step += 1
    for name in ("0.weight", "4.weight"):
        expected = [max(0.0, length - 0.15) for length in first[name].double().norm(dim=1).tolist()]
        assert run.weights()[name].norm(dim=1).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(run.weights()["6.weight"], first["6.weight"])


def test_size_weighs_groups():
    """With size_power 1 a filter of n weights loses the root of n times as much: of 6 in the first layer, of 12 in the next."""
    lost = {}
    for power in (0, 1):
        run = run_of(optimizer="plain", lr=0.1)
        before = copied(run)
        Ssl(lam=0.1, groups="filters", size_power=power).step(run, lambda run=run: run.model[0].weight.sum() * 0)
        lost[power] = [float((before[name].norm(dim=1) - run.weights()[name].norm(dim=1)).mean()) for name in ("0.weight", "4.weight")]
    assert lost[0] == pytest.approx([0.01, 0.01], abs=1e-6)
    assert lost[1] == pytest.approx([0.01 * 6**0.5, 0.01 * 12**0.5], abs=1e-6)


def test_kinds_are_applied_in_turn():
    """Filters first, then channels of what is left, after the step on the loss."""
    run = run_of(optimizer="plain", lr=0.1)
    before = copied(run)
    slopes = gradients_at(run, before)
    one_step(run, Ssl(lam=1.0, groups="filters,channels"))
    stepped = before["4.weight"] - 0.1 * slopes["4.weight"]
    expected = Groups("", "channels").shrunk(Groups("", "filters").shrunk(stepped, 0.1), 0.1)
    assert torch.allclose(run.weights()["4.weight"], expected, atol=1e-7)


def test_the_subgradient_step_by_formula():
    """Plain SGD: w - lr * (dE/dW + lam * (w / |filter| + w / |channel|)), then exact zeros below the threshold."""
    run = run_of(optimizer="plain", lr=0.5)
    before = copied(run)
    slopes = gradients_at(run, before)
    one_step(run, Ssl(lam=0.1, variant="subgradient", threshold=0.05))
    weight = before["4.weight"]
    pull = weight / weight.norm(dim=1, keepdim=True) + weight / weight.norm(dim=0, keepdim=True)
    stepped = weight - 0.5 * (slopes["4.weight"] + 0.1 * pull)
    expected = torch.where(stepped.abs() < 0.05, 0, stepped)
    assert torch.allclose(run.weights()["4.weight"], expected, atol=1e-6)
    assert torch.equal(run.weights()["4.weight"] == 0, expected == 0) and bool((expected == 0).any())


@pytest.mark.parametrize("variant", ["proximal", "subgradient"])
def test_a_group_that_is_zero_makes_no_nan(variant):
    """Filters that are exactly zero from the start leave every weight finite: 0/0 is 0."""
    run = run_of()
    with torch.no_grad():
        run.model[4].weight[:3] = 0
    trained(run, Ssl(variant=variant, lam=0.1))
    assert all(bool(torch.isfinite(weight).all()) for weight in run.weights().values())


def test_zero_groups_are_exact_masked_and_more_with_lam():
    """The number of zero filters grows with lam; each is told, exactly zero, and False in the masks; the others are True."""
    counts = []
    for lam in (0.0, 0.5, 2.0, 4.0, 8.0):
        run = trained(run_of(), Ssl(lam=lam, groups="filters"))
        told = {event["layer"]: event for event in run.events if event["event"] == "zero groups"}
        zero = {name: (run.weights()[name] == 0).all(1) for name in ("0.weight", "4.weight", "6.weight")}
        assert {name: event["filters"] for name, event in told.items()} == {name: int(rows.sum()) for name, rows in zero.items()}
        assert not run.masks or all(torch.equal(run.masks[name], ~rows[:, None].expand_as(run.masks[name])) for name, rows in zero.items())
        counts.append(sum(int(rows.sum()) for rows in zero.values()))
    assert all(less <= more for less, more in pairwise(counts))
    assert counts[0] == 0 < counts[2] < counts[-1]
    assert told["4.weight"]["all_filters"] == 8 and told["0.weight"]["all_channels"] == 6


def test_fine_tuning_is_free_of_the_penalty_and_keeps_zero_groups():
    """For the last quarter masks hold; from there on it is training with those masks, to the bit."""
    found = states(run_of(), Ssl(**STRONG))
    assert [bool(state["masks"]) for state in found] == [False] * 9 + [True] * 3
    run = run_of()
    run.restore(found[9])
    fixed = trained(run, Fixed()).state()
    assert same(fixed["model"], found[-1]["model"]) and same(fixed["masks"], found[-1]["masks"])


def test_it_may_end_without_fine_tuning_or_early():
    """Masks come at the end when there is no fine-tuning, or when the run is over before it."""
    assert trained(run_of(), Ssl(**STRONG, finetune="0run")).masks.sparsity > 0
    run = trained(run_of(), Ssl(**{**STRONG, "lam": 30.0}), after=lambda run, _: setattr(run, "is_over", run.step == 5))
    assert run.step == 5 and run.masks.sparsity > 0


def test_what_was_pruned_stays_pruned():
    """From a checkpoint with half its weights pruned, those are zero after every step, and masked at the end."""
    start = run_of(pruned="0.5").masks
    run = trained(run_of(pruned="0.5"), Ssl(**STRONG), after=lambda run, _: _assert_zero(run, start))
    assert run.masks <= start and run.masks != start


def test_frozen_weights_are_neither_moved_nor_masked():
    """Weights of an embedded network keep their bits; the rest of their groups may vanish."""
    for options in ({}, {"variant": "subgradient", "threshold": 0.5}):
        run = trained(run_of(frozen=True), Ssl(**{**STRONG, "lam": 30.0, **options}))
        still, values = run.frozen["4.weight"]
        assert torch.equal(run.weights()["4.weight"][still], values)
        assert not run.masks or bool(run.masks["4.weight"][still].all())


def test_frozen_weights_take_no_part_in_norms():
    """Both operators see a group without its frozen weights."""
    run = run_of(frozen=True, optimizer="plain", lr=0.1)
    still = run.frozen["4.weight"][0]
    free = copied(run)["4.weight"].masked_fill(still, 0)
    Ssl(lam=1.0, groups="filters").step(run, lambda: run.model[4].weight.sum() * 0)
    expected = Groups("", "filters").shrunk(free, 0.1)
    assert torch.allclose(run.weights()["4.weight"][~still], expected[~still], atol=1e-7)
    run = run_of(frozen=True, optimizer="plain", lr=0.1)
    Ssl(lam=1.0, groups="filters", variant="subgradient").step(run, lambda: run.model[4].weight.sum() * 0)
    expected = free * (1 - 0.1 / free.norm(dim=1, keepdim=True))
    assert torch.allclose(run.weights()["4.weight"][~still], expected[~still], atol=1e-4)


def test_a_frozen_zero_stays_in_the_masks():
    """A weight that another network holds at 0 is not masked, also where all of its filter is zero."""
    run = run_of()
    with torch.no_grad():
        run.model[4].weight[2] = 0
    run.frozen = guard.freeze(run.weights(), {"4.weight": torch.arange(96).reshape(8, 12) == 24})
    trained(run, Ssl(groups="filters", lam=30.0))
    assert run.masks["4.weight"][2].tolist() == [True] + [False] * 11


@pytest.mark.parametrize("variant", ["proximal", "subgradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer, variant):
    """From the state after any step, before and in fine-tuning, the end is the same."""
    assert_ends_alike(lambda: run_of(optimizer=optimizer), Ssl(lam=4.0, variant=variant, threshold=0.02))


def test_options_are_read_from_text_or_lists():
    """Groups come as a recipe writes them, and go back the same."""
    regime = TypeAdapter(Ssl).validate_python({"groups": ["filters", "shapes"], "only": ["a*", "b*"], "lam": 1})
    assert (regime.groups, regime.only, regime.lam) == ("filters,shapes", "a*,b*", 1.0)
    assert TypeAdapter(Ssl).validate_python(TypeAdapter(Ssl).dump_python(regime, mode="json")) == regime


@pytest.mark.parametrize(
    "options",
    [
        {"groups": "rows"},
        {"groups": "filters,filters"},
        {"groups": ""},
        {"lam": -1},
        {"lam": float("nan")},
        {"threshold": -1},
        {"variant": "smooth"},
        {"size_power": 2},
        {"finetune": "later"},
    ],
)
def test_mistyped_options_are_refused(options):
    """Before anything is loaded."""
    with pytest.raises(BadRequest):
        Ssl(**options)


def test_runs_that_cannot_be_are_refused():
    """Nothing but fine-tuning, or no group that may vanish."""
    with pytest.raises(BadRequest, match="fine-tune 1run of 12 steps"):
        Ssl(finetune="1run").start(run_of())
    with pytest.raises(BadRequest, match="no filters that may vanish"):
        Ssl(groups="filters", only="6.*").start(run_of())
    Ssl(groups="filters", only="6.*", last=True).start(run_of())


def _assert_zero(run, masks):
    assert all(int(run.weights()[name][~mask].count_nonzero()) == 0 for name, mask in masks.items())
