"""AC/DC: what happens where phases change, and the dense co-model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.acdc import Acdc
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

TWENTY = Acdc(warmup="4it", sparse="3it", dense="3it", last_dense="3it", last_sparse="4it")
"""Of 20 steps: dense 0-4, sparse 4-7, dense 7-10, sparse 10-13, dense 13-16, sparse 16-20."""


def largest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Magnitude over the one matrix."""
    assert within is None, "masks are chosen anew"
    score = weights["weight"].abs().flatten()
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[score.argsort(stable=True)[: round(score.numel() * sparsity)]] = False
    return MaskSet({"weight": mask.reshape(weights["weight"].shape)})


def run_of(make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, total: int = 20, **options: float) -> Run:
    """A linear layer of 24 weights."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = make(model.parameters(), **({"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01} | options))
    return Run(model, model, optimizer, lambda loss: loss.backward(), total, 5, sparsify=largest, target=Fraction(3, 4))


def loss_of(run: Run) -> Callable[[], Tensor]:
    """A loss that depends on the step alone."""
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(run.step))
    return lambda: ((run.model(inputs) - inputs[:, :4]) ** 2).mean()


def go(run: Run, regime: Acdc | Fixed, until: int | None = None) -> Run:
    """Train without the loop."""
    if run.step == 0:
        regime.start(run)
    while run.step < (until or run.total):
        regime.step(run, loss_of(run))
        run.step += 1
    return run


def test_masks_follow_the_phases() -> None:
    """Dense phases have no masks; sparse ones exactly a quarter of the weights."""
    run, kept = run_of(), []
    TWENTY.start(run)
    for _ in range(20):
        TWENTY.step(run, loss_of(run))
        kept.append(run.masks.kept if run.masks else 24)
        run.step += 1
    assert kept == [24] * 4 + [6] * 3 + [24] * 3 + [6] * 3 + [24] * 3 + [6] * 4


def test_a_dense_phase_starts_from_zero_and_without_momentum() -> None:
    """At sparse -> dense pruned weights are 0 and every momentum is 0: the first dense step is one of plain gradient descent."""
    run = go(run_of(), TWENTY, until=7)
    before, pruned = run.model.weight.detach().clone(), ~run.masks["weight"]
    assert (before[pruned] == 0).all()
    (slope,) = torch.autograd.grad(loss_of(run)(), run.model.weight)
    gradient = slope + 0.01 * before
    TWENTY.step(run, loss_of(run))
    assert torch.allclose(run.model.weight, before - 0.05 * gradient, atol=1e-7)
    assert not run.masks and (run.model.weight[pruned] != 0).any()


def test_momentum_stays_when_compressing_and_when_asked_to() -> None:
    """At dense -> sparse the momentum of kept weights stays; at sparse -> dense too without reset_momentum."""
    run = go(run_of(), TWENTY, until=4)
    momentum = run.optimizer.state[run.model.weight]["momentum_buffer"].clone()
    TWENTY._begin(run, TWENTY.phases(run)[1], is_last=False)
    mask = run.masks["weight"]
    now = run.optimizer.state[run.model.weight]["momentum_buffer"]
    assert torch.equal(now[mask], momentum[mask]) and (now[~mask] == 0).all()
    lazy = Acdc(**{**vars(TWENTY), "reset_momentum": False})
    lazy._begin(run, lazy.phases(run)[2], is_last=False)
    assert torch.equal(run.optimizer.state[run.model.weight]["momentum_buffer"][mask], momentum[mask])


def test_masks_forget_those_before() -> None:
    """A sparse phase ranks the current dense weights: one that was pruned and grew large is kept."""
    run = go(run_of(), TWENTY, until=9)
    was_pruned = (~largest(run.weights(), Fraction(3, 4))["weight"]).nonzero()[0]
    with torch.no_grad():
        run.model.weight[tuple(was_pruned)] = 50.0
    go(run, TWENTY, until=11)
    assert bool(run.masks["weight"][tuple(was_pruned)])


def test_the_dense_co_model_is_the_end_of_the_last_dense_phase() -> None:
    """What is kept equals the network after 16 steps, bit for bit."""
    whole, short = go(run_of(), TWENTY), go(run_of(), TWENTY, until=16)
    kept = TWENTY.others(whole)["dense"]
    assert torch.equal(kept["weight"], short.model.weight) and torch.equal(kept["bias"], short.model.bias)


@pytest.mark.parametrize(("make", "options"), [(torch.optim.SGD, {}), (torch.optim.AdamW, {"lr": 0.01})])
def test_the_co_model_trains_on_as_if_alone(make: Callable[..., torch.optim.Optimizer], options: Mapping[str, float]) -> None:
    """With finetune_dense it ends where the same network ends that trains densely on from step 16, and the sparse one is the same."""
    options = dict(options)
    given = {"betas": (0.9, 0.99)} if make is torch.optim.AdamW else {"momentum": 0.9}

    def fresh() -> Run:
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        optimizer = make(model.parameters(), **({"lr": 0.05, "weight_decay": 0.01} | options | given))
        return Run(model, model, optimizer, lambda loss: loss.backward(), 20, 5, sparsify=largest, target=Fraction(3, 4))

    tuned = Acdc(**{**vars(TWENTY), "finetune_dense": True})
    both, sparse, dense = go(fresh(), tuned), go(fresh(), TWENTY), go(fresh(), TWENTY, until=16)
    assert torch.equal(both.model.weight, sparse.model.weight)
    go(dense, Fixed())
    assert torch.equal(tuned.others(both)["dense"]["weight"], dense.model.weight)


def test_frozen_weights_stay_through_all_phases() -> None:
    """Weights of another network in the file never move, in no phase and not in the co-model."""
    run = run_of()
    still = torch.zeros(4, 6, dtype=torch.bool)
    still[0, :4] = True
    before = run.model.weight.detach().clone()
    run.frozen = guard.freeze(run.weights(), {"weight": still})

    def sparing(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        return largest({"weight": weights["weight"].masked_fill(still, 1e9)}, sparsity, within=within)

    run.sparsify = sparing
    tuned = Acdc(**{**vars(TWENTY), "finetune_dense": True})
    go(run, tuned)
    assert torch.equal(run.model.weight[still], before[still])
    assert torch.equal(tuned.others(run)["dense"]["weight"][still], before[still])


def test_changes_between_sparse_phases_are_told() -> None:
    """Each compression but the first tells how many kept weights are others than in the sparse phase before."""
    run = go(run_of(), TWENTY)
    compressed = [event for event in run.events if event["event"] == "compressed"]
    assert [event["step"] for event in compressed] == [4, 10, 16]
    assert "mask_change" not in compressed[0]
    assert all(0 <= event["mask_change"] <= 1 and event["sad"] == 12 * event["mask_change"] for event in compressed[1:])


def test_short_phases_are_warned_of() -> None:
    """Phases of a few steps cannot bring weights back; the user hears it, with the number."""
    run = run_of()
    TWENTY.start(run)
    assert "3 steps" in run.events[-1]["text"]
    assert not any(event["event"] == "warning" for event in _started(run_of(total=2000), Acdc()).events)


def _started(run: Run, regime: Acdc) -> Run:
    regime.start(run)
    return run


def test_too_short_a_run_is_refused() -> None:
    """The phases do not fit: a sentence with the counts."""
    with pytest.raises(BadRequest, match="9 steps is too short"):
        TWENTY.start(run_of(total=9))
    with pytest.raises(BadRequest, match="not a duration"):
        Acdc(sparse="soon")


def test_tied_weights_are_exchanged_once() -> None:
    """With a tied weight the sparse network is the same with and without the dense co-model training on."""

    def tied() -> Run:
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        model.other = nn.Linear(6, 4)
        model.other.weight = model.weight
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return Run(model, model, optimizer, lambda loss: loss.backward(), 20, 5, sparsify=largest, target=Fraction(3, 4))

    tuned = Acdc(**{**vars(TWENTY), "finetune_dense": True})
    both, alone = go(tied(), tuned), go(tied(), TWENTY)
    assert torch.equal(both.model.weight, alone.model.weight)
    assert (both.model.weight[~both.masks["weight"]] == 0).all()


def test_layers_that_are_not_the_recipes_keep_their_masks() -> None:
    """A tensor that was pruned and is skipped now stays pruned in dense phases, in sparse ones, and in the co-model."""
    run = run_of()
    run.masks = MaskSet({"bias": torch.tensor([True, False, True, False])})
    guard.enforce(run)
    tuned = Acdc(**{**vars(TWENTY), "finetune_dense": True})
    tuned.start(run)
    for run.step in range(20):
        tuned.step(run, loss_of(run))
        assert run.model.bias[[1, 3]].tolist() == [0, 0]
    assert sorted(run.masks) == ["bias", "weight"]
    assert tuned.others(run)["dense"]["bias"][[1, 3]].tolist() == [0, 0]
