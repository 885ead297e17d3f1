"""What is measured before zeros are shared out: the harm of the pruning that is asked for, or none is claimed to be known."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import open_subject

NETS = """
import torch
from torch import nn

class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"fc": nn.Linear(32, 32)}) for _ in range(4)])
        self.head = nn.Linear(32, 5)
    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer["fc"](x))
        return self.head(x)

class Up(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Unflatten(1, (32, 1)), nn.ConvTranspose1d(32, 16, 4), nn.ReLU(), nn.ConvTranspose1d(16, 1, 2), nn.Flatten())

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.up, self.head = nn.Linear(1, 1), nn.ConvTranspose1d(4, 4, 3, padding=1), nn.Linear(32, 5)
    def forward(self, x):
        x = self.scale(x.unsqueeze(-1)).reshape(-1, 4, 8)
        return self.head(torch.relu(self.up(x)).flatten(1))

class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5))

def data(split):
    generator = torch.Generator().manual_seed({"train": 0, "validation": 1, "test": 2}[split])
    x = torch.randn(120, 32, generator=generator) * torch.linspace(0.2, 3, 32)
    return {"x": x, "y": x[:, :5].argmax(1)}
"""


@pytest.fixture
def net():
    """Name -> a request to prune the network of that name, whose weights are random."""
    Path("nets.py").write_text(NETS, encoding="utf-8")
    namespace: dict[str, type[nn.Module]] = {}
    exec(NETS, namespace)

    def asked(name, **fields):
        torch.manual_seed(0)
        torch.save(namespace[name]().state_dict(), f"{name}.pt")
        fields = {"sparsity": Fraction(1, 2), **fields} if "budget" not in fields else fields
        return PruneRecipe(model=f"{name}.pt", arch=f"nets.py:{name}", data="nets.py:data", out="out", samples=64, **fields)

    return asked


def counts(recipe, notes=None):
    """Weights that stay in each prunable tensor."""
    listener = Listener()
    listener.note = (notes if notes is not None else []).append
    prune(recipe, listener)
    found = open_subject(PruneRecipe(model="out"))
    left = {name: int(found.checkpoint.tensors[name].count_nonzero()) for name in found.masks}
    rmtree("out")
    return left


def test_outliers_are_counted_among_sizes_where_places_compete(net):
    """Published OWL with Wanda: counts are those of |w| |x|, rows compete by their places; places have no outliers."""
    by_size = counts(net("Blocks", criterion=Choice("wanda"), allocation="owl", sparsity=Fraction(7, 10)))
    by_place = counts(net("Blocks", criterion=Choice("wanda", {"scope": "row"}), allocation="owl", sparsity=Fraction(7, 10)))
    assert by_place == by_size and len(set(by_size.values())) > 2


def test_solvers_of_networks_share_by_outliers_of_what_inputs_weigh(net):
    """Costs of removal have no outliers that mean anything: counts are those of |w| |x|, in the last stage, too."""
    by_size = counts(net("Blocks", criterion=Choice("wanda"), allocation="owl", sparsity=Fraction(7, 10)))
    solver = Choice("woodfisher", {"stages": 2, "gradients": 32})
    assert counts(net("Blocks", solver=solver, allocation="owl", sparsity=Fraction(7, 10))) == by_size


def test_harm_that_can_be_measured_for_no_layer_is_refused(net):
    """A network of transposed convolutions: a sentence, and what to do."""
    with pytest.raises(BadRequest, match=r"harm of pruning can be measured for none of 2 tensors.*another --allocation"):
        prune(net("Up", allocation="dp"), Listener())


def test_a_layer_of_one_weight_does_not_stop_what_others_tell(net):
    """Its curve has no level but dense; the transposed convolution, which cannot be measured, counts as the linear layer, and is named."""
    notes: list[str] = []
    left = counts(net("Scaled", allocation="dp"), notes)
    assert sum(left.values()) == -(-(1 + 48 + 160) // 2) and left["scale.weight"] == 1 and left["up.weight"] > 0
    assert any("1 of 3 tensors, first up.weight" in note for note in notes)


def test_what_is_measured_is_the_criterion_and_the_pattern_asked_for(net):
    """Random weights, or whole blocks, harm layers otherwise than the smallest weights; counts follow."""
    asked = [{}, {"criterion": Choice("random")}, {"pattern": Pattern.parse("block:4x4")}, {"criterion": Choice("geometric-median")}]
    found = [tuple(counts(net("Blocks", allocation="dp", sparsity=Fraction(7, 10), **fields)).values()) for fields in asked]
    assert len(set(found)) == len(found)


def test_statistics_are_no_parameters_of_a_budget(net):
    """As in every count of the report: 2,501 parameters beside 128 running statistics."""
    left = counts(net("Normed", budget=Budget.parse("params=1000"), allocation="global"))
    assert sum(left.values()) == 1000 - (64 + 64 + 64 + 5)
