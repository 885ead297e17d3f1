"""Inspect: what is in a file or an artifact, patterns found again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingFile
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import InspectRecipe, PruneRecipe
from sparsify_cli.stages.inspect import found_pattern, inspect
from sparsify_cli.stages.prune import prune
from sparsify_cli.values.artifact import write_manifest
from tests.strategies import tiny_mlp


def looked_at(path):
    """The outcome of inspecting a path."""
    return inspect(InspectRecipe(path=str(path)), Listener())


def rows(outcome):
    """The table of tensors by name."""
    return {row[0]: row[1:] for row in outcome.tables[0].rows}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], "1:4"),
        ([1, 0, 1, 0, 0, 1, 1, 0], "1:2"),
        ([1, 1, 0, 0, 0, 1, 1, 0], "2:4"),
        ([1, 1, 1, 0, 1, 0, 0, 0], "4:8"),
        ([1, 1, 1, 0, 1, 1, 0, 0], ""),
        ([1, 1, 1, 1, 1, 1, 1, 1], ""),
    ],
)
def test_the_strictest_pattern_is_found(row, found):
    """Eight inputs by hand; every pair with at most one is 1:2, which says more than 2:4."""
    assert found_pattern(torch.tensor([row, row]).float()) == found


def test_patterns_of_convolutions_run_along_channels():
    """Four input channels at each kernel position; along the kernel nothing is asked."""
    weight = torch.zeros(2, 4, 3, 3)
    weight[:, 0] = 1
    assert found_pattern(weight) == "1:4"
    assert found_pattern(torch.eye(3)) == found_pattern(torch.zeros(8)) == found_pattern(torch.zeros(4, 4).long()) == ""


def test_a_wrapped_file():
    """Counts, shapes, types, the wrapper and the prefix that were taken off."""
    state = {f"module.{name}": tensor for name, tensor in tiny_mlp().state_dict().items()}
    torch.save({"state_dict": {**state, "module.steps": torch.tensor(3)}}, "model.pt")
    outcome = looked_at("model.pt")
    assert outcome.headline == "model.pt: 5 tensors, 195 numbers."
    assert rows(outcome)["0.weight"] == ("16x8", "float32", "0.0%", "", "yes")
    assert rows(outcome)["steps"] == ("scalar", "int64", "0.0%", "", "no")
    assert outcome.notes == ("weights found under the key state_dict", "the key prefix 'module.' was removed")
    assert outcome.report.facts["prunable"] == ["0.weight", "2.weight"]
    assert outcome.artifact is None and not Path("runs").exists()


def test_a_pruned_artifact():
    """Zeros and pattern of each tensor, and what it was made from."""
    torch.save(tiny_mlp().state_dict(), "model.pt")
    folder = prune(PruneRecipe(model="model.pt", pattern=Pattern.parse("2:4")), Listener()).artifact
    outcome = looked_at(folder)
    assert rows(outcome)["0.weight"][2:] == ("50.0%", "2:4", "yes")
    assert rows(outcome)["0.bias"][2:] == ("0.0%", "", "no")
    assert outcome.report.get("sparsity").value == 0.5
    assert any(note.startswith("made by `prune` from ") for note in outcome.notes)
    assert outcome.report.facts["manifest"]["verb"] == "prune"
    assert outcome.report.facts["tensors"]["2.weight"] == {"shape": [3, 16], "zeros": 24}


def test_nothing_prunable_is_no_error():
    """A file of vectors can be looked at."""
    torch.save({"bias": torch.ones(3)}, "model.pt")
    assert rows(looked_at("model.pt"))["bias"][-1] == "no"


def test_odd_tensors():
    """Empty tensors, whole numbers, half and complex types, NaN: looked at, not judged."""
    torch.save(
        {
            "empty": torch.zeros(0, 4),
            "i": torch.ones(2, 2).long(),
            "h": torch.ones(4, 4).half(),
            "c": torch.ones(2, 2) * 1j,
            "nan": torch.full((2, 2), float("nan")),
        },
        "model.pt",
    )
    assert [row[1] for row in rows(looked_at("model.pt")).values()] == ["float32", "int64", "float16", "complex64", "float32"]


def test_an_artifact_without_a_network():
    """A memo or an export is described from its manifest."""
    folder = Path("runs/001-unlearn-m")
    folder.mkdir(parents=True)
    numbers = [{"name": "samples", "scope": "all", "value": 5}]
    write_manifest(folder, {"status": "complete", "verb": "unlearn", "weights": None, "numbers": numbers})
    outcome = looked_at(folder)
    assert "made by `unlearn`, complete; files: manifest.json." in outcome.headline
    assert outcome.tables[0].rows == (("samples", "all", "5"),)


def test_levels_are_listed():
    """An embedded artifact shows its levels with their counts, sparsest first."""
    from sparsify_cli.recipes.verbs import EmbedRecipe
    from sparsify_cli.stages.embed import embed

    recipe = EmbedRecipe(
        arch="mlp", arch_arg=("inputs=64",), data="digits", levels=(Fraction(9, 10), Fraction(1, 2)), epochs=1, batch_size=512
    )
    outcome = looked_at(embed(recipe, Listener()).artifact)
    (table,) = (table for table in outcome.tables if table.title == "embedded levels")
    assert [row[:2] for row in table.rows] == [("1", "0.9"), ("2", "0.5")]
    assert int(table.rows[0][2].replace(",", "")) * 5 == pytest.approx(int(table.rows[1][2].replace(",", "")), rel=0.001)


def test_what_cannot_be_inspected():
    """Nothing named, nothing there, a folder that is no artifact."""
    with pytest.raises(BadRequest, match="Nothing was named"):
        looked_at("")
    with pytest.raises(MissingFile, match="nowhere"):
        looked_at("nowhere")
    Path("empty").mkdir()
    with pytest.raises(MissingFile, match="not an artifact"):
        looked_at("empty")
