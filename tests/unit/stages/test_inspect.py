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
from tests.strategies import tiny_cnn, tiny_mlp


def looked_at(path):
    """The outcome of inspecting a path."""
    return inspect(InspectRecipe(path=str(path)), Listener())


def rows(outcome):
    """The table of tensors: name -> heading -> cell."""
    table = outcome.tables[0]
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


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
    assert rows(outcome)["0.weight"] == {"tensor": "0.weight", "shape": "16x8", "type": "f32", "prunable": "yes"}
    assert rows(outcome)["steps"] == {"tensor": "steps", "shape": "scalar", "type": "i64", "prunable": ""}
    assert outcome.notes == ("weights found under the key state_dict", "the key prefix 'module.' was removed")
    assert outcome.report.facts["prunable"] == ["0.weight", "2.weight"]
    assert outcome.artifact is None and not Path("runs").exists()


def test_a_pruned_artifact():
    """Zeros and pattern of each tensor, and what it was made from."""
    torch.save(tiny_mlp().state_dict(), "model.pt")
    folder = prune(PruneRecipe(model="model.pt", pattern=Pattern.parse("2:4")), Listener()).artifact
    outcome = looked_at(folder)
    assert list(rows(outcome)["0.weight"].values()) == ["0.weight", "16x8", "f32", "50.0 %", "2:4", "yes"]
    assert list(rows(outcome)["0.bias"].values()) == ["0.bias", "16", "f32", "", "", ""]
    assert outcome.report.get("sparsity").value == 0.5
    assert any(note.startswith("made by `prune` from ") for note in outcome.notes)
    assert outcome.report.facts["manifest"]["verb"] == "prune"
    assert outcome.report.facts["tensors"]["2.weight"] == {"shape": [3, 16], "dtype": "float32", "zeros": 24}


def test_nothing_prunable_is_no_error():
    """A file of vectors can be looked at."""
    torch.save({"bias": torch.ones(3)}, "model.pt")
    assert rows(looked_at("model.pt"))["bias"] == {"tensor": "bias", "shape": "3", "type": "f32"}


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
    assert [row["type"] for row in rows(looked_at("model.pt")).values()] == ["f32", "i64", "f16", "c64", "f32"]


def test_an_artifact_without_a_network():
    """A memo or an export is described from its manifest."""
    folder = Path("runs/001-unlearn-m")
    folder.mkdir(parents=True)
    numbers = [{"name": "samples", "scope": "all", "value": 5}]
    write_manifest(folder, {"status": "complete", "verb": "unlearn", "weights": None, "numbers": numbers})
    outcome = looked_at(folder)
    assert "made by `unlearn`, complete; files: manifest.json." in outcome.headline
    assert outcome.tables[0].rows == (("samples", "5"),)

    def damaged(value):
        return {"name": "samples", "scope": "level:1", "value": value, "unit": 3, "low": "x"}

    write_manifest(folder, {"status": "complete", "verb": "unlearn", "weights": None, "numbers": [damaged("many"), damaged(2)]})
    assert looked_at(folder).tables[0].rows == (("samples", "level:1", "not enough data"), ("samples", "level:1", "2"))


def test_a_batch_norm_is_one_row():
    """Its five tensors are one line of the table; every one of them is in the facts."""
    torch.save(tiny_cnn().state_dict(), "model.pt")
    outcome = looked_at("model.pt")
    norm = rows(outcome)["norm1.*"]
    assert norm["shape"].startswith("batch norm of ") and not [name for name in rows(outcome) if name.startswith("norm1.w")]
    assert outcome.report.facts["tensors"].keys() == tiny_cnn().state_dict().keys()


def test_an_interrupted_run():
    """It has no network yet, and can be gone on with."""
    folder = Path("runs/001-train-mlp")
    folder.mkdir(parents=True)
    write_manifest(folder, {"status": "running", "verb": "train", "weights": None})
    outcome = looked_at(folder)
    assert "made by `train`, running" in outcome.headline and outcome.tables == ()
    assert outcome.hints == (f"sparsify train --resume {folder}",)


def test_nothing_is_written_or_doubled_to_look_at_a_file(monkeypatch, tmp_path):
    """Sizes are computed: no temporary file of the network appears."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    torch.save(tiny_mlp().state_dict(), "model.pt")
    sizes = {f.name: f.value for f in looked_at("model.pt").report}
    assert sizes["bytes_disk"] > 195 * 4


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
