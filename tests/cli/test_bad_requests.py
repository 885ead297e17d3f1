"""Everything a person may type wrongly: the documented exit code, one sentence with what is wrong, nothing changed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsify_cli.datasets.digits import Digits
from tests.cli.conftest import NAMES, Run

DENSE, PRUNED, TUNED, NEST, MEMO = (f"runs/{NAMES[key]}" for key in ("dense", "pruned", "tuned", "nest", "memo"))

REQUESTS = [
    # sparsity and pattern
    ("prune model.pt --sparsity 1.5", 2, ["1.5", "outside [0, 1]"]),
    ("prune model.pt --sparsity -0.1", 2, ["-0.1", "outside [0, 1]"]),
    ("prune model.pt --sparsity 90", 2, ["90", "0.9"]),
    ("prune model.pt --sparsity nan", 2, ["nan", "not a number"]),
    ("prune model.pt --sparsity inf", 2, ["inf"]),
    ("prune model.pt --sparsity abc", 2, ["abc", "not a number"]),
    ("prune model.pt --sparsity 1e999999999", 2, ["1e999999999"]),
    ("prune model.pt", 2, ["No sparsity"]),
    ("prune model.pt --sparsity 0.3 --pattern 2:4", 2, ["0.3", "2:4", "0.47"]),
    ("prune model.pt --pattern 4:2", 2, ["4:2"]),
    ("prune model.pt --pattern 24", 2, ["24", "2:4"]),
    ("prune model.pt --pattern block:0x4", 2, ["block:0x4"]),
    ("prune model.pt --pattern 2:7", 5, ["No layer can carry 2:7", "0.weight", "1 input channel"]),
    ("prune model.pt --sparsity 0.5 --include nothing*", 2, ["nothing*", "model.pt"]),
    ("prune model.pt --sparsity 0.5 --skip *", 2, ["--skip *"]),
    # unknown names: nearest match and list
    ("prune model.pt --sparsity 0.5 --criterion magnitud", 2, ["'magnitud'", "'magnitude'", "lamp"]),
    ("prune model.pt --sparsity 0.5 --allocation globl", 2, ["'globl'", "'global'", "erk"]),
    ("prune model.pt --sparsity 0.5 --arch mpl", 2, ["'mpl'", "'mlp'", "cnn"]),
    (f"finetune {PRUNED} --data digit", 2, ["'digit'", "'digits'", "npz"]),
    (f"finetune {PRUNED} --regime gmpp", 2, ["'gmpp'", "'gmp'", "fixed"]),
    (f"finetune {PRUNED} --objective distil", 2, ["'distil'", "'distill'", "cross-entropy"]),
    (f"finetune {PRUNED} --optimizer adamv", 2, ["'adamv'", "'adamw'"]),
    (f"unlearn {DENSE} --forget class:3 --unlearner sse", 2, ["'sse'", "'ssse'"]),
    (f"export {PRUNED} --to onx", 2, ["'onx'", "'onnx'", "packed"]),
    (f"validate {PRUNED} --split tests", 2, ["'tests'", "'test'", "validation"]),
    ("list criterias", 2, ["'criterias'", "'criteria'", "regimes"]),
    ("prnue model.pt", 2, ["prnue", "'prune'"]),
    ("prune model.pt --sparsty 0.5", 2, ["--sparsty", "--sparsity"]),
    ("prune model.pt extra --sparsity 0.5", 2, ["extra"]),
    ("prune model.pt --sparsity", 2, ["--sparsity"]),
    ("list --format xml", 2, ["'xml'", "'json'"]),
    ("prune model.pt --sparsity 0.5 --set sparsty=0.3", 2, ["'sparsty'", "'sparsity'"]),
    ("prune model.pt --sparsity 0.5 --set criterion.foo=3", 2, ["'foo'", "magnitude"]),
    ("prune model.pt --sparsity 0.5 --set criterion", 2, ["'criterion'"]),
    ("prune model.pt --sparsity 0.5 --arch mlp --arch-arg widht=3", 2, ["'widht'", "hidden"]),
    ("prune model.pt --sparsity 0.5 --arch-arg width=3", 2, ["width=3", "--arch"]),
    # files that are not there or not what they should be
    ("prune missing.pt --sparsity 0.5", 2, ["missing.pt"]),
    ("prune runs --sparsity 0.5", 2, ["runs", "manifest.json"]),
    ("prune model.pt --sparsity 0.5 --recipe nope.yaml", 2, ["nope.yaml"]),
    ("prune model.pt --sparsity 0.5 --recipe model.pt", 2, ["model.pt", "UTF-8"]),
    ("prune model.pt --sparsity 0.5 --arch mlp", 2, ["model.pt", "6 tensors are missing", "16 have no place", "fc1.weight", "nearest"]),
    ("finetune model.pt --epochs 1", 2, ["--data"]),
    ("validate model.pt", 2, ["--arch"]),
    ("inspect", 2, ["inspect model.pt"]),
    ("inspect nope", 2, ["nope"]),
    # training
    (f"finetune {PRUNED} --epochs 0", 2, ["epochs", "'0'"]),
    (f"finetune {PRUNED} --lr nan", 2, ["lr"]),
    (f"finetune {PRUNED} --lr 1e30 --epochs 1", 1, ["loss", "step", "--lr"]),
    (f"finetune {PRUNED} --sparsity 0.5", 2, ["fixed", "gmp"]),
    (f"finetune {PRUNED} --regime gmp", 2, ["No sparsity"]),
    (f"finetune {PRUNED} --device foo", 2, ["'foo'", "cpu"]),
    (f"finetune {PRUNED} --precision 8", 2, ["'8'", "32-true"]),
    (f"finetune {PRUNED} --warmup soon", 2, ["'soon'", "30ep"]),
    (f"finetune {PRUNED} --seed -1", 2, ["seed", "-1"]),
    (f"finetune {PRUNED} --data npz:nope.npz", 2, ["nope.npz"]),
    (f"finetune {PRUNED} --data npz:model.pt", 2, ["model.pt"]),
    (f"finetune {PRUNED} --data idx:runs", 2, ["runs"]),
    # what a run refuses before its first step, its plan does
    (f"finetune {DENSE} --regime rigl --pattern 2:4 --epochs 5 --dry-run", 2, ["rigl", "2:4"]),
    (f"finetune {DENSE} --regime bip --sparsity 0.5 --criterion lamp --dry-run", 2, ["bip", "--criterion"]),
    (f"finetune {DENSE} --regime imp --sparsity 0.999 --epochs 1 --batch-size 512 --dry-run", 2, ["steps", "--epochs"]),
    (f"finetune {DENSE} --regime gmp --sparsity 0.5 --set regime.begin=2run --dry-run", 2, ["gmp", "steps"]),
    # levels
    (f"embed {DENSE}", 2, ["--levels"]),
    (f"embed {DENSE} --levels 0.9,abc", 2, ["levels.1", "'abc'"]),
    (f"embed {DENSE} --levels 1.5", 2, ["1.5"]),
    (f"extract {NEST}", 2, ["0.9", "0.5"]),
    (f"extract {NEST} --level 0.7", 2, ["0.7", "0.9 (level 1)", "0.5 (level 2)"]),
    (f"extract {NEST} --level 3", 2, ["3", "0.9 (level 1)"]),
    (f"extract {NEST} --level ²", 2, ["²", "0.9 (level 1)"]),
    (f"extract {PRUNED} --level 0.5", 2, ["no embedded levels"]),
    (f"export {NEST} --level 0.7", 2, ["0.7", "0.5 (level 2)"]),
    (f"prune {NEST} --sparsity 0.95", 2, ["2 networks", "extract"]),
    # gates
    (f"validate {PRUNED} --gate accuracy", 2, ["'accuracy'", "accuracy>=0.95"]),
    (f"validate {PRUNED} --gate accuracy>=1.2.3", 2, ["1.2.3"]),
    (f"validate {PRUNED} --gate accurracy>=0.5", 2, ["'accurracy'", "'accuracy'"]),
    (f"validate {PRUNED} --gate change.accuracy>=0", 2, ["change", "accuracy"]),
    (f"validate {PRUNED} --gate accuracy>=0.999", 3, ["accuracy>=0.999", "measured 0."]),
    # forgetting
    (f"unlearn {DENSE}", 2, ["class:NAME"]),
    (f"unlearn {DENSE} --forget nope.csv", 2, ["nope.csv"]),
    (f"unlearn {DENSE} --forget class:12", 2, ["'12'", "0, 1, 2"]),
    (f"unlearn {DENSE} --forget class:²", 2, ["'²'"]),
    (f"unlearn {DENSE} --forget random:0%", 2, ["random:0%"]),
    (f"unlearn {DENSE} --forget random:100%", 2, ["random:100%"]),
    (f"unlearn {DENSE} --forget class:3 --memo {PRUNED}", 2, ["prepare"]),
    (f"unlearn {PRUNED} --forget class:3 --memo {MEMO}", 2, ["another model"]),
    # resuming
    (f"finetune --resume {TUNED}", 2, ["finished"]),
    (f"finetune --resume {TUNED} --epochs 3", 2, ["--epochs"]),
    (f"finetune --resume {TUNED} --set epochs=3", 2, ["--set"]),
    (f"finetune --resume {TUNED} --dry-run", 2, ["--dry-run"]),
    ("finetune --resume nope", 2, ["nope"]),
    # where to write
    (f"prune model.pt --sparsity 0.5 --out {DENSE}", 2, [DENSE, "exists"]),
    ("prune model.pt --sparsity 0.5 --out model.pt", 2, ["model.pt", "exists"]),
    ("prune model.pt --sparsity 0.5 --out model.pt/x", 1, ["model.pt/x"]),
    (f"report {DENSE}", 2, [DENSE, "dense ancestor"]),
]


@pytest.mark.parametrize(("line", "code", "words"), REQUESTS, ids=[line for line, _, _ in REQUESTS])
def test_a_wrong_request(line: str, code: int, words: list[str], here: Path, run: Run, untouched: Callable[[], None]) -> None:
    """One sentence with the names and numbers, the documented exit code, and nothing written."""
    untouched()
    said = run(line)
    assert said.code == code
    assert [word for word in words if word not in said.sentence] == []


FORGET = {
    "unknown.csv": (["foo", "bar", "digits-0000"], ["2 of 3", "'foo'", "digits-0"]),
    "all.csv": (None, ["1077"]),
    "empty.csv": ([], ["names no sample"]),
}


@pytest.mark.parametrize("name", FORGET)
def test_ids_that_cannot_be_forgotten(name: str, here: Path, run: Run, untouched: Callable[[], None]) -> None:
    """Ids that are not in the training split, all of them, or none: said with counts."""
    ids, words = FORGET[name]
    rows = Digits().load("train").ids if ids is None else ids
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows([one] for one in rows)
    untouched()
    said = run(f"unlearn {DENSE} --forget {name}")
    assert said.code == 2
    assert [word for word in words if word not in said.sentence] == []


@pytest.mark.parametrize("text", ['["a"', "3", "[" * 100_000, '{"ids": 5}'])
def test_a_file_of_ids_that_cannot_be_read(text: str, here: Path, run: Run, untouched: Callable[[], None]) -> None:
    """JSON that is broken, too deep or holds no list."""
    Path("ids.json").write_text(text)
    untouched()
    said = run(f"unlearn {DENSE} --forget ids.json")
    assert said.code == 2
    assert "ids.json" in said.sentence


DATA = """
import torch
def shape(split): return torch.zeros(20, 3, 5), [i % 10 for i in range(20)]
def many(split): return torch.zeros(40, 1, 8, 8), [i % 20 for i in range(40)]
def nan(split): return torch.full((40, 1, 8, 8), float("nan")), [i % 10 for i in range(40)]
def broken(split): raise RuntimeError("first line\\nsecond line")
"""


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("shape", 2, ["[3, 5]", "64"]),
        ("many", 2, ["20 classes", "10 outputs"]),
        ("nan", 2, ["40 of 40", "NaN"]),
        ("broken", 2, ["first line second line", "line 6"]),
        ("none", 2, ["'none'", "many"]),
    ],
)
def test_data_that_does_not_fit(name: str, code: int, words: list[str], here: Path, run: Run) -> None:
    """Inputs of another shape, more classes than outputs, NaN, a callable that raises or is not there."""
    Path("data.py").write_text(DATA)
    said = run(f"finetune {PRUNED} --data data.py:{name} --epochs 1")
    assert said.code == code
    assert [word for word in words if word not in said.sentence] == []
    assert len(list(Path("runs").iterdir())) == len(NAMES)


def test_nan_weights(here: Path, run: Run, untouched: Callable[[], None]) -> None:
    """NaN and infinite weights are named and counted."""
    tensors = torch.load("model.pt")
    tensors["3.weight"][0, 0, 0, 0] = torch.nan
    tensors["3.weight"][1, 0, 0, 0] = torch.inf
    torch.save(tensors, "nan.pt")
    untouched()
    said = run("prune nan.pt --sparsity 0.5")
    assert said.code == 2
    assert "3.weight (2)" in said.sentence


def test_another_shape_in_the_checkpoint(here: Path, run: Run, untouched: Callable[[], None]) -> None:
    """A tensor of another size: name and both shapes."""
    untouched()
    said = run(f"validate {DENSE} --arch mlp --arch-arg hidden=32,32")
    assert said.code == 2
    assert [word for word in ("fc.weight", "(10, 64)", "(10, 32)") if word not in said.sentence] == []


def test_the_answer_of_a_failed_gate_is_still_shown(here: Path, run: Run) -> None:
    """Exit 3 comes after the numbers: JSON on stdout is whole."""
    said = run(f"validate {PRUNED} --gate accuracy>=0.999 --format json")
    assert said.code == 3
    assert json.loads(said.out)["verb"] == "validate"


@pytest.mark.parametrize("line", ["prune model.pt --sparsity 0.5", "report {tuned}", "validate {tuned}", "finetune {pruned} --epochs 1"])
def test_a_folder_that_is_taken_is_refused_before_any_work(line: str, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened, let alone measured: minutes of work would be lost."""
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("sparsify_cli.cli.app._staged", work)
    said = run(line.format(**{key: f"runs/{name}" for key, name in NAMES.items()}) + " --out taken")
    assert said.code == 2 and "taken" in said.sentence and Path("taken/notes.txt").read_text() == "mine"


def test_a_gate_about_two_networks_is_refused_before_one_is_measured(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate` has no other network."""
    monkeypatch.setattr("sparsify_cli.stages.validate.open_subject", None)
    assert "compares two networks" in run(f"validate runs/{NAMES['tuned']} --gate change.accuracy>=0").sentence


def test_what_was_exported_is_named_for_what_it_is(here: Path, run: Run) -> None:
    """The sentence names the network that it was made from."""
    assert run(f"export runs/{NAMES['tuned']} --to onnx --out graph").code == 0
    said = run("validate graph")
    assert said.code == 2 and "exported network" in said.sentence and NAMES["tuned"] in said.sentence


def test_a_budget_that_is_met_already_is_said(here: Path, run: Run) -> None:
    """Nothing is zero, and the note says why."""
    said = run(f"prune runs/{NAMES['dense']} --budget bytes=20MB --out whole")
    assert said.code == 0 and "meets the budget" in said.err and "nothing was pruned" in said.err
