"""How many weights each layer keeps: budgets are met, allocations by cost spare what costs most, and what cannot be is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, Infeasible, NonFinite
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.sensitivity import LayerCosts
from sparsify_cli.stages.shares import curves_of, is_counted_alone, resolved
from sparsify_cli.stages.sparsifier import sparsifier
from sparsify_cli.stages.subject import open_subject

NET = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))

def data(split):
    generator = torch.Generator().manual_seed({"train": 0, "validation": 1, "test": 2}[split])
    return {"x": torch.randn(60, 1, 6, 6, generator=generator), "y": torch.arange(60) % 10}
"""
WEIGHTS = {"0.weight": 72, "2.weight": 576, "5.weight": 1280}
BIASES = 8 + 8 + 10
MACS = {"0.weight": 36, "2.weight": 16, "5.weight": 1}  # positions of the outputs


@pytest.fixture
def files():
    """net.py and a checkpoint of its network in the current folder."""
    Path("net.py").write_text(NET, encoding="utf-8")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    torch.save(net.state_dict(), "model.pt")


def request(**fields):
    """A prune recipe on the files."""
    return PruneRecipe(**{"model": "model.pt", "arch": "net.py:net", "data": "net.py:data", "out": "out", "samples": 32, **fields})


def kept(recipe, out="out"):
    """Weights that are not zero in what was written."""
    prune(recipe, Listener())
    tensors = open_subject(PruneRecipe(model=out)).checkpoint.tensors
    return {name: int(tensors[name].count_nonzero()) for name in WEIGHTS}


@pytest.mark.parametrize("fields", [{}, {"allocation": "uniform"}, {"allocation": "dp"}, {"solver": Choice("sparsegpt")}], ids=str)
def test_a_budget_of_parameters_is_met_exactly(files, fields):
    """Weights that stay and everything that is not pruned are as many as may stay, as an amount and as a share."""
    for budget, limit in (("params=500", 500), ("params=0.25", (1928 + BIASES) // 4)):
        found = sum(kept(request(budget=Budget.parse(budget), out="out", **fields)).values()) + BIASES
        assert limit - 3 * (fields.get("allocation") == "uniform") <= found <= limit
        Path("out").rename(f"out-{limit}")


@pytest.mark.parametrize("fields", [{}, {"allocation": "dp"}, {"solver": Choice("sparsegpt")}], ids=str)
def test_a_budget_of_multiplications_is_met_from_below(files, fields):
    """Weights times the positions they are used at; no more than a position's worth is left over."""
    dense = sum(count * MACS[name] for name, count in WEIGHTS.items())
    found = sum(count * MACS[name] for name, count in kept(request(budget=Budget.parse("macs=0.3"), **fields)).items())
    assert dense * Fraction(3, 10) - 36 < found <= dense * Fraction(3, 10)


def test_a_budget_holds_for_solvers_of_networks(files):
    """A second-order method gets the counts of the budget too."""
    recipe = request(budget=Budget.parse("params=700"), solver=Choice("woodfisher"), samples=16)
    assert sum(kept(recipe).values()) + BIASES == 700


@pytest.mark.parametrize("fields", [{"budget": Budget.parse("params=300")}, {"pattern": Pattern.parse("1:4")}], ids=str)
def test_stages_come_to_something(files, fields):
    """Eight stages end elsewhere than one, also towards a budget or a pattern; both are met."""
    found = []
    for stages in (1, 8):
        solver = Choice("woodfisher", {"stages": stages})
        assert sum(kept(request(solver=solver, samples=16, out=f"out{stages}", **fields), f"out{stages}").values())
        found.append(open_subject(PruneRecipe(model=f"out{stages}")).masks)
    assert found[0].kept == found[1].kept and found[0] != found[1]


def test_a_budget_of_weights_is_a_sparsity(files):
    """With a solver of networks both ways of asking for 300 weights give the same network: its own scores say where."""
    left = Fraction(300 - BIASES, 1928)
    for name, fields in (("budget", {"budget": Budget.parse("params=300")}), ("share", {"sparsity": 1 - left})):
        prune(request(solver=Choice("woodfisher"), samples=16, out=name, **fields), Listener())
    one, other = (open_subject(PruneRecipe(model=name)).checkpoint.tensors for name in ("budget", "share"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_budget_holds_with_a_pattern(files):
    """2:4 caps what layers keep, the layer that cannot carry it stays dense and counts, and all of it fits."""
    found = kept(request(budget=Budget.parse("params=600"), pattern=Pattern.parse("2:4")))
    assert found["0.weight"] == 72 and found["2.weight"] <= 288 and found["5.weight"] <= 640
    assert sum(found.values()) + BIASES == 600


def test_what_cannot_be_met_names_the_nearest(files):
    """Each of three layers keeps a weight and nothing is taken off biases; that much can be met, one less cannot."""
    for solver, least in ((Choice("sparsegpt"), BIASES + 3), (None, BIASES)):
        with pytest.raises(Infeasible, match=f"params={least}"):
            prune(request(budget=Budget("params", Fraction(least - 1)), solver=solver), Listener())
    assert sum(kept(request(budget=Budget("params", Fraction(BIASES + 3)), solver=Choice("sparsegpt"))).values()) == 3


def test_measured_costs_spare_the_layer_that_matters(files):
    """A layer whose outputs are multiplied by nothing further on goes first, and the total is exact."""
    tensors = torch.load("model.pt", weights_only=True)
    tensors["5.weight"][:, 64:] = tensors["5.weight"][:, 64:].sign() * 1e-3  # the last four channels hardly count
    tensors["5.weight"][:, :64] *= 3
    torch.save(tensors, "model.pt")
    for allocation in ("dp", "sensitivity"):
        found = kept(request(sparsity=Fraction(1, 2), allocation=allocation, solver=Choice("sparsegpt"), out="out"))
        assert sum(found.values()) == 1928 // 2
        assert found["5.weight"] / 1280 < found["0.weight"] / 72
        Path("out").rename(f"out-{allocation}")


def test_auto_is_by_cost_where_layers_are_repaired():
    """With a solver of layers; else one ranking of all weights, which pruning in slices can do."""
    half = {"sparsity": Fraction(1, 2)}
    assert resolved(PruneRecipe(**half)).allocation == resolved(PruneRecipe(solver=Choice("woodfisher"), **half)).allocation == "global"
    assert {resolved(PruneRecipe(solver=Choice(name), **half)).allocation for name in ("sparsegpt", "alps", "auto")} == {"dp"}
    given = PruneRecipe(allocation="erk", solver=Choice("alps"), **half)
    assert resolved(given) is given
    assert is_counted_alone(resolved(PruneRecipe(**half))) and is_counted_alone(given)
    others = (
        {"allocation": "dp"},
        {"allocation": "global", "effort": "high"},
        {"allocation": "global", "budget": Budget.parse("params=9")},
    )
    assert not any(is_counted_alone(PruneRecipe(**half, **fields)) for fields in others)


def test_what_could_not_be_measured_costs_the_average():
    """Half of the weights of a measured layer cost 0.2 + 0.6 of 300 weights: of 150 weights half that, and it rises."""
    costs = {
        "a": LayerCosts("a", 100, (50, 10), (0.1, 0.5), (0.2, 1.0), (50, 10)),
        "b": LayerCosts("b", 200, (100, 20), (0.1, 0.5), (0.6, 3.0), (100, 20)),
    }
    chooser = sparsifier(PruneRecipe(sparsity=Fraction(1, 2)), ["a", "b", "c"])
    curves = curves_of(costs, chooser, {"a": torch.zeros(100), "b": torch.zeros(200), "c": torch.zeros(10, 15)})
    assert list(curves) == ["a", "b", "c"] and curves["a"] == costs["a"].curve("a")
    assert curves["c"].cost(75) == pytest.approx((0.2 + 0.6) * 150 / 300) and curves["c"].cost(150) == 0
    assert curves["c"].cost(15) == pytest.approx((1.0 + 3.0) * 150 / 300)
    with pytest.raises(BadRequest, match="none of 3 tensors, first a"):
        curves_of({}, chooser, {name: torch.zeros(20) for name in "abc"})


def test_scores_that_do_not_compare_share_evenly(files):
    """Every layer loses half by default; one ranking empties layers, and is done where it is asked for."""
    for criterion in ("geometric-median", "apoz", "wanda"):
        found = kept(request(criterion=Choice(criterion), sparsity=Fraction(1, 2), out=criterion), criterion)
        assert found == {name: count // 2 for name, count in WEIGHTS.items()}
    found = kept(request(criterion=Choice("geometric-median"), sparsity=Fraction(1, 2), allocation="global"))
    assert found != {name: count // 2 for name, count in WEIGHTS.items()} and sum(found.values()) == 1928 // 2


def test_outliers_beside_a_solver_are_those_of_wanda(files):
    """The counts of owl with a solver are those that owl gives to |w| |x|, not to |w|; a criterion that is named decides."""
    tensors = torch.load("model.pt", weights_only=True)
    torch.save({name: tensor**3 * 20 if "weight" in name else tensor for name, tensor in tensors.items()}, "model.pt")  # heavy tails
    ask = {"solver": Choice("sparsegpt"), "allocation": "owl", "sparsity": Fraction(7, 10)}
    found = kept(request(**ask))
    assert found == kept(request(**ask | {"solver": None, "criterion": Choice("wanda"), "out": "seen"}), "seen")
    assert found != kept(request(**ask | {"solver": None, "out": "unseen"}), "unseen")


def notes_of(**fields):
    """What prune says."""
    return " ".join(prune(request(**fields), Listener()).notes)


def test_what_decides_nothing_is_said(files):
    """A criterion beside a solver that chooses by itself; one whose scores share out the counts decides these."""
    half = {"sparsity": Fraction(1, 2), "criterion": Choice("taylor")}
    assert "--criterion taylor decided nothing: the solver sparsegpt" in notes_of(**half, solver=Choice("sparsegpt"), out="a")
    assert "decided nothing" in notes_of(**half, solver=Choice("woodfisher"), out="b")
    assert "decided nothing" not in notes_of(**half, solver=Choice("sparsegpt"), allocation="global", out="c")
    assert "decided nothing" not in notes_of(**half, out="d")


def test_augmented_copies_are_seen_by_gradients(files):
    """They change what a solver of networks and a criterion do, and are told apart from samples."""
    for name, fields in (("solver", {"solver": Choice("m-fac")}), ("criterion", {"criterion": Choice("taylor")})):
        plain, more = (kept(request(sparsity=Fraction(1, 2), augment=n, out=f"{name}{n}", **fields), f"{name}{n}") for n in (0, 2))
        assert plain != more and sum(plain.values()) == sum(more.values())
    assert "(2 augmented copies of each)" in notes_of(sparsity=Fraction(1, 2), solver=Choice("m-fac"), augment=2, out="told")


def test_a_layer_that_is_left_a_single_weight_is_named(files):
    """The least a solver leaves is said; where more is left, nothing is."""
    assert "a single weight (" in notes_of(sparsity=Fraction(1925, 1928), solver=Choice("sparsegpt"), out="a")
    assert "single" not in notes_of(sparsity=Fraction(1, 2), solver=Choice("sparsegpt"), out="b")


def test_a_network_that_is_not_finite_names_the_layer(files):
    """Before costs of layers are measured; where only the last outputs are not, that is said."""
    Path("bad.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Log(nn.Module):\n    def forward(self, x):\n        return torch.log(x - 100)\n"
        "def mid():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), Log(), nn.Linear(8, 10))\n"
        "def end():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 10), Log())\n"
    )
    for net, said in (("mid", "inputs of 3.weight are NaN"), ("end", "outputs are NaN or infinite")):
        layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Identity(), nn.Linear(8, 10))
        layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 10)) if net == "end" else layers
        torch.save(layers.state_dict(), f"{net}.pt")
        with pytest.raises(NonFinite, match=said):
            prune(request(model=f"{net}.pt", arch=f"bad.py:{net}", sparsity=Fraction(1, 2), solver=Choice("alps")), Listener())
