"""Iterative magnitude pruning: nested masks, exact rewinding, the schedule, and the branches."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.regimes.imp import Imp
from sparsify_cli.training import guard
from sparsify_cli.training.branches import overlap
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

NAMES = ("0.weight", "3.weight")


def smallest(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
    """Global magnitude inside `within`."""
    scores = [(weights[n].abs() + 1) * (within[n] if within else 1) for n in NAMES]
    flat = torch.cat([score.flatten() for score in scores])
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[flat.argsort(stable=True)[: round(len(flat) * sparsity)]] = False
    return MaskSet({n: part.view(weights[n].shape) for n, part in zip(NAMES, mask.split([s.numel() for s in scores]), strict=True)})


def fresh(total: int = 60, **options: Any) -> Run:
    """A network of 100 + 50 prunable weights with batch norm, on the way to 48.8 % (three rounds of a fifth)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    given = {"sparsify": smallest, "target": Fraction(488, 1000), **options}
    return Run(model, model, optimizer, lambda loss: loss.backward(), total, 10, **given)


def go(run: Run, regime: Imp) -> list[tuple[dict[str, Tensor], MaskSet, float]]:
    """Train; the weights and masks after each step, and the learning rate of it. Before the first comes the start."""
    inputs = torch.randn(80, 10, generator=torch.Generator().manual_seed(5))
    samples = Samples(inputs, inputs[:, :5].argmax(1), tuple(map(str, range(80))))
    seen: list[tuple[dict[str, Tensor], MaskSet, float]] = []

    def after(run: Run, value: Tensor) -> None:
        del value
        rate = run.optimizer.param_groups[0]["lr"]
        seen.append(({n: t.clone() for n, t in run.model.state_dict().items()}, run.masks, rate))

    loss = CrossEntropy().prepare(nn.Module)
    train(run, regime, loss, samples, batch_size=8, seed=3, learning_rate=lambda step, total: 0.1 * (1 - step / total), after_step=after)
    return seen


def test_masks_are_nested_and_counts_exact() -> None:
    """Four trainings of 15 steps: 150, 120, 96 and 77 weights (0.512 x 150 rounded), each mask inside the one before."""
    seen = go(fresh(), Imp())
    assert [seen[step][1].kept if seen[step][1] else 150 for step in (14, 15, 29, 30, 44, 45, 59)] == [150, 120, 120, 96, 96, 77, 77]
    assert seen[30][1] <= seen[15][1] and seen[45][1] <= seen[30][1]


def rewound(regime: Imp, round_: int) -> tuple[Run, dict[str, Tensor], dict[str, Tensor]]:
    """The run, its start, and its state right after a round's pruning and rewinding, before the step that follows."""
    run = fresh()
    start = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    found: dict[str, Tensor] = {}
    original = guard.descend

    def look(here: Run, loss: Any) -> Tensor:
        number = sum(event["event"] == "round" for event in here.events)
        if number == round_ and not found:
            found.update({name: tensor.clone() for name, tensor in here.model.state_dict().items()})
            assert not here.optimizer.state or regime.rewind == "none"
        return original(here, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsify_cli.regimes.imp.guard.descend", look)
        go(run, regime)
    return run, start, found


def test_what_is_left_goes_back_bit_for_bit() -> None:
    """After every round kept weights, biases and running statistics are those of the start, the others zero, the optimizer empty."""
    for round_ in (1, 3):
        run, start, now = rewound(Imp(), round_)
        for name, tensor in now.items():
            mask = tensor != 0 if name in NAMES else torch.ones_like(tensor, dtype=torch.bool)
            assert torch.equal(tensor[mask], start[name][mask])
        if round_ == 3:
            assert sum(int((now[name] != 0).sum()) for name in NAMES) == run.masks.kept == 77


def test_rewinding_to_a_later_step() -> None:
    """With k = 3 weights and running statistics go back to those after 3 steps."""
    plain = go(fresh(), Imp(to="3it"))
    rounds = Imp(to="3it").rounds(fresh())
    assert rounds.start == 3 and rounds.first + 3 * rounds.others == 60
    _, _, now = rewound(Imp(to="3it"), 1)
    mask = now["0.weight"] != 0
    assert torch.equal(now["0.weight"][mask], plain[2][0]["0.weight"][mask])
    assert torch.equal(now["1.running_mean"], plain[2][0]["1.running_mean"])


def test_rate_rewinding_keeps_weights_and_replays_the_schedule() -> None:
    """`rate` starts each round at the full rate with the trained weights; `none` stays at the last rate."""
    rates = [rate for _, _, rate in go(fresh(), Imp(rewind="rate"))]
    assert rates[15:30] == rates[:15] and rates[0] == pytest.approx(0.1)
    late = [rate for _, _, rate in go(fresh(), Imp(rewind="none"))]
    assert late[15:] == [late[14]] * 45
    _, start, now = rewound(Imp(rewind="rate"), 1)
    assert not torch.equal(now["0.bias"], start["0.bias"])


def test_branches_differ_only_in_their_last_start() -> None:
    """Counts a layer agree; reinit keeps the masks, random draws others, shuffled keeps masks and each layer's values."""
    runs = {branch: rewound(Imp(branch=branch), 3) for branch in ("ticket", "reinit", "random", "shuffled")}  # type: ignore[arg-type]
    ticket = runs["ticket"][0].masks
    for branch, (run, _, now) in runs.items():
        assert all(int(run.masks[name].sum()) == int(ticket[name].sum()) for name in NAMES)
        assert (run.masks == ticket) == (branch != "random")
        mask = run.masks["0.weight"]
        same = torch.equal(now["0.weight"][mask].sort().values, runs["ticket"][2]["0.weight"][ticket["0.weight"]].sort().values)
        assert same == (branch in ("ticket", "shuffled"))
    assert not torch.equal(runs["shuffled"][2]["0.weight"], runs["ticket"][2]["0.weight"])
    again = rewound(Imp(branch="reinit"), 3)[2]
    assert torch.equal(again["0.weight"], runs["reinit"][2]["0.weight"])


def test_weights_drawn_anew_get_a_whole_schedule() -> None:
    """Rewinding to step 3 of 17: the last training of `reinit` begins at the full rate and ends at the last; before it all are alike."""
    rates = {branch: [rate for _, _, rate in go(fresh(), Imp(to="3it", branch=branch))] for branch in ("ticket", "reinit")}  # type: ignore[arg-type]
    last = Imp(to="3it").rounds(fresh()).others
    assert rates["ticket"][:-last] == rates["reinit"][:-last]
    assert rates["reinit"][-last] == rates["reinit"][0] > rates["ticket"][-last]
    assert 0 < rates["reinit"][-1] < 2 * rates["ticket"][-1]


def test_frozen_weights_stay_in_every_branch() -> None:
    """Weights of another network in the file keep their bits and are never dropped."""
    still = torch.zeros(10, 10, dtype=torch.bool)
    still[0] = True

    def sparing(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        return smallest({**weights, "0.weight": weights["0.weight"].masked_fill(still, 99.0)}, sparsity, within=within)

    for branch in ("ticket", "reinit", "random", "shuffled"):
        run = fresh(sparsify=sparing)
        before = run.weights()["0.weight"].clone()
        run.frozen = guard.freeze(run.weights(), {"0.weight": still})
        go(run, Imp(branch=branch))  # type: ignore[arg-type]
        assert torch.equal(run.weights()["0.weight"][still], before[still])
        assert bool(run.masks["0.weight"][still].all())


def test_overlap_is_told() -> None:
    """Training moves some of the largest weights; without a step all of them are still the largest."""
    run = fresh()
    go(run, Imp())
    (told,) = [event["share"] for event in run.events if event["event"] == "overlap"]
    assert 0.2 < told < 1
    lazy = fresh()
    lazy.memory |= {"imp.initial." + name: lazy.weights()[name].clone() for name in NAMES}
    assert overlap(lazy, "imp.initial.", top=Fraction(1, 5)) == 1.0


def test_bad_requests() -> None:
    """Shares, branches and runs that cannot be are refused with a sentence."""
    with pytest.raises(BadRequest, match="cannot drop"):
        Imp(drop=1.5)
    with pytest.raises(BadRequest, match="weights of the beginning"):
        Imp(branch="reinit", rewind="rate")
    with pytest.raises(BadRequest, match="too short for 4 trainings"):
        Imp().start(fresh(total=3))


def test_later_trainings_end_their_schedule() -> None:
    """Steps that do not divide go to the first training; each later one still runs its own schedule to the end."""
    run, regime = fresh(total=62), Imp()
    regime.start(run)
    rounds, places = regime.rounds(run), []
    for run.step in range(62):
        places.append(regime.clock(run))
    assert (rounds.first, rounds.others) == (17, 15)
    assert places[16] == (16, 17) and places[17] == (0, 15) and places[31] == (14, 15) and places[61] == (14, 15)


def test_rounds_start_from_what_is_pruned() -> None:
    """A network at 30 % goes to 48.8 % in two rounds of a fifth, not in three; at the target none is needed, and its masks hold."""
    run = fresh()
    run.masks = smallest(run.weights(), Fraction(3, 10))
    guard.enforce(run)
    Imp().start(run)
    assert [float(d) for d in Imp()._densities(run)] == pytest.approx([0.56, 0.512], abs=1e-3)
    dense = fresh(target=Fraction(0))
    Imp().start(dense)
    assert dense.masks.kept == 150 and Imp()._densities(dense) == ()


def test_what_cannot_end_well_is_refused_at_the_start() -> None:
    """Every weight dropped, random positions under a pattern, weights that nobody can draw: before the first step."""
    with pytest.raises(BadRequest, match="every weight"):
        Imp().start(fresh(target=Fraction(1)))

    def patterned(weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        return smallest(weights, sparsity, within=within)

    patterned.pattern = Pattern.parse("2:4")  # type: ignore[attr-defined]
    with pytest.raises(BadRequest, match="2:4"):
        Imp(branch="random").start(fresh(sparsify=patterned))
    run = fresh()
    run.model.scale = nn.Parameter(torch.ones(1))  # type: ignore[assignment]
    with pytest.raises(BadRequest, match="how its weights are drawn"):
        Imp(branch="reinit").start(run)


def test_random_masks_stay_inside_what_was_given() -> None:
    """Positions that were pruned before the run do not come back in the random branch."""
    run = fresh()
    given = smallest(run.weights(), Fraction(3, 10))
    run.masks = given
    guard.enforce(run)
    go(run, Imp(branch="random"))
    assert run.masks <= given and run.masks.kept == 77
