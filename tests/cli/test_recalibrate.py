"""`recalibrate`: answers stay or move as promised, in the result as any verb reads it and in what is exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.subject import open_path, with_context_of
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED = (f"runs/{NAMES[name]}" for name in ("dense", "pruned"))


def numbers(folder: str, of: str = "compressed") -> dict[str, float]:
    """Numbers of a manifest by name."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["name"]: f["value"] for f in found if f["scope"] == "all" and f["of"] == of}


def answers(folder: str, split: str = "test"):
    """What a network says."""
    subject = open_path(Path(folder))
    return predict(subject.module(), subject.samples(split))


def test_temperature_changes_no_answer(here, run: Run):
    """The same labels, logits divided by the temperature, validation likelihood at its least, and masks as they were."""
    said = run(f"recalibrate {PRUNED} --out cool")
    assert said.code == 0 and "temperature" in said.err + said.out
    before, after = answers(PRUNED), answers("cool")
    assert torch.equal(before.labels, after.labels)
    torch.testing.assert_close(after.logits, before.logits / numbers("cool")["temperature"], rtol=1e-4, atol=1e-5)
    assert numbers("cool")["nll"] != numbers("cool", "dense")["nll"]
    old, new = (open_path(Path(folder)) for folder in (PRUNED, "cool"))
    assert old.masks == new.masks
    said = run("recalibrate cool --out again")
    assert said.code == 0 and "as sure as it should be" in said.err + said.out
    assert numbers("again")["temperature"] == pytest.approx(1, abs=1e-3)


def test_what_is_exported_is_recalibrated(here, run: Run):
    """The exported file answers as the artifact does."""
    assert run(f"recalibrate {DENSE} --out cool").code == 0
    assert run("export cool --to onnx --out exported").code == 0
    subject = with_context_of(open_path(Path("cool")), open_path(Path("cool")))
    x = subject.samples("test").inputs[:8].numpy()
    session = onnxruntime.InferenceSession("exported/model.onnx")
    found = np.concatenate([session.run(None, {session.get_inputs()[0].name: x[i : i + 1]})[0] for i in range(len(x))])
    np.testing.assert_allclose(found, answers("cool").logits[:8].numpy(), rtol=1e-4, atol=1e-4)


def test_the_report_follows_it_back(here, run: Run):
    """The recalibrated network is the newest, and its dense ancestor is found behind it."""
    assert run(f"recalibrate {PRUNED}").code == 0
    assert run("report --out page").code == 0
    assert "recalibrated" in Path("page/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (f"recalibrate {DENSE} --method thresholds", 2, "chooses among 10 classes"),
        ("recalibrate nowhere.pt", 2, "nowhere.pt"),
        ("recalibrate bare.pt --arch bare.py:net --data bare.py:noisy", 2, "Something is computed after them"),
        ("recalibrate bare.pt --arch bare.py:plain --data bare.py:data --method thresholds", 2, "has no bias"),
        ("recalibrate bare.pt --arch bare.py:plain --data bare.py:data", 5, "sets no temperature"),
        ("recalibrate bare.pt --arch bare.py:plain --data bare.py:few", 2, "At least 50 are needed"),
        ("recalibrate bare.pt --arch bare.py:plain --data bare.py:alike", 5, "are of one class"),
    ],
)
def test_what_cannot_be_moved_is_told(here, run: Run, line: str, code: int, words: str):
    """One sentence; nothing is written."""
    Path("bare.py").write_text(BARE, encoding="utf-8")
    torch.save({"weight": torch.eye(2)}, "bare.pt")
    said = run(line)
    assert (said.code, words.lower() in said.sentence.lower()) == (code, True), said.sentence


BARE = """
import torch
from torch import nn

class Bare(nn.Linear):
    def __init__(self):
        super().__init__(2, 2, bias=False)

    def forward(self, x):
        return super().forward(x).log_softmax(1)

net, plain = Bare, lambda: nn.Linear(2, 2, bias=False)

def data(split, n=80):
    y = torch.arange(n) % 2
    return {"x": torch.stack([y, 1 - y], 1).float(), "y": y}

def noisy(split):
    found = data(split)
    found["y"] = torch.where(torch.arange(80) % 5 == 0, found["y"], 1 - found["y"])
    return found

def few(split):
    return data(split, 20)

def alike(split):
    found = data(split)
    return {**found, "y": torch.zeros(80, dtype=torch.long)} if split == "validation" else found
"""
