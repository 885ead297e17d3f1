"""Pruning in slices tells the same as pruning in memory, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsify_cli import load
from sparsify_cli.values.artifact import MASKS, Artifact
from sparsify_cli.values.mask_file import read_masks
from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """dense.pt, and half.pt in which every second weight of two layers was pruned elsewhere."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": torch.randint(-20, 21, (16, 32), generator=generator) / 16 for name in "abc"}
    torch.save(state, "dense.pt")
    halved = {name: tensor * (torch.arange(32) % 2) if name != "c.weight" else tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": halved}, "half.pt")
    return state


OPTIONS = [
    *("--sparsity 0.7", "--sparsity 0.7 --allocation uniform", "--sparsity 0.8 --skip a", "--pattern 2:4", "--sparsity 0.6 --include c"),
    *(
        "--sparsity 0.9 --pattern 2:4 --skip b",
        "--sparsity 0.75 --pattern block:4x4 --skip a",
        "--sparsity 0.8 --allocation erk --pattern 1:4",
    ),
]


@pytest.mark.parametrize("model", ["dense.pt", "half.pt"])
@pytest.mark.parametrize("options", OPTIONS)
def test_slices_and_memory_agree(options: str, model: str, files: dict[str, torch.Tensor], run: Run) -> None:
    """The same masks, hash, counts and exit code for dense and for pruned files, with layers skipped or not."""
    codes = [run(f"prune {model} {options} --out {out}{how}").code for out, how in (("slices", ""), ("memory", " --save-as safetensors"))]
    assert codes[0] == codes[1]
    if codes[0] == 0:
        assert read_masks(Path("slices") / MASKS) == read_masks(Path("memory") / MASKS)
        slices, memory = (Artifact.open(Path(out)).manifest for out in ("slices", "memory"))
        assert slices["masks_sha256"] == memory["masks_sha256"]
        assert slices["tensors"] == memory["tensors"]
        assert all(torch.equal(tensor, load("memory")[name]) for name, tensor in load("slices").items())


def test_skipped_layers_stay_as_sparse_as_they_were(files: dict[str, torch.Tensor], run: Run) -> None:
    """Pruned in slices twice, the second time with --skip: the skipped layer keeps its mask, for whoever trains on."""
    assert run("prune dense.pt --sparsity 0.5 --out first").code == 0
    assert run("prune first --sparsity 0.9 --skip a --out second").code == 0
    first, second = (read_masks(Path(folder) / MASKS) for folder in ("first", "second"))
    assert torch.equal(first["a.weight"], second["a.weight"])
    assert second <= first


def test_what_a_manifest_says_of_weights_is_not_believed(files: dict[str, torch.Tensor], run: Run) -> None:
    """Paths that leave the folder, parts that nobody vouches for, and names that are no texts: one sentence each."""
    assert run("prune dense.pt --sparsity 0.5 --out made").code == 0
    torch.save(files, "secret.pt")
    path = Path("made/manifest.json")
    manifest = json.loads(path.read_text())
    for change in (
        {"file": "../secret.pt", "parts": []},
        {"parts": 5},
        {"parts": []},
        {"names": "abc"},
        {"names": {"a": 5}},
        {"file": "/etc/passwd"},
    ):
        path.write_text(json.dumps(manifest | {"weights": manifest["weights"] | change}))
        said = run("prune made --sparsity 0.7")
        assert (said.code, "damaged" in said.sentence) == (2, True)


def test_trust_in_a_pickle_is_not_inherited_from_strangers(
    files: dict[str, torch.Tensor], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--trust-pickle holds for what this user made with it, and is asked for again of anybody else's folder."""
    torch.save(torch.nn.Linear(8, 8), "whole.pt")
    assert run("prune whole.pt --sparsity 0.5 --trust-pickle --out made").code == 0
    assert run("prune made --sparsity 0.7 --out more").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(Path.cwd() / "elsewhere"))
    said = run("prune made --sparsity 0.7 --out foreign")
    assert (said.code, "--trust-pickle" in said.sentence) == (2, True)


def test_a_table_that_is_the_same_memory_is_said_to_be(files: dict[str, torch.Tensor], run: Run) -> None:
    """A second table that shares its storages changes too, and the note says so; one of its own does not."""
    torch.save({"model": files, "ema": files}, "shared.pt")
    torch.save({"model": files, "ema": {name: tensor.clone() for name, tensor in files.items()}}, "apart.pt")
    assert "'ema' holds 3 tensors too and is the same memory" in run("prune shared.pt --sparsity 0.5 --out s").err
    assert "'ema' holds 3 tensors too and stays as it is" in run("prune apart.pt --sparsity 0.5 --out a").err
    kept = torch.load("a/apart.pt", weights_only=True)["ema"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in files.items())


def test_folds_in_several_tables_are_not_mixed_up(files: dict[str, torch.Tensor], run: Run) -> None:
    """Two networks of torch's pruning in one file: refused with the ways out, and one of them can be named."""
    pair = {"fc.weight_orig": files["a.weight"], "fc.weight_mask": (files["a.weight"] > 0).float()}
    torch.save({"state_dict": {"left": pair, "right": {name: tensor.clone() for name, tensor in pair.items()}}}, "two.pt")
    said = run("prune two.pt --sparsity 0.8 --out mixed")
    assert (said.code, "--entry" in said.sentence) == (5, True)
    assert run("prune two.pt --sparsity 0.8 --entry state_dict.left --out one").code == 0
    assert set(torch.load("one/two.pt", weights_only=True)["state_dict"]["left"]) == {"fc.weight"}
