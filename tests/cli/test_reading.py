"""What is read off the screen: sizes of an export, columns of a report, options on the shelves, which level is measured."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.cli.conftest import NAMES, Run, names, state

DENSE, PRUNED, TUNED, NEST = (f"runs/{NAMES[name]}" for name in ("dense", "pruned", "tuned", "nest"))


def test_an_export_is_compared_with_its_tensors(run: Run) -> None:
    """A file with an optimizer is larger than its network: `smaller` speaks of the network stored dense."""
    tensors = {name: tensor.clone() for name, tensor in state().items()}
    torch.save({"model": tensors, "optimizer": {"state": {0: torch.ones(100_000)}}}, "model.pt")
    said = run("export model.pt --to safetensors --format json")
    sizes = {f["name"]: f["value"] for f in json.loads(said.out)["findings"]}
    dense = sum(tensor.nbytes for tensor in tensors.values())
    assert (sizes["bytes_dense"], sizes["bytes_file"] > 400_000) == (dense, True)
    assert sizes["bytes_safetensors"] == Path(json.loads(said.out)["files"][0]).stat().st_size
    assert "x as large" in json.loads(said.out)["headline"] and "bytes" not in sizes


def test_an_export_says_each_size_once(here: Path, run: Run) -> None:
    """Three rows: the file, its tensors, what was written."""
    rows = [line for line in run(f"export {TUNED}").out.split("verified\n")[0].splitlines() if line[-1:].isdigit()]
    assert [row.split("  ")[0] for row in rows] == ["file that was read", "its tensors, stored dense", "exported"]


def test_an_embedded_artifact_is_exported_by_level(here: Path, run: Run) -> None:
    """Without --level the levels are listed and nothing is written."""
    before = names("runs")
    said = run(f"export {NEST}")
    assert said.code == 2
    assert "Embedded sparsities: 0.9, 0.5." in said.sentence and "--level 0.9" in said.sentence
    assert names("runs") == before


def test_which_level_is_validated(here: Path, run: Run) -> None:
    """The last one, and that is said."""
    said = run(f"validate {NEST}")
    assert said.code == 0
    assert "the last one, 0.5, is measured" in " ".join(said.err.split())


def test_validate_overwrites_nothing(here: Path, run: Run) -> None:
    """The report of another artifact stays; a new folder is an artifact of `validate`."""
    assert run(f"validate {TUNED} --out {PRUNED}").code == 2
    assert "report.json" not in names(PRUNED)
    assert run(f"validate {TUNED} --out measured").code == 0
    assert json.loads(Path("measured/manifest.json").read_text())["verb"] == "validate"
    again = run(f"validate {TUNED} --out measured")
    assert again.code == 2 and "already exists" in again.sentence


def test_no_network_is_shown_twice(here: Path, run: Run) -> None:
    """What is in the chain already, the dense ancestor, and a repeated --also under another spelling."""
    also = " ".join(f"--also {path}" for path in (PRUNED, f"./runs/../{PRUNED}", DENSE, TUNED))
    said = run(f"report {TUNED} {also} --out page --format json")
    assert said.code == 0
    stages = [stage["name"] for stage in json.loads(Path("page/report.json").read_text())["stages"]]
    assert stages == ["dense", "pruned 90 %", "fine-tuned 90 %"]


def test_almost_everything_is_not_everything(here: Path, run: Run) -> None:
    """99.6 % of zeros are not called 100 %."""
    assert run(f"prune {DENSE} --sparsity 0.996").code == 0
    assert run("report --out page").code == 0
    stages = [stage["name"] for stage in json.loads(Path("page/report.json").read_text())["stages"]]
    assert stages == ["dense", "pruned 99.6 %"]


def test_a_sparse_file_is_not_called_dense(here: Path, run: Run) -> None:
    """The first column is what was given, with its sparsity."""
    assert run(f"prune {DENSE} --sparsity 0.5 --out half").code == 0
    assert run("finetune half/model.safetensors --arch mlp --data digits --epochs 1 --out more").code == 0
    assert run("report more --out page").code == 0
    stages = [stage["name"] for stage in json.loads(Path("page/report.json").read_text())["stages"]]
    assert stages[0] == "given 50 %"


def test_options_on_the_shelves(run: Run) -> None:
    """Fields of a strategy and their defaults, read from its file; names alone for scripts."""
    text = " ".join(run("list regimes").out.split())
    assert "options: initial=0, begin=0run, end=0.75run, every=0.025run" in text
    assert run("list regimes --format quiet").out.splitlines() == sorted(run("list regimes --format quiet").out.split())
    assert "gmp" in run("list regimes --format quiet").out.split()
    assert "options: in_channels=1, classes=10, width=16" in " ".join(run("list architectures").out.split())
    assert "path, channels_last=False" in " ".join(run("list datasets").out.split())


def test_no_blanks_at_line_ends(here: Path, run: Run) -> None:
    """What is copied from the screen has none."""
    for line in ("list criteria", "env", "inspect model.pt"):
        assert [row for row in run(line).out.splitlines() if row != row.rstrip()] == []
