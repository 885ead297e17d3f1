"""`unlearn` and the recipe that the network was trained by."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import NAMES, Run

DENSE, MEMO = (f"runs/{NAMES[name]}" for name in ("dense", "memo"))


def decay(folder: str) -> float:
    """The weight decay that a certificate says was gone by."""
    return json.loads(Path(folder, "unlearning.json").read_text())["method"]["options"]["weight_decay"]


def test_the_recorded_weight_decay_is_used_and_certified(here, run: Run):
    """By default, also with what was prepared; what is given wins, and nothing is recorded of a plain file."""
    Path("plain.safetensors").write_bytes(Path(DENSE, "model.safetensors").read_bytes())
    assert run(f"unlearn {DENSE} --memo {MEMO} --forget random:2% --out default").code == 0
    assert run(f"unlearn {DENSE} --memo {MEMO} --forget random:2% --set unlearner.weight_decay=0 --out none").code == 0
    said = run("unlearn plain.safetensors --arch mlp --data digits --forget random:2% --out plain")
    assert said.code == 0 and "nothing says with which weight_decay" in said.err
    assert [decay(folder) for folder in ("default", "none", "plain")] == [5e-4, 0, 0]


def test_training_anew_otherwise_is_told_before_it_starts(here, run: Run):
    """Epochs with the words that make them equal, and the warm-up that it has not."""
    said = run(f"unlearn {DENSE} --forget class:3 --unlearner retrain --set unlearner.epochs=1 --most-harm 1 --out anew")
    assert said.err.count("is not how 001-train-mlp was trained") == 1
    assert "epochs 1 instead of 3, batch_size 64 instead of 32" in said.err
    assert "--set unlearner.epochs=3 --set unlearner.batch_size=32" in said.err and "warm-up 0.05run" in said.err
