"""Batch norm after pruning: the statistics that cost least on held-out data stay, and the others leave no trace."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths.holdout import hold_out
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages import norms as module_under_test
from sparsify_cli.stages.norms import ANEW, MOVED, SAVED, NormChoice, with_best_norms
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.subject import open_subject

NET = """
import torch
from torch import nn

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
        nn.init.eye_(self.first.weight)

    def forward(self, x):
        return self.norm(self.first(x))

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.first(x)

def data(split):
    x = torch.tensor([[4.0, 0.0], [0.0, 4.0]] * 20)
    return {"x": x, "y": torch.arange(40) % 2}
"""


def subject_of(kind="Normed", prefix="", **tensors):
    """A subject of net.py with some of its tensors set."""
    Path("net.py").write_text(NET, encoding="utf-8")
    own = {"first.weight": torch.eye(2)}
    if kind == "Normed":
        own |= {f"norm.{name}": torch.ones(2) for name in ("weight", "running_var")}
        own |= {f"norm.{name}": torch.zeros(2) for name in ("bias", "running_mean")}
        own["norm.num_batches_tracked"] = torch.tensor(7)
    torch.save({f"{prefix}{name}": tensor for name, tensor in {**own, **tensors}.items()}, f"{kind}.pt")
    return open_subject(recipe(kind))


def recipe(kind="Normed", **fields):
    """A prune recipe on it."""
    context = {"model": f"{kind}.pt", "arch": f"net.py:{kind}", "data": "net.py:data", "sparsity": Fraction(1, 2)}
    return PruneRecipe(**{**context, **fields})


def chosen(before, after, *, followed=False, **fields):
    """The subject with its best statistics, and the choice."""
    return with_best_norms(recipe(**fields), before, after, followed=followed)


def with_tensors(subject, **tensors):
    """The subject with other tensors, by names whose dots are written as two underscores."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return replace(subject, checkpoint=subject.checkpoint.with_tensors({**subject.checkpoint.tensors, **named}))


def test_better_statistics_are_kept():
    """A mean of 100 for one feature makes every prediction class 1; measured anew the classes are apart, and that is written."""
    before = subject_of(**{"norm.running_mean": torch.tensor([100.0, 0.0])})
    after, choice = chosen(before, before)
    assert choice is not None and choice.chosen == ANEW
    judges = before.samples("train").targets[hold_out(40)[1]]  # class 0: logits 4 - 100 and 0, so 100 - 4; class 1 costs nothing
    assert choice.losses[SAVED] == choice.losses[MOVED] == pytest.approx(96 * float((judges == 0).float().mean()), abs=0.01)
    assert choice.losses[ANEW] < 0.2
    stay = after.checkpoint.tensors["norm.running_mean"]
    torch.testing.assert_close(stay, torch.full((2,), 2.0), rtol=0, atol=0.5)


def test_worse_statistics_are_taken_back():
    """Where measuring anew and moving cost more, every tensor is as saved bit for bit, the batch counter too."""
    before = subject_of(**{"norm.running_var": torch.full((2,), 1e-4)})  # logits of +-200: no loss at all
    broken = with_tensors(before, first__weight=torch.tensor([[1.0, 0.0], [0.0, 0.9]]))
    after, choice = chosen(before, broken)
    assert choice is not None and choice.chosen == SAVED and choice.losses[SAVED] <= min(choice.losses.values())
    assert all(torch.equal(after.checkpoint.tensors[name], tensor) for name, tensor in broken.checkpoint.tensors.items())


def test_statistics_that_moved_can_be_best():
    """Weights halved, statistics 2 and 1 move to 1 and 1/4: logits of +-2 as before, while those measured anew give +-1."""
    before = subject_of(**{"norm.running_mean": torch.full((2,), 2.0)})
    halved = with_tensors(before, first__weight=torch.eye(2) / 2)
    after, choice = chosen(before, halved)
    expected = {SAVED: math.log(1 + math.exp(-2)), MOVED: math.log(1 + math.exp(-4)), ANEW: math.log(1 + math.exp(-2))}
    assert choice.chosen == MOVED and choice.losses == pytest.approx(expected, rel=5e-2)
    assert after.checkpoint.tensors["norm.running_mean"].tolist() == pytest.approx([1, 1])
    assert after.checkpoint.tensors["norm.running_var"].tolist() == pytest.approx([0.25, 0.25])


def test_followed_statistics_are_not_moved_twice():
    """With `followed`, those the subject has are the moved ones and the dense network's the saved ones."""
    before = subject_of(**{"norm.running_mean": torch.tensor([100.0, 0.0])})
    good = with_tensors(before, norm__running_mean=torch.full((2,), 2.0), norm__running_var=torch.full((2,), 1e-4))
    after, choice = chosen(before, good, followed=True)
    assert choice.chosen == MOVED and choice.losses[SAVED] > 10
    assert all(torch.equal(after.checkpoint.tensors[name], tensor) for name, tensor in good.checkpoint.tensors.items())


def test_nothing_happens_without_batch_norm():
    """A plain network, a recipe that says no, and one without data are left alone and nothing is chosen."""
    plain, normed = subject_of("Plain"), subject_of()
    assert chosen(plain, plain, model="Plain.pt", arch="net.py:Plain") == (plain, None)
    assert chosen(normed, normed, batchnorm=False) == (normed, None)
    blind = replace(normed, data=None)
    assert chosen(blind, blind) == (blind, None)


def test_names_with_a_prefix_get_their_statistics():
    """A checkpoint whose names have a wrapper's prefix gets what was chosen under its own names."""
    before = subject_of(**{"norm.running_mean": torch.tensor([100.0, 0.0])})
    names = before.checkpoint.tensors
    wrapped = replace(before, checkpoint=before.checkpoint.with_tensors({f"net.{name}": tensor for name, tensor in names.items()}))
    plain, _ = chosen(before, before)
    after, choice = chosen(wrapped, wrapped)
    assert choice.chosen == ANEW
    for name in names:
        assert torch.equal(after.checkpoint.tensors[f"net.{name}"], plain.checkpoint.tensors[name])


def test_few_samples_are_measured_when_many_are_there(monkeypatch):
    """No more than enough, in shuffled order: both classes are among them although every second sample is of one."""
    monkeypatch.setattr(module_under_test, "ENOUGH", 12)
    before = subject_of(**{"norm.running_mean": torch.tensor([100.0, 0.0])})
    after, _ = chosen(before, before)
    mean = after.checkpoint.tensors["norm.running_mean"]
    assert float(mean.sum()) == pytest.approx(4, abs=1e-5) and 0 < float(mean[0]) < 4
    assert torch.equal(mean * 3, (mean * 3).round())  # twelve samples of 0 or 4: a multiple of a third


@pytest.mark.parametrize(
    ("losses", "name"),
    [
        ({SAVED: 1.0, MOVED: 1.0, ANEW: 1.0}, SAVED),
        ({SAVED: 2.0, MOVED: 1.0, ANEW: 1.0}, MOVED),
        ({SAVED: math.nan, MOVED: math.inf, ANEW: 5.0}, ANEW),
        ({SAVED: 1.0, MOVED: math.nan}, SAVED),
        ({SAVED: math.nan, MOVED: math.nan}, SAVED),
    ],
)
def test_the_least_finite_loss_is_chosen(losses, name):
    """Where equal those that changed least; never one that is not a number while another is."""
    choice = NormChoice(losses)
    assert choice.chosen == name and choice.note().endswith(f"kept {name}.")
    assert [(one.name, one.unit) for one in choice.findings()] == [
        (f"batchnorm_loss_{word}", "nats") for word in ("before", "moved", "after")[: len(losses)]
    ]


def test_a_pruning_says_what_was_chosen():
    """End to end: three losses in the report and one note, with a solver and without one."""
    subject_of(**{"norm.running_mean": torch.tensor([100.0, 0.0])})
    for solver in (None, Choice("sparsegpt")):
        outcome = prune(recipe(solver=solver), Listener())
        found = {name: outcome.report.get(f"batchnorm_loss_{name}").value for name in ("before", "moved", "after")}
        assert found["after"] == min(found.values())
        assert sum("kept measured anew" in note for note in outcome.notes) == 1
