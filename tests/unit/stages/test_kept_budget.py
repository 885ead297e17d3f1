"""A budget of bytes holds for the file that is written, also where zeros lie close together; one of work is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsify_cli.cli.app import main
from sparsify_cli.errors import Infeasible
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages import kept_budget
from sparsify_cli.stages.kept_budget import kept_to_budget
from sparsify_cli.stages.solve import Solved
from sparsify_cli.stages.subject import open_path
from sparsify_cli.values.mask_set import MaskSet


def clustered():
    """Rows of very different sizes, so that whole rows go and others stay."""
    torch.manual_seed(0)
    return {name: torch.randn(rows, 128) * torch.logspace(2, -3, rows)[:, None] for name, rows in (("a.weight", 256), ("b.weight", 64))}


@pytest.mark.parametrize("asked", ["12000B", "6000B", "0.05"])
@pytest.mark.parametrize("pattern", ["unstructured", "block:1x8"])
def test_the_written_file_keeps_the_budget(asked, pattern):
    """To the byte, and hardly below it: a file of 164 kB, at three budgets."""
    torch.save(clustered(), "model.pt")
    assert main(["prune", "model.pt", "--budget", f"bytes={asked}", "--pattern", pattern, "--out", "pruned"]) == 0
    assert main(["export", "pruned", "--to", "packed", "--out", "packed"]) == 0
    size, most = Path("packed/model.packed.safetensors").stat().st_size, 8233 if asked == "0.05" else int(asked[:-1])
    assert 0.9 * most < size <= most + (most == 8233) * 100


def test_what_cannot_be_kept_is_said(monkeypatch):
    """A method whose file never gets smaller: five tries, then the nearest that might hold, and nothing is handed back."""
    torch.save(clustered(), "model.pt")
    subject, tried = open_path(Path("model.pt")), []
    monkeypatch.setattr(kept_budget, "packed_bytes", lambda tensors: 5000)

    def pruned(recipe):
        tried.append(recipe.budget)
        return Solved(dict(subject.checkpoint.tensors), MaskSet({}))

    with pytest.raises(Infeasible, match=r"has 5,000 bytes, and the budget allows 4,000.*bytes=\d+B"):
        kept_to_budget(PruneRecipe(model="model.pt", budget=Budget.parse("bytes=4000")), subject, pruned)
    assert len(tried) == kept_budget.TRIES + 1
    assert [float(budget.value) for budget in tried] == sorted((float(budget.value) for budget in tried), reverse=True)


def test_work_that_is_left_is_said(capsys):
    """The note of a budget of multiply-accumulates counts the masks: no more than a quarter of the dense network's."""
    assert main(["train", "--arch", "cnn", "--data", "digits", "--epochs", "1", "--out", "dense", "--format", "quiet"]) == 0
    assert main(["prune", "dense", "--budget", "macs=0.25", "--out", "pruned", "--format", "json"]) == 0
    said = capsys.readouterr()
    note = next(line for line in (said.out + said.err).splitlines() if "multiply-accumulates of a sample" in line)
    left, dense = (int(word.replace(",", "")) for word in note.split(": ")[-1].split(" (")[0].split(" of "))
    assert 0.24 * dense < left <= 0.25 * dense
    assert json.loads(Path("pruned/manifest.json").read_text())["recipe"]["budget"] == "macs=0.25"


TIED = """
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())
"""


def test_a_tied_weight_counts_once():
    """Two names of one weight, of which one is pruned: the budget is met at the first try and nearly used up."""
    Path("net.py").write_text(TIED)
    weight, biases = torch.randn(64, 64), {"first.bias": torch.zeros(64), "second.bias": torch.zeros(64)}
    torch.save({"first.weight": weight, "second.weight": weight, **biases}, "tied.pt")
    assert main(["prune", "tied.pt", "--arch", "net.py:Tied", "--budget", "bytes=8000B", "--out", "pruned"]) == 0
    packed = next(n["value"] for n in json.loads(Path("pruned/manifest.json").read_text())["numbers"] if n["name"] == "bytes_packed")
    assert 0.9 * 8000 < packed <= 8000
