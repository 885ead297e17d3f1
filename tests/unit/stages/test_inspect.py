"""Inspect: what is in a file or an artifact, patterns found again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingFile
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import InspectRecipe, PruneRecipe
from sparsify_cli.stages.inspect import inspect
from sparsify_cli.stages.prune import prune
from sparsify_cli.values.artifact import write_manifest
from tests.strategies import tiny_cnn, tiny_mlp


def looked_at(path, **options):
    """The outcome of inspecting a path."""
    return inspect(InspectRecipe(path=(str(path),) if str(path) else (), **options), Listener())


def titled(outcome, title):
    """The table of that title."""
    (table,) = (table for table in outcome.tables if table.title == title)
    return table


def about(outcome):
    """The table of the file: heading -> what it says."""
    return dict(titled(outcome, "file").rows)


def rows(outcome):
    """The table of tensors: name -> heading -> cell."""
    table = titled(outcome, "tensors")
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_a_wrapped_file():
    """Counts, shapes, types, the wrapper and the prefix that were taken off."""
    state = {f"module.{name}": tensor for name, tensor in tiny_mlp().state_dict().items()}
    torch.save({"state_dict": {**state, "module.steps": torch.tensor(3)}}, "model.pt")
    outcome = looked_at("model.pt")
    assert outcome.headline == "model.pt: 5 tensors, 195 numbers."
    assert rows(outcome)["0.weight"] == {"tensor": "0.weight", "shape": "16x8", "type": "f32", "prunable": "yes"}
    assert rows(outcome)["steps"] == {"tensor": "steps", "shape": "scalar", "type": "i64", "prunable": ""}
    assert about(outcome)["weights under"] == "state_dict" and about(outcome)["prefix removed"] == "module."
    assert about(outcome)["kind"] == "a torch checkpoint" and outcome.notes == ()
    assert (outcome.report.facts["wrapper"], outcome.report.facts["prefix"]) == (["state_dict"], "module.")
    assert outcome.report.facts["prunable"] == ["0.weight", "2.weight"]
    assert outcome.artifact is None and not Path("runs").exists()


def test_a_pruned_artifact():
    """Zeros and pattern of each tensor, and what it was made from."""
    torch.save(tiny_mlp().state_dict(), "model.pt")
    folder = prune(PruneRecipe(model="model.pt", pattern=Pattern.parse("2:4")), Listener()).artifact
    outcome = looked_at(folder)
    told = {"tensor": "0.weight", "shape": "16x8", "type": "f32", "zeros": "50.0 %", "pattern": "2:4", "prunable": "yes"}
    assert rows(outcome)["0.weight"].items() >= told.items()
    assert set(rows(outcome)["0.bias"].values()) == {"0.bias", "16", "f32", ""}
    assert outcome.report.get("sparsity").value == 0.5
    assert any(note.startswith("made by `prune` from ") for note in outcome.notes)
    assert outcome.report.facts["manifest"]["verb"] == "prune"
    told = outcome.report.facts["tensors"]["2.weight"]
    assert (told["shape"], told["dtype"], told["zeros"], told["pattern"], told["prunable"]) == ([3, 16], "float32", 24, "2:4", True)


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
    assert sizes["bytes_dense"] == 195 * 4 and sizes["bytes_files"] == Path("model.pt").stat().st_size


def test_levels_are_listed():
    """An embedded artifact shows its levels with their counts, sparsest first."""
    from sparsify_cli.recipes.verbs import EmbedRecipe
    from sparsify_cli.stages.embed import embed

    recipe = EmbedRecipe(
        arch="mlp", arch_arg=("inputs=64",), data="digits", levels=(Fraction(9, 10), Fraction(1, 2)), epochs=1, batch_size=512
    )
    outcome = looked_at(embed(recipe, Listener()).artifact)
    table = titled(outcome, "embedded levels")
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


def test_headers_alone():
    """Without values nothing is said of zeros, and what was left out is told; names, shapes, types and reasons are all there."""
    torch.save({**tiny_mlp().state_dict(), "embed.weight": torch.zeros(9, 4)}, "model.pt")
    outcome = looked_at("model.pt", values=False)
    assert outcome.notes == ("values were not read: 924 bytes; add --values to count zeros and patterns",)
    assert rows(outcome)["0.weight"] == {"tensor": "0.weight", "shape": "16x8", "type": "f32", "bytes": "512 bytes", "prunable": "yes"}
    assert rows(outcome)["embed.weight"]["prunable"] == "no: its name"
    assert "zeros" not in outcome.report.facts["tensors"]["0.weight"] and outcome.report.get("sparsity") is None
    assert not outcome.report.facts["values_read"]


def test_large_files_are_not_read(monkeypatch):
    """Above the limit values are read only when asked for."""
    monkeypatch.setattr("sparsify_cli.stages.inspect_look.VALUES_UP_TO", 100)
    torch.save(tiny_mlp().state_dict(), "model.pt")
    assert not looked_at("model.pt").report.facts["values_read"]
    assert looked_at("model.pt", values=True).report.facts["values_read"]


def test_dead_rows_blocks_and_bytes():
    """A weight with gone outputs, one in 4 x 4 blocks, and the bytes of each form, added up by hand."""
    rows_gone = torch.ones(32, 8)
    rows_gone[:3] = 0
    blocks = torch.zeros(8, 8)
    blocks[:4, :4] = 1
    blocks[4:, 4:] = 1
    torch.save({"a": rows_gone, "b": blocks}, "model.pt")
    outcome = looked_at("model.pt")
    assert (rows(outcome)["a"]["pattern"], rows(outcome)["a"]["dead"], rows(outcome)["b"]["pattern"]) == ("channel", "3 out", "4:8T 4x4")
    told = outcome.report.facts["tensors"]
    assert told["a"]["forms"]["bitmask"] == 256 // 8 + 29 * 8 * 4 and told["b"]["forms"]["bitmask"] == 8 + 32 * 4
    assert told["a"]["dead_rows"] == 3 and told["b"]["dead_columns"] == 0
    assert outcome.report.facts["forms"]["bitmask"] == 32 + 928 + 8 + 128


def test_tied_tensors_are_one_memory():
    """Two names of one matrix: told once, counted once, pruned once."""
    weight = torch.randn(4, 4)
    torch.save({"a.weight": weight, "b.weight": weight}, "model.pt")
    outcome = looked_at("model.pt")
    assert outcome.report.facts["sharing"] == [["a.weight", "b.weight"]] and about(outcome)["one memory"] == "a.weight = b.weight"
    assert outcome.report.facts["forms"]["dense"] == 64 and outcome.report.facts["prunable"] == ["a.weight"]
    assert rows(outcome)["b.weight"]["prunable"] == "no: tied"


def test_views_of_one_memory():
    """Overlapping slices share, whatever their shapes; neighbours do not."""
    whole = torch.randn(4, 4)
    torch.save({"top": whole[:2], "all": whole, "other": torch.ones(2)}, "model.pt")
    assert [sorted(group) for group in looked_at("model.pt", values=False).report.facts["sharing"]] == [["all", "top"]]


def test_masked_files():
    """A weight and its mask are one tensor, in headers and in values."""
    torch.save({"fc.weight_orig": torch.ones(2, 4), "fc.weight_mask": torch.tensor([[1.0, 0, 1, 0]] * 2)}, "model.pt")
    for values in (True, False):
        outcome = looked_at("model.pt", values=values)
        assert list(rows(outcome)) == ["fc.weight"] and rows(outcome)["fc.weight"]["shape"] == "2x4"
        assert outcome.report.facts["folds"][0]["kind"] == "torch-prune"
    assert looked_at("model.pt").report.facts["tensors"]["fc.weight"]["zeros"] == 4


def test_nonfinite_numbers_are_told():
    """NaN and infinity are counted in every tensor of a floating type."""
    torch.save({"w": torch.tensor([[float("nan"), float("inf")], [1, 2]]), "h": torch.tensor([float("-inf")]).bfloat16()}, "model.pt")
    outcome = looked_at("model.pt")
    assert outcome.notes == ("NaN or infinite numbers in 2 tensors: w (2), h (1)",)
    assert outcome.report.facts["tensors"]["w"]["nonfinite"] == 2


def test_every_type_is_counted():
    """Three zeros, one of them negative where a type has that, among numbers of every type; e8m0 has no zero."""
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    numbers = {str(kind): torch.tensor([1.0, 0, -0.0, 0, 2]).to(kind) for kind in floats}
    numbers |= {
        str(kind): torch.tensor([1, 0, 0, 0, 2]).to(kind)
        for kind in (torch.bool, torch.uint8, torch.int64, torch.complex64, torch.complex128)
    }
    numbers |= {"e8m0": torch.tensor([1.0, 2, 4]).to(torch.float8_e8m0fnu)}
    torch.save(numbers, "model.pt")
    told = looked_at("model.pt").report.facts["tensors"]
    assert {name: one["zeros"] for name, one in told.items()} == {**dict.fromkeys(numbers, 3), "e8m0": 0}


def test_large_files_are_grouped():
    """Layers that differ in their number only are one row, unless every row is asked for."""
    torch.save({f"layers.{n}.w.weight": torch.full((2, 2), n + 1.0) for n in range(70)} | {"head.weight": torch.ones(2, 2)}, "model.pt")
    found = rows(looked_at("model.pt"))
    assert list(found) == ["layers.*.w.weight", "head.weight"] and found["layers.*.w.weight"]["count"] == "70"
    assert len(rows(looked_at("model.pt", all=True))) == 71


def test_slices_of_large_tensors_add_up(monkeypatch):
    """A tensor that is read in many slices is described as if it were read at once."""
    weight = torch.randn(64, 32) * (torch.rand(64, 32) > 0.6)
    weight[5], weight[:, 7] = 0, 0
    torch.save({"w": weight, "t": weight.t(), "i": weight.long()}, "model.pt")
    whole = looked_at("model.pt").report.facts["tensors"]
    monkeypatch.setattr("sparsify_cli.stages.inspect_values.SLICE", 64)
    assert looked_at("model.pt").report.facts["tensors"] == whole
    assert (whole["w"]["dead_rows"], whole["t"]["dead_columns"], whole["w"]["zeros"]) == (1, 1, int((weight == 0).sum()))


def test_patterns_of_weights_stored_the_other_way_round(tmp_path):
    """GPT-2 stores some weights [in, out]: two of four inputs are told there, and along outputs nothing is taken for a pattern."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(24, 16, generator=generator) + 1
    groups = weight.view(24, 4, 4)
    groups.scatter_(2, torch.rand(24, 4, 4, generator=generator).argsort(-1)[..., :2], 0)
    names = [f"h.0.{part}.weight" for part in ("attn.c_attn", "mlp.c_fc")]
    save_file({names[0]: weight.T.contiguous(), names[1]: weight.clone()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    told = looked_at(tmp_path).report.facts["tensors"]
    assert (told[names[0]]["pattern"], told[names[1]]["pattern"]) == ("2:4", "")
