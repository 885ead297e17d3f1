"""`--effort high`: what imitation trained is kept where held-out loss falls, else put back, and either way it is said."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import Anomalous, BadRequest, MissingContext
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages import imitation as module_under_test
from sparsify_cli.stages.auto import MINUTE, operations
from sparsify_cli.stages.dry_run import dry_run
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.stages.solver_memory import solver_need
from sparsify_cli.stages.subject import open_subject
from sparsify_cli.values.checkpoint import Spec

NET = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
"""

ZEROS = round(0.9 * 16 * 74) / (16 * 74)
"""Of 64 x 16 and 16 x 10 weights."""

ALPS = sum(operations(size) for size in ((16, 64), (10, 16))) / MINUTE
"""Minutes that ALPS takes for both."""


@pytest.fixture
def digits(tmp_path):
    """A small network that was trained on digits for a few steps, as dense.pt."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    net = build_architecture(Spec("net.py:net")).train()
    torch.save(net.state_dict(), "raw.pt")
    train = open_subject(request(model="raw.pt")).samples("train")
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for step in range(60):
        part = train.take(torch.arange(step * 64, step * 64 + 64) % len(train))
        loss = torch.nn.functional.cross_entropy(net(part.inputs), part.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), "dense.pt")
    return net


def request(**fields):
    """A prune recipe for nine tenths of it."""
    context = {"model": "dense.pt", "arch": "net.py:net", "data": "digits", "sparsity": Fraction(9, 10), "samples": 1024, "passes": 10}
    return PruneRecipe(**{**context, **fields})


def losses(outcome):
    """Held-out cross-entropy before and after imitation."""
    return tuple(outcome.report.get(f"imitation_loss_{when}").value for when in ("before", "after"))


def written(folder):
    """The tensors in an artifact."""
    return open_subject(PruneRecipe(model=folder)).checkpoint.tensors


def test_imitation_improves_digits_and_is_kept(digits):
    """Ten passes over 1,024 digits: the loss falls, the note and the file say so, and as many weights are zero as were asked for."""
    plain = prune(request(out="plain"), Listener())
    high = prune(request(out="high", effort="high"), Listener())
    before, after = losses(high)
    assert after < before and sum("imitating" in note and note.endswith("kept.") for note in high.notes) == 1
    assert plain.report.get("imitation_loss_before") is None
    ours, theirs = written("high"), written("plain")
    assert high.report.get("sparsity").value == plain.report.get("sparsity").value == ZEROS
    for name in ("1.weight", "4.weight"):
        assert torch.equal(ours[name] != 0, theirs[name] != 0) and not torch.equal(ours[name], theirs[name])
    assert high.report.get("nll").value < plain.report.get("nll").value


@pytest.mark.slow
def test_imitation_that_does_not_help_is_put_back(digits, monkeypatch):
    """With a learning rate that destroys the network, everything is as without imitation bit for bit, and the note says it."""
    real = module_under_test.Imitation
    monkeypatch.setattr(module_under_test, "Imitation", lambda **options: real(**options, lr=10.0))
    for solver in (None, Choice("sparsegpt")):
        name = solver.name if solver else "none"
        prune(request(out=f"plain-{name}", solver=solver), Listener())
        high = prune(request(out=f"high-{name}", effort="high", solver=solver), Listener())
        before, after = losses(high)
        assert after >= before and any("put back" in note for note in high.notes)
        ours, theirs = written(f"high-{name}"), written(f"plain-{name}")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_what_was_put_back_is_still_moved(digits, monkeypatch):
    """After imitation that failed, statistics that move with the inputs are still among the choices: their loss is reported alike."""
    real = module_under_test.Imitation
    monkeypatch.setattr(module_under_test, "Imitation", lambda **options: real(**options, lr=10.0))
    plain, high = (prune(request(out=effort, effort=effort), Listener()) for effort in ("normal", "high"))
    for name in ("before", "moved", "after"):
        assert high.report.get(f"batchnorm_loss_{name}").value == plain.report.get(f"batchnorm_loss_{name}").value
    assert high.report.get("batchnorm_loss_moved").value != high.report.get("batchnorm_loss_before").value


def test_smaller_steps_are_tried_where_large_ones_do_not_help(digits, monkeypatch):
    """High tries a fifth of a rate that is much too large and keeps that; auto does not, and the first attempt leaves no trace."""
    real = module_under_test.Imitation
    plain = prune(request(out="fifth", effort="high"), Listener())
    for first in (1e5, 1e30):  # does not help; diverges
        monkeypatch.setattr(module_under_test, "SHARES", (first, 1.0))
        high = prune(request(out=f"high-{first}", effort="high"), Listener())
        assert losses(high) == losses(plain) and losses(high)[1] < losses(high)[0]
    ours, theirs = written("high-1e+30"), written("fifth")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    monkeypatch.setattr(module_under_test, "SHARES", (1e5, 1.0))
    auto = prune(request(out="auto", solver=Choice("auto")), Listener())
    assert any("put back" in note for note in auto.notes)
    monkeypatch.setattr(module_under_test, "SHARES", (1e5, 0.2))
    monkeypatch.setattr(module_under_test, "Imitation", lambda **options: real(**options, lr=5e-3))
    assert any(
        "(at 0.2 of the usual rate, which did not help)" in note and note.endswith("kept.")
        for note in prune(request(out="x", effort="high"), Listener()).notes
    )


def test_the_result_depends_on_the_seed_alone(digits):
    """Twice the same tensors, with auto's solver too."""
    for out in ("one", "two"):
        prune(request(out=out, effort="high", solver=Choice("auto"), passes=1), Listener())
    one, two = written("one"), written("two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_auto_says_what_it_chose(digits):
    """Two layers of at most 3,000 columns: alps; the loss is below what magnitude leaves, and the count holds."""
    auto = prune(request(out="auto", solver=Choice("auto")), Listener())
    plain = prune(request(out="plain"), Listener())
    assert dry_run(request(solver=Choice("auto")), Listener()).tables
    assert any(note == "solver auto: alps for 2 layers." for note in auto.notes)
    assert auto.report.get("sparsity").value == ZEROS
    assert auto.report.get("nll").value < plain.report.get("nll").value


def test_auto_trains_where_it_is_worth_it(digits, monkeypatch):
    """With the solver auto and much lost as with high; not for what costs more than the loss is worth, nor for other solvers."""
    auto = prune(request(out="auto", solver=Choice("auto")), Listener())
    high = prune(request(out="high", solver=Choice("auto"), effort="high"), Listener())
    assert losses(auto) == losses(high) and losses(auto)[1] < losses(auto)[0]
    one, two = written("auto"), written("high")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert prune(request(out="other", solver=Choice("alps")), Listener()).report.get("imitation_loss_before") is None
    monkeypatch.setattr(module_under_test, "WORTH", 1.0)
    spared = prune(request(out="spared", solver=Choice("auto")), Listener())
    never = prune(request(out="never", solver=Choice("auto"), effort="normal"), Listener())
    assert spared.report.get("imitation_loss_before") is never.report.get("imitation_loss_before") is None


def test_auto_never_fails_for_its_training(digits, monkeypatch):
    """A training that diverges stops --effort high; auto goes on with what there was."""
    real = module_under_test.Imitation
    monkeypatch.setattr(module_under_test, "Imitation", lambda **options: real(**options, lr=1e30))
    with pytest.raises(Anomalous, match="diverged, at the usual rate and at a fifth"):
        prune(request(out="high", solver=Choice("auto"), effort="high"), Listener())
    outcome = prune(request(out="auto", solver=Choice("auto")), Listener())
    assert outcome.report.get("imitation_loss_before") is None and outcome.report.get("sparsity").value == ZEROS


def test_operations_are_four_passes_over_each_sample(digits):
    """64 x 16 + 16 x 10 multiply-accumulates a sample, forwards three times and the dense network's once, for 5 samples and 3 passes."""
    assert module_under_test.operations(digits, torch.zeros(5, 64), 3) == 4 * 3 * 5 * (64 * 16 + 16 * 10)


@pytest.mark.slow
def test_names_with_a_prefix_are_imitated(digits):
    """A checkpoint whose names have a wrapper's prefix becomes what the plain one becomes."""
    torch.save({f"net.{name}": tensor for name, tensor in digits.state_dict().items()}, "wrapped.pt")
    prune(PruneRecipe(model="wrapped.pt", out="once", sparsity=Fraction(0)), Listener())
    wrapped = prune(request(model="once", out="wrapped", effort="high"), Listener())
    plain = prune(request(out="plain", effort="high"), Listener())
    assert losses(wrapped) == losses(plain) and losses(plain)[1] < losses(plain)[0]
    state = torch.load("wrapped/wrapped.pt", weights_only=True)
    assert all(torch.equal(state[f"net.{name}"], tensor) for name, tensor in torch.load("plain/dense.pt", weights_only=True).items())


def test_it_needs_a_network_and_data(digits):
    """Without them it is refused by the flag's name."""
    with pytest.raises(MissingContext, match="--effort high looks at"):
        prune(request(arch="", data="", effort="high"), Listener())


def test_minutes_bound_alps_and_imitation(digits, monkeypatch):
    """Minutes for all: as without them; for some passes: so many; for none: it is said; for no ALPS either: the other solver."""
    whole = prune(request(out="whole", solver=Choice("auto")), Listener())
    plenty = prune(request(out="plenty", solver=Choice("auto"), minutes=9.0), Listener())
    assert losses(plenty) == losses(whole)
    one, two = written("whole"), written("plenty")
    assert all(torch.equal(one[name], two[name]) for name in one)

    each = module_under_test.operations(digits, torch.zeros(1024, 64), 1) / module_under_test.MINUTE
    some = prune(request(out="some", solver=Choice("auto"), minutes=ALPS + 3.5 * each), Listener())
    same = prune(request(out="same", solver=Choice("auto"), passes=3), Listener())
    assert any("(3 of 10 passes, for which --minutes were enough)" in note for note in some.notes)
    assert losses(some) == losses(same)

    none = prune(request(out="none", solver=Choice("auto"), minutes=ALPS + 0.5 * each), Listener())
    assert any("left out: a pass takes about" in note for note in none.notes)
    assert any("alps for 2 layers" in note for note in none.notes)
    assert none.report.get("imitation_loss_before") is None

    least = prune(request(out="least", solver=Choice("auto"), minutes=0.4 * ALPS), Listener())
    assert any("sparsegpt for 1 layer, alps for 1 layer" in note for note in least.notes)


def test_minutes_are_those_of_auto(digits):
    """No other solver chooses by time: what would do nothing is refused."""
    for solver in (None, Choice("alps")):
        with pytest.raises(BadRequest, match="--minutes bounds what --solver auto chooses"):
            prune(request(out="refused", solver=solver, minutes=1.0), Listener())


@pytest.mark.parametrize(
    ("effort", "minutes", "passes", "shares"),
    [("auto", None, 10, 1), ("high", None, 10, 2), ("auto", 1.0, 4, 1), ("high", 1.0, 4, 1), ("high", 6.0, 10, 2), ("high", 0.6, 0, 1)],
)
def test_room_for_passes(effort, minutes, passes, shares):
    """A pass takes a fifth of a minute here, and .2 minutes are spent: the second rate is tried only where there is time for it."""
    room = module_under_test.Room.of(request(effort=effort, minutes=minutes), module_under_test.MINUTE / 5, 0.2 if passes else 0.5)
    assert (room.passes, len(room.shares)) == (passes, shares)


NORMED = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 16)), nn.ReLU(), nn.Linear(16, 10))
"""


@pytest.mark.slow
def test_weights_made_of_others_are_counted(tmp_path, digits):
    """A layer under weight norm has a weight, which is no parameter."""
    (tmp_path / "normed.py").write_text(NORMED, encoding="utf-8")
    net = build_architecture(Spec("normed.py:net"))
    assert module_under_test.operations(net, torch.zeros(5, 64), 1) == 4 * 5 * (64 * 16 + 16 * 10)


def test_minutes_of_several_tries_add_up(digits):
    """A budget of bytes may be tried for six times: each has a sixth of the minutes, and imitation what they all left."""
    fields = {"sparsity": None, "budget": Budget.parse("bytes=0.3"), "solver": Choice("auto")}
    few = prune(request(out="few", minutes=5 * ALPS, **fields), Listener())
    enough = prune(request(out="enough", minutes=6.1 * ALPS, **fields), Listener())
    assert "solver auto: sparsegpt for 1 layer, alps for 1 layer." in few.notes
    assert "solver auto: alps for 2 layers." in enough.notes


def test_one_solver_alone_takes_its_time(digits):
    """2:4 both ways is alps', however few the minutes; it is said."""
    found = prune(request(out="both", sparsity=None, pattern=Pattern.parse("2:4T"), solver=Choice("auto"), minutes=1e-9), Listener())
    assert any("no solver but alps repairs and holds 2:4T" in note for note in found.notes)


def test_the_rates_that_were_tried_are_told(digits, monkeypatch):
    """Where minutes were enough for one rate, no second one is told of, and what would help is."""
    real = module_under_test.Imitation
    monkeypatch.setattr(module_under_test, "Imitation", lambda **options: real(**options, lr=1e30))
    each = module_under_test.operations(digits, torch.zeros(1024, 64), 1) / module_under_test.MINUTE
    with pytest.raises(Anomalous, match="diverged, at the usual rate") as error:
        prune(request(out="high", solver=Choice("auto"), effort="high", minutes=ALPS + 3.5 * each), Listener())
    assert "fifth" not in str(error.value)
    assert "more --minutes" in str(error.value)


def test_fewer_minutes_are_never_more_training(digits, monkeypatch):
    """What is not worth its time in all its passes is not worth it in some of them."""
    each = module_under_test.operations(digits, torch.zeros(1024, 64), 1)
    monkeypatch.setattr(module_under_test, "WORTH", 9 * each / module_under_test.MOST)
    for name, minutes in (("whole", None), ("some", ALPS + 3.5 * each / module_under_test.MINUTE)):
        found = prune(request(out=name, solver=Choice("auto"), minutes=minutes), Listener())
        assert found.report.get("imitation_loss_before") is None


def test_memory_is_planned_for_the_solvers_that_minutes_leave(digits):
    """ALPS holds more than SparseGPT, and is not planned for where there is no time for it."""
    needs = []
    for minutes in (None, 1e-9):
        recipe = request(solver=Choice("auto"), minutes=minutes, samples=2, allocation="uniform")
        needs.append(solver_need(recipe, open_subject(recipe), ["1.weight", "4.weight"]).bytes)
    assert needs[0] > needs[1]
