"""Gradual pruning: when it prunes, how far, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.gmp import Gmp
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


def smallest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Drop the smallest of the 100 weights, those dropped already first."""
    weight = weights["weight"]
    score = weight.abs() if within is None else torch.where(within["weight"], weight.abs(), torch.full_like(weight, -1))
    kept = torch.ones(weight.numel(), dtype=torch.bool)
    kept[score.flatten().argsort(stable=True)[: round(max(sparsity, within.sparsity if within else sparsity) * 100)]] = False
    return MaskSet({"weight": kept.reshape(weight.shape)})


def run_of(total: int, *, target: str = "0.8") -> Run:
    """A run over 100 weights 1 .. 100."""
    model = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 101.0).reshape(10, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return Run(model, model, optimizer, lambda loss: loss.backward(), total=total, per_epoch=10, sparsify=smallest, target=Fraction(target))


def path(run: Run, regime: Gmp) -> list[int]:
    """Weights dropped after each step, in hundredths."""
    regime.start(run)
    dropped = []
    while run.step < run.total:
        regime.step(run, lambda: run.model(torch.ones(1, 10)).sum())
        run.step += 1
        dropped.append(100 - run.masks.kept if run.masks else 0)
    regime.finish(run)
    return dropped


def test_the_climb_by_hand() -> None:
    """From 0 to 80 of 100 in four events over eight steps: 80 (1 - (3/4)^3) = 46.25, 70, 78.75, 80; then eight steps of rest."""
    dropped = path(run_of(16), Gmp(begin="0it", end="8it", every="2it"))
    assert dropped == [0, 0, 46, 46, 70, 70, 79, 79] + [80] * 8


def test_masks_only_shrink_and_weights_are_zero() -> None:
    """Every mask is inside the one before, and dropped weights are exact zeros."""
    run, before = run_of(40), None
    Gmp().start(run)
    while run.step < run.total:
        Gmp().step(run, lambda: run.model(torch.ones(1, 10)).sum())
        run.step += 1
        assert before is None or run.masks <= before
        assert not run.masks or (run.model.weight[~run.masks["weight"]] == 0).all()
        before = run.masks if run.masks else None
    assert run.masks.kept == 20


@pytest.mark.parametrize("total", [*range(1, 12), 97, 100])
def test_the_target_is_exact_and_a_quarter_recovers(total: int) -> None:
    """With the defaults and any length of run, the last change leaves at least a quarter of the steps."""
    dropped = path(run_of(total), Gmp())
    assert dropped[-1] == 80
    reached = dropped.index(80)
    assert total - reached >= total / 4


def test_it_starts_from_the_masks_the_run_has() -> None:
    """A run that is half sparse never falls below that; initial raises the start, not below the masks."""
    run = run_of(20)
    run.masks = smallest(run.weights(), Fraction(1, 2))
    dropped = path(run, Gmp(initial="0.2", end="10it", every="5it"))
    assert dropped[0] == 50
    assert dropped[5] == 76  # 80 - 30 / 8 = 76.25
    assert dropped[-1] == 80
    assert path(run_of(20), Gmp(initial="0.6", end="10it", every="5it"))[0] == 60


def test_the_same_target_twice_changes_nothing() -> None:
    """Fine-tuning a run that is already there keeps its masks, rounding included."""
    run = run_of(12)
    run.masks = smallest(run.weights(), Fraction(81, 100))
    assert set(path(run, Gmp())) == {81}


def test_options_are_read_from_text() -> None:
    """Durations and sparsities come as a recipe writes them, and go back the same."""
    regime = TypeAdapter(Gmp).validate_python({"end": "0.5run", "initial": 0.3})
    assert (regime.end, regime.initial, regime.begin) == ("0.5run", "0.3", "0run")
    assert TypeAdapter(Gmp).validate_python(TypeAdapter(Gmp).dump_python(regime, mode="json")) == regime


@pytest.mark.parametrize("options", [{"end": "soon"}, {"every": "3"}, {"initial": "half"}, {"initial": "1"}, {"initial": "-0.1"}])
def test_mistyped_options_are_refused(options: dict[str, str]) -> None:
    """Before anything is loaded, directly and through a recipe."""
    with pytest.raises(BadRequest):
        Gmp(**options)
    with pytest.raises(BadRequest):
        TypeAdapter(Gmp).validate_python(options)


def test_a_climb_that_cannot_be_is_refused() -> None:
    """Too late an end, an end before the beginning, a target below the model's own sparsity."""
    with pytest.raises(BadRequest, match="from step 0 to step 18 of 20"):
        Gmp(end="0.9run").start(run_of(20))
    with pytest.raises(BadRequest, match="from step 10 to step 4"):
        Gmp(begin="1ep", end="4it").start(run_of(20))
    run = run_of(20, target="0.3")
    run.masks = smallest(run.weights(), Fraction(1, 2))
    with pytest.raises(BadRequest, match=r"from sparsity 0\.5 to 0\.3"):
        Gmp().start(run)
    with pytest.raises(BadRequest, match=r"from sparsity 0\.9 to 0\.8"):
        Gmp(initial="0.9").start(run_of(20))


def test_a_climb_of_one_pruning_is_told() -> None:
    """It is not gradual; two prunings are."""
    for regime, told in ((Gmp(end="0it"), True), (Gmp(begin="4it", end="6it", every="3it"), True), (Gmp(end="6it", every="3it"), False)):
        run = run_of(20)
        regime.start(run)
        assert any("all at once" in event.get("text", "") for event in run.events) == told
    alone = run_of(1)
    Gmp().start(alone)
    assert "all at once" in alone.events[0]["text"]


def test_cycles_restart_the_schedule() -> None:
    """Begin 4, end 12, every 3 of 20 steps: cycles of 4, 3, 3, 2 and 8 steps, each from its start."""
    regime = Gmp(begin="4it", end="12it", every="3it", cycle=True)
    run = run_of(20)
    places = []
    for step in range(20):
        run.step = step
        places.append(regime.clock(run))
    lengths = [4] * 4 + [3] * 6 + [2] * 2 + [8] * 8
    assert places == [(i, n) for n, i in zip(lengths, [*range(4), *range(3), *range(3), *range(2), *range(8)], strict=True)]
    run.warmup = 2  # the rate climbs at the start of the run only: later cycles begin behind the climb
    for run.step, place in ((0, (0, 4)), (4, (2, 5)), (5, (3, 5)), (11, (3, 4)), (13, (3, 10))):
        assert regime.clock(run) == place
    run.step = 7
    assert Gmp(begin="4it", end="12it", every="3it").clock(run) == (7, 20)


def test_with_cycles_one_after_the_last_pruning_is_enough() -> None:
    """The published schedule of 30 epochs: prunings at 2, 6, ..., 26 from 70 % on, four epochs each."""
    regime = Gmp(initial="0.7", begin="2it", end="26it", every="4it", cycle=True)
    found = path(run_of(30, target="0.97"), regime)
    assert [step for step in range(1, 30) if found[step] != found[step - 1]] == [2, 6, 10, 14, 18, 22]  # the rest rounds to nothing at 26
    assert (found[2], found[-1]) == (70, 97)
    run = run_of(30, target="0.97")
    run.step = 26
    assert regime.clock(run) == (0, 4)
    with pytest.raises(BadRequest, match="a cycle is needed"):
        Gmp(begin="2it", end="27it", every="4it", cycle=True).start(run_of(30))
