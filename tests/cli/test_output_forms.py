"""Networks that answer with one number, or with probabilities, through every verb that takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.cli.conftest import Run

CODE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Answers in the form it is told."""

    def __init__(self, outputs=1, form="plain"):
        super().__init__()
        self.one, self.two, self.form = nn.Linear(4, 24), nn.Linear(24, outputs), form

    def forward(self, x):
        x = self.two(torch.relu(self.one(x)))
        forms = {
            "plain": lambda: x, "flat": lambda: x.squeeze(-1), "sigmoid": lambda: torch.sigmoid(x).squeeze(1),
            "softmax": lambda: torch.softmax(x, -1), "logs": lambda: torch.log_softmax(x, -1),
            "in eval": lambda: x if self.training else torch.softmax(x, -1),
        }
        return forms[self.form]()


def points(split, of=int):
    g = torch.Generator().manual_seed(len(split))
    x = torch.randn(400, 4, generator=g)
    return {"x": x, "y": ((x[:, 0] * x[:, 1] + x[:, 2]) > 0.3).to(torch.int64 if of is int else torch.float32)}


def column(split):
    return {"x": points(split)["x"], "y": points(split, float)["y"][:, None]}


def floating(split):
    return points(split, float)


def named(split):
    return {**points(split), "classes": ["poor", "rich"]}
'''
TRAIN = "train --arch net.py:Net --epochs 25 --lr 0.1 --format quiet"


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Run beside the code."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)


def numbers(folder: str) -> dict[str, float]:
    """Numbers of the whole, of the network itself."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["name"]: f["value"] for f in found if f["of"] == "compressed" and f["scope"] == "all"}


OTHERS = [
    ("plain", "column"),
    ("plain", "floating"),
    ("flat", "points"),
    ("flat", "floating"),
    ("sigmoid", "points"),
    ("sigmoid", "column"),
]


@pytest.mark.parametrize(
    ("form", "data"),
    [("flat", "column"), ("sigmoid", "floating"), *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_one_number_is_yes_or_no_whatever_its_form(run: Run, data: str, form: str):
    """The same seed, data and weights: training, accuracy and likelihood agree, be it a logit, [n] or [n, 1], or a probability."""
    for name, flags in (("one", f"--data net.py:{data} --arch-arg form={form}"), ("plain", "--data net.py:points")):
        said = run(f"{TRAIN} {flags} --out {name}")
        assert said.code == 0, said.err
    ours, theirs = numbers("one"), numbers("plain")
    assert ours["accuracy"] > 0.85 and ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.01)
    assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-3)


def test_softmax_outputs_are_taken_for_what_they_are(run: Run):
    """Logits, their logarithms and probabilities (in eval mode only, too) of the same weights have one likelihood and one error."""
    forms = ("softmax", "logs", "in eval")
    for form in ("plain", *forms):
        line = f"{TRAIN} --data net.py:points --arch-arg outputs=2"
        assert run(line, "--arch-arg", f"form={form}", "--out", form).code == 0
    plain = numbers("plain")
    assert plain["accuracy"] > 0.85
    for form in forms:
        assert numbers(form) == pytest.approx({**numbers(form), **{name: plain[name] for name in ("accuracy", "nll", "ece")}}, rel=1e-3)


@pytest.mark.parametrize(("form", "shape"), [("flat", (400,)), ("sigmoid", (400,)), ("plain", (400, 1))])
def test_what_is_exported_answers_as_it_is_written(run: Run, form: str, shape: tuple[int, ...]):
    """ONNX gives what the network's own code gives: [n], or probabilities."""
    assert run(f"{TRAIN} --data net.py:points --arch-arg form={form} --out one").code == 0
    assert run("export one --to onnx --out exported").code == 0
    x = torch.randn(400, 4).numpy()
    session = onnxruntime.InferenceSession("exported/model.onnx", providers=["CPUExecutionProvider"])
    [out] = session.run(None, {session.get_inputs()[0].name: x})
    assert out.shape == shape and (form != "sigmoid" or bool(((out >= 0) & (out <= 1)).all()))


@pytest.mark.parametrize("form", [pytest.param("flat", marks=pytest.mark.slow), "sigmoid"])
def test_every_verb_takes_them(run: Run, form: str):
    """Pruned, tuned, recalibrated, reported on, embedded, erased from; the attribute is called as the second class."""
    assert run(f"{TRAIN} --data net.py:named --arch-arg form={form} --out dense").code == 0
    for line in (
        "prune dense --solver auto --sparsity 0.5 --out pruned", "prune dense --solver woodfisher --sparsity 0.5 --out fisher",
        "finetune pruned --epochs 1 --objective distill --out tuned", "recalibrate pruned --method thresholds --out moved",
        "report tuned --out told", "report dense --forecast --out forecast", "embed dense --levels 0.8,0.4 --epochs 1 --out nest",
        "extract nest --level 0.4 --out level", "unlearn dense --forget attribute:rich --unlearner finetune --out forgot",
        "shrink pruned --out small", "analyze dense --out seen", "compare dense pruned --out both",
    ):  # fmt: skip
        said = run(line)
        assert said.code == 0 or (line.startswith("shrink") and said.code == 5), f"{line}: {said.err}"
    assert numbers("pruned")["accuracy"] > 0.75
    assert "rich" in Path("told/report.json").read_text()


def test_two_outputs_are_two_classes(run: Run):
    """The same labels, 0 and 1, are classes for a network that has an output for each."""
    assert run(f"{TRAIN} --data net.py:named --arch-arg outputs=2 --out two").code == 0
    found = json.loads(Path("two/manifest.json").read_text())["numbers"]
    assert not any(f["scope"].startswith("attribute") for f in found)


def test_numbers_to_predict_may_lie_between_zero_and_one(run: Run):
    """A regression that ends in a sigmoid stays a regression."""
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    for split in ("train", "test"):
        np.savez(f"{split}.npz", x=x, y=1 / (1 + np.exp(-x[:, :1])))
    shutil.copy("train.npz", "validation.npz")
    (Path("data.py")).write_text("import numpy as np\ndef data(split):\n    return dict(np.load(f'{split}.npz'))\n")
    assert run(f"{TRAIN} --data data.py:data --arch-arg form=sigmoid --out level").code == 0
    assert numbers("level")["rmse"] < 0.2 and "accuracy" not in numbers("level")
