"""Drop and grow: the invariants that RigL, SET and SNFS share, step by step."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest, Diverged
from sparsify_cli.regimes.rigl import Rigl
from sparsify_cli.regimes.set import Set
from sparsify_cli.regimes.snfs import Snfs
from sparsify_cli.training.drop_and_grow import drop, fraction, grow
from sparsify_cli.values.mask_set import MaskSet
from tests.sparse_runs import KEPT, STILL, choose, resumed, run_of, same, states, trained

EVERY, END = 5, 36  # of 48 steps
KINDS = [Rigl, Set, Snfs]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
each_optimizer = pytest.mark.parametrize("optimizer", ["sgd", "adamw"])


@functools.cache
def history(kind, optimizer="sgd", **options):
    """States after every step of a run that updates its masks at 5, 10, ... 35 of 48."""
    return states(run_of(optimizer=optimizer), kind(every=f"{EVERY}it", **options))


def moments(state, index):
    """What the optimizer remembers of a parameter, tensors of its shape."""
    found = state["optimizer"]["state"].get(index, {})
    return [value for key, value in found.items() if key != "step" and isinstance(value, Tensor)]


@pytest.mark.parametrize(("step", "expected"), [(0, 0.3), (25, 0.25606601717798213), (50, 0.15), (100, 0.0)])
def test_the_cosine(step, expected):
    """alpha(t) of alpha = .3 at 0, T_end/4, T_end/2 and T_end: .3, .15 (1 + 1/sqrt 2), .15 and exactly 0."""
    assert fraction(step, alpha=0.3, end=100) == pytest.approx(expected, abs=1e-15)
    assert fraction(100, alpha=0.3, end=100) == 0


def test_drop_by_hand():
    """Of five active weights the int(.5 * 5) = 2 smallest go, but not the frozen one; then the three keep is one short of four."""
    magnitude, mask = torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0, 5.0]), torch.tensor([True, True, False, True, True, True])
    nothing = torch.zeros(6, dtype=torch.bool)
    assert drop(magnitude, mask, nothing, 0.5).tolist() == [False, False, False, True, True, True]
    still = torch.tensor([True, False, False, False, False, False])
    assert drop(magnitude, mask, still, 0.5).tolist() == [True, False, False, False, True, True]
    assert drop(magnitude, mask, mask, 1.0).tolist() == mask.tolist()


def test_grow_by_hand():
    """The best two outside what is kept, a position just dropped among the candidates."""
    kept = torch.tensor([True, False, False, False])
    assert grow(torch.tensor([9.0, 1.0, 3.0, 2.0]), kept, 2).tolist() == [True, False, True, True]


@each_kind
@each_optimizer
def test_invariants_of_every_step(kind, optimizer):
    """Counts exact (in total for SNFS); masked weights and their moments zero; frozen bits kept; masks change at updates only."""
    run = run_of(optimizer=optimizer)
    frozen, names = run.model[0].weight[STILL["0.weight"]].detach().clone(), [name for name, _ in run.model.named_parameters()]
    found, before = states(run, kind(every=f"{EVERY}it")), None
    for state in found:
        masks = state["masks"]
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        assert sum(counts.values()) == 64 and (kind is Snfs or counts == KEPT)
        for name, mask in masks.items():
            assert all(not tensor[~mask].any() for tensor in (state["model"][name], *moments(state, names.index(name))))
        assert torch.equal(state["model"]["0.weight"][STILL["0.weight"]], frozen)
        assert bool(masks["0.weight"][STILL["0.weight"]].all())
        updated = state["step"] - 1 in range(EVERY, END + 1, EVERY)
        assert before is None or updated or same(before, masks)
        before = masks


@each_kind
@each_optimizer
def test_an_update_replaces_the_step(kind, optimizer):
    """At steps 5, 10, ... 35: weights that stay do not move, the dropped are 0, the new are 0 without momentum, biases stand still."""
    found = history(kind, optimizer)
    moved = 0
    for step in range(EVERY, END + 1, EVERY):
        before, after = found[step - 1], found[step]  # found[i] is after step i
        assert same(before["model"]["0.bias"], after["model"]["0.bias"])
        for index, name in ((0, "0.weight"), (2, "2.weight")):
            old, new = before["masks"][name], after["masks"][name]
            assert torch.equal(after["model"][name], before["model"][name] * new)
            for earlier, later in zip(moments(before, index), moments(after, index), strict=True):
                assert torch.equal(later, earlier * new)
            assert not after["model"][name][new & ~old].any()
            moved += int((new & ~old).sum())
    assert moved > 10
    assert not same(found[-2]["model"]["0.bias"], found[-1]["model"]["0.bias"])


@each_kind
def test_survivors_are_the_largest(kind):
    """At the first update what a layer loses is among its int(alpha(5) n) smallest free weights."""
    found = history(kind, noise=0.0)
    share = 0.15 * (1 + torch.cos(torch.tensor(torch.pi * EVERY / END, dtype=torch.float64)).item())
    for name, active in KEPT.items():
        before, old, new = found[EVERY - 1]["model"][name].abs(), found[EVERY - 1]["masks"][name], found[EVERY]["masks"][name]
        gone = old & ~new
        assert int(gone.sum()) <= int(share * active)
        order = before.masked_fill(~old, torch.inf).masked_fill(STILL.get(name, torch.zeros_like(old)), torch.inf).flatten().argsort()
        assert set(gone.flatten().nonzero().flatten().tolist()) <= set(order[: int(share * active)].tolist())


@each_kind
def test_after_the_end_masks_stay(kind):
    """The last possible change is at step 35 of 48; before step 5 nothing changes either."""
    found = history(kind)
    assert all(same(found[0]["masks"], state["masks"]) for state in found[:EVERY])
    assert all(same(found[35]["masks"], state["masks"]) for state in found[36:])
    assert not same(found[0]["masks"], found[-1]["masks"])


@each_kind
@each_optimizer
@pytest.mark.parametrize("step", [5, 6, 36])
def test_resume_is_exact(kind, optimizer, step):
    """From the state after any step, also just before and after an update, the run ends with the same bits."""
    found = history(kind, optimizer)
    last = resumed(run_of(optimizer=optimizer), kind(every=f"{EVERY}it"), found[step - 1])
    del last["rng"]
    assert same({key: value for key, value in found[-1].items() if key != "rng"}, last)


@each_kind
def test_equal_runs_have_equal_masks(kind):
    """The same seed gives the same masks, whatever else draws random numbers; another seed gives others."""
    first, disturbed = trained(run_of(), kind()), trained(run_of(), kind(), after=lambda *_: torch.rand(3))
    assert first.masks == disturbed.masks
    assert first.masks != trained(run_of(seed=1), kind()).masks


@each_kind
def test_masks_that_hold_the_sparsity_are_the_first(kind):
    """A pruned checkpoint starts from its own masks, also with random ones asked for, and its weights may come back."""
    run = run_of()
    run.masks = given = choose(run.weights(), run.target)
    kind().start(run)
    assert run.masks == given
    assert trained(run, kind()).masks != given


@each_kind
def test_random_and_chosen_starts(kind):
    """Random: other positions, counts and frozen weights as chosen. Chosen: those of the criterion."""
    chosen, random = run_of(), run_of()
    kind(initial="chosen").start(chosen)
    kind().start(random)
    assert chosen.masks == choose(run_of().weights(), chosen.target)
    assert chosen.masks != random.masks
    assert {name: int(mask.sum()) for name, mask in random.masks.items()} == KEPT
    assert bool(random.masks["0.weight"][STILL["0.weight"]].all())


def test_a_pruned_tensor_that_is_left_out_keeps_its_mask():
    """A tensor that was pruned before and is none of the recipe's is neither dropped from nor grown in."""

    def first_only(weights, sparsity, *, within=None):
        chosen = {"0.weight": choose(weights, sparsity, within=within)["0.weight"]}
        return MaskSet({**(within or {}), **chosen})

    run = run_of(sparsify=first_only)
    run.masks = given = choose(run.weights(), run.target)
    trained(run, Rigl())
    assert torch.equal(run.masks["2.weight"], given["2.weight"])
    assert not torch.equal(run.masks["0.weight"], given["0.weight"])


def test_what_is_told():
    """The first masks, the schedule, a warning that dT is shorter than the paper's, then each update with its share of new weights."""
    run = trained(run_of(), Rigl())
    kinds = [event["event"] for event in run.events]
    assert kinds == ["start", "schedule", "warning", *["regrow"] * 9]
    assert [event["step"] for event in run.events[3:]] == list(range(4, 37, 4))
    assert run.events[1]["every"] == 4 and run.events[1]["end"] == 36
    assert 0 < run.events[3]["mask_change"] <= 0.3
    assert run.events[0]["sparsity"] == pytest.approx(0.68)


@pytest.mark.parametrize(("total", "every"), [(4000, 100), (1000, 100), (999, 24), (400, 10), (48, 4)])
def test_the_default_interval(total, every):
    """100 steps; a fortieth of runs shorter than 1,000, and at least 4. What a person writes is taken as it is."""
    assert Rigl().window(run_of(total)) == (every, round(total * 0.75))
    assert Rigl(every="60it").window(run_of(400))[0] == 60
    assert Rigl(every="0.1run", end="0.5run").window(run_of(400)) == (40, 200)


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0.0}, {"alpha": 1.5}, {"alpha": float("nan")}, {"noise": -1.0}, {"every": "5"}, {"end": "late"}, {"initial": "dense"}],
)
@each_kind
def test_mistyped_options_are_refused(kind, options):
    """Before anything is loaded."""
    with pytest.raises(BadRequest):
        kind(**options)


@pytest.mark.parametrize(("total", "options"), [(5, {}), (48, {"every": "36it"}), (48, {"every": "0it"}), (48, {"end": "49it"})])
def test_a_schedule_without_an_update_is_refused(total, options):
    """Too few steps, an interval as long as the whole window or of no step, an end after the run."""
    with pytest.raises(BadRequest, match="too few for rigl"):
        Rigl(**options).start(run_of(total))


def test_gradients_that_are_not_finite_end_the_run():
    """Growth by a gradient that overflowed is refused with the layer and the step."""
    run = run_of(frozen=False)
    Rigl().start(run)
    run.step = 4
    with pytest.raises(Diverged, match=r"gradient of 0.weight is not finite at step 5 of 48"):
        Rigl().step(run, lambda: run.model[0].weight.sum() * torch.inf)


def test_the_update_sees_the_gradient_without_the_mask():
    """Growth looks at what the gradient is before masking: with one missing weight of non-zero gradient, that one grows."""
    run = run_of(frozen=False, optimizer="sgd")
    Rigl(every="4it", initial="chosen").start(run)
    run.step, weight = 4, run.model[2].weight
    missing = int((~run.masks["2.weight"]).flatten().nonzero()[0])
    Rigl(every="4it").step(run, lambda: weight.flatten()[missing] * 1.0)
    assert bool(run.masks["2.weight"].flatten()[missing])


def test_a_trained_network_does_not_start_at_random() -> None:
    """By default a trained checkpoint keeps the weights that the criterion ranks highest; a fresh network starts at random."""
    for is_trained in (True, False):
        run = run_of()
        run.is_trained = is_trained
        chosen = choose(run.weights(), run.target)
        Rigl(every="4it").start(run)
        assert (run.masks == chosen) == is_trained


def test_what_a_step_computes() -> None:
    """RigL's updates need one dense gradient, SET's none, SNFS's every step does."""
    run = run_of()
    regimes = {Rigl: [(3, 0), (2, 1), (3, 0)], Set: [(3, 0)] * 3, Snfs: [(2, 1)] * 3}
    for kind, meant in regimes.items():
        found = []
        for run.step in (0, 4, 5):
            found.append(kind(every="4it").passes(run))
        assert found == meant
