"""`inspect` as it is typed: what is printed at 80 columns, for programs, for two files, and what it does without torch."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import NAMES

STARTED = """
import sys
from sparsify_cli.cli.app import main
code = main(sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_headers_need_no_torch(kind, python):
    """Looking at headers never imports torch, whatever wrote the file."""
    tensors = {"fc.weight": torch.ones(4, 4)}
    save_file(tensors, "model.safetensors") if kind == "safetensors" else torch.save(tensors, "model.pt")
    said = subprocess.run([python, "-c", STARTED, "inspect", f"model.{kind}", "--no-values"], capture_output=True, text=True, check=True)
    assert said.stderr.splitlines()[-1] == "False" and "fc.weight" in said.stdout


def test_everything_for_programs(run):
    """One JSON object with every tensor and the structure of the file."""
    torch.save({"state_dict": {"module.fc.weight": torch.eye(4)}, "epoch": 3}, "model.pt")
    facts = json.loads(run("inspect model.pt --format json").out)["facts"]
    assert facts["tensors"]["fc.weight"]["zeros"] == 12 and facts["tensors"]["fc.weight"]["pattern"] == "1:4T"
    assert (facts["wrapper"], facts["prefix"], list(facts["others"])) == (["state_dict"], "module.", ["epoch"])


def test_narrow_screens(run, monkeypatch):
    """Nothing is wider than 80 columns, however long names are."""
    monkeypatch.setenv("COLUMNS", "80")
    name = ".".join(["encoder", "very_long_name_of_a_part"] * 4)
    torch.save({f"{name}.weight": torch.eye(16), f"{name}.bias": torch.ones(16)}, "model.pt")
    said = run("inspect model.pt")
    assert said.code == 0 and max(map(len, said.out.splitlines())) <= 80
    said = run("inspect model.pt model.pt")
    assert said.code == 0 and max(map(len, said.out.splitlines())) <= 80


def test_two_files(run):
    """Differences are no failure: the exit code is 0 either way."""
    torch.save({"w": torch.ones(2, 2)}, "a.pt")
    torch.save({"w": torch.eye(2)}, "b.pt")
    assert run("inspect a.pt a.pt").code == 0
    said = run("inspect a.pt b.pt")
    assert said.code == 0 and "1 values differ" in said.out
    assert json.loads(run("inspect a.pt b.pt --format json").out)["facts"]["tensors"]["w"]["differing"] == 2


def test_other_entries(run):
    """Another table of the file can be named; one that is not there is refused with those that are."""
    torch.save({"model": {"w": torch.ones(2, 2)}, "model_ema": {"w": torch.zeros(2, 2)}}, "model.pt")
    assert "other tables" in run("inspect model.pt").out
    assert json.loads(run("inspect model.pt --entry model_ema --format json").out)["facts"]["wrapper"] == ["model_ema"]
    said = run("inspect model.pt --entry nothing")
    assert said.code == 2 and "model_ema" in said.sentence


@pytest.mark.parametrize("which", ["dense", "pruned", "nest"])
def test_artifacts(run, here, which):
    """Artifacts are described with and without their values, and beside each other."""
    assert run(f"inspect runs/{NAMES[which]}").code == 0
    assert run(f"inspect runs/{NAMES[which]} --no-values").code == 0
    assert run(f"inspect runs/{NAMES['dense']} runs/{NAMES[which]}").code == 0
