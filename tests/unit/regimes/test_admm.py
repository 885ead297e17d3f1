"""ADMM: weights are pulled towards their projection, pruned, and trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn import functional

from sparsify_cli.criteria.movement import Movement
from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.admm import Admm
from sparsify_cli.regimes.fixed import Fixed
from tests.ends_alike import assert_ends_alike
from tests.two_gradients import copied, gradients_at, one_step, run_of, same, states, trained, two_weights


def test_two_weights_by_hand():
    """Loss |w - (1, .5)|^2 / 2, learning rate .1, rho 1, one of two weights stays, a projection a step.

    Z = (1, 0), U = 0: w2 = .5 - .1 (.5 - .5 + .5) = .45. Then U2 = .45: w2 = .45 - .1 (-.05 + .45 + .45) = .365.
    Then U2 = .815: w2 = .365 - .1 (-.135 + .365 + .815) = .2605. w1 is where loss and pull want it.
    """
    run, regime, path = two_weights([1.0, 0.5], [1.0, 0.5]), Admm(rho=1, rho_end=1, every="1it"), []
    regime.start(run)
    for _ in range(3):
        regime.step(run, run.model)
        run.step += 1
        path.append([round(value, 12) for value in run.weights()["weight"].flatten().tolist()])
    assert path == [[1, 0.45], [1, 0.365], [1, 0.2605]]


def test_the_pull_is_the_gradient_of_the_augmented_lagrangian():
    """A plain SGD step goes along the gradient of loss + rho / 2 |W - Z + U|^2, differentiated here by autograd."""
    run, regime = run_of(optimizer="plain", lr=0.5), Admm(rho=0.3, rho_end=0.3, every="1it")
    regime.start(run)
    for _ in range(3):
        one_step(run, regime)
    run.step = 3
    before, memory = copied(run), {key: value.clone() for key, value in run.memory.items()}
    one_step(run, regime)
    slopes = gradients_at(run, before)
    for name in ("0.weight", "4.weight", "6.weight"):
        weight = before[name].requires_grad_()
        (0.15 * (weight - run.memory[f"admm.z.{name}"] + run.memory[f"admm.u.{name}"]).square().sum()).backward()
        assert torch.allclose(run.weights()[name], (weight - 0.5 * (slopes[name] + weight.grad)).detach(), atol=1e-6)
    assert not same(memory, run.memory)


def test_z_is_the_nearest_sparse_network():
    """Of all choices of two of six weights, Z keeps the one nearest to W + U."""
    run = run_of()
    run.model = run.forward = torch.nn.Linear(3, 2, bias=False)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.3)
    run.sparsify = replace(run.sparsify, names=("weight",))
    run.target = 1 - run.target.__class__(2, 6)
    regime = Admm(rho=0.5, rho_end=0.5, every="1it")
    regime.start(run)
    for _ in range(4):
        before, dual = copied(run)["weight"], run.memory["admm.u.weight"]
        regime.step(run, lambda: functional.mse_loss(run.model(torch.eye(3)), torch.arange(6.0).reshape(3, 2)))
        run.step += 1
        if run.step > 1:
            point = (before + dual).flatten()
            apart = {pair: float(point[[i for i in range(6) if i not in pair]].square().sum()) for pair in combinations(range(6), 2)}
            kept = tuple(run.memory["admm.z.weight"].flatten().nonzero().flatten().tolist())
            assert kept == min(apart, key=lambda pair: apart[pair])
            assert torch.equal(run.memory["admm.z.weight"].flatten()[list(kept)], point[list(kept)])


def test_the_dual_is_zero_where_weights_stay():
    """U gathers W - Z: nothing where Z is W + U, the whole distance elsewhere."""
    run, regime = run_of(), Admm(rho=0.1, rho_end=0.1, every="1it")
    regime.start(run)
    one_step(run, regime)
    weights = copied(run)
    one_step(run, regime)
    for name in ("0.weight", "4.weight", "6.weight"):
        kept = run.memory[f"admm.z.{name}"] != 0
        assert int(run.memory[f"admm.u.{name}"][kept].count_nonzero()) == 0
        assert torch.equal(run.memory[f"admm.u.{name}"][~kept], weights[name][~kept])


def test_rho_grows_by_the_same_factor_and_the_multiplier_stays():
    """1, 10, 100 over two projections; rho * U, the multiplier itself, is not changed by the growth of rho."""
    run, regime = run_of(), Admm(rho=1, rho_end=100, every="4it", retrain="0.25run")
    assert [regime.rho_after(run, count) for count in (0, 1, 2)] == pytest.approx([1, 10, 100])
    slow, fast = run_of(lr=1e-3), run_of(lr=1e-3)
    steady = Admm(rho=1, rho_end=1, every="4it")
    for run, regime in ((slow, steady), (fast, Admm(rho=1, rho_end=100, every="4it"))):
        regime.start(run)
        for _ in range(5):
            one_step(run, regime)
    name = "admm.u.4.weight"
    assert torch.allclose(10 * fast.memory[name], slow.memory[name], atol=1e-7) and bool(slow.memory[name].any())


def test_without_pull_it_is_training_and_a_prune():
    """Rho = 0 is dense training bit for bit for nine of twelve steps; then the 40 largest of 200 weights stay."""
    pulled, dense = states(run_of(), Admm(rho=0, rho_end=0)), states(run_of(), Fixed())
    assert all(same(pulled[i][part], dense[i][part]) for i in range(9) for part in ("model", "optimizer", "masks"))
    names = ("0.weight", "4.weight", "6.weight")
    sizes = torch.cat([dense[8]["model"][name].abs().flatten() for name in names])
    kept = torch.cat([pulled[9]["masks"][name].flatten() for name in names])
    assert set(kept.nonzero().flatten().tolist()) == set(sizes.argsort(descending=True)[:40].tolist())
    assert all(same(state["masks"], pulled[9]["masks"]) for state in pulled[9:])


def test_weights_and_their_sparse_copy_meet():
    """Where rho grows enough the gap falls below a percent, and nothing is warned of; where it stays small it does not."""
    told = {}
    for rho_end in (10.0, 1e-3):
        run = run_of(lr=0.1)
        run.total = 200
        trained(run, Admm(rho_end=rho_end))
        gaps = [event["gap"] for event in run.events if event["event"] == "admm"]
        told[rho_end] = gaps[-1], [event["text"][:26] for event in run.events if event["event"] == "warning"]
        assert run.masks.kept == 40
    assert told[10.0][0] < 0.01 < told[1e-3][0]
    assert (told[10.0][1], told[1e-3][1]) == ([], ["when they were pruned, the"])


def test_what_was_pruned_stays_pruned():
    """From a checkpoint with half its weights pruned, those stay zero, in W, in Z and in U."""
    start = run_of(pruned="0.5").masks
    found = states(run_of(pruned="0.5"), Admm())
    for state in found:
        held = [state["model"], *({n: state["memory"].get(f"admm.{k}.{n}", torch.zeros(m.shape)) for n, m in start.items()} for k in "zu")]
        assert all(int(tensors[name][~mask].count_nonzero()) == 0 for tensors in held for name, mask in start.items())
    assert sum(int(mask.sum()) for mask in found[-1]["masks"].values()) == 40


def test_frozen_weights_are_neither_moved_nor_masked():
    """Weights of an embedded network keep their bits, and the masks keep them."""
    run = trained(run_of(frozen=True), Admm())
    still, values = run.frozen["4.weight"]
    assert torch.equal(run.weights()["4.weight"][still], values)
    assert bool(run.masks["4.weight"][still].all())


@pytest.mark.parametrize("retrain", ["0.25run", "0run"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer, retrain):
    """From the state after any step, before and after the prune, the end is the same."""
    assert_ends_alike(lambda: run_of(optimizer=optimizer, frozen=True), Admm(every="2it", retrain=retrain))


def test_a_run_that_ends_early_is_sparse():
    """A run over after 4 or 9 of 12 steps, or that retrains for none, ends with the masks it should have."""
    for last, retrain in ((4, "0.25run"), (9, "0.25run"), (12, "0run")):
        run = trained(run_of(), Admm(retrain=retrain), after=lambda run, _, last=last: setattr(run, "is_over", run.step == last))
        assert (run.step, run.masks.kept) == (last, 40)
        assert not [key for key in run.memory if key.startswith("admm")]


def test_schedules_that_cannot_be_are_refused():
    """Nothing before retraining, a criterion that ranks movement, a pull that shrinks, is negative or grows from nothing."""
    with pytest.raises(BadRequest, match="retrain 1run of 12 steps"):
        Admm(retrain="1run").start(run_of())
    run = run_of()
    run.sparsify = replace(run.sparsify, criterion=Movement())
    with pytest.raises(BadRequest, match="admm ranks weights as they are"):
        Admm().start(run)
    for options in (
        {"rho": 2},
        {"rho": -1},
        {"rho": 0},
        {"rho_end": float("inf")},
        {"rho": float("nan")},
        {"every": "1"},
        {"retrain": "x"},
    ):
        with pytest.raises(BadRequest):
            Admm(**options)


def test_when_it_projects_and_prunes():
    """With the defaults 12 steps project before the second to the ninth, prune before the tenth, and tell each."""
    run = trained(run_of(), Admm())
    told = [(event["event"], event["step"]) for event in run.events if event["event"] != "warning"]
    assert told == [*(("admm", step) for step in range(1, 10)), ("pruned", 9)]
