"""Two checkpoints beside each other: every kind of difference, found and told."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.verbs import InspectRecipe
from sparsify_cli.stages.inspect import inspect
from sparsify_cli.stages.inspect_difference import Difference, difference
from tests.strategies import tiny_mlp


def compared(**options):
    """The outcome of comparing a.pt and b.pt."""
    return inspect(InspectRecipe(path=("a.pt", "b.pt"), **options), Listener())


def test_every_kind_of_difference():
    """Same, other values, other shape, other type, and names that only one has."""
    one = {"same": torch.ones(3), "value": torch.tensor([0.0, 2, 3]), "shape": torch.ones(2), "type": torch.ones(2), "a": torch.ones(1)}
    two = {
        "same": torch.ones(3),
        "value": torch.tensor([1.0, 2, 7]),
        "shape": torch.ones(3),
        "type": torch.ones(2).half(),
        "b": torch.ones(1),
    }
    torch.save(one, "a.pt")
    torch.save(two, "b.pt")
    outcome = compared()
    told = outcome.report.facts["tensors"]
    assert {name: found["status"] for name, found in told.items()} == {
        "same": "same", "value": "values differ", "shape": "shape differs", "type": "dtype differs", "a": "only in A", "b": "only in B",
    }  # fmt: skip
    assert (told["value"]["differing"], told["value"]["largest"], told["value"]["zeros_kept"]) == (2, 4.0, False)
    assert told["type"]["differing"] == 0 and told["shape"]["said"] == "[2] and [3]"
    assert not outcome.report.facts["same"] and outcome.headline.endswith(
        "6 tensors: 1 same, 1 values differ, 1 dtype differs, 1 shape differs, 1 only in A, 1 only in B."
    )
    assert [row[0] for row in outcome.tables[1].rows] == ["value", "shape", "type", "a", "b"]


def test_the_same_file_in_another_wrapper():
    """Tensors are the same, the file is built otherwise: wrapper, prefix and what lies beside the weights."""
    state = tiny_mlp().state_dict()
    torch.save(state, "a.pt")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, "b.pt")
    facts = compared().report.facts
    assert facts["same"] and not facts["structure_same"]
    assert {key for key, one in facts["structure"].items() if not one["same"]} == {"weights under", "prefix", "also holds"}
    assert facts["a"]["wrapper"] == [] and facts["b"]["wrapper"] == ["state_dict"]


def test_headers_alone():
    """Without values only shapes and types are compared, and that is said."""
    torch.save({"w": torch.ones(2)}, "a.pt")
    torch.save({"w": torch.zeros(2)}, "b.pt")
    outcome = compared(values=False)
    assert outcome.report.facts["tensors"] == {"w": {"status": "same shape and type"}} and not outcome.report.facts["same"]
    assert "add --values" in outcome.notes[0]


def test_pruned_further():
    """Zeros of the first that are all zeros of the second are told as kept."""
    torch.save({"w": torch.tensor([[0.0, 1], [2, 3]])}, "a.pt")
    torch.save({"w": torch.tensor([[0.0, 0], [2, 3]])}, "b.pt")
    told = compared().report.facts["tensors"]["w"]
    assert (told["differing"], told["zeros_a"], told["zeros_kept"], told["largest"]) == (1, 1, True, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), Difference(1, 1, 0.0, 1, True)),
        (torch.tensor([float("nan"), 1]), torch.tensor([float("nan"), 1]), Difference(2, 0, 0.0, 0, True)),
        (torch.tensor([float("nan"), 1]), torch.tensor([0.0, 1]), Difference(2, 1, None, 0, True)),
        (torch.tensor([True, False]), torch.tensor([True, True]), Difference(2, 1, 1.0, 1, False)),
        (torch.tensor([1j, 2]), torch.tensor([1j, 5]), Difference(2, 1, 3.0, 0, True)),
        (torch.tensor([1j, 2]).to(torch.complex128), torch.tensor([1j, 5]).to(torch.complex128), Difference(2, 1, 3.0, 0, True)),
        (torch.tensor([1.0, 0]).to(torch.float8_e4m3fn), torch.tensor([2.0, 0]).to(torch.float8_e4m3fn), Difference(2, 1, 1.0, 1, True)),
        (torch.tensor([0, 7]).to(torch.uint16), torch.tensor([0, 9]).to(torch.uint16), Difference(2, 1, 2.0, 1, True)),
        (torch.zeros(0), torch.zeros(0), Difference()),
        (torch.tensor(3.0), torch.tensor(3.5), Difference(1, 1, 0.5, 0, True)),
    ],
)
def test_differences_by_hand(a, b, found):
    """Negative zero is other bits of the same value; NaN is NaN; what is not finite has no largest difference."""
    assert difference(a, b) == found


def test_slices_add_up(monkeypatch):
    """Tensors of several slices: counts are sums, the largest is the largest."""
    monkeypatch.setattr("sparsify_cli.stages.inspect_difference.SLICE", 2)
    assert difference(torch.tensor([0.0, 1, 2, 3, 4]), torch.tensor([0.0, 1, 5, 3, 6])) == Difference(5, 2, 3.0, 1, True)


def test_three_are_too_many():
    """Two can be compared."""
    with pytest.raises(BadRequest, match="3 paths"):
        inspect(InspectRecipe(path=("a", "b", "c")), Listener())
