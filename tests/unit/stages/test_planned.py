"""The plan before anything is done: every tensor, its own target, and the refusals of the pruning itself."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import Infeasible, NonFinite
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.planned import facts, plan_table, planned

HALF = Fraction(1, 2)


@pytest.fixture
def model() -> str:
    """Two layers, of which one has three inputs, and a sparse tensor."""
    tensors = {"a.weight": torch.arange(1.0, 33).reshape(4, 8), "b.weight": torch.arange(1.0, 13).reshape(4, 3)}
    torch.save({**tensors, "c.weight": torch.eye(4).to_sparse()}, "model.pt")
    torch.save(tensors, "plain.pt")
    return "model.pt"


@pytest.mark.parametrize(
    ("asked", "targets"),
    [
        ({"sparsity": HALF}, {"a.weight": "global", "b.weight": "global"}),
        ({"sparsity": HALF, "allocation": "uniform"}, {"a.weight": "50%", "b.weight": "50%"}),
        ({"sparsity": HALF, "allocation": "erk"}, {"a.weight": "erk", "b.weight": "erk"}),
        ({"pattern": Pattern(1, 4)}, {"a.weight": "75%", "b.weight": "dense"}),
    ],
)
def test_each_layer_has_its_target(model, asked, targets):
    """A layer's own sparsity where there is one; what shares zeros out where there is none; layers that cannot carry N:M stay dense."""
    found = planned(PruneRecipe(model=model, **asked), Listener())
    assert found.targets == targets
    plan = facts(found)["plan"]
    assert {name: plan[name]["target"] for name in targets} == targets
    column = plan_table(found).columns.index("target")
    assert [row[column] for row in plan_table(found).rows[:2]] == list(targets.values())


def test_odd_tensors_are_listed(model):
    """A sparse tensor has a row with the reason why it stays, and no numbers."""
    found = planned(PruneRecipe(model=model, sparsity=HALF), Listener())
    assert list(facts(found)["plan"]) == ["a.weight", "b.weight", "c.weight"]
    row = next(row for row in plan_table(found).rows if row[0] == "c.weight")
    assert "sparse" in row[-1] and not any(row[1:-1])


def test_the_plan_refuses_what_pruning_in_memory_would(model):
    """--strict with a layer that cannot carry the pattern, and infinite weights."""
    with pytest.raises(Infeasible, match=r"b\.weight"):
        planned(PruneRecipe(model="plain.pt", criterion=Choice("random"), pattern=Pattern(2, 4), strict=True), Listener())
    torch.save({"a.weight": torch.full((4, 4), torch.inf)}, "bad.pt")
    asked = {"model": "bad.pt", "criterion": Choice("random"), "sparsity": HALF}
    with pytest.raises(NonFinite, match=r"a\.weight \(16\)"):
        planned(PruneRecipe(**asked), Listener())
    assert planned(PruneRecipe(**asked, allow_nonfinite=True), Listener()).kept == {"a.weight": 8}


def test_a_dry_run_tells_how_far_it_is():
    """Counting is heard to its last byte: a plan of a large file takes as long as reading it."""
    heard = []

    class Ear(Listener):
        def progress(self, now):
            heard.append((now.label, now.step, now.total))

    torch.save({"a.weight": torch.randn(64, 64)}, "told.pt")
    planned(PruneRecipe(model="told.pt", sparsity=HALF), Ear())
    assert ("counting", 64 * 64 * 4, 64 * 64 * 4) in heard
